// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Modules that change a running kernel by kprobes (qemu-boot/probes).

use super::container::Endpoint;
use crate::ktap::Outcome;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags};
use std::ffi::CString;
use std::fs::{self, File};

/// A module of `/modules`, loaded until this is dropped.
#[derive(Debug)]
pub(super) struct Probe(&'static str);

impl Probe {
    /// Loads it with its parameters.
    ///
    /// # Errors
    ///
    /// If it is not there, or does not want to.
    pub(super) fn load(name: &'static str, parameters: &str) -> Outcome<Self> {
        let file = File::open(format!("/modules/{name}.ko"))?;
        nix::kmod::finit_module(&file, &CString::new(parameters)?, ModuleInitFlags::empty())?;
        Ok(Self(name))
    }

    /// Where its parameters can be read.
    pub(super) fn parameters(&self) -> String {
        format!("/sys/module/{}/parameters", self.0)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let name = CString::new(self.0).unwrap_or_default();
        // A module that stays makes the next test fail, which says why.
        let _ = nix::kmod::delete_module(&name, DeleteModuleFlags::O_NONBLOCK);
    }
}

/// The driver carries out few invalidation entries a call, and says nothing, until this is dropped.
#[derive(Debug)]
pub struct FewInvalidations(Probe);

impl FewInvalidations {
    /// `most` a call.
    ///
    /// # Errors
    ///
    /// If the module is not there, or there is no such driver.
    pub fn of(most: u32) -> Outcome<Self> {
        let probe = Probe::load("invalidate_fewer", &format!("most={most}"))?;
        Ok(Self(probe))
    }

    /// How often the driver was called.
    ///
    /// # Errors
    ///
    /// If the module does not say.
    pub fn calls(&self) -> Outcome<u32> {
        let text = fs::read_to_string(format!("{}/calls", self.0.parameters()))?;
        Ok(text.trim().parse()?)
    }
}

/// A reserved region that an endpoint's group has more than firmware gives it, until this is
/// dropped.
#[derive(Debug)]
pub struct ReservedRegion(#[allow(dead_code, reason = "its end is what matters")] Probe);

impl ReservedRegion {
    /// Reserves `length` bytes from `start` on.
    ///
    /// # Errors
    ///
    /// If the module is not there.
    pub fn of(endpoint: &Endpoint, start: u64, length: u64) -> Outcome<Self> {
        let group = endpoint.group()?;
        let parameters = format!("group={group} start={start} length={length}");
        Ok(Self(Probe::load("reserve_region", &parameters)?))
    }
}
