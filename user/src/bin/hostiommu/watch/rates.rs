// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What happened between two reports.

use crate::report::{number, Line, Report};
use serde_json::{json, Map, Value};
use std::time::Duration;

/// Counters of a container that only grow, as the module's debugfs names them.
pub const COUNTERS: [&str; 6] = [
    "page_requests",
    "responses",
    "host_invalid",
    "overflows",
    "dma_faults",
    "invalidations",
];

/// A container at a moment, and what it counted since the report before.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its number.
    pub id: u64,
    /// ioasid, type1 or type1v2.
    pub kind: String,
    /// Bindings now.
    pub bindings: u64,
    /// Pages of 4 KiB that are mapped now.
    pub mapped_pages: u64,
    /// Records that wait in its fault queues for an answer.
    pub waiting: u64,
    /// Records that its fault queues have room for.
    pub depth: u64,
    /// Events a second, in the order of [`COUNTERS`].
    pub per_second: [f64; COUNTERS.len()],
    /// Events since the container was made, in the same order.
    pub total: [u64; COUNTERS.len()],
    /// Its devices.
    pub devices: Vec<Device>,
}

/// A device at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its address.
    pub name: String,
    /// Bindings at its PASIDs and at its RID.
    pub bindings: u64,
    /// What is in force at its RID: stage2, bound or blocked.
    pub rid: String,
}

fn count(line: &Line, key: &str) -> u64 {
    number(line.get(key)).unwrap_or(0)
}

/// Every container of `now`. Without a report before, nothing happened yet.
pub fn between(before: Option<&Report>, now: &Report, time: Duration) -> Vec<Container> {
    let seconds = time.as_secs_f64();
    let container = |line: &Line| {
        let old = before.and_then(|report| {
            let mut old = report.containers.iter();
            old.find(|old| old.container() == line.container())
        });
        let total = COUNTERS.map(|name| count(line, name));
        let per_second = COUNTERS.map(|name| match (before, seconds > 0.0) {
            // A container that came meanwhile began with zero.
            (Some(_), true) => {
                let old = old.map_or(0, |old| count(old, name));
                count(line, name).saturating_sub(old) as f64 / seconds
            }
            _ => 0.0,
        });
        let sum = |key| {
            Report::of(&now.queues, line)
                .map(|queue| count(queue, key))
                .sum()
        };
        let device = |device: &Line| Device {
            name: device.get("device").to_owned(),
            bindings: Report::of(&now.bindings, line)
                .filter(|binding| binding.get("device") == device.get("device"))
                .count() as u64,
            rid: device.get("rid").to_owned(),
        };
        Container {
            id: line.container().unwrap_or(0),
            kind: line.get("type").to_owned(),
            bindings: count(line, "bindings"),
            mapped_pages: count(line, "mapped_pages"),
            waiting: sum("waiting"),
            depth: sum("depth"),
            per_second,
            total,
            devices: Report::of(&now.devices, line).map(device).collect(),
        }
    };
    now.containers.iter().map(container).collect()
}

fn named<T: Into<Value> + Copy>(values: &[T]) -> Value {
    let pairs = COUNTERS.iter().zip(values);
    let pairs = pairs.map(|(name, value)| ((*name).to_owned(), (*value).into()));
    pairs.collect::<Map<_, _>>().into()
}

/// One line of `--json`.
pub fn json(containers: &[Container], since_start: Duration) -> Value {
    let device = |device: &Device| json!({ "device": device.name, "bindings": device.bindings, "rid": device.rid });
    let container = |container: &Container| {
        json!({
            "container": container.id,
            "type": container.kind,
            "bindings": container.bindings,
            "mapped_pages": container.mapped_pages,
            "waiting": container.waiting,
            "depth": container.depth,
            "per_second": named(&container.per_second),
            "total": named(&container.total),
            "devices": container.devices.iter().map(device).collect::<Vec<_>>(),
        })
    };
    json!({
        "milliseconds": u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX),
        "containers": containers.iter().map(container).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(page_requests: u64) -> Report {
        let line = |file, text: &str| Line::parse(file, text).expect("a line");
        let container = format!(
            "container=1 type=ioasid bindings=2 mapped_pages=64 page_requests={page_requests} \
             responses=3"
        );
        Report {
            module: line("module", "containers=1"),
            containers: vec![line("containers", &container)],
            devices: vec![line("devices", "container=1 device=0000:00:04.0 rid=bound")],
            pasids: Vec::new(),
            bindings: vec![
                line("bindings", "container=1 device=0000:00:04.0 pasid=5"),
                line("bindings", "container=1 device=0000:00:05.0 pasid=6"),
            ],
            queues: vec![
                line("queues", "container=1 queue=0 depth=64 waiting=3"),
                line("queues", "container=1 queue=1 depth=64 waiting=4"),
            ],
        }
    }

    #[test]
    fn rates_are_of_the_time_between_two_reports() {
        let first = between(None, &report(10), Duration::ZERO);
        assert_eq!(first[0].per_second, [0.0; COUNTERS.len()]);
        assert_eq!(first[0].total[0], 10);
        let second = between(Some(&report(10)), &report(40), Duration::from_millis(500));
        assert_eq!(second[0].per_second[..2], [60.0, 0.0]);
        assert_eq!((second[0].waiting, second[0].depth), (7, 128));
        assert_eq!(second[0].devices[0].bindings, 1);
        // Its counters cannot fall: the number was another container's, of a module before.
        let other = between(Some(&report(40)), &report(10), Duration::from_secs(1));
        assert_eq!(other[0].per_second[0], 0.0);
        let mut none = report(0);
        none.containers.clear();
        let came = between(Some(&none), &report(10), Duration::from_secs(1));
        assert_eq!(came[0].per_second[0], 10.0);
    }

    #[test]
    fn line_of_json_names_its_counters() {
        let line = json(
            &between(None, &report(10), Duration::ZERO),
            Duration::from_millis(1500),
        );
        assert_eq!(line["milliseconds"], 1500);
        assert_eq!(line["containers"][0]["total"]["page_requests"], 10);
        assert_eq!(line["containers"][0]["devices"][0]["rid"], "bound");
        assert!(!line.to_string().contains('\n'));
    }
}
