// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Loading and unloading: refused while a container or a fault fd is there, possible
//! after, and the parameters.

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    expect_errno, expect_ok, load_module, module_is_loaded, module_references, program,
    unload_module, wait_for_module_references, Container, Errno, Outcome, Rig, Space,
};

fn unload_and_load_again_succeeds() -> Outcome {
    for round in 0..3 {
        expect_ok(unload_module(), &format!("unload, round {round}"));
        assert!(!module_is_loaded());
        expect_ok(load_module(""), &format!("load, round {round}"));
        assert_eq!(module_references()?, 0);
    }
    drop(Rig::open()?);
    Ok(())
}

fn load_twice_returns_eexist() -> Outcome {
    expect_errno(load_module(""), Errno::EEXIST, "loaded already");
    Ok(())
}

fn without_the_module_type_6_is_not_offered() -> Outcome {
    unload_module()?;
    let container = Container::open()?;
    let offered = container.check_extension(VFIO_IOASID_IOMMU);
    load_module("")?;
    assert_eq!(offered?, 0, "without the module");
    assert_eq!(container.check_extension(VFIO_IOASID_IOMMU)?, 1, "with it");
    Ok(())
}

fn unload_with_an_open_container_is_refused() -> Outcome {
    let rig = Rig::open()?;
    assert!(module_references()? >= 1);
    expect_errno(unload_module(), Errno::EWOULDBLOCK, "a container");
    // It goes on working.
    assert_eq!(rig.container.devices()?.len(), 1);
    drop(rig);
    wait_for_module_references(0)?;
    expect_ok(unload_module(), "no container");
    load_module("")?;
    Ok(())
}

fn unload_with_an_open_fault_fd_is_refused() -> Outcome {
    let rig = Rig::open()?;
    let queue = rig
        .container
        .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
    drop(rig);
    // The container is gone, the fd is not.
    assert_eq!(queue.read_bytes(4096)?.len(), 0, "end of file");
    expect_errno(unload_module(), Errno::EWOULDBLOCK, "a fault fd");
    drop(queue);
    wait_for_module_references(0)?;
    expect_ok(unload_module(), "no fault fd");
    load_module("")?;
    Ok(())
}

fn unload_with_a_container_that_lost_its_group_succeeds() -> Outcome {
    let rig = Rig::open()?;
    rig.group.unset_container()?;
    wait_for_module_references(0)?;
    expect_ok(unload_module(), "the container is none of ours any more");
    load_module("")?;
    Ok(())
}

fn unload_after_bindings_and_faults_succeeds() -> Outcome {
    {
        let rig = Rig::faulting()?;
        let queue = rig
            .container
            .fault_queue(VFIO_IOASID_FAULT_QUEUE_NONBLOCK, 0)?;
        let space = Space::new(&rig)?;
        space.bind_with(&rig, &queue, 0, 0)?;
        rig.dma()
            .submit(&host_iommu_tests::rig::Order::fill(0x1000, 8, 1).at(space.pasid))?;
        queue.wait_readable()?;
    }
    wait_for_module_references(0)?;
    expect_ok(unload_module(), "unload");
    load_module("")?;
    Ok(())
}

/// Loads the module with `parameters`, runs `body`, and loads it as it was.
fn with_parameters(parameters: &str, body: impl FnOnce() -> Outcome) -> Outcome {
    unload_module()?;
    load_module(parameters)?;
    let outcome = body();
    wait_for_module_references(0)?;
    unload_module()?;
    load_module("")?;
    outcome
}

fn parameter_max_pasids_is_the_quota() -> Outcome {
    with_parameters("max_pasids=5", || {
        let rig = Rig::open_unmapped()?;
        assert_eq!(rig.caps.max_pasids, 5);
        rig.container.pasid_alloc(1, 100, 5)?;
        expect_errno(
            rig.container.pasid_alloc(1, 100, 1),
            Errno::EDQUOT,
            "a sixth",
        );
        Ok(())
    })
}

fn parameter_max_bindings_is_the_quota() -> Outcome {
    with_parameters("max_bindings=3", || {
        let rig = Rig::nesting()?;
        assert_eq!(rig.caps.max_bindings, 3);
        let spaces: Vec<_> = (0..4).map(|_| Space::new(&rig)).collect::<Result<_, _>>()?;
        for space in &spaces[..3] {
            space.bind(&rig)?;
        }
        expect_errno(spaces[3].bind(&rig), Errno::EDQUOT, "a fourth");
        spaces[0].unbind(&rig)?;
        expect_ok(spaces[3].bind(&rig), "one unbound");
        Ok(())
    })
}

fn parameter_max_fault_queues_is_the_quota() -> Outcome {
    with_parameters("max_fault_queues=2", || {
        let rig = Rig::open_unmapped()?;
        assert_eq!(rig.caps.max_fault_queues, 2);
        let _first = rig.container.fault_queue(0, 0)?;
        let second = rig.container.fault_queue(0, 0)?;
        expect_errno(rig.container.fault_queue(0, 0), Errno::EDQUOT, "a third");
        drop(second);
        expect_ok(rig.container.fault_queue(0, 0), "one closed");
        Ok(())
    })
}

fn parameter_unknown_does_not_keep_the_module_from_loading() -> Outcome {
    // The module loader only warns of a parameter that the module does not know.
    with_parameters("no_such_parameter=1", || {
        Rig::open()?;
        Ok(())
    })
}

program![
    unload_and_load_again_succeeds,
    load_twice_returns_eexist,
    without_the_module_type_6_is_not_offered,
    unload_with_an_open_container_is_refused,
    unload_with_an_open_fault_fd_is_refused,
    unload_with_a_container_that_lost_its_group_succeeds,
    unload_after_bindings_and_faults_succeeds,
    parameter_max_pasids_is_the_quota,
    parameter_max_bindings_is_the_quota,
    parameter_max_fault_queues_is_the_quota,
    parameter_unknown_does_not_keep_the_module_from_loading,
];
