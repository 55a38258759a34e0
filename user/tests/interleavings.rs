// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A model of who owns what: every order in which the calls of several actors can come is run on the
//! crate itself, and what has to hold is looked at after each call.
//!
//! Calls that change what is owned hold one lock from their check to their outcome, so that threads
//! can only bring them into another order.

use host_iommu::backend::soft::{Dma, DmaEnd, DmaId, Soft, SoftBus, SoftDevice, SoftDeviceOptions};
use host_iommu::{
    Bdf, FaultEvent, FaultGroup, FaultQueue, FaultQueueOptions, FaultRead, Gpa, GuestTable,
    HostIommu, Iova, Pasid, PasidAllocation, PasidRequest, Response, Scope, Stage1Binding,
};
use std::time::Duration;

const DEVICE: Bdf = Bdf::new(0, 0, 8);
const GUEST: u32 = 5;
const HOST: u32 = 70;

fn pasid(number: u32) -> Pasid {
    number.try_into().expect("a PASID")
}

/// PASIDs and a binding at them.
#[derive(Debug, Default)]
struct Owner {
    pasids: Option<PasidAllocation>,
    binding: Option<Stage1Binding>,
}

impl Owner {
    fn is_bound(&self) -> bool {
        self.binding.as_ref().is_some_and(Stage1Binding::is_bound)
    }

    /// The PASID is there as long as one of the two.
    fn owns(&self) -> bool {
        self.pasids.is_some() || self.binding.is_some()
    }
}

/// What is between the calls.
struct World {
    bus: SoftBus,
    device: SoftDevice,
    faults: FaultQueue,
    host: HostIommu,
    /// The first owner, and another that wants the same numbers or is lent them.
    owners: [Owner; 2],
    dma: Option<DmaId>,
    group: Option<FaultGroup>,
}

impl World {
    fn new() -> Self {
        let soft = Soft::new();
        let bus = soft.bus();
        let device = bus.add(DEVICE, &SoftDeviceOptions::default());
        let host = HostIommu::new(soft);
        let faults = host.fault_queue(&FaultQueueOptions::nonblocking());
        Self {
            bus,
            device: device.expect("a device"),
            faults: faults.expect("a queue"),
            host,
            owners: Default::default(),
            dma: None,
            group: None,
        }
    }

    /// Binds, as far as that is possible: at PASIDs that are allocated, or at the other's.
    fn bind(&mut self, owner: usize) {
        let host = &self.host;
        let own = host.alloc_pasids(&PasidRequest::exactly(pasid(HOST))).ok();
        let others = self.owners.iter().find_map(|owner| owner.pasids.as_ref());
        let Some(pasids) = own.as_ref().or(others) else {
            return;
        };
        let table = GuestTable::four_level(Gpa(0x1000)).with_guest_pasid(GUEST);
        let faults = Some(&self.faults);
        let bound = host.bind(DEVICE, pasids, pasids.first(), &table, faults);
        self.owners[owner] = Owner {
            binding: bound.ok(),
            pasids: own,
        };
    }

    /// Looks at what has to hold at any time.
    fn check(&self, order: &[&str]) {
        let bound = self.owners.iter().filter(|owner| owner.is_bound()).count();
        let owned = self.owners.iter().any(Owner::owns);
        let stats = self.host.stats().expect("counters");
        assert!(bound <= 1, "two are bound: {order:?}");
        assert_eq!(stats.bindings, bound as u64, "bindings: {order:?}");
        assert_eq!(stats.pasids, u64::from(owned), "PASIDs: {order:?}");
        assert_eq!(self.host.export().len(), bound, "export: {order:?}");
        let host_pasid = self.host.host_pasid(DEVICE, pasid(GUEST));
        let expected = if bound == 1 { HOST } else { GUEST };
        assert_eq!(host_pasid, Some(pasid(expected)), "numbers: {order:?}");
        let outstanding = usize::from(self.group.is_some());
        assert_eq!(self.faults.outstanding(), outstanding, "groups: {order:?}");
        if bound == 0 {
            if let Some(dma) = self.dma {
                assert!(!self.device.is_waiting(dma), "it waits: {order:?}");
            }
        }
    }
}

/// A call, with its name.
type Step = (&'static str, fn(&mut World));

const OWNER: [Step; 3] = [
    ("bind", |world| world.bind(0)),
    ("drop the binding", |world| world.owners[0].binding = None),
    ("drop the PASIDs", |world| world.owners[0].pasids = None),
];
const OTHER: [Step; 1] = [("bind by another", |world| world.bind(1))];
const ASKS: [Step; 3] = [
    ("DMA", |world| {
        let dma = Dma::read(Iova(0x7000), 8).at(pasid(HOST));
        world.dma = world.device.submit(dma).ok();
    }),
    ("read", |world| {
        if let Ok(FaultRead::Events(events)) = world.faults.read() {
            for event in events {
                if let FaultEvent::PageRequests(group) = event {
                    world.group = Some(group);
                }
            }
        }
    }),
    ("answer", |world| {
        if let Some(group) = world.group.take() {
            // One that was cancelled is answered for nothing, and that is no error.
            group.respond(Response::Invalid).expect("answered");
        }
    }),
];
const REMOVAL: [Step; 2] = [
    ("remove", |world| {
        world.bus.remove(DEVICE).expect("removed");
    }),
    ("add", |world| {
        let added = world.bus.add(DEVICE, &SoftDeviceOptions::default());
        world.device = added.expect("a device");
        world.dma = None;
    }),
];
const GUEST_RESET: [Step; 1] = [("reset", |world| {
    // ENOENT where nothing is bound.
    let _ = world.host.unbind(Scope::Device(DEVICE));
})];

/// Runs an order of calls from nothing to the end.
fn run(order: &[Step]) {
    let names: Vec<&str> = order.iter().map(|step| step.0).collect();
    let mut world = World::new();
    for (index, (name, step)) in order.iter().enumerate() {
        let before = world.owners[1].is_bound();
        step(&mut world);
        world.check(&names[..=index]);
        // What is another's goes by a removal or a reset alone.
        let taken = before && !world.owners[1].is_bound();
        let may = matches!(*name, "remove" | "reset");
        assert!(!taken || may, "taken from another: {names:?}");
    }
    world.owners = Default::default();
    world.group = None;
    world.check(&names);
    if let Some(dma) = world.dma {
        let end = world.device.wait(dma, Duration::ZERO);
        assert!(matches!(
            end,
            Some(DmaEnd::NoAccess(_) | DmaEnd::Invalid(_) | DmaEnd::Aborted)
        ));
    }
}

/// Runs every order of the actors' calls, each actor's in its own; gives their number.
fn each_order(actors: &[&[Step]]) -> usize {
    fn next(actors: &[&[Step]], done: &mut [usize], order: &mut Vec<Step>) -> usize {
        let mut runs = 0;
        let mut ended = true;
        for actor in 0..actors.len() {
            let Some(step) = actors[actor].get(done[actor]) else {
                continue;
            };
            ended = false;
            order.push(*step);
            done[actor] += 1;
            runs += next(actors, done, order);
            done[actor] -= 1;
            order.pop();
        }
        if ended {
            run(order);
            return 1;
        }
        runs
    }
    next(actors, &mut vec![0; actors.len()], &mut Vec::new())
}

#[test]
fn bind_drop_and_faults_with_a_removal_in_every_order() {
    let runs = each_order(&[&OWNER, &OTHER, &ASKS, &REMOVAL]);
    assert_eq!(runs, 5040);
}

#[test]
fn bind_drop_and_faults_with_a_reset_in_every_order() {
    let runs = each_order(&[&OWNER, &OTHER, &ASKS, &GUEST_RESET]);
    assert_eq!(runs, 1120);
}
