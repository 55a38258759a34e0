// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Descriptors of the invalidation queue, 256 bits each (VT-d 4.1, 6.5.2 and 7.7).

use super::bits::{Field, PAGE_ADDRESS, PAGE_BITS};
use super::source::SourceId;
use crate::fault::Response;
use crate::types::{Iova, IovaRange};

/// What a guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descriptor {
    /// Forget what is cached of context entries, of one function or of all.
    Contexts(Option<SourceId>),
    /// Forget what is cached of PASID entries: of a domain or of all, and of one PASID or of all.
    Pasids {
        domain: Option<u16>,
        pasid: Option<u32>,
    },
    /// Forget translations.
    Iotlb(Iotlb),
    /// Have a device forget translations that it has cached.
    DeviceTlb {
        source: SourceId,
        /// `None` for requests without one.
        pasid: Option<u32>,
        /// Those of all PASIDs.
        global: bool,
        range: IovaRange,
    },
    /// Forget interrupt entries, from one to another, or all.
    Interrupts(Option<(u16, u16)>),
    /// Tell when all before it is done.
    Wait {
        /// What is written where.
        status: Option<(u64, u32)>,
        interrupt: bool,
        /// After the page requests that came before (PD).
        drains_requests: bool,
    },
    /// An answer to a page request group.
    Response {
        source: SourceId,
        pasid: Option<u32>,
        group: u16,
        response: Response,
    },
}

/// Which translations are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Iotlb {
    /// Of one domain, or of all.
    pub(super) domain: Option<u16>,
    /// Of one PASID, or of all.
    pub(super) pasid: Option<u32>,
    pub(super) range: IovaRange,
    /// Pages only: no table above them has changed.
    pub(super) leaf: bool,
}

/// Why a descriptor cannot be carried out: field IQEI of IQERCD (VT-d 4.1, 11.4.9.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// The tail is beyond the queue.
    InvalidTail = 1,
    /// There is no memory where the descriptor, or the status that it writes, should be.
    Fetch = 2,
    /// There is no such type, or no such granularity of it.
    InvalidType = 3,
    /// A reserved field is not zero.
    ReservedField = 4,
    /// The descriptors are of 128 bits, which scalable mode has not.
    InvalidWidth = 5,
}

impl std::fmt::Display for QueueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::InvalidTail => "its tail is beyond its end",
            Self::Fetch => "there is no memory",
            Self::InvalidType => "a descriptor has no known type",
            Self::ReservedField => "a descriptor has reserved fields set",
            Self::InvalidWidth => "its descriptors are of 128 bits",
        })
    }
}

/// Fields of the first quadword of every descriptor (VT-d 4.1, 6.5.2): the type in two parts, and G,
/// the granularity.
const TYPE_LOW: Field = Field::bits(3, 0);
const TYPE_HIGH: Field = Field::bits(11, 9);
const GRANULARITY: Field = Field::bits(5, 4);
/// Of those that name a domain (DID).
const DOMAIN: Field = Field::bits(31, 16);
/// Of those that name a PASID.
const PASID: Field = Field::bits(51, 32);

/// Types of descriptors (VT-d 4.1, 6.5.2).
mod kind {
    pub(super) const CONTEXT_CACHE: u64 = 0x1;
    pub(super) const IOTLB: u64 = 0x2;
    pub(super) const DEVICE_TLB: u64 = 0x3;
    pub(super) const INTERRUPT_ENTRY_CACHE: u64 = 0x4;
    pub(super) const WAIT: u64 = 0x5;
    pub(super) const PASID_IOTLB: u64 = 0x6;
    pub(super) const PASID_CACHE: u64 = 0x7;
    pub(super) const PASID_DEVICE_TLB: u64 = 0x8;
    pub(super) const PAGE_GROUP_RESPONSE: u64 = 0x9;
}

/// Type 1, context-cache invalidation (6.5.2.1).
mod context_cache {
    use super::Field;

    pub(super) const GLOBAL: u64 = 1;
    pub(super) const DOMAIN: u64 = 2;
    pub(super) const DEVICE: u64 = 3;
    pub(super) const SOURCE: Field = Field::bits(47, 32);
    // Bits 49:48 are FM, the function mask.
    pub(super) const RESERVED: u64 =
        Field::bits(8, 6).mask() | Field::bits(15, 12).mask() | Field::bits(63, 50).mask();
}

/// Type 2, IOTLB invalidation (6.5.2.3), and type 6, that of a PASID (6.5.2.4).
mod iotlb {
    use super::Field;

    pub(super) const GLOBAL: u64 = 1;
    pub(super) const DOMAIN: u64 = 2;
    pub(super) const PAGES: u64 = 3;
    /// Of type 6.
    pub(super) const ALL_OF_PASID: u64 = 2;
    // Bits 7:6 of type 2 are DR and DW: accesses are drained in any case.
    pub(super) const RESERVED: u64 =
        Field::bits(8, 8).mask() | Field::bits(15, 12).mask() | Field::bits(63, 32).mask();
    pub(super) const RESERVED_WITH_PASID: u64 =
        Field::bits(8, 6).mask() | Field::bits(15, 12).mask() | Field::bits(63, 52).mask();
    /// In the second quadword: AM, how many bits of the page's number count for nothing.
    pub(super) const ADDRESS_MASK: Field = Field::bits(5, 0);
    /// IH: the invalidation hint, that no table above the pages has changed.
    pub(super) const HINT: Field = Field::bits(6, 6);
    pub(super) const RESERVED_SECOND: u64 = Field::bits(11, 7).mask();
}

/// Type 3, device-TLB invalidation (6.5.2.5), and type 8, that of a PASID (6.5.2.6). Of both bits
/// 15:12 and 63:52 are PFSID, as Linux writes it; for QEMU they are reserved.
mod device_tlb {
    use super::Field;

    pub(super) const SOURCE: Field = Field::bits(47, 32);
    // Bits 20:16 are the queue depth.
    pub(super) const RESERVED: u64 =
        Field::bits(8, 4).mask() | Field::bits(31, 21).mask() | Field::bits(51, 48).mask();
    /// S, in the second quadword: the address tells a size.
    pub(super) const SIZE: Field = Field::bits(0, 0);
    pub(super) const RESERVED_SECOND: u64 = Field::bits(11, 1).mask();

    pub(super) const PASID_SOURCE: Field = Field::bits(31, 16);
    /// G, in the second quadword: of every PASID.
    pub(super) const PASID_GLOBAL: Field = Field::bits(0, 0);
    pub(super) const PASID_SIZE: Field = Field::bits(11, 11);
    pub(super) const PASID_RESERVED_SECOND: u64 = Field::bits(10, 1).mask();
}

/// Type 4, interrupt-entry-cache invalidation (6.5.2.7). QEMU reads nothing else of it, and checks
/// no reserved bit.
mod interrupt_entry_cache {
    use super::Field;

    /// G: clear for all entries, set for those that the index names.
    pub(super) const SELECTIVE: Field = Field::bits(4, 4);
    /// IM: how many bits of the index count for nothing.
    pub(super) const INDEX_MASK: Field = Field::bits(31, 27);
    pub(super) const INDEX: Field = Field::bits(47, 32);
}

/// Type 5, invalidation wait (6.5.2.8).
mod wait {
    use super::Field;

    /// IF: the guest is interrupted.
    pub(super) const INTERRUPT: Field = Field::bits(4, 4);
    /// SW: the status is written.
    pub(super) const STATUS_WRITE: Field = Field::bits(5, 5);
    // Bit 6 is FN, the fence.
    /// PD: page requests that came before are drained.
    pub(super) const PAGE_REQUEST_DRAIN: Field = Field::bits(7, 7);
    pub(super) const STATUS: Field = Field::bits(63, 32);
    pub(super) const RESERVED: u64 = Field::bits(8, 8).mask() | Field::bits(31, 12).mask();
    /// In the second quadword, which is the status's address.
    pub(super) const RESERVED_SECOND: u64 = Field::bits(1, 0).mask();
}

/// Type 7, PASID-cache invalidation (6.5.2.2).
mod pasid_cache {
    use super::Field;

    pub(super) const DOMAIN: u64 = 0;
    pub(super) const PASID: u64 = 1;
    pub(super) const GLOBAL: u64 = 3;
    pub(super) const RESERVED: u64 =
        Field::bits(8, 6).mask() | Field::bits(15, 12).mask() | Field::bits(63, 52).mask();
}

/// Type 9, page group response (7.7.1).
mod response {
    use super::Field;

    /// PP: there is a PASID.
    pub(super) const PASID_PRESENT: Field = Field::bits(4, 4);
    /// RC, the response code (PCIe 6.0, 10.4.2.2).
    pub(super) const CODE: Field = Field::bits(15, 12);
    pub(super) const SUCCESS: u64 = 0;
    pub(super) const INVALID_REQUEST: u64 = 1;
    pub(super) const FAILURE: u64 = 0xf;
    pub(super) const SOURCE: Field = Field::bits(31, 16);
    pub(super) const RESERVED: u64 = Field::bits(8, 5).mask() | Field::bits(63, 52).mask();
    /// PRGI, in the second quadword: the index of the group.
    pub(super) const GROUP: Field = Field::bits(11, 3);
    // Bit 2 was LPIG, the last page in its group, which Linux sets up to 6.9.
    pub(super) const RESERVED_SECOND: u64 = Field::bits(1, 0).mask() | Field::bits(63, 12).mask();
}

/// So many pages around an address, as a power of two: the lower bits of the address count for
/// nothing.
fn pages(address: u64, order: u64) -> IovaRange {
    let bits = order + u64::from(PAGE_BITS);
    if bits >= 64 {
        return IovaRange::ALL;
    }
    let mask = (1u64 << bits) - 1;
    let start = address & !mask;
    IovaRange::new(Iova(start), Iova(start | mask)).unwrap_or(IovaRange::ALL)
}

/// The pages of a device TLB invalidation: with S the lowest zero of the address tells how many
/// (PCIe 6.0, 10.3.2).
fn device_pages(second: u64, size: Field) -> IovaRange {
    let address = second & PAGE_ADDRESS;
    if size.of(second) == 0 {
        return pages(address, 0);
    }
    let order = (address >> PAGE_BITS).trailing_ones() + 1;
    pages(address, u64::from(order))
}

fn source(word: u64, field: Field) -> SourceId {
    // CAST: 16 bits.
    SourceId(field.of(word) as u16)
}

fn pasid(first: u64) -> u32 {
    // CAST: 20 bits.
    PASID.of(first) as u32
}

fn domain(first: u64) -> u16 {
    // CAST: 16 bits.
    DOMAIN.of(first) as u16
}

/// Whether these bits are zeros, as reserved ones have to be.
fn check(word: u64, reserved: u64) -> Result<(), QueueError> {
    if word & reserved == 0 {
        Ok(())
    } else {
        Err(QueueError::ReservedField)
    }
}

impl Descriptor {
    /// What a descriptor says.
    ///
    /// # Errors
    ///
    /// Why it says nothing.
    pub(super) fn decode(words: &[u64; 4]) -> Result<Self, QueueError> {
        let [first, second, third, fourth] = *words;
        check(third | fourth, !0)?;
        match TYPE_LOW.of(first) | TYPE_HIGH.of(first) << 4 {
            kind::CONTEXT_CACHE => Self::context_cache(first, second),
            kind::IOTLB => Self::iotlb(first, second),
            kind::DEVICE_TLB => {
                check(first, device_tlb::RESERVED)?;
                check(second, device_tlb::RESERVED_SECOND)?;
                Ok(Self::DeviceTlb {
                    source: source(first, device_tlb::SOURCE),
                    pasid: None,
                    global: false,
                    range: device_pages(second, device_tlb::SIZE),
                })
            }
            kind::INTERRUPT_ENTRY_CACHE => Ok(Self::interrupt_entry_cache(first)),
            kind::WAIT => Self::wait(first, second),
            kind::PASID_IOTLB => Self::pasid_iotlb(first, second),
            kind::PASID_CACHE => Self::pasid_cache(first, second),
            kind::PASID_DEVICE_TLB => {
                check(second, device_tlb::PASID_RESERVED_SECOND)?;
                Ok(Self::DeviceTlb {
                    source: source(first, device_tlb::PASID_SOURCE),
                    pasid: Some(pasid(first)),
                    global: device_tlb::PASID_GLOBAL.of(second) != 0,
                    range: device_pages(second, device_tlb::PASID_SIZE),
                })
            }
            kind::PAGE_GROUP_RESPONSE => Self::response(first, second),
            _ => Err(QueueError::InvalidType),
        }
    }

    fn context_cache(first: u64, second: u64) -> Result<Self, QueueError> {
        check(first, context_cache::RESERVED)?;
        check(second, !0)?;
        match GRANULARITY.of(first) {
            context_cache::GLOBAL | context_cache::DOMAIN => Ok(Self::Contexts(None)),
            context_cache::DEVICE => {
                let source = source(first, context_cache::SOURCE);
                Ok(Self::Contexts(Some(source)))
            }
            _ => Err(QueueError::InvalidType),
        }
    }

    fn iotlb(first: u64, second: u64) -> Result<Self, QueueError> {
        check(first, iotlb::RESERVED)?;
        check(second, iotlb::RESERVED_SECOND)?;
        let of = |domain, range| Iotlb {
            domain,
            pasid: None,
            range,
            leaf: iotlb::HINT.of(second) != 0,
        };
        Ok(Self::Iotlb(match GRANULARITY.of(first) {
            iotlb::GLOBAL => of(None, IovaRange::ALL),
            iotlb::DOMAIN => of(Some(domain(first)), IovaRange::ALL),
            iotlb::PAGES => of(
                Some(domain(first)),
                pages(second, iotlb::ADDRESS_MASK.of(second)),
            ),
            _ => return Err(QueueError::InvalidType),
        }))
    }

    fn pasid_iotlb(first: u64, second: u64) -> Result<Self, QueueError> {
        check(first, iotlb::RESERVED_WITH_PASID)?;
        check(second, iotlb::RESERVED_SECOND)?;
        let of = |range, leaf| Iotlb {
            domain: Some(domain(first)),
            pasid: Some(pasid(first)),
            range,
            leaf,
        };
        Ok(Self::Iotlb(match GRANULARITY.of(first) {
            iotlb::ALL_OF_PASID => of(IovaRange::ALL, false),
            iotlb::PAGES => of(
                pages(second, iotlb::ADDRESS_MASK.of(second)),
                iotlb::HINT.of(second) != 0,
            ),
            _ => return Err(QueueError::InvalidType),
        }))
    }

    fn interrupt_entry_cache(first: u64) -> Self {
        use interrupt_entry_cache::{INDEX, INDEX_MASK, SELECTIVE};

        if SELECTIVE.of(first) == 0 {
            return Self::Interrupts(None);
        }
        let mask = (1u64 << INDEX_MASK.of(first).min(16)) - 1;
        let index = INDEX.of(first);
        // CAST: 16 bits.
        Self::Interrupts(Some(((index & !mask) as u16, (index | mask) as u16)))
    }

    fn pasid_cache(first: u64, second: u64) -> Result<Self, QueueError> {
        check(first, pasid_cache::RESERVED)?;
        check(second, !0)?;
        let (domain, pasid) = match GRANULARITY.of(first) {
            pasid_cache::DOMAIN => (Some(domain(first)), None),
            pasid_cache::PASID => (Some(domain(first)), Some(pasid(first))),
            pasid_cache::GLOBAL => (None, None),
            _ => return Err(QueueError::InvalidType),
        };
        Ok(Self::Pasids { domain, pasid })
    }

    fn wait(first: u64, second: u64) -> Result<Self, QueueError> {
        check(first, wait::RESERVED)?;
        check(second, wait::RESERVED_SECOND)?;
        // CAST: 32 bits.
        let status = wait::STATUS.of(first) as u32;
        let writes = wait::STATUS_WRITE.of(first) != 0;
        Ok(Self::Wait {
            status: writes.then_some((second, status)),
            interrupt: wait::INTERRUPT.of(first) != 0,
            drains_requests: wait::PAGE_REQUEST_DRAIN.of(first) != 0,
        })
    }

    fn response(first: u64, second: u64) -> Result<Self, QueueError> {
        check(first, response::RESERVED)?;
        check(second, response::RESERVED_SECOND)?;
        let answer = match response::CODE.of(first) {
            response::SUCCESS => Response::Success,
            // Failure is for good, which the host has no word for: it is the device's to give up.
            response::INVALID_REQUEST | response::FAILURE => Response::Invalid,
            _ => return Err(QueueError::ReservedField),
        };
        let has_pasid = response::PASID_PRESENT.of(first) != 0;
        Ok(Self::Response {
            source: source(first, response::SOURCE),
            pasid: has_pasid.then(|| pasid(first)),
            // CAST: 9 bits.
            group: response::GROUP.of(second) as u16,
            response: answer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, last: u64) -> IovaRange {
        IovaRange::new(Iova(start), Iova(last)).expect("a range")
    }

    fn decode(first: u64, second: u64) -> Result<Descriptor, QueueError> {
        Descriptor::decode(&[first, second, 0, 0])
    }

    #[test]
    fn pages_of_a_pasid_are_named() {
        // As Linux writes them: granularity 3, domain 2, PASID 5; two pages, leaves only.
        let found = decode(5 << 32 | 2 << 16 | 3 << 4 | 6, 0x7000 | 0x40 | 1);
        assert_eq!(
            found,
            Ok(Descriptor::Iotlb(Iotlb {
                domain: Some(2),
                pasid: Some(5),
                range: range(0x6000, 0x7fff),
                leaf: true,
            }))
        );
    }

    #[test]
    fn device_pages_are_told_by_the_lowest_zero() {
        let of = |word| match decode(7 << 32 | 0x20 << 16 | 8, word) {
            Ok(Descriptor::DeviceTlb { range, .. }) => range,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(0x5000), range(0x5000, 0x5fff));
        assert_eq!(of(0x4800), range(0x4000, 0x5fff));
        assert_eq!(of(0x3800), range(0x0000, 0x7fff));
        assert_eq!(of(0x7fff_ffff_ffff_f800), IovaRange::ALL);
        assert_eq!(of(!0xfff | 0x800), IovaRange::ALL);
    }

    #[test]
    fn wait_has_its_status() {
        let found = decode(2 << 32 | 1 << 5 | 1 << 6 | 5, 0x1234);
        let status = Some((0x1234, 2));
        assert_eq!(
            found,
            Ok(Descriptor::Wait {
                status,
                interrupt: false,
                drains_requests: false,
            })
        );
        assert_eq!(decode(5, 1), Err(QueueError::ReservedField));
    }

    #[test]
    fn response_names_its_group() {
        let found = decode(9 | 1 << 4 | 1 << 12 | 0x20 << 16 | 77 << 32, 0x1ff << 3);
        assert_eq!(
            found,
            Ok(Descriptor::Response {
                source: SourceId(0x20),
                pasid: Some(77),
                group: 0x1ff,
                response: Response::Invalid,
            })
        );
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(decode(0, 0), Err(QueueError::InvalidType));
        assert_eq!(decode(0xf, 0), Err(QueueError::InvalidType));
        assert_eq!(decode(1, 0), Err(QueueError::InvalidType));
        assert_eq!(decode(7 | 2 << 4, 0), Err(QueueError::InvalidType));
        assert_eq!(decode(9 | 2 << 12, 0), Err(QueueError::ReservedField));
        assert_eq!(
            Descriptor::decode(&[0x15, 0, 0, 1]),
            Err(QueueError::ReservedField)
        );
    }

    /// A descriptor of each type as Linux writes it, and which bits of its first two quadwords are
    /// reserved.
    #[test]
    fn each_reserved_bit_of_a_descriptor_is_refused() {
        let cases: [(u64, u64, u64, u64); 9] = [
            (1 | 3 << 4 | 0x28 << 32, 0, 0xfffc_0000_0000_f1c0, !0),
            (
                2 | 3 << 4 | 3 << 6 | 2 << 16,
                0,
                0xffff_ffff_0000_f100,
                0xf80,
            ),
            (3 | 0x28 << 32, 0, 0x000f_0000_ffe0_01f0, 0xffe),
            (4 | 1 << 4 | 4 << 32, 0, 0, 0),
            (5 | 1 << 5 | 1 << 6 | 2 << 32, 0x1000, 0xffff_f100, 3),
            (
                6 | 3 << 4 | 2 << 16 | 5 << 32,
                0x7041,
                0xfff0_0000_0000_f1c0,
                0xf80,
            ),
            (7 | 1 << 4 | 2 << 16 | 5 << 32, 0, 0xfff0_0000_0000_f1c0, !0),
            (8 | 0x28 << 16 | 5 << 32, 0x7800, 0, 0x7fe),
            (
                9 | 1 << 4 | 0x28 << 16 | 5 << 32,
                3 << 3,
                0xfff0_0000_0000_01e0,
                !0xffc,
            ),
        ];
        for (first, second, reserved, reserved_second) in cases {
            assert!(decode(first, second).is_ok(), "{first:#x}");
            for bit in (0..64).map(|bit| 1 << bit) {
                let found = decode(first | bit, second);
                if reserved & bit != 0 {
                    assert_eq!(
                        found,
                        Err(QueueError::ReservedField),
                        "{first:#x} | {bit:#x}"
                    );
                } else if bit & 0xfe3f == 0 {
                    // Others than those of the type, the granularity and the answer.
                    assert!(found.is_ok(), "{first:#x} | {bit:#x}");
                }
                let refused = decode(first, second | bit) == Err(QueueError::ReservedField);
                assert_eq!(
                    refused,
                    reserved_second & bit != 0,
                    "{second:#x} | {bit:#x}"
                );
            }
        }
        for words in [[5, 0, 1, 0], [5, 0, 0, 1 << 63]] {
            assert_eq!(Descriptor::decode(&words), Err(QueueError::ReservedField));
        }
    }

    /// Up to 6.9 Linux sets LPIG, of older specifications.
    #[test]
    fn last_page_in_group_is_ignored() {
        let answer = |second| decode(9 | 1 << 4 | 0x20 << 16 | 77 << 32, second);
        assert_eq!(answer(5 << 3 | 1 << 2), answer(5 << 3));
        assert!(answer(5 << 3).is_ok());
    }

    proptest! {
        #[test]
        fn any_words_are_a_descriptor_or_are_refused(words: [u64; 4]) {
            let _ = Descriptor::decode(&words);
        }

        #[test]
        fn range_has_the_page_that_was_named(page in 0u64..1 << 52, order in 0u64..64) {
            let range = pages(page << 12, order);
            prop_assert!(range.start().0 <= page << 12 && page << 12 <= range.last().0);
        }
    }
}
