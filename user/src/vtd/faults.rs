// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The fault recording registers and the status of faults (VT-d 4.1, 7.3, 11.4.8 and 11.4.14).

use super::descriptor::QueueError;
use super::registers::{FaultStatus, Msi, Registers, CAP, FECTL, FRCD, FRCD_F, FSTS, IQERCD};
use super::tables::SourceId;

const OVERFLOW: u64 = FaultStatus::PFO.bits();
const PENDING: u64 = FaultStatus::PPF.bits();
const STATUS: u64 = FaultStatus::all().bits();
/// FSTS.FRI: the first record that is pending.
const FIRST: u64 = 0xff00;

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

fn record(index: usize) -> usize {
    FRCD + index * 16
}

/// How many records there are (CAP.NFR).
pub(super) fn records(registers: &Registers) -> usize {
    // CAST: 8 bits.
    (registers.get(CAP, 8) >> 40 & 0xff) as usize + 1
}

fn is_used(registers: &Registers, index: usize) -> bool {
    registers.get(record(index) + 8, 8) & FRCD_F != 0
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
            | u64::from(!fault.write) << 62
            | u64::from(fault.pasid.unwrap_or(0)) << 40
            | u64::from(fault.reason) << 32
            | u64::from(fault.pasid.is_some()) << 31
            | u64::from(fault.pasid.is_some() && fault.privileged) << 29
            | u64::from(fault.source.0);
        registers.set(record(index), 8, fault.address & !0xfff);
        registers.set(record(index) + 8, 8, high);
        if before & PENDING == 0 {
            let first = (index as u64) << 8;
            let status = registers.get(FSTS, 4) & !FIRST;
            registers.set(FSTS, 4, status | first | PENDING);
        }
        *next = (index + 1) % records;
    }
    (before == 0).then(|| registers.event(FECTL))?
}

/// The invalidation queue stops. Gives the interrupt that is due.
pub(super) fn stop_queue(registers: &mut Registers, why: QueueStop) -> Option<Msi> {
    let before = registers.get(FSTS, 4) & STATUS;
    // IQERCD (11.4.9.9): IQEI in bits 3:0, ITESID in bits 47:32.
    let (bit, record) = match why {
        QueueStop::Error(error) => (FaultStatus::IQE, error as u64),
        QueueStop::DeviceTimeout(source) => (FaultStatus::ITE, u64::from(source.0) << 32),
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
        registers.lower(FSTS, 4, PENDING | FIRST);
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
    const ALL: u64 = (FAULT_RECORDS as u64 - 1) << 40;

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
        let at = record(3);
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
