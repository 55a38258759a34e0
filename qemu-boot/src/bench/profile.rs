// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which functions a measurement's instructions are in: QEMU logs each one by its address, and
//! the guest gives its kernel's symbols.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Most functions that are shown.
const SHOWN: usize = 45;

/// The guest kernel's functions by address.
#[derive(Default)]
pub struct Symbols(BTreeMap<u64, Function>);

struct Function {
    name: String,
    /// The module it is in.
    module: Option<String>,
}

impl Symbols {
    /// Takes in a line of /proc/kallsyms.
    pub fn line(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(kind), Some(name)) = (words.next(), words.next(), words.next())
        else {
            return;
        };
        let Ok(address) = u64::from_str_radix(address, 16) else {
            return;
        };
        if kind.eq_ignore_ascii_case("t") && address != 0 {
            let module = words.next();
            let function = Function {
                name: format!("{:#}", rustc_demangle::demangle(name)),
                module: module.map(|module| module.trim_matches(['[', ']']).to_owned()),
            };
            self.0.insert(address, function);
        }
    }

    fn at(&self, address: u64) -> Option<&Function> {
        self.0
            .range(..=address)
            .next_back()
            .map(|(_, function)| function)
    }

    /// Where the instructions of logs are, each of so many operations.
    pub fn profile(&self, logs: impl Iterator<Item = (PathBuf, u32)>) -> Result<Profile> {
        let mut profile = Profile::default();
        for (log, operations) in logs {
            profile.operations += operations;
            self.add(&log, &mut profile)?;
        }
        Ok(profile)
    }

    fn add(&self, log: &Path, profile: &mut Profile) -> Result<()> {
        let file = File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
        for line in BufReader::new(file).lines() {
            let line = line.context("cannot read the log")?;
            let Some(address) = address(&line) else {
                continue;
            };
            let (name, part) = match self.at(address) {
                _ if address >> 63 == 0 => ("(user)", "user"),
                Some(function) => {
                    let part = function.module.as_deref().unwrap_or("kernel");
                    (function.name.as_str(), part)
                }
                None => ("(unknown)", "kernel"),
            };
            *profile.parts.entry(part.to_owned()).or_default() += 1;
            *profile
                .functions
                .entry(format!("{name} [{part}]"))
                .or_default() += 1;
        }
        Ok(())
    }
}

/// Instructions by where they are.
#[derive(Default)]
pub struct Profile {
    operations: u32,
    parts: BTreeMap<String, u64>,
    functions: BTreeMap<String, u64>,
}

impl Profile {
    /// Instructions of an operation in the kernel and its modules.
    pub fn in_kernel(&self) -> f64 {
        let parts = self.parts.iter().filter(|(part, _)| *part != "user");
        parts.map(|(_, count)| *count as f64).sum::<f64>() / f64::from(self.operations)
    }

    /// Shows the parts of the kernel, and with `functions` its functions too.
    pub fn show(&self, title: &str, functions: bool) {
        let show = |counts: &BTreeMap<String, u64>, most: usize| {
            let mut counts: Vec<_> = counts.iter().collect();
            counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (name, count) in counts.into_iter().take(most) {
                println!(
                    "{:>12.1} {name}",
                    *count as f64 / f64::from(self.operations)
                );
            }
        };
        println!("{title}: instructions of an operation by where they are");
        show(&self.parts, SHOWN);
        if functions {
            println!("{title}: by function");
            show(&self.functions, SHOWN);
        }
    }
}

/// The address in a line such as `Trace 0: 0x7f… [00000000/ffffffff81000000/00000033/…] name`.
fn address(line: &str) -> Option<u64> {
    let fields = line.strip_prefix("Trace ")?.split_once('[')?.1;
    u64::from_str_radix(fields.split('/').nth(1)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_the_second_field() {
        let line = "Trace 0: 0x7f00 [00000000/ffffffff81000040/00000033/ff000000] qi_submit";
        assert_eq!(address(line), Some(0xffff_ffff_8100_0040));
        assert_eq!(address("Stopped execution of TB chain"), None);
    }

    #[test]
    fn function_is_the_nearest_below() {
        let mut symbols = Symbols::default();
        symbols.line("ffffffff81000000 T first");
        symbols.line("ffffffff81000100 t second\t[module]");
        symbols.line("ffffffff81000080 D data");
        let name = |address| symbols.at(address).map(|function| function.name.as_str());
        assert_eq!(name(0xffff_ffff_8100_00ff), Some("first"));
        assert_eq!(name(0xffff_ffff_8100_0100), Some("second"));
        assert_eq!(name(0), None);
    }
}
