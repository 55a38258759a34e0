// SPDX-License-Identifier: GPL-2.0
//! A container's lines of debugfs; their format is described at [`crate::debugfs`].
//!
//! Each function writes the first line from `at.item` on of container number `id`, and moves
//! `at.item` behind it.

use super::{BindingKey, BoundKind, Nesting, RidState};
use crate::ffi::attach::Site;
use crate::ffi::debugfs::{Cursor, Line};
use crate::ffi::device::Bdf;
use core::fmt::{self, Display, Write};

impl Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, function) = (self.devfn >> 3, self.devfn & 7);
        write!(
            f,
            "{:04x}:{:02x}:{device:02x}.{function}",
            self.segment, self.bus
        )
    }
}

impl Nesting {
    /// Of [`crate::ffi::debugfs::File::Devices`].
    pub(crate) fn device_line(
        &self,
        id: u64,
        at: &mut Cursor,
        line: &mut Line<'_>,
    ) -> Option<fmt::Result> {
        let mut index = usize::try_from(at.item).ok()?;
        while self.devices.get(index)?.is_gone() {
            index += 1;
        }
        let attached = self.devices.get(index)?;
        at.item = index as u64 + 1;
        let bdf = attached.device.bdf();
        let rid = match attached.rid() {
            RidState::Stage2 => "stage2",
            RidState::Bound => "bound",
            RidState::Blocked => "blocked",
        };
        let held = attached.host_pasid().filter(|_| attached.holds_pri());
        let mut write = || {
            write!(line, "container={id} device=")?;
            match bdf {
                Some(bdf) => write!(line, "{bdf}")?,
                None => line.write_str("none")?,
            }
            write!(line, " max_pasids={}", attached.device.max_pasids())?;
            write!(line, " shared={} rid={rid}", u8::from(attached.is_shared()))?;
            match held {
                Some(pasid) => writeln!(line, " host_pasid={pasid}"),
                None => writeln!(line, " host_pasid=none"),
            }
        };
        Some(write())
    }

    /// Of [`crate::ffi::debugfs::File::Pasids`].
    pub(crate) fn pasid_line(
        &self,
        id: u64,
        at: &mut Cursor,
        line: &mut Line<'_>,
    ) -> Option<fmt::Result> {
        let run = self.pasids.run_from(u32::try_from(at.item).ok()?)?;
        at.item = u64::from(run.last) + 1;
        let (first, last) = (run.first, run.last);
        Some(writeln!(line, "container={id} first={first} last={last}"))
    }

    /// Of [`crate::ffi::debugfs::File::Bindings`].
    pub(crate) fn binding_line(
        &self,
        id: u64,
        at: &mut Cursor,
        line: &mut Line<'_>,
    ) -> Option<fmt::Result> {
        let from = BindingKey::from_number(at.item);
        let cursor = self.bindings.cursor_lower_bound(&from)?;
        let (place, binding) = cursor.current();
        let (site, device) = (place.site(), place.device());
        at.item = place.next_number()?;
        let (kind, space) = match binding.kind {
            BoundKind::Stage1 => ("stage1", 0),
            BoundKind::Stage2 => ("stage2", 0),
            BoundKind::AddressSpace(space) => ("as", space),
            BoundKind::Blocked => ("blocked", 0),
        };
        let mut write = || {
            write!(line, "container={id} device={device}")?;
            match site {
                Site::Rid => line.write_str(" pasid=rid")?,
                Site::Pasid(pasid) => write!(line, " pasid={pasid}")?,
            }
            write!(line, " guest_pasid={}", binding.guest_pasid)?;
            write!(line, " kind={kind} as={space}")?;
            let faults = u8::from(binding.source.is_some());
            writeln!(line, " faults={faults}")
        };
        Some(write())
    }
}
