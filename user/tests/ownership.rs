// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who owns what: a value that owned something has no say any more once it is gone, however it went.

use host_iommu::backend::soft::{Soft, SoftBus, SoftDeviceOptions};
use host_iommu::{
    Bdf, BoundTable, Error, Gpa, GuestTable, HostIommu, Invalidation, Pasid, PasidAllocation,
    PasidRequest, Scope, Stage1Binding, Translation,
};
use std::thread;

const DEVICE: Bdf = Bdf::new(0, 0, 8);

fn opened() -> (HostIommu, SoftBus) {
    let soft = Soft::new();
    let bus = soft.bus();
    bus.add(DEVICE, &SoftDeviceOptions::default())
        .expect("a device");
    (HostIommu::new(soft), bus)
}

fn exactly(host: &HostIommu, number: u32) -> PasidAllocation {
    let pasid = number.try_into().expect("a PASID");
    let allocated = host.alloc_pasids(&PasidRequest::exactly(pasid));
    allocated.expect("an allocation")
}

fn table(guest: u32) -> GuestTable {
    GuestTable::four_level(Gpa(0x1000)).with_guest_pasid(guest)
}

fn bind(
    host: &HostIommu,
    pasids: &PasidAllocation,
    guest: u32,
) -> host_iommu::Result<Stage1Binding> {
    host.bind(DEVICE, pasids, pasids.first(), &table(guest), None)
}

fn errno<T: std::fmt::Debug>(result: host_iommu::Result<T>) -> Option<i32> {
    result.expect_err("an error").errno()
}

#[test]
fn binding_of_a_device_that_left_is_gone() {
    let (host, bus) = opened();
    let (five, six) = (exactly(&host, 70), exactly(&host, 71));
    let mut old = bind(&host, &five, 5).expect("a binding");
    bus.remove(DEVICE).expect("it is taken out");
    assert!(!old.is_bound());
    assert_eq!(host.export(), []);
    assert_eq!(host.guest_pasid(DEVICE, five.first()), five.first().get());

    // Another comes to its place: the guest's PASID is free, and the old value has no say.
    bus.add(DEVICE, &SoftDeviceOptions::default())
        .expect("a device");
    assert!(!old.is_bound());
    let new = bind(&host, &six, 5).expect("the guest's PASID at another of the host's");
    assert_eq!(host.export().len(), 1);
    old.unbind().expect("it is gone already");
    assert_eq!(errno(old.rebind(&table(5), None)), Some(libc::ENOENT));
    let again = bind(&host, &five, 6).expect("a binding in the old one's place");
    drop(old);
    assert!(new.is_bound() && again.is_bound());
    assert_eq!(host.stats().expect("counters").bindings, 2);
}

#[test]
fn binding_that_went_with_its_device_unbinds_well() {
    let (host, bus) = opened();
    let pasids = exactly(&host, 70);
    let mut bound = bind(&host, &pasids, 5).expect("a binding");
    bus.remove(DEVICE).expect("it is taken out");
    bound.unbind().expect("gone already is success");
    let flushed = bound.flush(&Invalidation::all());
    assert_eq!(errno(flushed), Some(libc::ENOENT));
    assert_eq!(
        errno(host.unbind(Scope::Device(DEVICE))),
        Some(libc::ENOENT)
    );
    pasids.free().expect("nothing is bound there");
}

#[test]
fn allocation_whose_numbers_the_host_gave_anew_has_no_say() {
    let (host, _bus) = opened();
    let old = exactly(&host, 70);
    // The host forgets all PASIDs with the last device.
    let context = host.context();
    context.free_pasids(old.first(), 1).expect("forgotten");
    let new = exactly(&host, 70);
    match bind(&host, &old, 5) {
        Err(Error::PasidNotAllocated(pasid)) => assert_eq!(pasid, old.first()),
        other => panic!("{other:?}"),
    }
    old.free().expect("gone already is success");
    drop(old);
    assert_eq!(host.stats().expect("counters").pasids, 1);
    let third = host.alloc_pasids(&PasidRequest::exactly(new.first()));
    assert_eq!(errno(third), Some(libc::ENOSPC), "a third owner");
    bind(&host, &new, 5).expect("the owner's");
}

#[test]
fn allocation_that_was_freed_authorises_nothing() {
    let (host, _bus) = opened();
    let old = exactly(&host, 70);
    old.free().expect("freed");
    old.free().expect("freed again");
    let _new = exactly(&host, 70);
    assert!(matches!(
        bind(&host, &old, 5),
        Err(Error::PasidNotAllocated(_))
    ));
}

#[test]
fn free_and_destroy_tell_the_outcome() {
    const THREADS: usize = 4;
    const CALLS: usize = 2_000;
    let (host, _bus) = opened();
    let pasids = exactly(&host, 70);
    let space = host.address_space().expect("a space");
    let _bound = host
        .bind_address_space(DEVICE, &pasids, pasids.first(), &space, None)
        .expect("a binding");
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..CALLS {
                    assert_eq!(errno(pasids.free()), Some(libc::EBUSY));
                    assert_eq!(errno(space.destroy()), Some(libc::EBUSY));
                }
            });
        }
    });
}

#[test]
fn space_whose_number_the_host_gave_anew_has_no_say() {
    let (host, _bus) = opened();
    let space = host.address_space().expect("a space");
    let context = host.context();
    context
        .destroy_address_space(space.id())
        .expect("forgotten");
    space.destroy().expect("gone already is success");
}

#[test]
fn import_of_a_space_by_its_number_is_refused() {
    let (host, _bus) = opened();
    let space = host.address_space().expect("a space");
    for pasid in [Pasid::RID, Pasid::MIN] {
        let bound = BoundTable {
            device: DEVICE,
            pasid,
            translation: Translation::AddressSpace {
                id: space.id(),
                guest_pasid: None,
            },
        };
        assert_eq!(errno(host.import(&[bound], None)), Some(libc::EINVAL));
    }
    let stats = host.stats().expect("counters");
    assert_eq!((stats.bindings, stats.pasids), (0, 0));
    space.destroy().expect("nothing holds it");
}

#[test]
fn import_with_one_bad_entry_leaves_nothing() {
    let (host, _bus) = opened();
    let good = BoundTable {
        device: DEVICE,
        pasid: Pasid::MIN,
        translation: table(5).into(),
    };
    let bad = BoundTable {
        device: Bdf::new(0xff, 0, 0),
        ..good
    };
    assert_eq!(errno(host.import(&[good, bad], None)), Some(libc::ENOENT));
    let stats = host.stats().expect("counters");
    assert_eq!((stats.bindings, stats.pasids), (0, 0));
    assert_eq!(host.export(), []);
}
