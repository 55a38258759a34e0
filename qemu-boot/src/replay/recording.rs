// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A recording of what Linux's driver did with QEMU's unit, as `intel_iommu_record.c` writes it.

use anyhow::{bail, Context, Result};

/// What was done to the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// A register was read, and gave this.
    Read {
        offset: u64,
        size: usize,
        value: u64,
    },
    /// A register was written.
    Write {
        offset: u64,
        size: usize,
        value: u64,
    },
    /// An endpoint asked for the pages of a group.
    Request(Request),
    /// A request was stopped; these are the words of the fault's record.
    Fault { source: u16, low: u64, high: u64 },
}

/// A page request group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub group: Group,
    /// Their addresses.
    pub pages: Vec<u64>,
    pub read: bool,
    pub write: bool,
    pub privileged: bool,
}

/// What names a page request group while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub source: u16,
    pub pasid: Option<u32>,
    pub index: u16,
}

/// What the unit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The status of a wait was written.
    Status { address: u64, word: u32 },
    /// An interrupt was sent.
    Interrupt { address: u64, data: u32 },
    /// A page request was put into the guest's queue.
    Queued { address: u64, words: [u64; 2] },
    /// An answer went to an endpoint.
    Answer { group: Group, code: u32 },
}

/// Something that was done, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// In the recording, from 1.
    pub line: usize,
    /// What has changed in memory before.
    pub memory: Vec<(u64, u64)>,
    pub act: Act,
    pub effects: Vec<Effect>,
}

/// The numbers of a line.
struct Words<'a>(std::str::SplitAsciiWhitespace<'a>);

impl Words<'_> {
    fn next(&mut self) -> Result<u64> {
        let word = self.0.next().context("a word is missing")?;
        u64::from_str_radix(word, 16).with_context(|| format!("{word:?} is no number"))
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Result<T> {
        let word = self.next()?;
        T::try_from(word).map_err(|_| anyhow::anyhow!("{word:#x} is too large"))
    }
}

impl Group {
    fn new(source: u16, pasid: u32, index: u16) -> Self {
        Self {
            source,
            pasid: (pasid != u32::MAX).then_some(pasid),
            index,
        }
    }
}

/// A line.
enum Line {
    Memory(u64, u64),
    Act(Act),
    /// A page that is asked for, and whether it is the last of its group.
    Page(Request, bool),
    Effect(Effect),
}

fn read(line: &str) -> Result<Line> {
    let (kind, rest) = line.split_at_checked(1).unwrap_or((line, ""));
    let mut words = Words(rest.split_ascii_whitespace());
    Ok(match kind {
        "M" => Line::Memory(words.next()?, words.next()?),
        "R" => Line::Act(Act::Read {
            offset: words.next()?,
            size: words.small()?,
            value: words.next()?,
        }),
        "W" => Line::Act(Act::Write {
            offset: words.next()?,
            size: words.small()?,
            value: words.next()?,
        }),
        "F" => Line::Act(Act::Fault {
            source: words.small()?,
            low: words.next()?,
            high: words.next()?,
        }),
        "P" => {
            let (source, pasid, page) = (words.small()?, words.small()?, words.next()?);
            let flags = words.next()?;
            let request = Request {
                group: Group::new(source, pasid, words.small()?),
                pages: vec![page],
                read: flags & 1 != 0,
                write: flags & 2 != 0,
                privileged: flags & 8 != 0,
            };
            Line::Page(request, flags & 4 != 0)
        }
        "S" => Line::Effect(Effect::Status {
            address: words.next()?,
            word: words.small()?,
        }),
        "I" => Line::Effect(Effect::Interrupt {
            address: words.next()?,
            data: words.small()?,
        }),
        "Q" => Line::Effect(Effect::Queued {
            address: words.next()?,
            words: [words.next()?, words.next()?],
        }),
        "A" => Line::Effect(Effect::Answer {
            group: Group::new(words.small()?, words.small()?, words.small()?),
            code: words.small()?,
        }),
        "T" => bail!("the recording became too long"),
        _ => bail!("what is {line:?}?"),
    })
}

/// Reads a recording.
///
/// # Errors
///
/// The line that makes no sense, or that the recording was cut off for its length.
pub fn parse(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut memory = Vec::new();
    // Whether the last step is a group that goes on.
    let mut open = false;
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let act = match read(line).with_context(|| format!("line {line_number}"))? {
            Line::Memory(at, word) => {
                memory.push((at, word));
                continue;
            }
            Line::Effect(effect) => {
                let step = steps.last_mut();
                let step = step.with_context(|| format!("line {line_number} comes of nothing"))?;
                step.effects.push(effect);
                continue;
            }
            Line::Act(act) => act,
            Line::Page(request, last) => {
                let goes_on = std::mem::replace(&mut open, !last);
                match steps.last_mut().map(|step| &mut step.act) {
                    Some(Act::Request(begun)) if goes_on && begun.group == request.group => {
                        begun.pages.extend(request.pages);
                        continue;
                    }
                    _ if goes_on => bail!("line {line_number}: the group before has no end"),
                    _ => Act::Request(request),
                }
            }
        };
        steps.push(Step {
            line: line_number,
            memory: std::mem::take(&mut memory),
            act,
            effects: Vec::new(),
        });
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_steps_with_what_came_of_them() -> Result<()> {
        let steps = parse("M 1000 5\nR 8 8 d2\nW 88 8 20\nS 7000 1\nI fee00000 41\n")?;
        assert_eq!(steps.len(), 2);
        assert_eq!(steps[0].memory, [(0x1000, 5)]);
        let read = Act::Read {
            offset: 8,
            size: 8,
            value: 0xd2,
        };
        assert_eq!(steps[0].act, read);
        let interrupt = Effect::Interrupt {
            address: 0xfee0_0000,
            data: 0x41,
        };
        let status = Effect::Status {
            address: 0x7000,
            word: 1,
        };
        assert_eq!(steps[1].effects, [status, interrupt]);
        Ok(())
    }

    #[test]
    fn pages_of_a_group_are_one_step() -> Result<()> {
        let steps = parse("P 20 5 1000 1 3\nQ 9000 1 1\nP 20 5 2000 5 3\nQ 9020 1 5\n")?;
        let [step] = &steps[..] else {
            bail!("{steps:?}");
        };
        let Act::Request(request) = &step.act else {
            bail!("{step:?}");
        };
        assert_eq!(request.pages, [0x1000, 0x2000]);
        assert_eq!(step.effects.len(), 2);
        Ok(())
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["S 1 1\n", "R 8\n", "R 8 8 x\n", "Z\n", "T\n", "\u{e9}\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        let unended = parse("P 20 5 1000 1 3\nP 20 6 1000 5 4\n");
        assert!(unended.is_err());
    }
}
