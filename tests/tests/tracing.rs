// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The events of the feature `tracing`, by a subscriber that writes them down.

use host_iommu_tests::conformance::faults::group_of_an_unbound_table_is_cancelled;
use host_iommu_tests::conformance::soft::SoftMachine;
use host_iommu_tests::conformance::{expect_errno, pages, Machine, Vm};
use nix::errno::Errno;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{subscriber, Event, Metadata, Subscriber};

#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

/// `LEVEL message name=value …`, the names in their order.
struct Line(String, String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            // How long it took differs each time.
            name @ "micros" => write!(self.1, " {name}"),
            name => write!(self.1, " {name}={value:?}"),
        };
        written.expect("a string takes all");
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "host_iommu"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string(), String::new());
        event.record(&mut line);
        self.0.lock().expect("the lines").push(line.0 + &line.1);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// What is told while something is done.
fn told(act: impl FnOnce()) -> Vec<String> {
    let recorder = Recorder::default();
    subscriber::with_default(recorder.clone(), act);
    let lines = recorder.0.lock().expect("the lines");
    lines.clone()
}

#[test]
fn events_tell_the_life_of_groups() {
    let lines = told(|| {
        let outcome = group_of_an_unbound_table_is_cancelled(&SoftMachine);
        assert!(outcome.is_ok(), "{outcome:?}");
    });
    let wanted = [
        "DEBUG mapped range=0x0..=0x7fffff access=ReadWrite",
        "DEBUG bound device=0000:01:00.0 pasid=1 guest_pasid=1 replaced=false",
        "TRACE page requests device=0000:01:00.0 pasid=1 group=0 cookie=1 pages=1",
        "DEBUG unbound scope=stage 1 at PASID 1 of 0000:01:00.0",
        "DEBUG cancelled cookie=1",
        "TRACE answered cookie=1 response=Success micros",
    ];
    assert_eq!(lines, wanted);
}

#[test]
fn events_tell_of_failures() {
    let machine: &dyn Machine = &SoftMachine;
    let lines = told(|| {
        let vm = Vm::new(machine).expect("a context");
        let part = pages(0, 1).expect("a range");
        assert!(expect_errno(vm.host.unmap(part), Errno::EINVAL).is_ok());
    });
    assert_eq!(
        lines.last().map(String::as_str),
        Some("DEBUG Failed to unmap 0x0..=0xfff errno=22")
    );
}
