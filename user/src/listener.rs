// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keeps stage 2 as guest memory is, for VMMs on vm-memory.

use crate::context::{HostIommu, Mapping};
use crate::error::Result;
use crate::sys::region::RegionMemory;
use crate::types::{Iova, IovaRange, MapAccess};
use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

/// Why a region is not given to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkippedBecause {
    /// It cannot be written, like a ROM: a context that nests takes no read-only mappings.
    ReadOnly,
    /// The mapping is not vm-memory's own: what becomes of it is not known.
    Foreign,
    /// It does not begin and end on a page.
    Unaligned,
}

impl fmt::Display for SkippedBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "it is read-only",
            Self::Foreign => "its mapping is not vm-memory's own",
            Self::Unaligned => "it is not whole pages",
        })
    }
}

/// A region that devices do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its guest-physical addresses.
    pub range: IovaRange,
    /// Why.
    pub reason: SkippedBecause,
}

/// Gives the devices of a context the guest's memory, region by region. To be told of each change.
///
/// What it mapped stays mapped when it is dropped: the context knows it. It keeps the guest's memory
/// of the last update, so that no other memory comes to its addresses in the process unnoticed.
#[derive(Debug)]
pub struct RegionListener {
    host: HostIommu,
    /// What is mapped: first address, last address, and where it is in the process.
    mapped: BTreeMap<u64, (u64, usize)>,
    /// The memory that is mapped: while it is held, an address names a region.
    held: Option<Box<dyn Any + Send + Sync>>,
}

impl RegionListener {
    /// For a context in which nothing is mapped yet where the guest's memory will be.
    pub fn new(host: HostIommu) -> Self {
        Self {
            host,
            mapped: BTreeMap::new(),
            held: None,
        }
    }

    /// Makes stage 2 as `memory` is: takes back the regions that are gone or have changed their
    /// place, then maps those that are new. Gives the regions that devices do not have, and why.
    ///
    /// `memory` is cloned, which for vm-memory's own types shares the regions. Mappings that the host
    /// has dropped, as with the last device of the context, are made anew.
    ///
    /// # Errors
    ///
    /// As [`HostIommu::map`] and [`HostIommu::unmap`]. What was done until then stays, and the
    /// next call goes on from there.
    pub fn update<M, B>(&mut self, memory: &M) -> Result<Vec<Skipped>>
    where
        M: GuestMemoryBackend<R = GuestRegionMmap<B>> + Clone + Send + Sync + 'static,
        B: Bitmap + fmt::Debug,
    {
        if self.host.lost_mappings()? {
            for (start, (last, _)) in std::mem::take(&mut self.mapped) {
                if let Some(range) = IovaRange::new(Iova(start), Iova(last)) {
                    self.host.unmap(range)?;
                }
            }
        }
        // While the last memory is held, what is at another's address is another.
        let before = self.held.replace(Box::new(memory.clone()));
        let mut skipped = Vec::new();
        let mut wanted = BTreeMap::new();
        for region in memory.iter() {
            let start = region.start_addr().raw_value();
            let Some(range) = IovaRange::sized(Iova(start), region.len()) else {
                continue;
            };
            let region = match RegionMemory::new(region) {
                _ if (start | region.len()) % 4096 != 0 => Err(SkippedBecause::Unaligned),
                result => result,
            };
            match region {
                Ok(region) => {
                    wanted.insert(start, (range, region));
                }
                Err(reason) => skipped.push(Skipped { range, reason }),
            }
        }
        let same = |start: &u64, &(last, address): &(u64, usize)| {
            let found = wanted.get(start);
            found.is_some_and(|(range, region)| {
                range.last().0 == last && region.address() == address
            })
        };
        let gone: Vec<(u64, u64)> = self
            .mapped
            .iter()
            .filter(|(start, place)| !same(start, place))
            .map(|(&start, &(last, _))| (start, last))
            .collect();
        for (start, last) in gone {
            if let Some(range) = IovaRange::new(Iova(start), Iova(last)) {
                self.host.unmap(range)?;
            }
            self.mapped.remove(&start);
        }
        for (start, (range, region)) in wanted {
            if self.mapped.contains_key(&start) {
                continue;
            }
            self.host.map_part(&Mapping {
                memory: &region,
                offset: 0,
                range,
                access: MapAccess::ReadWrite,
            })?;
            let place = (range.last().0, region.address());
            self.mapped.insert(start, place);
        }
        drop(before);
        Ok(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::soft::{Dma, DmaEnd, Soft, SoftDeviceOptions};
    use crate::types::Bdf;
    use std::sync::Arc;
    use std::time::Duration;
    use vm_memory::mmap::{GuestMemoryMmap, MmapRegionBuilder};
    use vm_memory::{Bytes, FileOffset, GuestAddress};

    type Region = GuestRegionMmap<()>;

    fn region(start: u64, len: usize, prot: i32) -> Arc<Region> {
        let memory = crate::SharedMemory::new(c"region", len).expect("memory");
        let file = memory.file().try_clone().expect("its file");
        let region = MmapRegionBuilder::new(len)
            .with_mmap_prot(prot)
            .with_mmap_flags(libc::MAP_SHARED)
            .with_file_offset(FileOffset::new(file, 0))
            .build()
            .expect("a region");
        Arc::new(Region::new(region, GuestAddress(start)).expect("an address"))
    }

    const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

    #[test]
    fn update_follows_the_memory_and_says_what_it_skips() {
        let soft = Soft::new();
        let device = soft
            .bus()
            .add(Bdf::new(0, 0, 8), &SoftDeviceOptions::default())
            .expect("a device");
        let host = HostIommu::new(soft);
        let mut listener = RegionListener::new(host.clone());
        let low = region(0, 0x10000, RW);
        let high = region(1 << 32, 0x4000, RW);
        let rom = region(0xfff0_0000, 0x1000, libc::PROT_READ);
        let odd = region(1 << 33, 0x1800, RW);
        let all = vec![low.clone(), rom, high, odd];
        let memory = GuestMemoryMmap::from_arc_regions(all).expect("guest memory");

        let skipped = listener.update(&memory).expect("an update");
        let reasons: Vec<(u64, SkippedBecause)> = skipped
            .iter()
            .map(|skipped| (skipped.range.start().0, skipped.reason))
            .collect();
        assert_eq!(
            reasons,
            [
                (0xfff0_0000, SkippedBecause::ReadOnly),
                (1 << 33, SkippedBecause::Unaligned)
            ]
        );
        assert_eq!(host.stats().expect("counters").mapped_pages, 20);
        let store = |at| {
            let end = device.run(Dma::write(Iova(at), &[7; 8]), Duration::ZERO);
            end.expect("a DMA").expect("its end")
        };
        assert_eq!(store(1 << 32), DmaEnd::Done(Vec::new()));
        let mut seen = [0u8; 8];
        memory
            .read_slice(&mut seen, GuestAddress(1 << 32))
            .expect("guest memory");
        assert_eq!(seen, [7; 8]);

        // The high region goes, another takes its place further on; the low one stays mapped.
        let moved = region(2 << 32, 0x4000, RW);
        let all = vec![low.clone(), moved];
        let memory = GuestMemoryMmap::from_arc_regions(all).expect("guest memory");
        assert_eq!(listener.update(&memory).expect("an update"), []);
        assert_eq!(store(1 << 32), DmaEnd::NoAccess(Iova(1 << 32)));
        assert_eq!(store(2 << 32), DmaEnd::Done(Vec::new()));

        // Another memory at the same place is another memory.
        let other = region(0, 0x10000, RW);
        let memory = GuestMemoryMmap::from_arc_regions(vec![other]).expect("guest memory");
        assert_eq!(listener.update(&memory).expect("an update"), []);
        assert_eq!(store(0), DmaEnd::Done(Vec::new()));
        memory
            .read_slice(&mut seen, GuestAddress(0))
            .expect("guest memory");
        assert_eq!(seen, [7; 8]);
        assert_eq!(host.stats().expect("counters").mapped_pages, 16);
    }

    /// A context with a device, and a listener.
    fn listened() -> (HostIommu, crate::backend::soft::SoftDevice, RegionListener) {
        let soft = Soft::new();
        let device = soft
            .bus()
            .add(Bdf::new(0, 0, 8), &SoftDeviceOptions::default())
            .expect("a device");
        let host = HostIommu::new(soft);
        let listener = RegionListener::new(host.clone());
        (host, device, listener)
    }

    #[test]
    fn memory_that_soft_cannot_map_is_told_to_need_a_file() {
        let (host, _device, mut listener) = listened();
        let anonymous = [(GuestAddress(0), 0x4000)];
        let memory = GuestMemoryMmap::<()>::from_ranges(&anonymous).expect("guest memory");
        let error = listener.update(&memory).expect_err("anonymous memory");
        assert_eq!(error.errno(), Some(libc::EOPNOTSUPP));
        let text = error.to_string();
        assert!(text.contains("0x0..=0x3fff"), "{text}");
        assert!(text.contains("no shared mapping of a file"), "{text}");
        assert_eq!(host.stats().expect("counters").mapped_pages, 0);
    }

    #[test]
    fn memory_that_came_to_the_same_address_is_another() {
        let (_host, device, mut listener) = listened();
        let old = region(0, 0x10000, RW);
        let memory = GuestMemoryMmap::from_arc_regions(vec![old]).expect("guest memory");
        assert_eq!(listener.update(&memory).expect("an update"), []);
        // It goes, and the next is most likely put where it was.
        drop(memory);
        let new = region(0, 0x10000, RW);
        let memory = GuestMemoryMmap::from_arc_regions(vec![new]).expect("guest memory");
        assert_eq!(listener.update(&memory).expect("an update"), []);
        let end = device.run(Dma::write(Iova(0x100), &[7; 8]), Duration::ZERO);
        assert_eq!(end.expect("a DMA"), Some(DmaEnd::Done(Vec::new())));
        let mut seen = [0u8; 8];
        memory
            .read_slice(&mut seen, GuestAddress(0x100))
            .expect("guest memory");
        assert_eq!(seen, [7; 8]);
    }

    #[test]
    fn mappings_that_the_host_dropped_are_made_anew() {
        let (host, device, mut listener) = listened();
        let all = vec![region(0, 0x10000, RW), region(1 << 32, 0x4000, RW)];
        let memory = GuestMemoryMmap::from_arc_regions(all).expect("guest memory");
        assert_eq!(listener.update(&memory).expect("an update"), []);
        // As with the last device of a container.
        host.context().unmap_all().expect("all is dropped");
        assert_eq!(listener.update(&memory).expect("an update"), []);
        let end = device.run(Dma::write(Iova(0), &[7; 8]), Duration::ZERO);
        assert_eq!(end.expect("a DMA"), Some(DmaEnd::Done(Vec::new())));
        assert_eq!(host.stats().expect("counters").mapped_pages, 20);
        assert_eq!(listener.update(&memory).expect("an update"), []);
    }
}
