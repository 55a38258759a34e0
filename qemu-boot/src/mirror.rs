// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where Debian's packages come from: the machine's own apt configuration says it.

use anyhow::{bail, Context, Result};
use std::fs;
use std::path::Path;

/// The address of a Debian archive, and the options that this machine's apt reaches it with.
pub struct Mirror {
    /// The archive's address.
    pub url: String,
    /// apt's `Acquire` settings of this machine (proxies and the like), in apt.conf's form.
    pub acquire: String,
}

impl Mirror {
    /// Takes `HOST_IOMMU_MIRROR`, or the archive that this machine's own release comes from.
    pub fn find() -> Result<Self> {
        let acquire = acquire_settings()?;
        if let Some(url) = std::env::var("HOST_IOMMU_MIRROR")
            .ok()
            .filter(|url| !url.is_empty())
        {
            return Ok(Self { url, acquire });
        }
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .unwrap_or("stable")
            .trim_matches('"')
            .to_owned();
        match from_apt(Path::new("/etc/apt"), &codename) {
            Some(url) => Ok(Self { url, acquire }),
            None => bail!(
                "no Debian mirror: /etc/apt names none for {codename}; \
                 set HOST_IOMMU_MIRROR to the address of a Debian archive"
            ),
        }
    }
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

/// debootstrap takes these.
fn first_url<'a>(mut urls: impl Iterator<Item = &'a str>) -> Option<String> {
    urls.find(|url| {
        ["http://", "https://", "file:"]
            .iter()
            .any(|s| url.starts_with(s))
    })
    .map(str::to_owned)
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
        assert_eq!(
            from_one_line("deb mirror+file:/etc/m trixie main", "trixie"),
            None
        );
    }
}
