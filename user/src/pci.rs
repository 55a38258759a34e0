// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The PASID, ATS and PRI capabilities that a guest sees.
//!
//! vfio-pci hides a device's PASID capability, and ATS and PRI are the host's to enable. A VMM
//! therefore shows the guest capabilities of its own, made of what the context reports, and keeps
//! what the guest writes into them: the host's stay as they are.

use crate::capabilities::DeviceInfo;

/// Extended capability ids (PCIe 6.0, 7.8.8, 7.8.9, 10.5.1, 10.5.2).
const ATS: u16 = 0x0f;
const PRI: u16 = 0x13;
const PASID: u16 = 0x1b;

/// First and last offset of extended capabilities in configuration space.
const FIRST: u16 = 0x100;
const LAST: u16 = 0xffc;

/// An extended capability: its bytes, and which bits of them the guest may write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExtendedCapability {
    /// Where it starts in configuration space.
    pub offset: u16,
    /// From the header on.
    pub bytes: Vec<u8>,
    /// As many bytes: a bit is set where the guest's writes are kept.
    pub writable: Vec<u8>,
}

/// How a device is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset of the first capability, a multiple of 4 from 0x100 on.
    pub offset: u16,
    /// Offset of the capability that follows the last one; zero for none.
    pub next: u16,
    /// Most PASID bits to show, 1 to 20: the virtual IOMMU's own limit.
    pub pasid_bits: u32,
    /// Most page requests that the guest may allow the device (PCIe 6.0, 10.5.2.4).
    pub page_requests: u32,
}

/// The capabilities for a device, linked in order: ATS, PRI and PASID, as far as the context can
/// deliver them. Nothing for a device whose tables cannot be bound.
///
/// `None` if they do not fit at the offset, or it is no place for them.
///
/// Page requests are shown with "PRG Response PASID Required" (PCIe 6.0, 10.5.2.3), as VT-d wants.
pub fn extended_capabilities(
    device: &DeviceInfo,
    layout: &Layout,
) -> Option<Vec<ExtendedCapability>> {
    let mut parts = Vec::new();
    if device.stage1.is_present() && device.max_pasids > 1 {
        // Invalidation queue depth 32 (as 0), page-aligned requests; enable, smallest unit.
        parts.push((ATS, 1, vec![0x0020u32], vec![0x801f_0000u32]));
        if device.page_requests.is_present() {
            // Status: stopped, and the response needs the PASID; control: enable.
            let status = 1 << 24 | 1 << 31;
            let most = layout.page_requests;
            parts.push((PRI, 1, vec![status, most, 0], vec![1, 0, u32::MAX]));
        }
        let bits = device
            .max_pasids
            .ilog2()
            .min(layout.pasid_bits)
            .clamp(1, 20);
        // Width in bits 12:8 of the capability; control: enable.
        parts.push((PASID, 1, vec![bits << 8], vec![1 << 16]));
    }
    let mut offset = layout.offset;
    if offset < FIRST || offset % 4 != 0 || layout.next % 4 != 0 {
        return None;
    }
    let mut laid_out = Vec::new();
    let count = parts.len();
    for (number, (id, version, words, masks)) in (1..).zip(parts) {
        let size = u16::try_from((words.len() + 1) * 4).ok()?;
        let after = offset.checked_add(size)?;
        if after > LAST + 4 {
            return None;
        }
        let next = if number == count { layout.next } else { after };
        let header = u32::from(id) | version << 16 | u32::from(next) << 20;
        let bytes = |first: u32, words: Vec<u32>| -> Vec<u8> {
            let words = std::iter::once(first).chain(words);
            words.flat_map(u32::to_le_bytes).collect()
        };
        laid_out.push(ExtendedCapability {
            offset,
            bytes: bytes(header, words),
            writable: bytes(0, masks),
        });
        offset = after;
    }
    Some(laid_out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::{MissingBecause, Support};
    use crate::types::Bdf;

    const LAYOUT: Layout = Layout {
        offset: 0x200,
        next: 0x300,
        pasid_bits: 16,
        page_requests: 64,
    };

    fn device(max_pasids: u32, page_requests: Support) -> DeviceInfo {
        DeviceInfo {
            device: Bdf::new(0, 0, 0),
            stage1: Support::Present,
            page_requests,
            rid: true,
            max_pasids,
            vtd_cap: 0,
            vtd_ecap: 0,
        }
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        u32::from_le_bytes(*bytes.expect("four bytes"))
    }

    #[test]
    fn extended_capabilities_are_linked_and_end_in_the_next() {
        let found = extended_capabilities(&device(1 << 20, Support::Present), &LAYOUT);
        let found = found.expect("a layout");
        let headers: Vec<(u16, u32)> = found
            .iter()
            .map(|capability| (capability.offset, word(&capability.bytes, 0)))
            .collect();
        assert_eq!(
            headers,
            [
                (0x200, 0x2081_000f),
                (0x208, 0x2181_0013),
                (0x218, 0x3001_001b)
            ]
        );
        for capability in &found {
            assert_eq!(capability.bytes.len(), capability.writable.len());
            assert_eq!(word(&capability.writable, 0), 0, "the header");
        }
    }

    #[test]
    fn extended_capabilities_give_the_guest_its_enables_alone() {
        let found = extended_capabilities(&device(1 << 20, Support::Present), &LAYOUT);
        let found = found.expect("a layout");
        // ATS: enable and smallest translation unit.
        assert_eq!(word(&found[0].writable, 4), 0x801f_0000);
        // PRI: enable; stopped and PASID-required are read; the allocation.
        assert_eq!(word(&found[1].bytes, 4), 1 << 24 | 1 << 31);
        assert_eq!(word(&found[1].writable, 4), 1);
        assert_eq!(word(&found[1].bytes, 8), 64);
        assert_eq!(word(&found[1].writable, 8), 0);
        assert_eq!(word(&found[1].writable, 12), u32::MAX);
        // PASID: the smaller width; enable without execute and privileged.
        assert_eq!(word(&found[2].bytes, 4), 16 << 8);
        assert_eq!(word(&found[2].writable, 4), 1 << 16);
        let few = extended_capabilities(&device(256, Support::Present), &LAYOUT);
        assert_eq!(word(&few.expect("a layout")[2].bytes, 4), 8 << 8);
    }

    #[test]
    fn extended_capabilities_leave_out_what_is_missing() {
        let missing = Support::Missing(MissingBecause::NoPri);
        let found = extended_capabilities(&device(1 << 20, missing), &LAYOUT);
        assert_eq!(found.map(|found| found.len()), Some(2));
        let none = extended_capabilities(&device(0, missing), &LAYOUT);
        assert_eq!(none, Some(Vec::new()));
    }

    #[test]
    fn extended_capabilities_that_do_not_fit_are_none() {
        for offset in [0xfc, 0x202, 0xff0, 0xffc] {
            let layout = Layout { offset, ..LAYOUT };
            let device = device(1 << 20, Support::Present);
            assert_eq!(extended_capabilities(&device, &layout), None, "{offset:#x}");
        }
    }
}
