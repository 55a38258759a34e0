// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Taking calls out of a crash while it still happens.

use super::call::Program;
use anyhow::Result;

/// Ends of what a thread did that are tried, in calls: what crashes is rarely old.
const ENDS: [usize; 3] = [8, 64, 512];

/// The fewest calls found by which `happens` still says so; nothing, if it does not for all of
/// them.
pub fn smallest(
    threads: &[Program],
    mut happens: impl FnMut(&[Program]) -> Result<bool>,
) -> Result<Option<Vec<Program>>> {
    let ends = ENDS.iter().map(|&count| last_calls(threads, count));
    let mut found = None;
    for candidate in ends.chain([threads.to_vec()]) {
        if happens(&candidate)? {
            found = Some(candidate);
            break;
        }
    }
    let Some(mut smaller) = found else {
        return Ok(None);
    };
    for thread in (0..smaller.len()).rev() {
        let mut candidate = smaller.clone();
        candidate.remove(thread);
        if !candidate.is_empty() && happens(&candidate)? {
            smaller = candidate;
        }
    }
    for thread in 0..smaller.len() {
        let mut part = smaller[thread].len().div_ceil(2);
        while part > 0 {
            let mut at = 0;
            while at < smaller[thread].len() {
                let mut candidate = smaller.clone();
                let end = (at + part).min(candidate[thread].len());
                drop(candidate[thread].drain(at..end));
                let any = candidate.iter().any(|calls| !calls.is_empty());
                if any && happens(&candidate)? {
                    smaller = candidate;
                } else {
                    at += part;
                }
            }
            part /= 2;
        }
    }
    smaller.retain(|calls| !calls.is_empty());
    Ok(Some(smaller))
}

fn last_calls(threads: &[Program], count: usize) -> Vec<Program> {
    threads
        .iter()
        .map(|calls| calls[calls.len().saturating_sub(count)..].to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::call::{Call, Kind};
    use super::*;

    fn program(kinds: &[Kind]) -> Program {
        kinds.iter().copied().map(Call::plain).collect()
    }

    fn has(threads: &[Program], kind: Kind) -> bool {
        threads
            .iter()
            .flatten()
            .any(|call| call.kind() == Some(kind))
    }

    #[test]
    fn smallest_leaves_what_it_takes_in_two_threads() {
        let mut long = program(&[Kind::Map; 700]);
        long[30] = Call::plain(Kind::Bind);
        let threads = [
            program(&[Kind::Stats; 20]),
            long,
            program(&[Kind::Read, Kind::Queue, Kind::Read]),
        ];
        let mut tries = 0;
        let small = smallest(&threads, |threads| {
            tries += 1;
            Ok(has(threads, Kind::Bind) && has(threads, Kind::Queue))
        });
        let expected = [program(&[Kind::Bind]), program(&[Kind::Queue])];
        assert_eq!(small.expect("no error"), Some(expected.to_vec()));
        assert!(tries < 60, "{tries} tries");
    }

    #[test]
    fn smallest_of_what_does_not_happen_is_nothing() {
        let threads = [program(&[Kind::Map])];
        assert_eq!(smallest(&threads, |_| Ok(false)).expect("no error"), None);
    }
}
