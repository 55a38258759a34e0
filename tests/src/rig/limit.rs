// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Limits of the module, for the length of a test.

use super::Outcome;
use std::fs;

/// A parameter of the module, set for a test and put back after it.
#[derive(Debug)]
pub struct Limit {
    path: String,
    before: String,
}

impl Limit {
    /// Sets a parameter.
    ///
    /// # Errors
    ///
    /// Those of the parameter's file, which only root may write.
    pub fn set(name: &str, value: u32) -> Outcome<Self> {
        let path = format!("/sys/module/vfio_iommu_ioasid/parameters/{name}");
        let before = fs::read_to_string(&path)?;
        fs::write(&path, value.to_string())?;
        Ok(Self { path, before })
    }

    /// Sets it to another value.
    ///
    /// # Errors
    ///
    /// As [`Limit::set`].
    pub fn change(&self, value: u32) -> Outcome {
        Ok(fs::write(&self.path, value.to_string())?)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.path, self.before.trim()) {
            println!("# {} is not as it was: {error}", self.path);
        }
    }
}
