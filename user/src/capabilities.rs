// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the host reports: capabilities, devices, counters.

use crate::error::{Error, Result};
use crate::sys::plain::Plain;
use crate::types::{AddressWidth, Bdf, Iova, IovaRange};
use host_iommu_bindings::uapi as abi;
use std::fmt;

/// Why the host lacks something: `VFIO_IOASID_REASON_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum MissingBecause {
    /// The IOMMU driver of the device has no nested domains.
    Driver,
    /// The IOMMU unit lacks nested translation or scalable mode.
    Hardware,
    /// The device has no PASID capability, or the kernel left it off.
    NoPasid,
    /// The device or its IOMMU unit has no PRI, or the kernel left it off.
    NoPri,
    /// More than one device shares the IOMMU group.
    GroupShared,
    /// No device is attached yet.
    NoDevice,
    /// The module does not know the stage-1 format of the IOMMU.
    Format,
    /// The running kernel does not offer it.
    Kernel,
    /// Stage 1 is shadowed, by [`NestingCapability::shadowed`].
    Shadowed,
    /// A reason that a later kernel gave.
    Other(u16),
}

impl fmt::Display for MissingBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Driver => "the IOMMU driver cannot nest",
            Self::Hardware => "the IOMMU lacks nested translation or scalable mode",
            Self::NoPasid => "the device has no PASID, or it is off",
            Self::NoPri => "the device or the IOMMU has no page requests, or they are off",
            Self::GroupShared => "devices share the IOMMU group",
            Self::NoDevice => "no device is attached",
            Self::Format => "the IOMMU's stage-1 format is not known",
            Self::Kernel => "the running kernel does not offer it",
            Self::Shadowed => "stage 1 is shadowed",
            Self::Other(number) => return write!(f, "reason {number}"),
        })
    }
}

/// Whether the host can do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Support {
    /// It can.
    Present,
    /// It cannot, and why.
    Missing(MissingBecause),
}

impl Support {
    fn new(present: bool, reason: u16) -> Self {
        if present {
            return Self::Present;
        }
        Self::Missing(match u32::from(reason) {
            abi::VFIO_IOASID_REASON_DRIVER => MissingBecause::Driver,
            abi::VFIO_IOASID_REASON_HARDWARE => MissingBecause::Hardware,
            abi::VFIO_IOASID_REASON_NO_PASID => MissingBecause::NoPasid,
            abi::VFIO_IOASID_REASON_NO_PRI => MissingBecause::NoPri,
            abi::VFIO_IOASID_REASON_GROUP_SHARED => MissingBecause::GroupShared,
            abi::VFIO_IOASID_REASON_NO_DEVICE => MissingBecause::NoDevice,
            abi::VFIO_IOASID_REASON_FORMAT => MissingBecause::Format,
            abi::VFIO_IOASID_REASON_KERNEL => MissingBecause::Kernel,
            _ => MissingBecause::Other(reason),
        })
    }

    /// Whether it is [`Support::Present`].
    pub fn is_present(self) -> bool {
        self == Self::Present
    }
}

impl fmt::Display for Support {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => f.write_str("yes"),
            Self::Missing(reason) => write!(f, "no: {reason}"),
        }
    }
}

/// What the guest has to promise where stage 1 is shadowed: walked by the crate, not by the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Shadowing {
    /// Its tables are of the second stage, and it invalidates each change, also when an entry
    /// becomes present: what drivers do for a unit with caching mode (CM=1; VT-d 4.1, 6.1) that
    /// offers no first stage. Tables of the first stage are refused.
    CachingMode,
    /// As [`Shadowing::CachingMode`] of its second-stage tables. Its first-stage tables are the
    /// host's to walk, which nests them.
    SecondStage,
    /// It invalidates each change of either stage's tables. Linux as a guest does not for the first.
    EveryChange,
    /// It invalidates what changes or goes, and devices ask for what is missing: their page requests
    /// fill the tables' holes. What Linux does for a process whose memory a device shares (SVA), and
    /// not for the tables of its own drivers. Bindings need a fault queue of the same context.
    PageRequests,
}

/// What can be nested, for the devices attached at the time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NestingCapability {
    /// A stage-1 table can be bound at a PASID of at least one device.
    pub stage1: Support,
    /// Page requests of at least one device can be delivered.
    pub page_requests: Support,
    /// DMA that the IOMMU stops is reported to a fault queue.
    pub dma_faults: Support,
    /// Dirty pages are those that DMA wrote; otherwise every mapped page.
    pub dirty: Support,
    /// A stage-1 table can be bound at the RID of at least one device.
    pub rid: bool,
    /// Stage 1 is shadowed, for guests that promise this; `None` if the host walks it.
    pub shadowed: Option<Shadowing>,
    /// Widths of stage 1.
    pub widths: Vec<AddressWidth>,
    /// PASID bits that every device with PASIDs has.
    pub pasid_bits: u32,
    /// Stage 2 takes no read-only mappings.
    pub no_read_only: bool,
    /// DMA is coherent whatever the device says of snooping.
    pub coherent: bool,
    /// Most PASIDs of the container.
    pub max_pasids: u32,
    /// Most bindings of the container.
    pub max_bindings: u32,
    /// Most fault queues of the container.
    pub max_fault_queues: u32,
    /// Most address spaces of the container.
    pub max_address_spaces: u32,
    /// Most entries of all address spaces of the container.
    pub max_address_space_entries: u32,
    /// VT-d's capability register (VT-d 4.1, 11.4.2), zero elsewhere.
    pub vtd_cap: u64,
    /// VT-d's extended capability register, zero elsewhere.
    pub vtd_ecap: u64,
}

/// What a context can do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Capabilities {
    /// Page sizes of stage 2 in bytes, as a bitmap.
    pub page_sizes: u64,
    /// What can be mapped; empty where the host does not say.
    pub iova_ranges: Vec<IovaRange>,
    /// How many more mappings can be made.
    pub mappings_left: Option<u32>,
    /// What can be nested; `None` for a host that reports nothing of the kind.
    pub nesting: Option<NestingCapability>,
}

/// More links than a sane chain has: a loop ends here.
const MAX_CHAIN: usize = 64;

impl Capabilities {
    /// Reads the reply of `VFIO_IOMMU_GET_INFO`, with its chain.
    pub(crate) fn parse(reply: &[u8]) -> Result<Self> {
        let info = abi::vfio_iommu_type1_info::from_bytes(reply)
            .ok_or_else(|| malformed("it ends within its fixed part"))?;
        let mut capabilities = Self {
            page_sizes: if info.flags & abi::VFIO_IOMMU_INFO_PGSIZES == 0 {
                0
            } else {
                info.iova_pgsizes
            },
            iova_ranges: Vec::new(),
            mappings_left: None,
            nesting: None,
        };
        let mut next = if info.flags & abi::VFIO_IOMMU_INFO_CAPS == 0 {
            0
        } else {
            info.cap_offset
        };
        let mut links = 0;
        while next != 0 {
            if links == MAX_CHAIN {
                return Err(malformed("its chain has no end"));
            }
            links += 1;
            let entry = reply.get(next as usize..).unwrap_or_default();
            let header: abi::vfio_info_cap_header = read(entry)?;
            capabilities.take(header, entry)?;
            next = header.next;
        }
        Ok(capabilities)
    }

    fn take(&mut self, header: abi::vfio_info_cap_header, entry: &[u8]) -> Result<()> {
        match u32::from(header.id) {
            abi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                // The header, the count, a reserved word, then the ranges.
                let count: u32 = read(entry.get(8..).unwrap_or_default())?;
                let ranges = entry.get(16..).unwrap_or_default();
                for index in 0..count as usize {
                    let at = index.checked_mul(size_of::<abi::vfio_iova_range>());
                    let range: abi::vfio_iova_range =
                        read(at.and_then(|at| ranges.get(at..)).unwrap_or_default())?;
                    let range = IovaRange::new(Iova(range.start), Iova(range.end))
                        .ok_or_else(|| malformed("an IOVA range is empty"))?;
                    self.iova_ranges.push(range);
                }
            }
            abi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                let avail: abi::vfio_iommu_type1_info_dma_avail = read(entry)?;
                self.mappings_left = Some(avail.avail);
            }
            abi::VFIO_IOASID_CAP_NESTING => self.nesting = Some(nesting(&read(entry)?)),
            _ => {}
        }
        Ok(())
    }
}

fn nesting(report: &abi::vfio_ioasid_cap_nesting) -> NestingCapability {
    let has = |flag: u32| report.flags & flag != 0;
    let widths = [AddressWidth::Bits48, AddressWidth::Bits57];
    NestingCapability {
        stage1: Support::new(has(abi::VFIO_IOASID_NESTING_PASID), report.reason),
        page_requests: Support::new(has(abi::VFIO_IOASID_NESTING_PRQ), report.prq_reason),
        dma_faults: Support::new(
            has(abi::VFIO_IOASID_NESTING_DMA_FAULT),
            report.dma_fault_reason,
        ),
        dirty: Support::new(has(abi::VFIO_IOASID_NESTING_DIRTY), report.dirty_reason),
        rid: has(abi::VFIO_IOASID_NESTING_RID),
        shadowed: None,
        widths: (0..)
            .zip(widths)
            .filter(|(bit, _)| report.addr_width & (1 << bit) != 0)
            .map(|(_, width)| width)
            .collect(),
        pasid_bits: report.pasid_bits,
        no_read_only: has(abi::VFIO_IOASID_NESTING_NO_READONLY),
        coherent: has(abi::VFIO_IOASID_NESTING_COHERENT),
        max_pasids: report.max_pasids,
        max_bindings: report.max_bindings,
        max_fault_queues: report.max_fault_queues,
        max_address_spaces: report.max_address_spaces,
        max_address_space_entries: report.max_as_entries,
        vtd_cap: report.vtd_cap,
        vtd_ecap: report.vtd_ecap,
    }
}

fn read<T: Plain>(bytes: &[u8]) -> Result<T> {
    T::from_bytes(bytes).ok_or_else(|| malformed("an entry of its chain lies outside"))
}

fn malformed(detail: &str) -> Error {
    Error::Malformed {
        what: "capability report",
        detail: detail.to_owned(),
    }
}

/// An attached device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct DeviceInfo {
    /// Its address.
    pub device: Bdf,
    /// A stage-1 table can be bound at a PASID of it.
    pub stage1: Support,
    /// Its page requests can be delivered.
    pub page_requests: Support,
    /// A stage-1 table can be bound at its RID.
    pub rid: bool,
    /// PASIDs below this number work; zero for none.
    pub max_pasids: u32,
    /// VT-d's capability register of its unit.
    pub vtd_cap: u64,
    /// VT-d's extended capability register of its unit.
    pub vtd_ecap: u64,
}

impl From<&abi::vfio_ioasid_device_info> for DeviceInfo {
    fn from(info: &abi::vfio_ioasid_device_info) -> Self {
        let has = |flag: u32| info.flags & flag != 0;
        Self {
            device: info.device.into(),
            stage1: Support::new(has(abi::VFIO_IOASID_DEVICE_NESTING), info.reason),
            page_requests: Support::new(has(abi::VFIO_IOASID_DEVICE_PRQ), info.prq_reason),
            rid: has(abi::VFIO_IOASID_DEVICE_RID),
            max_pasids: info.max_pasids,
            vtd_cap: info.vtd_cap,
            vtd_ecap: info.vtd_ecap,
        }
    }
}

/// Counters of a context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Stats {
    /// PASIDs allocated now.
    pub pasids: u64,
    /// Bindings now.
    pub bindings: u64,
    /// Fault queues open now.
    pub fault_queues: u64,
    /// Address spaces now.
    pub address_spaces: u64,
    /// Entries of all address spaces now.
    pub address_space_entries: u64,
    /// 4 KiB pages mapped in stage 2 now.
    pub mapped_pages: u64,
    /// Page request groups given to a fault queue.
    pub page_requests: u64,
    /// Groups answered through a fault queue.
    pub responses: u64,
    /// Groups that the host answered INVALID itself.
    pub host_invalid: u64,
    /// Page requests answered INVALID because a queue was full.
    pub overflows: u64,
    /// Answers that came after the group was settled.
    pub late_responses: u64,
    /// Groups whose deadline passed.
    pub expired: u64,
    /// DMA faults reported, delivered or not.
    pub dma_faults: u64,
    /// Invalidation entries carried out.
    pub invalidations: u64,
}

impl From<&abi::vfio_ioasid_stats> for Stats {
    fn from(stats: &abi::vfio_ioasid_stats) -> Self {
        Self {
            pasids: stats.pasids,
            bindings: stats.bindings,
            fault_queues: stats.fault_queues,
            address_spaces: stats.address_spaces,
            address_space_entries: stats.as_entries,
            mapped_pages: stats.mapped_pages,
            page_requests: stats.page_requests,
            responses: stats.responses,
            host_invalid: stats.host_invalid,
            overflows: stats.overflows,
            late_responses: stats.late_responses,
            expired: stats.expired,
            dma_faults: stats.dma_faults,
            invalidations: stats.invalidations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(id: u32, next: u32) -> abi::vfio_info_cap_header {
        abi::vfio_info_cap_header {
            id: id as u16,
            version: 1,
            next,
        }
    }

    /// A reply with the chain that the module gives.
    fn reply() -> Vec<u8> {
        let info = abi::vfio_iommu_type1_info {
            argsz: 136,
            flags: abi::VFIO_IOMMU_INFO_PGSIZES | abi::VFIO_IOMMU_INFO_CAPS,
            iova_pgsizes: 0x4020_1000,
            cap_offset: 24,
            pad: 0,
        };
        let mut bytes = info.as_bytes().to_vec();
        bytes.extend(header(abi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 56).as_bytes());
        bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        let range = abi::vfio_iova_range {
            start: 0,
            end: 0xfedf_ffff,
        };
        bytes.extend(range.as_bytes());
        let avail = abi::vfio_iommu_type1_info_dma_avail {
            header: header(abi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 72),
            avail: 65_535,
        };
        bytes.extend(avail.as_bytes());
        bytes.extend([0; 4]);
        let nesting = abi::vfio_ioasid_cap_nesting {
            header: header(abi::VFIO_IOASID_CAP_NESTING, 0),
            flags: abi::VFIO_IOASID_NESTING_PASID | abi::VFIO_IOASID_NESTING_NO_READONLY,
            prq_reason: abi::VFIO_IOASID_REASON_NO_PRI as u16,
            addr_width: 1,
            pasid_bits: 20,
            ..Default::default()
        };
        bytes.extend(nesting.as_bytes());
        bytes
    }

    #[test]
    fn parse_reads_the_whole_chain() -> Result<()> {
        let capabilities = Capabilities::parse(&reply())?;
        assert_eq!(capabilities.page_sizes, 0x4020_1000);
        assert_eq!(
            capabilities.iova_ranges,
            IovaRange::new(Iova(0), Iova(0xfedf_ffff)).as_slice()
        );
        assert_eq!(capabilities.mappings_left, Some(65_535));
        let nesting = capabilities.nesting.as_ref();
        assert_eq!(
            nesting.map(|nesting| nesting.stage1),
            Some(Support::Present)
        );
        assert_eq!(
            nesting
                .map(|nesting| nesting.page_requests.to_string())
                .as_deref(),
            Some("no: the device or the IOMMU has no page requests, or they are off")
        );
        assert_eq!(
            nesting.map(|nesting| nesting.widths.as_slice()),
            Some([AddressWidth::Bits48].as_slice())
        );
        Ok(())
    }

    #[test]
    fn parse_any_cut_reply_is_an_error_or_a_whole_value() {
        let whole = reply();
        for len in 0..whole.len() {
            assert!(Capabilities::parse(&whole[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn parse_chain_without_end_is_malformed() {
        let mut looping = reply();
        // The last link points at the first.
        looping[72 + 4] = 24;
        assert!(matches!(
            Capabilities::parse(&looping),
            Err(Error::Malformed { .. })
        ));
    }
}
