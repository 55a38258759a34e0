// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a unit tells and counts.

use super::super::result::errno_of;
use super::HOST_IOMMU_RID;
use crate::vtd::{QueueStop, VtdEvent, VtdStats};
use std::ffi::c_char;

/// The host did not carry out what the guest's entry asks for: the requests of `source` and `pasid`
/// are stopped. `error` says why.
pub const HOST_IOMMU_VTD_BINDING_REFUSED: u32 = 1;
/// The guest's entries stop the requests of `source` and `pasid`. `reason` is that of a fault.
pub const HOST_IOMMU_VTD_ENTRY_STOPPED: u32 = 2;
/// The host did not drop translations of `source` and `pasid` that the guest has invalidated. `error`
/// says why.
pub const HOST_IOMMU_VTD_FLUSH_FAILED: u32 = 3;
/// A request of `source` and `pasid` that was stopped stands in the guest's fault registers: the
/// `address`, whether it was to write in `write`, the `reason`. Of an interrupt that was blocked, bits
/// 63:48 of the address have the index of its entry.
pub const HOST_IOMMU_VTD_FAULT_RECORDED: u32 = 4;
/// The invalidation queue stopped, until the guest clears the status of faults.
pub const HOST_IOMMU_VTD_QUEUE_STOPPED: u32 = 5;
/// The guest has changed how interrupts are remapped: those of the entries from `first` to `last`, both
/// inclusive, are to be remapped anew by host_iommu_vtd_remap().
pub const HOST_IOMMU_VTD_INTERRUPTS_CHANGED: u32 = 6;
/// A page request of `source` and `pasid` was answered INVALID, and the guest was not asked.
pub const HOST_IOMMU_VTD_PAGE_REQUEST_REFUSED: u32 = 7;
/// The guest has turned translation on.
pub const HOST_IOMMU_VTD_TRANSLATION_ON: u32 = 8;
/// The guest has turned translation off.
pub const HOST_IOMMU_VTD_TRANSLATION_OFF: u32 = 9;

/// Bytes of an event's text.
pub(super) const TEXT: usize = 160;

/// Something that a VT-d unit did. Fields that the kind does not name are zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnitEvent {
    /// Set to sizeof(struct host_iommu_vtd_event).
    pub size: u32,
    /// HOST_IOMMU_VTD_BINDING_REFUSED to HOST_IOMMU_VTD_TRANSLATION_OFF, or one that a later version
    /// has.
    pub kind: u32,
    /// The function, as the guest knows it: bus in bits 15:8, device and function below.
    pub source: u32,
    /// The guest's PASID, HOST_IOMMU_RID for requests without one.
    pub pasid: u32,
    /// Why requests are stopped (VT-d 4.1, 7.1.3).
    pub reason: u32,
    /// What the host said, a negative errno.
    pub error: i32,
    /// Of interrupts. Of a fault `first` is not zero if the request was to write.
    pub first: u32,
    pub last: u32,
    /// Where.
    pub address: u64,
    /// Events before this one that there was no room for. Then interrupts are to be remapped anew,
    /// all of them.
    pub lost: u64,
    /// What it is in words, for a log: cut off if it is longer, and with a zero byte at its end.
    pub text: [c_char; 160],
}

impl Default for UnitEvent {
    fn default() -> Self {
        Self {
            size: size_of::<Self>() as u32,
            kind: 0,
            source: 0,
            pasid: HOST_IOMMU_RID,
            reason: 0,
            error: 0,
            first: 0,
            last: 0,
            address: 0,
            lost: 0,
            text: [0; TEXT],
        }
    }
}

impl UnitEvent {
    pub(in super::super) fn new(event: &VtdEvent, lost: u64) -> Self {
        let mut told = Self {
            lost,
            ..Self::default()
        };
        match event {
            VtdEvent::BindingRefused { error, .. } => {
                told.kind = HOST_IOMMU_VTD_BINDING_REFUSED;
                told.error = -errno_of(error).raw();
            }
            VtdEvent::EntryStopped { reason, .. } => {
                told.kind = HOST_IOMMU_VTD_ENTRY_STOPPED;
                told.reason = (*reason).into();
            }
            VtdEvent::FlushFailed { error, .. } => {
                told.kind = HOST_IOMMU_VTD_FLUSH_FAILED;
                told.error = -errno_of(error).raw();
            }
            VtdEvent::FaultRecorded {
                address,
                write,
                reason,
                ..
            } => {
                told.kind = HOST_IOMMU_VTD_FAULT_RECORDED;
                told.address = *address;
                told.first = (*write).into();
                told.reason = (*reason).into();
            }
            VtdEvent::QueueStopped { .. } => told.kind = HOST_IOMMU_VTD_QUEUE_STOPPED,
            VtdEvent::InterruptsChanged { entries } => {
                told.kind = HOST_IOMMU_VTD_INTERRUPTS_CHANGED;
                let (first, last) = entries.unwrap_or((0, u16::MAX));
                (told.first, told.last) = (first.into(), last.into());
            }
            VtdEvent::PageRequestRefused { .. } => {
                told.kind = HOST_IOMMU_VTD_PAGE_REQUEST_REFUSED;
            }
            VtdEvent::Translation { on: true } => told.kind = HOST_IOMMU_VTD_TRANSLATION_ON,
            VtdEvent::Translation { on: false } => told.kind = HOST_IOMMU_VTD_TRANSLATION_OFF,
        }
        match event {
            VtdEvent::BindingRefused { source, pasid, .. }
            | VtdEvent::EntryStopped { source, pasid, .. }
            | VtdEvent::FlushFailed { source, pasid, .. }
            | VtdEvent::FaultRecorded { source, pasid, .. }
            | VtdEvent::PageRequestRefused { source, pasid, .. } => {
                told.source = source.0.into();
                told.pasid = pasid.unwrap_or(HOST_IOMMU_RID);
            }
            VtdEvent::QueueStopped {
                why: QueueStop::DeviceTimeout(source),
            } => told.source = source.0.into(),
            VtdEvent::QueueStopped { .. }
            | VtdEvent::InterruptsChanged { .. }
            | VtdEvent::Translation { .. } => {}
        }
        // The last byte stays zero.
        let text = event.to_string();
        for (to, from) in told.text.iter_mut().take(TEXT - 1).zip(text.bytes()) {
            // CAST: the same bits.
            *to = from as c_char;
        }
        told
    }
}

/// Counters of a VT-d unit. They only grow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnitStats {
    /// Set to sizeof(struct host_iommu_vtd_stats).
    pub size: u32,
    /// Zero.
    pub reserved: u32,
    /// PASIDs, and devices' requests without PASID, that were bound or bound anew.
    pub bindings_made: u64,
    /// What the host refused to bind: the requests were stopped.
    pub bindings_refused: u64,
    /// Entries of the guest's that stop requests, each time the unit looked at one.
    pub entries_stopped: u64,
    /// Descriptors of the invalidation queue that were taken.
    pub descriptors: u64,
    /// Wait descriptors that were done.
    pub waits: u64,
    /// Invalidations that the host was asked for: calls.
    pub flush_calls: u64,
    /// And entries in them.
    pub flush_entries: u64,
    /// And calls that failed.
    pub flushes_failed: u64,
    /// Times that the invalidation queue stopped at an error.
    pub queue_stops: u64,
    /// Faults of requests that were recorded.
    pub faults: u64,
    /// Faults that there was no record free for.
    pub faults_lost: u64,
    /// Page request groups that were put into the guest's queue.
    pub page_requests: u64,
    /// Page request groups that were answered INVALID without the guest.
    pub page_requests_refused: u64,
    /// Interrupts that were remapped.
    pub interrupts_remapped: u64,
    /// Interrupts that were blocked.
    pub interrupts_blocked: u64,
}

impl From<VtdStats> for UnitStats {
    fn from(stats: VtdStats) -> Self {
        Self {
            size: size_of::<Self>() as u32,
            reserved: 0,
            bindings_made: stats.bindings_made,
            bindings_refused: stats.bindings_refused,
            entries_stopped: stats.entries_stopped,
            descriptors: stats.descriptors,
            waits: stats.waits,
            flush_calls: stats.flush_calls,
            flush_entries: stats.flush_entries,
            flushes_failed: stats.flushes_failed,
            queue_stops: stats.queue_stops,
            faults: stats.faults,
            faults_lost: stats.faults_lost,
            page_requests: stats.page_requests,
            page_requests_refused: stats.page_requests_refused,
            interrupts_remapped: stats.interrupts_remapped,
            interrupts_blocked: stats.interrupts_blocked,
        }
    }
}
