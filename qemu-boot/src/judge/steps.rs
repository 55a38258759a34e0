// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lines of numbered steps, as `guest` of the tests prints them: `NN. TITLE: TEXT`, where the text
//! of one that failed begins with FAILED, and of one that could not be done with "skipped".

use super::ktap::Report;

/// Lines of what the guest and the VMM said that a failure shows.
const MAX_SAID: usize = 200;

/// Reads them line by line.
#[derive(Default)]
pub struct Parser {
    report: Report,
    said: Vec<String>,
    ended: bool,
}

impl Parser {
    /// Reads one line.
    pub fn line(&mut self, line: &str) {
        if let Some(status) = line.strip_prefix("exit status ") {
            self.ended = true;
            if status != "0" && self.report.failures.is_empty() {
                self.fail(format!("the steps ended with exit status {status}"));
            }
            return;
        }
        if line.starts_with("guest| ") || line.starts_with("vmm| ") {
            if self.said.len() < MAX_SAID {
                self.said.push(line.to_owned());
            }
            return;
        }
        let Some((number, rest)) = line.trim_start().split_once(". ") else {
            return;
        };
        if number.parse::<u32>().is_err() {
            return;
        }
        let totals = &mut self.report.totals;
        if rest.contains(": FAILED: ") {
            self.fail(format!("{number}. {rest}"));
        } else if let Some((title, why)) = rest.split_once(": skipped: ") {
            totals.skipped = totals.skipped.saturating_add(1);
            self.report.skips.push(format!("{number}. {title}: {why}"));
        } else {
            totals.passed = totals.passed.saturating_add(1);
        }
    }

    /// Something else failed.
    pub fn fail(&mut self, what: String) {
        let failed = &mut self.report.totals.failed;
        *failed = failed.saturating_add(1);
        self.report.failures.push(what);
    }

    /// Ends the lines: the last one must have come.
    pub fn finish(mut self) -> Report {
        if !self.ended && self.report.failures.is_empty() {
            self.fail("the machine ended before the steps did".to_owned());
        }
        if let Some(last) = self.report.failures.last_mut() {
            for line in &self.said {
                last.push_str("\n  ");
                last.push_str(line);
            }
        }
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> (u32, u32, u32) {
        let mut parser = Parser::default();
        text.lines().for_each(|line| parser.line(line));
        let totals = parser.finish().totals;
        (totals.passed, totals.failed, totals.skipped)
    }

    #[test]
    fn steps_are_counted_by_what_they_say() {
        let text = " 1. boot: Linux 7.3\n10. rid: FAILED: it differs. 2 of 3\n \
            4. share: skipped: switched off\nguest: 1 steps passed\nexit status 1\n";
        assert_eq!(counts(text), (1, 1, 1));
    }

    #[test]
    fn run_that_does_not_end_fails() {
        assert_eq!(counts(" 1. boot: yes\n"), (1, 1, 0));
        assert_eq!(counts(" 1. boot: yes\nexit status 2\n"), (1, 1, 0));
        assert_eq!(counts(" 1. boot: yes\nexit status 0\n"), (1, 0, 0));
    }
}
