// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The emulated Intel DSA: registers, commands, every operation against a plain one,
//! malformed descriptors, faults, batches, records that cannot be written.

mod batches;
mod device;
mod event_log;
mod faults;
mod nonsense;
mod operations;
mod plain;
mod registers;
mod submission;
mod unplug;

use super::{Case, Hardware, Place};

/// Slot of the DSA on the root bus.
pub const SLOT: u8 = 5;

/// The machine of these cases: IOMMU and DSA.
fn hardware() -> Hardware {
    Hardware {
        place: Place::Absent,
        dsa: Place::Root,
        ..Hardware::usual()
    }
}

/// All cases of the DSA.
pub fn cases() -> Vec<Case> {
    let mut all = registers::cases();
    all.extend(operations::cases());
    all.extend(submission::cases());
    all.extend(faults::cases());
    all.extend(batches::cases());
    all.extend(event_log::cases());
    all.extend(unplug::cases());
    all.extend(nonsense::cases());
    all
}
