// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's mdbook, which makes the book of `docs`.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::{self, BUILD};
use anyhow::Result;
use std::path::PathBuf;

/// Where the stage's folder is seen in the root, and the program in it.
pub const TOOL: &str = "/mdbook";
/// The program there.
pub const PROGRAM: &str = "/mdbook/usr/bin/mdbook";

/// Fetches and unpacks the package; nothing is installed into the root.
const MAKE: &str = r#"
mkdir -p /build/archives/partial
apt-get update
apt-get install -y --no-install-recommends --download-only \
    -o Dir::Cache::archives=/build/archives -o APT::Sandbox::User=root mdbook
for package in /build/archives/*.deb; do dpkg-deb -x "$package" /build; done
rm -r /build/archives
/build/usr/bin/mdbook --version
"#;

/// Gives the folder with it, and makes it if need be: 10 seconds, 13 MB.
pub fn make(setup: &Setup, root: &Root) -> Result<PathBuf> {
    let key = Key::of("mdbook")
        .key(&build_root::key())
        .text(MAKE)
        .finish();
    let what = "mdbook, which makes the book (10 seconds)";
    setup.stage("mdbook", &key, what, |dir, log, progress| {
        // apt uses the root's lists and locks.
        let _lock = setup.cache.lock("files", || {
            eprintln!("files: another run is fetching them; waiting");
        })?;
        log.run(
            "fetching mdbook",
            &mut root.script(&[(dir, BUILD)], MAKE, &[]),
            progress,
        )
    })
}
