// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A report for people.

use super::report::{Line, Report};

/// The counters of a container, as `struct vfio_ioasid_stats` names them; what comes before them
/// in a line are numbers of this moment.
const FIRST_COUNTER: &str = "calls";

/// Containers and their devices.
pub fn list(report: &Report) -> String {
    if report.containers.is_empty() {
        return "no containers\n".to_owned();
    }
    let mut text = String::new();
    for container in &report.containers {
        text += &heading(container);
        for device in Report::of(&report.devices, container) {
            text += &format!("  {}\n", device.get("device"));
        }
    }
    text
}

/// Everything that containers hold.
pub fn show(report: &Report) -> String {
    if report.containers.is_empty() {
        return "no containers\n".to_owned();
    }
    let mut text = String::new();
    for container in &report.containers {
        text += &heading(container);
        for device in Report::of(&report.devices, container) {
            text += &format!(
                "  device {}: PASIDs below {}, RID {}\n",
                device.get("device"),
                device.get("max_pasids"),
                device.get("rid"),
            );
        }
        for run in Report::of(&report.pasids, container) {
            text += &match (run.get("first"), run.get("last")) {
                (first, last) if first == last => format!("  PASID {first}\n"),
                (first, last) => format!("  PASIDs {first} to {last}\n"),
            };
        }
        for binding in Report::of(&report.bindings, container) {
            text += &binding_line(binding);
        }
        for queue in Report::of(&report.queues, container) {
            text += &format!(
                "  fault queue {}: {} of {} records wait, {} lost{}\n",
                queue.get("queue"),
                queue.get("waiting"),
                queue.get("depth"),
                queue.get("lost"),
                match queue.get("deadline_ms") {
                    "0" => String::new(),
                    ms => format!(", answered INVALID after {ms} ms"),
                },
            );
        }
    }
    text
}

/// The module's quotas and the containers' counters.
pub fn stats(report: &Report) -> String {
    let module = &report.module;
    let mut text = format!(
        "module: {} of {} PASIDs, {} of {} domains\n",
        module.get("pasids"),
        module.get("pasids_limit"),
        module.get("domains"),
        module.get("domains_limit"),
    );
    for container in &report.containers {
        text += &heading(container);
        for (key, value) in container.pairs().skip_while(|pair| pair.0 != FIRST_COUNTER) {
            text += &format!("  {key:<16} {value}\n");
        }
    }
    text
}

fn heading(container: &Line) -> String {
    format!(
        "container {} ({}): {} pages mapped ({} mappings), {} PASIDs, {} bindings, {} address spaces, {} fault queues\n",
        container.get("container"),
        container.get("type"),
        container.get("mapped_pages"),
        container.get("mappings"),
        container.get("pasids"),
        container.get("bindings"),
        container.get("address_spaces"),
        container.get("fault_queues"),
    )
}

fn binding_line(binding: &Line) -> String {
    let at = match binding.get("pasid") {
        "rid" => "RID".to_owned(),
        pasid => format!("PASID {pasid} (guest's {})", binding.get("guest_pasid")),
    };
    let what = match binding.get("kind") {
        "stage1" => "stage 1".to_owned(),
        "stage2" => "stage 2".to_owned(),
        "as" => format!("address space {}", binding.get("as")),
        other => other.to_owned(),
    };
    let faults = match binding.get("faults") {
        "1" => ", with page requests",
        _ => "",
    };
    format!("  {} {at}: {what}{faults}\n", binding.get("device"))
}
