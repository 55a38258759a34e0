// SPDX-License-Identifier: Apache-2.0 OR MIT
//! vfio-pci given to devices and taken from them, by sysfs.

use super::patience::Attempt;
use crate::ktap::{fail, Outcome};
use std::fs;
use std::io;
use std::time::Duration;

const DRIVER: &str = "/sys/bus/pci/drivers/vfio-pci";

/// Takes vfio-pci from a device in a thread; dropped, gives it back.
#[derive(Debug)]
pub struct Unbinding {
    device: String,
    attempt: Attempt<io::Result<()>>,
}

impl Unbinding {
    /// Starts with the device of that name.
    pub fn start(device: &str) -> Self {
        let name = device.to_owned();
        let write = move || fs::write(format!("{DRIVER}/unbind"), name);
        Self {
            device: device.to_owned(),
            attempt: Attempt::start(format!("unbind of {device}"), write),
        }
    }

    /// Waits for its end, `limit` at most.
    ///
    /// # Errors
    ///
    /// If it does not end by then, or fails.
    pub fn ends_within(&self, limit: Duration) -> Outcome {
        match self.attempt.ends_within(limit)? {
            Ok(()) => Ok(()),
            Err(error) => fail(format!("unbind of {}: {error}", self.device)),
        }
    }
}

impl Drop for Unbinding {
    fn drop(&mut self) {
        // One that hung may go on by now.
        drop(self.attempt.ends_within(Duration::from_secs(2)));
        if let Err(error) = fs::write(format!("{DRIVER}/bind"), &self.device) {
            println!("# {} did not go back to vfio-pci: {error}", self.device);
        }
    }
}
