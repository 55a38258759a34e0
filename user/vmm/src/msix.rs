// SPDX-License-Identifier: Apache-2.0 OR MIT
//! MSI-X as a guest sees it: the table, the masks, and an eventfd for each vector (PCIe 6.0, 6.1.4).

use crate::bus::{give, number};
use crate::irq::{Interrupts, Message, Vector};
use crate::takeover::Files;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// The capability's id, and the offset of its control word.
pub const CAPABILITY: u8 = 0x11;
/// Offset of the control word in the capability.
pub const CONTROL: u16 = 2;
/// Bits of the control word.
pub const ENABLE: u16 = 1 << 15;
/// All vectors are masked.
pub const MASK_ALL: u16 = 1 << 14;
/// Bytes of an entry: address, data, vector control.
pub const ENTRY: u64 = 16;
/// Most vectors of a device.
pub const MAX_VECTORS: u16 = 256;

/// The vectors of a device.
pub struct Msix {
    state: Mutex<State>,
    /// What a vector is signalled by, in order.
    events: Vec<OwnedFd>,
}

struct State {
    control: u16,
    entries: Vec<Entry>,
}

/// The control word, and message and mask of each vector.
#[derive(Serialize, Deserialize)]
pub struct MsixState {
    control: u16,
    entries: Vec<(Message, bool)>,
}

struct Entry {
    message: Message,
    masked: bool,
    vector: Vector,
}

impl Msix {
    /// With so many vectors, as after a reset. Their eventfds are another process's, if it has left
    /// `files`.
    pub fn new(
        interrupts: &Arc<Interrupts>,
        count: u16,
        mut files: Option<&mut Files>,
    ) -> Result<Self> {
        let mut entries = Vec::new();
        let mut events = Vec::new();
        for _ in 0..count.min(MAX_VECTORS) {
            let event = match files.as_deref_mut() {
                Some(files) => host_iommu::kvm::event(files.take()?),
                None => EventFd::new(EFD_NONBLOCK).context("cannot make an eventfd")?,
            };
            let vector = interrupts.vector(event)?;
            let event = host_iommu::duplicate(vector.event());
            events.push(event.context("cannot copy an eventfd")?);
            entries.push(Entry {
                message: Message::default(),
                masked: true,
                vector,
            });
        }
        let state = Mutex::new(State {
            control: 0,
            entries,
        });
        Ok(Self { state, events })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What signals each vector.
    pub fn events(&self) -> &[OwnedFd] {
        &self.events
    }

    /// Signals a vector.
    pub fn signal(&self, vector: u16) {
        let state = self.state();
        if let Some(entry) = state.entries.get(usize::from(vector)) {
            // It fails when it has been signalled for ever.
            drop(entry.vector.event().write(1));
        }
    }

    /// A guest's write of the control word. True if that enabled or disabled MSI-X.
    pub fn set_control(&self, control: u16) -> bool {
        let mut state = self.state();
        let changed = (control ^ state.control) & ENABLE != 0;
        state.control = control;
        state.connect_all();
        changed
    }

    /// Whether the guest has enabled it.
    pub fn is_enabled(&self) -> bool {
        self.state().control & ENABLE != 0
    }

    /// As after a reset.
    pub fn reset(&self) {
        let mut state = self.state();
        state.control = 0;
        for entry in &mut state.entries {
            entry.message = Message::default();
            entry.masked = true;
        }
        state.connect_all();
    }

    /// What is signalled waits from now on, until [`Msix::go_on`]. Gives the state, and the eventfds.
    pub fn pause(&self, files: &mut Files) -> Result<MsixState> {
        let mut state = self.state();
        state
            .entries
            .iter_mut()
            .for_each(|entry| entry.connect(false));
        self.events.iter().try_for_each(|event| files.add(event))?;
        let entries = state.entries.iter();
        Ok(MsixState {
            control: state.control,
            entries: entries.map(|entry| (entry.message, entry.masked)).collect(),
        })
    }

    /// What is signalled interrupts the guest again.
    pub fn go_on(&self) {
        self.state().connect_all();
    }

    /// Makes it what it was in another process, where interrupts are held back: as here, until
    /// [`Msix::go_on`].
    pub fn restore(&self, saved: &MsixState) {
        let mut state = self.state();
        state.control = saved.control;
        for (entry, saved) in state.entries.iter_mut().zip(&saved.entries) {
            (entry.message, entry.masked) = *saved;
        }
    }

    /// Reads the table; zeros behind its end, where the pending bits are: a vector that is signalled
    /// while it is masked comes when it is not, but cannot be polled.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.state();
        let entry = usize::try_from(offset / ENTRY).ok();
        let Some(entry) = entry.and_then(|index| state.entries.get(index)) else {
            return;
        };
        let mut bytes = [0; ENTRY as usize];
        if let Some(place) = bytes.get_mut(..8) {
            give(place, entry.message.address);
        }
        if let Some(place) = bytes.get_mut(8..) {
            let control = u64::from(entry.masked) << 32;
            give(place, u64::from(entry.message.data) | control);
        }
        let from = bytes.iter().skip((offset % ENTRY) as usize);
        data.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }

    /// Writes the table: four or eight aligned bytes, as drivers must.
    pub fn write(&self, offset: u64, data: &[u8]) {
        let aligned = matches!(data.len(), 4 | 8) && offset % data.len() as u64 == 0;
        if !aligned {
            return;
        }
        let mut state = self.state();
        let enabled = state.is_on();
        let entry = usize::try_from(offset / ENTRY).ok();
        let Some(entry) = entry.and_then(|index| state.entries.get_mut(index)) else {
            return;
        };
        for (index, word) in data.chunks(4).enumerate() {
            let word = number(word);
            let message = &mut entry.message;
            match offset % ENTRY + index as u64 * 4 {
                0 => message.address = message.address & !0xffff_ffff | word,
                4 => message.address = message.address & 0xffff_ffff | word << 32,
                // CAST: four bytes.
                8 => message.data = word as u32,
                _ => entry.masked = word & 1 != 0,
            }
        }
        entry.connect(enabled);
    }
}

impl State {
    fn is_on(&self) -> bool {
        self.control & (ENABLE | MASK_ALL) == ENABLE
    }

    fn connect_all(&mut self) {
        let on = self.is_on();
        self.entries.iter_mut().for_each(|entry| entry.connect(on));
    }
}

impl Entry {
    fn connect(&mut self, on: bool) {
        let message = (on && !self.masked).then_some(self.message);
        if let Err(error) = self.vector.connect(message) {
            tracing::error!(error = %format!("{error:#}"), "an interrupt is lost");
        }
    }
}
