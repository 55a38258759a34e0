// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A group whose devices come and go while it is attached: it is attached with one device, another
//! comes, the first leaves. vfio detaches a group with its last device alone.

use std::fs;
use std::time::{Duration, Instant};

use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    all_endpoints, bind_at_rid, bytes_of, expect_errno, expect_ok, fail, program, skip, Attempt,
    Container, Endpoint, Errno, Group, Memory, Outcome, PAGE,
};
use host_iommu_tests::stage1::Table;
use host_iommu_tests::vfio::Bdf;

const LIMIT: Duration = Duration::from_secs(10);
/// For what should take milliseconds.
const SOON: Duration = Duration::from_secs(3);

fn sysfs(endpoint: &Endpoint) -> std::path::PathBuf {
    format!("/sys/bus/pci/devices/{endpoint}").into()
}

/// The functions of a device, brought back in the end.
struct Pair {
    first: Endpoint,
    second: Endpoint,
}

impl Pair {
    fn find() -> Outcome<Self> {
        let all = all_endpoints();
        for (index, first) in all.iter().enumerate() {
            for second in &all[index + 1..] {
                if first.group()? == second.group()? {
                    return Ok(Self {
                        first: *first,
                        second: *second,
                    });
                }
            }
        }
        skip("no two endpoints share a group")
    }

    /// Takes a function out of the machine.
    fn remove(&self, endpoint: &Endpoint) -> Outcome {
        let path = sysfs(endpoint).join("remove");
        let removal = Attempt::start(format!("removal of {endpoint}"), || fs::write(path, "1"));
        Ok(removal.ends_within(SOON)??)
    }

    /// Brings back what was removed, and gives it to vfio-pci.
    fn bring_back(&self, endpoint: &Endpoint) -> Outcome {
        let folder = sysfs(endpoint);
        let name = endpoint.to_string();
        let end = Instant::now() + LIMIT;
        loop {
            let named = fs::write("/sys/bus/pci/rescan", "1")
                .and_then(|()| fs::write(folder.join("driver_override"), "vfio-pci"))
                .and_then(|()| fs::write("/sys/bus/pci/drivers_probe", &name));
            let driver = fs::read_link(folder.join("driver"));
            if named.is_ok() && driver.is_ok_and(|driver| driver.ends_with("vfio-pci")) {
                return Ok(());
            }
            if Instant::now() > end {
                return fail(format!("{endpoint} does not come back"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn is_there(endpoint: &Endpoint) -> bool {
        sysfs(endpoint).exists()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for endpoint in [self.first, self.second] {
            if !Self::is_there(&endpoint) && self.bring_back(&endpoint).is_err() {
                println!("# {endpoint} does not come back");
            }
        }
    }
}

/// The group with its first function alone, attached, and a stage-1 table.
struct Attached {
    container: Container,
    _group: Group,
    _memory: Memory,
    data: Vec<u8>,
}

impl Attached {
    fn with_the_first_alone(pair: &Pair) -> Outcome<Self> {
        pair.remove(&pair.second)?;
        let container = Container::open()?;
        let group = Group::open(&pair.first)?;
        group.set_container(&container)?;
        container.set_iommu(VFIO_IOASID_IOMMU)?;
        let Some(caps) = container.capabilities()? else {
            return fail("no report");
        };
        if caps.flags & VFIO_IOASID_NESTING_RID == 0 {
            return skip(format!("no nesting at the RID, reason {}", caps.reason));
        }
        let memory = Memory::new(64 * PAGE)?;
        container.map(&memory, 0)?;
        let data = bytes_of(&iommu_hwpt_vtd_s1 {
            pgtbl_addr: Table::new(&memory).root(),
            addr_width: 48,
            ..Default::default()
        });
        Ok(Self {
            container,
            _group: group,
            _memory: memory,
            data,
        })
    }

    fn bind(&self, endpoint: &Endpoint) -> host_iommu_tests::rig::Called<()> {
        self.container.bind(&bind_at_rid(endpoint.id(), &self.data))
    }

    fn expect_gone(&self, endpoint: &Endpoint, what: &str) {
        let unbound = self
            .container
            .unbind(VFIO_IOASID_SCOPE_RID, endpoint.id(), 0);
        match unbound {
            Err(error) if [Errno::EIO, Errno::ENODEV, Errno::ENOENT].contains(&error.errno) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
}

fn bind_counts_the_devices_that_came_after_the_attach() -> Outcome {
    let pair = Pair::find()?;
    let attached = Attached::with_the_first_alone(&pair)?;
    pair.bring_back(&pair.second)?;
    let members = fs::read_dir(sysfs(&pair.first).join("iommu_group/devices"))?.count();
    assert_eq!(members, 2, "devices of the group");
    expect_errno(attached.bind(&pair.first), Errno::EOPNOTSUPP, "the first");
    assert!(attached.bind(&pair.second).is_err(), "the second");
    assert_eq!(attached.container.stats()?.bindings, 0);
    Ok(())
}

fn device_that_left_beside_a_newcomer_is_told_of() -> Outcome {
    let pair = Pair::find()?;
    let attached = Attached::with_the_first_alone(&pair)?;
    pair.bring_back(&pair.second)?;
    // Refused where the group is counted; elsewhere it is bound.
    let bound = attached.bind(&pair.first);
    pair.remove(&pair.first)?;
    attached.expect_gone(&pair.first, &format!("UNBIND after BIND gave {bound:?}"));
    assert!(attached.bind(&pair.first).is_err(), "BIND of what left");
    drop(attached);
    pair.bring_back(&pair.first)
}

fn device_that_was_bound_alone_can_leave() -> Outcome {
    let pair = Pair::find()?;
    let attached = Attached::with_the_first_alone(&pair)?;
    expect_ok(attached.bind(&pair.first), "alone in its group");
    // The core may refuse the newcomer while the other is bound.
    let came = pair.bring_back(&pair.second);
    pair.remove(&pair.first)?;
    if came.is_ok() && Bdf::parse(&pair.second.to_string()).is_some() {
        attached.expect_gone(&pair.first, "UNBIND");
    }
    drop(attached);
    pair.bring_back(&pair.first)
}

program![
    bind_counts_the_devices_that_came_after_the_attach,
    device_that_left_beside_a_newcomer_is_told_of,
    device_that_was_bound_alone_can_leave,
];
