// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An address space of the guest: a PASID and a stage-1 table in guest memory.

use super::{bind_at, bytes_of, Called, FaultQueue, Outcome, Rig};
use crate::ktap::fail;
use crate::memory::PAGE;
use crate::stage1::{PageSize, Table};
use host_iommu_bindings::uapi::{iommu_hwpt_vtd_s1, VFIO_IOASID_SCOPE_BINDING};

/// A PASID with a table of its own.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// The PASID.
    pub pasid: u32,
    root: u64,
}

impl Space {
    /// A new PASID with an empty table.
    pub fn new(rig: &Rig) -> Called<Self> {
        let pasid = rig.container.pasid_alloc_any()?;
        Self::at(rig, pasid)
    }

    /// An empty table for a PASID that is allocated already.
    pub fn at(rig: &Rig, pasid: u32) -> Called<Self> {
        Ok(Self {
            pasid,
            root: Table::new(&rig.mem).root(),
        })
    }

    /// Another empty table for the same PASID.
    pub fn another_table(&self, rig: &Rig) -> Called<Self> {
        Self::at(rig, self.pasid)
    }

    /// The same PASID with a table at `root`, whatever is there.
    pub fn with_root(self, root: u64) -> Self {
        Self { root, ..self }
    }

    /// GPA of the table.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The stage-1 data of BIND.
    pub fn stage1(&self) -> iommu_hwpt_vtd_s1 {
        iommu_hwpt_vtd_s1 {
            pgtbl_addr: self.root,
            addr_width: 48,
            ..Default::default()
        }
    }

    /// The same as bytes.
    pub fn stage1_data(&self) -> Vec<u8> {
        bytes_of(&self.stage1())
    }

    /// Binds without a fault queue.
    pub fn bind(&self, rig: &Rig) -> Called<()> {
        let data = self.stage1_data();
        rig.container.bind(&bind_at(rig.id(), self.pasid, &data))
    }

    /// Binds with a fault queue.
    pub fn bind_with(
        &self,
        rig: &Rig,
        queue: &FaultQueue,
        guest_pasid: u32,
        cookie: u64,
    ) -> Called<()> {
        let data = self.stage1_data();
        let mut bind = bind_at(rig.id(), self.pasid, &data);
        bind.fault_fd = queue.raw_fd();
        bind.guest_pasid = guest_pasid;
        bind.cookie = cookie;
        rig.container.bind(&bind)
    }

    /// Unbinds.
    pub fn unbind(&self, rig: &Rig) -> Called<()> {
        rig.container
            .unbind(VFIO_IOASID_SCOPE_BINDING, rig.id(), self.pasid)
    }

    fn table<'m>(&self, rig: &'m Rig) -> Table<'m> {
        Table::at(&rig.mem, self.root)
    }

    fn map_sized(&self, rig: &Rig, gva: u64, gpa: u64, flags: u64, size: PageSize) -> Outcome<u64> {
        let table = self.table(rig);
        table.map_sized(gva, gpa, flags, size);
        match table.entry_at(gva, size.level()) {
            Some(entry) => Ok(entry),
            None => fail(format!("no entry for {gva:#x}")),
        }
    }

    /// Maps a small page; gives the GPA of the entry.
    pub fn map(&self, rig: &Rig, gva: u64, gpa: u64, flags: u64) -> Outcome<u64> {
        self.map_sized(rig, gva, gpa, flags, PageSize::Small)
    }

    /// Maps 2 MiB; gives the GPA of the entry.
    pub fn map_2m(&self, rig: &Rig, gva: u64, gpa: u64, flags: u64) -> Outcome<u64> {
        self.map_sized(rig, gva, gpa, flags, PageSize::Large)
    }

    /// Maps 1 GiB; gives the GPA of the entry.
    pub fn map_1g(&self, rig: &Rig, gva: u64, gpa: u64, flags: u64) -> Outcome<u64> {
        self.map_sized(rig, gva, gpa, flags, PageSize::Huge)
    }

    /// Maps a new page of zeroes for reading and writing; gives its GPA.
    pub fn new_page(&self, rig: &Rig, gva: u64) -> Outcome<u64> {
        let page = rig.mem.alloc_page();
        self.map(rig, gva & !(PAGE - 1), page, crate::stage1::entry::RW)?;
        Ok(page)
    }

    /// GPA of the entry for `gva` at `level`.
    pub fn entry_address(&self, rig: &Rig, gva: u64, level: u32) -> Outcome<u64> {
        match self.table(rig).entry_at(gva, level) {
            Some(entry) => Ok(entry),
            None => fail(format!("no entry of level {level} for {gva:#x}")),
        }
    }
}
