// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a guest powers off and resets its machine, and why a machine ends.

use crate::bus::Registers;
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// ACPI's registers (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL: u16 = 0x600;
/// Reads zero: the machine never slept.
pub const SLEEP_STATUS: u16 = 0x601;
/// ACPI's reset register (ACPI 6.5, 4.8.3.6).
pub const RESET: u16 = 0x602;
/// What is written to it.
pub const RESET_VALUE: u8 = 1;
/// Where a PC begins after a reset. Linux jumps there to restart a hardware-reduced machine that has no
/// EFI (machine_real_restart).
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// What is there, in real mode: mov dx, RESET; mov al, RESET_VALUE; out dx, al; hlt.
pub const RESET_CODE: [u8; 7] = {
    let [low, high] = RESET.to_le_bytes();
    [0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xf4]
};
/// How many ports these are.
pub const ACPI_PORTS: u64 = 3;
/// The type of sleep that is power-off.
pub const POWER_OFF: u8 = 5;
/// SLP_EN and the place of SLP_TYP in the control register.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE: u8 = 2;

/// The keyboard controller, whose command 0xfe resets a PC.
pub const KEYBOARD: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

/// The index and data ports of CMOS. It reads zeros: there is no clock in it, and a kernel that looks
/// for one must not wait for its update to end.
pub const CMOS: u16 = 0x70;

/// Why a machine ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered off, or somebody asked for it.
    PowerOff,
    /// The guest reset the machine.
    Reset,
    /// The guest did what this machine, or any, cannot go on from.
    Broken(String),
    /// Something went wrong.
    Failed(String),
}

/// Tells the main thread that the machine ends.
#[derive(Debug)]
pub struct Ender {
    event: EventFd,
    end: Mutex<Option<End>>,
}

impl Ender {
    /// Of a machine that goes on.
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            event: EventFd::new(EFD_NONBLOCK)?,
            end: Mutex::default(),
        }))
    }

    /// Ends the machine. The first reason counts.
    pub fn end(&self, end: End) {
        let mut first = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(end);
        // It fails when it has been signalled for ever.
        drop(self.event.write(1));
    }

    /// Why it ends, if it does.
    pub fn why(&self) -> Option<End> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.clone()
    }

    /// What becomes readable then.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

/// ACPI's registers from [`SLEEP_CONTROL`] on.
pub struct Acpi(pub Arc<Ender>);

impl Registers for Acpi {
    fn read(&self, _: u64, _: &mut [u8]) {}

    fn write(&self, offset: u64, data: &[u8]) {
        const OFF: u8 = POWER_OFF << SLEEP_TYPE | SLEEP_ENABLE;
        const RESET_AT: u64 = (RESET - SLEEP_CONTROL) as u64;
        match (offset, data) {
            (0, [OFF]) => self.0.end(End::PowerOff),
            (RESET_AT, [RESET_VALUE]) => self.0.end(End::Reset),
            _ => {}
        }
    }
}

/// The keyboard controller's command and status port.
pub struct Keyboard(pub Arc<Ender>);

impl Registers for Keyboard {
    fn read(&self, _: u64, _: &mut [u8]) {}

    fn write(&self, _: u64, data: &[u8]) {
        if data == [PULSE_RESET] {
            self.0.end(End::Reset);
        }
    }
}

/// What reads zeros, and takes writes.
pub struct Zeros;

impl Registers for Zeros {
    fn read(&self, _: u64, _: &mut [u8]) {}

    fn write(&self, _: u64, _: &[u8]) {}
}
