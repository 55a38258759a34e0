// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The library and its bindings by the oldest Rust that they promise: the build root has it, for it
//! is what Debian builds kernels with. It runs by the root's own loader and libraries, under this
//! machine's cargo, which links what runs while things are built.

use crate::command::output;
use crate::root::cargo;
use crate::setup::Setup;
use crate::stages::build_root;
use anyhow::{bail, Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// The compiler, by the loader of its own root.
const RUSTC: &str = r#"#!/bin/sh
exec "$HOST_IOMMU_MSRV_ROOT/lib64/ld-linux-x86-64.so.2" \
    --library-path "$HOST_IOMMU_MSRV_ROOT/usr/lib/x86_64-linux-gnu" \
    "$HOST_IOMMU_MSRV_ROOT/usr/bin/rustc" --sysroot "$HOST_IOMMU_MSRV_ROOT/usr" "$@"
"#;

/// Checks the published crates, with every feature and with none.
///
/// # Errors
///
/// If the root's Rust is another one, or it does not compile them.
pub fn check(setup: &Setup) -> Result<()> {
    let root = build_root::make(setup)?;
    let run = setup.cache.run_folder()?;
    let rustc = run.path().join("rustc");
    fs::write(&rustc, RUSTC).context("cannot write the compiler's script")?;
    fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755))
        .context("cannot change the compiler's script")?;

    let promised = promised(setup)?;
    let version = output(
        "asking the root's rustc for its version",
        Command::new(&rustc)
            .arg("--version")
            .env("HOST_IOMMU_MSRV_ROOT", root.dir()),
    )?;
    if !version.starts_with(&format!("rustc {promised}.")) {
        bail!("Cargo.toml promises Rust {promised}, the build root has {version}");
    }
    for features in ["--all-features", "--no-default-features"] {
        eprintln!("msrv: cargo check {features} with {}", version.trim());
        let status = cargo()
            .current_dir(&setup.repo)
            .args(["check", "--quiet", "--locked", features])
            .args([
                "-p",
                "host-iommu",
                "-p",
                "host-iommu-sys",
                "-p",
                "host-iommu-bindings",
            ])
            .arg("--target-dir")
            .arg(setup.repo.join("target/msrv"))
            .env("RUSTC", &rustc)
            .env("HOST_IOMMU_MSRV_ROOT", root.dir())
            .env("RUSTFLAGS", "-D warnings")
            .status()
            .context("cannot run cargo")?;
        if !status.success() {
            bail!("Rust {promised} does not compile the crates");
        }
    }
    Ok(())
}

/// `rust-version` of the workspace.
fn promised(setup: &Setup) -> Result<String> {
    let manifest = fs::read_to_string(setup.repo.join("Cargo.toml"));
    let manifest = manifest.context("cannot read Cargo.toml")?;
    let line = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "));
    let version = line.context("Cargo.toml has no rust-version")?;
    Ok(version.trim_matches('"').to_owned())
}
