// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupt remapping (VT-d 4.1, 5.1, 9.9 and 9.10): what a VMM's devices and IOAPICs send goes by
//! the guest's table.

use super::bits::{Field, PAGE_ADDRESS};
use super::memory::{read_words, Memory};
use super::registers::{Msi, IRTA_EIME, IRTA_SIZE};
use super::source::SourceId;
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
        const RESERVED = Field::bits(14, 12).mask() | Self::IM.bits() | Field::bits(31, 24).mask();
        const _ = !0;
    }
}

/// The address of a message in the remappable format: the handle in two parts (5.1.2.2).
const HANDLE_LOW: Field = Field::bits(19, 5);
const HANDLE_HIGH: Field = Field::bits(2, 2);
const HANDLE_HIGH_BIT: u32 = 15;
/// What is above the address of messages.
const ADDRESS_RESERVED: u64 = Field::bits(63, 32).mask();
/// The subhandle, in the data.
const SUBHANDLE: Field = Field::bits(15, 0);

/// Fields of an entry (9.10), in the low quadword.
const DELIVERY_MODE: Field = Field::bits(7, 5);
const VECTOR: Field = Field::bits(23, 16);
/// DST in extended mode; without it the destination is bits 15:8 of these.
const DESTINATION: Field = Field::bits(63, 32);
const DESTINATION_8: Field = Field::bits(15, 8);
/// In the high quadword: SID, SQ and SVT.
const SOURCE_ID: Field = Field::bits(15, 0);
const SOURCE_QUALIFIER: Field = Field::bits(17, 16);
const SOURCE_VALIDATION: Field = Field::bits(19, 18);
const RESERVED_HIGH: u64 = Field::bits(63, 20).mask();
/// SID where a range of buses is allowed: the first and the last.
const FIRST_BUS: Field = Field::bits(15, 8);
const LAST_BUS: Field = Field::bits(7, 0);

/// The address of interrupts on x86, and where a message's address has its fields (SDM, 11.11.1).
const MESSAGE_ADDRESS: u64 = 0xfee0_0000;
const MESSAGE_ADDRESSES: u64 = Field::bits(31, 20).mask();
const MESSAGE_DESTINATION: Field = Field::bits(19, 12);
/// Destination bits 31:8, as KVM has them with KVM_X2APIC_API_USE_32BIT_IDS.
const MESSAGE_DESTINATION_HIGH: Field = Field::bits(63, 40);
const LOGICAL: u64 = 1 << 2;
const REDIRECTION: u64 = 1 << 3;
/// In a message's data: vector, delivery mode, level-triggered and asserted (SDM, 11.11.2).
const MESSAGE_VECTOR: Field = Field::bits(7, 0);
const MESSAGE_MODE: Field = Field::bits(10, 8);
const LEVEL: u64 = 1 << 15;
const ASSERT: u64 = 1 << 14;
/// Bytes of an entry.
const ENTRY: u64 = 16;

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
        let high = HANDLE_HIGH.of(message.address) << HANDLE_HIGH_BIT;
        let handle = high | HANDLE_LOW.of(message.address);
        let subhandle = SUBHANDLE.of(message.data.into());
        let has_subhandle = address.contains(Address::SHV);
        let index = handle + if has_subhandle { subhandle } else { 0 };
        // CAST: the lowest 16 bits, for the record.
        let blocked = |reason, silent| Blocked {
            reason,
            index: index as u16,
            silent,
        };
        let data_reserved = u64::from(message.data) & !SUBHANDLE.mask();
        if message.address & ADDRESS_RESERVED != 0 || data_reserved != 0 {
            return Err(blocked(reason::RESERVED_REQUEST, false));
        }
        // 2^(S + 1) entries.
        if index >> ((self.table & IRTA_SIZE) + 1) != 0 {
            return Err(blocked(reason::INDEX_TOO_LARGE, false));
        }
        let at = (self.table & PAGE_ADDRESS).checked_add(index * ENTRY);
        let words = at.and_then(|at| read_words::<2>(memory, at));
        let [low, high] = words.ok_or(blocked(reason::TABLE_ACCESS, false))?;
        let entry = Entry::from_bits_retain(low);
        let blocked = |reason| blocked(reason, entry.contains(Entry::FPD));
        if !entry.contains(Entry::P) {
            return Err(blocked(reason::ABSENT));
        }
        let verify = SOURCE_VALIDATION.of(high);
        let destination = DESTINATION.of(low);
        if entry.intersects(Entry::RESERVED)
            || (!extended && destination & !DESTINATION_8.mask() != 0)
            || verify > VERIFY_BUS
            || high & RESERVED_HIGH != 0
        {
            return Err(blocked(reason::RESERVED_ENTRY));
        }
        if !verified(source, verify, high) {
            return Err(blocked(reason::SOURCE_INVALID));
        }
        let destination = if extended {
            destination
        } else {
            DESTINATION_8.of(destination)
        };
        let flag = |bit: Entry, to: u64| if entry.contains(bit) { to } else { 0 };
        let data = MESSAGE_VECTOR.with(VECTOR.of(low))
            | MESSAGE_MODE.with(DELIVERY_MODE.of(low))
            | flag(Entry::TM, LEVEL | ASSERT);
        Ok(Msi {
            address: MESSAGE_DESTINATION_HIGH.with(destination >> 8)
                | MESSAGE_ADDRESS
                | MESSAGE_DESTINATION.with(destination)
                | flag(Entry::RH, REDIRECTION)
                | flag(Entry::DM, LOGICAL),
            // CAST: 16 bits.
            data: data as u32,
        })
    }
}

/// Whether a function may send by an entry (9.10: SVT, SQ and SID).
fn verified(source: SourceId, verify: u64, high: u64) -> bool {
    // CAST: 16 bits.
    let allowed = SOURCE_ID.of(high) as u16;
    match verify {
        VERIFY_NONE => true,
        VERIFY_SOURCE => {
            // SQ: bits of the function number that are not compared.
            let ignored = match SOURCE_QUALIFIER.of(high) {
                0 => 0,
                1 => 0b100,
                2 => 0b110,
                _ => 0b111,
            };
            (source.0 ^ allowed) & !ignored == 0
        }
        _ => (FIRST_BUS.of(high)..=LAST_BUS.of(high)).contains(&source.bus()),
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
