// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The container's calls for address spaces.

use super::{size_u32, Called, Container};
use host_iommu_bindings::ioctl::{
    VFIO_IOASID_AS_CREATE, VFIO_IOASID_AS_DESTROY, VFIO_IOASID_AS_MAP, VFIO_IOASID_AS_UNMAP,
};
use host_iommu_bindings::uapi::{
    vfio_ioasid_as_change, vfio_ioasid_as_entry, vfio_ioasid_bind, vfio_ioasid_device,
    VFIO_IOASID_BIND_AS,
};
use host_iommu_sys::Errno;

/// How a change of entries ended: its result, how many were done, the index of the first bad one.
pub type Changed = (Result<(), Errno>, u32, u32);

/// An entry.
pub fn as_entry(iova: u64, gpa: u64, length: u64, perm: u32) -> vfio_ioasid_as_entry {
    vfio_ioasid_as_entry {
        iova,
        gpa,
        length,
        perm,
        ..Default::default()
    }
}

/// Arguments of BIND for an address space, at a PASID.
pub fn bind_as_at(device: vfio_ioasid_device, pasid: u32, as_id: u32) -> vfio_ioasid_bind {
    vfio_ioasid_bind {
        flags: VFIO_IOASID_BIND_AS,
        as_id,
        ..super::bind_stage2_at(device, pasid)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

impl Container {
    /// `VFIO_IOASID_AS_CREATE`: the address space's name.
    pub fn as_create(&self) -> Called<u32> {
        let mut bytes = [16u32, 0, u32::MAX, 0].map(u32::to_ne_bytes).concat();
        self.raw(VFIO_IOASID_AS_CREATE, &mut bytes)?;
        Ok(word(&bytes, 8))
    }

    /// `VFIO_IOASID_AS_DESTROY`.
    pub fn as_destroy(&self, id: u32) -> Called<()> {
        let mut bytes = [16u32, 0, id, 0].map(u32::to_ne_bytes).concat();
        self.raw(VFIO_IOASID_AS_DESTROY, &mut bytes).map(drop)
    }

    /// `VFIO_IOASID_AS_MAP` or `_UNMAP` as it is.
    pub fn as_change(
        &self,
        request: u32,
        id: u32,
        entry_len: u32,
        count: u32,
        entries: &[vfio_ioasid_as_entry],
    ) -> Changed {
        let pointer = entries.as_ptr().expose_provenance() as u64;
        let size = size_u32::<vfio_ioasid_as_change>();
        let mut bytes = [size, 0, id, entry_len, count, u32::MAX]
            .map(u32::to_ne_bytes)
            .concat();
        bytes.extend(pointer.to_ne_bytes());
        let result = self.raw(request, &mut bytes);
        (
            result.map(drop).map_err(|error| error.errno),
            word(&bytes, 16),
            word(&bytes, 20),
        )
    }

    /// Maps entries.
    pub fn as_map(&self, id: u32, entries: &[vfio_ioasid_as_entry]) -> Changed {
        let len = size_u32::<vfio_ioasid_as_entry>();
        self.as_change(VFIO_IOASID_AS_MAP, id, len, entries.len() as u32, entries)
    }

    /// Unmaps a range.
    pub fn as_unmap(&self, id: u32, iova: u64, length: u64) -> Changed {
        let len = size_u32::<vfio_ioasid_as_entry>();
        let entries = [as_entry(iova, 0, length, 0)];
        self.as_change(VFIO_IOASID_AS_UNMAP, id, len, 1, &entries)
    }
}
