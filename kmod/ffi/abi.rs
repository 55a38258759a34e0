// SPDX-License-Identifier: GPL-2.0
//! The ABI's structures, generated from bindings/uapi/linux/vfio_ioasid.h, and which of
//! them may cross the border to user space as bytes.

use kernel::transmute::{AsBytes, FromBytes};

#[allow(
    non_camel_case_types,
    non_upper_case_globals,
    dead_code,
    missing_docs,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "generated code"
)]
#[rustfmt::skip]
#[path = "../../bindings/src/uapi.rs"]
mod generated;

pub(crate) use generated::*;

/// A structure of the ABI: it starts with `argsz`.
///
/// # Safety
///
/// The type must be `repr(C)`, made of integers alone, without padding, and start with a
/// `u32` that holds its size.
pub(crate) unsafe trait Call: FromBytes + AsBytes {
    /// The size that the user says it has.
    fn argsz(&self) -> usize;
}

macro_rules! plain {
    ($($ty:ty),* $(,)?) => { $(
        // SAFETY: `$ty` is `repr(C)` and made of integers alone: each bit pattern is valid.
        unsafe impl FromBytes for $ty {}
        // SAFETY: The header spells all padding of `$ty` out, which the size of its fields
        // shows below; it has no interior mutability.
        unsafe impl AsBytes for $ty {}
    )* };
}

macro_rules! call {
    ($($ty:ty),* $(,)?) => { $(
        plain!($ty);
        // SAFETY: By the header, the first field is `argsz`; see above for the rest.
        unsafe impl Call for $ty {
            fn argsz(&self) -> usize {
                self.argsz as usize
            }
        }
    )* };
}

call!(
    vfio_ioasid_pasid_alloc,
    vfio_ioasid_pasid_free,
    vfio_ioasid_bind,
    vfio_ioasid_unbind,
    vfio_ioasid_invalidate,
    vfio_ioasid_fault_queue,
    vfio_ioasid_devices,
    vfio_ioasid_stats,
    vfio_ioasid_as_create,
    vfio_ioasid_as_destroy,
    vfio_ioasid_as_change,
);
plain!(
    iommu_hwpt_vtd_s1,
    iommu_hwpt_vtd_s1_invalidate,
    vfio_info_cap_header,
    vfio_iova_range,
    vfio_ioasid_cap_nesting,
    vfio_ioasid_device,
    vfio_ioasid_device_info,
    vfio_ioasid_fault,
    vfio_ioasid_fault_response,
    vfio_ioasid_as_entry,
    vfio_iommu_type1_info,
    vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info_dma_avail,
);

/// Sum of the fields' sizes equals the structure's size: no implicit padding.
macro_rules! no_padding {
    ($($ty:ty: $size:expr),* $(,)?) => { $(
        const _: () = assert!(core::mem::size_of::<$ty>() == $size);
    )* };
}

no_padding!(
    vfio_ioasid_pasid_alloc: 6 * 4,
    vfio_ioasid_pasid_free: 4 * 4,
    vfio_ioasid_bind: 6 * 4 + 8 + 2 * 4 + 8 + 2 * 4,
    vfio_ioasid_unbind: 4 * 4,
    vfio_ioasid_invalidate: 8 * 4 + 8,
    vfio_ioasid_fault_queue: 6 * 4,
    vfio_ioasid_devices: 4 * 4 + 8,
    vfio_ioasid_stats: 2 * 4 + 20 * 8,
    vfio_ioasid_fault: 8 * 4 + 4 * 8,
    vfio_ioasid_fault_response: 8 + 2 * 4,
    vfio_ioasid_device_info: 4 + 4 + 2 * 2 + 4 + 2 * 8,
    vfio_ioasid_cap_nesting: 8 + 4 + 4 * 2 + 4 + 8 + 6 * 4 + 2 * 8,
    vfio_ioasid_as_create: 4 * 4,
    vfio_ioasid_as_destroy: 4 * 4,
    vfio_ioasid_as_change: 6 * 4 + 8,
    vfio_ioasid_as_entry: 3 * 8 + 2 * 4,
    iommu_hwpt_vtd_s1: 2 * 8 + 2 * 4,
    iommu_hwpt_vtd_s1_invalidate: 2 * 8 + 2 * 4,
    vfio_iommu_type1_dma_map: 2 * 4 + 3 * 8,
    vfio_iommu_type1_dma_unmap: 2 * 4 + 2 * 8,
    vfio_iommu_type1_info: 2 * 4 + 8 + 2 * 4,
    vfio_iommu_type1_info_dma_avail: 8 + 4,
    vfio_iova_range: 2 * 8,
);
