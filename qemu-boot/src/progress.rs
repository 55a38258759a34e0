// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the user sees of long work: a line that moves on a terminal, plain lines elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The lines of what goes on at the same time.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The display of one step.
pub struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Progress {
    /// Shows that `name` has begun, and what it does.
    pub fn start(name: &str, what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = BARS.add(ProgressBar::new_spinner());
            if let Ok(style) =
                ProgressStyle::with_template("{spinner} {prefix}: {wide_msg} {elapsed}")
            {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{name}: {what} ...");
        }
        Self {
            name: name.to_owned(),
            bar,
            started: Instant::now(),
        }
    }

    /// Shows what it does now.
    pub fn say(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(what.to_owned()),
            None => eprintln!("{}: {what}", self.name),
        }
    }

    /// Shows the last line of a log; only a terminal has room for it.
    pub fn peek(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(
                line.chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect::<String>(),
            );
        }
    }

    /// Shows that it is done.
    pub fn done(self) {
        let seconds = self.started.elapsed().as_secs();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{}: done in {seconds} s", self.name);
    }
}
