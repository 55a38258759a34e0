// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the user sees of long work: a line that moves on a terminal, plain lines elsewhere, and a
//! sign of life in each minute.

use crate::plan::Plan;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The lines of what goes on at the same time.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// The stages of the command that runs.
static PLAN: OnceLock<Plan> = OnceLock::new();

/// How often a step that takes long says so where there is no terminal.
const BEAT: Duration = Duration::from_secs(60);

/// Has each stage say where it stands among those of `plan`.
pub fn follow(plan: Plan) {
    // The first one stays: a process runs one command.
    let _ = PLAN.set(plan);
}

/// The display of one step.
pub struct Progress {
    name: String,
    shown: Shown,
    started: Instant,
}

enum Shown {
    /// On a terminal.
    Bar(ProgressBar),
    /// Elsewhere: the last line that was seen, and what ends the signs of life when it goes.
    Lines {
        last: Arc<Mutex<String>>,
        _alive: Sender<()>,
    },
}

impl Progress {
    /// Shows that `name` has begun, and what it does.
    pub fn start(name: &str, what: &str) -> Self {
        let position = PLAN.get().and_then(|plan| plan.position(name));
        let title = match position {
            Some(position) => format!("{name} ({position})"),
            None => name.to_owned(),
        };
        let shown = match std::io::stderr().is_terminal() {
            true => Shown::Bar(bar(title, what)),
            false => {
                eprintln!("{title}: {what} ...");
                lines(name, BEAT)
            }
        };
        Self {
            name: name.to_owned(),
            shown,
            started: Instant::now(),
        }
    }

    /// Shows what it does now.
    pub fn say(&self, what: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.set_message(what.to_owned()),
            Shown::Lines { .. } => eprintln!("{}: {what}", self.name),
        }
    }

    /// Shows the last line of a log: on a terminal at once, elsewhere with the next sign of life.
    pub fn peek(&self, line: &str) {
        let line = line.chars().filter(|c| !c.is_control()).take(200).collect();
        match &self.shown {
            Shown::Bar(bar) => bar.set_message(line),
            Shown::Lines { last, .. } => {
                *last.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        }
    }

    /// Shows that it is done.
    pub fn done(self) {
        let seconds = self.started.elapsed().as_secs();
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
        eprintln!("{}: done in {seconds} s", self.name);
    }
}

fn bar(title: String, what: &str) -> ProgressBar {
    let bar = BARS.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_prefix(title);
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Starts the signs of life of a step: they go on until what is given is dropped.
fn lines(name: &str, beat: Duration) -> Shown {
    let (alive, ended) = mpsc::channel::<()>();
    let last = Arc::new(Mutex::new(String::new()));
    let (name, seen, started) = (name.to_owned(), last.clone(), Instant::now());
    thread::spawn(move || {
        while ended.recv_timeout(beat) == Err(RecvTimeoutError::Timeout) {
            let seconds = started.elapsed().as_secs();
            let line = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
            eprintln!("{name}: {seconds} s so far: {line}");
        }
    });
    Shown::Lines {
        last,
        _alive: alive,
    }
}
