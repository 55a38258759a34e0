// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A release of Debian in the archive, as apt in the build root sees it: the root's own, Debian 13 with
//! its backports, or an older one beside it.

use crate::command::output;
use crate::root::Root;
use crate::stages::packages::Package;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// Where an older release has its lists and the configuration of apt, below its name.
const OLDER: &str = "/var/lib/apt-of";

/// Makes the configuration of apt for an older release, from the archive of the root's own. `$1`: the
/// release, `$2`: its folder.
const CONFIGURE: &str = r#"
mkdir -p "$2/lists/partial"
sed -n "s/^deb \(.*\) trixie main$/deb \1 $1 main/p" /etc/apt/sources.list > "$2/sources.list"
cat > "$2/apt.conf" <<END
Dir::Etc::SourceList "$2/sources.list";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$2/lists";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
END
"#;

/// A release in the archive.
pub struct Archive<'a> {
    root: &'a Root,
    /// Its name, if it is not the root's own.
    release: Option<String>,
}

impl<'a> Archive<'a> {
    /// The root's own.
    pub fn new(root: &'a Root) -> Self {
        Self {
            root,
            release: None,
        }
    }

    /// An older one.
    pub fn of(root: &'a Root, release: &str) -> Result<Self> {
        let folder = format!("{OLDER}/{release}");
        output(
            "the configuration of apt for an older release",
            &mut root.script(&[], CONFIGURE, &[release, &folder]),
        )?;
        Ok(Self {
            root,
            release: Some(release.to_owned()),
        })
    }

    /// A command in the root, as [`Root::command`], whose apt works on this release.
    fn command(&self, binds: &[(&Path, &str)], program: &[&str]) -> Command {
        let configuration = self
            .release
            .iter()
            .map(|release| format!("APT_CONFIG={OLDER}/{release}/apt.conf"));
        let program = program.iter().map(|word| (*word).to_owned());
        self.root.command(binds, configuration.chain(program))
    }

    /// A script in the root, as [`Root::script`], whose apt works on this release.
    pub fn script(&self, binds: &[(&Path, &str)], script: &str, arguments: &[&str]) -> Command {
        let mut words = vec!["bash", "-euo", "pipefail", "-c", script, "script"];
        words.extend(arguments);
        self.command(binds, &words)
    }

    /// Asks the archive for its lists of this moment.
    pub fn update(&self) -> Result<()> {
        output(
            "apt-get update in the build root (is the mirror reachable?)",
            &mut self.command(&[], &["apt-get", "update"]),
        )?;
        Ok(())
    }

    /// What apt-cache says of its lists.
    pub fn ask(&self, arguments: &[&str]) -> Result<String> {
        let mut words = vec!["apt-cache"];
        words.extend(arguments);
        output(&words.join(" "), &mut self.command(&[], &words))
    }

    /// The packages whose name starts with `prefix`, one a line.
    pub fn names(&self, prefix: &str) -> Result<String> {
        self.ask(&["pkgnames", prefix])
    }

    /// What the archive says of a package.
    pub fn show(&self, name: &str, version: Option<&str>) -> Result<Package> {
        let spec = match version {
            Some(version) => format!("{name}={version}"),
            None => name.to_owned(),
        };
        let text = self.ask(&["show", "--no-all-versions", &spec])?;
        let field = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(": "))
                .map(str::to_owned)
                .with_context(|| format!("the archive gives no {key} of {name}"))
        };
        Ok(Package {
            name: name.to_owned(),
            version: field("Version")?,
            sha256: field("SHA256")?,
            release: self.release.clone(),
        })
    }
}
