// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of a container and of the module: changed while the module runs, enforced, and given
//! back.

use std::fs;

use host_iommu_tests::rig::{expect_errno, expect_ok, program, Errno, Outcome, Rig, Space};

/// A parameter of the module, set for a test and put back after it.
struct Limit {
    path: String,
    before: String,
}

impl Limit {
    fn set(name: &str, value: u32) -> Outcome<Self> {
        let path = format!("/sys/module/vfio_iommu_ioasid/parameters/{name}");
        let before = fs::read_to_string(&path)?;
        fs::write(&path, value.to_string())?;
        Ok(Self { path, before })
    }

    fn change(&self, value: u32) -> Outcome {
        Ok(fs::write(&self.path, value.to_string())?)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, self.before.trim()) {
            println!("# {} is not as it was: {error}", self.path);
        }
    }
}

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
        return host_iommu_tests::rig::skip("there is one endpoint only");
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

program![
    pasids_of_a_container_follow_the_limit,
    pasids_of_all_containers_are_counted_and_given_back,
    bindings_of_a_container_follow_the_limit,
    bindings_of_all_containers_are_counted_and_given_back,
    fault_queues_follow_the_limit,
];
