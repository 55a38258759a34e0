// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A layout: tables written by hand, and for some addresses where they must lead
//! or which fault they must give.
//!
//! Every probe is made twice, by an untranslated request and by a translation
//! request, with all caches empty.

use anyhow::{ensure, Result};

use super::bench::Bench;
use super::endpoint::{self as ep, Op};
use super::tables::{PasidEntry, Table, GPA_OFFSET, SIZE_4K};
use super::vtd;

/// The PASID of the probes: more than 16 bits, to find a truncation.
pub const PASID: u32 = 0x9_2345;
/// The domain id of the PASID entry.
pub const DID: u16 = 0x77;

/// Which stages the PASID entry turns on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    First,
    Second,
    Nested,
    Pass,
}

/// A change to what was built, by turning over bits.
#[derive(Debug, Clone, Copy)]
pub enum Edit {
    /// The stage-1 entry of a level for an address.
    S1(u64, u32, u64),
    /// The stage-2 entry of a level for an address.
    S2(u64, u32, u64),
    /// The 4 KiB stage-2 leaf of the stage-1 table that holds the entries of a
    /// level for an address.
    S2OfTable(u64, u32, u64),
    /// A quadword of the PASID table entry.
    Pasid(usize, u64),
    /// The PASID directory entry.
    Directory(u64),
    /// A quadword of the context entry.
    Context(u64, u64),
    /// The root entry.
    Root(u64),
}

/// What a probe must find.
#[derive(Debug, Clone)]
pub enum Want {
    /// The memory at this host-physical address.
    At(u64),
    /// One of these fault reasons; a translation request is answered "no access"
    /// and records nothing.
    Hole(&'static [u8]),
    /// One of these fault reasons, for a translation request too.
    Error(&'static [u8]),
    /// One of these fault reasons; a translation request is answered in either
    /// way.
    Denied(&'static [u8]),
    /// No access, and no record (fault processing is disabled).
    Silent,
}

/// The levels of stage 1, in the PASID entry's third quadword.
#[cfg(test)]
const FSPM: u64 = 3 << 2;

/// One access.
#[derive(Debug, Clone)]
pub struct Probe {
    pub iova: u64,
    pub write: bool,
    pub flags: u32,
    pub want: Want,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Layout {
    pub name: String,
    mode: Mode,
    levels1: u32,
    levels2: u32,
    /// Page size by which stage 2 maps stage-1 tables.
    tables: u64,
    /// Without PASID, through the context entry's RID_PASID.
    rid: bool,
    s1: Vec<(u64, u64, u64, u64)>,
    s2: Vec<(u64, u64, u64, u64)>,
    edits: Vec<Edit>,
    probes: Vec<Probe>,
}

impl Layout {
    pub fn new(name: impl Into<String>, mode: Mode) -> Self {
        Self {
            name: name.into(),
            mode,
            levels1: 4,
            levels2: 4,
            tables: SIZE_4K,
            rid: false,
            s1: Vec::new(),
            s2: Vec::new(),
            edits: Vec::new(),
            probes: Vec::new(),
        }
    }

    pub fn levels1(mut self, levels: u32) -> Self {
        self.levels1 = levels;
        self
    }

    pub fn levels2(mut self, levels: u32) -> Self {
        self.levels2 = levels;
        self
    }

    pub fn tables(mut self, size: u64) -> Self {
        self.tables = size;
        self
    }

    pub fn rid(mut self) -> Self {
        self.rid = true;
        self
    }

    /// A stage-1 mapping: address, target, page size, bits.
    pub fn s1(mut self, addr: u64, to: u64, size: u64, bits: u64) -> Self {
        self.s1.push((addr, to, size, bits));
        self
    }

    /// A stage-2 mapping.
    pub fn s2(mut self, addr: u64, to: u64, size: u64, bits: u64) -> Self {
        self.s2.push((addr, to, size, bits));
        self
    }

    pub fn edit(mut self, edit: Edit) -> Self {
        self.edits.push(edit);
        self
    }

    pub fn read(self, iova: u64, want: Want) -> Self {
        self.probe(iova, false, 0, want)
    }

    pub fn write(self, iova: u64, want: Want) -> Self {
        self.probe(iova, true, 0, want)
    }

    /// Both a read and a write that reach `hpa`.
    pub fn reaches(self, iova: u64, hpa: u64) -> Self {
        self.read(iova, Want::At(hpa)).write(iova, Want::At(hpa))
    }

    /// An access with further flags of the endpoint's descriptor.
    pub fn probe(mut self, iova: u64, write: bool, flags: u32, want: Want) -> Self {
        self.probes.push(Probe {
            iova,
            write,
            flags,
            want,
        });
        self
    }

    /// Whether a unit without second stage has what it needs.
    #[cfg(test)]
    pub fn is_offered(&self) -> bool {
        matches!(self.mode, Mode::First | Mode::Pass)
    }

    /// Whether it is about the stages alone: neither the entries that lead to them, nor the form of
    /// the second stage's own; nor about memory where a host has its interrupts.
    #[cfg(test)]
    pub fn is_of_stages(&self) -> bool {
        let in_stages = |edit: &Edit| match *edit {
            Edit::S1(..) => true,
            Edit::S2(_, _, bits) | Edit::S2OfTable(_, _, bits) => bits & !RW == 0,
            Edit::Pasid(quad, bits) => quad == 2 && bits & FSPM == 0,
            Edit::Directory(_) | Edit::Context(..) | Edit::Root(_) => false,
        };
        let interrupts = |&(addr, ..): &(u64, u64, u64, u64)| addr >> 20 == 0xfee;
        self.edits.iter().all(in_stages) && !self.s2.iter().any(interrupts)
    }

    #[cfg(test)]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    #[cfg(test)]
    pub fn is_at_rid(&self) -> bool {
        self.rid
    }

    #[cfg(test)]
    pub fn probes(&self) -> &[Probe] {
        &self.probes
    }

    /// The PASID whose entry it is about; 0 stands for requests without.
    pub fn pasid(&self) -> u32 {
        if self.rid {
            0
        } else {
            PASID
        }
    }

    /// Writes its tables.
    pub fn build(&self, b: &mut Bench) -> Result<()> {
        let nested = self.mode == Mode::Nested;
        let s1 = Table::stage1(b, self.levels1, nested)?;
        let s2 = Table::stage2(b, self.levels2)?;
        for (addr, to, size, bits) in &self.s1 {
            s1.map(b, *addr, *to, *size, *bits)?;
        }
        for (addr, to, size, bits) in &self.s2 {
            s2.map(b, *addr, *to, *size, *bits)?;
        }
        if nested {
            b.map_tables(&s2, self.tables)?;
        }
        let entry = match self.mode {
            Mode::First => PasidEntry::first(DID, &s1),
            Mode::Second => PasidEntry::second(DID, &s2),
            Mode::Nested => PasidEntry::nested(DID, &s1, &s2),
            Mode::Pass => PasidEntry::pass(DID),
        };
        b.set_pasid(self.pasid(), &entry)?;

        for edit in &self.edits {
            let (at, bits) = match *edit {
                Edit::S1(addr, level, bits) => (s1.entry(b, addr, level)?, bits),
                Edit::S2(addr, level, bits) => (s2.entry(b, addr, level)?, bits),
                Edit::S2OfTable(addr, level, bits) => {
                    let table = s1.entry(b, addr, level)? & !0xfff;
                    (s2.entry(b, table + GPA_OFFSET, 1)?, bits)
                }
                Edit::Pasid(quad, bits) => (b.pasid_entry(self.pasid())? + 8 * quad as u64, bits),
                Edit::Directory(bits) => (b.directory_entry(self.pasid()), bits),
                Edit::Context(quad, bits) => (b.context + 8 * quad, bits),
                Edit::Root(bits) => (b.root, bits),
            };
            let value = b.q.read64(at)?;
            b.q.write64(at, value ^ bits)?;
        }
        Ok(())
    }

    /// Builds the layout in `b` and makes its probes.
    ///
    /// # Errors
    /// If a probe finds anything else than it must, or QEMU fails.
    pub fn check(&self, b: &mut Bench) -> Result<()> {
        ensure!(!self.probes.is_empty(), "No probes");
        self.build(b)?;
        for probe in &self.probes {
            for ats in [false, true] {
                if !b.q.has_requests(probe.flags, ats) {
                    continue;
                }
                b.enable_ats(ats)?;
                b.flush_all()?;
                b.faults()?;
                self.check_probe(b, probe, ats).map_err(|e| {
                    let what = if probe.write { "write" } else { "read" };
                    let how = if ats {
                        "translation request"
                    } else {
                        "untranslated"
                    };
                    e.context(format!("{what} at {:#x}, {how}", probe.iova))
                })?;
            }
        }
        Ok(())
    }

    fn check_probe(&self, b: &mut Bench, probe: &Probe, ats: bool) -> Result<()> {
        let mut op = Op {
            op: if probe.write {
                ep::OP_WRITE
            } else {
                ep::OP_READ
            },
            flags: probe.flags,
            length: 8,
            src: probe.iova,
            dst: probe.iova,
            ..Op::default()
        };
        if !self.rid {
            op.flags |= ep::FLAG_PASID;
            op.pasid = PASID;
        }
        let stamp = b.stamp();
        let before = b.stamp();
        if let Want::At(hpa) = probe.want {
            b.q.write64(hpa, if probe.write { before } else { stamp })?;
        }
        b.q.write64(Bench::buffer(0), if probe.write { stamp } else { before })?;
        let done = b.run(op)?;
        let faults = b.faults()?;

        if let Want::At(hpa) = probe.want {
            ensure!(done.status == ep::OK, "{done:x?}, faults {faults:x?}");
            ensure!(faults.is_empty(), "done, but faults {faults:x?}");
            let place = if probe.write { hpa } else { Bench::buffer(0) };
            let seen = b.q.read64(place)?;
            ensure!(
                seen == stamp,
                "done, but not at {hpa:#x}: {seen:#x}, not {stamp:#x}"
            );
            if ats {
                let sent = b.reg64(ep::reg::CNT_ATS)?;
                ensure!(sent > 0, "no translation request was sent");
            }
            return Ok(());
        }

        let (reasons, records, statuses): (&[u8], Option<bool>, &[u32]) = match probe.want {
            _ if ats && !b.q.tells_failures() => (&[], None, &[ep::NO_ACCESS]),
            Want::Hole(r) => (r, Some(!ats), &[ep::NO_ACCESS]),
            Want::Error(r) if ats => (r, Some(true), &[ep::ATS_ERROR]),
            Want::Denied(r) if ats => (r, None, &[ep::ATS_ERROR, ep::NO_ACCESS]),
            Want::Error(r) | Want::Denied(r) => (r, Some(true), &[ep::NO_ACCESS]),
            Want::Silent | Want::At(_) => (&[], Some(false), &[ep::ATS_ERROR, ep::NO_ACCESS]),
        };
        ensure!(
            statuses.contains(&done.status),
            "{done:x?}, faults {faults:x?}"
        );
        ensure!(
            done.result == probe.iova,
            "the error names {:#x}",
            done.result
        );
        if let Some(records) = records {
            ensure!(faults.len() == usize::from(records), "faults {faults:x?}");
        }
        for f in &faults {
            ensure!(
                reasons.contains(&f.reason),
                "{f:x?}, not one of {reasons:x?}"
            );
            ensure!(f.source == ep::SID, "{f:x?}: source");
            ensure!(f.pasid == (!self.rid).then_some(PASID), "{f:x?}: PASID");
            ensure!(f.page == probe.iova & !0xfff, "{f:x?}: address");
            ensure!(f.write == probe.write, "{f:x?}: kind of access");
            ensure!(
                f.privileged == (probe.flags & ep::FLAG_PRIV != 0),
                "{f:x?}: privilege"
            );
        }
        // An access that was refused has moved nothing.
        if !probe.write {
            let seen = b.q.read64(Bench::buffer(0))?;
            ensure!(seen == before, "refused, but the buffer has changed");
        }
        Ok(())
    }
}

/// Bits of a stage-1 page that anybody may read and write.
pub const URW: u64 = vtd::S1_P | vtd::S1_RW | vtd::S1_US;
/// Bits of a stage-2 page that may be read and written.
pub const RW: u64 = vtd::S2_R | vtd::S2_W;
