// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel module and the emulated endpoints.

use super::{Client, End, Job, Machine, Opened};
use crate::ktap::{fail, skip, Outcome};
use crate::testdev::{self, status, Order, Slot, Testdev, BAR};
use crate::vfio::{endpoints, Device, Group};
use host_iommu::backend::kmod::Kmod;
use host_iommu::{Bdf, HostIommu, HostIommuContext};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The booted machine.
#[derive(Clone, Copy, Debug)]
pub struct KmodMachine;

impl Machine for KmodMachine {
    fn backend(&self) -> &'static str {
        "kmod"
    }

    fn open(&self, devices: &[usize]) -> Outcome<Opened> {
        let found = endpoints();
        let mut kmod: Option<Kmod> = None;
        let mut names = Vec::new();
        for &index in devices {
            let Some(&name) = found.get(index) else {
                return skip(format!("no endpoint number {index} is bound to vfio-pci"));
            };
            let device = Bdf::new(name.segment, name.bus, name.devfn);
            match &kmod {
                None => kmod = Some(Kmod::open_device(device)?),
                Some(kmod) => {
                    let group = Group::open(name)?.as_fd().try_clone_to_owned()?;
                    kmod.attach(group)?;
                }
            }
            names.push(device);
        }
        let Some(kmod) = kmod else {
            return fail("no device was asked for");
        };
        let mut clients: Vec<(Bdf, Box<dyn Client>)> = Vec::new();
        for device in names {
            clients.push((device, client(kmod.open_device_fd(device)?)?));
        }
        nesting(HostIommu::new(kmod), clients)
    }
}

/// The DMA of an endpoint that is open.
///
/// # Errors
///
/// Those of VFIO.
pub fn client(fd: OwnedFd) -> Outcome<Box<dyn Client>> {
    let file = Device::from(fd);
    file.set_bus_master(true)?;
    let endpoint = Testdev::new(file.map_bar(BAR)?)?;
    Ok(Box::new(EndpointClient::new(endpoint)))
}

/// A context on hardware that nests.
///
/// # Errors
///
/// A skip on other hardware.
pub fn nesting(host: HostIommu, devices: Vec<(Bdf, Box<dyn Client>)>) -> Outcome<Opened> {
    match host.capabilities()?.nesting.map(|nesting| nesting.stage1) {
        Some(support) if support.is_present() => Ok(Opened { host, devices }),
        Some(support) => skip(format!("nesting: {support}")),
        None => fail("the backend reports nothing about nesting"),
    }
}

/// The DMA of an endpoint.
#[derive(Debug)]
pub struct EndpointClient {
    endpoint: Testdev,
    /// Whether a slot reads into the buffer.
    reads: RefCell<BTreeMap<u64, bool>>,
}

impl EndpointClient {
    /// Of an endpoint.
    pub fn new(endpoint: Testdev) -> Self {
        Self {
            endpoint,
            reads: RefCell::default(),
        }
    }
}

impl Client for EndpointClient {
    fn start(&self, job: &Job) -> Outcome<u64> {
        let mut order = match job.store {
            Some(value) => Order::fill(job.address, job.len, value),
            None => Order::read(job.address, job.len, 0),
        };
        if let Some(pasid) = job.pasid {
            order = order.at(pasid.get());
        }
        if !job.ats {
            order = order.no_ats();
        }
        if !job.ask {
            order = order.no_pri();
        }
        let Slot(slot) = self.endpoint.submit(&order)?;
        let mut reads = self.reads.borrow_mut();
        reads.insert(slot.into(), job.store.is_none());
        Ok(slot.into())
    }

    fn end(&self, job: u64, limit: Duration) -> Outcome<Option<End>> {
        let done = match self.endpoint.wait(Slot(job as u32), limit) {
            Ok(done) => done,
            Err(testdev::Error::Timeout(..)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let read = || {
            let bytes = self.endpoint.read_buffer(0, 8);
            u64::from_le_bytes(bytes.first_chunk().copied().unwrap_or_default())
        };
        let reads = self.reads.borrow().get(&job).copied();
        Ok(Some(match done.status {
            status::OK if reads == Some(true) => End::Done(read()),
            status::OK => End::Done(0),
            status::NO_ACCESS | status::ATS_ERROR => End::NoAccess,
            status::INVALID => End::Invalid,
            status::RETRIES => End::Retries,
            status::ABORTED => End::Aborted,
            other => End::Other(other),
        }))
    }

    fn set_group_size(&self, pages: u32) {
        self.endpoint.set_group_size(pages);
    }
}
