// SPDX-License-Identifier: GPL-2.0
//! What /sys/kernel/debug/vfio_ioasid shows, for root alone.
//!
//! Each file is made of lines of `key=value` pairs, with one space between two pairs and none
//! inside; an object is a line. Numbers are decimal but for devices, `segment:bus:device.function`
//! in hexadecimal. New keys come at the end of a line; those that are there keep their meaning.
//!
//! | file | a line | keys |
//! |---|---|---|
//! | module | one | `containers`, `pasids`, `pasids_limit`, `domains`, `domains_limit`, `max_pasids`, `max_bindings`, `max_fault_queues`, `max_address_spaces`, `max_as_entries`, `max_mappings`, `fault_queues`, `fault_queues_limit`, `fault_records`, `fault_records_limit` (what they have room for), `user_pasids`, `user_domains`, `user_fault_queues`, `user_fault_records` (limits of a user) |
//! | containers | a container | `container`, `type` (ioasid, type1, type1v2), and the fields of `struct vfio_ioasid_stats` by name |
//! | devices | a device | `container`, `device` (`none` if it is no PCI function), `max_pasids`, `shared` (its group has others), `rid` (stage2, bound, blocked), `host_pasid` (the PASID that holds page requests on, or none) |
//! | pasids | a run of PASIDs | `container`, `first`, `last` (inclusive) |
//! | bindings | a binding | `container`, `device`, `pasid` (`rid` at the RID), `guest_pasid`, `kind` (stage1, stage2, as, blocked), `as` (its number, 0 if none), `faults` (1 with a fault queue) |
//! | queues | a fault queue | `container`, `queue` (its place in the container's list), `depth`, `waiting`, `lost` (all three in records), `deadline_ms` (0 if none) |
//!
//! A file is no snapshot: each line is true at a moment of its own. What lives from the first
//! line to the last is there once, but a fault queue that moves up when an older one is closed.

use crate::budget::Resource;
use crate::container::table;
use crate::ffi::abi;
use crate::ffi::debugfs::{Cursor, File, Line, Lines};
use crate::ffi::limits::Limit;
use crate::ioas::Rules;
use core::fmt::{self, Write};

/// The lines of the module.
pub(crate) struct ModuleLines;

impl Lines for ModuleLines {
    fn line(file: File, at: &mut Cursor, line: &mut Line<'_>) -> Option<fmt::Result> {
        next_line(file, at, line)
    }
}

/// Writes the next line and moves the cursor behind it; `None` at the end. Takes the container's
/// locks, one container's at a time.
fn next_line(file: File, at: &mut Cursor, line: &mut Line<'_>) -> Option<fmt::Result> {
    if file == File::Module {
        if at.item != 0 {
            return None;
        }
        at.item = 1;
        return Some(module(line));
    }
    loop {
        let container = table::find_from(at.container)?;
        let id = container.id();
        if id != at.container {
            *at = Cursor {
                container: id,
                item: 0,
            };
        }
        let written = match file {
            File::Module | File::Containers => (at.item == 0).then(|| {
                at.item = 1;
                let mut stats = abi::vfio_ioasid_stats::default();
                container.fill_stats(&mut stats);
                write_container(line, id, container.rules(), &stats)
            }),
            File::Devices => container.with_nesting(|nesting| nesting.device_line(id, at, line)),
            File::Pasids => container.with_nesting(|nesting| nesting.pasid_line(id, at, line)),
            File::Bindings => container.with_nesting(|nesting| nesting.binding_line(id, at, line)),
            File::Queues => container.with_queues(|queues| queues.line(id, at, line)),
        };
        if written.is_some() {
            return written;
        }
        *at = Cursor {
            container: id.checked_add(1)?,
            item: 0,
        };
    }
}

fn module(line: &mut Line<'_>) -> fmt::Result {
    write!(line, "containers={}", table::count())?;
    write!(line, " pasids={}", Resource::Pasids.taken())?;
    write!(line, " pasids_limit={}", Resource::Pasids.limit())?;
    write!(line, " domains={}", Resource::Domains.taken())?;
    write!(line, " domains_limit={}", Resource::Domains.limit())?;
    write!(line, " max_pasids={}", Limit::Pasids.get())?;
    write!(line, " max_bindings={}", Limit::Bindings.get())?;
    write!(line, " max_fault_queues={}", Limit::FaultQueues.get())?;
    write!(line, " max_address_spaces={}", Limit::AddressSpaces.get())?;
    write!(line, " max_as_entries={}", Limit::AsEntries.get())?;
    write!(line, " max_mappings={}", Limit::Mappings.get())?;
    write!(line, " fault_queues={}", Resource::Queues.taken())?;
    write!(line, " fault_queues_limit={}", Resource::Queues.limit())?;
    write!(line, " fault_records={}", Resource::Records.taken())?;
    write!(line, " fault_records_limit={}", Resource::Records.limit())?;
    write!(line, " user_pasids={}", Resource::Pasids.user_limit())?;
    write!(line, " user_domains={}", Resource::Domains.user_limit())?;
    write!(line, " user_fault_queues={}", Resource::Queues.user_limit())?;
    writeln!(
        line,
        " user_fault_records={}",
        Resource::Records.user_limit()
    )
}

fn write_container(
    line: &mut Line<'_>,
    id: u64,
    rules: Rules,
    stats: &abi::vfio_ioasid_stats,
) -> fmt::Result {
    let name = match rules {
        Rules::Ioasid => "ioasid",
        Rules::Type1 => "type1",
        Rules::Type1v2 => "type1v2",
    };
    write!(line, "container={id} type={name}")?;
    let fields = [
        ("pasids", stats.pasids),
        ("bindings", stats.bindings),
        ("fault_queues", stats.fault_queues),
        ("address_spaces", stats.address_spaces),
        ("as_entries", stats.as_entries),
        ("mappings", stats.mappings),
        ("mapped_pages", stats.mapped_pages),
        ("pages_2m", stats.pages_2m),
        ("pages_1g", stats.pages_1g),
        ("calls", stats.calls),
        ("binds", stats.binds),
        ("unbinds", stats.unbinds),
        ("page_requests", stats.page_requests),
        ("responses", stats.responses),
        ("host_invalid", stats.host_invalid),
        ("overflows", stats.overflows),
        ("late_responses", stats.late_responses),
        ("expired", stats.expired),
        ("dma_faults", stats.dma_faults),
        ("invalidations", stats.invalidations),
    ];
    for (name, value) in fields {
        write!(line, " {name}={value}")?;
    }
    writeln!(line)
}
