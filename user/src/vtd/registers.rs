// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The register file: what reads give, and what of a write takes effect (VT-d 4.1, 11.4).

use super::bits::{Field, PAGE, PAGE_ADDRESS};
use bitflags::bitflags;

/// Bytes of the register file: one page.
pub const SIZE: u64 = PAGE;

/// A register: offset and width in bytes, and which bits a guest may write.
#[derive(Clone, Copy, Debug)]
struct Register {
    offset: usize,
    width: usize,
    /// Takes what is written.
    write: u64,
    /// Is cleared by a written one.
    clear: u64,
}

pub(super) const VER: usize = 0x0;
pub(super) const CAP: usize = 0x8;
pub(super) const ECAP: usize = 0x10;
pub(super) const GCMD: usize = 0x18;
pub(super) const GSTS: usize = 0x1c;
pub(super) const RTADDR: usize = 0x20;
pub(super) const CCMD: usize = 0x28;
pub(super) const FSTS: usize = 0x34;
pub(super) const FECTL: usize = 0x38;
pub(super) const IQH: usize = 0x80;
pub(super) const IQT: usize = 0x88;
pub(super) const IQA: usize = 0x90;
pub(super) const ICS: usize = 0x9c;
pub(super) const IECTL: usize = 0xa0;
pub(super) const IQERCD: usize = 0xb0;
pub(super) const IRTA: usize = 0xb8;
pub(super) const PQH: usize = 0xc0;
pub(super) const PQT: usize = 0xc8;
pub(super) const PQA: usize = 0xd0;
pub(super) const PRS: usize = 0xdc;
pub(super) const PECTL: usize = 0xe0;
/// The IOTLB registers; CAP and ECAP say where these two are.
pub(super) const IVA: usize = 0xf0;
pub(super) const IOTLB: usize = 0xf8;
/// The fault recording registers.
pub(super) const FRCD: usize = 0x220;
/// How many of them there are at most; CAP says how many.
pub(super) const FAULT_RECORDS: usize = 8;

/// An event's registers follow each other: control, data, address, upper address.
const EVENT_DATA: usize = 4;
const EVENT_ADDRESS: usize = 8;
const EVENT_UPPER: usize = 12;

bitflags! {
    /// GCMD and GSTS (11.4.4.1 and 11.4.4.2), which have the same bits for what is asked for and what
    /// is in force.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Command: u64 {
        /// Translation enable.
        const TE = 1 << 31;
        /// Set root table pointer.
        const SRTP = 1 << 30;
        /// Queued invalidation enable.
        const QIE = 1 << 26;
        /// Interrupt remapping enable.
        const IRE = 1 << 25;
        /// Set interrupt remap table pointer.
        const SIRTP = 1 << 24;
        /// Compatibility format interrupts.
        const CFI = 1 << 23;
        /// What is asked for once, and not in each command again.
        const ONE_SHOT = Self::SRTP.bits() | Self::SIRTP.bits();
    }

    /// FSTS (11.4.7.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct FaultStatus: u64 {
        /// Primary fault overflow.
        const PFO = 1 << 0;
        /// Primary pending fault.
        const PPF = 1 << 1;
        /// Invalidation queue error.
        const IQE = 1 << 4;
        /// Invalidation completion error.
        const ICE = 1 << 5;
        /// Invalidation time-out error.
        const ITE = 1 << 6;
        /// The invalidation queue stands still.
        const QUEUE = Self::IQE.bits() | Self::ICE.bits() | Self::ITE.bits();
    }

    /// PRS (11.4.11.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct PageRequestStatus: u64 {
        /// Pending page request.
        const PPR = 1 << 0;
        /// Page request overflow.
        const PRO = 1 << 1;
    }
}

/// ICS: an invalidation wait descriptor is complete (11.4.9.5).
pub(super) const ICS_IWC: u64 = 1;
/// CCMD.ICC and IOTLB.IVT: an invalidation by register is asked for.
pub(super) const INVALIDATE: u64 = 1 << 63;
/// IQA.QS and PQA.PQS: a queue has 2^n pages.
pub(super) const QUEUE_SIZE: u64 = Field::bits(2, 0).mask();
/// IQA.DW: descriptors of 256 bits.
pub(super) const IQA_DW: u64 = 1 << 11;
/// IRTA.EIME: destinations of 32 bits, and IRTA.S: the table has 2^(n + 1) entries (11.4.12).
pub(super) const IRTA_EIME: u64 = 1 << 11;
pub(super) const IRTA_SIZE: u64 = Field::bits(3, 0).mask();

/// Bits of an event's control register (11.4.7.2): IM, masked, and IP, pending.
pub(super) const MASKED: u64 = 1 << 31;
const PENDING: u64 = 1 << 30;

const fn register(offset: usize, width: usize, write: u64, clear: u64) -> Register {
    Register {
        offset,
        width,
        write,
        clear,
    }
}

/// IQH, IQT, PQH and PQT: where in a queue, in descriptors of 256 bits (11.4.9.1, 11.4.10.1).
pub(super) const QUEUE_INDEX: u64 = Field::bits(18, 5).mask();
/// A register of 32 bits, or the half of one of 64.
const HALF: u64 = Field::bits(31, 0).mask();
/// Of an event: IMD, the message's data, and MA, its address in the lower half (11.4.7.3, 11.4.7.4).
const MESSAGE_DATA: u64 = Field::bits(15, 0).mask();
const MESSAGE_ADDRESS: u64 = Field::bits(31, 2).mask();
/// RTADDR.TTM, the mode of the tables (11.4.5).
const TABLE_MODE: u64 = Field::bits(11, 10).mask();
/// IVA: AM and IH beside the address (11.4.6.2).
const IVA_MASK_AND_HINT: u64 = Field::bits(6, 0).mask();

/// The registers that a guest may write; all else reads as it is and ignores what is written.
const WRITABLE: [Register; 26] = [
    register(GCMD, 4, HALF, 0),
    register(RTADDR, 8, PAGE_ADDRESS | TABLE_MODE, 0),
    register(CCMD, 8, !0, 0),
    register(
        FSTS,
        4,
        0,
        FaultStatus::PFO.bits() | FaultStatus::QUEUE.bits(),
    ),
    register(FECTL, 4, MASKED, 0),
    register(FECTL + EVENT_DATA, 4, MESSAGE_DATA, 0),
    register(FECTL + EVENT_ADDRESS, 4, MESSAGE_ADDRESS, 0),
    register(FECTL + EVENT_UPPER, 4, HALF, 0),
    register(IQT, 8, QUEUE_INDEX, 0),
    register(IQA, 8, PAGE_ADDRESS | IQA_DW | QUEUE_SIZE, 0),
    register(ICS, 4, 0, ICS_IWC),
    register(IECTL, 4, MASKED, 0),
    register(IECTL + EVENT_DATA, 4, MESSAGE_DATA, 0),
    register(IECTL + EVENT_ADDRESS, 4, MESSAGE_ADDRESS, 0),
    register(IECTL + EVENT_UPPER, 4, HALF, 0),
    register(PQH, 8, QUEUE_INDEX, 0),
    register(PQT, 8, QUEUE_INDEX, 0),
    register(IRTA, 8, PAGE_ADDRESS | IRTA_EIME | IRTA_SIZE, 0),
    register(PQA, 8, PAGE_ADDRESS | QUEUE_SIZE, 0),
    register(PRS, 4, 0, PageRequestStatus::all().bits()),
    register(PECTL, 4, MASKED, 0),
    register(PECTL + EVENT_DATA, 4, MESSAGE_DATA, 0),
    register(PECTL + EVENT_ADDRESS, 4, MESSAGE_ADDRESS, 0),
    register(PECTL + EVENT_UPPER, 4, HALF, 0),
    register(IVA, 8, PAGE_ADDRESS | IVA_MASK_AND_HINT, 0),
    register(IOTLB, 8, !0, 0),
];

/// A fault record is in force.
pub(super) const FRCD_F: u64 = 1 << 63;

/// The registers of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Registers {
    /// By 64 bits.
    words: Vec<u64>,
}

/// What a guest's access is to: a word, and the bits of it.
#[derive(Clone, Copy)]
struct Place {
    word: usize,
    shift: u32,
    mask: u64,
}

/// Where 4 or 8 bytes at an offset are; no other access is one.
fn place(offset: u64, width: usize) -> Option<Place> {
    let offset = usize::try_from(offset).ok()?;
    let fits = offset.checked_add(width)? <= SIZE as usize;
    match width {
        4 if fits && offset % 4 == 0 => {
            let shift = if offset % 8 == 0 { 0 } else { 32 };
            Some(Place {
                word: offset / 8,
                shift,
                mask: HALF,
            })
        }
        8 if fits && offset % 8 == 0 => Some(Place {
            word: offset / 8,
            shift: 0,
            mask: !0,
        }),
        _ => None,
    }
}

/// The bits of a 64-bit word that take what is written, and those that a one clears.
fn bits(word: usize) -> (u64, u64) {
    let records = FRCD / 8..(FRCD + 16 * FAULT_RECORDS) / 8;
    if records.contains(&word) {
        return (0, if word % 2 == 1 { FRCD_F } else { 0 });
    }
    let here = WRITABLE
        .iter()
        .filter(|register| register.offset / 8 == word);
    here.fold((0, 0), |(write, clear), register| {
        let shift = register.offset % 8 * 8;
        let mask = if register.width == 8 { !0 } else { HALF };
        (
            write | (register.write & mask) << shift,
            clear | (register.clear & mask) << shift,
        )
    })
}

impl Registers {
    /// The registers after a reset.
    pub(super) fn new(cap: u64, ecap: u64) -> Self {
        let mut registers = Self {
            words: vec![0; SIZE as usize / 8],
        };
        // Architecture version 4.0.
        registers.set(VER, 4, 0x40);
        registers.set(CAP, 8, cap);
        registers.set(ECAP, 8, ecap);
        for control in [FECTL, IECTL, PECTL] {
            registers.set(control, 4, MASKED);
        }
        registers
    }

    /// Whether this may have become of `fresh` registers: what a guest cannot write is the same.
    pub(super) fn is_of(&self, fresh: &Self) -> bool {
        let offered = |words: &Self| [CAP, ECAP].map(|offset| words.get(offset, 8));
        self.words.len() == fresh.words.len() && offered(self) == offered(fresh)
    }

    /// A register; `width` is 4 or 8 bytes.
    pub(super) fn get(&self, offset: usize, width: usize) -> u64 {
        place(offset as u64, width)
            .and_then(|place| Some((self.words.get(place.word)? >> place.shift) & place.mask))
            .unwrap_or(0)
    }

    /// Sets a register from the hardware's side.
    pub(super) fn set(&mut self, offset: usize, width: usize, value: u64) {
        let Some(place) = place(offset as u64, width) else {
            return;
        };
        if let Some(word) = self.words.get_mut(place.word) {
            let mask = place.mask << place.shift;
            *word = (*word & !mask) | (value << place.shift & mask);
        }
    }

    /// Sets bits of a register.
    pub(super) fn raise(&mut self, offset: usize, width: usize, bits: u64) {
        self.set(offset, width, self.get(offset, width) | bits);
    }

    /// Clears bits of a register.
    pub(super) fn lower(&mut self, offset: usize, width: usize, bits: u64) {
        self.set(offset, width, self.get(offset, width) & !bits);
    }

    /// What a guest reads; zeros for an access that is none.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some(place) = place(offset, data.len()) else {
            return;
        };
        let word = self.words.get(place.word).copied().unwrap_or(0);
        let bytes = (word >> place.shift).to_le_bytes();
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    /// Takes what a guest writes, as far as it may be. False for an access that is none.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> bool {
        let Some(place) = place(offset, data.len()) else {
            return false;
        };
        let mut bytes = [0; 8];
        bytes
            .iter_mut()
            .zip(data)
            .for_each(|(to, from)| *to = *from);
        let value = u64::from_le_bytes(bytes) << place.shift;
        let (write, clear) = bits(place.word);
        let mask = place.mask << place.shift;
        if let Some(word) = self.words.get_mut(place.word) {
            *word = (*word & !(write & mask)) | (value & write & mask);
            *word &= !(value & clear & mask);
        }
        true
    }

    /// The message of an event if it may be sent now; else it is pending until it is unmasked.
    pub(super) fn event(&mut self, control: usize) -> Option<Msi> {
        if self.get(control, 4) & MASKED != 0 {
            self.raise(control, 4, PENDING);
            return None;
        }
        self.lower(control, 4, PENDING);
        Some(self.message(control))
    }

    /// The message of an event that was pending and is masked no more.
    pub(super) fn unmasked(&mut self, control: usize) -> Option<Msi> {
        let pending = self.get(control, 4) & (PENDING | MASKED) == PENDING;
        pending.then(|| self.event(control))?
    }

    /// Nothing is left for an event to tell.
    pub(super) fn settle(&mut self, control: usize) {
        self.lower(control, 4, PENDING);
    }

    fn message(&self, control: usize) -> Msi {
        let low = self.get(control + EVENT_ADDRESS, 4);
        let high = self.get(control + EVENT_UPPER, 4);
        Msi {
            address: high << 32 | low,
            // CAST: a register of 32 bits.
            data: self.get(control + EVENT_DATA, 4) as u32,
        }
    }
}

/// A message that interrupts the guest, as the guest has programmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(registers: &mut Registers, offset: usize, data: &[u8]) -> bool {
        registers.write(offset as u64, data)
    }

    #[test]
    fn guest_writes_what_it_may() {
        let mut registers = Registers::new(1, 2);
        for offset in (0..SIZE as usize).step_by(8) {
            assert!(write(&mut registers, offset, &[0xff; 8]));
        }
        assert_eq!(registers.get(CAP, 8), 1);
        assert_eq!(registers.get(ECAP, 8), 2);
        assert_eq!(registers.get(GSTS, 4), 0);
        assert_eq!(registers.get(IQH, 8), 0);
        assert_eq!(registers.get(IQT, 8), QUEUE_INDEX);
        assert_eq!(registers.get(IQA, 8), 0xffff_ffff_ffff_f807);
        assert_eq!(registers.get(FRCD, 8), 0);
        assert_eq!(registers.get(0x64, 4), 0);
        assert_eq!(registers.get(PECTL + EVENT_DATA, 4), 0xffff);
    }

    #[test]
    fn half_of_a_register_is_written_alone() {
        let mut registers = Registers::new(0, 0);
        assert!(write(&mut registers, RTADDR + 4, &[1, 2, 3, 4]));
        assert_eq!(registers.get(RTADDR, 8), 0x0403_0201_0000_0000);
        assert!(write(&mut registers, RTADDR, &[0, 0x1c, 0, 0]));
        assert_eq!(registers.get(RTADDR, 8), 0x0403_0201_0000_1c00);
    }

    #[test]
    fn ones_clear_what_they_may_and_nothing_beside() {
        let mut registers = Registers::new(0, 0);
        registers.set(FSTS, 4, 0xff);
        registers.set(FECTL, 4, MASKED | PENDING);
        // FECTL is in the next word, IECTL beside ICS.
        assert!(write(&mut registers, FSTS, &[0x11, 0, 0, 0]));
        assert_eq!(registers.get(FSTS, 4), 0xee);
        registers.set(FRCD + 8, 8, FRCD_F | 5);
        registers.set(FRCD + 24, 8, FRCD_F | 6);
        assert!(write(&mut registers, FRCD + 12, &[0, 0, 0, 0x80]));
        assert_eq!(registers.get(FRCD + 8, 8), 5);
        assert_eq!(registers.get(FRCD + 24, 8), FRCD_F | 6);
    }

    #[test]
    fn odd_accesses_are_none() {
        let mut registers = Registers::new(!0, !0);
        for (offset, width) in [(0, 1), (0, 2), (2, 4), (4, 8), (4096, 4), (0, 3), (0, 16)] {
            let mut data = vec![0xa5; width];
            registers.read(offset, &mut data);
            assert_eq!(data, vec![0; width], "{offset:#x}, {width}");
            assert!(!registers.write(offset, &data));
        }
        assert!(!registers.write(u64::MAX, &[0; 4]));
    }

    #[test]
    fn event_that_is_masked_comes_when_it_is_not() {
        let mut registers = Registers::new(0, 0);
        registers.set(FECTL + EVENT_DATA, 4, 7);
        registers.set(FECTL + EVENT_ADDRESS, 4, 0xfee0_0000);
        assert_eq!(registers.event(FECTL), None);
        assert_eq!(registers.unmasked(FECTL), None);
        assert!(write(&mut registers, FECTL, &[0; 4]));
        let sent = registers.unmasked(FECTL);
        let message = Msi {
            address: 0xfee0_0000,
            data: 7,
        };
        assert_eq!(sent, Some(message));
        assert_eq!(registers.unmasked(FECTL), None);
        assert_eq!(registers.event(FECTL), Some(message));
    }
}
