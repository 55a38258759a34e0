// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a unit is saved as, and restored from.

use super::events::Outbox;
use super::faults;
use super::offer::VtdConfig;
use super::registers::{Command, Registers};
use super::remap::Remapping;
use super::requests::Name;
use super::unit::Unit;
use super::work::Engine;
use crate::error::{Error, Result};

/// A unit at a moment: its registers and what it holds beside them. The tables are in guest memory,
/// and what is bound at the host is made of them anew.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VtdState {
    config: VtdConfig,
    registers: Registers,
    root: u64,
    next_record: usize,
    translation: bool,
    /// Of GCMD: what was asked for and not begun.
    command: Option<u64>,
    remapping: Remapping,
    /// Page request groups that the guest may answer yet.
    groups: Vec<Name>,
}

impl VtdState {
    /// With the engine at rest: what GSTS is due to say is said when the tables were looked at again.
    pub(super) fn save(config: &VtdConfig, unit: &Unit) -> Self {
        let mut registers = unit.registers.clone();
        if let Some(due) = unit.due {
            registers.set(super::registers::GSTS, 4, due.bits());
        }
        Self {
            config: config.clone(),
            registers,
            root: unit.root,
            next_record: unit.next_record,
            translation: unit.translation,
            command: unit.command.map(|command| command.bits()),
            remapping: unit.remapping,
            groups: unit.requests.names(),
        }
    }

    /// Whether a unit of this configuration can be made of it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidField`] if not.
    pub(super) fn fits(&self, config: &VtdConfig) -> Result<()> {
        let wrong = |field, why| Error::InvalidField {
            of: "VtdState",
            field,
            why,
        };
        if let Some(field) = self.config.first_difference(config) {
            return Err(wrong(field, "is not that of this unit"));
        }
        if !self.registers.is_of(&config.registers()) {
            return Err(wrong("registers", "offer what this unit does not"));
        }
        if self.next_record >= faults::records(&self.registers) {
            return Err(wrong("next_record", "is beyond the fault records"));
        }
        Ok(())
    }

    pub(super) fn translation_is_on(&self) -> bool {
        self.translation
    }

    /// Makes a unit what was saved. What the tables say is bound by the work that is left here.
    pub(super) fn restore(self, unit: &mut Unit, engine: &mut Engine, out: &mut Outbox) {
        unit.reset(self.registers, out);
        unit.root = self.root;
        unit.translation = self.translation;
        unit.next_record = self.next_record;
        unit.command = self.command.map(Command::from_bits_retain);
        unit.remapping = self.remapping;
        unit.requests.restore(self.groups);
        unit.shared.set_root(self.translation.then_some(self.root));
        unit.shared.invalidate();
        engine.look_at_all();
    }
}
