// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ways to the IOMMU beside each other: the same work by each, on one endpoint or on twins.

use crate::iommufd::Iommufd;
use crate::ktap::{fail, Outcome};
use crate::memory::GuestMemory;
use crate::rig::{Dma, GUEST_BASE, GUEST_SIZE};
use crate::vfio::{endpoints, Bdf, Container, Device, Group};
use host_iommu_bindings::uapi::{
    vfio_ioasid_device, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE,
};
use host_iommu_sys::iommufd::{self, READABLE, WRITEABLE};
use host_iommu_sys::memory::{DmaMemory, SharedMemory};
use host_iommu_sys::Result;
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

/// The endpoint of that number, in the order of addresses.
fn endpoint(index: usize) -> Outcome<Bdf> {
    match endpoints().get(index) {
        Some(bdf) => Ok(*bdf),
        None => fail(format!("no endpoint {index} is bound to vfio-pci")),
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
    fn open(iommu_type: u32, index: usize) -> Outcome<Self> {
        let endpoint = endpoint(index)?;
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
        Self::open(IOASID, 0)
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
    /// Opens it with the first endpoint.
    pub fn open(way: Way) -> Outcome<Self> {
        Self::with_endpoint(way, 0)
    }

    /// Opens it with the endpoint of that number.
    pub fn with_endpoint(way: Way, index: usize) -> Outcome<Self> {
        match way {
            Way::Ours => Contained::open(IOASID, index).map(Self::Contained),
            Way::Type1 => Contained::open(TYPE1V2, index).map(Self::Contained),
            Way::Iommufd => {
                let host = Iommufd::with_endpoint(endpoint(index)?)?;
                host.attach(host.parent(), None)?;
                Ok(Self::Iommufd(host))
            }
        }
    }

    /// Maps all of `memory`.
    pub fn map(&self, iova: u64, memory: &SharedMemory) -> Result<()> {
        self.map_part(iova, memory, 0, memory.len() as u64)
    }

    /// Maps `size` bytes at `offset` of `memory`.
    pub fn map_part(&self, iova: u64, memory: &SharedMemory, offset: u64, size: u64) -> Result<()> {
        match self {
            Self::Contained(host) => {
                let flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
                host.container.map_part(iova, memory, offset, size, flags)
            }
            Self::Iommufd(host) => {
                let to = (host.ioas(), RW);
                iommufd::ioas_map_part(host.fd(), to, memory, offset, iova, size)
            }
        }
    }

    /// The endpoint.
    pub fn dma(&self) -> &Dma {
        match self {
            Self::Contained(host) => &host.dma,
            Self::Iommufd(host) => host.dma(),
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
