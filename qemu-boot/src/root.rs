// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Running programs in the build root, in namespaces of their own: whatever way a program
//! ends, nothing stays mounted and nothing stays running.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounts what programs expect, then the folders asked for, and changes into the root.
///
/// Arguments: the root; pairs of a folder and where it goes, up to `--`; the program.
const ENTER: &str = r#"
root=$1; shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for file in /etc/resolv.conf /etc/hosts; do
    [ -e "$file" ] && touch "$root$file" && mount --bind "$file" "$root$file"
done
[ -d /etc/ssl/certs ] && [ -d "$root/etc/ssl/certs" ] && mount --bind /etc/ssl/certs "$root/etc/ssl/certs"
while [ "$1" != -- ]; do
    mkdir -p "$root$2"
    mount --bind "$1" "$root$2"
    shift 2
done
shift
for name in http_proxy https_proxy no_proxy; do
    eval "value=\${$name:-}"
    [ -z "$value" ] || set -- "$name=$value" "$@"
done
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    DEBIAN_FRONTEND=noninteractive TERM="${TERM:-dumb}" "$@"
"#;

/// The start of a command that runs in a mount and a PID namespace of its own: its mounts go
/// with it, and however this program ends, it ends too with all that it started.
pub fn contained() -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
    ]);
    command
}

/// Cargo of this machine, contained so: its compilers and what it tests end with this program.
pub fn cargo() -> Command {
    let mut command = contained();
    command
        .arg("--mount-proc")
        .arg(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command
}

/// A Debian tree to run programs in.
#[derive(Clone)]
pub struct Root {
    dir: PathBuf,
}

impl Root {
    /// The tree in `dir`.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command in the root that sees each folder of `binds` at the path beside it.
    pub fn command<I, S>(&self, binds: &[(&Path, &str)], program: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = contained();
        command
            .args(["sh", "-eu", "-c", ENTER, "enter"])
            .arg(&self.dir);
        for (from, to) in binds {
            command.arg(from).arg(to);
        }
        command.arg("--").args(program);
        command
    }

    /// A shell script in the root, as [`Root::command`]; `args` are its `$1` and so on.
    pub fn script(&self, binds: &[(&Path, &str)], script: &str, args: &[&str]) -> Command {
        let mut command = self.command(binds, ["bash", "-euo", "pipefail", "-c", script, "script"]);
        command.args(args);
        command
    }
}
