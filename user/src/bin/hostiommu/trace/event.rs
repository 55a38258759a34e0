// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A line of the kernel's trace, parsed and put into words. `kmod/ffi/ioasid_trace.h` has the events.

use crate::report::{number, printable};
use nix::errno::Errno;
use serde_json::{Map, Value};

/// What every event of the module begins with.
const PREFIX: &str = "ioasid_";

/// `VFIO_IOASID_BASE` of the ABI, and the calls that are counted from there.
const BASE: u64 = 200;
const CALLS: [&str; 12] = [
    "PASID_ALLOC",
    "PASID_FREE",
    "BIND",
    "UNBIND",
    "INVALIDATE",
    "FAULT_QUEUE",
    "DEVICES",
    "STATS",
    "AS_CREATE",
    "AS_DESTROY",
    "AS_MAP",
    "AS_UNMAP",
];
/// `VFIO_IOMMU_MAP_DMA` of linux/vfio.h.
const MAP_DMA: u64 = 113;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Seconds since boot, as the kernel prints them.
    time: String,
    /// Its name without what all begin with.
    name: String,
    fields: Vec<(String, String)>,
}

/// A line of the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// One of the module's events.
    Event(Event),
    /// So many events were not written down.
    Lost(u64),
}

impl Line {
    /// Parses a line; nothing if it is none of these.
    pub fn parse(line: &str) -> Option<Self> {
        if let Some((_, rest)) = line.split_once("[LOST ") {
            return number(rest.split(' ').next()?).map(Self::Lost);
        }
        // `task-pid [cpu] flags time: name: key=value …`; a task's name may hold anything.
        let at = line.find(&format!(": {PREFIX}"))?;
        let (head, event) = (line.get(..at)?, line.get(at + 2 + PREFIX.len()..)?);
        let time = head.split_whitespace().next_back()?;
        let (name, pairs) = event.split_once(": ")?;
        let fields = pairs.split_whitespace().map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((printable(key), printable(value)))
        });
        Some(Self::Event(Event {
            time: printable(time),
            name: printable(name),
            fields: fields.collect::<Option<_>>()?,
        }))
    }
}

impl Event {
    fn get(&self, key: &str) -> &str {
        let mut fields = self.fields.iter();
        fields
            .find(|field| field.0 == key)
            .map_or("?", |field| &field.1)
    }

    /// The container that it is of.
    pub fn container(&self) -> Option<u64> {
        number(self.get("container"))
    }

    /// Its fields, as JSON.
    pub fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("time".into(), self.time.as_str().into());
        object.insert("event".into(), self.name.as_str().into());
        for (key, value) in &self.fields {
            let number = value
                .parse::<i64>()
                .ok()
                .filter(|number| number.to_string() == *value);
            object.insert(
                key.clone(),
                number.map_or_else(|| value.as_str().into(), Value::from),
            );
        }
        object.into()
    }

    /// A sentence with its time.
    pub fn text(&self) -> String {
        format!(
            "{:>14}  container {}: {}",
            self.time,
            self.get("container"),
            self.sentence()
        )
    }

    /// Where a translation is.
    fn place(&self) -> String {
        let device = self.get("device");
        let guest = match self.get("guest_pasid") {
            "?" | "0" => String::new(),
            guest => format!(" (guest's {guest})"),
        };
        match self.get("pasid") {
            "0" => format!("{device} RID"),
            pasid => format!("{device} PASID {pasid}{guest}"),
        }
    }

    /// The end of a call: nothing for success.
    fn failed(&self) -> Option<String> {
        let error: i32 = self.get("error").parse().ok()?;
        if error == 0 {
            return None;
        }
        let errno = Errno::from_raw(error.saturating_neg());
        Some(match errno {
            Errno::UnknownErrno => format!("error {error}"),
            errno => format!("{errno:?} ({})", errno.desc()),
        })
    }

    fn sentence(&self) -> String {
        let failed = self.failed();
        let range = || format!("{} to {}", self.get("iova"), self.get("last"));
        match (&*self.name, failed) {
            ("bind", None) => format!("{}: {} is {}", self.place(), self.kind(), self.bound()),
            ("bind", Some(error)) => {
                let left = match self.get("outcome") {
                    "2" => "; what was in force still is",
                    "3" => "; DMA is stopped there",
                    _ => "",
                };
                format!(
                    "{}: BIND of {} failed: {error}{left}",
                    self.place(),
                    self.kind()
                )
            }
            ("unbind", _) => format!("{}: unbound", self.place()),
            ("invalidate", None) => format!("{} entries invalidated", self.get("done")),
            ("invalidate", Some(error)) => format!(
                "INVALIDATE of {} entries failed at entry {}: {error}",
                self.get("count"),
                self.get("bad")
            ),
            ("page_request", _) => format!(
                "{}: asks for {} page(s), the last at {}, as group {}",
                self.place(),
                self.get("records"),
                self.get("addr"),
                self.get("group")
            ),
            ("page_response", _) => format!(
                "{}: group {} is answered {} by {}",
                self.place(),
                self.get("group"),
                self.get("code").to_uppercase(),
                self.who()
            ),
            ("dma_fault", _) => format!(
                "{}: the IOMMU stopped DMA at {}, reason {} (VT-d 4.1, 7.1.3)",
                self.place(),
                self.get("addr"),
                self.get("reason")
            ),
            ("map", None) => format!("{} is mapped", range()),
            ("map", Some(error)) => format!("MAP_DMA of {} failed: {error}", range()),
            ("unmap", None) => format!("{} is unmapped: {} bytes", range(), self.get("bytes")),
            ("unmap", Some(error)) => format!("UNMAP_DMA of {} failed: {error}", range()),
            ("as", failed) => self.space(failed),
            ("quota", _) => format!("{} was refused by a quota", self.call()),
            (name, _) => {
                let pairs = self
                    .fields
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"));
                format!("{name} {}", pairs.collect::<Vec<_>>().join(" "))
            }
        }
    }

    fn kind(&self) -> &str {
        match self.get("kind") {
            "stage1" => "a stage-1 table",
            "stage2" => "stage 2",
            "as" => "an address space",
            "blocked" => "no translation (blocked)",
            other => other,
        }
    }

    fn bound(&self) -> &str {
        match self.get("replace") {
            "1" => "bound in the place of the old translation",
            _ => "bound",
        }
    }

    fn who(&self) -> &str {
        match self.get("by") {
            "user" => "the VMM",
            "cancelled" => "the host: its binding or its queue went",
            "expired" => "the host: the queue's deadline passed",
            "refused" => "the host: no queue, a full one, or too large a group",
            other => other,
        }
    }

    fn space(&self, failed: Option<String>) -> String {
        let space = self.get("as");
        let done = self.get("done");
        match (self.get("op"), failed) {
            ("create", None) => format!("address space {space} was made"),
            ("destroy", None) => format!("address space {space} was destroyed"),
            ("map", None) => format!("address space {space}: {done} entries mapped"),
            ("unmap", None) => format!("address space {space}: {done} entries unmapped"),
            (operation, failed) => format!(
                "AS_{} of address space {space} failed after {done} entries: {}",
                operation.to_uppercase(),
                failed.unwrap_or_default()
            ),
        }
    }

    /// The name of a call that a quota refused.
    fn call(&self) -> String {
        let text = self.get("call");
        let number = u64::from_str_radix(text.trim_start_matches("0x"), 16);
        // `_IO(type, number)`: the low byte.
        let number = number.map_or(0, |call| call & 0xff);
        let of_base = number
            .checked_sub(BASE)
            .and_then(|at| CALLS.get(usize::try_from(at).ok()?));
        match (number, of_base) {
            (MAP_DMA, _) => "MAP_DMA".to_owned(),
            (_, Some(call)) => (*call).to_owned(),
            _ => format!("call {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(event: &str) -> String {
        let line = format!("            bind-123     [001] d..2.   61.204817: {event}");
        match Line::parse(&line) {
            Some(Line::Event(event)) => event.text(),
            other => panic!("{event}: {other:?}"),
        }
    }

    #[test]
    fn every_event_is_a_sentence() {
        let device = "container=1 device=0000:00:04.0 pasid=5";
        for (event, wanted) in [
            (
                format!("ioasid_bind: {device} guest_pasid=77 kind=stage1 replace=0 outcome=1 error=0"),
                "0000:00:04.0 PASID 5 (guest's 77): a stage-1 table is bound",
            ),
            (
                format!("ioasid_bind: {device} guest_pasid=0 kind=as replace=1 outcome=3 error=-16"),
                "BIND of an address space failed: EBUSY (Device or resource busy); DMA is stopped there",
            ),
            ("ioasid_unbind: container=1 device=0000:00:04.0 pasid=0".into(), "0000:00:04.0 RID: unbound"),
            (
                "ioasid_invalidate: container=1 count=4 done=2 bad=2 error=-22".into(),
                "INVALIDATE of 4 entries failed at entry 2: EINVAL",
            ),
            (
                format!("ioasid_page_request: {device} guest_pasid=7 group=3 records=2 addr=0x7000"),
                "asks for 2 page(s), the last at 0x7000, as group 3",
            ),
            (
                format!("ioasid_page_response: {device} group=3 code=invalid by=expired"),
                "group 3 is answered INVALID by the host: the queue's deadline passed",
            ),
            (
                format!("ioasid_dma_fault: {device} addr=0x1000 perm=0x1 reason=0x79"),
                "the IOMMU stopped DMA at 0x1000, reason 0x79",
            ),
            (
                "ioasid_map: container=1 iova=0x0 last=0xfff vaddr=0x7f00 error=0".into(),
                "0x0 to 0xfff is mapped",
            ),
            (
                "ioasid_unmap: container=1 iova=0x0 last=0xfff bytes=4096 error=0".into(),
                "0x0 to 0xfff is unmapped: 4096 bytes",
            ),
            (
                "ioasid_as: container=1 as=2 op=map done=1 error=-17".into(),
                "AS_MAP of address space 2 failed after 1 entries: EEXIST",
            ),
            ("ioasid_quota: container=1 call=0x3bc8".into(), "PASID_ALLOC was refused by a quota"),
            ("ioasid_quota: container=1 call=0x3b71".into(), "MAP_DMA was refused by a quota"),
            ("ioasid_later: container=1 new=2".into(), "later container=1 new=2"),
        ] {
            let text = said(&event);
            assert!(text.contains(wanted), "{text}");
            assert!(text.starts_with("     61.204817:  container 1: ") || text.contains("61.204817"), "{text}");
        }
    }

    #[test]
    fn line_that_is_no_event_is_none() {
        for line in [
            "",
            "# tracer: nop",
            "x-1 [000] ..... 1.0: sched_switch: prev=x",
            "ioasid_bind",
        ] {
            assert_eq!(Line::parse(line), None, "{line:?}");
        }
        assert_eq!(Line::parse("CPU:1 [LOST 12 EVENTS]"), Some(Line::Lost(12)));
        // A task may call itself as it likes.
        let line = "evil: x\x1b-1 [000] ..... 1.5: ioasid_map: container=1 iova=\x1b[31m";
        let Some(Line::Event(event)) = Line::parse(line) else {
            panic!("no event");
        };
        assert!(!event.text().contains('\x1b'), "{event:?}");
        assert_eq!(event.json()["container"], 1);
    }
}
