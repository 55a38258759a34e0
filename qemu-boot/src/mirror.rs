// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where Debian's packages come from: the machine's own apt configuration says it.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Names of releases that sources may have in the place of a code name: one archive has them all.
const ALIASES: [&str; 5] = ["stable", "oldstable", "testing", "unstable", "sid"];

/// The address of a Debian archive, and the options that this machine's apt reaches it with.
pub struct Mirror {
    /// The archive's address; nothing: the one that debootstrap takes by itself.
    pub url: Option<String>,
    /// apt's `Acquire` settings of this machine (proxies and the like), in apt.conf's form.
    pub acquire: String,
}

impl Mirror {
    /// Takes `HOST_IOMMU_MIRROR`, or the archive that this machine's own release comes from; on
    /// other distributions, and where apt names none, debootstrap's.
    pub fn find() -> Result<Self> {
        let acquire = acquire_settings()?;
        let named = std::env::var("HOST_IOMMU_MIRROR").ok();
        let url = named
            .filter(|url| !url.is_empty())
            .or_else(|| from_machine(Path::new("/etc")));
        Ok(Self { url, acquire })
    }
}

/// The archive of the Debian machine whose configuration is below `etc`.
fn from_machine(etc: &Path) -> Option<String> {
    let release = fs::read_to_string(etc.join("os-release")).ok()?;
    let field = |name: &str| {
        let value = |line: &str| Some(line.strip_prefix(name)?.trim_matches('"').to_owned());
        release.lines().find_map(value)
    };
    if field("ID=")? != "debian" {
        return None;
    }
    let codename = field("VERSION_CODENAME=");
    let suites = codename.iter().map(String::as_str).chain(ALIASES);
    let mut archives = suites.filter_map(|suite| from_apt(&etc.join("apt"), suite));
    archives.next()
}

/// apt's `Acquire` settings, so that an apt in the build root reaches the archive as this
/// machine's does.
fn acquire_settings() -> Result<String> {
    let output = std::process::Command::new("apt-config")
        .arg("dump")
        .output()
        .context("cannot run apt-config: the set-up needs a Debian 12 or 13 machine")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.starts_with("Acquire::") && !line.ends_with("\"\";"))
        .map(|line| format!("{line}\n"))
        .collect())
}

/// The archive of `codename`'s main component in the sources below `etc_apt`.
fn from_apt(etc_apt: &Path, codename: &str) -> Option<String> {
    let mut files: Vec<_> = fs::read_dir(etc_apt.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.push(etc_apt.join("sources.list"));
    files.sort();
    files.iter().find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        match path.extension()?.to_str()? {
            "sources" => from_deb822(&text, codename),
            "list" => from_one_line(&text, codename),
            _ => None,
        }
    })
}

/// Finds the archive in the stanzas of a `.sources` file.
fn from_deb822(text: &str, codename: &str) -> Option<String> {
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        let has = |name, word: &str| field(name)?.split_whitespace().find(|other| *other == word);
        has("Types", "deb")?;
        has("Suites", codename)?;
        has("Components", "main")?;
        if field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no")) {
            return None;
        }
        first_url(field("URIs")?.split_whitespace())
    })
}

/// Finds the archive in the lines of a `.list` file.
fn from_one_line(text: &str, codename: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let line = line.trim().strip_prefix("deb ")?.trim_start();
        let line = match line.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => line,
        };
        let mut words = line.split_whitespace();
        let url = words.next()?;
        (words.next()? == codename && words.any(|word| word == "main")).then_some(())?;
        first_url([url].into_iter())
    })
}

/// The first that debootstrap takes. Behind `mirror+file:` stands a list of them.
fn first_url<'a>(mut urls: impl Iterator<Item = &'a str>) -> Option<String> {
    urls.find_map(|url| {
        if let Some(list) = url.strip_prefix("mirror+file:") {
            let list = fs::read_to_string(list).ok()?;
            // A line may have apt's remarks behind the address.
            let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
            return list.lines().filter_map(first).find(|url| is_taken(url));
        }
        is_taken(url).then(|| url.to_owned())
    })
}

fn is_taken(url: &str) -> bool {
    ["http://", "https://", "file:"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "Types: deb\nURIs: http://a.invalid/security\nSuites: bookworm-security\n\
        Components: main\n\n# the archive\nTypes: deb deb-src\nURIs: http://b.invalid/debian\n\
        Suites: bookworm bookworm-updates\nComponents: main contrib\n";

    #[test]
    fn mirror_in_deb822_is_the_one_of_the_release() {
        assert_eq!(
            from_deb822(DEB822, "bookworm").as_deref(),
            Some("http://b.invalid/debian")
        );
        assert_eq!(from_deb822(DEB822, "trixie"), None);
    }

    #[test]
    fn mirror_that_is_disabled_is_passed_over() {
        let text = DEB822.replace("contrib\n", "contrib\nEnabled: no\n");
        assert_eq!(from_deb822(&text, "bookworm"), None);
    }

    #[test]
    fn mirror_in_one_line_form_is_found_behind_options() {
        let text = "# deb http://x.invalid/debian trixie main\n\
            deb [arch=amd64 signed-by=/k.gpg] https://c.invalid/debian trixie main\n";
        assert_eq!(
            from_one_line(text, "trixie").as_deref(),
            Some("https://c.invalid/debian")
        );
        assert_eq!(from_one_line(text, "bookworm"), None);
    }

    #[test]
    fn mirror_of_an_unknown_scheme_is_not_taken() {
        let line = "deb tor+http://a.invalid/debian trixie main";
        assert_eq!(from_one_line(line, "trixie"), None);
    }

    /// A machine's /etc with these two files.
    fn etc(os_release: &str, list: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("apt")).expect("writable");
        fs::write(dir.path().join("os-release"), os_release).expect("writable");
        fs::write(dir.path().join("apt/sources.list"), list).expect("writable");
        dir
    }

    #[test]
    fn mirror_in_a_list_of_mirrors_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let list = dir.path().join("mirrors");
        let mirrors = "# ours\nhttps://d.invalid/debian priority:1\nhttps://e.invalid/debian\n";
        fs::write(&list, mirrors).expect("writable");
        let line = format!("deb mirror+file:{} trixie main", list.display());
        assert_eq!(
            from_one_line(&line, "trixie").as_deref(),
            Some("https://d.invalid/debian")
        );
        let line = "deb mirror+file:/absent trixie main";
        assert_eq!(from_one_line(line, "trixie"), None);
    }

    #[test]
    fn mirror_of_a_machine_that_follows_stable_is_found() {
        let etc = etc(
            "ID=debian\nVERSION_CODENAME=trixie\n",
            "deb http://f.invalid/debian stable-security main\n\
             deb http://g.invalid/debian stable main\n",
        );
        assert_eq!(
            from_machine(etc.path()).as_deref(),
            Some("http://g.invalid/debian")
        );
    }

    #[test]
    fn mirror_of_another_distribution_is_not_taken_for_debians() {
        let etc = etc(
            "ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n",
            "deb http://h.invalid/ubuntu noble main\n",
        );
        assert_eq!(from_machine(etc.path()), None);
    }
}
