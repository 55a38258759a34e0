// SPDX-License-Identifier: GPL-2.0
//! Tracepoints; ioasid_trace.h describes their fields. None of them sleeps or takes a lock.
//!
//! C header: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h)

use super::attach::Site;
use super::device::Bdf;
use super::dma_fault::DmaFault;
use super::iopf::{PageGroup, Response};
use super::shim;
use crate::base::iova::IovaRange;
use kernel::ffi::c_int;
use kernel::prelude::*;

/// Who answers a page request group.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum AnsweredBy {
    /// The user, through the fault fd.
    User = 0,
    /// The host: the binding, or the last file of the queue, goes.
    Cancelled = 1,
    /// The host: the deadline passed.
    Expired = 2,
    /// The host: the group was not taken in.
    Refused = 3,
}

/// What happens to an address space.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AsOperation {
    /// AS_CREATE.
    Create = 0,
    /// AS_DESTROY.
    Destroy = 1,
    /// AS_MAP.
    Map = 2,
    /// AS_UNMAP.
    Unmap = 3,
}

/// What is bound, by the numbers of ioasid_trace.h.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Bound {
    /// A stage-1 table.
    Stage1 = 0,
    /// Stage 2 itself.
    Stage2 = 1,
    /// An address space.
    AddressSpace = 2,
    /// Nothing: DMA is stopped.
    Blocked = 3,
}

fn errno<T>(result: &Result<T>) -> c_int {
    result.as_ref().err().map_or(0, |error| error.to_errno())
}

fn device_number(device: Bdf) -> u32 {
    let [high, low] = device.segment.to_be_bytes();
    u32::from_be_bytes([high, low, device.bus, device.devfn])
}

fn pasid_number(site: Site) -> u32 {
    match site {
        Site::Rid => 0,
        Site::Pasid(pasid) => pasid,
    }
}

/// A BIND: where, what, and how it ended.
pub(crate) struct BindTried {
    pub(crate) device: Bdf,
    pub(crate) site: Site,
    pub(crate) guest_pasid: u32,
    pub(crate) bound: Bound,
    pub(crate) replace: bool,
    /// `VFIO_IOASID_OUTCOME_*`.
    pub(crate) outcome: u32,
}

/// A BIND was tried.
pub(crate) fn bind(container: u64, bind: &BindTried, result: &Result) {
    // SAFETY: No requirements.
    unsafe {
        shim::ioasid_trace_bind(
            container,
            device_number(bind.device),
            pasid_number(bind.site),
            bind.guest_pasid,
            bind.bound as u32,
            bind.replace,
            bind.outcome,
            errno(result),
        )
    }
}

/// A binding goes.
pub(crate) fn unbind(container: u64, device: Bdf, site: Site) {
    // SAFETY: No requirements.
    unsafe { shim::ioasid_trace_unbind(container, device_number(device), pasid_number(site)) }
}

/// An INVALIDATE of `count` entries ended.
pub(crate) fn invalidate(container: u64, count: u32, done: u32, bad: u32, result: &Result) {
    // SAFETY: No requirements.
    unsafe { shim::ioasid_trace_invalidate(container, count, done, bad, errno(result)) }
}

/// A group came in.
pub(crate) fn page_request(container: u64, device: Bdf, guest_pasid: u32, group: &PageGroup) {
    let (device, group) = (device_number(device), group.as_ptr());
    // SAFETY: The group is live, and does not change any more.
    unsafe { shim::ioasid_trace_page_request(container, device, guest_pasid, group) }
}

/// A group is about to be answered.
pub(crate) fn page_response(
    container: u64,
    device: Bdf,
    group: &PageGroup,
    response: Response,
    by: AnsweredBy,
) {
    let (device, group) = (device_number(device), group.as_ptr());
    let success = response == Response::Success;
    // SAFETY: As above.
    unsafe { shim::ioasid_trace_page_response(container, device, group, success, by as u32) }
}

/// The IOMMU stopped DMA.
pub(crate) fn dma_fault(container: u64, device: Bdf, fault: &DmaFault) {
    let (device, pasid) = (device_number(device), fault.pasid.unwrap_or(0));
    let (addr, perm, reason) = (fault.addr, fault.perm, fault.reason);
    // SAFETY: No requirements.
    unsafe { shim::ioasid_trace_dma_fault(container, device, pasid, addr, perm, reason) }
}

/// A MAP_DMA ended.
pub(crate) fn map(container: u64, range: &IovaRange, vaddr: usize, result: &Result) {
    let (iova, last) = (range.start(), range.last());
    // SAFETY: No requirements.
    unsafe { shim::ioasid_trace_map(container, iova, last, vaddr as u64, errno(result)) }
}

/// An UNMAP_DMA ended, with that many bytes.
pub(crate) fn unmap(container: u64, range: &IovaRange, result: &Result<u64>) {
    let bytes = result.as_ref().map_or(0, |&bytes| bytes);
    let (iova, last) = (range.start(), range.last());
    // SAFETY: No requirements.
    unsafe { shim::ioasid_trace_unmap(container, iova, last, bytes, errno(result)) }
}

/// An address space was changed, by `done` entries.
pub(crate) fn address_space<T>(
    container: u64,
    id: u32,
    operation: AsOperation,
    done: u32,
    result: &Result<T>,
) {
    // SAFETY: No requirements.
    unsafe { shim::ioasid_trace_as(container, id, operation as u32, done, errno(result)) }
}

/// A quota refused a call.
pub(crate) fn quota(container: u64, call: u32) {
    // SAFETY: No requirements.
    unsafe { shim::ioasid_trace_quota(container, call) }
}
