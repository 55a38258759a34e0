// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Debian's ccache, and the folder where it keeps what compilers gave. A changed patch of QEMU or
//! of the kernel is then built in a minute, and the result is that of a build from nothing: ccache
//! finds a compiler's output by the hash of the compiler, its arguments and the preprocessed source.

use crate::cache::Key;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::build_root::{self, BUILD};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the tool is seen in the root.
const TOOL: &str = "/ccache";

/// Where its folder is seen in the root.
const KEPT: &str = "/ccache-kept";

/// Compilers that it stands in for, by their names in the root.
const COMPILERS: &str = "gcc cc x86_64-linux-gnu-gcc-14 clang-19";

/// Begins a script in the root: its compilers are then ccache's.
pub const USE: &str = r#"
export PATH="/ccache/compilers:$PATH" LD_LIBRARY_PATH=/ccache/usr/lib/x86_64-linux-gnu
export CCACHE_DIR=/ccache-kept CCACHE_MAXSIZE=3G CCACHE_COMPRESS=1
"#;

/// Fetches the package and what it needs, and unpacks them; nothing is installed into the root.
/// `$1`: the compilers.
const MAKE: &str = r#"
mkdir -p /build/archives/partial /build/compilers
apt-get install -y --no-install-recommends --download-only \
    -o Dir::Cache::archives=/build/archives -o APT::Sandbox::User=root ccache
for package in /build/archives/*.deb; do dpkg-deb -x "$package" /build; done
rm -r /build/archives
LD_LIBRARY_PATH=/build/usr/lib/x86_64-linux-gnu /build/usr/bin/ccache --version
for compiler in $1; do ln -s ../usr/bin/ccache "/build/compilers/$compiler"; done
"#;

/// The tool and its folder.
pub struct Ccache {
    tool: PathBuf,
    kept: PathBuf,
}

impl Ccache {
    /// What [`USE`] needs in the root.
    pub fn binds(&self) -> [(&Path, &str); 2] {
        [(&self.tool, TOOL), (&self.kept, KEPT)]
    }
}

/// Gives it, and makes it if need be: 5 seconds.
pub fn make(setup: &Setup, root: &Root) -> Result<Ccache> {
    let key = Key::of("ccache")
        .key(&build_root::key())
        .text(MAKE)
        .text(COMPILERS)
        .finish();
    let what = "ccache, which keeps what compilers gave (5 seconds)";
    let tool = setup.stage("ccache", &key, what, |dir, log, progress| {
        // apt uses the root's lists and locks.
        let _lock = setup.cache.lock("files", || {
            eprintln!("files: another run is fetching them; waiting");
        })?;
        log.run(
            "fetching ccache",
            &mut root.script(&[(dir, BUILD)], MAKE, &[COMPILERS]),
            progress,
        )
    })?;
    let kept = setup.cache.compiled();
    fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
    Ok(Ccache { tool, kept })
}
