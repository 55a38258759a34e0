// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is to be reached, and whether it was.

use super::figures::{Figures, IOMMUFD, OURS, TYPE1};
use serde::Serialize;

/// What a row is held against.
#[derive(Clone, Copy)]
enum Against {
    /// The better of type1 and iommufd.
    Best,
    /// iommufd.
    Iommufd,
    /// The same call alone, this row of ours.
    Alone(&'static str),
}

/// A row and the most that it may cost beside the others.
struct Goal {
    row: &'static str,
    work: &'static str,
    against: Against,
    limit: f64,
}

const fn goal(row: &'static str, work: &'static str, against: Against, limit: f64) -> Goal {
    Goal {
        row,
        work,
        against,
        limit,
    }
}

/// What waits for nobody has half of the emulator's time beside another thread, and a switch now
/// and then.
const BESIDE: f64 = 2.2;
const ALONE: Against = Against::Alone("beside_nothing");

const GOALS: [Goal; 23] = [
    goal(
        "map_4k",
        "map and unmap 1 GiB, pages of 4 KiB",
        Against::Best,
        1.0,
    ),
    goal(
        "map_2m",
        "map and unmap 1 GiB, pages of 2 MiB",
        Against::Best,
        1.0,
    ),
    goal(
        "map_1g",
        "map and unmap 1 GiB, pages of 1 GiB",
        Against::Best,
        1.0,
    ),
    goal(
        "map_64g",
        "map and unmap 2 MiB, in 64 GiB",
        Against::Best,
        1.0,
    ),
    goal("bind", "bind and unbind at a PASID", Against::Iommufd, 0.7),
    goal("rebind", "rebind of a live PASID", Against::Iommufd, 0.8),
    goal("invalidate_1", "invalidate 1 entry", Against::Iommufd, 1.1),
    goal(
        "invalidate_64",
        "invalidate 64 entries",
        Against::Iommufd,
        1.05,
    ),
    goal(
        "invalidate_512",
        "invalidate 512 entries",
        Against::Iommufd,
        1.05,
    ),
    goal(
        "invalidate_65536",
        "invalidate 65,536 entries",
        Against::Iommufd,
        1.05,
    ),
    goal(
        "beside_invalidate",
        "invalidate 1 entry, beside that of another binding",
        ALONE,
        BESIDE,
    ),
    goal(
        "beside_map",
        "invalidate 1 entry, beside maps and unmaps of 4 MiB",
        ALONE,
        BESIDE,
    ),
    goal(
        "beside_bind",
        "invalidate 1 entry, beside binds and unbinds",
        ALONE,
        BESIDE,
    ),
    goal(
        "beside_close",
        "invalidate 1 entry, beside closes of fault queues",
        ALONE,
        BESIDE,
    ),
    goal(
        "request_1",
        "page request, one at a time",
        Against::Iommufd,
        0.9,
    ),
    goal(
        "request_64",
        "page request, 64 in flight",
        Against::Iommufd,
        0.9,
    ),
    goal(
        "request_group_8",
        "page request, groups of 8",
        Against::Iommufd,
        0.9,
    ),
    goal(
        "as_1",
        "map 1 page in an address space",
        Against::Iommufd,
        0.5,
    ),
    goal("as_512", "map 512 pages in a run", Against::Iommufd, 0.5),
    goal(
        "as_65536",
        "map 65,536 pages in a run",
        Against::Iommufd,
        0.5,
    ),
    goal(
        "as_scattered_1",
        "map 1 page by an array",
        Against::Iommufd,
        0.5,
    ),
    goal(
        "as_scattered_512",
        "map 512 pages one by one",
        Against::Iommufd,
        0.5,
    ),
    goal(
        "as_scattered_65536",
        "map 65,536 pages one by one",
        Against::Iommufd,
        0.5,
    ),
];

/// Rows that are to cost the same: the work, the row's name before the number, the numbers, and
/// whether a row is of one operation or of so many.
struct Flat {
    work: &'static str,
    row: &'static str,
    sizes: &'static [u32],
    whole: bool,
}

/// How much more one may cost than another.
const FLAT: f64 = 1.2;

const FLATS: [Flat; 5] = [
    Flat {
        work: "PASID allocated and freed, that many taken",
        row: "pasid",
        sizes: &[0, 1024, 1_000_000],
        whole: false,
    },
    Flat {
        work: "bind one of so many",
        row: "bind_of",
        sizes: &[1, 16, 256, 4096],
        whole: false,
    },
    Flat {
        work: "invalidate one of so many",
        row: "invalidate_of",
        sizes: &[1, 16, 256, 4096],
        whole: false,
    },
    Flat {
        work: "unbind one of so many",
        row: "unbind_of",
        sizes: &[1, 16, 256, 4096],
        whole: false,
    },
    Flat {
        work: "close with so many, for each",
        row: "close_of",
        sizes: &[256, 4096],
        whole: true,
    },
];

/// A line of the table.
#[derive(Debug, Serialize)]
pub struct Line {
    /// What is done.
    pub work: String,
    /// Instructions of an operation by the module; of the cheapest of a group.
    pub ours: f64,
    /// By type1.
    pub type1: Option<f64>,
    /// By iommufd.
    pub iommufd: Option<f64>,
    /// Instructions beside the other's; of a group the dearest beside the cheapest.
    pub ratio: f64,
    /// The same by wall time.
    pub time_ratio: Option<f64>,
    /// The most that `ratio` may be.
    pub limit: f64,
    /// Whether it is at most that.
    pub met: bool,
}

/// The lines of what was measured by counting and by time.
pub fn lines(counted: &Figures, timed: &Figures) -> Vec<Line> {
    let goals = GOALS
        .iter()
        .filter_map(|goal| compared(goal, counted, timed));
    let flats = FLATS
        .iter()
        .filter_map(|flat| flatness(flat, counted, timed));
    goals.chain(flats).collect()
}

fn ratio(goal: &Goal, figures: &Figures) -> Option<f64> {
    let ours = figures.median(goal.row, OURS)?;
    let other = |way| figures.median(goal.row, way);
    let other = match goal.against {
        Against::Best => other(TYPE1)?.min(other(IOMMUFD)?),
        Against::Iommufd => other(IOMMUFD)?,
        Against::Alone(row) => figures.median(row, OURS)?,
    };
    Some(ours / other)
}

fn compared(goal: &Goal, counted: &Figures, timed: &Figures) -> Option<Line> {
    let ratio_counted = ratio(goal, counted)?;
    Some(Line {
        work: goal.work.to_owned(),
        ours: counted.median(goal.row, OURS)?,
        type1: counted.median(goal.row, TYPE1),
        iommufd: counted.median(goal.row, IOMMUFD),
        ratio: ratio_counted,
        time_ratio: ratio(goal, timed),
        limit: goal.limit,
        met: ratio_counted <= goal.limit,
    })
}

/// What one of each size costs.
fn each(flat: &Flat, figures: &Figures) -> Option<Vec<f64>> {
    let median = |size: u32| figures.median(&format!("{}_{size}", flat.row), OURS);
    let empty = if flat.whole { median(0)? } else { 0.0 };
    let share = |size: u32| if flat.whole { f64::from(size) } else { 1.0 };
    flat.sizes
        .iter()
        .map(|&size| Some((median(size)? - empty) / share(size)))
        .collect()
}

fn spread(costs: &[f64]) -> f64 {
    let highest = costs.iter().copied().fold(f64::MIN, f64::max);
    let lowest = costs.iter().copied().fold(f64::MAX, f64::min);
    highest / lowest
}

fn flatness(flat: &Flat, counted: &Figures, timed: &Figures) -> Option<Line> {
    let costs = each(flat, counted)?;
    let sizes: Vec<_> = flat.sizes.iter().map(ToString::to_string).collect();
    Some(Line {
        work: format!("{}: {}", flat.work, sizes.join(", ")),
        ours: costs.iter().copied().fold(f64::MAX, f64::min),
        type1: None,
        iommufd: None,
        ratio: spread(&costs),
        time_ratio: each(flat, timed).map(|costs| spread(&costs)),
        limit: FLAT,
        met: spread(&costs) <= FLAT,
    })
}

/// Prints the table.
pub fn show(lines: &[Line]) {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    println!(
        "{:<58} {:>11} {:>11} {:>11} {:>6} {:>6} {:>5}",
        "instructions of an operation", "ours", "type1", "iommufd", "ratio", "time", "goal"
    );
    for line in lines {
        let time = line.time_ratio;
        println!(
            "{:<58} {:>11} {:>11} {:>11} {:>6.2} {:>6} {:>5} {}",
            line.work,
            number(Some(line.ours)),
            number(line.type1),
            number(line.iommufd),
            line.ratio,
            time.map_or("-".to_owned(), |time| format!("{time:.2}")),
            line.limit,
            if line.met { "met" } else { "missed" }
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(lines: &[&str]) -> Figures {
        let mut figures = Figures::default();
        lines.iter().for_each(|line| figures.line(line));
        figures
    }

    #[test]
    fn row_is_held_against_the_better() {
        let figures = figures(&[
            "figure row=map_4k by=ours ns=90",
            "figure row=map_4k by=type1 ns=100",
            "figure row=map_4k by=iommufd ns=60",
        ]);
        let lines = lines(&figures, &figures);
        assert_eq!(lines.len(), 1);
        assert!((lines[0].ratio - 1.5).abs() < 1e-9 && !lines[0].met);
    }

    #[test]
    fn flat_rows_are_the_dearest_beside_the_cheapest() {
        let rows = [
            "figure row=pasid_0 by=ours ns=100",
            "figure row=pasid_1024 by=ours ns=110",
            "figure row=pasid_1000000 by=ours ns=105",
        ];
        let all = figures(&rows);
        let lines_of_all = lines(&all, &all);
        assert!((lines_of_all[0].ratio - 1.1).abs() < 1e-9 && lines_of_all[0].met);
        let some = figures(&rows[1..]);
        assert!(lines(&some, &some).is_empty(), "not all were measured");
    }
}
