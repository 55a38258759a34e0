// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a unit is saved as, and restored from.

use super::faults;
use super::offer::VtdConfig;
use super::registers::Registers;
use super::unit::Unit;
use crate::error::{Error, Operation, Result};
use crate::sys::Errno;

/// A unit at a moment: its registers, as guest memory has the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VtdState {
    config: VtdConfig,
    registers: Registers,
    root: u64,
    next_record: usize,
}

impl VtdState {
    pub(super) fn save(config: &VtdConfig, unit: &Unit) -> Self {
        Self {
            config: config.clone(),
            registers: unit.registers.clone(),
            root: unit.root,
            next_record: unit.next_record,
        }
    }

    /// Makes a unit what was saved; what its tables say is bound by the work that is left.
    pub(super) fn restore(self, config: &VtdConfig, unit: &mut Unit) -> Result<()> {
        let fits = self.registers.is_of(&config.registers());
        if self.config != *config || !fits || self.next_record >= faults::records(&self.registers) {
            return Err(Error::failed(Operation::RestoreUnit, Errno::EINVAL));
        }
        unit.reset(self.registers);
        unit.root = self.root;
        unit.next_record = self.next_record;
        unit.look_at_all();
        Ok(())
    }
}
