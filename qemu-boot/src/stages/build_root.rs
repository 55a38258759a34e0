// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The build root: a Debian 13 tree with the tools that the stock kernel was built with.

use crate::cache::Key;
use crate::command::Log;
use crate::mirror::Mirror;
use crate::progress::Progress;
use crate::root::{contained, Root};
use crate::setup::Setup;
use anyhow::{bail, Context, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where a stage's folder is seen inside the root.
pub const BUILD: &str = "/build";

/// Counts up when the recipe below changes without its texts.
const RECIPE: &str = "1";

/// Tools at the versions that Debian built the kernel with, which its .config records.
const TOOLS: &str = "gcc-14=14.2.0* g++-14=14.2.0* gcc g++ \
    rustc=1.85.1* libstd-rust-dev=1.85.1* rust-src=1.85.1* rust-clippy=1.85.1* rustfmt=1.85.1* \
    bindgen=0.71.1* libclang1-19 \
    make flex bison bc libssl-dev python3 kmod cpio xz-utils perl gawk rsync patch \
    busybox-static dpkg-dev ca-certificates \
    ninja-build meson python3-pycotap python3-venv pkg-config libglib2.0-dev libpixman-1-dev \
    libfdt-dev seabios qemu-system-data";

/// Tools that the kernel took from backports.
const BACKPORTED: &str = "pahole libelf-dev";

/// Makes the sources of apt in the root, and installs the tools.
const INSTALL: &str = r#"
apt-get update
apt-get install -y --no-install-recommends $1
apt-get install -y --no-install-recommends -t trixie-backports $2
apt-get clean
mkdir -p /build /src /kernel
"#;

/// What a kernel with Rust and KASAN is built with. LLVM 19 is also rustc's.
const CLANG: &str = "clang-19=1:19.1.7* lld-19=1:19.1.7* llvm-19=1:19.1.7*";

/// What Debian packages are built with, looked at, and installed into a fresh tree by.
const PACKAGING: &str = "build-essential cargo=1.85.1* debhelper dh-dkms lintian e2fsprogs ovmf \
    python3-virt-firmware";

/// `$1`: the root; `$2`: the new one's folder.
const COPY: &str = r#"cp -a --reflink=auto "$1/." "$2""#;

/// `$1`: packages.
const ADD: &str = r#"
apt-get update
apt-get install -y --no-install-recommends $1
apt-get clean
"#;

/// The key of the root.
pub fn key() -> Key {
    Key::of("build-root")
        .text(RECIPE)
        .text(TOOLS)
        .text(BACKPORTED)
        .text(INSTALL)
        .finish()
}

/// Gives the root, and makes it if need be: 2 minutes, 1.5 GB.
pub fn make(setup: &Setup) -> Result<Root> {
    let dir = setup.stage(
        "build-root",
        &key(),
        "a Debian 13 tree with the kernel's own tools (2 minutes)",
        debootstrap,
    )?;
    Ok(Root::new(dir))
}

/// Gives a copy of the root that has clang as well, and makes it if need be: 1 minute, 2.2 GB.
pub fn with_clang(setup: &Setup, root: &Root) -> Result<Root> {
    let what = "the same tree with clang (1 minute)";
    with(setup, root, "build-root-clang", CLANG, what)
}

/// Gives a copy of the root with what makes Debian packages, and makes it if need be: 1 minute,
/// 2.2 GB.
pub fn with_packaging(setup: &Setup, root: &Root) -> Result<Root> {
    let what = "the same tree with Debian's packaging tools (1 minute)";
    with(setup, root, "build-root-packaging", PACKAGING, what)
}

fn with(
    setup: &Setup,
    root: &Root,
    stage: &'static str,
    packages: &str,
    what: &str,
) -> Result<Root> {
    let key = Key::of(stage).key(&key()).text(packages).text(ADD).finish();
    let dir = setup.stage(stage, &key, what, |dir, log, progress| {
        log.run(
            "copying the build root",
            Command::new("sh")
                .args(["-c", COPY, "copy"])
                .arg(root.dir())
                .arg(dir),
            progress,
        )?;
        log.run(
            &format!("installing {packages}"),
            &mut Root::new(dir.to_path_buf()).script(&[], ADD, &[packages]),
            progress,
        )
    })?;
    Ok(Root::new(dir))
}

fn debootstrap(dir: &Path, log: &Log, progress: &Progress) -> Result<()> {
    base(dir, log, progress)?;
    progress.say("tools");
    log.run(
        "installing the tools",
        &mut Root::new(dir.to_path_buf()).script(&[], INSTALL, &[TOOLS, BACKPORTED]),
        progress,
    )
}

/// Makes the smallest Debian 13 tree, whose apt knows the backports.
pub fn base(dir: &Path, log: &Log, progress: &Progress) -> Result<()> {
    let mirror = Mirror::find()?;
    install_debootstrap(log, progress)?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    if !Path::new(keyring).exists() {
        bail!("no Debian archive keys: install the package debian-archive-keyring");
    }
    match &mirror.url {
        Some(url) => progress.say(&format!("debootstrap from {url}")),
        None => progress.say(
            "debootstrap from its own default archive, for /etc/apt names none of Debian's \
             (HOST_IOMMU_MIRROR sets another one)",
        ),
    }
    log.run(
        "debootstrap (is the mirror reachable, and does it have trixie?)",
        contained()
            .args([
                "debootstrap",
                "--variant=minbase",
                "--include=ca-certificates",
            ])
            .arg(format!("--keyring={keyring}"))
            .arg("trixie")
            .arg(dir)
            .args(&mirror.url),
        progress,
    )?;
    let url = match mirror.url {
        Some(url) => url,
        None => debootstraps_own(dir)?,
    };
    let apt = dir.join("etc/apt");
    let sources: String = ["trixie", "trixie-backports"]
        .iter()
        .flat_map(|suite| {
            let url = &url;
            ["deb", "deb-src"].map(|kind| format!("{kind} {url} {suite} main\n"))
        })
        .collect();
    fs::write(apt.join("sources.list"), sources).context("cannot write the root's sources.list")?;
    fs::write(apt.join("apt.conf.d/90machine"), &mirror.acquire)
        .context("cannot write the root's apt.conf.d")?;
    // A root that a crash left half made is thrown away: dpkg need not sync each file.
    fs::write(
        dir.join("etc/dpkg/dpkg.cfg.d/90unsafe-io"),
        "force-unsafe-io\n",
    )
    .context("cannot write the root's dpkg.cfg.d")
}

/// The archive that debootstrap took by itself, as it wrote it down.
fn debootstraps_own(root: &Path) -> Result<String> {
    let list = root.join("etc/apt/sources.list");
    let text =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let url = text.split_whitespace().nth(1);
    url.map(str::to_owned)
        .context("debootstrap wrote no archive into the root's sources.list")
}

/// debootstrap itself comes from this machine's apt, whose configuration stays as it is.
fn install_debootstrap(log: &Log, progress: &Progress) -> Result<()> {
    let there = Command::new("debootstrap")
        .arg("--version")
        .output()
        .is_ok();
    if there {
        return Ok(());
    }
    progress.say("installing debootstrap on this machine");
    let install = "DEBIAN_FRONTEND=noninteractive; export DEBIAN_FRONTEND
        apt-get install -y debootstrap || { apt-get update && apt-get install -y debootstrap; }";
    log.run(
        "installing debootstrap with this machine's apt-get",
        Command::new("sh").args(["-c", install]),
        progress,
    )
}
