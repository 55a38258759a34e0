// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Descriptors of the invalidation queue, 256 bits each (VT-d 4.1, 6.5.2 and 7.7).

use super::tables::SourceId;
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

/// Bits of a word.
const fn field(word: u64, shift: u32, bits: u32) -> u64 {
    word >> shift & ((1 << bits) - 1)
}

/// So many pages around an address, as a power of two: the lower bits of the address count for
/// nothing.
fn pages(address: u64, order: u64) -> IovaRange {
    let bits = order + 12;
    if bits >= 64 {
        return IovaRange::ALL;
    }
    let mask = (1u64 << bits) - 1;
    let start = address & !mask;
    IovaRange::new(Iova(start), Iova(start | mask)).unwrap_or(IovaRange::ALL)
}

/// The pages of a device TLB invalidation: with S the lowest zero of the address tells how many
/// (PCIe 6.0, 10.3.2).
fn device_pages(word: u64) -> IovaRange {
    let address = word & !0xfff;
    if word & (1 << 11) == 0 {
        return pages(address, 0);
    }
    let order = (address >> 12).trailing_ones() + 1;
    pages(address, u64::from(order))
}

fn source(word: u64, shift: u32) -> SourceId {
    // CAST: 16 bits.
    SourceId(field(word, shift, 16) as u16)
}

fn pasid(word: u64) -> u32 {
    // CAST: 20 bits.
    field(word, 32, 20) as u32
}

fn domain(word: u64) -> u16 {
    // CAST: 16 bits.
    field(word, 16, 16) as u16
}

impl Descriptor {
    /// What a descriptor says.
    ///
    /// # Errors
    ///
    /// Why it says nothing.
    pub(super) fn decode(words: &[u64; 4]) -> Result<Self, QueueError> {
        let [first, second, rest @ ..] = *words;
        if rest != [0, 0] {
            return Err(QueueError::ReservedField);
        }
        // The type has its upper three bits elsewhere.
        let kind = field(first, 0, 4) | field(first, 9, 3) << 4;
        match kind {
            0x1 => match field(first, 4, 2) {
                1 | 2 => Ok(Self::Contexts(None)),
                3 => Ok(Self::Contexts(Some(source(first, 32)))),
                _ => Err(QueueError::InvalidType),
            },
            0x2 => {
                let of = |domain, range| Iotlb {
                    domain,
                    pasid: None,
                    range,
                    leaf: second & 0x40 != 0,
                };
                match field(first, 4, 2) {
                    1 => Ok(Self::Iotlb(of(None, IovaRange::ALL))),
                    2 => Ok(Self::Iotlb(of(Some(domain(first)), IovaRange::ALL))),
                    3 => {
                        let range = pages(second, field(second, 0, 6));
                        Ok(Self::Iotlb(of(Some(domain(first)), range)))
                    }
                    _ => Err(QueueError::InvalidType),
                }
            }
            0x3 => Ok(Self::DeviceTlb {
                source: source(first, 32),
                pasid: None,
                global: false,
                // S is bit 0 here.
                range: device_pages(second & !0xfff | field(second, 0, 1) << 11),
            }),
            0x4 => Ok(Self::Interrupts(if field(first, 4, 1) == 0 {
                None
            } else {
                // IM: as many bits of the index as are ignored.
                let mask = (1u64 << field(first, 27, 5).min(16)) - 1;
                let index = field(first, 32, 16);
                // CAST: 16 bits.
                Some(((index & !mask) as u16, (index | mask) as u16))
            })),
            0x5 => Self::wait(first, second),
            0x6 => {
                let of = |range| Iotlb {
                    domain: Some(domain(first)),
                    pasid: Some(pasid(first)),
                    range,
                    leaf: second & 0x40 != 0,
                };
                match field(first, 4, 2) {
                    2 => Ok(Self::Iotlb(Iotlb {
                        leaf: false,
                        ..of(IovaRange::ALL)
                    })),
                    3 => Ok(Self::Iotlb(of(pages(second, field(second, 0, 6))))),
                    _ => Err(QueueError::InvalidType),
                }
            }
            0x7 => {
                let (domain, pasid) = (Some(domain(first)), Some(pasid(first)));
                match field(first, 4, 2) {
                    0 => Ok(Self::Pasids {
                        domain,
                        pasid: None,
                    }),
                    1 => Ok(Self::Pasids { domain, pasid }),
                    3 => Ok(Self::Pasids {
                        domain: None,
                        pasid: None,
                    }),
                    _ => Err(QueueError::InvalidType),
                }
            }
            0x8 => Ok(Self::DeviceTlb {
                source: source(first, 16),
                pasid: Some(pasid(first)),
                global: second & 1 != 0,
                range: device_pages(second),
            }),
            0x9 => Self::response(first, second),
            _ => Err(QueueError::InvalidType),
        }
    }

    fn wait(first: u64, second: u64) -> Result<Self, QueueError> {
        if second & 3 != 0 {
            return Err(QueueError::ReservedField);
        }
        // CAST: the upper half.
        let status = (first >> 32) as u32;
        Ok(Self::Wait {
            status: (first & 0x20 != 0).then_some((second, status)),
            interrupt: first & 0x10 != 0,
            drains_requests: first & 0x80 != 0,
        })
    }

    fn response(first: u64, second: u64) -> Result<Self, QueueError> {
        let response = match field(first, 12, 4) {
            0 => Response::Success,
            // Failure is for good, which the host has no word for: it is the device's to give up.
            1 | 0xf => Response::Invalid,
            _ => return Err(QueueError::ReservedField),
        };
        Ok(Self::Response {
            source: source(first, 16),
            pasid: (first & 0x10 != 0).then(|| pasid(first)),
            // CAST: 9 bits.
            group: field(second, 3, 9) as u16,
            response,
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
