// SPDX-License-Identifier: GPL-2.0
//! Declarations of shim.h.

use super::vfio::Callbacks;
use crate::base::iova::IovaRange;
use core::mem::{offset_of, size_of};
use kernel::bindings;
use kernel::ffi::{c_int, c_long, c_ulong, c_void};

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct DeviceFacts {
    pub(super) segment: u16,
    pub(super) bus: u8,
    pub(super) devfn: u8,
    pub(super) max_pasids: u32,
    pub(super) hw_type: u32,
    pub(super) is_pci: bool,
    pub(super) ats_enabled: bool,
    pub(super) pri_supported: bool,
    pub(super) can_nest: bool,
    pub(super) vtd_cap: u64,
    pub(super) vtd_ecap: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct PageRequest {
    pub(super) addr: u64,
    pub(super) perm: u32,
    pub(super) flags: u32,
    pub(super) pasid: u32,
    pub(super) grpid: u32,
}

/// A range as C fills it in: not known to be one yet. [`IovaRange`] has the same layout.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct RawRange {
    pub(super) start: u64,
    pub(super) last: u64,
}

/// How far a reader of a debugfs file has come.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    /// The container that the next line is of, or the next one that lives.
    pub(crate) container: u64,
    /// Where in it to look for the next line.
    pub(crate) item: u64,
}

/// A DMA fault as C keeps it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct DmaFault {
    pub(super) addr: u64,
    pub(super) pasid: u32,
    pub(super) perm: u32,
    pub(super) reason: u8,
    pub(super) has_pasid: bool,
}

/// What shim.h says of the same structures.
macro_rules! layout {
    ($($ty:ty: $size:expr, { $($field:ident: $at:expr),* $(,)? });* $(;)?) => { $(
        const _: () = assert!(size_of::<$ty>() == $size);
        $( const _: () = assert!(offset_of!($ty, $field) == $at); )*
    )* };
}

layout! {
    DeviceFacts: 32, {
        segment: 0,
        bus: 2,
        devfn: 3,
        max_pasids: 4,
        hw_type: 8,
        is_pci: 12,
        ats_enabled: 13,
        pri_supported: 14,
        can_nest: 15,
        vtd_cap: 16,
        vtd_ecap: 24,
    };
    PageRequest: 24, { addr: 0, perm: 8, flags: 12, pasid: 16, grpid: 20 };
    RawRange: 16, { start: 0, last: 8 };
    Cursor: 16, { container: 0, item: 8 };
    DmaFault: 24, { addr: 0, pasid: 8, perm: 12, reason: 16, has_pasid: 17 };
}

/// `struct ioasid_dma_watch`, known to C alone.
#[repr(C)]
pub(super) struct DmaWatch {
    _opaque: [u8; 0],
}

/// `struct iova_bitmap`, known to C alone.
#[repr(C)]
pub(super) struct IovaBitmap {
    _opaque: [u8; 0],
}

/// `struct ioasid_unit`, known to C alone.
#[repr(C)]
pub(super) struct Unit {
    _opaque: [u8; 0],
}

/// `struct ioasid_timer`, known to C alone.
#[repr(C)]
pub(super) struct Timer {
    _opaque: [u8; 0],
}

#[allow(
    improper_ctypes,
    reason = "the C types are the kernel's, some empty without lockdep"
)]
extern "C" {
    pub(super) fn ioasid_vfio_register(backend: *const Callbacks) -> c_int;
    pub(super) fn ioasid_vfio_unregister();
    pub(super) fn ioasid_table_lock();
    pub(super) fn ioasid_table_unlock();
    pub(super) fn ioasid_trace_bind(
        container: u64,
        device: u32,
        pasid: u32,
        guest_pasid: u32,
        kind: u32,
        replace: bool,
        outcome: u32,
        error: c_int,
    );
    pub(super) fn ioasid_trace_unbind(container: u64, device: u32, pasid: u32);
    pub(super) fn ioasid_trace_invalidate(
        container: u64,
        count: u32,
        done: u32,
        bad: u32,
        error: c_int,
    );
    pub(super) fn ioasid_trace_page_request(
        container: u64,
        device: u32,
        guest_pasid: u32,
        group: *const bindings::iopf_group,
    );
    pub(super) fn ioasid_trace_page_response(
        container: u64,
        device: u32,
        group: *const bindings::iopf_group,
        success: bool,
        by: u32,
    );
    pub(super) fn ioasid_trace_map(container: u64, iova: u64, last: u64, vaddr: u64, error: c_int);
    pub(super) fn ioasid_trace_unmap(
        container: u64,
        iova: u64,
        last: u64,
        bytes: u64,
        error: c_int,
    );
    pub(super) fn ioasid_trace_as(container: u64, id: u32, op: u32, done: u32, error: c_int);
    pub(super) fn ioasid_trace_quota(container: u64, call: u32);
    pub(super) fn ioasid_trace_dma_fault(
        container: u64,
        device: u32,
        pasid: u32,
        addr: u64,
        perm: u32,
        reason: u32,
    );
    pub(super) fn ioasid_dma_faults_offered() -> bool;
    pub(super) fn ioasid_dma_watch_new(
        tell: unsafe extern "C" fn(u64, u16, u16, *const DmaFault, usize, u64),
        container: u64,
        segment: u16,
        source_id: u16,
    ) -> *mut DmaWatch;
    pub(super) fn ioasid_dma_watch_free(watch: *mut DmaWatch);
    pub(super) fn ioasid_dirty_offered() -> bool;
    pub(super) fn ioasid_can_track_dirty(dev: *mut bindings::device) -> bool;
    pub(super) fn ioasid_track_dirty(domain: *mut bindings::iommu_domain, on: bool) -> c_int;
    pub(super) fn ioasid_read_dirty(
        domain: *mut bindings::iommu_domain,
        bitmap: *mut IovaBitmap,
        range: IovaRange,
        clear: bool,
    ) -> c_int;
    pub(super) fn ioasid_bitmap_new(
        range: IovaRange,
        page_size: u64,
        data: usize,
    ) -> *mut IovaBitmap;
    pub(super) fn ioasid_bitmap_free(bitmap: *mut IovaBitmap);
    pub(super) fn ioasid_can_pin(address: usize, len: usize) -> bool;
    pub(super) fn ioasid_debugfs_create(
        line: unsafe extern "C" fn(u32, *mut Cursor, *mut u8, usize) -> usize,
    );
    pub(super) fn ioasid_debugfs_remove();
    pub(super) fn ioasid_limit(limit: u32) -> u32;
    pub(super) fn ioasid_allow_unsafe_interrupts() -> bool;
    pub(super) fn ioasid_device_facts(dev: *mut bindings::device, facts: *mut DeviceFacts)
        -> c_int;
    pub(super) fn ioasid_enforce_coherency(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
    ) -> bool;
    pub(super) fn ioasid_group_reserved(
        group: *mut bindings::iommu_group,
        out: *mut RawRange,
        max: usize,
    ) -> isize;
    pub(super) fn ioasid_page_frame(page: *mut bindings::page) -> u64;
    pub(super) fn ioasid_contiguous_pages(pages: *const *mut bindings::page, count: usize)
        -> usize;
    pub(super) fn ioasid_pin(
        vaddr: c_ulong,
        count: c_int,
        write: bool,
        pages: *mut *mut bindings::page,
    ) -> c_int;
    pub(super) fn ioasid_unpin(frame: u64, count: u64, written: bool);
    pub(super) fn ioasid_device_frames(
        vaddr: c_ulong,
        count: c_ulong,
        write: bool,
        frame: *mut u64,
    ) -> c_long;
    pub(super) fn ioasid_unmap_ranges(
        domain: *mut bindings::iommu_domain,
        ranges: *const IovaRange,
        count: usize,
    );
    pub(super) fn ioasid_count_type1_call();
    pub(super) fn ioasid_type1_compat() -> bool;
    pub(super) fn ioasid_lock_killable(lock: *mut bindings::mutex) -> c_int;
    pub(super) fn ioasid_wait_killable(
        queue: *mut bindings::wait_queue_head,
        lock: *mut bindings::mutex,
    ) -> c_int;
    pub(super) fn ioasid_wake_all(queue: *mut bindings::wait_queue_head);
    pub(super) fn ioasid_is_users(address: usize, len: usize) -> bool;
    pub(super) fn ioasid_yield_unless_killed() -> bool;
    pub(super) fn ioasid_current_user() -> *mut bindings::user_struct;
    pub(super) fn ioasid_lock_pages(user: *mut bindings::user_struct, pages: c_ulong) -> c_int;
    pub(super) fn ioasid_unlock_pages(user: *mut bindings::user_struct, pages: c_ulong);
    pub(super) fn ioasid_may_lock_pages() -> bool;
    pub(super) fn ioasid_count_pinned(mm: *mut bindings::mm_struct, pages: c_long);
    pub(super) fn ioasid_mm_lock_pages(mm: *mut bindings::mm_struct, pages: c_ulong) -> c_int;
    pub(super) fn ioasid_alloc_nested(
        dev: *mut bindings::device,
        parent: *mut bindings::iommu_domain,
        page_requests: bool,
        data_type: u32,
        data: *mut c_void,
        len: usize,
    ) -> *mut bindings::iommu_domain;
    pub(super) fn ioasid_take_page_requests(domain: *mut bindings::iommu_domain);
    pub(super) fn ioasid_attach_rid(
        domain: *mut bindings::iommu_domain,
        group: *mut bindings::iommu_group,
        handle: *mut bindings::iommu_attach_handle,
    ) -> c_int;
    pub(super) fn ioasid_replace_rid(
        domain: *mut bindings::iommu_domain,
        group: *mut bindings::iommu_group,
        handle: *mut bindings::iommu_attach_handle,
    ) -> c_int;
    pub(super) fn ioasid_detach_rid(
        domain: *mut bindings::iommu_domain,
        group: *mut bindings::iommu_group,
    );
    pub(super) fn ioasid_replace_pasid(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        pasid: u32,
        handle: *mut bindings::iommu_attach_handle,
    ) -> c_int;
    pub(super) fn ioasid_cache_invalidate(
        nested: *mut bindings::iommu_domain,
        data_type: u32,
        entries: *mut c_void,
        entry_len: usize,
        num: *mut u32,
    ) -> c_int;
    pub(super) fn ioasid_unit_get(dev: *mut bindings::device) -> *mut Unit;
    pub(super) fn ioasid_unit_put(unit: *mut Unit);
    pub(super) fn ioasid_unit_lock_killable(unit: *mut Unit) -> c_int;
    pub(super) fn ioasid_unit_lock(unit: *mut Unit);
    pub(super) fn ioasid_unit_unlock(unit: *mut Unit);
    pub(super) fn ioasid_unit_quiesce_page_requests(unit: *mut Unit);
    pub(super) fn ioasid_iopf_read(
        group: *mut bindings::iopf_group,
        out: *mut PageRequest,
        max: usize,
    ) -> usize;
    pub(super) fn ioasid_timer_new(passed: unsafe extern "C" fn(*const c_void)) -> *mut Timer;
    pub(super) fn ioasid_timer_arm(timer: *mut Timer, queue: *const c_void, ms: u32);
    pub(super) fn ioasid_timer_cancel(timer: *mut Timer);
    pub(super) fn ioasid_timer_free(timer: *mut Timer);
    pub(super) fn ioasid_fault_file(
        operations: *const bindings::file_operations,
        data: *const c_void,
        flags: c_int,
    ) -> *mut bindings::file;
}
