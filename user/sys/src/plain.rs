// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Structures of the ABI as bytes.

use crate::{ioasid, vfio};
use host_iommu_bindings::uapi;
use std::mem::MaybeUninit;

/// A structure that is nothing but integers.
///
/// # Safety
///
/// Every bit pattern is a value, and there is no padding, neither between the fields nor at the
/// end.
pub unsafe trait Plain: Copy + Default {
    /// The structure's bytes.
    fn as_bytes(&self) -> &[u8] {
        let bytes = std::ptr::from_ref(self).cast::<u8>();
        // SAFETY: `self` is `size_of::<Self>()` bytes, all initialized since there is no
        // padding, and borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts(bytes, size_of::<Self>()) }
    }

    /// The structure at the start of `bytes`, and `None` if they are too few.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..size_of::<Self>())?;
        let mut value = MaybeUninit::<Self>::uninit();
        // SAFETY: `bytes` is as long as `value`, and the two do not overlap: `value` is ours.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.as_mut_ptr().cast(), bytes.len());
        };
        // SAFETY: all bytes were written above, and every bit pattern is a value.
        Some(unsafe { value.assume_init() })
    }
}

/// Bytes of a slice of structures.
pub fn bytes_of_slice<T: Plain>(slice: &[T]) -> &[u8] {
    let bytes = slice.as_ptr().cast::<u8>();
    // SAFETY: the slice is that many bytes, initialized since `T` has no padding, and borrowed
    // for as long as the result.
    unsafe { std::slice::from_raw_parts(bytes, size_of_val(slice)) }
}

/// Bytes of a slice of structures, to write into.
pub fn bytes_of_slice_mut<T: Plain>(slice: &mut [T]) -> &mut [u8] {
    let len = size_of_val(slice);
    let bytes = slice.as_mut_ptr().cast::<u8>();
    // SAFETY: as in `bytes_of_slice`; the borrow is exclusive, and whatever is written is a
    // value of `T`.
    unsafe { std::slice::from_raw_parts_mut(bytes, len) }
}

/// Implements [`Plain`], with the list of field types that fill the structure.
macro_rules! plain {
    ($($structure:ty: [$($field:ty),+]),+ $(,)?) => { $(
        const _: () = assert!(size_of::<$structure>() == 0 $(+ size_of::<$field>())+);

        // SAFETY: the fields are integers, arrays, structures and unions of integers of one
        // size, and the assertion above shows that they leave no room for padding.
        unsafe impl Plain for $structure {}
    )+ };
}

plain! {
    u32: [u32],
    u64: [u64],
    uapi::vfio_info_cap_header: [u16, u16, u32],
    uapi::vfio_iommu_type1_info: [u32, u32, u64, u32, u32],
    uapi::vfio_iova_range: [u64, u64],
    uapi::vfio_iommu_type1_info_dma_avail: [u64, u32],
    uapi::vfio_iommu_type1_dma_map: [u32, u32, u64, u64, u64],
    uapi::iommu_hwpt_vtd_s1: [u64, u64, u32, u32],
    uapi::iommu_hwpt_vtd_s1_invalidate: [u64, u64, u32, u32],
    uapi::iommu_destroy: [u32, u32],
    uapi::iommu_ioas_alloc: [u32, u32, u32],
    uapi::iommu_iova_range: [u64, u64],
    uapi::iommu_ioas_iova_ranges: [u32, u32, u32, u32, u64, u64],
    uapi::iommu_hw_info: [u32, u32, u32, u32, u64, u32, [u8; 4], u64],
    uapi::iommu_hw_info_vtd: [u32, u32, u64, u64],
    uapi::iommu_hwpt_set_dirty_tracking: [u32, u32, u32, u32],
    uapi::iommu_hwpt_get_dirty_bitmap: [u32, u32, u32, u32, u64, u64, u64, u64],
    uapi::iommu_ioas_map: [u32, u32, u32, u32, u64, u64, u64],
    uapi::iommu_ioas_copy: [u32, u32, u32, u32, u64, u64, u64],
    uapi::iommu_ioas_unmap: [u32, u32, u64, u64],
    uapi::iommu_ioas_map_file: [u32, u32, u32, i32, u64, u64, u64],
    uapi::iommu_hwpt_alloc: [u32, u32, u32, u32, u32, u32, u32, u32, u64, u32, u32],
    uapi::iommu_hwpt_invalidate: [u32, u32, u64, u32, u32, u32, u32],
    uapi::iommu_fault_alloc: [u32, u32, u32, u32],
    uapi::iommu_hwpt_pgfault: [u32, u32, u32, u32, u32, u32, u64, u32, u32],
    uapi::iommu_hwpt_page_response: [u32, u32],
    uapi::vfio_device_bind_iommufd: [u32, u32, i32, u32, u64],
    uapi::vfio_device_attach_iommufd_pt: [u32, u32, u32, u32],
    uapi::vfio_device_detach_iommufd_pt: [u32, u32, u32],
    uapi::vfio_ioasid_device: [u16, u8, u8],
    uapi::vfio_ioasid_cap_nesting: [u64, u32, u16, u16, u16, u16, u32, u64, u32, u32, u32, u32, u32, u32, u64, u64],
    uapi::vfio_ioasid_pasid_alloc: [u32, u32, u32, u32, u32, u32],
    uapi::vfio_ioasid_pasid_free: [u32, u32, u32, u32],
    uapi::vfio_ioasid_bind: [u32, u32, u32, u32, u32, u32, u64, u32, u32, u64, u32, u32],
    uapi::vfio_ioasid_unbind: [u32, u32, u32, u32],
    uapi::vfio_ioasid_invalidate: [u32, u32, u32, u32, u32, u32, u32, u32, u64],
    uapi::vfio_ioasid_fault_queue: [u32, u32, u32, u32, u32, u32],
    uapi::vfio_ioasid_fault: [u32, u32, u32, u32, u32, u32, u32, u32, u64, u64, u64, u64],
    uapi::vfio_ioasid_fault_response: [u64, u32, u32],
    uapi::vfio_ioasid_device_info: [u32, u32, u16, u16, u32, u64, u64],
    uapi::vfio_ioasid_devices: [u32, u32, u32, u32, u64],
    uapi::vfio_ioasid_stats: [
        u32, u32, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64
    ],
    uapi::vfio_ioasid_as_create: [u32, u32, u32, u32],
    uapi::vfio_ioasid_as_destroy: [u32, u32, u32, u32],
    uapi::vfio_ioasid_as_change: [u32, u32, u32, u32, u32, u32, u64],
    ioasid::AsUnmap: [u32, u32, u32, u32, u32, u32, u64],
    vfio::DirtyBitmap: [u32, u32, u64, u64, u64, u64, u64],
    vfio::DmaUnmap: [u32, u32, u64, u64],
    vfio::GroupStatus: [u32, u32],
    vfio::DeviceInfo: [u32, u32, u32, u32, u32, u32],
    vfio::RegionInfo: [u32, u32, u32, u32, u64, u64],
    vfio::IrqSet: [u32, u32, u32, u32, u32, i32],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_their_bytes() {
        let range = uapi::vfio_iova_range {
            start: 0x1000,
            end: 0x1fff,
        };
        let bytes = range.as_bytes();
        assert_eq!(bytes.len(), 16);
        let again = uapi::vfio_iova_range::from_bytes(bytes).expect("all bytes");
        assert_eq!((again.start, again.end), (range.start, range.end));
        assert!(uapi::vfio_iova_range::from_bytes(&bytes[..15]).is_none());
        // From an address that is off its alignment too.
        let mut shifted = vec![0; 1];
        shifted.extend_from_slice(bytes);
        let again = uapi::vfio_iova_range::from_bytes(&shifted[1..]).expect("all bytes");
        assert_eq!(again.end, range.end);
        let mut words = [0u64; 2];
        bytes_of_slice_mut(&mut words).copy_from_slice(bytes);
        assert_eq!(bytes_of_slice(&words), bytes);
    }
}
