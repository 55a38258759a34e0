// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An endpoint in a slot, unplugged and plugged by QEMU's monitor.

use super::{Endpoint, Monitor};
use crate::ktap::{fail, Outcome};
use crate::vfio::Bdf;
use std::fs;
use std::time::{Duration, Instant};

/// Linux waits 5 s after the slot's button before it takes the device.
const LIMIT: Duration = Duration::from_secs(30);

/// An endpoint behind a root port.
#[derive(Debug)]
pub struct Plugged {
    /// Its address, which it has again when it comes back.
    pub bdf: Bdf,
    /// Its id on QEMU's command line.
    id: &'static str,
    /// That of its port.
    port: &'static str,
}

impl Plugged {
    /// `endpoint`, which QEMU knows as `id` in `port`. Nothing if its name is no PCI address.
    pub fn new(endpoint: &Endpoint, id: &'static str, port: &'static str) -> Option<Self> {
        let bdf = Bdf::parse(&endpoint.to_string())?;
        Some(Self { bdf, id, port })
    }

    /// Asks the kernel to let go of the slot.
    ///
    /// # Errors
    ///
    /// What the monitor says.
    pub fn unplug(&self, monitor: &mut Monitor) -> Outcome {
        monitor.execute(&format!(
            r#"{{"execute":"device_del","arguments":{{"id":"{}"}}}}"#,
            self.id
        ))
    }

    /// Waits until the device is no longer in sysfs.
    ///
    /// # Errors
    ///
    /// If it stays.
    pub fn wait_until_gone(&self) -> Outcome {
        wait_until("the device leaves", || !self.bdf.sysfs().exists())
    }

    /// Waits until the slot has no power and QEMU has freed the device: later than Linux's end of
    /// it. A hang ends with the program's own time limit.
    ///
    /// # Errors
    ///
    /// What the monitor says.
    pub fn wait_until_deleted(&self, monitor: &mut Monitor) -> Outcome {
        let id = format!(r#""{}""#, self.id);
        loop {
            let line = monitor.line()?;
            if line.contains(r#""DEVICE_DELETED""#) && line.contains(&id) {
                return Ok(());
            }
        }
    }

    /// Plugs it in again, and gives it to vfio-pci. Its name is there before it can be probed.
    ///
    /// # Errors
    ///
    /// What the monitor says; if vfio-pci does not take it.
    pub fn plug(&self, monitor: &mut Monitor) -> Outcome {
        monitor.execute(&format!(
            r#"{{"execute":"device_add","arguments":{{"driver":"pasid-dma-testdev","bus":"{}","id":"{}"}}}}"#,
            self.port, self.id
        ))?;
        let folder = self.bdf.sysfs();
        let has_driver = || {
            fs::read_link(folder.join("driver")).is_ok_and(|driver| driver.ends_with("vfio-pci"))
        };
        wait_until("vfio-pci takes the device", || {
            let named = fs::write(folder.join("driver_override"), "vfio-pci");
            let probed = fs::write("/sys/bus/pci/drivers_probe", self.bdf.to_string());
            named.is_ok() && probed.is_ok() && has_driver()
        })
    }
}

/// Waits until `reached` says so, as long as Linux may take for a slot.
///
/// # Errors
///
/// If it does not.
pub fn wait_until(what: &str, mut reached: impl FnMut() -> bool) -> Outcome {
    let end = Instant::now() + LIMIT;
    while !reached() {
        if Instant::now() > end {
            return fail(format!("{what}: not within {} s", LIMIT.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
