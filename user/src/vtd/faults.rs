// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fault recording registers and the status of faults (VT-d 4.1, 7.3, 11.4.8 and 11.4.14).

use super::bits::{Field, PAGE_ADDRESS};
use super::descriptor::QueueError;
use super::registers::{FaultStatus, Msi, Registers, CAP, FECTL, FRCD, FRCD_F, FSTS, IQERCD};
use super::source::SourceId;

const OVERFLOW: u64 = FaultStatus::PFO.bits();
const PENDING: u64 = FaultStatus::PPF.bits();
const STATUS: u64 = FaultStatus::all().bits();
/// FSTS.FRI: the first record that is pending (11.4.7.1).
const FIRST: Field = Field::bits(15, 8);
/// CAP.NFR: how many records there are, less one (11.4.2).
const CAP_RECORDS: Field = Field::bits(47, 40);
/// IQERCD (11.4.9.9): IQEI, what is wrong with a descriptor, and ITESID, which function did not answer.
const QUEUE_ERROR: Field = Field::bits(3, 0);
const TIMED_OUT: Field = Field::bits(47, 32);

/// The upper quadword of a record (FRCD, 11.4.14), whose bit 63 is F.
mod record {
    use super::Field;

    /// T1: clear for a write; T2, bit 28, is set for atomics and page requests, which hosts do not tell
    /// apart.
    pub(super) const READ: Field = Field::bits(62, 62);
    pub(super) const PASID: Field = Field::bits(59, 40);
    /// FR.
    pub(super) const REASON: Field = Field::bits(39, 32);
    /// PP.
    pub(super) const PASID_PRESENT: Field = Field::bits(31, 31);
    /// PRIV.
    pub(super) const PRIVILEGED: Field = Field::bits(29, 29);
    /// SID.
    pub(super) const SOURCE: Field = Field::bits(15, 0);
    /// Of the lower quadword, where it is an interrupt that was blocked.
    pub(super) const INTERRUPT_INDEX: Field = Field::bits(63, 48);
}

/// Why the invalidation queue stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueStop {
    /// A descriptor of the guest's cannot be carried out (FSTS.IQE).
    Error(QueueError),
    /// The host did not drop what this function has cached, as if the device did not answer
    /// (FSTS.ITE). The guest gives the descriptors again.
    DeviceTimeout(SourceId),
}

impl std::fmt::Display for QueueStop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(error) => error.fmt(f),
            Self::DeviceTimeout(source) => {
                write!(f, "an invalidation of {source} was not carried out")
            }
        }
    }
}

/// A request that was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) source: SourceId,
    pub(super) pasid: Option<u32>,
    pub(super) address: u64,
    pub(super) write: bool,
    /// As a supervisor; recorded of requests with a PASID only.
    pub(super) privileged: bool,
    pub(super) reason: u8,
}

/// Where a record is in the register file.
fn place(index: usize) -> usize {
    FRCD + index * 16
}

impl Fault {
    /// An interrupt that was blocked; `index` is that of its entry.
    pub(super) fn of_interrupt(source: SourceId, index: u16, reason: u8) -> Self {
        Self {
            source,
            pasid: None,
            address: record::INTERRUPT_INDEX.with(index.into()),
            write: true,
            privileged: false,
            reason,
        }
    }
}

/// How many records there are (CAP.NFR).
pub(super) fn records(registers: &Registers) -> usize {
    // CAST: 8 bits.
    CAP_RECORDS.of(registers.get(CAP, 8)) as usize + 1
}

fn is_used(registers: &Registers, index: usize) -> bool {
    registers.get(place(index) + 8, 8) & FRCD_F != 0
}

/// Records a fault; `next` is the record that comes next. Gives the interrupt that is due.
pub(super) fn put(registers: &mut Registers, next: &mut usize, fault: &Fault) -> Option<Msi> {
    let before = registers.get(FSTS, 4) & STATUS;
    let records = records(registers);
    let index = *next % records;
    // Nothing is recorded from an overflow until the guest has cleared it.
    if before & OVERFLOW != 0 {
        return None;
    }
    if is_used(registers, index) {
        registers.raise(FSTS, 4, OVERFLOW);
    } else {
        let high = FRCD_F
            | record::READ.with((!fault.write).into())
            | record::PASID.with(fault.pasid.unwrap_or(0).into())
            | record::REASON.with(fault.reason.into())
            | record::PASID_PRESENT.with(fault.pasid.is_some().into())
            | record::PRIVILEGED.with((fault.pasid.is_some() && fault.privileged).into())
            | record::SOURCE.with(fault.source.0.into());
        registers.set(place(index), 8, fault.address & PAGE_ADDRESS);
        registers.set(place(index) + 8, 8, high);
        if before & PENDING == 0 {
            let status = registers.get(FSTS, 4) & !FIRST.mask();
            let first = FIRST.with(index as u64);
            registers.set(FSTS, 4, status | first | PENDING);
        }
        *next = (index + 1) % records;
    }
    (before == 0).then(|| registers.event(FECTL))?
}

/// The invalidation queue stops. Gives the interrupt that is due.
pub(super) fn stop_queue(registers: &mut Registers, why: QueueStop) -> Option<Msi> {
    let before = registers.get(FSTS, 4) & STATUS;
    let (bit, record) = match why {
        QueueStop::Error(error) => (FaultStatus::IQE, QUEUE_ERROR.with(error as u64)),
        QueueStop::DeviceTimeout(source) => (FaultStatus::ITE, TIMED_OUT.with(source.0.into())),
    };
    registers.raise(FSTS, 4, bit.bits());
    registers.set(IQERCD, 8, record);
    (before == 0).then(|| registers.event(FECTL))?
}

/// Whether the invalidation queue is stopped.
pub(super) fn queue_is_stopped(registers: &Registers) -> bool {
    registers.get(FSTS, 4) & FaultStatus::QUEUE.bits() != 0
}

/// The guest may have cleared records or bits of the status.
pub(super) fn settle(registers: &mut Registers) {
    if !(0..records(registers)).any(|index| is_used(registers, index)) {
        registers.lower(FSTS, 4, PENDING | FIRST.mask());
    }
    if !queue_is_stopped(registers) {
        registers.set(IQERCD, 8, 0);
    }
    if registers.get(FSTS, 4) & STATUS == 0 {
        registers.settle(FECTL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vtd::registers::FAULT_RECORDS;

    /// CAP of a unit with all of them.
    const ALL: u64 = CAP_RECORDS.with(FAULT_RECORDS as u64 - 1);

    const FAULT: Fault = Fault {
        source: SourceId(0x28),
        pasid: Some(5),
        address: 0x7123,
        write: false,
        privileged: false,
        reason: 0x59,
    };

    #[test]
    fn fault_stands_where_linux_reads_it() {
        let (mut registers, mut next) = (Registers::new(ALL, 0), 3);
        assert_eq!(put(&mut registers, &mut next, &FAULT), None);
        let at = place(3);
        assert_eq!(registers.get(at, 8), 0x7000);
        let [source, reason] = [registers.get(at + 8, 4), registers.get(at + 12, 4)];
        assert_eq!((source & 0xffff, source >> 31), (0x28, 1));
        assert_eq!((reason & 0xff, reason >> 8 & 0xf_ffff), (0x59, 5));
        assert_eq!((reason >> 30 & 1, reason >> 31), (1, 1));
        assert_eq!(registers.get(FSTS, 4), PENDING | 3 << 8);
        registers.write(at as u64 + 12, &0x8000_0000u32.to_le_bytes());
        settle(&mut registers);
        assert_eq!(registers.get(FSTS, 4), 0);
    }

    #[test]
    fn ninth_fault_overflows_and_nothing_is_overwritten() {
        let (mut registers, mut next) = (Registers::new(ALL, 0), 0);
        for _ in 0..FAULT_RECORDS {
            put(&mut registers, &mut next, &FAULT);
        }
        let other = Fault {
            reason: 0x71,
            ..FAULT
        };
        put(&mut registers, &mut next, &other);
        assert_eq!(registers.get(FSTS, 4), OVERFLOW | PENDING);
        assert_eq!(registers.get(FRCD + 12, 4) & 0xff, 0x59);
    }
}
