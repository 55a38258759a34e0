// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An iommufd and a device bound to it by its own file: the way to the same IOMMU that the kernel
//! has beside containers.

use crate::ktap::{fail, skip, Outcome};
use crate::rig::{Dma, Memory};
use crate::vfio::{endpoints, Bdf, Device};
use host_iommu_bindings::uapi::{
    iommu_hwpt_page_response, iommu_hwpt_pgfault, iommu_hwpt_vtd_s1, iommu_hwpt_vtd_s1_invalidate,
};
use host_iommu_sys::iommufd::{self, ALLOC_NEST_PARENT, ALLOC_PASID};
use host_iommu_sys::plain::Plain;
use host_iommu_sys::Result;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A fault queue of an iommufd; reads do not block.
#[derive(Debug)]
pub struct FaultQueue {
    /// Its id.
    pub id: u32,
    file: File,
}

impl FaultQueue {
    /// All faults that are there.
    pub fn read(&self) -> Outcome<Vec<iommu_hwpt_pgfault>> {
        const FAULT: usize = size_of::<iommu_hwpt_pgfault>();

        let mut faults = Vec::new();
        loop {
            let mut bytes = [0; 64 * FAULT];
            let count = (&self.file).read(&mut bytes)?;
            if count == 0 {
                return Ok(faults);
            }
            let came = bytes.chunks_exact(FAULT).take(count / FAULT);
            faults.extend(came.filter_map(iommu_hwpt_pgfault::from_bytes));
        }
    }

    /// Answers a group.
    pub fn respond(&self, cookie: u32, code: u32) -> Outcome {
        let answer = iommu_hwpt_page_response { cookie, code };
        (&self.file).write_all(answer.as_bytes())?;
        Ok(())
    }
}

impl From<FaultQueue> for File {
    fn from(queue: FaultQueue) -> Self {
        queue.file
    }
}

/// An endpoint on an iommufd whose nest parent has guest memory; at the RID it is blocked until
/// something is attached.
///
/// Objects that a test allocates go with the iommufd.
#[derive(Debug)]
pub struct Iommufd {
    /// Guest memory.
    pub mem: Memory,
    device: Device,
    dma: Dma,
    id: u32,
    ioas: u32,
    parent: u32,
    fd: OwnedFd,
}

fn open(path: &str) -> Outcome<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    match file {
        Ok(file) => Ok(file.into()),
        Err(error) => fail(format!("{path}: {error}")),
    }
}

/// The device's own file.
fn open_device(endpoint: Bdf) -> Outcome<Device> {
    let folder = endpoint.sysfs().join("vfio-dev");
    let Some(entry) = fs::read_dir(&folder)?.next() else {
        return fail(format!("{} is empty", folder.display()));
    };
    let name = entry?.file_name();
    open(&format!("/dev/vfio/devices/{}", name.to_string_lossy())).map(Device::from)
}

impl Iommufd {
    /// An iommufd with the first endpoint; a skip where the kernel has none.
    pub fn open() -> Outcome<Self> {
        match endpoints().first() {
            Some(&endpoint) => Self::with_endpoint(endpoint),
            None => fail("no endpoint"),
        }
    }

    /// The same with any endpoint.
    pub fn with_endpoint(endpoint: Bdf) -> Outcome<Self> {
        if fs::metadata("/dev/iommu").is_err() {
            return skip("the kernel has no iommufd");
        }
        let fd = open("/dev/iommu")?;
        let device = open_device(endpoint)?;
        let id = iommufd::device_bind(device.as_fd(), fd.as_fd())?;
        let mem = Memory::guest()?;
        let ioas = iommufd::ioas_alloc(fd.as_fd())?;
        iommufd::ioas_map(fd.as_fd(), ioas, mem.shared(), mem.base())?;
        let flags = ALLOC_NEST_PARENT | ALLOC_PASID;
        let parent = iommufd::hwpt_alloc(fd.as_fd(), flags, id, ioas, None, None)?;
        device.set_bus_master(true)?;
        let dma = Dma::of(&device)?;
        Ok(Self {
            mem,
            device,
            dma,
            id,
            ioas,
            parent,
            fd,
        })
    }

    /// The endpoint.
    pub fn dma(&self) -> &Dma {
        &self.dma
    }

    /// The iommufd, for calls that are not here.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The I/O address space below the nest parent.
    pub fn ioas(&self) -> u32 {
        self.ioas
    }

    /// A page table of another I/O address space, for PASIDs.
    pub fn paging(&self, ioas: u32) -> Result<u32> {
        iommufd::hwpt_alloc(self.fd(), ALLOC_PASID, self.id, ioas, None, None)
    }

    /// Invalidates all of a nested page table.
    pub fn flush(&self, nested: u32) -> Outcome {
        let all = iommu_hwpt_vtd_s1_invalidate {
            npages: u64::MAX,
            ..Default::default()
        };
        self.invalidate(nested, &[all])
    }

    /// Invalidates entries of a nested page table.
    pub fn invalidate(&self, nested: u32, entries: &[iommu_hwpt_vtd_s1_invalidate]) -> Outcome {
        match iommufd::hwpt_invalidate(self.fd(), nested, entries) {
            Ok(()) => Ok(()),
            Err(failure) => fail(format!("IOMMU_HWPT_INVALIDATE: {failure:?}")),
        }
    }

    /// The nest parent.
    pub fn parent(&self) -> u32 {
        self.parent
    }

    /// A fault queue.
    pub fn fault_queue(&self) -> Outcome<FaultQueue> {
        let (id, fd) = iommufd::fault_alloc(self.fd.as_fd())?;
        let file = File::from(fd);
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        Ok(FaultQueue { id, file })
    }

    /// A nested page table of the stage-1 table at `root`.
    pub fn nested(&self, root: u64, faults: Option<&FaultQueue>) -> Result<u32> {
        let data = iommu_hwpt_vtd_s1 {
            pgtbl_addr: root,
            addr_width: 48,
            ..Default::default()
        };
        let fault = faults.map(|queue| queue.id);
        iommufd::hwpt_alloc(
            self.fd.as_fd(),
            ALLOC_PASID,
            self.id,
            self.parent,
            Some(&data),
            fault,
        )
    }

    /// Attaches a page table at a PASID or the RID, or replaces the one there.
    pub fn attach(&self, pt: u32, pasid: Option<u32>) -> Result<()> {
        iommufd::device_attach(self.device.as_fd(), pt, pasid)
    }

    /// Detaches.
    pub fn detach(&self, pasid: Option<u32>) -> Result<()> {
        iommufd::device_detach(self.device.as_fd(), pasid)
    }

    /// Destroys an object.
    pub fn destroy(&self, id: u32) -> Result<()> {
        iommufd::destroy(self.fd.as_fd(), id)
    }
}
