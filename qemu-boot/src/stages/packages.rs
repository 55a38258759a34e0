// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which Debian packages the kernel and QEMU come from: resolved once, recorded with their
//! checksums in the cache's lock file, and fetched by them.
//!
//! The lock file stands in the cache, not in the checkout: it follows what the mirror offers,
//! and a checkout must work unchanged when Debian has moved on to the next 7.3.y.

use crate::cache::sha256_of;
use crate::command::Log;
use crate::progress::Progress;
use crate::root::Root;
use crate::setup::Setup;
use crate::stages::archive::Archive;
use crate::stages::build_root::BUILD;
use crate::stages::{accel_config, debian_qemu};
use anyhow::{bail, Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The series of kernels that the module is written for.
const SERIES: &str = "7.3";

/// Series of kernels for the guest's guest that older releases of Debian have.
const OLDER: [(&str, &str); 1] = [("6.1", "bookworm")];

/// The packages in use.
#[derive(Clone, Serialize, Deserialize)]
pub struct Packages {
    /// The kernel's series, as `7.3`.
    pub series: String,
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// The binary packages of the kernel.
    pub kernel: Vec<Package>,
    /// The files of QEMU's source package, the `.dsc` first.
    pub qemu: Vec<Package>,
}

/// A file of the archive.
#[derive(Clone, Serialize, Deserialize)]
pub struct Package {
    /// The package's name, or the file's for a source.
    pub name: String,
    /// Debian's version.
    pub version: String,
    /// SHA-256 of the file in hexadecimal.
    pub sha256: String,
    /// The release of Debian that has it, if that is not the build root's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}

impl Packages {
    /// The kernel's package whose name starts with `prefix`.
    pub fn kernel(&self, prefix: &str) -> Result<&Package> {
        self.kernel
            .iter()
            .find(|package| package.name.starts_with(prefix))
            .with_context(|| format!("the lock file names no package {prefix}"))
    }
}

/// The packages of another kernel, for the guest's guest.
#[derive(Clone, Serialize, Deserialize)]
pub struct GuestPackages {
    /// The kernel's release, as `uname -r` prints it.
    pub release: String,
    /// Image, modules, and what modules are built against.
    pub packages: Vec<Package>,
}

/// Gives what the lock file of that name records; asks and records it if there is none. `ask` has
/// the archive's lists of this moment.
fn recorded<T: Serialize + DeserializeOwned>(
    setup: &Setup,
    archive: &Archive<'_>,
    name: &str,
    ask: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let path = setup.cache.lock_file(name);
    let _lock = setup.cache.lock("packages", || {
        eprintln!("packages: another run is resolving them; waiting");
    })?;
    if let Ok(text) = fs::read_to_string(&path) {
        return toml::from_str(&text)
            .with_context(|| format!("{} is damaged: remove it", path.display()));
    }
    archive.update()?;
    let found = ask()?;
    let text = toml::to_string(&found).context("cannot write the lock file")?;
    let draft = path.with_extension("new");
    fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(found)
}

/// Gives the packages of a series' newest kernel; resolves and records them if they are not yet.
///
/// # Errors
///
/// If no release of Debian that is known here has a kernel of the series: says which Debian 13 has.
pub fn guest_kernel(setup: &Setup, root: &Root, series: &str) -> Result<GuestPackages> {
    let release = OLDER.iter().find(|(older, _)| *older == series);
    let archive = match release {
        Some((_, release)) => Archive::of(root, release)?,
        None => Archive::new(root),
    };
    recorded(setup, &archive, &format!("guest-{series}"), || {
        let names = archive.names("linux-")?;
        let release = newest_release(&names, series)?;
        let version = release.strip_suffix("-amd64").unwrap_or(&release);
        let has = |name: &str| names.lines().any(|line| line == name);
        // Newer ones have a kbuild for each version, and image and modules in packages of their own.
        let kbuild = format!("linux-kbuild-{version}");
        let binary = format!("linux-binary-{release}");
        let mut wanted = vec![
            format!("linux-headers-{release}"),
            format!("linux-headers-{version}-common"),
        ];
        match has(&kbuild) {
            true => wanted.push(kbuild),
            false => wanted.push(format!("linux-kbuild-{series}")),
        }
        match has(&binary) {
            true => wanted.extend([binary, format!("linux-modules-{release}")]),
            false => wanted.push(format!("linux-image-{release}")),
        }
        let packages = wanted.iter().map(|name| archive.show(name, None));
        Ok(GuestPackages {
            packages: packages.collect::<Result<_>>()?,
            release,
        })
    })
}

/// Gives the packages of the series' lock file; resolves and records them if there is none.
pub fn resolve(setup: &Setup, root: &Root) -> Result<Packages> {
    resolve_series(setup, root, &wanted_series())
}

/// [`resolve`] for a series of the caller's.
pub fn resolve_series(setup: &Setup, root: &Root, series: &str) -> Result<Packages> {
    let archive = Archive::new(root);
    recorded(setup, &archive, series, || {
        let progress = Progress::start("packages", "the newest kernel of the series, and QEMU");
        let packages = query(&archive, series)?;
        progress.say(&format!("Linux {}", packages.release));
        progress.done();
        Ok(packages)
    })
}

/// Takes the archive's newest packages from now on, and says what that changes.
pub fn update(setup: &Setup, root: &Root) -> Result<()> {
    let old = resolve(setup, root)?;
    let old_qemu = debian_qemu(setup, root)?;
    let old_accel = accel_config(setup, root)?;
    setup.cache.forget_packages()?;
    let new = resolve(setup, root)?;
    let new_qemu = debian_qemu(setup, root)?;
    let new_accel = accel_config(setup, root)?;
    let version = |packages: &[Package]| {
        let first = packages.first();
        first.map_or(String::new(), |package| package.version.clone())
    };
    for (name, old, new) in [
        ("Linux", version(&old.kernel), version(&new.kernel)),
        ("QEMU (built here)", version(&old.qemu), version(&new.qemu)),
        ("QEMU (Debian's)", old_qemu.version, new_qemu.version),
        ("accel-config", version(&old_accel), version(&new_accel)),
    ] {
        match old == new {
            true => println!("{name}: {new} is still the newest"),
            false => println!("{name}: {old} before, {new} from now on"),
        }
    }
    Ok(())
}

/// The series of kernels that the archive has and that are newer than the one in use, in their
/// order.
pub fn newer_series(root: &Root) -> Result<Vec<String>> {
    let names = Archive::new(root).names("linux-headers-")?;
    Ok(newer_than(&names, &wanted_series()))
}

fn newer_than(names: &str, series: &str) -> Vec<String> {
    let number = |series: &str| -> Vec<u32> {
        let parts = series.split('.').map_while(|part| part.parse().ok());
        parts.collect()
    };
    let newer: BTreeSet<_> = releases(names)
        .map(|release| (number(release.series), release.series))
        .filter(|(found, _)| *found > number(series))
        .collect();
    let newer = newer.into_iter().map(|(_, series)| series.to_owned());
    newer.collect()
}

fn wanted_series() -> String {
    std::env::var("HOST_IOMMU_KERNEL_SERIES")
        .ok()
        .filter(|series| !series.is_empty())
        .unwrap_or_else(|| SERIES.to_owned())
}

fn query(archive: &Archive<'_>, series: &str) -> Result<Packages> {
    let names = archive.names("linux-headers-")?;
    let release = newest_release(&names, series)?;
    let wanted = [
        format!("linux-binary-{release}"),
        format!("linux-modules-{release}"),
        format!("linux-headers-{release}"),
        format!("linux-source-{series}"),
    ];
    let headers = archive.show(&wanted[2], None)?;
    let mut kernel = Vec::new();
    for name in &wanted {
        // All of one build: the source's version is the kernel's.
        kernel.push(archive.show(name, Some(&headers.version))?);
    }
    Ok(Packages {
        series: series.to_owned(),
        release,
        kernel,
        qemu: qemu_source(archive)?,
    })
}

/// A kernel's release in the archive.
struct Release<'a> {
    /// As `7.3`.
    series: &'a str,
    /// The number within the series, and the build's where it has one.
    number: (u32, Option<u32>),
    /// As `7.3.4+deb13-amd64` or, in older releases of Debian, `6.1.0-44-amd64`.
    name: &'a str,
}

/// The releases among the packages' names.
fn releases(names: &str) -> impl Iterator<Item = Release<'_>> {
    names.lines().filter_map(|name| {
        let name = name.strip_prefix("linux-headers-")?;
        let (version, build) = name.strip_suffix("-amd64")?.split_once(['+', '-'])?;
        let (series, patch) = version.rsplit_once('.')?;
        let number = (patch.parse().ok()?, build.parse().ok());
        // Other flavours have their name there.
        (!build.contains('-')).then_some(Release {
            series,
            number,
            name,
        })
    })
}

/// The newest release of a series among the packages' names.
fn newest_release(names: &str, series: &str) -> Result<String> {
    let newest = releases(names)
        .filter(|release| release.series == series)
        .max_by_key(|release| release.number);
    match newest {
        Some(release) => Ok(release.name.to_owned()),
        None => {
            let offered: BTreeSet<_> = releases(names).map(|release| release.series).collect();
            let offered: Vec<_> = offered.into_iter().collect();
            bail!(
                "Debian 13 and its backports have no Linux {series}; on offer: {}. \
                 Choose one with HOST_IOMMU_KERNEL_SERIES=<series>, for the guest's guest with \
                 KERNEL=<series>",
                offered.join(", ")
            )
        }
    }
}

/// Gives the packages of accel-config; resolves and records them if they are not yet.
pub fn accel_config(setup: &Setup, root: &Root) -> Result<Vec<Package>> {
    #[derive(Serialize, Deserialize)]
    struct File {
        packages: Vec<Package>,
    }
    let archive = Archive::new(root);
    let file = recorded(setup, &archive, "accel-config", || {
        let packages = accel_config::NAMES.iter();
        let packages = packages.map(|name| archive.show(name, None));
        Ok(File {
            packages: packages.collect::<Result<_>>()?,
        })
    })?;
    Ok(file.packages)
}

/// Gives the package of Debian's newest QEMU for trixie; resolves and records it if it is not yet.
pub fn debian_qemu(setup: &Setup, root: &Root) -> Result<Package> {
    let archive = Archive::new(root);
    recorded(setup, &archive, "debian-qemu", || {
        let name = debian_qemu::NAME;
        let text = archive.ask(&["show", name])?;
        newest(&text, name).context("the archive has no package of QEMU")
    })
}

/// The newest of the versions that apt-cache shows of a package.
fn newest(text: &str, name: &str) -> Option<Package> {
    text.split("\n\n")
        .filter_map(|stanza| {
            let field = |key: &str| {
                let mut lines = stanza.lines();
                lines.find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(": ")?.to_owned()))
            };
            Some(Package {
                name: name.to_owned(),
                version: field("Version")?,
                sha256: field("SHA256")?,
                release: None,
            })
        })
        .max_by_key(|package| upstream_version(&package.version))
}

/// The files of trixie's QEMU source.
fn qemu_source(archive: &Archive<'_>) -> Result<Vec<Package>> {
    let text = archive.ask(&["showsrc", "qemu"])?;
    // Backports has newer ones: trixie's own is the lowest version.
    text.split("\n\n")
        .filter_map(source_files)
        .min_by_key(|files| upstream_version(&files[0].version))
        .context("the archive gives no source of QEMU")
}

fn upstream_version(version: &str) -> Vec<u32> {
    let upstream = version.rsplit(':').next().unwrap_or(version);
    upstream
        .split(['.', '+', '~', '-'])
        .map_while(|part| part.parse().ok())
        .collect()
}

/// The files in a stanza of a Sources index, the `.dsc` first.
fn source_files(stanza: &str) -> Option<Vec<Package>> {
    let version = stanza
        .lines()
        .find_map(|line| line.strip_prefix("Version: "))?;
    let mut files: Vec<_> = stanza
        .split_once("Checksums-Sha256:")?
        .1
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let sha256 = words.next()?.to_owned();
            let name = words.nth(1)?.to_owned();
            Some(Package {
                name,
                version: version.to_owned(),
                sha256,
                release: None,
            })
        })
        .filter(|file| !file.name.ends_with(".asc"))
        .collect();
    files.sort_by_key(|file| !file.name.ends_with(".dsc"));
    (!files.is_empty()).then_some(files)
}

/// Fetches what is not yet in the cache, and checks all of it.
///
/// # Errors
///
/// Says so where the archive no longer has a file of the lock file, or gives another one.
pub fn fetch(
    setup: &Setup,
    root: &Root,
    files: &[&Package],
    source: bool,
    log: &Log,
    progress: &Progress,
) -> Result<()> {
    let _lock = setup.cache.lock("files", || {
        eprintln!("files: another run is fetching them; waiting");
    })?;
    let missing: Vec<_> = files
        .iter()
        .filter(|file| !setup.cache.file(&file.sha256).exists())
        .collect();
    let Some(first) = missing.first() else {
        return Ok(());
    };
    progress.say("fetching packages");
    let scratch = setup.cache.scratch("files")?;
    let binds = [(scratch.as_path(), BUILD)];
    let specs: Vec<_> = if source {
        vec![format!("qemu={}", first.version)]
    } else {
        missing
            .iter()
            .map(|file| format!("{}={}", file.name, file.version))
            .collect()
    };
    let fetch = if source {
        "cd /build && apt-get source --download-only \"$@\""
    } else {
        // apt's own user cannot write into the folder: it says so, and root does it.
        "cd /build && apt-get -o APT::Sandbox::User=root download \"$@\""
    };
    let args: Vec<_> = specs.iter().map(String::as_str).collect();
    let archive = match &first.release {
        Some(release) => Archive::of(root, release)?,
        None => Archive::new(root),
    };
    log.run(
        "fetching packages (if the archive has newer ones, run `make update` and try again)",
        &mut archive.script(&binds, fetch, &args),
        progress,
    )?;
    for entry in fs::read_dir(&scratch).context("cannot read the fetched files")? {
        let path = entry.context("cannot read the fetched files")?.path();
        let sha256 = sha256_of(&path)?;
        let known = missing.iter().any(|file| file.sha256 == sha256);
        if known {
            let to = setup.cache.file(&sha256);
            fs::rename(&path, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    for file in &missing {
        if !setup.cache.file(&file.sha256).exists() {
            bail!(
                "checksum of {} {} differs from the lock file's: the archive gave another file; \
                 run `make update` if you trust it",
                file.name,
                file.version
            );
        }
    }
    fs::remove_dir_all(&scratch).context("cannot remove the fetched files")
}

/// Copies a fetched file into a folder under its name.
pub fn place(setup: &Setup, file: &Package, to: &Path) -> Result<()> {
    let from = setup.cache.file(&file.sha256);
    if sha256_of(&from)? != file.sha256 {
        bail!(
            "checksum of {} in the cache is wrong: remove {} and try again",
            file.name,
            from.display()
        );
    }
    fs::copy(&from, to)
        .map(|_| ())
        .with_context(|| format!("cannot write {} (is the disk full?)", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "linux-headers-7.3.4+deb13-amd64\nlinux-headers-7.3.12+deb13-amd64\n\
        linux-headers-7.3.12+deb13-rt-amd64\nlinux-headers-7.2.9+deb13-amd64\n\
        linux-headers-7.3.12+deb13-common\nlinux-headers-amd64\n";

    #[test]
    fn newest_release_compares_numbers_not_texts() {
        let release = newest_release(NAMES, "7.3").expect("there are some");
        assert_eq!(release, "7.3.12+deb13-amd64");
    }

    #[test]
    fn newest_release_of_older_debian_has_the_highest_build() {
        let names = "linux-headers-6.1.0-9-amd64\nlinux-headers-6.1.0-44-amd64\n\
            linux-headers-6.1.0-45-rt-amd64\nlinux-headers-6.1.0-44-common\n";
        let release = newest_release(names, "6.1").expect("there are some");
        assert_eq!(release, "6.1.0-44-amd64");
    }

    #[test]
    fn newest_release_of_a_gone_series_names_those_on_offer() {
        let error = newest_release(NAMES, "7.1").expect_err("there is none");
        let text = error.to_string();
        assert!(text.contains("7.2, 7.3") && text.contains("HOST_IOMMU_KERNEL_SERIES"));
    }

    #[test]
    fn newer_series_are_compared_by_number() {
        let names = "linux-headers-7.10.1+deb13-amd64\nlinux-headers-7.9.3+deb13-amd64\n\
            linux-headers-7.9.4+deb13-amd64\nlinux-headers-8.0.1+deb13-rt-amd64\n";
        assert_eq!(newer_than(names, "7.8"), ["7.9", "7.10"]);
        assert_eq!(newer_than(names, "7.9"), ["7.10"]);
        assert!(newer_than(names, "7.10").is_empty());
        assert!(newer_than(NAMES, "7.3").is_empty());
    }

    #[test]
    fn newest_version_is_taken_of_those_that_are_shown() {
        let text = "Package: q\nVersion: 1:9.2.1+ds-1\nSHA256: aa\n\n\
            Package: q\nVersion: 1:11.1.3+ds-1~bpo13+1\nSHA256: bb\n\n\
            Package: q\nVersion: 1:10.0.13+ds-0\nSHA256: cc\n";
        let package = newest(text, "q").expect("there are some");
        assert_eq!(package.sha256, "bb");
        assert_eq!(newest("", "q").map(|package| package.sha256), None);
    }

    #[test]
    fn source_files_have_the_dsc_first() {
        let stanza =
            "Package: qemu\nVersion: 1:10.0.13+ds-1\nChecksums-Sha256:\n aa 10 q.orig.tar.xz\n \
            bb 20 q.dsc\nFiles:\n cc 1 x\n";
        let files = source_files(stanza).expect("a stanza");
        let names: Vec<_> = files
            .iter()
            .map(|f| (f.name.as_str(), f.sha256.as_str()))
            .collect();
        assert_eq!(names, [("q.dsc", "bb"), ("q.orig.tar.xz", "aa")]);
        assert_eq!(upstream_version(&files[0].version), [10, 0, 13]);
    }
}
