// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `hostiommu watch`: what the module does, live.

mod rates;
mod view;

use crate::report::{Error, Report};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use view::View;

/// How it watches.
#[derive(Args)]
pub struct Options {
    /// Milliseconds between two looks.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=3_600_000))]
    interval: u64,
    /// End after so many looks.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Options {
    fn interval(&self) -> Duration {
        Duration::from_millis(self.interval)
    }

    fn is_over(&self, looks: u64) -> bool {
        self.count.is_some_and(|count| looks >= count)
    }
}

/// Watches until it is told to end.
///
/// # Errors
///
/// If the module cannot be read: with JSON at any time, in a terminal at the start. If there is no
/// terminal to show it in.
pub fn watch(debugfs: &Path, options: &Options, json: bool) -> Result<(), Error> {
    match json {
        true => lines(debugfs, options),
        false if io::stdout().is_terminal() => screen(debugfs, options),
        false => Err(Error::NoTerminal),
    }
}

/// A line of JSON for each look.
fn lines(debugfs: &Path, options: &Options) -> Result<(), Error> {
    let start = Instant::now();
    let mut before: Option<(Report, Instant)> = None;
    for looks in 1_u64.. {
        let now = Report::read(debugfs)?;
        let at = Instant::now();
        let (report, time) = match &before {
            Some((report, then)) => (Some(report), at.duration_since(*then)),
            None => (None, Duration::ZERO),
        };
        let line = rates::json(
            &rates::between(report, &now, time),
            at.duration_since(start),
        );
        let mut out = io::stdout().lock();
        match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            Err(error) => return Err(Error::Print(error)),
            Ok(()) => {}
        }
        drop(out);
        if options.is_over(looks) {
            break;
        }
        before = Some((now, at));
        std::thread::sleep(options.interval());
    }
    Ok(())
}

/// A view in the terminal, which is as it was when this returns.
fn screen(debugfs: &Path, options: &Options) -> Result<(), Error> {
    // What is wrong from the start is said on a line that stays.
    let first = Report::read(debugfs)?;
    let mut terminal = ratatui::try_init().map_err(Error::Terminal)?;
    let ended = show(&mut terminal, debugfs, options, first);
    ratatui::restore();
    ended.map_err(Error::Terminal)
}

fn show(
    terminal: &mut ratatui::DefaultTerminal,
    debugfs: &Path,
    options: &Options,
    first: Report,
) -> io::Result<()> {
    let mut before = (first, Instant::now());
    let mut containers = rates::between(None, &before.0, Duration::ZERO);
    let mut trouble = None;
    for looks in 1_u64.. {
        let module = &before.0.module;
        let view = View {
            containers: &containers,
            module: format!(
                "{} containers, {} of {} PASIDs, {} of {} domains",
                module.get("containers"),
                module.get("pasids"),
                module.get("pasids_limit"),
                module.get("domains"),
                module.get("domains_limit"),
            ),
            trouble: trouble.take(),
        };
        terminal.draw(|frame| view.draw(frame))?;
        if options.is_over(looks) || is_ended(terminal, &view, options.interval())? {
            break;
        }
        // The module may be unloaded and loaded while somebody watches.
        match Report::read(debugfs) {
            Ok(now) => {
                let at = Instant::now();
                containers = rates::between(Some(&before.0), &now, at.duration_since(before.1));
                before = (now, at);
            }
            Err(error) => trouble = Some(error.to_string()),
        }
    }
    Ok(())
}

/// Waits for so long, or for the key that ends it. Draws anew where the terminal's size changes.
fn is_ended(
    terminal: &mut ratatui::DefaultTerminal,
    view: &View<'_>,
    time: Duration,
) -> io::Result<bool> {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || !event::poll(left)? {
            return Ok(false);
        }
        match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Press => {
                let interrupt =
                    key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
                if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(true);
                }
            }
            Event::Resize(..) => {
                terminal.draw(|frame| view.draw(frame))?;
            }
            _ => {}
        }
    }
}
