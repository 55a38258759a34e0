// SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR Apache-2.0 OR MIT
// Written by bindings/generate.sh from uapi/linux/vfio_ioasid.h.
#[repr(C)]
#[derive(Default)]
pub struct __IncompleteArrayField<T>(::core::marker::PhantomData<T>, [T; 0]);
impl<T> __IncompleteArrayField<T> {
    #[inline]
    pub const fn new() -> Self {
        __IncompleteArrayField(::core::marker::PhantomData, [])
    }
    #[inline]
    pub fn as_ptr(&self) -> *const T {
        self as *const _ as *const T
    }
    #[inline]
    pub fn as_mut_ptr(&mut self) -> *mut T {
        self as *mut _ as *mut T
    }
    #[inline]
    pub unsafe fn as_slice(&self, len: usize) -> &[T] {
        ::core::slice::from_raw_parts(self.as_ptr(), len)
    }
    #[inline]
    pub unsafe fn as_mut_slice(&mut self, len: usize) -> &mut [T] {
        ::core::slice::from_raw_parts_mut(self.as_mut_ptr(), len)
    }
}
impl<T> ::core::fmt::Debug for __IncompleteArrayField<T> {
    fn fmt(&self, fmt: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
        fmt.write_str("__IncompleteArrayField")
    }
}
pub const IOMMUFD_TYPE: u8 = 59u8;
pub const VFIO_TYPE1_IOMMU: u32 = 1;
pub const VFIO_TYPE1v2_IOMMU: u32 = 3;
pub const VFIO_DMA_CC_IOMMU: u32 = 4;
pub const VFIO_TYPE: u8 = 59u8;
pub const VFIO_BASE: u32 = 100;
pub const VFIO_IOMMU_INFO_PGSIZES: u32 = 1;
pub const VFIO_IOMMU_INFO_CAPS: u32 = 2;
pub const VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: u32 = 1;
pub const VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION: u32 = 2;
pub const VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: u32 = 3;
pub const VFIO_DMA_MAP_FLAG_READ: u32 = 1;
pub const VFIO_DMA_MAP_FLAG_WRITE: u32 = 2;
pub const VFIO_DMA_MAP_FLAG_VADDR: u32 = 4;
pub const VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: u32 = 1;
pub const VFIO_DMA_UNMAP_FLAG_ALL: u32 = 2;
pub const VFIO_DMA_UNMAP_FLAG_VADDR: u32 = 4;
pub const VFIO_IOMMU_DIRTY_PAGES_FLAG_START: u32 = 1;
pub const VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: u32 = 2;
pub const VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: u32 = 4;
pub const VFIO_IOASID_IOMMU: u32 = 6;
pub const VFIO_IOASID_BASE: u32 = 200;
pub const VFIO_IOASID_CAP_NESTING: u32 = 32769;
pub const VFIO_IOASID_PASID_LIMIT: u32 = 1048576;
pub const VFIO_IOASID_REASON_NONE: u32 = 0;
pub const VFIO_IOASID_REASON_DRIVER: u32 = 1;
pub const VFIO_IOASID_REASON_HARDWARE: u32 = 2;
pub const VFIO_IOASID_REASON_NO_PASID: u32 = 3;
pub const VFIO_IOASID_REASON_NO_PRI: u32 = 4;
pub const VFIO_IOASID_REASON_GROUP_SHARED: u32 = 5;
pub const VFIO_IOASID_REASON_NO_DEVICE: u32 = 6;
pub const VFIO_IOASID_REASON_FORMAT: u32 = 7;
pub const VFIO_IOASID_REASON_KERNEL: u32 = 8;
pub const VFIO_IOASID_NESTING_PASID: u32 = 1;
pub const VFIO_IOASID_NESTING_PRQ: u32 = 2;
pub const VFIO_IOASID_NESTING_NO_READONLY: u32 = 4;
pub const VFIO_IOASID_NESTING_COHERENT: u32 = 8;
pub const VFIO_IOASID_NESTING_RID: u32 = 16;
pub const VFIO_IOASID_NESTING_DMA_FAULT: u32 = 32;
pub const VFIO_IOASID_NESTING_DIRTY: u32 = 64;
pub const VFIO_IOASID_BIND_RID: u32 = 1;
pub const VFIO_IOASID_BIND_REPLACE: u32 = 2;
pub const VFIO_IOASID_BIND_STAGE2: u32 = 4;
pub const VFIO_IOASID_BIND_AS: u32 = 8;
pub const VFIO_IOASID_BIND_BLOCKED: u32 = 16;
pub const VFIO_IOASID_OUTCOME_BOUND: u32 = 1;
pub const VFIO_IOASID_OUTCOME_UNCHANGED: u32 = 2;
pub const VFIO_IOASID_OUTCOME_BLOCKED: u32 = 3;
pub const VFIO_IOASID_SCOPE_BINDING: u32 = 1;
pub const VFIO_IOASID_SCOPE_DEVICE: u32 = 2;
pub const VFIO_IOASID_SCOPE_CONTAINER: u32 = 4;
pub const VFIO_IOASID_SCOPE_RID: u32 = 8;
pub const VFIO_IOASID_INVALIDATE_MAX: u32 = 65536;
pub const VFIO_IOASID_FAULT_QUEUE_CLOEXEC: u32 = 1;
pub const VFIO_IOASID_FAULT_QUEUE_NONBLOCK: u32 = 2;
pub const VFIO_IOASID_FAULT_QUEUE_DMA: u32 = 4;
pub const VFIO_IOASID_FAULT_DEPTH_MAX: u32 = 16384;
pub const VFIO_IOASID_FAULT_GROUP_MAX: u32 = 64;
pub const VFIO_IOASID_FAULT_PAGE_REQUEST: u32 = 1;
pub const VFIO_IOASID_FAULT_DMA: u32 = 2;
pub const VFIO_IOASID_FAULT_OVERFLOW: u32 = 3;
pub const VFIO_IOASID_FAULT_CANCELLED: u32 = 4;
pub const VFIO_IOASID_FAULT_FLAG_PASID: u32 = 1;
pub const VFIO_IOASID_FAULT_FLAG_LAST: u32 = 2;
pub const VFIO_IOASID_FAULT_FLAG_EXPIRED: u32 = 4;
pub const VFIO_IOASID_FAULT_PERM_READ: u32 = 1;
pub const VFIO_IOASID_FAULT_PERM_WRITE: u32 = 2;
pub const VFIO_IOASID_FAULT_PERM_EXEC: u32 = 4;
pub const VFIO_IOASID_FAULT_PERM_PRIV: u32 = 8;
pub const VFIO_IOASID_RESPONSE_SUCCESS: u32 = 0;
pub const VFIO_IOASID_RESPONSE_INVALID: u32 = 1;
pub const VFIO_IOASID_DEVICE_NESTING: u32 = 1;
pub const VFIO_IOASID_DEVICE_PRQ: u32 = 2;
pub const VFIO_IOASID_DEVICE_RID: u32 = 4;
pub const VFIO_IOASID_AS_READ: u32 = 1;
pub const VFIO_IOASID_AS_WRITE: u32 = 2;
pub const VFIO_IOASID_AS_CHANGE_MAX: u32 = 65536;
pub type __u8 = ::core::ffi::c_uchar;
pub type __u16 = ::core::ffi::c_ushort;
pub type __s32 = ::core::ffi::c_int;
pub type __u32 = ::core::ffi::c_uint;
pub type __u64 = ::core::ffi::c_ulonglong;
pub const IOMMUFD_CMD_BASE: _bindgen_ty_1 = 128;
pub const IOMMUFD_CMD_DESTROY: _bindgen_ty_1 = 128;
pub const IOMMUFD_CMD_IOAS_ALLOC: _bindgen_ty_1 = 129;
pub const IOMMUFD_CMD_IOAS_ALLOW_IOVAS: _bindgen_ty_1 = 130;
pub const IOMMUFD_CMD_IOAS_COPY: _bindgen_ty_1 = 131;
pub const IOMMUFD_CMD_IOAS_IOVA_RANGES: _bindgen_ty_1 = 132;
pub const IOMMUFD_CMD_IOAS_MAP: _bindgen_ty_1 = 133;
pub const IOMMUFD_CMD_IOAS_UNMAP: _bindgen_ty_1 = 134;
pub const IOMMUFD_CMD_OPTION: _bindgen_ty_1 = 135;
pub const IOMMUFD_CMD_VFIO_IOAS: _bindgen_ty_1 = 136;
pub const IOMMUFD_CMD_HWPT_ALLOC: _bindgen_ty_1 = 137;
pub const IOMMUFD_CMD_GET_HW_INFO: _bindgen_ty_1 = 138;
pub const IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING: _bindgen_ty_1 = 139;
pub const IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP: _bindgen_ty_1 = 140;
pub const IOMMUFD_CMD_HWPT_INVALIDATE: _bindgen_ty_1 = 141;
pub const IOMMUFD_CMD_FAULT_QUEUE_ALLOC: _bindgen_ty_1 = 142;
pub const IOMMUFD_CMD_IOAS_MAP_FILE: _bindgen_ty_1 = 143;
pub const IOMMUFD_CMD_VIOMMU_ALLOC: _bindgen_ty_1 = 144;
pub const IOMMUFD_CMD_VDEVICE_ALLOC: _bindgen_ty_1 = 145;
pub const IOMMUFD_CMD_IOAS_CHANGE_PROCESS: _bindgen_ty_1 = 146;
pub const IOMMUFD_CMD_VEVENTQ_ALLOC: _bindgen_ty_1 = 147;
pub const IOMMUFD_CMD_HW_QUEUE_ALLOC: _bindgen_ty_1 = 148;
pub const IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA: _bindgen_ty_1 = 149;
pub type _bindgen_ty_1 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_destroy {
    pub size: __u32,
    pub id: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_destroy"][::core::mem::size_of::<iommu_destroy>() - 8usize];
    ["Alignment of iommu_destroy"][::core::mem::align_of::<iommu_destroy>() - 4usize];
    ["Offset of field: iommu_destroy::size"][::core::mem::offset_of!(iommu_destroy, size) - 0usize];
    ["Offset of field: iommu_destroy::id"][::core::mem::offset_of!(iommu_destroy, id) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_ioas_alloc {
    pub size: __u32,
    pub flags: __u32,
    pub out_ioas_id: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_ioas_alloc"][::core::mem::size_of::<iommu_ioas_alloc>() - 12usize];
    ["Alignment of iommu_ioas_alloc"][::core::mem::align_of::<iommu_ioas_alloc>() - 4usize];
    ["Offset of field: iommu_ioas_alloc::size"]
        [::core::mem::offset_of!(iommu_ioas_alloc, size) - 0usize];
    ["Offset of field: iommu_ioas_alloc::flags"]
        [::core::mem::offset_of!(iommu_ioas_alloc, flags) - 4usize];
    ["Offset of field: iommu_ioas_alloc::out_ioas_id"]
        [::core::mem::offset_of!(iommu_ioas_alloc, out_ioas_id) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_iova_range {
    pub start: __u64,
    pub last: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_iova_range"][::core::mem::size_of::<iommu_iova_range>() - 16usize];
    ["Alignment of iommu_iova_range"][::core::mem::align_of::<iommu_iova_range>() - 8usize];
    ["Offset of field: iommu_iova_range::start"]
        [::core::mem::offset_of!(iommu_iova_range, start) - 0usize];
    ["Offset of field: iommu_iova_range::last"]
        [::core::mem::offset_of!(iommu_iova_range, last) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_ioas_iova_ranges {
    pub size: __u32,
    pub ioas_id: __u32,
    pub num_iovas: __u32,
    pub __reserved: __u32,
    pub allowed_iovas: __u64,
    pub out_iova_alignment: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_ioas_iova_ranges"][::core::mem::size_of::<iommu_ioas_iova_ranges>() - 32usize];
    ["Alignment of iommu_ioas_iova_ranges"]
        [::core::mem::align_of::<iommu_ioas_iova_ranges>() - 8usize];
    ["Offset of field: iommu_ioas_iova_ranges::size"]
        [::core::mem::offset_of!(iommu_ioas_iova_ranges, size) - 0usize];
    ["Offset of field: iommu_ioas_iova_ranges::ioas_id"]
        [::core::mem::offset_of!(iommu_ioas_iova_ranges, ioas_id) - 4usize];
    ["Offset of field: iommu_ioas_iova_ranges::num_iovas"]
        [::core::mem::offset_of!(iommu_ioas_iova_ranges, num_iovas) - 8usize];
    ["Offset of field: iommu_ioas_iova_ranges::__reserved"]
        [::core::mem::offset_of!(iommu_ioas_iova_ranges, __reserved) - 12usize];
    ["Offset of field: iommu_ioas_iova_ranges::allowed_iovas"]
        [::core::mem::offset_of!(iommu_ioas_iova_ranges, allowed_iovas) - 16usize];
    ["Offset of field: iommu_ioas_iova_ranges::out_iova_alignment"]
        [::core::mem::offset_of!(iommu_ioas_iova_ranges, out_iova_alignment) - 24usize];
};
pub const iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA: iommufd_ioas_map_flags = 1;
pub const iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE: iommufd_ioas_map_flags = 2;
pub const iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE: iommufd_ioas_map_flags = 4;
pub type iommufd_ioas_map_flags = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_ioas_map {
    pub size: __u32,
    pub flags: __u32,
    pub ioas_id: __u32,
    pub __reserved: __u32,
    pub user_va: __u64,
    pub length: __u64,
    pub iova: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_ioas_map"][::core::mem::size_of::<iommu_ioas_map>() - 40usize];
    ["Alignment of iommu_ioas_map"][::core::mem::align_of::<iommu_ioas_map>() - 8usize];
    ["Offset of field: iommu_ioas_map::size"]
        [::core::mem::offset_of!(iommu_ioas_map, size) - 0usize];
    ["Offset of field: iommu_ioas_map::flags"]
        [::core::mem::offset_of!(iommu_ioas_map, flags) - 4usize];
    ["Offset of field: iommu_ioas_map::ioas_id"]
        [::core::mem::offset_of!(iommu_ioas_map, ioas_id) - 8usize];
    ["Offset of field: iommu_ioas_map::__reserved"]
        [::core::mem::offset_of!(iommu_ioas_map, __reserved) - 12usize];
    ["Offset of field: iommu_ioas_map::user_va"]
        [::core::mem::offset_of!(iommu_ioas_map, user_va) - 16usize];
    ["Offset of field: iommu_ioas_map::length"]
        [::core::mem::offset_of!(iommu_ioas_map, length) - 24usize];
    ["Offset of field: iommu_ioas_map::iova"]
        [::core::mem::offset_of!(iommu_ioas_map, iova) - 32usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_ioas_map_file {
    pub size: __u32,
    pub flags: __u32,
    pub ioas_id: __u32,
    pub fd: __s32,
    pub start: __u64,
    pub length: __u64,
    pub iova: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_ioas_map_file"][::core::mem::size_of::<iommu_ioas_map_file>() - 40usize];
    ["Alignment of iommu_ioas_map_file"][::core::mem::align_of::<iommu_ioas_map_file>() - 8usize];
    ["Offset of field: iommu_ioas_map_file::size"]
        [::core::mem::offset_of!(iommu_ioas_map_file, size) - 0usize];
    ["Offset of field: iommu_ioas_map_file::flags"]
        [::core::mem::offset_of!(iommu_ioas_map_file, flags) - 4usize];
    ["Offset of field: iommu_ioas_map_file::ioas_id"]
        [::core::mem::offset_of!(iommu_ioas_map_file, ioas_id) - 8usize];
    ["Offset of field: iommu_ioas_map_file::fd"]
        [::core::mem::offset_of!(iommu_ioas_map_file, fd) - 12usize];
    ["Offset of field: iommu_ioas_map_file::start"]
        [::core::mem::offset_of!(iommu_ioas_map_file, start) - 16usize];
    ["Offset of field: iommu_ioas_map_file::length"]
        [::core::mem::offset_of!(iommu_ioas_map_file, length) - 24usize];
    ["Offset of field: iommu_ioas_map_file::iova"]
        [::core::mem::offset_of!(iommu_ioas_map_file, iova) - 32usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_ioas_copy {
    pub size: __u32,
    pub flags: __u32,
    pub dst_ioas_id: __u32,
    pub src_ioas_id: __u32,
    pub length: __u64,
    pub dst_iova: __u64,
    pub src_iova: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_ioas_copy"][::core::mem::size_of::<iommu_ioas_copy>() - 40usize];
    ["Alignment of iommu_ioas_copy"][::core::mem::align_of::<iommu_ioas_copy>() - 8usize];
    ["Offset of field: iommu_ioas_copy::size"]
        [::core::mem::offset_of!(iommu_ioas_copy, size) - 0usize];
    ["Offset of field: iommu_ioas_copy::flags"]
        [::core::mem::offset_of!(iommu_ioas_copy, flags) - 4usize];
    ["Offset of field: iommu_ioas_copy::dst_ioas_id"]
        [::core::mem::offset_of!(iommu_ioas_copy, dst_ioas_id) - 8usize];
    ["Offset of field: iommu_ioas_copy::src_ioas_id"]
        [::core::mem::offset_of!(iommu_ioas_copy, src_ioas_id) - 12usize];
    ["Offset of field: iommu_ioas_copy::length"]
        [::core::mem::offset_of!(iommu_ioas_copy, length) - 16usize];
    ["Offset of field: iommu_ioas_copy::dst_iova"]
        [::core::mem::offset_of!(iommu_ioas_copy, dst_iova) - 24usize];
    ["Offset of field: iommu_ioas_copy::src_iova"]
        [::core::mem::offset_of!(iommu_ioas_copy, src_iova) - 32usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_ioas_unmap {
    pub size: __u32,
    pub ioas_id: __u32,
    pub iova: __u64,
    pub length: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_ioas_unmap"][::core::mem::size_of::<iommu_ioas_unmap>() - 24usize];
    ["Alignment of iommu_ioas_unmap"][::core::mem::align_of::<iommu_ioas_unmap>() - 8usize];
    ["Offset of field: iommu_ioas_unmap::size"]
        [::core::mem::offset_of!(iommu_ioas_unmap, size) - 0usize];
    ["Offset of field: iommu_ioas_unmap::ioas_id"]
        [::core::mem::offset_of!(iommu_ioas_unmap, ioas_id) - 4usize];
    ["Offset of field: iommu_ioas_unmap::iova"]
        [::core::mem::offset_of!(iommu_ioas_unmap, iova) - 8usize];
    ["Offset of field: iommu_ioas_unmap::length"]
        [::core::mem::offset_of!(iommu_ioas_unmap, length) - 16usize];
};
pub const iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT: iommufd_hwpt_alloc_flags = 1;
pub const iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING: iommufd_hwpt_alloc_flags = 2;
pub const iommufd_hwpt_alloc_flags_IOMMU_HWPT_FAULT_ID_VALID: iommufd_hwpt_alloc_flags = 4;
pub const iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID: iommufd_hwpt_alloc_flags = 8;
pub type iommufd_hwpt_alloc_flags = ::core::ffi::c_uint;
pub const iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_SRE: iommu_hwpt_vtd_s1_flags = 1;
pub const iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_EAFE: iommu_hwpt_vtd_s1_flags = 2;
pub const iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_WPE: iommu_hwpt_vtd_s1_flags = 4;
pub type iommu_hwpt_vtd_s1_flags = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hwpt_vtd_s1 {
    pub flags: __u64,
    pub pgtbl_addr: __u64,
    pub addr_width: __u32,
    pub __reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hwpt_vtd_s1"][::core::mem::size_of::<iommu_hwpt_vtd_s1>() - 24usize];
    ["Alignment of iommu_hwpt_vtd_s1"][::core::mem::align_of::<iommu_hwpt_vtd_s1>() - 8usize];
    ["Offset of field: iommu_hwpt_vtd_s1::flags"]
        [::core::mem::offset_of!(iommu_hwpt_vtd_s1, flags) - 0usize];
    ["Offset of field: iommu_hwpt_vtd_s1::pgtbl_addr"]
        [::core::mem::offset_of!(iommu_hwpt_vtd_s1, pgtbl_addr) - 8usize];
    ["Offset of field: iommu_hwpt_vtd_s1::addr_width"]
        [::core::mem::offset_of!(iommu_hwpt_vtd_s1, addr_width) - 16usize];
    ["Offset of field: iommu_hwpt_vtd_s1::__reserved"]
        [::core::mem::offset_of!(iommu_hwpt_vtd_s1, __reserved) - 20usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hwpt_alloc {
    pub size: __u32,
    pub flags: __u32,
    pub dev_id: __u32,
    pub pt_id: __u32,
    pub out_hwpt_id: __u32,
    pub __reserved: __u32,
    pub data_type: __u32,
    pub data_len: __u32,
    pub data_uptr: __u64,
    pub fault_id: __u32,
    pub __reserved2: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hwpt_alloc"][::core::mem::size_of::<iommu_hwpt_alloc>() - 48usize];
    ["Alignment of iommu_hwpt_alloc"][::core::mem::align_of::<iommu_hwpt_alloc>() - 8usize];
    ["Offset of field: iommu_hwpt_alloc::size"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, size) - 0usize];
    ["Offset of field: iommu_hwpt_alloc::flags"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, flags) - 4usize];
    ["Offset of field: iommu_hwpt_alloc::dev_id"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, dev_id) - 8usize];
    ["Offset of field: iommu_hwpt_alloc::pt_id"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, pt_id) - 12usize];
    ["Offset of field: iommu_hwpt_alloc::out_hwpt_id"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, out_hwpt_id) - 16usize];
    ["Offset of field: iommu_hwpt_alloc::__reserved"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, __reserved) - 20usize];
    ["Offset of field: iommu_hwpt_alloc::data_type"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, data_type) - 24usize];
    ["Offset of field: iommu_hwpt_alloc::data_len"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, data_len) - 28usize];
    ["Offset of field: iommu_hwpt_alloc::data_uptr"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, data_uptr) - 32usize];
    ["Offset of field: iommu_hwpt_alloc::fault_id"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, fault_id) - 40usize];
    ["Offset of field: iommu_hwpt_alloc::__reserved2"]
        [::core::mem::offset_of!(iommu_hwpt_alloc, __reserved2) - 44usize];
};
pub const iommu_hw_info_vtd_flags_IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17: iommu_hw_info_vtd_flags =
    1;
pub type iommu_hw_info_vtd_flags = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hw_info_vtd {
    pub flags: __u32,
    pub __reserved: __u32,
    pub cap_reg: __u64,
    pub ecap_reg: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hw_info_vtd"][::core::mem::size_of::<iommu_hw_info_vtd>() - 24usize];
    ["Alignment of iommu_hw_info_vtd"][::core::mem::align_of::<iommu_hw_info_vtd>() - 8usize];
    ["Offset of field: iommu_hw_info_vtd::flags"]
        [::core::mem::offset_of!(iommu_hw_info_vtd, flags) - 0usize];
    ["Offset of field: iommu_hw_info_vtd::__reserved"]
        [::core::mem::offset_of!(iommu_hw_info_vtd, __reserved) - 4usize];
    ["Offset of field: iommu_hw_info_vtd::cap_reg"]
        [::core::mem::offset_of!(iommu_hw_info_vtd, cap_reg) - 8usize];
    ["Offset of field: iommu_hw_info_vtd::ecap_reg"]
        [::core::mem::offset_of!(iommu_hw_info_vtd, ecap_reg) - 16usize];
};
pub const iommu_hw_info_arm_smmuv3_flags_IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI:
    iommu_hw_info_arm_smmuv3_flags = 1;
pub type iommu_hw_info_arm_smmuv3_flags = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hw_info_arm_smmuv3 {
    pub flags: __u32,
    pub __reserved: __u32,
    pub idr: [__u32; 6usize],
    pub iidr: __u32,
    pub aidr: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hw_info_arm_smmuv3"]
        [::core::mem::size_of::<iommu_hw_info_arm_smmuv3>() - 40usize];
    ["Alignment of iommu_hw_info_arm_smmuv3"]
        [::core::mem::align_of::<iommu_hw_info_arm_smmuv3>() - 4usize];
    ["Offset of field: iommu_hw_info_arm_smmuv3::flags"]
        [::core::mem::offset_of!(iommu_hw_info_arm_smmuv3, flags) - 0usize];
    ["Offset of field: iommu_hw_info_arm_smmuv3::__reserved"]
        [::core::mem::offset_of!(iommu_hw_info_arm_smmuv3, __reserved) - 4usize];
    ["Offset of field: iommu_hw_info_arm_smmuv3::idr"]
        [::core::mem::offset_of!(iommu_hw_info_arm_smmuv3, idr) - 8usize];
    ["Offset of field: iommu_hw_info_arm_smmuv3::iidr"]
        [::core::mem::offset_of!(iommu_hw_info_arm_smmuv3, iidr) - 32usize];
    ["Offset of field: iommu_hw_info_arm_smmuv3::aidr"]
        [::core::mem::offset_of!(iommu_hw_info_arm_smmuv3, aidr) - 36usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hw_info_tegra241_cmdqv {
    pub flags: __u32,
    pub version: __u8,
    pub log2vcmdqs: __u8,
    pub log2vsids: __u8,
    pub __reserved: __u8,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hw_info_tegra241_cmdqv"]
        [::core::mem::size_of::<iommu_hw_info_tegra241_cmdqv>() - 8usize];
    ["Alignment of iommu_hw_info_tegra241_cmdqv"]
        [::core::mem::align_of::<iommu_hw_info_tegra241_cmdqv>() - 4usize];
    ["Offset of field: iommu_hw_info_tegra241_cmdqv::flags"]
        [::core::mem::offset_of!(iommu_hw_info_tegra241_cmdqv, flags) - 0usize];
    ["Offset of field: iommu_hw_info_tegra241_cmdqv::version"]
        [::core::mem::offset_of!(iommu_hw_info_tegra241_cmdqv, version) - 4usize];
    ["Offset of field: iommu_hw_info_tegra241_cmdqv::log2vcmdqs"]
        [::core::mem::offset_of!(iommu_hw_info_tegra241_cmdqv, log2vcmdqs) - 5usize];
    ["Offset of field: iommu_hw_info_tegra241_cmdqv::log2vsids"]
        [::core::mem::offset_of!(iommu_hw_info_tegra241_cmdqv, log2vsids) - 6usize];
    ["Offset of field: iommu_hw_info_tegra241_cmdqv::__reserved"]
        [::core::mem::offset_of!(iommu_hw_info_tegra241_cmdqv, __reserved) - 7usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hw_info_amd {
    pub efr: __u64,
    pub efr2: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hw_info_amd"][::core::mem::size_of::<iommu_hw_info_amd>() - 16usize];
    ["Alignment of iommu_hw_info_amd"][::core::mem::align_of::<iommu_hw_info_amd>() - 8usize];
    ["Offset of field: iommu_hw_info_amd::efr"]
        [::core::mem::offset_of!(iommu_hw_info_amd, efr) - 0usize];
    ["Offset of field: iommu_hw_info_amd::efr2"]
        [::core::mem::offset_of!(iommu_hw_info_amd, efr2) - 8usize];
};
pub const iommu_hw_info_type_IOMMU_HW_INFO_TYPE_NONE: iommu_hw_info_type = 0;
pub const iommu_hw_info_type_IOMMU_HW_INFO_TYPE_DEFAULT: iommu_hw_info_type = 0;
pub const iommu_hw_info_type_IOMMU_HW_INFO_TYPE_INTEL_VTD: iommu_hw_info_type = 1;
pub const iommu_hw_info_type_IOMMU_HW_INFO_TYPE_ARM_SMMUV3: iommu_hw_info_type = 2;
pub const iommu_hw_info_type_IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV: iommu_hw_info_type = 3;
pub const iommu_hw_info_type_IOMMU_HW_INFO_TYPE_AMD: iommu_hw_info_type = 4;
pub type iommu_hw_info_type = ::core::ffi::c_uint;
pub const iommufd_hw_capabilities_IOMMU_HW_CAP_DIRTY_TRACKING: iommufd_hw_capabilities = 1;
pub const iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_PASID_EXEC: iommufd_hw_capabilities = 2;
pub const iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_PASID_PRIV: iommufd_hw_capabilities = 4;
pub const iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED: iommufd_hw_capabilities = 8;
pub type iommufd_hw_capabilities = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Copy, Clone)]
pub struct iommu_hw_info {
    pub size: __u32,
    pub flags: __u32,
    pub dev_id: __u32,
    pub data_len: __u32,
    pub data_uptr: __u64,
    pub __bindgen_anon_1: iommu_hw_info__bindgen_ty_1,
    pub out_max_pasid_log2: __u8,
    pub __reserved: [__u8; 3usize],
    pub out_capabilities: __u64,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union iommu_hw_info__bindgen_ty_1 {
    pub in_data_type: __u32,
    pub out_data_type: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hw_info__bindgen_ty_1"]
        [::core::mem::size_of::<iommu_hw_info__bindgen_ty_1>() - 4usize];
    ["Alignment of iommu_hw_info__bindgen_ty_1"]
        [::core::mem::align_of::<iommu_hw_info__bindgen_ty_1>() - 4usize];
    ["Offset of field: iommu_hw_info__bindgen_ty_1::in_data_type"]
        [::core::mem::offset_of!(iommu_hw_info__bindgen_ty_1, in_data_type) - 0usize];
    ["Offset of field: iommu_hw_info__bindgen_ty_1::out_data_type"]
        [::core::mem::offset_of!(iommu_hw_info__bindgen_ty_1, out_data_type) - 0usize];
};
impl Default for iommu_hw_info__bindgen_ty_1 {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hw_info"][::core::mem::size_of::<iommu_hw_info>() - 40usize];
    ["Alignment of iommu_hw_info"][::core::mem::align_of::<iommu_hw_info>() - 8usize];
    ["Offset of field: iommu_hw_info::size"][::core::mem::offset_of!(iommu_hw_info, size) - 0usize];
    ["Offset of field: iommu_hw_info::flags"]
        [::core::mem::offset_of!(iommu_hw_info, flags) - 4usize];
    ["Offset of field: iommu_hw_info::dev_id"]
        [::core::mem::offset_of!(iommu_hw_info, dev_id) - 8usize];
    ["Offset of field: iommu_hw_info::data_len"]
        [::core::mem::offset_of!(iommu_hw_info, data_len) - 12usize];
    ["Offset of field: iommu_hw_info::data_uptr"]
        [::core::mem::offset_of!(iommu_hw_info, data_uptr) - 16usize];
    ["Offset of field: iommu_hw_info::out_max_pasid_log2"]
        [::core::mem::offset_of!(iommu_hw_info, out_max_pasid_log2) - 28usize];
    ["Offset of field: iommu_hw_info::__reserved"]
        [::core::mem::offset_of!(iommu_hw_info, __reserved) - 29usize];
    ["Offset of field: iommu_hw_info::out_capabilities"]
        [::core::mem::offset_of!(iommu_hw_info, out_capabilities) - 32usize];
};
impl Default for iommu_hw_info {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
pub const iommufd_hwpt_set_dirty_tracking_flags_IOMMU_HWPT_DIRTY_TRACKING_ENABLE:
    iommufd_hwpt_set_dirty_tracking_flags = 1;
pub type iommufd_hwpt_set_dirty_tracking_flags = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hwpt_set_dirty_tracking {
    pub size: __u32,
    pub flags: __u32,
    pub hwpt_id: __u32,
    pub __reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hwpt_set_dirty_tracking"]
        [::core::mem::size_of::<iommu_hwpt_set_dirty_tracking>() - 16usize];
    ["Alignment of iommu_hwpt_set_dirty_tracking"]
        [::core::mem::align_of::<iommu_hwpt_set_dirty_tracking>() - 4usize];
    ["Offset of field: iommu_hwpt_set_dirty_tracking::size"]
        [::core::mem::offset_of!(iommu_hwpt_set_dirty_tracking, size) - 0usize];
    ["Offset of field: iommu_hwpt_set_dirty_tracking::flags"]
        [::core::mem::offset_of!(iommu_hwpt_set_dirty_tracking, flags) - 4usize];
    ["Offset of field: iommu_hwpt_set_dirty_tracking::hwpt_id"]
        [::core::mem::offset_of!(iommu_hwpt_set_dirty_tracking, hwpt_id) - 8usize];
    ["Offset of field: iommu_hwpt_set_dirty_tracking::__reserved"]
        [::core::mem::offset_of!(iommu_hwpt_set_dirty_tracking, __reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hwpt_get_dirty_bitmap {
    pub size: __u32,
    pub hwpt_id: __u32,
    pub flags: __u32,
    pub __reserved: __u32,
    pub iova: __u64,
    pub length: __u64,
    pub page_size: __u64,
    pub data: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hwpt_get_dirty_bitmap"]
        [::core::mem::size_of::<iommu_hwpt_get_dirty_bitmap>() - 48usize];
    ["Alignment of iommu_hwpt_get_dirty_bitmap"]
        [::core::mem::align_of::<iommu_hwpt_get_dirty_bitmap>() - 8usize];
    ["Offset of field: iommu_hwpt_get_dirty_bitmap::size"]
        [::core::mem::offset_of!(iommu_hwpt_get_dirty_bitmap, size) - 0usize];
    ["Offset of field: iommu_hwpt_get_dirty_bitmap::hwpt_id"]
        [::core::mem::offset_of!(iommu_hwpt_get_dirty_bitmap, hwpt_id) - 4usize];
    ["Offset of field: iommu_hwpt_get_dirty_bitmap::flags"]
        [::core::mem::offset_of!(iommu_hwpt_get_dirty_bitmap, flags) - 8usize];
    ["Offset of field: iommu_hwpt_get_dirty_bitmap::__reserved"]
        [::core::mem::offset_of!(iommu_hwpt_get_dirty_bitmap, __reserved) - 12usize];
    ["Offset of field: iommu_hwpt_get_dirty_bitmap::iova"]
        [::core::mem::offset_of!(iommu_hwpt_get_dirty_bitmap, iova) - 16usize];
    ["Offset of field: iommu_hwpt_get_dirty_bitmap::length"]
        [::core::mem::offset_of!(iommu_hwpt_get_dirty_bitmap, length) - 24usize];
    ["Offset of field: iommu_hwpt_get_dirty_bitmap::page_size"]
        [::core::mem::offset_of!(iommu_hwpt_get_dirty_bitmap, page_size) - 32usize];
    ["Offset of field: iommu_hwpt_get_dirty_bitmap::data"]
        [::core::mem::offset_of!(iommu_hwpt_get_dirty_bitmap, data) - 40usize];
};
pub const iommu_hwpt_vtd_s1_invalidate_flags_IOMMU_VTD_INV_FLAGS_LEAF:
    iommu_hwpt_vtd_s1_invalidate_flags = 1;
pub type iommu_hwpt_vtd_s1_invalidate_flags = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hwpt_vtd_s1_invalidate {
    pub addr: __u64,
    pub npages: __u64,
    pub flags: __u32,
    pub __reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hwpt_vtd_s1_invalidate"]
        [::core::mem::size_of::<iommu_hwpt_vtd_s1_invalidate>() - 24usize];
    ["Alignment of iommu_hwpt_vtd_s1_invalidate"]
        [::core::mem::align_of::<iommu_hwpt_vtd_s1_invalidate>() - 8usize];
    ["Offset of field: iommu_hwpt_vtd_s1_invalidate::addr"]
        [::core::mem::offset_of!(iommu_hwpt_vtd_s1_invalidate, addr) - 0usize];
    ["Offset of field: iommu_hwpt_vtd_s1_invalidate::npages"]
        [::core::mem::offset_of!(iommu_hwpt_vtd_s1_invalidate, npages) - 8usize];
    ["Offset of field: iommu_hwpt_vtd_s1_invalidate::flags"]
        [::core::mem::offset_of!(iommu_hwpt_vtd_s1_invalidate, flags) - 16usize];
    ["Offset of field: iommu_hwpt_vtd_s1_invalidate::__reserved"]
        [::core::mem::offset_of!(iommu_hwpt_vtd_s1_invalidate, __reserved) - 20usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hwpt_invalidate {
    pub size: __u32,
    pub hwpt_id: __u32,
    pub data_uptr: __u64,
    pub data_type: __u32,
    pub entry_len: __u32,
    pub entry_num: __u32,
    pub __reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hwpt_invalidate"][::core::mem::size_of::<iommu_hwpt_invalidate>() - 32usize];
    ["Alignment of iommu_hwpt_invalidate"]
        [::core::mem::align_of::<iommu_hwpt_invalidate>() - 8usize];
    ["Offset of field: iommu_hwpt_invalidate::size"]
        [::core::mem::offset_of!(iommu_hwpt_invalidate, size) - 0usize];
    ["Offset of field: iommu_hwpt_invalidate::hwpt_id"]
        [::core::mem::offset_of!(iommu_hwpt_invalidate, hwpt_id) - 4usize];
    ["Offset of field: iommu_hwpt_invalidate::data_uptr"]
        [::core::mem::offset_of!(iommu_hwpt_invalidate, data_uptr) - 8usize];
    ["Offset of field: iommu_hwpt_invalidate::data_type"]
        [::core::mem::offset_of!(iommu_hwpt_invalidate, data_type) - 16usize];
    ["Offset of field: iommu_hwpt_invalidate::entry_len"]
        [::core::mem::offset_of!(iommu_hwpt_invalidate, entry_len) - 20usize];
    ["Offset of field: iommu_hwpt_invalidate::entry_num"]
        [::core::mem::offset_of!(iommu_hwpt_invalidate, entry_num) - 24usize];
    ["Offset of field: iommu_hwpt_invalidate::__reserved"]
        [::core::mem::offset_of!(iommu_hwpt_invalidate, __reserved) - 28usize];
};
pub const iommu_hwpt_pgfault_flags_IOMMU_PGFAULT_FLAGS_PASID_VALID: iommu_hwpt_pgfault_flags = 1;
pub const iommu_hwpt_pgfault_flags_IOMMU_PGFAULT_FLAGS_LAST_PAGE: iommu_hwpt_pgfault_flags = 2;
pub type iommu_hwpt_pgfault_flags = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hwpt_pgfault {
    pub flags: __u32,
    pub dev_id: __u32,
    pub pasid: __u32,
    pub grpid: __u32,
    pub perm: __u32,
    pub __reserved: __u32,
    pub addr: __u64,
    pub length: __u32,
    pub cookie: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hwpt_pgfault"][::core::mem::size_of::<iommu_hwpt_pgfault>() - 40usize];
    ["Alignment of iommu_hwpt_pgfault"][::core::mem::align_of::<iommu_hwpt_pgfault>() - 8usize];
    ["Offset of field: iommu_hwpt_pgfault::flags"]
        [::core::mem::offset_of!(iommu_hwpt_pgfault, flags) - 0usize];
    ["Offset of field: iommu_hwpt_pgfault::dev_id"]
        [::core::mem::offset_of!(iommu_hwpt_pgfault, dev_id) - 4usize];
    ["Offset of field: iommu_hwpt_pgfault::pasid"]
        [::core::mem::offset_of!(iommu_hwpt_pgfault, pasid) - 8usize];
    ["Offset of field: iommu_hwpt_pgfault::grpid"]
        [::core::mem::offset_of!(iommu_hwpt_pgfault, grpid) - 12usize];
    ["Offset of field: iommu_hwpt_pgfault::perm"]
        [::core::mem::offset_of!(iommu_hwpt_pgfault, perm) - 16usize];
    ["Offset of field: iommu_hwpt_pgfault::__reserved"]
        [::core::mem::offset_of!(iommu_hwpt_pgfault, __reserved) - 20usize];
    ["Offset of field: iommu_hwpt_pgfault::addr"]
        [::core::mem::offset_of!(iommu_hwpt_pgfault, addr) - 24usize];
    ["Offset of field: iommu_hwpt_pgfault::length"]
        [::core::mem::offset_of!(iommu_hwpt_pgfault, length) - 32usize];
    ["Offset of field: iommu_hwpt_pgfault::cookie"]
        [::core::mem::offset_of!(iommu_hwpt_pgfault, cookie) - 36usize];
};
pub const iommufd_page_response_code_IOMMUFD_PAGE_RESP_SUCCESS: iommufd_page_response_code = 0;
pub const iommufd_page_response_code_IOMMUFD_PAGE_RESP_INVALID: iommufd_page_response_code = 1;
pub type iommufd_page_response_code = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_hwpt_page_response {
    pub cookie: __u32,
    pub code: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_hwpt_page_response"]
        [::core::mem::size_of::<iommu_hwpt_page_response>() - 8usize];
    ["Alignment of iommu_hwpt_page_response"]
        [::core::mem::align_of::<iommu_hwpt_page_response>() - 4usize];
    ["Offset of field: iommu_hwpt_page_response::cookie"]
        [::core::mem::offset_of!(iommu_hwpt_page_response, cookie) - 0usize];
    ["Offset of field: iommu_hwpt_page_response::code"]
        [::core::mem::offset_of!(iommu_hwpt_page_response, code) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct iommu_fault_alloc {
    pub size: __u32,
    pub flags: __u32,
    pub out_fault_id: __u32,
    pub out_fault_fd: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of iommu_fault_alloc"][::core::mem::size_of::<iommu_fault_alloc>() - 16usize];
    ["Alignment of iommu_fault_alloc"][::core::mem::align_of::<iommu_fault_alloc>() - 4usize];
    ["Offset of field: iommu_fault_alloc::size"]
        [::core::mem::offset_of!(iommu_fault_alloc, size) - 0usize];
    ["Offset of field: iommu_fault_alloc::flags"]
        [::core::mem::offset_of!(iommu_fault_alloc, flags) - 4usize];
    ["Offset of field: iommu_fault_alloc::out_fault_id"]
        [::core::mem::offset_of!(iommu_fault_alloc, out_fault_id) - 8usize];
    ["Offset of field: iommu_fault_alloc::out_fault_fd"]
        [::core::mem::offset_of!(iommu_fault_alloc, out_fault_fd) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_info_cap_header {
    pub id: __u16,
    pub version: __u16,
    pub next: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_info_cap_header"][::core::mem::size_of::<vfio_info_cap_header>() - 8usize];
    ["Alignment of vfio_info_cap_header"][::core::mem::align_of::<vfio_info_cap_header>() - 4usize];
    ["Offset of field: vfio_info_cap_header::id"]
        [::core::mem::offset_of!(vfio_info_cap_header, id) - 0usize];
    ["Offset of field: vfio_info_cap_header::version"]
        [::core::mem::offset_of!(vfio_info_cap_header, version) - 2usize];
    ["Offset of field: vfio_info_cap_header::next"]
        [::core::mem::offset_of!(vfio_info_cap_header, next) - 4usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_device_bind_iommufd {
    pub argsz: __u32,
    pub flags: __u32,
    pub iommufd: __s32,
    pub out_devid: __u32,
    pub token_uuid_ptr: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_device_bind_iommufd"]
        [::core::mem::size_of::<vfio_device_bind_iommufd>() - 24usize];
    ["Alignment of vfio_device_bind_iommufd"]
        [::core::mem::align_of::<vfio_device_bind_iommufd>() - 8usize];
    ["Offset of field: vfio_device_bind_iommufd::argsz"]
        [::core::mem::offset_of!(vfio_device_bind_iommufd, argsz) - 0usize];
    ["Offset of field: vfio_device_bind_iommufd::flags"]
        [::core::mem::offset_of!(vfio_device_bind_iommufd, flags) - 4usize];
    ["Offset of field: vfio_device_bind_iommufd::iommufd"]
        [::core::mem::offset_of!(vfio_device_bind_iommufd, iommufd) - 8usize];
    ["Offset of field: vfio_device_bind_iommufd::out_devid"]
        [::core::mem::offset_of!(vfio_device_bind_iommufd, out_devid) - 12usize];
    ["Offset of field: vfio_device_bind_iommufd::token_uuid_ptr"]
        [::core::mem::offset_of!(vfio_device_bind_iommufd, token_uuid_ptr) - 16usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_device_attach_iommufd_pt {
    pub argsz: __u32,
    pub flags: __u32,
    pub pt_id: __u32,
    pub pasid: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_device_attach_iommufd_pt"]
        [::core::mem::size_of::<vfio_device_attach_iommufd_pt>() - 16usize];
    ["Alignment of vfio_device_attach_iommufd_pt"]
        [::core::mem::align_of::<vfio_device_attach_iommufd_pt>() - 4usize];
    ["Offset of field: vfio_device_attach_iommufd_pt::argsz"]
        [::core::mem::offset_of!(vfio_device_attach_iommufd_pt, argsz) - 0usize];
    ["Offset of field: vfio_device_attach_iommufd_pt::flags"]
        [::core::mem::offset_of!(vfio_device_attach_iommufd_pt, flags) - 4usize];
    ["Offset of field: vfio_device_attach_iommufd_pt::pt_id"]
        [::core::mem::offset_of!(vfio_device_attach_iommufd_pt, pt_id) - 8usize];
    ["Offset of field: vfio_device_attach_iommufd_pt::pasid"]
        [::core::mem::offset_of!(vfio_device_attach_iommufd_pt, pasid) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_device_detach_iommufd_pt {
    pub argsz: __u32,
    pub flags: __u32,
    pub pasid: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_device_detach_iommufd_pt"]
        [::core::mem::size_of::<vfio_device_detach_iommufd_pt>() - 12usize];
    ["Alignment of vfio_device_detach_iommufd_pt"]
        [::core::mem::align_of::<vfio_device_detach_iommufd_pt>() - 4usize];
    ["Offset of field: vfio_device_detach_iommufd_pt::argsz"]
        [::core::mem::offset_of!(vfio_device_detach_iommufd_pt, argsz) - 0usize];
    ["Offset of field: vfio_device_detach_iommufd_pt::flags"]
        [::core::mem::offset_of!(vfio_device_detach_iommufd_pt, flags) - 4usize];
    ["Offset of field: vfio_device_detach_iommufd_pt::pasid"]
        [::core::mem::offset_of!(vfio_device_detach_iommufd_pt, pasid) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_iommu_type1_info {
    pub argsz: __u32,
    pub flags: __u32,
    pub iova_pgsizes: __u64,
    pub cap_offset: __u32,
    pub pad: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_iommu_type1_info"][::core::mem::size_of::<vfio_iommu_type1_info>() - 24usize];
    ["Alignment of vfio_iommu_type1_info"]
        [::core::mem::align_of::<vfio_iommu_type1_info>() - 8usize];
    ["Offset of field: vfio_iommu_type1_info::argsz"]
        [::core::mem::offset_of!(vfio_iommu_type1_info, argsz) - 0usize];
    ["Offset of field: vfio_iommu_type1_info::flags"]
        [::core::mem::offset_of!(vfio_iommu_type1_info, flags) - 4usize];
    ["Offset of field: vfio_iommu_type1_info::iova_pgsizes"]
        [::core::mem::offset_of!(vfio_iommu_type1_info, iova_pgsizes) - 8usize];
    ["Offset of field: vfio_iommu_type1_info::cap_offset"]
        [::core::mem::offset_of!(vfio_iommu_type1_info, cap_offset) - 16usize];
    ["Offset of field: vfio_iommu_type1_info::pad"]
        [::core::mem::offset_of!(vfio_iommu_type1_info, pad) - 20usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_iova_range {
    pub start: __u64,
    pub end: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_iova_range"][::core::mem::size_of::<vfio_iova_range>() - 16usize];
    ["Alignment of vfio_iova_range"][::core::mem::align_of::<vfio_iova_range>() - 8usize];
    ["Offset of field: vfio_iova_range::start"]
        [::core::mem::offset_of!(vfio_iova_range, start) - 0usize];
    ["Offset of field: vfio_iova_range::end"]
        [::core::mem::offset_of!(vfio_iova_range, end) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default)]
pub struct vfio_iommu_type1_info_cap_iova_range {
    pub header: vfio_info_cap_header,
    pub nr_iovas: __u32,
    pub reserved: __u32,
    pub iova_ranges: __IncompleteArrayField<vfio_iova_range>,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_iommu_type1_info_cap_iova_range"]
        [::core::mem::size_of::<vfio_iommu_type1_info_cap_iova_range>() - 16usize];
    ["Alignment of vfio_iommu_type1_info_cap_iova_range"]
        [::core::mem::align_of::<vfio_iommu_type1_info_cap_iova_range>() - 8usize];
    ["Offset of field: vfio_iommu_type1_info_cap_iova_range::header"]
        [::core::mem::offset_of!(vfio_iommu_type1_info_cap_iova_range, header) - 0usize];
    ["Offset of field: vfio_iommu_type1_info_cap_iova_range::nr_iovas"]
        [::core::mem::offset_of!(vfio_iommu_type1_info_cap_iova_range, nr_iovas) - 8usize];
    ["Offset of field: vfio_iommu_type1_info_cap_iova_range::reserved"]
        [::core::mem::offset_of!(vfio_iommu_type1_info_cap_iova_range, reserved) - 12usize];
    ["Offset of field: vfio_iommu_type1_info_cap_iova_range::iova_ranges"]
        [::core::mem::offset_of!(vfio_iommu_type1_info_cap_iova_range, iova_ranges) - 16usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_iommu_type1_info_cap_migration {
    pub header: vfio_info_cap_header,
    pub flags: __u32,
    pub pgsize_bitmap: __u64,
    pub max_dirty_bitmap_size: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_iommu_type1_info_cap_migration"]
        [::core::mem::size_of::<vfio_iommu_type1_info_cap_migration>() - 32usize];
    ["Alignment of vfio_iommu_type1_info_cap_migration"]
        [::core::mem::align_of::<vfio_iommu_type1_info_cap_migration>() - 8usize];
    ["Offset of field: vfio_iommu_type1_info_cap_migration::header"]
        [::core::mem::offset_of!(vfio_iommu_type1_info_cap_migration, header) - 0usize];
    ["Offset of field: vfio_iommu_type1_info_cap_migration::flags"]
        [::core::mem::offset_of!(vfio_iommu_type1_info_cap_migration, flags) - 8usize];
    ["Offset of field: vfio_iommu_type1_info_cap_migration::pgsize_bitmap"]
        [::core::mem::offset_of!(vfio_iommu_type1_info_cap_migration, pgsize_bitmap) - 16usize];
    ["Offset of field: vfio_iommu_type1_info_cap_migration::max_dirty_bitmap_size"][::core::mem::offset_of!(
        vfio_iommu_type1_info_cap_migration,
        max_dirty_bitmap_size
    ) - 24usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_iommu_type1_info_dma_avail {
    pub header: vfio_info_cap_header,
    pub avail: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_iommu_type1_info_dma_avail"]
        [::core::mem::size_of::<vfio_iommu_type1_info_dma_avail>() - 12usize];
    ["Alignment of vfio_iommu_type1_info_dma_avail"]
        [::core::mem::align_of::<vfio_iommu_type1_info_dma_avail>() - 4usize];
    ["Offset of field: vfio_iommu_type1_info_dma_avail::header"]
        [::core::mem::offset_of!(vfio_iommu_type1_info_dma_avail, header) - 0usize];
    ["Offset of field: vfio_iommu_type1_info_dma_avail::avail"]
        [::core::mem::offset_of!(vfio_iommu_type1_info_dma_avail, avail) - 8usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_iommu_type1_dma_map {
    pub argsz: __u32,
    pub flags: __u32,
    pub vaddr: __u64,
    pub iova: __u64,
    pub size: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_iommu_type1_dma_map"]
        [::core::mem::size_of::<vfio_iommu_type1_dma_map>() - 32usize];
    ["Alignment of vfio_iommu_type1_dma_map"]
        [::core::mem::align_of::<vfio_iommu_type1_dma_map>() - 8usize];
    ["Offset of field: vfio_iommu_type1_dma_map::argsz"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_map, argsz) - 0usize];
    ["Offset of field: vfio_iommu_type1_dma_map::flags"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_map, flags) - 4usize];
    ["Offset of field: vfio_iommu_type1_dma_map::vaddr"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_map, vaddr) - 8usize];
    ["Offset of field: vfio_iommu_type1_dma_map::iova"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_map, iova) - 16usize];
    ["Offset of field: vfio_iommu_type1_dma_map::size"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_map, size) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct vfio_bitmap {
    pub pgsize: __u64,
    pub size: __u64,
    pub data: *mut __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_bitmap"][::core::mem::size_of::<vfio_bitmap>() - 24usize];
    ["Alignment of vfio_bitmap"][::core::mem::align_of::<vfio_bitmap>() - 8usize];
    ["Offset of field: vfio_bitmap::pgsize"][::core::mem::offset_of!(vfio_bitmap, pgsize) - 0usize];
    ["Offset of field: vfio_bitmap::size"][::core::mem::offset_of!(vfio_bitmap, size) - 8usize];
    ["Offset of field: vfio_bitmap::data"][::core::mem::offset_of!(vfio_bitmap, data) - 16usize];
};
impl Default for vfio_bitmap {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default)]
pub struct vfio_iommu_type1_dma_unmap {
    pub argsz: __u32,
    pub flags: __u32,
    pub iova: __u64,
    pub size: __u64,
    pub data: __IncompleteArrayField<__u8>,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_iommu_type1_dma_unmap"]
        [::core::mem::size_of::<vfio_iommu_type1_dma_unmap>() - 24usize];
    ["Alignment of vfio_iommu_type1_dma_unmap"]
        [::core::mem::align_of::<vfio_iommu_type1_dma_unmap>() - 8usize];
    ["Offset of field: vfio_iommu_type1_dma_unmap::argsz"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_unmap, argsz) - 0usize];
    ["Offset of field: vfio_iommu_type1_dma_unmap::flags"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_unmap, flags) - 4usize];
    ["Offset of field: vfio_iommu_type1_dma_unmap::iova"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_unmap, iova) - 8usize];
    ["Offset of field: vfio_iommu_type1_dma_unmap::size"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_unmap, size) - 16usize];
    ["Offset of field: vfio_iommu_type1_dma_unmap::data"]
        [::core::mem::offset_of!(vfio_iommu_type1_dma_unmap, data) - 24usize];
};
#[repr(C)]
#[derive(Debug, Default)]
pub struct vfio_iommu_type1_dirty_bitmap {
    pub argsz: __u32,
    pub flags: __u32,
    pub data: __IncompleteArrayField<__u8>,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_iommu_type1_dirty_bitmap"]
        [::core::mem::size_of::<vfio_iommu_type1_dirty_bitmap>() - 8usize];
    ["Alignment of vfio_iommu_type1_dirty_bitmap"]
        [::core::mem::align_of::<vfio_iommu_type1_dirty_bitmap>() - 4usize];
    ["Offset of field: vfio_iommu_type1_dirty_bitmap::argsz"]
        [::core::mem::offset_of!(vfio_iommu_type1_dirty_bitmap, argsz) - 0usize];
    ["Offset of field: vfio_iommu_type1_dirty_bitmap::flags"]
        [::core::mem::offset_of!(vfio_iommu_type1_dirty_bitmap, flags) - 4usize];
    ["Offset of field: vfio_iommu_type1_dirty_bitmap::data"]
        [::core::mem::offset_of!(vfio_iommu_type1_dirty_bitmap, data) - 8usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct vfio_iommu_type1_dirty_bitmap_get {
    pub iova: __u64,
    pub size: __u64,
    pub bitmap: vfio_bitmap,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_iommu_type1_dirty_bitmap_get"]
        [::core::mem::size_of::<vfio_iommu_type1_dirty_bitmap_get>() - 40usize];
    ["Alignment of vfio_iommu_type1_dirty_bitmap_get"]
        [::core::mem::align_of::<vfio_iommu_type1_dirty_bitmap_get>() - 8usize];
    ["Offset of field: vfio_iommu_type1_dirty_bitmap_get::iova"]
        [::core::mem::offset_of!(vfio_iommu_type1_dirty_bitmap_get, iova) - 0usize];
    ["Offset of field: vfio_iommu_type1_dirty_bitmap_get::size"]
        [::core::mem::offset_of!(vfio_iommu_type1_dirty_bitmap_get, size) - 8usize];
    ["Offset of field: vfio_iommu_type1_dirty_bitmap_get::bitmap"]
        [::core::mem::offset_of!(vfio_iommu_type1_dirty_bitmap_get, bitmap) - 16usize];
};
impl Default for vfio_iommu_type1_dirty_bitmap_get {
    fn default() -> Self {
        let mut s = ::core::mem::MaybeUninit::<Self>::uninit();
        unsafe {
            ::core::ptr::write_bytes(s.as_mut_ptr(), 0, 1);
            s.assume_init()
        }
    }
}
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_device {
    pub segment: __u16,
    pub bus: __u8,
    pub devfn: __u8,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_device"][::core::mem::size_of::<vfio_ioasid_device>() - 4usize];
    ["Alignment of vfio_ioasid_device"][::core::mem::align_of::<vfio_ioasid_device>() - 2usize];
    ["Offset of field: vfio_ioasid_device::segment"]
        [::core::mem::offset_of!(vfio_ioasid_device, segment) - 0usize];
    ["Offset of field: vfio_ioasid_device::bus"]
        [::core::mem::offset_of!(vfio_ioasid_device, bus) - 2usize];
    ["Offset of field: vfio_ioasid_device::devfn"]
        [::core::mem::offset_of!(vfio_ioasid_device, devfn) - 3usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_cap_nesting {
    pub header: vfio_info_cap_header,
    pub flags: __u32,
    pub reason: __u16,
    pub prq_reason: __u16,
    pub dma_fault_reason: __u16,
    pub dirty_reason: __u16,
    pub pasid_bits: __u32,
    pub data_types: __u64,
    pub addr_width: __u32,
    pub max_pasids: __u32,
    pub max_bindings: __u32,
    pub max_fault_queues: __u32,
    pub max_address_spaces: __u32,
    pub max_as_entries: __u32,
    pub vtd_cap: __u64,
    pub vtd_ecap: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_cap_nesting"]
        [::core::mem::size_of::<vfio_ioasid_cap_nesting>() - 72usize];
    ["Alignment of vfio_ioasid_cap_nesting"]
        [::core::mem::align_of::<vfio_ioasid_cap_nesting>() - 8usize];
    ["Offset of field: vfio_ioasid_cap_nesting::header"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, header) - 0usize];
    ["Offset of field: vfio_ioasid_cap_nesting::flags"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, flags) - 8usize];
    ["Offset of field: vfio_ioasid_cap_nesting::reason"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, reason) - 12usize];
    ["Offset of field: vfio_ioasid_cap_nesting::prq_reason"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, prq_reason) - 14usize];
    ["Offset of field: vfio_ioasid_cap_nesting::dma_fault_reason"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, dma_fault_reason) - 16usize];
    ["Offset of field: vfio_ioasid_cap_nesting::dirty_reason"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, dirty_reason) - 18usize];
    ["Offset of field: vfio_ioasid_cap_nesting::pasid_bits"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, pasid_bits) - 20usize];
    ["Offset of field: vfio_ioasid_cap_nesting::data_types"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, data_types) - 24usize];
    ["Offset of field: vfio_ioasid_cap_nesting::addr_width"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, addr_width) - 32usize];
    ["Offset of field: vfio_ioasid_cap_nesting::max_pasids"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, max_pasids) - 36usize];
    ["Offset of field: vfio_ioasid_cap_nesting::max_bindings"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, max_bindings) - 40usize];
    ["Offset of field: vfio_ioasid_cap_nesting::max_fault_queues"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, max_fault_queues) - 44usize];
    ["Offset of field: vfio_ioasid_cap_nesting::max_address_spaces"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, max_address_spaces) - 48usize];
    ["Offset of field: vfio_ioasid_cap_nesting::max_as_entries"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, max_as_entries) - 52usize];
    ["Offset of field: vfio_ioasid_cap_nesting::vtd_cap"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, vtd_cap) - 56usize];
    ["Offset of field: vfio_ioasid_cap_nesting::vtd_ecap"]
        [::core::mem::offset_of!(vfio_ioasid_cap_nesting, vtd_ecap) - 64usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_pasid_alloc {
    pub argsz: __u32,
    pub flags: __u32,
    pub min: __u32,
    pub max: __u32,
    pub count: __u32,
    pub pasid: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_pasid_alloc"]
        [::core::mem::size_of::<vfio_ioasid_pasid_alloc>() - 24usize];
    ["Alignment of vfio_ioasid_pasid_alloc"]
        [::core::mem::align_of::<vfio_ioasid_pasid_alloc>() - 4usize];
    ["Offset of field: vfio_ioasid_pasid_alloc::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_alloc, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_pasid_alloc::flags"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_alloc, flags) - 4usize];
    ["Offset of field: vfio_ioasid_pasid_alloc::min"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_alloc, min) - 8usize];
    ["Offset of field: vfio_ioasid_pasid_alloc::max"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_alloc, max) - 12usize];
    ["Offset of field: vfio_ioasid_pasid_alloc::count"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_alloc, count) - 16usize];
    ["Offset of field: vfio_ioasid_pasid_alloc::pasid"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_alloc, pasid) - 20usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_pasid_free {
    pub argsz: __u32,
    pub flags: __u32,
    pub pasid: __u32,
    pub count: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_pasid_free"][::core::mem::size_of::<vfio_ioasid_pasid_free>() - 16usize];
    ["Alignment of vfio_ioasid_pasid_free"]
        [::core::mem::align_of::<vfio_ioasid_pasid_free>() - 4usize];
    ["Offset of field: vfio_ioasid_pasid_free::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_free, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_pasid_free::flags"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_free, flags) - 4usize];
    ["Offset of field: vfio_ioasid_pasid_free::pasid"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_free, pasid) - 8usize];
    ["Offset of field: vfio_ioasid_pasid_free::count"]
        [::core::mem::offset_of!(vfio_ioasid_pasid_free, count) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_bind {
    pub argsz: __u32,
    pub flags: __u32,
    pub device: vfio_ioasid_device,
    pub pasid: __u32,
    pub data_type: __u32,
    pub data_len: __u32,
    pub data_uptr: __u64,
    pub guest_pasid: __u32,
    pub fault_fd: __s32,
    pub cookie: __u64,
    pub as_id: __u32,
    pub outcome: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_bind"][::core::mem::size_of::<vfio_ioasid_bind>() - 56usize];
    ["Alignment of vfio_ioasid_bind"][::core::mem::align_of::<vfio_ioasid_bind>() - 8usize];
    ["Offset of field: vfio_ioasid_bind::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_bind, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_bind::flags"]
        [::core::mem::offset_of!(vfio_ioasid_bind, flags) - 4usize];
    ["Offset of field: vfio_ioasid_bind::device"]
        [::core::mem::offset_of!(vfio_ioasid_bind, device) - 8usize];
    ["Offset of field: vfio_ioasid_bind::pasid"]
        [::core::mem::offset_of!(vfio_ioasid_bind, pasid) - 12usize];
    ["Offset of field: vfio_ioasid_bind::data_type"]
        [::core::mem::offset_of!(vfio_ioasid_bind, data_type) - 16usize];
    ["Offset of field: vfio_ioasid_bind::data_len"]
        [::core::mem::offset_of!(vfio_ioasid_bind, data_len) - 20usize];
    ["Offset of field: vfio_ioasid_bind::data_uptr"]
        [::core::mem::offset_of!(vfio_ioasid_bind, data_uptr) - 24usize];
    ["Offset of field: vfio_ioasid_bind::guest_pasid"]
        [::core::mem::offset_of!(vfio_ioasid_bind, guest_pasid) - 32usize];
    ["Offset of field: vfio_ioasid_bind::fault_fd"]
        [::core::mem::offset_of!(vfio_ioasid_bind, fault_fd) - 36usize];
    ["Offset of field: vfio_ioasid_bind::cookie"]
        [::core::mem::offset_of!(vfio_ioasid_bind, cookie) - 40usize];
    ["Offset of field: vfio_ioasid_bind::as_id"]
        [::core::mem::offset_of!(vfio_ioasid_bind, as_id) - 48usize];
    ["Offset of field: vfio_ioasid_bind::outcome"]
        [::core::mem::offset_of!(vfio_ioasid_bind, outcome) - 52usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_unbind {
    pub argsz: __u32,
    pub flags: __u32,
    pub device: vfio_ioasid_device,
    pub pasid: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_unbind"][::core::mem::size_of::<vfio_ioasid_unbind>() - 16usize];
    ["Alignment of vfio_ioasid_unbind"][::core::mem::align_of::<vfio_ioasid_unbind>() - 4usize];
    ["Offset of field: vfio_ioasid_unbind::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_unbind, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_unbind::flags"]
        [::core::mem::offset_of!(vfio_ioasid_unbind, flags) - 4usize];
    ["Offset of field: vfio_ioasid_unbind::device"]
        [::core::mem::offset_of!(vfio_ioasid_unbind, device) - 8usize];
    ["Offset of field: vfio_ioasid_unbind::pasid"]
        [::core::mem::offset_of!(vfio_ioasid_unbind, pasid) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_invalidate {
    pub argsz: __u32,
    pub flags: __u32,
    pub device: vfio_ioasid_device,
    pub pasid: __u32,
    pub data_type: __u32,
    pub entry_len: __u32,
    pub entry_num: __u32,
    pub bad_index: __u32,
    pub entries_uptr: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_invalidate"][::core::mem::size_of::<vfio_ioasid_invalidate>() - 40usize];
    ["Alignment of vfio_ioasid_invalidate"]
        [::core::mem::align_of::<vfio_ioasid_invalidate>() - 8usize];
    ["Offset of field: vfio_ioasid_invalidate::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_invalidate, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_invalidate::flags"]
        [::core::mem::offset_of!(vfio_ioasid_invalidate, flags) - 4usize];
    ["Offset of field: vfio_ioasid_invalidate::device"]
        [::core::mem::offset_of!(vfio_ioasid_invalidate, device) - 8usize];
    ["Offset of field: vfio_ioasid_invalidate::pasid"]
        [::core::mem::offset_of!(vfio_ioasid_invalidate, pasid) - 12usize];
    ["Offset of field: vfio_ioasid_invalidate::data_type"]
        [::core::mem::offset_of!(vfio_ioasid_invalidate, data_type) - 16usize];
    ["Offset of field: vfio_ioasid_invalidate::entry_len"]
        [::core::mem::offset_of!(vfio_ioasid_invalidate, entry_len) - 20usize];
    ["Offset of field: vfio_ioasid_invalidate::entry_num"]
        [::core::mem::offset_of!(vfio_ioasid_invalidate, entry_num) - 24usize];
    ["Offset of field: vfio_ioasid_invalidate::bad_index"]
        [::core::mem::offset_of!(vfio_ioasid_invalidate, bad_index) - 28usize];
    ["Offset of field: vfio_ioasid_invalidate::entries_uptr"]
        [::core::mem::offset_of!(vfio_ioasid_invalidate, entries_uptr) - 32usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_fault_queue {
    pub argsz: __u32,
    pub flags: __u32,
    pub depth: __u32,
    pub fd: __s32,
    pub deadline_ms: __u32,
    pub __reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_fault_queue"]
        [::core::mem::size_of::<vfio_ioasid_fault_queue>() - 24usize];
    ["Alignment of vfio_ioasid_fault_queue"]
        [::core::mem::align_of::<vfio_ioasid_fault_queue>() - 4usize];
    ["Offset of field: vfio_ioasid_fault_queue::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_fault_queue, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_fault_queue::flags"]
        [::core::mem::offset_of!(vfio_ioasid_fault_queue, flags) - 4usize];
    ["Offset of field: vfio_ioasid_fault_queue::depth"]
        [::core::mem::offset_of!(vfio_ioasid_fault_queue, depth) - 8usize];
    ["Offset of field: vfio_ioasid_fault_queue::fd"]
        [::core::mem::offset_of!(vfio_ioasid_fault_queue, fd) - 12usize];
    ["Offset of field: vfio_ioasid_fault_queue::deadline_ms"]
        [::core::mem::offset_of!(vfio_ioasid_fault_queue, deadline_ms) - 16usize];
    ["Offset of field: vfio_ioasid_fault_queue::__reserved"]
        [::core::mem::offset_of!(vfio_ioasid_fault_queue, __reserved) - 20usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_fault {
    pub kind: __u32,
    pub flags: __u32,
    pub device: vfio_ioasid_device,
    pub pasid: __u32,
    pub guest_pasid: __u32,
    pub group: __u32,
    pub perm: __u32,
    pub reason: __u32,
    pub addr: __u64,
    pub cookie: __u64,
    pub user_cookie: __u64,
    pub private_data: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_fault"][::core::mem::size_of::<vfio_ioasid_fault>() - 64usize];
    ["Alignment of vfio_ioasid_fault"][::core::mem::align_of::<vfio_ioasid_fault>() - 8usize];
    ["Offset of field: vfio_ioasid_fault::kind"]
        [::core::mem::offset_of!(vfio_ioasid_fault, kind) - 0usize];
    ["Offset of field: vfio_ioasid_fault::flags"]
        [::core::mem::offset_of!(vfio_ioasid_fault, flags) - 4usize];
    ["Offset of field: vfio_ioasid_fault::device"]
        [::core::mem::offset_of!(vfio_ioasid_fault, device) - 8usize];
    ["Offset of field: vfio_ioasid_fault::pasid"]
        [::core::mem::offset_of!(vfio_ioasid_fault, pasid) - 12usize];
    ["Offset of field: vfio_ioasid_fault::guest_pasid"]
        [::core::mem::offset_of!(vfio_ioasid_fault, guest_pasid) - 16usize];
    ["Offset of field: vfio_ioasid_fault::group"]
        [::core::mem::offset_of!(vfio_ioasid_fault, group) - 20usize];
    ["Offset of field: vfio_ioasid_fault::perm"]
        [::core::mem::offset_of!(vfio_ioasid_fault, perm) - 24usize];
    ["Offset of field: vfio_ioasid_fault::reason"]
        [::core::mem::offset_of!(vfio_ioasid_fault, reason) - 28usize];
    ["Offset of field: vfio_ioasid_fault::addr"]
        [::core::mem::offset_of!(vfio_ioasid_fault, addr) - 32usize];
    ["Offset of field: vfio_ioasid_fault::cookie"]
        [::core::mem::offset_of!(vfio_ioasid_fault, cookie) - 40usize];
    ["Offset of field: vfio_ioasid_fault::user_cookie"]
        [::core::mem::offset_of!(vfio_ioasid_fault, user_cookie) - 48usize];
    ["Offset of field: vfio_ioasid_fault::private_data"]
        [::core::mem::offset_of!(vfio_ioasid_fault, private_data) - 56usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_fault_response {
    pub cookie: __u64,
    pub code: __u32,
    pub __reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_fault_response"]
        [::core::mem::size_of::<vfio_ioasid_fault_response>() - 16usize];
    ["Alignment of vfio_ioasid_fault_response"]
        [::core::mem::align_of::<vfio_ioasid_fault_response>() - 8usize];
    ["Offset of field: vfio_ioasid_fault_response::cookie"]
        [::core::mem::offset_of!(vfio_ioasid_fault_response, cookie) - 0usize];
    ["Offset of field: vfio_ioasid_fault_response::code"]
        [::core::mem::offset_of!(vfio_ioasid_fault_response, code) - 8usize];
    ["Offset of field: vfio_ioasid_fault_response::__reserved"]
        [::core::mem::offset_of!(vfio_ioasid_fault_response, __reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_device_info {
    pub device: vfio_ioasid_device,
    pub flags: __u32,
    pub reason: __u16,
    pub prq_reason: __u16,
    pub max_pasids: __u32,
    pub vtd_cap: __u64,
    pub vtd_ecap: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_device_info"]
        [::core::mem::size_of::<vfio_ioasid_device_info>() - 32usize];
    ["Alignment of vfio_ioasid_device_info"]
        [::core::mem::align_of::<vfio_ioasid_device_info>() - 8usize];
    ["Offset of field: vfio_ioasid_device_info::device"]
        [::core::mem::offset_of!(vfio_ioasid_device_info, device) - 0usize];
    ["Offset of field: vfio_ioasid_device_info::flags"]
        [::core::mem::offset_of!(vfio_ioasid_device_info, flags) - 4usize];
    ["Offset of field: vfio_ioasid_device_info::reason"]
        [::core::mem::offset_of!(vfio_ioasid_device_info, reason) - 8usize];
    ["Offset of field: vfio_ioasid_device_info::prq_reason"]
        [::core::mem::offset_of!(vfio_ioasid_device_info, prq_reason) - 10usize];
    ["Offset of field: vfio_ioasid_device_info::max_pasids"]
        [::core::mem::offset_of!(vfio_ioasid_device_info, max_pasids) - 12usize];
    ["Offset of field: vfio_ioasid_device_info::vtd_cap"]
        [::core::mem::offset_of!(vfio_ioasid_device_info, vtd_cap) - 16usize];
    ["Offset of field: vfio_ioasid_device_info::vtd_ecap"]
        [::core::mem::offset_of!(vfio_ioasid_device_info, vtd_ecap) - 24usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_devices {
    pub argsz: __u32,
    pub flags: __u32,
    pub entry_len: __u32,
    pub count: __u32,
    pub entries_uptr: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_devices"][::core::mem::size_of::<vfio_ioasid_devices>() - 24usize];
    ["Alignment of vfio_ioasid_devices"][::core::mem::align_of::<vfio_ioasid_devices>() - 8usize];
    ["Offset of field: vfio_ioasid_devices::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_devices, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_devices::flags"]
        [::core::mem::offset_of!(vfio_ioasid_devices, flags) - 4usize];
    ["Offset of field: vfio_ioasid_devices::entry_len"]
        [::core::mem::offset_of!(vfio_ioasid_devices, entry_len) - 8usize];
    ["Offset of field: vfio_ioasid_devices::count"]
        [::core::mem::offset_of!(vfio_ioasid_devices, count) - 12usize];
    ["Offset of field: vfio_ioasid_devices::entries_uptr"]
        [::core::mem::offset_of!(vfio_ioasid_devices, entries_uptr) - 16usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_stats {
    pub argsz: __u32,
    pub flags: __u32,
    pub pasids: __u64,
    pub bindings: __u64,
    pub fault_queues: __u64,
    pub address_spaces: __u64,
    pub as_entries: __u64,
    pub mappings: __u64,
    pub mapped_pages: __u64,
    pub pages_2m: __u64,
    pub pages_1g: __u64,
    pub calls: __u64,
    pub binds: __u64,
    pub unbinds: __u64,
    pub page_requests: __u64,
    pub responses: __u64,
    pub host_invalid: __u64,
    pub overflows: __u64,
    pub late_responses: __u64,
    pub expired: __u64,
    pub dma_faults: __u64,
    pub invalidations: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_stats"][::core::mem::size_of::<vfio_ioasid_stats>() - 168usize];
    ["Alignment of vfio_ioasid_stats"][::core::mem::align_of::<vfio_ioasid_stats>() - 8usize];
    ["Offset of field: vfio_ioasid_stats::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_stats, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_stats::flags"]
        [::core::mem::offset_of!(vfio_ioasid_stats, flags) - 4usize];
    ["Offset of field: vfio_ioasid_stats::pasids"]
        [::core::mem::offset_of!(vfio_ioasid_stats, pasids) - 8usize];
    ["Offset of field: vfio_ioasid_stats::bindings"]
        [::core::mem::offset_of!(vfio_ioasid_stats, bindings) - 16usize];
    ["Offset of field: vfio_ioasid_stats::fault_queues"]
        [::core::mem::offset_of!(vfio_ioasid_stats, fault_queues) - 24usize];
    ["Offset of field: vfio_ioasid_stats::address_spaces"]
        [::core::mem::offset_of!(vfio_ioasid_stats, address_spaces) - 32usize];
    ["Offset of field: vfio_ioasid_stats::as_entries"]
        [::core::mem::offset_of!(vfio_ioasid_stats, as_entries) - 40usize];
    ["Offset of field: vfio_ioasid_stats::mappings"]
        [::core::mem::offset_of!(vfio_ioasid_stats, mappings) - 48usize];
    ["Offset of field: vfio_ioasid_stats::mapped_pages"]
        [::core::mem::offset_of!(vfio_ioasid_stats, mapped_pages) - 56usize];
    ["Offset of field: vfio_ioasid_stats::pages_2m"]
        [::core::mem::offset_of!(vfio_ioasid_stats, pages_2m) - 64usize];
    ["Offset of field: vfio_ioasid_stats::pages_1g"]
        [::core::mem::offset_of!(vfio_ioasid_stats, pages_1g) - 72usize];
    ["Offset of field: vfio_ioasid_stats::calls"]
        [::core::mem::offset_of!(vfio_ioasid_stats, calls) - 80usize];
    ["Offset of field: vfio_ioasid_stats::binds"]
        [::core::mem::offset_of!(vfio_ioasid_stats, binds) - 88usize];
    ["Offset of field: vfio_ioasid_stats::unbinds"]
        [::core::mem::offset_of!(vfio_ioasid_stats, unbinds) - 96usize];
    ["Offset of field: vfio_ioasid_stats::page_requests"]
        [::core::mem::offset_of!(vfio_ioasid_stats, page_requests) - 104usize];
    ["Offset of field: vfio_ioasid_stats::responses"]
        [::core::mem::offset_of!(vfio_ioasid_stats, responses) - 112usize];
    ["Offset of field: vfio_ioasid_stats::host_invalid"]
        [::core::mem::offset_of!(vfio_ioasid_stats, host_invalid) - 120usize];
    ["Offset of field: vfio_ioasid_stats::overflows"]
        [::core::mem::offset_of!(vfio_ioasid_stats, overflows) - 128usize];
    ["Offset of field: vfio_ioasid_stats::late_responses"]
        [::core::mem::offset_of!(vfio_ioasid_stats, late_responses) - 136usize];
    ["Offset of field: vfio_ioasid_stats::expired"]
        [::core::mem::offset_of!(vfio_ioasid_stats, expired) - 144usize];
    ["Offset of field: vfio_ioasid_stats::dma_faults"]
        [::core::mem::offset_of!(vfio_ioasid_stats, dma_faults) - 152usize];
    ["Offset of field: vfio_ioasid_stats::invalidations"]
        [::core::mem::offset_of!(vfio_ioasid_stats, invalidations) - 160usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_as_create {
    pub argsz: __u32,
    pub flags: __u32,
    pub as_id: __u32,
    pub __reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_as_create"][::core::mem::size_of::<vfio_ioasid_as_create>() - 16usize];
    ["Alignment of vfio_ioasid_as_create"]
        [::core::mem::align_of::<vfio_ioasid_as_create>() - 4usize];
    ["Offset of field: vfio_ioasid_as_create::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_as_create, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_as_create::flags"]
        [::core::mem::offset_of!(vfio_ioasid_as_create, flags) - 4usize];
    ["Offset of field: vfio_ioasid_as_create::as_id"]
        [::core::mem::offset_of!(vfio_ioasid_as_create, as_id) - 8usize];
    ["Offset of field: vfio_ioasid_as_create::__reserved"]
        [::core::mem::offset_of!(vfio_ioasid_as_create, __reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_as_destroy {
    pub argsz: __u32,
    pub flags: __u32,
    pub as_id: __u32,
    pub __reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_as_destroy"][::core::mem::size_of::<vfio_ioasid_as_destroy>() - 16usize];
    ["Alignment of vfio_ioasid_as_destroy"]
        [::core::mem::align_of::<vfio_ioasid_as_destroy>() - 4usize];
    ["Offset of field: vfio_ioasid_as_destroy::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_as_destroy, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_as_destroy::flags"]
        [::core::mem::offset_of!(vfio_ioasid_as_destroy, flags) - 4usize];
    ["Offset of field: vfio_ioasid_as_destroy::as_id"]
        [::core::mem::offset_of!(vfio_ioasid_as_destroy, as_id) - 8usize];
    ["Offset of field: vfio_ioasid_as_destroy::__reserved"]
        [::core::mem::offset_of!(vfio_ioasid_as_destroy, __reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_as_entry {
    pub iova: __u64,
    pub gpa: __u64,
    pub length: __u64,
    pub perm: __u32,
    pub __reserved: __u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_as_entry"][::core::mem::size_of::<vfio_ioasid_as_entry>() - 32usize];
    ["Alignment of vfio_ioasid_as_entry"][::core::mem::align_of::<vfio_ioasid_as_entry>() - 8usize];
    ["Offset of field: vfio_ioasid_as_entry::iova"]
        [::core::mem::offset_of!(vfio_ioasid_as_entry, iova) - 0usize];
    ["Offset of field: vfio_ioasid_as_entry::gpa"]
        [::core::mem::offset_of!(vfio_ioasid_as_entry, gpa) - 8usize];
    ["Offset of field: vfio_ioasid_as_entry::length"]
        [::core::mem::offset_of!(vfio_ioasid_as_entry, length) - 16usize];
    ["Offset of field: vfio_ioasid_as_entry::perm"]
        [::core::mem::offset_of!(vfio_ioasid_as_entry, perm) - 24usize];
    ["Offset of field: vfio_ioasid_as_entry::__reserved"]
        [::core::mem::offset_of!(vfio_ioasid_as_entry, __reserved) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct vfio_ioasid_as_change {
    pub argsz: __u32,
    pub flags: __u32,
    pub as_id: __u32,
    pub entry_len: __u32,
    pub entry_num: __u32,
    pub bad_index: __u32,
    pub entries_uptr: __u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of vfio_ioasid_as_change"][::core::mem::size_of::<vfio_ioasid_as_change>() - 32usize];
    ["Alignment of vfio_ioasid_as_change"]
        [::core::mem::align_of::<vfio_ioasid_as_change>() - 8usize];
    ["Offset of field: vfio_ioasid_as_change::argsz"]
        [::core::mem::offset_of!(vfio_ioasid_as_change, argsz) - 0usize];
    ["Offset of field: vfio_ioasid_as_change::flags"]
        [::core::mem::offset_of!(vfio_ioasid_as_change, flags) - 4usize];
    ["Offset of field: vfio_ioasid_as_change::as_id"]
        [::core::mem::offset_of!(vfio_ioasid_as_change, as_id) - 8usize];
    ["Offset of field: vfio_ioasid_as_change::entry_len"]
        [::core::mem::offset_of!(vfio_ioasid_as_change, entry_len) - 12usize];
    ["Offset of field: vfio_ioasid_as_change::entry_num"]
        [::core::mem::offset_of!(vfio_ioasid_as_change, entry_num) - 16usize];
    ["Offset of field: vfio_ioasid_as_change::bad_index"]
        [::core::mem::offset_of!(vfio_ioasid_as_change, bad_index) - 20usize];
    ["Offset of field: vfio_ioasid_as_change::entries_uptr"]
        [::core::mem::offset_of!(vfio_ioasid_as_change, entries_uptr) - 24usize];
};
