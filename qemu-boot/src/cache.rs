// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cache folder: finished stages under the hash of what they were made from, their locks
//! and their logs.
//!
//! A stage is made in a temporary folder and renamed when it is done, so that a folder with a
//! stage's final name is always whole. One process at a time makes a stage; another that wants
//! it waits and then finds it.

use anyhow::{bail, Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What disks are sold by.
pub const GB: u64 = 1_000_000_000;

/// What marks the folder as ours and as a cache (bford.info/cachedir). Nothing is removed in a
/// folder without it.
const TAG: &str = "CACHEDIR.TAG";
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # What host-iommu's set-up keeps. `make clean-cache` removes it.\n";

/// What the folder holds, apart from its locks.
const PARTS: [&str; 5] = ["stages", "tmp", "logs", "files", "ccache"];

/// Days after which a stage that no run used goes, when another one of its name is finished.
const OLD: Duration = Duration::from_secs(14 * 24 * 3600);

/// The lock that says who uses the folder: shared by runs, whole for its removal.
const IN_USE: &str = "in-use";
/// The lock over making and sweeping away the folders of runs.
const RUNS: &str = "runs";

/// The folder where everything that takes long is kept.
pub struct Cache {
    dir: PathBuf,
    _in_use: Option<Flock<File>>,
}

/// A folder for one run. It goes when this is dropped, or with the next run if this one was
/// killed.
pub struct RunFolder {
    dir: tempfile::TempDir,
    _lock: Flock<File>,
}

impl RunFolder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Cache {
    /// Opens the folder that the environment names, and makes it if need be: `HOST_IOMMU_CACHE`,
    /// or `host-iommu` in `XDG_CACHE_HOME` or in `~/.cache`.
    ///
    /// # Errors
    ///
    /// Refuses a folder that holds other things.
    pub fn open() -> Result<Self> {
        let mut cache = Self::claim(named()?)?;
        cache._in_use = Some(cache.wait(IN_USE, FlockArg::LockSharedNonblock, || {
            eprintln!("cache: another run is removing it; waiting");
        })?);
        Ok(cache)
    }

    /// Removes what the folder that the environment names holds, once nobody uses it.
    pub fn remove() -> Result<()> {
        Self::remove_in(named()?)
    }

    fn remove_in(dir: PathBuf) -> Result<()> {
        if !dir.exists() {
            println!("nothing to remove: there is no {}", dir.display());
            return Ok(());
        }
        if !is_ours(&dir) {
            bail!(
                "{} is no cache of host-iommu (its {TAG} is not ours): nothing was removed",
                dir.display()
            );
        }
        let cache = Self { dir, _in_use: None };
        let _alone = cache.wait(IN_USE, FlockArg::LockExclusiveNonblock, || {
            eprintln!("cache: another run is using it; waiting");
        })?;
        println!("removing in {}: {}", cache.dir.display(), PARTS.join(", "));
        let before = cache.free()?;
        for part in PARTS.map(|part| cache.dir.join(part)) {
            if part.exists() {
                fs::remove_dir_all(&part)
                    .with_context(|| format!("cannot remove {}", part.display()))?;
            }
        }
        cache.forget_packages()?;
        let freed = cache.free()?.saturating_sub(before);
        println!("removed; {:.1} GB are free again", freed as f64 / GB as f64);
        Ok(())
    }

    /// Makes the folder if need be, and marks it.
    fn claim(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir
            .canonicalize()
            .with_context(|| format!("cannot open {}", dir.display()))?;
        if !is_ours(&dir) {
            let mut entries =
                fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
            // Folders that were set up before they were marked have this lock.
            if entries.next().is_some() && !dir.join("locks").join(IN_USE).exists() {
                bail!(
                    "{} holds other things: set HOST_IOMMU_CACHE to an empty folder, or to one \
                     that does not exist yet",
                    dir.display()
                );
            }
            let tag = dir.join(TAG);
            fs::write(&tag, TAG_TEXT).with_context(|| format!("cannot write {}", tag.display()))?;
        }
        for part in ["stages", "tmp", "logs", "locks", "files"] {
            let dir = dir.join(part);
            fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(Self { dir, _in_use: None })
    }

    /// Where the log of `name` is written.
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// Where a file with that content (its SHA-256 in hexadecimal) is kept.
    pub fn file(&self, sha256: &str) -> PathBuf {
        self.dir.join("files").join(sha256)
    }

    /// Where ccache keeps what compilers gave.
    pub fn compiled(&self) -> PathBuf {
        self.dir.join("ccache")
    }

    /// The finished folder of stage `name` with `key`, whether it exists or not.
    pub fn stage(&self, name: &str, key: &Key) -> PathBuf {
        self.dir
            .join("stages")
            .join(format!("{name}-{}", key.short()))
    }

    /// The versions and checksums of the packages in use with a kernel of that series.
    pub fn lock_file(&self, series: &str) -> PathBuf {
        self.dir.join(format!("packages-{series}.lock"))
    }

    /// Removes all lock files.
    pub fn forget_packages(&self) -> Result<()> {
        for entry in fs::read_dir(&self.dir).context("cannot read the cache folder")? {
            let path = entry.context("cannot read the cache folder")?.path();
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or("");
            if name.starts_with("packages") && name.ends_with(".lock") {
                fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Takes the lock of `name`; `waiting` is called if somebody else has it.
    pub fn lock(&self, name: &str, waiting: impl FnOnce()) -> Result<Flock<File>> {
        self.wait(name, FlockArg::LockExclusiveNonblock, waiting)
    }

    fn wait(&self, name: &str, how: FlockArg, waiting: impl FnOnce()) -> Result<Flock<File>> {
        let path = self.dir.join("locks").join(name);
        let open = || {
            File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))
        };
        match Flock::lock(open()?, how) {
            Ok(lock) => Ok(lock),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                waiting();
                let how = match how {
                    FlockArg::LockSharedNonblock => FlockArg::LockShared,
                    _ => FlockArg::LockExclusive,
                };
                Flock::lock(file, how)
                    .map_err(|(_, errno)| errno)
                    .with_context(|| format!("cannot lock {}", path.display()))
            }
            Err((_, errno)) => {
                Err(errno).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// An empty folder to make stage `name` in. What an interrupted run left there is removed:
    /// the caller holds the stage's lock.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join("tmp").join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// An empty folder for one run; those of runs that were killed are removed.
    pub fn run_folder(&self) -> Result<RunFolder> {
        let _sweeping = self.lock(RUNS, || {})?;
        let tmp = self.dir.join("tmp");
        let lock_of = |run: &Path| {
            let path = run.join(".lock");
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))
        };
        for entry in fs::read_dir(&tmp).with_context(|| format!("cannot read {}", tmp.display()))? {
            let path = entry.context("cannot read the cache")?.path();
            let is_run = path
                .file_name()
                .is_some_and(|name| name.as_bytes().starts_with(b"run-"));
            if is_run && Flock::lock(lock_of(&path)?, FlockArg::LockExclusiveNonblock).is_ok() {
                fs::remove_dir_all(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let dir = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&tmp)
            .context("cannot make a folder for the run (is the disk full?)")?;
        let lock = Flock::lock(lock_of(dir.path())?, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, errno)| errno)
            .context("cannot lock the folder of the run")?;
        Ok(RunFolder { dir, _lock: lock })
    }

    /// Refuses to start what would fill the disk: `needed` bytes, for `what`.
    pub fn check_space(&self, what: &str, needed: u64) -> Result<()> {
        let free = self.free()?;
        if free < needed {
            let gigabytes = |bytes: u64| bytes as f64 / GB as f64;
            bail!(
                "not enough disk space: {what} takes {:.1} GB in {}, and {:.1} GB are free; \
                 set HOST_IOMMU_CACHE to a folder with more",
                gigabytes(needed),
                self.dir.display(),
                gigabytes(free)
            );
        }
        Ok(())
    }

    /// Bytes that are free where the folder is.
    fn free(&self) -> Result<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.dir)
            .with_context(|| format!("cannot ask for the free space at {}", self.dir.display()))?;
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }

    /// Whether a stage of that name is there, whatever it was made from.
    pub fn has_any(&self, name: &str) -> bool {
        self.stages_of(name).is_ok_and(|stages| !stages.is_empty())
    }

    /// Says that a stage is used now.
    pub fn touch(&self, stage: &Path) {
        // On a cache that cannot be written nothing is pruned either.
        let _ = File::open(stage).and_then(|dir| dir.set_modified(SystemTime::now()));
    }

    /// Removes the stages of that name that no run has used for long.
    pub fn prune(&self, name: &str) -> Result<()> {
        for stage in self.stages_of(name)? {
            let used = fs::metadata(&stage).and_then(|meta| meta.modified());
            if used.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > OLD)) {
                fs::remove_dir_all(&stage)
                    .with_context(|| format!("cannot remove {}", stage.display()))?;
            }
        }
        Ok(())
    }

    /// The finished stages of that name.
    fn stages_of(&self, name: &str) -> Result<Vec<PathBuf>> {
        let stages = self.dir.join("stages");
        let of_name = |path: &Path| {
            let file = path.file_name().and_then(OsStr::to_str);
            file.and_then(|file| file.rsplit_once('-'))
                .is_some_and(|(stage, _)| stage == name)
        };
        Ok(fs::read_dir(&stages)
            .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
            .with_context(|| format!("cannot read {}", stages.display()))?
            .iter()
            .map(fs::DirEntry::path)
            .filter(|path| of_name(path))
            .collect())
    }
}

/// The folder that the environment names.
fn named() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    match (
        variable("HOST_IOMMU_CACHE"),
        variable("XDG_CACHE_HOME"),
        variable("HOME"),
    ) {
        (Some(dir), _, _) => Ok(PathBuf::from(dir)),
        (None, Some(dir), _) => Ok(PathBuf::from(dir).join("host-iommu")),
        (None, None, Some(home)) => Ok(PathBuf::from(home).join(".cache/host-iommu")),
        _ => bail!("no cache folder: set HOST_IOMMU_CACHE to an empty folder"),
    }
}

/// Whether the folder carries our mark.
fn is_ours(dir: &Path) -> bool {
    fs::read_to_string(dir.join(TAG)).is_ok_and(|text| text == TAG_TEXT)
}

/// The hash of what a stage is made from.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Starts a key.
    pub fn of(name: &str) -> KeyBuilder {
        KeyBuilder(Sha256::new()).text(name)
    }

    /// Enough of it for a folder's name.
    pub fn short(&self) -> &str {
        self.0.get(..16).unwrap_or(&self.0)
    }
}

/// A key in the making: every input goes in with its length, so that no two lists of inputs
/// look alike.
pub struct KeyBuilder(Sha256);

impl KeyBuilder {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a text.
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds another key.
    pub fn key(self, key: &Key) -> Self {
        self.text(&key.0)
    }

    /// Adds a file or a whole folder: names, whether executable, and contents.
    pub fn tree(mut self, path: &Path) -> Result<Self> {
        let meta = fs::symlink_metadata(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        self = self.bytes(path.file_name().unwrap_or(OsStr::new("")).as_bytes());
        if meta.is_dir() {
            let mut names = fs::read_dir(path)
                .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
                .with_context(|| format!("cannot read {}", path.display()))?;
            names.sort_by_key(fs::DirEntry::file_name);
            for entry in names {
                self = self.tree(&entry.path())?;
            }
            Ok(self.text("end"))
        } else {
            let content =
                fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok(self.bytes(&content))
        }
    }

    /// The finished key.
    pub fn finish(self) -> Key {
        Key(hex(&self.0.finalize()))
    }
}

/// The SHA-256 of a file in hexadecimal.
pub fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &Path) -> Cache {
        for part in ["locks", "tmp"] {
            fs::create_dir_all(dir.join(part)).expect("writable");
        }
        Cache {
            dir: dir.to_path_buf(),
            _in_use: None,
        }
    }

    #[test]
    fn folder_with_other_things_is_neither_taken_nor_emptied() {
        let dir = tempfile::tempdir().expect("a folder");
        for part in PARTS {
            fs::create_dir(dir.path().join(part)).expect("writable");
        }
        assert!(Cache::claim(dir.path().into()).is_err());
        assert!(Cache::remove_in(dir.path().into()).is_err());
        assert!(PARTS.iter().all(|part| dir.path().join(part).exists()));
        // The mark of another program's cache.
        let tag = TAG_TEXT.lines().next().expect("a line");
        fs::write(dir.path().join(TAG), tag).expect("writable");
        assert!(Cache::remove_in(dir.path().into()).is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 6);
    }

    #[test]
    fn folder_of_ours_is_emptied_and_taken_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = || Cache::claim(dir.path().join("new")).expect("ours");
        let stage = cache().dir.join("stages/one");
        fs::create_dir(&stage).expect("writable");
        assert!(cache().dir.ends_with("new") && stage.exists());
        Cache::remove_in(dir.path().join("new")).expect("ours");
        assert!(!stage.exists());
        assert!(Cache::remove_in(dir.path().join("absent")).is_ok());
        assert!(!dir.path().join("absent").exists());
    }

    #[test]
    fn stage_that_is_old_goes_and_others_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::claim(dir.path().into()).expect("empty");
        let made = ["a-0", "a-1", "a-b-0"].map(|name| {
            let stage = cache.dir.join("stages").join(name);
            fs::create_dir(&stage).expect("writable");
            stage
        });
        let old = SystemTime::now() - OLD - Duration::from_secs(1);
        for stage in [&made[0], &made[2]] {
            let stage = File::open(stage).expect("readable");
            stage.set_modified(old).expect("writable");
        }
        cache.prune("a").expect("writable");
        assert_eq!(made.map(|stage| stage.exists()), [false, true, true]);
        assert!(cache.has_any("a-b") && !cache.has_any("b"));
    }

    #[test]
    fn stage_that_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = Cache::claim(dir.path().into()).expect("empty");
        cache.check_space("a byte", 1).expect("there is one");
        let error = cache.check_space("all", u64::MAX).expect_err("too much");
        assert!(error.to_string().contains("HOST_IOMMU_CACHE"));
    }

    #[test]
    fn run_folder_of_a_dead_run_is_removed_and_of_a_live_one_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = cache(dir.path());
        let dead = dir.path().join("tmp/run-dead");
        fs::create_dir(&dead).expect("writable");
        let live = cache.run_folder().expect("a folder");
        let other = cache.run_folder().expect("a folder");
        assert!(!dead.exists() && live.path().exists() && other.path().exists());
        let gone = live.path().to_path_buf();
        drop(live);
        assert!(!gone.exists());
    }

    #[test]
    fn lock_that_is_taken_is_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let cache = cache(dir.path());
        let first = cache.lock("stage", || panic!("nobody has it")).expect("it");
        let (told, waiting) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                cache
                    .lock("stage", || told.send(()).expect("listened to"))
                    .map(drop)
            });
            waiting.recv().expect("the second waits");
            drop(first);
            assert!(second.join().expect("no panic").is_ok());
        });
    }

    #[test]
    fn key_of_texts_split_differently_differs() {
        let one = Key::of("a").text("bc").finish();
        let two = Key::of("ab").text("c").finish();
        assert!(one != two);
    }

    #[test]
    fn key_of_tree_changes_with_name_and_content() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("one");
        let key = || {
            Key::of("x")
                .tree(dir.path())
                .map(KeyBuilder::finish)
                .expect("readable")
        };
        fs::write(&file, "1").expect("writable");
        let first = key();
        fs::write(&file, "2").expect("writable");
        let second = key();
        fs::rename(&file, dir.path().join("two")).expect("writable");
        assert!(first != second && second != key());
    }
}
