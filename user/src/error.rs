// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can fail, and how it is told.

use crate::context::Scope;
use crate::types::{Bdf, Iova, IovaRange, Pasid};
use crate::vfio::Interrupt;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// A result with the crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. The errno of a call is the [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call failed.
    #[error("Failed to {operation}")]
    Failed {
        /// What was to be done, and where.
        operation: Operation,
        /// Why not.
        source: io::Error,
    },
    /// An invalidation failed part of the way.
    #[error("Failed to flush {scope}: entry {index} of {count}")]
    Flush {
        /// What was to be flushed.
        scope: Scope,
        /// The entry that failed; those before it were carried out.
        index: usize,
        /// How many there were.
        count: usize,
        /// Why.
        source: io::Error,
    },
    /// A change of an address space failed part of the way.
    #[error("Failed to {operation}: entry {index} of {count}")]
    Entries {
        /// What was to be done.
        operation: Operation,
        /// The entry that failed; those before it were carried out.
        index: usize,
        /// How many there were.
        count: usize,
        /// Why.
        source: io::Error,
    },
    /// A binding could not be replaced, and what was bound before is gone too: DMA is stopped.
    #[error("Failed to {operation}, and nothing is bound there any more")]
    Blocked {
        /// What was to be done.
        operation: Operation,
        /// Why not.
        source: io::Error,
    },
    /// The guest's PASID is bound already, at another PASID of the device.
    #[error("Guest PASID {guest} of {device} is bound already")]
    GuestPasidBound {
        /// The device.
        device: Bdf,
        /// The guest's PASID.
        guest: u32,
    },
    /// The context of a device does not carry what the guest's unit offers.
    #[cfg(feature = "vtd")]
    #[error("The host of {device} does not carry {what}, which the guest's IOMMU offers")]
    NotCarried {
        /// The device.
        device: Bdf,
        /// What it does not.
        what: crate::vtd::NotCarried,
    },
    /// What a VMM gave for the guest's IOMMU has a field that cannot be so. Its errno is EINVAL.
    #[cfg(feature = "vtd")]
    #[error("{of}: {field} {why}")]
    InvalidField {
        /// The type that has the field, or the call that has the argument.
        of: &'static str,
        /// The field or the argument.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A table cannot be shadowed. Its errno is EOPNOTSUPP.
    #[error("Failed to bind {}: a shadow of the table would be wrong: {reason}", Scope::Binding(*device, *pasid))]
    NotShadowed {
        /// The device.
        device: Bdf,
        /// The host's PASID.
        pasid: Pasid,
        /// Why.
        reason: &'static str,
    },
    /// A number has more than the 20 bits of a PASID.
    #[error("{0} is no PASID: they have 20 bits")]
    PasidOutOfRange(u32),
    /// A PASID is not one of the allocation that was given with it.
    #[error("PASID {0} is not of this allocation")]
    PasidNotAllocated(Pasid),
    /// The owned value belongs to another context.
    #[error("The {0} belongs to another context")]
    OtherContext(&'static str),
    /// The fault queue of a page request group was dropped; the host has answered the group.
    #[error("The fault queue is closed")]
    QueueClosed,
    /// The host said something that its interface does not allow.
    #[error("The host's {what} is malformed: {detail}")]
    Malformed {
        /// What it said.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

impl Error {
    /// The error number, if a call gave one.
    ///
    /// ```
    /// use host_iommu::{Error, Operation};
    ///
    /// let error = Error::Failed {
    ///     operation: Operation::ReadStats,
    ///     source: std::io::Error::from_raw_os_error(25),
    /// };
    /// assert_eq!(error.errno(), Some(25));
    /// ```
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Failed { source, .. }
            | Self::Flush { source, .. }
            | Self::Entries { source, .. }
            | Self::Blocked { source, .. } => source.raw_os_error(),
            Self::NotShadowed { .. } => Some(libc::EOPNOTSUPP),
            #[cfg(feature = "vtd")]
            Self::InvalidField { .. } => Some(libc::EINVAL),
            _ => None,
        }
    }

    /// The error of a failed call, for backends.
    pub fn failed(operation: Operation, source: impl Into<io::Error>) -> Self {
        Self::Failed {
            operation,
            source: source.into(),
        }
    }
}

/// Whether a call failed since what it was about is not there.
pub(crate) fn is_gone<T>(result: &Result<T>) -> bool {
    let errno = result.as_ref().err().and_then(Error::errno);
    errno == Some(libc::ENOENT)
}

/// What was to be done when a call failed, with the numbers it was to be done with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each says what it is")]
pub enum Operation {
    Open(PathBuf),
    FindGroup(Bdf),
    FindDeviceFile(Bdf),
    OpenIommufd,
    AttachDevice(Bdf),
    AttachFile,
    DetachDevice,
    AttachGroup,
    DetachGroup,
    SelectBackend,
    OpenDevice(Bdf),
    DeviceInfo(Bdf),
    RegionInfo {
        device: Bdf,
        region: u32,
    },
    AccessRegion {
        device: Bdf,
        region: u32,
        offset: u64,
        len: usize,
    },
    MapRegion {
        device: Bdf,
        region: u32,
        offset: u64,
    },
    InterruptInfo {
        device: Bdf,
        kind: Interrupt,
    },
    SetInterrupts {
        device: Bdf,
        kind: Interrupt,
    },
    ResetDevice(Bdf),
    ReadCapabilities,
    ListDevices,
    ReadStats,
    Map(IovaRange),
    MapNothing(Iova),
    MapWithoutFile(IovaRange),
    Unmap(IovaRange),
    UnmapAll,
    AllocPasids {
        min: Pasid,
        max: Pasid,
        count: u32,
    },
    FreePasids {
        first: Pasid,
        count: u32,
    },
    BindStage1 {
        pasid: Pasid,
        device: Bdf,
    },
    Unbind(Scope),
    TrackDirty,
    ReadDirty(IovaRange),
    AddressSpace(&'static str),
    OpenFaultQueue,
    PlugIn(Bdf),
    HandOver,
    PlugDevice(Bdf),
    UnplugDevice(Bdf),
    SubmitDma(Bdf),
    ReadFaults,
    WatchFaults,
    Respond {
        cookie: u64,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(path) => write!(f, "open {}", path.display()),
            Self::FindGroup(device) => write!(f, "find the IOMMU group of {device}"),
            Self::FindDeviceFile(device) => write!(
                f,
                "find the VFIO file of {device} (is it bound to vfio-pci, and CONFIG_VFIO_DEVICE_CDEV on?)"
            ),
            Self::OpenIommufd => f.write_str("make an address space of an iommufd"),
            Self::AttachDevice(device) => write!(f, "attach {device} to the iommufd"),
            Self::AttachFile => f.write_str("attach a device's file to the iommufd"),
            Self::DetachDevice => f.write_str("detach a device from the iommufd"),
            Self::AttachGroup => f.write_str("attach a group to the container"),
            Self::DetachGroup => f.write_str("detach a group from the container"),
            Self::SelectBackend => {
                f.write_str("select vfio_iommu_ioasid for the container (is the module loaded?)")
            }
            Self::OpenDevice(device) => write!(f, "open {device}"),
            Self::DeviceInfo(device) => {
                write!(f, "read what {device} is (a PCI function of VFIO, in a container?)")
            }
            Self::RegionInfo { device, region } => {
                write!(f, "read what region {region} of {device} is")
            }
            Self::AccessRegion {
                device,
                region,
                offset,
                len,
            } => write!(
                f,
                "access {len} bytes at {offset:#x} in region {region} of {device}"
            ),
            Self::MapRegion {
                device,
                region,
                offset,
            } => write!(f, "map region {region} of {device} at {offset:#x}"),
            Self::InterruptInfo { device, kind } => {
                write!(f, "read what interrupt {kind:?} of {device} has")
            }
            Self::SetInterrupts { device, kind } => {
                write!(f, "set interrupt {kind:?} of {device}")
            }
            Self::ResetDevice(device) => write!(f, "reset {device}"),
            Self::ReadCapabilities => f.write_str("read the capabilities"),
            Self::ListDevices => f.write_str("list the devices"),
            Self::ReadStats => f.write_str("read the counters"),
            Self::Map(range) => write!(f, "map {range}"),
            Self::MapNothing(start) => write!(f, "map no or too much memory at {start}"),
            Self::MapWithoutFile(range) => write!(
                f,
                "map {range}: its memory is no shared mapping of a file, which this backend needs to \
                 map it once more"
            ),
            Self::Unmap(range) => write!(f, "unmap {range}"),
            Self::UnmapAll => f.write_str("unmap everything"),
            Self::AllocPasids { min, max, count } => {
                write!(f, "allocate {count} PASIDs in {min}..={max}")
            }
            Self::FreePasids { first, count: 1 } => write!(f, "free PASID {first}"),
            Self::FreePasids { first, count } => write!(f, "free {count} PASIDs from {first} on"),
            Self::BindStage1 { pasid, device } => {
                write!(f, "bind {}", Scope::Binding(*device, *pasid))
            }
            Self::TrackDirty => f.write_str("track dirty pages"),
            Self::ReadDirty(range) => write!(f, "read the dirty pages of {range}"),
            Self::AddressSpace(what) => write!(f, "{what} an address space"),
            Self::Unbind(scope) => write!(f, "unbind {scope}"),
            Self::PlugDevice(device) => write!(f, "plug in {device}"),
            Self::UnplugDevice(device) => write!(f, "take out {device}"),
            Self::SubmitDma(device) => write!(f, "start DMA of {device}"),
            Self::OpenFaultQueue => f.write_str("open a fault queue"),
            Self::PlugIn(device) => write!(f, "plug {device} in behind the guest's IOMMU"),
            Self::HandOver => f.write_str("hand over to another process"),
            Self::WatchFaults => {
                f.write_str("watch the fault queue (was it made by FaultQueueOptions::nonblocking?)")
            }
            Self::ReadFaults => f.write_str("read the fault queue"),
            Self::Respond { cookie } => write!(f, "answer page request group {cookie:#x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn failed_says_operation_and_ids_and_keeps_the_errno() -> Result<()> {
        let error = Error::failed(
            Operation::BindStage1 {
                pasid: 5.try_into()?,
                device: Bdf::new(0, 0, 4 << 3),
            },
            io::Error::from_raw_os_error(16),
        );
        assert_eq!(
            error.to_string(),
            "Failed to bind stage 1 at PASID 5 of 0000:00:04.0"
        );
        assert_eq!(error.errno(), Some(16));
        assert!(error
            .source()
            .is_some_and(|source| source.to_string().contains("busy")));
        Ok(())
    }
}
