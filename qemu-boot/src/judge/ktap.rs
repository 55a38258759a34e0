// SPDX-License-Identifier: Apache-2.0 OR MIT
//! KTAP, as <https://docs.kernel.org/dev-tools/ktap.html> has it: plans, results, subtests by
//! indentation, skips.
//!
//! Counted are the innermost results. A result that has subtests counts by itself only where
//! it failed although none of them did, as a program does that crashed.

use super::Totals;

/// What a stream of KTAP said.
#[derive(Debug, Default)]
pub struct Report {
    /// The innermost results.
    pub totals: Totals,
    /// Names of what failed, with what was said of it.
    pub failures: Vec<String>,
    /// Names of what was skipped, with the reasons.
    pub skips: Vec<String>,
}

impl Report {
    /// Takes another one in.
    pub fn add(&mut self, other: Self) {
        self.totals.add(other.totals);
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
    }

    /// Something else failed.
    pub fn fail(&mut self, what: String) {
        self.totals.failed = self.totals.failed.saturating_add(1);
        self.failures.push(what);
    }
}

/// Lines before a result that its failure shows.
const MAX_SAID: usize = 20;

/// One level of subtests.
#[derive(Default)]
struct Level {
    indent: usize,
    name: Option<String>,
    planned: Option<u32>,
    seen: u32,
    failed: u32,
}

/// Reads KTAP line by line.
#[derive(Default)]
pub struct Parser {
    levels: Vec<Level>,
    report: Report,
    subtest: Option<String>,
    said: Vec<String>,
}

impl Parser {
    /// Reads one line.
    pub fn line(&mut self, line: &str) {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let text = line.trim();
        if let Some(name) = text.strip_prefix("# Subtest:") {
            self.subtest = Some(name.trim().to_owned());
        } else if let Some(diagnostic) = text.strip_prefix("# ") {
            if self.said.len() < MAX_SAID && !diagnostic.starts_with("Running ") {
                self.said.push(diagnostic.to_owned());
            }
        } else if let Some(count) = text.strip_prefix("1..") {
            if let Some(count) = count.split(' ').next().and_then(|count| count.parse().ok()) {
                self.plan(indent, count);
            }
        } else if let Some(rest) = text.strip_prefix("ok ") {
            self.result(indent, true, rest);
        } else if let Some(rest) = text.strip_prefix("not ok ") {
            self.result(indent, false, rest);
        }
    }

    /// Ends the stream: levels that did not come to their plan's end have failed.
    pub fn finish(mut self) -> Report {
        if self.levels.is_empty() && self.report.totals == Totals::default() {
            self.fail("no test said anything".to_owned());
        }
        while let Some(level) = self.levels.pop() {
            self.close(&level);
        }
        self.report
    }

    fn plan(&mut self, indent: usize, planned: u32) {
        self.close_deeper(indent);
        let name = self.subtest.take();
        match self.levels.last_mut() {
            Some(level) if level.indent == indent => level.planned = Some(planned),
            _ => self.levels.push(Level {
                indent,
                name,
                planned: Some(planned),
                ..Level::default()
            }),
        }
    }

    fn result(&mut self, indent: usize, ok: bool, rest: &str) {
        let (number, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        if number.parse::<u32>().is_err() {
            return;
        }
        let (name, directive) = rest.split_once('#').unwrap_or((rest, ""));
        let name = name.trim().trim_start_matches("- ");
        let directive = directive.trim();
        let (had_subtests, subtests_failed) = self.close_deeper(indent);
        if self.levels.last().is_none_or(|level| level.indent < indent) {
            let name = self.subtest.take();
            self.levels.push(Level {
                indent,
                name,
                ..Level::default()
            });
        }
        self.subtest = None;
        let said = std::mem::take(&mut self.said);
        let path = self.path(name);
        if let Some(level) = self.levels.last_mut() {
            level.seen = level.seen.saturating_add(1);
            level.failed = level.failed.saturating_add(u32::from(!ok));
        }
        let skip = directive
            .get(..4)
            .is_some_and(|word| word.eq_ignore_ascii_case("skip"));
        match (ok, skip, had_subtests) {
            (false, _, true) if subtests_failed => {}
            (false, _, _) => {
                let said: String = said.iter().map(|line| format!("\n  {line}")).collect();
                self.fail(format!("{}{said}", format!("{path} {directive}").trim()));
            }
            (true, _, true) => {}
            (true, true, false) => {
                let reason = directive.get(4..).unwrap_or("").trim().to_owned();
                self.report.totals.skipped = self.report.totals.skipped.saturating_add(1);
                self.report.skips.push(format!("{path}: {reason}"));
            }
            (true, false, false) => {
                self.report.totals.passed = self.report.totals.passed.saturating_add(1);
            }
        }
    }

    /// Ends the levels below `indent`; says whether there were any, and whether one failed.
    fn close_deeper(&mut self, indent: usize) -> (bool, bool) {
        let (mut any, mut failed) = (false, false);
        while self
            .levels
            .last()
            .is_some_and(|level| level.indent > indent)
        {
            let Some(level) = self.levels.pop() else {
                break;
            };
            any = true;
            failed |=
                level.failed != 0 || level.planned.is_some_and(|planned| planned != level.seen);
            self.close(&level);
        }
        (any, failed)
    }

    fn close(&mut self, level: &Level) {
        if let Some(planned) = level.planned.filter(|&planned| planned != level.seen) {
            let name = level.name.clone().unwrap_or_else(|| "tests".to_owned());
            let seen = level.seen;
            self.fail(format!("{name}: {seen} results for a plan of {planned}"));
        }
    }

    fn path(&self, name: &str) -> String {
        self.levels
            .iter()
            .filter_map(|level| level.name.as_deref())
            .chain([name])
            .collect::<Vec<_>>()
            .join(": ")
    }

    fn fail(&mut self, what: String) {
        self.report.fail(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> Report {
        let mut parser = Parser::default();
        text.lines().for_each(|line| parser.line(line));
        parser.finish()
    }

    fn totals(text: &str) -> (u32, u32, u32) {
        let totals = report(text).totals;
        (totals.passed, totals.failed, totals.skipped)
    }

    #[test]
    fn subtests_count_and_their_parents_do_not() {
        let text =
            "KTAP version 1\n1..2\n    # Subtest: a\n    KTAP version 1\n    1..2\n    ok 1 x\n\
            \x20   ok 2 y\nok 1 a\n    # Subtest: b\n    1..1\n    not ok 1 z # why\nnot ok 2 b\n";
        assert_eq!(totals(text), (2, 1, 0));
        assert_eq!(report(text).failures, ["b: z why"]);
    }

    #[test]
    fn failure_shows_what_its_test_said_and_no_other() {
        let text = "1..2\n# of x\nok 1 x\n# Running y\n# wanted 1\n# got 2\nnot ok 2 y\n";
        assert_eq!(report(text).failures, ["y\n  wanted 1\n  got 2"]);
    }

    #[test]
    fn skip_is_counted_with_its_reason() {
        let report = report("1..1\nok 1 x # SKIP no PRI\n");
        assert_eq!(report.totals.skipped, 1);
        assert_eq!(report.skips, ["x: no PRI"]);
    }

    #[test]
    fn program_that_dies_in_the_middle_fails() {
        let text = "1..2\n    # Subtest: a\n    1..3\n    ok 1 x\nnot ok 1 a # exit 139\nok 2 b\n";
        assert_eq!(totals(text), (2, 1, 0));
    }

    #[test]
    fn program_that_passes_all_and_then_fails_fails() {
        let text = "1..1\n    # Subtest: a\n    1..1\n    ok 1 x\nnot ok 1 a # exit 1\n";
        assert_eq!(totals(text), (1, 1, 0));
    }

    #[test]
    fn run_that_stops_early_or_says_nothing_fails() {
        assert_eq!(totals("1..3\nok 1 x\n"), (1, 1, 0));
        assert_eq!(totals(""), (0, 1, 0));
    }

    #[test]
    fn output_of_a_program_is_not_a_result() {
        assert_eq!(totals("1..1\nok then\n# not ok 5 x\nok 1 x\n"), (1, 0, 0));
    }
}
