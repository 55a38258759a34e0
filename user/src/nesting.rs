// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stage-1 tables that are bound, and the invalidation of what is cached of them.

use crate::context::{Binding, HostIommu, Scope, Translation};
use crate::error::{is_gone, Error, Operation, Result};
use crate::fault::FaultQueue;
use crate::pasid::{PasidAllocation, Run};
use crate::registry::BoundTable;
use crate::space::Held;
use crate::sys::Errno;
use crate::trace::{tell, trace_failure};
use crate::types::{AddressWidth, Bdf, Gpa, IovaRange, Pasid};
use host_iommu_bindings::uapi::{
    iommu_hwpt_vtd_s1, iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_EAFE as EAFE,
    iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_SRE as SRE,
    iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_WPE as WPE, iommu_hwpt_vtd_s1_invalidate,
    iommu_hwpt_vtd_s1_invalidate_flags_IOMMU_VTD_INV_FLAGS_LEAF as LEAF,
};
use std::sync::Arc;

/// How the entries of a table are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum TableFormat {
    /// As VT-d's first stage and the CPU's (VT-d 4.1, 9.7 and 9.8): what hosts nest.
    #[default]
    FirstStage,
    /// As VT-d's second stage (VT-d 4.1, 9.9), which a guest that was offered no other uses as its
    /// own. Only `Shadow` takes it.
    SecondStage,
}

/// A VT-d stage-1 table in guest memory (VT-d 4.1, 9.6: a scalable-mode PASID-table entry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GuestTable {
    /// Where its top level is, on a page.
    pub root: Gpa,
    /// How many bits it translates.
    pub width: AddressWidth,
    /// How its entries are laid out.
    #[cfg_attr(feature = "serde", serde(default))]
    pub format: TableFormat,
    /// Supervisor requests are allowed (SRE).
    pub supervisor: bool,
    /// Accessed flags are extended (EAFE).
    pub extended_accessed: bool,
    /// Supervisor requests obey write protection (WPE).
    pub write_protect: bool,
    /// The guest's number for the PASID, given back in fault records; `None` if it is the host's.
    pub guest_pasid: Option<u32>,
    /// A number of the VMM's own, given back in fault records.
    pub cookie: u64,
}

impl GuestTable {
    /// A table of four levels at `root`, for user requests.
    pub const fn four_level(root: Gpa) -> Self {
        Self {
            root,
            width: AddressWidth::Bits48,
            format: TableFormat::FirstStage,
            supervisor: false,
            extended_accessed: false,
            write_protect: false,
            guest_pasid: None,
            cookie: 0,
        }
    }

    /// The same with a cookie for fault records.
    #[must_use]
    pub const fn with_cookie(self, cookie: u64) -> Self {
        Self { cookie, ..self }
    }

    /// The same with the guest's number for the PASID.
    #[must_use]
    pub const fn with_guest_pasid(self, guest_pasid: u32) -> Self {
        Self {
            guest_pasid: Some(guest_pasid),
            ..self
        }
    }

    /// Refuses with EOPNOTSUPP what no host walks as stage 1.
    pub(crate) fn walked_by_host(&self) -> std::result::Result<(), Errno> {
        match self.format {
            TableFormat::FirstStage => Ok(()),
            TableFormat::SecondStage => Err(Errno::EOPNOTSUPP),
        }
    }

    /// The form of linux/iommufd.h.
    pub(crate) fn data(&self) -> iommu_hwpt_vtd_s1 {
        let flag = |on: bool, flag: u32| if on { u64::from(flag) } else { 0 };
        iommu_hwpt_vtd_s1 {
            flags: flag(self.supervisor, SRE)
                | flag(self.extended_accessed, EAFE)
                | flag(self.write_protect, WPE),
            pgtbl_addr: self.root.0,
            addr_width: self.width.bits(),
            ..Default::default()
        }
    }
}

/// One step of an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidationEntry {
    /// Addresses of stage 1; [`IovaRange::ALL`] for everything. Whole pages of 4 KiB are dropped,
    /// and the hardware may round up further.
    pub range: IovaRange,
    /// Only entries that map pages changed, no tables.
    pub leaf_only: bool,
}

const PAGE_SHIFT: u32 = 12;

impl InvalidationEntry {
    /// The form of linux/iommufd.h, where everything is page count `u64::MAX` at address 0.
    pub(crate) fn data(&self) -> iommu_hwpt_vtd_s1_invalidate {
        let first = self.range.start().0 >> PAGE_SHIFT;
        let last = self.range.last().0 >> PAGE_SHIFT;
        let everything = first == 0 && last == u64::MAX >> PAGE_SHIFT;
        iommu_hwpt_vtd_s1_invalidate {
            addr: first << PAGE_SHIFT,
            npages: if everything {
                u64::MAX
            } else {
                // Cannot overflow: both have 52 bits.
                last - first + 1
            },
            flags: if self.leaf_only { LEAF } else { 0 },
            ..Default::default()
        }
    }
}

/// What to drop of what is cached of a binding, built up range by range.
///
/// ```
/// use host_iommu::{Invalidation, Iova, IovaRange};
///
/// let page = IovaRange::sized(Iova(0x7000), 4096).unwrap();
/// let tables = IovaRange::sized(Iova(0), 1 << 30).unwrap();
/// let invalidation = Invalidation::new().leaf(page).range(tables);
/// assert_eq!(invalidation.entries().len(), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Invalidation {
    entries: Vec<InvalidationEntry>,
}

impl Invalidation {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Everything of the binding.
    pub fn all() -> Self {
        Self::new().range(IovaRange::ALL)
    }

    /// And these addresses, pages and tables.
    pub fn range(self, range: IovaRange) -> Self {
        self.entry(InvalidationEntry {
            range,
            leaf_only: false,
        })
    }

    /// And the pages at these addresses: no table above them has changed.
    pub fn leaf(self, range: IovaRange) -> Self {
        self.entry(InvalidationEntry {
            range,
            leaf_only: true,
        })
    }

    fn entry(mut self, entry: InvalidationEntry) -> Self {
        self.entries.push(entry);
        self
    }

    /// What was built.
    pub fn entries(&self) -> &[InvalidationEntry] {
        &self.entries
    }
}

impl FromIterator<InvalidationEntry> for Invalidation {
    fn from_iter<I: IntoIterator<Item = InvalidationEntry>>(entries: I) -> Self {
        Self {
            entries: entries.into_iter().collect(),
        }
    }
}

/// What is bound: a stage-1 table, or stage 2, an address space, or nothing but a stop of DMA in its
/// place. Unbinds when it is dropped.
#[derive(Debug)]
pub struct Stage1Binding {
    host: HostIommu,
    device: Bdf,
    pasid: Pasid,
    /// The name in the registry; another one there is another's.
    id: u64,
    // The PASID is freed after the last binding at it.
    _run: Option<Arc<Run>>,
    // And the address space.
    space: Option<Arc<Held>>,
}

impl Stage1Binding {
    pub(crate) fn at_pasid(
        host: HostIommu,
        device: Bdf,
        pasids: &PasidAllocation,
        pasid: Pasid,
        translation: Translation,
        faults: Option<&FaultQueue>,
    ) -> Result<Self> {
        if !pasids.is_of(&host) {
            return Err(Error::OtherContext("PASID allocation"));
        }
        if !pasids.contains(pasid) {
            return Err(Error::PasidNotAllocated(pasid));
        }
        let owner = Owner::Pasids(pasids);
        let id = bind(&host, device, pasid, translation, faults, &owner)?;
        Ok(Self {
            host,
            device,
            pasid,
            id,
            _run: Some(pasids.run().clone()),
            space: None,
        })
    }

    /// What another process has bound, from which this one takes the context over: the host is asked
    /// for nothing.
    pub(crate) fn adopt(
        host: &HostIommu,
        bound: &BoundTable,
        pasids: Option<&PasidAllocation>,
    ) -> Result<Self> {
        let BoundTable {
            device,
            pasid,
            translation,
        } = *bound;
        let mut registry = host.registry();
        let stay = host.settle(&mut registry, device).ok_or_else(|| {
            let operation = Operation::BindStage1 { pasid, device };
            Error::failed(operation, Errno::ENOENT)
        })?;
        let id = registry.insert(device, pasid, stay, translation);
        drop(registry);
        Ok(Self {
            host: host.clone(),
            device,
            pasid,
            id,
            _run: pasids.map(|pasids| pasids.run().clone()),
            space: None,
        })
    }

    /// With the address space that is bound, which is destroyed later.
    pub(crate) fn keeping(self, space: Arc<Held>) -> Self {
        // Not a struct update: that would move out of a value with a drop.
        let mut bound = self;
        bound.space = Some(space);
        bound
    }

    pub(crate) fn at_rid(
        host: HostIommu,
        device: Bdf,
        translation: Translation,
        faults: Option<&FaultQueue>,
    ) -> Result<Self> {
        let owner = Owner::Rid;
        let id = bind(&host, device, Pasid::RID, translation, faults, &owner)?;
        Ok(Self {
            host,
            device,
            pasid: Pasid::RID,
            id,
            _run: None,
            space: None,
        })
    }

    /// The device.
    pub fn device(&self) -> Bdf {
        self.device
    }

    /// The host's PASID, or [`Pasid::RID`].
    pub fn pasid(&self) -> Pasid {
        self.pasid
    }

    /// What names the binding to [`HostIommu::flush`] and [`HostIommu::unbind`].
    pub fn scope(&self) -> Scope {
        Scope::Binding(self.device, self.pasid)
    }

    /// Whether it is in force: it was not unbound, by itself or by a wider [`HostIommu::unbind`], and
    /// its device has not left the context.
    pub fn is_bound(&self) -> bool {
        let mut registry = self.host.registry();
        self.host.settle(&mut registry, self.device);
        registry.holds(self.device, self.pasid, self.id)
    }

    /// Puts a table in the place of what is bound, in one step: nothing else than the one or the
    /// other is in force in between, though DMA may be stopped. Page requests that wait for the old
    /// one are cancelled.
    ///
    /// # Errors
    ///
    /// [`Error::Blocked`] if neither is in force, DMA is stopped and the binding is gone;
    /// after any other error the old one is in force. [`Error::Failed`] with ENOENT if nothing is
    /// bound any more.
    pub fn rebind(&mut self, table: &GuestTable, faults: Option<&FaultQueue>) -> Result<()> {
        self.replace(Translation::Stage1(*table), faults)
    }

    /// Stops DMA in one step, and keeps the place: [`Stage1Binding::rebind`] puts a table there.
    ///
    /// # Errors
    ///
    /// As [`Stage1Binding::rebind`].
    pub fn block(&mut self) -> Result<()> {
        // The guest's number stays.
        let guest_pasid = match self.pasid {
            Pasid::RID => None,
            pasid => {
                let guest = self.host.guest_pasid(self.device, pasid);
                (guest != pasid.get()).then_some(guest)
            }
        };
        self.replace(Translation::Blocked { guest_pasid }, None)
    }

    pub(crate) fn replace(
        &mut self,
        translation: Translation,
        faults: Option<&FaultQueue>,
    ) -> Result<()> {
        let (host, old) = (&self.host, Owner::Binding(self.id));
        self.id = bind(host, self.device, self.pasid, translation, faults, &old)?;
        self.space = None;
        Ok(())
    }

    /// Drops what is cached, in the IOMMU and in the device. When it returns, no request uses
    /// what the table said before.
    ///
    /// # Errors
    ///
    /// [`Error::Flush`] names the first entry that was not carried out; ENOENT if the binding is
    /// gone.
    pub fn flush(&self, invalidation: &Invalidation) -> Result<()> {
        self.host.flush(self.scope(), invalidation)
    }

    /// Unbinds now, and says whether it worked. Done once, it does nothing.
    ///
    /// When it returns, nothing is translated by the table any more, and page requests that
    /// waited are answered INVALID; their fault queue says CANCELLED.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`]; dropping tries again. A binding that went with its device is unbound.
    pub fn unbind(&mut self) -> Result<()> {
        let mut registry = self.host.registry();
        // The place may be another's by now.
        self.host.settle(&mut registry, self.device);
        if registry.holds(self.device, self.pasid, self.id) {
            let unbound = self.host.context().unbind(self.scope());
            if !is_gone(&unbound) {
                trace_failure(unbound)?;
            }
            tell!(debug, scope = %self.scope(), "unbound");
            registry.remove(self.device, self.pasid);
        }
        Ok(())
    }
}

impl Drop for Stage1Binding {
    fn drop(&mut self) {
        // The container unbinds what is left when it goes; nothing else can be done here.
        let _ = self.unbind();
    }
}

/// By what right something is bound.
enum Owner<'a> {
    /// The device is the context's, and nothing is bound there.
    Rid,
    /// One of these is the PASID, and nothing is bound there.
    Pasids(&'a PasidAllocation),
    /// The binding of that name is to be replaced.
    Binding(u64),
}

/// Binds, and counts that; gives the name in the registry.
fn bind(
    host: &HostIommu,
    device: Bdf,
    pasid: Pasid,
    translation: Translation,
    faults: Option<&FaultQueue>,
    owner: &Owner<'_>,
) -> Result<u64> {
    let bound = bind_in_registry(host, device, pasid, translation, faults, owner);
    let replaced = matches!(owner, Owner::Binding(_));
    host.counted().bind(&bound, replaced);
    bound
}

fn bind_in_registry(
    host: &HostIommu,
    device: Bdf,
    pasid: Pasid,
    translation: Translation,
    faults: Option<&FaultQueue>,
    owner: &Owner<'_>,
) -> Result<u64> {
    let failed = |errno| Error::failed(Operation::BindStage1 { pasid, device }, errno);
    let mut registry = host.registry();
    let stay = host.settle(&mut registry, device);
    let guest = translation.guest_pasid().unwrap_or(pasid.get());
    match owner {
        Owner::Pasids(pasids) if !pasids.is_allocated(&registry) => {
            return Err(Error::PasidNotAllocated(pasid));
        }
        Owner::Binding(old) if !registry.holds(device, pasid, *old) => {
            return Err(failed(Errno::ENOENT));
        }
        _ => {}
    }
    if registry.is_taken(device, pasid, guest) {
        return Err(Error::GuestPasidBound { device, guest });
    }
    let replace = matches!(owner, Owner::Binding(_));
    let bound = host.context().bind(&Binding {
        device,
        pasid,
        translation,
        fault_queue: faults.map(FaultQueue::channel),
        replace,
    });
    if let Err(error) = trace_failure(bound) {
        // Requests without PASID that were blocked before are so still.
        let as_before = pasid == Pasid::RID && registry.is_blocked(device, pasid);
        if matches!(error, Error::Blocked { .. }) && !as_before {
            registry.remove(device, pasid);
        }
        return Err(error);
    }
    tell!(debug, %device, %pasid, guest_pasid = guest, replaced = replace, "bound");
    Ok(registry.insert(device, pasid, stay.unwrap_or(0), translation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Iova;

    fn data(start: u64, last: u64) -> Option<(u64, u64)> {
        let range = IovaRange::new(Iova(start), Iova(last))?;
        let entry = InvalidationEntry {
            range,
            leaf_only: true,
        };
        Some((entry.data().addr, entry.data().npages))
    }

    #[test]
    fn invalidation_entry_covers_every_page_it_touches() {
        assert_eq!(data(0x1000, 0x1fff), Some((0x1000, 1)));
        assert_eq!(data(0x1fff, 0x2000), Some((0x1000, 2)));
        assert_eq!(data(0, 0), Some((0, 1)));
        assert_eq!(data(0, u64::MAX - 0x1000), Some((0, (1 << 52) - 1)));
        assert_eq!(data(0x1000, u64::MAX), Some((0x1000, (1 << 52) - 1)));
    }

    #[test]
    fn invalidation_entry_of_all_is_the_special_form() {
        assert_eq!(data(0, u64::MAX), Some((0, u64::MAX)));
    }

    #[test]
    fn stage1_table_flags_are_those_of_iommufd_h() {
        let table = GuestTable {
            supervisor: true,
            extended_accessed: true,
            write_protect: true,
            ..GuestTable::four_level(Gpa(0x5000))
        };
        assert_eq!(table.data().flags, 7);
        assert_eq!(table.data().addr_width, 48);
        assert_eq!(GuestTable::four_level(Gpa(0)).data().flags, 0);
    }
}
