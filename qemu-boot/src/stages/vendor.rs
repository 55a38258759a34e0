// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The crates that Cargo.lock names, for builds in a root that has no registry.

use crate::cache::Key;
use crate::root::cargo;
use crate::setup::Setup;
use anyhow::Result;
use std::path::PathBuf;

/// Gives the folder with them, and makes it if need be: 10 seconds, 370 MB.
pub fn make(setup: &Setup) -> Result<PathBuf> {
    let lock = setup.repo.join("Cargo.lock");
    let key = Key::of("vendor").tree(&lock)?.finish();
    let what = "the crates' sources, by cargo vendor (10 seconds)";
    setup.stage("vendor", &key, what, |dir, log, progress| {
        log.run(
            "cargo vendor (is crates.io reachable?)",
            cargo()
                .current_dir(&setup.repo)
                .args(["vendor", "--locked", "--quiet"])
                .arg(dir),
            progress,
        )
    })
}
