// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupt remapping (VT-d 4.1, 5.1, 9.9 and 9.10): what a VMM's devices and IOAPICs send goes by
//! the guest's table.

use super::memory::{read_words, Memory};
use super::registers::{Msi, IRTA_EIME, IRTA_SIZE};
use super::tables::SourceId;
use bitflags::bitflags;

/// Why an interrupt is blocked: the reasons of fault records (VT-d 4.1, 7.1.3, table 29).
mod reason {
    pub(super) const RESERVED_REQUEST: u8 = 0x20;
    pub(super) const INDEX_TOO_LARGE: u8 = 0x21;
    pub(super) const ABSENT: u8 = 0x22;
    pub(super) const TABLE_ACCESS: u8 = 0x23;
    pub(super) const RESERVED_ENTRY: u8 = 0x24;
    pub(super) const COMPATIBILITY_BLOCKED: u8 = 0x25;
    pub(super) const SOURCE_INVALID: u8 = 0x26;
}

/// What the guest has set for interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Remapping {
    /// IRTA when the guest set the table.
    pub(super) table: u64,
    /// GSTS.IRES.
    pub(super) enabled: bool,
    /// GSTS.CFIS: compatibility-format interrupts pass.
    pub(super) compatibility: bool,
}

/// An interrupt that was blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) reason: u8,
    /// The entry; none for a request of the compatibility format.
    pub(super) index: u16,
    /// The entry says that faults are not to be recorded (FPD).
    pub(super) silent: bool,
}

bitflags! {
    /// The address of a message in the remappable format (5.1.2.2).
    #[derive(Clone, Copy)]
    struct Address: u64 {
        /// The sub-handle in the data is added to the handle.
        const SHV = 1 << 3;
        /// Interrupt format: remappable.
        const FORMAT = 1 << 4;
        const _ = !0;
    }

    /// The low quadword of an entry (9.10).
    #[derive(Clone, Copy)]
    struct Entry: u64 {
        /// Present.
        const P = 1 << 0;
        /// Fault processing disable.
        const FPD = 1 << 1;
        /// Destination mode: logical.
        const DM = 1 << 2;
        /// Redirection hint.
        const RH = 1 << 3;
        /// Trigger mode: level.
        const TM = 1 << 4;
        /// Posted (ECAP and CAP.PI, which are not offered).
        const IM = 1 << 15;
        const RESERVED = 0xf << 12 | 0xff << 24;
        const _ = !0;
    }
}

/// The address of interrupts on x86, and where a message's address has its fields (SDM, 11.11.1).
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
const MESSAGE_ADDRESSES: u64 = 0xfff0_0000;
const LOGICAL: u64 = 1 << 2;
const REDIRECTION: u64 = 1 << 3;
/// In a message's data: level-triggered, and asserted.
const LEVEL: u32 = 1 << 15;
const ASSERT: u32 = 1 << 14;

/// How the source of an interrupt is verified (SVT).
const VERIFY_NONE: u64 = 0;
const VERIFY_SOURCE: u64 = 1;
const VERIFY_BUS: u64 = 2;

impl Remapping {
    /// What becomes of a message: the message that reaches the CPUs.
    ///
    /// The upper half of its address has destination bits 31:8 in extended mode, as KVM and
    /// hypervisors have it in an MSI.
    ///
    /// # Errors
    ///
    /// Why it is blocked.
    pub(super) fn remap(
        &self,
        memory: &dyn Memory,
        source: SourceId,
        message: Msi,
    ) -> Result<Msi, Blocked> {
        if !self.enabled || message.address & MESSAGE_ADDRESSES != MESSAGE_ADDRESS {
            return Ok(message);
        }
        let address = Address::from_bits_retain(message.address);
        let extended = self.table & IRTA_EIME != 0;
        if !address.contains(Address::FORMAT) {
            // In extended mode there is no compatibility format.
            if self.compatibility && !extended {
                return Ok(message);
            }
            return Err(Blocked {
                reason: reason::COMPATIBILITY_BLOCKED,
                index: 0,
                silent: false,
            });
        }
        // Bits 19:5 of the address, and bit 2.
        let handle = (address.bits() >> 5 & 0x7fff) | (address.bits() >> 2 & 1) << 15;
        let subhandle = u64::from(message.data & 0xffff);
        let has_subhandle = address.contains(Address::SHV);
        let index = handle + if has_subhandle { subhandle } else { 0 };
        // CAST: the lowest 16 bits, for the record.
        let blocked = |reason, silent| Blocked {
            reason,
            index: index as u16,
            silent,
        };
        if message.address >> 32 != 0 || message.data >> 16 != 0 {
            return Err(blocked(reason::RESERVED_REQUEST, false));
        }
        // 2^(S + 1) entries.
        if index >> ((self.table & IRTA_SIZE) + 1) != 0 {
            return Err(blocked(reason::INDEX_TOO_LARGE, false));
        }
        let at = (self.table & !0xfff).checked_add(index << 4);
        let words = at.and_then(|at| read_words::<2>(memory, at));
        let [low, high] = words.ok_or(blocked(reason::TABLE_ACCESS, false))?;
        let entry = Entry::from_bits_retain(low);
        let blocked = |reason| blocked(reason, entry.contains(Entry::FPD));
        if !entry.contains(Entry::P) {
            return Err(blocked(reason::ABSENT));
        }
        let verify = high >> 18 & 3;
        let destination = low >> 32;
        // Without extended mode the destination is bits 15:8.
        let reserved_destination = if extended { 0 } else { !0xff00 & 0xffff_ffff };
        if entry.intersects(Entry::RESERVED)
            || destination & reserved_destination != 0
            || verify > VERIFY_BUS
            || high >> 20 != 0
        {
            return Err(blocked(reason::RESERVED_ENTRY));
        }
        if !verified(source, verify, high) {
            return Err(blocked(reason::SOURCE_INVALID));
        }
        let destination = if extended {
            destination
        } else {
            destination >> 8
        };
        let flag = |bit: Entry, to: u64| if entry.contains(bit) { to } else { 0 };
        // CAST: 8 bits and 3.
        let (vector, mode) = ((low >> 16 & 0xff) as u32, (low >> 5 & 7) as u32);
        let level = if entry.contains(Entry::TM) {
            LEVEL | ASSERT
        } else {
            0
        };
        Ok(Msi {
            address: (destination & !0xff) << 32
                | MESSAGE_ADDRESS
                | (destination & 0xff) << 12
                | flag(Entry::RH, REDIRECTION)
                | flag(Entry::DM, LOGICAL),
            data: vector | mode << 8 | level,
        })
    }
}

/// Whether a function may send by an entry (9.10: SVT, SQ and SID).
fn verified(source: SourceId, verify: u64, high: u64) -> bool {
    // CAST: 16 bits.
    let allowed = (high & 0xffff) as u16;
    match verify {
        VERIFY_NONE => true,
        VERIFY_SOURCE => {
            // SQ: bits of the function number that are not compared.
            let ignored = match high >> 16 & 3 {
                0 => 0,
                1 => 0b100,
                2 => 0b110,
                _ => 0b111,
            };
            (source.0 ^ allowed) & !ignored == 0
        }
        // From one bus to another.
        _ => {
            let bus = source.0 >> 8;
            (allowed >> 8..=allowed & 0xff).contains(&bus)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::tests::Words;
    use super::*;

    const TABLE: u64 = 0x1000;
    const SOURCE: SourceId = SourceId(0x28);

    fn remapping() -> Remapping {
        Remapping {
            // 256 entries.
            table: TABLE | IRTA_EIME | 7,
            enabled: true,
            compatibility: false,
        }
    }

    fn words(index: u64, low: u64, high: u64) -> Words {
        let words = Words::default();
        assert!(words.write(TABLE + index * 16, low) && words.write(TABLE + index * 16 + 8, high));
        words
    }

    fn message(index: u64, data: u32) -> Msi {
        Msi {
            address: 0xfee0_0010 | 1 << 3 | index << 5,
            data,
        }
    }

    #[test]
    fn entry_says_where_an_interrupt_goes() {
        let words = words(5, 1 | 0x1234_5678 << 32 | 0x41 << 16 | 1 << 2 | 1 << 5, 0);
        let sent = remapping().remap(&words, SOURCE, message(3, 2));
        let expected = Msi {
            address: 0x1234_5600_0000_0000 | 0xfee0_0000 | 0x78 << 12 | 4,
            data: 0x141,
        };
        assert_eq!(sent, Ok(expected));
    }

    #[test]
    fn xapic_destinations_are_eight_bits() {
        let words = words(1, 1 | 0x3400 << 32 | 0x41 << 16 | 1 << 4, 0);
        let remapping = Remapping {
            table: TABLE | 7,
            ..remapping()
        };
        let sent = remapping.remap(&words, SOURCE, message(1, 0));
        let expected = Msi {
            address: 0xfee0_0000 | 0x34 << 12,
            data: 0xc041,
        };
        assert_eq!(sent, Ok(expected));
    }

    #[test]
    fn off_nothing_changes() {
        let off = Remapping::default();
        let any = message(1, 7);
        assert_eq!(off.remap(&Words::default(), SOURCE, any), Ok(any));
    }

    #[test]
    fn what_is_wrong_is_blocked_with_its_reason() {
        let present = 1 | 0x41 << 16;
        let high_of = |svt: u64, sid: u64| svt << 18 | sid;
        let cases: [(u64, u64, Msi, u8); 11] = [
            (
                present,
                0,
                Msi {
                    address: 1 << 32 | message(1, 0).address,
                    data: 0,
                },
                0x20,
            ),
            (present, 0, message(1, 0x1_0000), 0x20),
            (present, 0, message(256, 0), 0x21),
            (0, 0, message(1, 0), 0x22),
            (present, 0, message(2, 0), 0x23),
            (present | 1 << 15, 0, message(1, 0), 0x24),
            (present | 1 << 12, 0, message(1, 0), 0x24),
            (present, 3 << 18, message(1, 0), 0x24),
            (
                present,
                0,
                Msi {
                    address: 0xfee0_0000,
                    data: 0x41,
                },
                0x25,
            ),
            (present, high_of(1, 0x29), message(1, 0), 0x26),
            (present, high_of(2, 0x0102), message(1, 0), 0x26),
        ];
        for (low, high, message, reason) in cases {
            let words = words(1, low, high);
            let blocked = remapping().remap(&words, SOURCE, message);
            assert_eq!(
                blocked.map_err(|blocked| blocked.reason),
                Err(reason),
                "{message:x?}"
            );
        }
        let words = words(1, 2, 0);
        let blocked = remapping().remap(&words, SOURCE, message(1, 0));
        assert!(blocked.is_err_and(|blocked| blocked.silent));
    }

    #[test]
    fn source_is_verified_as_the_entry_says() {
        for (svt, sq, sid, passes) in [
            (0, 0, 0x9999, true),
            (1, 0, 0x28, true),
            (1, 1, 0x2c, true),
            (1, 3, 0x2f, true),
            (1, 3, 0x30, false),
            (2, 0, 0x0001, true),
        ] {
            let words = words(1, 1 | 0x41 << 16, svt << 18 | sq << 16 | sid);
            let sent = remapping().remap(&words, SOURCE, message(1, 0));
            assert_eq!(sent.is_ok(), passes, "{svt} {sq} {sid:#x}");
        }
    }

    #[test]
    fn compatibility_format_passes_where_the_guest_lets_it() {
        let old = Msi {
            address: 0xfee0_1000,
            data: 0x41,
        };
        let remapping = Remapping {
            table: TABLE | 7,
            compatibility: true,
            ..remapping()
        };
        assert_eq!(remapping.remap(&Words::default(), SOURCE, old), Ok(old));
    }
}
