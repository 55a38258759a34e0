// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ways to the IOMMU that are measured beside each other, each with the same endpoint.

use host_iommu::sys::iommufd::{self, READABLE, WRITEABLE};
use host_iommu::sys::memory::{DmaMemory, SharedMemory};
use host_iommu::sys::Result;
use host_iommu_bindings::uapi::vfio_ioasid_device;
use host_iommu_tests::iommufd::Iommufd;
use host_iommu_tests::ktap::{fail, Outcome};
use host_iommu_tests::memory::GuestMemory;
use host_iommu_tests::rig::{Dma, GUEST_BASE, GUEST_SIZE};
use host_iommu_tests::vfio::{endpoints, Bdf, Container, Device, Group};
use std::fs;

/// What DMA may do to what iommufd maps.
pub const RW: u32 = READABLE | WRITEABLE;

/// A way to the IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A container of the module's.
    Ours,
    /// A container of vfio_iommu_type1's.
    Type1,
    /// iommufd.
    Iommufd,
}

impl Way {
    /// All.
    pub const ALL: [Self; 3] = [Self::Ours, Self::Type1, Self::Iommufd];
    /// Those with nesting, PASIDs and faults.
    pub const NESTING: [Self; 2] = [Self::Ours, Self::Iommufd];

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Type1 => "type1",
            Self::Iommufd => "iommufd",
        }
    }
}

const TYPE1V2: u32 = 3;
const IOASID: u32 = 6;

fn endpoint() -> Outcome<Bdf> {
    match endpoints().first() {
        Some(bdf) => Ok(*bdf),
        None => fail("no endpoint is bound to vfio-pci"),
    }
}

/// Lets a container of ours have what is measured.
pub fn raise_limits() -> Outcome {
    let limits = [
        ("max_pasids", 1 << 20),
        ("total_pasids", 1 << 20),
        ("max_bindings", 1 << 16),
        ("total_domains", 1 << 16),
    ];
    for (limit, value) in limits {
        let file = format!("/sys/module/vfio_iommu_ioasid/parameters/{limit}");
        fs::write(file, value.to_string())?;
    }
    Ok(())
}

/// A container of ours, or of type1's, with guest memory and the endpoint.
#[derive(Debug)]
pub struct Contained {
    /// The endpoint.
    pub dma: Dma,
    /// Guest memory, mapped at its GPAs.
    pub mem: GuestMemory,
    /// The container.
    pub container: Container,
    device: Device,
    group: Group,
    endpoint: Bdf,
}

impl Contained {
    fn open(iommu_type: u32) -> Outcome<Self> {
        let endpoint = endpoint()?;
        let container = Container::open()?;
        let group = Group::open(endpoint)?;
        group.set_container(&container)?;
        container.set_iommu(iommu_type)?;
        let mem = GuestMemory::new(GUEST_BASE, GUEST_SIZE)?;
        container.map_memory(mem.base(), mem.shared())?;
        let device = group.device(endpoint)?;
        device.set_bus_master(true)?;
        Ok(Self {
            dma: Dma::of(&device)?,
            mem,
            container,
            device,
            group,
            endpoint,
        })
    }

    /// One of ours.
    pub fn ours() -> Outcome<Self> {
        Self::open(IOASID)
    }

    /// Closes the device; the container lives on with what is given.
    pub fn close_device(self) -> (Container, Group, GuestMemory) {
        drop(self.device);
        (self.container, self.group, self.mem)
    }

    /// The endpoint's name in calls.
    pub fn id(&self) -> vfio_ioasid_device {
        self.endpoint.id()
    }
}

/// Where memory can be mapped.
#[derive(Debug)]
pub enum Mapper {
    /// A container.
    Contained(Contained),
    /// An I/O address space.
    Iommufd(Iommufd),
}

impl Mapper {
    /// Opens it.
    pub fn open(way: Way) -> Outcome<Self> {
        match way {
            Way::Ours => Contained::ours().map(Self::Contained),
            Way::Type1 => Contained::open(TYPE1V2).map(Self::Contained),
            Way::Iommufd => {
                let host = Iommufd::open()?;
                host.attach(host.parent(), None)?;
                Ok(Self::Iommufd(host))
            }
        }
    }

    /// Maps all of `memory`.
    pub fn map(&self, iova: u64, memory: &SharedMemory) -> Result<()> {
        match self {
            Self::Contained(host) => host.container.map_memory(iova, memory),
            Self::Iommufd(host) => {
                let size = memory.len() as u64;
                iommufd::ioas_map_part(host.fd(), (host.ioas(), RW), memory, 0, iova, size)
            }
        }
    }

    /// Unmaps.
    pub fn unmap(&self, iova: u64, size: u64) -> Result<u64> {
        match self {
            Self::Contained(host) => host.container.unmap(0, iova, size),
            Self::Iommufd(host) => iommufd::ioas_unmap(host.fd(), host.ioas(), iova, size),
        }
    }
}
