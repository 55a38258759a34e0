// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of a container, of a user and of the module: changed while the module runs, enforced, and
//! given back.

use std::fs;
use std::os::fd::AsFd;

use host_iommu_bindings::uapi::VFIO_IOASID_FAULT_DEPTH_MAX;
use host_iommu_tests::rig::{
    child, expect_errno, expect_ok, fail, program, skip, Container, Errno, FaultQueue, Limit,
    Outcome, Rig, Space,
};

fn pasids_of_a_container_follow_the_limit() -> Outcome {
    let rig = Rig::open()?;
    let limit = Limit::set("max_pasids", 10)?;
    let capability = rig.container.capabilities()?.expect("the module's report");
    assert_eq!(capability.max_pasids, 10, "visible");
    let first = rig.container.pasid_alloc(1, 1000, 10)?;
    expect_errno(rig.container.pasid_alloc_any(), Errno::EDQUOT, "the 11th");
    limit.change(11)?;
    expect_ok(rig.container.pasid_alloc_any(), "the 11th of 11");
    limit.change(2)?;
    expect_errno(rig.container.pasid_alloc_any(), Errno::EDQUOT, "above 2");
    expect_ok(
        rig.container.pasid_free(first, 10),
        "what is held stays ours",
    );
    expect_ok(rig.container.pasid_alloc_any(), "the second of 2");
    Ok(())
}

fn pasids_of_all_containers_are_counted_and_given_back() -> Outcome {
    let rig = Rig::open()?;
    let Some(second) = Rig::open_second()? else {
        return skip("there is one endpoint only");
    };
    let _limit = Limit::set("total_pasids", 100)?;
    let first = rig.container.pasid_alloc(1, 1000, 60)?;
    expect_errno(
        second.container.pasid_alloc(1, 1000, 41),
        Errno::EDQUOT,
        "101 in all",
    );
    assert_eq!(second.container.stats()?.pasids, 0, "nothing of a failure");
    let other = expect_ok(second.container.pasid_alloc(1, 1000, 40), "100 in all");
    rig.container.pasid_free(first, 1)?;
    expect_ok(second.container.pasid_alloc_any(), "freed by the other");
    expect_ok(second.container.pasid_free(other, 40), "free");
    drop(second);
    drop(rig);
    let rig = Rig::open()?;
    expect_ok(
        rig.container.pasid_alloc(1, 1000, 100),
        "all, after both containers are closed",
    );
    Ok(())
}

fn bindings_of_a_container_follow_the_limit() -> Outcome {
    let rig = Rig::nesting()?;
    let spaces: Vec<_> = (0..4).map(|_| Space::new(&rig)).collect::<Result<_, _>>()?;
    let limit = Limit::set("max_bindings", 2)?;
    spaces[0].bind(&rig)?;
    spaces[1].bind(&rig)?;
    expect_errno(spaces[2].bind(&rig), Errno::EDQUOT, "the third");
    limit.change(3)?;
    expect_ok(spaces[2].bind(&rig), "the third of three");
    expect_errno(spaces[3].bind(&rig), Errno::EDQUOT, "the fourth");
    spaces[0].unbind(&rig)?;
    expect_ok(spaces[3].bind(&rig), "after an UNBIND");
    Ok(())
}

fn bindings_of_all_containers_are_counted_and_given_back() -> Outcome {
    let _limit = Limit::set("total_domains", 2)?;
    for _ in 0..3 {
        let rig = Rig::nesting()?;
        let spaces: Vec<_> = (0..3).map(|_| Space::new(&rig)).collect::<Result<_, _>>()?;
        spaces[0].bind(&rig)?;
        spaces[1].bind(&rig)?;
        expect_errno(spaces[2].bind(&rig), Errno::EDQUOT, "the third in all");
        assert_eq!(rig.container.stats()?.bindings, 2);
        spaces[1].unbind(&rig)?;
        expect_ok(spaces[2].bind(&rig), "after an UNBIND");
    }
    Ok(())
}

fn fault_queues_follow_the_limit() -> Outcome {
    let rig = Rig::open()?;
    let limit = Limit::set("max_fault_queues", 1)?;
    let _queue = rig.container.fault_queue(0, 0)?;
    expect_errno(rig.container.fault_queue(0, 0), Errno::EDQUOT, "the second");
    limit.change(2)?;
    expect_ok(rig.container.fault_queue(0, 0), "the second of two");
    Ok(())
}

/// What debugfs says of the module by that name.
fn module_number(name: &str) -> Outcome<u32> {
    let folder = "/sys/kernel/debug";
    if fs::read_dir(folder)?.next().is_none() {
        let (kind, none) = (Some("debugfs"), None::<&str>);
        nix::mount::mount(kind, folder, kind, nix::mount::MsFlags::empty(), none)?;
    }
    let line = fs::read_to_string(format!("{folder}/vfio_ioasid/module"))?;
    let value = line
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value));
    match value {
        Some(value) => Ok(value.parse()?),
        None => fail(format!("no {name} in {line:?}")),
    }
}

/// Queues until one is refused, in one container after the other; their fds stay open. How many, and
/// how the last one ended.
fn queues_of_containers(rounds: usize, depth: u32) -> Outcome<(Vec<FaultQueue>, Option<Errno>)> {
    let mut kept = Vec::new();
    for _ in 0..rounds {
        let rig = Rig::open()?;
        for _ in 0..64 {
            match rig.container.fault_queue(0, depth) {
                Ok(queue) => kept.push(queue),
                Err(error) => return Ok((kept, Some(error.errno))),
            }
        }
    }
    Ok((kept, None))
}

fn fault_queues_that_outlive_their_container_are_counted() -> Outcome {
    let before = module_number("fault_queues")?;
    let _limit = Limit::set("total_fault_queues", before + 100)?;
    let (kept, refused) = queues_of_containers(5, 4)?;
    assert_eq!(refused, Some(Errno::EDQUOT), "of {} queues", kept.len());
    assert_eq!(kept.len(), 100);
    assert_eq!(module_number("fault_queues")?, before + 100);
    drop(kept);
    assert_eq!(module_number("fault_queues")?, before, "all are closed");
    expect_ok(Rig::open()?.container.fault_queue(0, 4), "after that");
    Ok(())
}

fn records_of_fault_queues_are_counted() -> Outcome {
    let depth = VFIO_IOASID_FAULT_DEPTH_MAX;
    let (kept, refused) = queues_of_containers(5, depth)?;
    assert_eq!(refused, Some(Errno::EDQUOT), "of {} queues", kept.len());
    let records = module_number("fault_records")?;
    assert!(records <= module_number("user_fault_records")?, "{records}");
    assert_eq!(records, kept.len() as u32 * depth);
    drop(kept);
    assert_eq!(module_number("fault_records")?, 0, "all are closed");
    Ok(())
}

fn closed_fault_queue_of_a_binding_gives_its_records_back() -> Outcome {
    let rig = Rig::faulting()?;
    let space = Space::new(&rig)?;
    let queue = rig.container.fault_queue(0, 1024)?;
    space.bind_with(&rig, &queue, 0, 0)?;
    assert_eq!(module_number("fault_records")?, 1024);
    drop(queue);
    assert_eq!(module_number("fault_records")?, 0, "bound, and closed");
    assert_eq!(module_number("fault_queues")?, 0, "bound, and closed");
    space.unbind(&rig)?;
    Ok(())
}

fn limits_of_a_user_hold_over_containers() -> Outcome {
    let rig = Rig::nesting()?;
    let Some(second) = Rig::open_second()? else {
        return skip("there is one endpoint only");
    };
    let _pasids = Limit::set("user_pasids", 100)?;
    let first = rig.container.pasid_alloc(1, 1000, 60)?;
    let more = second.container.pasid_alloc(1, 1000, 41);
    expect_errno(more, Errno::EDQUOT, "the 101st PASID of the user");
    expect_ok(second.container.pasid_alloc(1, 1000, 40), "the 100th");
    let _domains = Limit::set("user_domains", 1)?;
    let space = Space::at(&rig, first)?;
    space.bind(&rig)?;
    let other = second.container.as_create();
    expect_errno(other, Errno::EDQUOT, "the second domain of the user");
    let _queues = Limit::set("user_fault_queues", 1)?;
    let _records = Limit::set("user_fault_records", 100)?;
    expect_errno(
        rig.container.fault_queue(0, 101),
        Errno::EDQUOT,
        "101 records",
    );
    let queue = expect_ok(rig.container.fault_queue(0, 100), "100 records");
    expect_errno(
        second.container.fault_queue(0, 1),
        Errno::EDQUOT,
        "the second queue of the user",
    );
    drop(queue);
    expect_ok(second.container.fault_queue(0, 1), "after the close");
    Ok(())
}

/// Another user has limits of its own. The child has the container of this one's making, which is
/// this one's whoever calls.
fn container_is_of_the_user_who_made_it() -> Outcome {
    let rig = Rig::open()?;
    let _limit = Limit::set("user_fault_queues", 1)?;
    let _queue = rig.container.fault_queue(0, 1)?;
    let fd = rig.container.as_fd().try_clone_to_owned()?;
    let output = child(&["as_another"])?.stdin(fd).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "the child: {text}");
    Ok(())
}

fn as_another(_arguments: &[String]) -> Outcome {
    let container = Container::from_stdin()?;
    nix::unistd::setuid(nix::unistd::Uid::from_raw(1000))?;
    expect_errno(container.fault_queue(0, 1), Errno::EDQUOT, "the second");
    Ok(())
}

program![
    child as_another;
    pasids_of_a_container_follow_the_limit,
    pasids_of_all_containers_are_counted_and_given_back,
    bindings_of_a_container_follow_the_limit,
    bindings_of_all_containers_are_counted_and_given_back,
    fault_queues_follow_the_limit,
    fault_queues_that_outlive_their_container_are_counted,
    records_of_fault_queues_are_counted,
    closed_fault_queue_of_a_binding_gives_its_records_back,
    limits_of_a_user_hold_over_containers,
    container_is_of_the_user_who_made_it,
];
