// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What every stage of the set-up shares: the checkout, the cache, and how a stage is made.

use crate::cache::{Cache, Key};
use crate::command::Log;
use crate::plan::{self, Plan};
use crate::progress::{self, Progress};
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The checkout and the cache that a run works with.
pub struct Setup {
    /// The top folder of the checkout.
    pub repo: PathBuf,
    /// Where finished stages are kept.
    pub cache: Cache,
}

/// The top folder of the checkout that cargo runs this program for. It is not compiled in: a
/// checkout may be moved or copied, and several may share one folder for what cargo builds.
pub fn repo() -> Result<PathBuf> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("run it by make or `cargo run -p qemu-boot`: cargo says where the checkout is")?;
    Path::new(&package)
        .parent()
        .map(Path::to_path_buf)
        .context("the checkout has no top folder")
}

impl Setup {
    /// Opens the cache for the checkout, and looks at what a command's stages need.
    ///
    /// # Errors
    ///
    /// Says so where the user is not root: the build root needs mounts and chroot. Names what else
    /// is in the way.
    pub fn open(plan: Plan) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("not root: the set-up mounts and changes root; run it again with sudo");
        }
        let cache = Cache::open()?;
        plan.check(&cache)?;
        progress::follow(plan);
        Ok(Self {
            repo: repo()?,
            cache,
        })
    }

    /// Gives the folder of stage `name` with `key`; makes it by `make` if it is not there.
    ///
    /// `make` fills an empty folder, and shows `what` meanwhile.
    pub fn stage(
        &self,
        name: &str,
        key: &Key,
        what: &str,
        make: impl FnOnce(&Path, &Log, &Progress) -> Result<()>,
    ) -> Result<PathBuf> {
        let done = self.cache.stage(name, key);
        if done.exists() {
            self.cache.touch(&done);
            return Ok(done);
        }
        let _lock = self.cache.lock(name, || {
            eprintln!("{name}: another run is making it; waiting");
        })?;
        if done.exists() {
            return Ok(done);
        }
        self.cache.check_space(name, plan::room(name))?;
        let progress = Progress::start(name, what);
        let scratch = self.cache.scratch(name)?;
        let log = Log::create(self.cache.log(name))?;
        make(&scratch, &log, &progress)?;
        fs::rename(&scratch, &done)
            .with_context(|| format!("cannot rename {} to its place", scratch.display()))?;
        progress.done();
        self.cache.prune(name)?;
        Ok(done)
    }
}
