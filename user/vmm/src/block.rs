// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtio disk (virtio 1.3, 4.1 and 5.2) behind the guest's IOMMU: VIRTIO_F_ACCESS_PLATFORM, and a
//! queue whose addresses the crate's unit translates by the guest's tables.
//!
//! The guest's notification does the work, on its CPU's thread: nothing goes on while the guest changes
//! its tables, and a disk here is there to be checked, not to be fast.

use crate::bus::{give, number, Registers};
use crate::cpu::Buses;
use crate::iommu::Iommu;
use crate::machine::Parts;
use crate::memory::Ram;
use crate::msix::{self, Msix, MsixState};
use crate::pci::{self, Bar, ConfigSpace, Function, PciBus};
use crate::takeover::Files;
use anyhow::{ensure, Context, Result};
use host_iommu::vtd::VtdTranslation;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use virtio_queue::{DescriptorChain, Queue, QueueState, QueueT};
use vm_memory::IommuMemory;

/// Vendor and device number, class and revision of a modern virtio disk.
const NAMES: u32 = 0x1042_1af4;
const CLASS: u32 = 0x0180_0001;
/// Where what is in BAR 0, by page.
const COMMON: u64 = 0;
const ISR: u64 = 1;
const DEVICE: u64 = 2;
const NOTIFY: u64 = 3;
const TABLE: u64 = 4;
const PENDING: u64 = 5;
const PAGE: u64 = 0x1000;
const BAR_SIZE: u64 = 8 * PAGE;
/// One for the configuration, one for the queue.
const VECTORS: u16 = 2;
const NO_VECTOR: u16 = 0xffff;
const QUEUE_SIZE: u16 = 128;
const SECTOR: u64 = 512;

/// Features (virtio 1.3, 5.2.3 and 6).
const READ_ONLY: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const VERSION_1: u64 = 1 << 32;
const ACCESS_PLATFORM: u64 = 1 << 33;

/// Types of requests, and how they end (virtio 1.3, 5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH_REQUEST: u32 = 4;
const GET_ID: u32 = 8;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;
const ID: [u8; 20] = *b"host-iommu-vmm\0\0\0\0\0\0";

/// Guest memory as the disk reaches it.
type Memory = IommuMemory<Ram, VtdTranslation>;

struct State {
    config: ConfigSpace,
    queue: Queue,
    /// What the guest has taken of the features, and which halves of them it looks at.
    features: u64,
    offered_half: u32,
    taken_half: u32,
    status: u8,
    vectors: [u16; 2],
    mapped: Option<u64>,
}

/// A disk on the guest's bus.
pub struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
    memory: Memory,
    msix: Msix,
    msix_at: u16,
    buses: Arc<Buses>,
    itself: Weak<Disk>,
    state: Mutex<State>,
}

/// What another process needs to go on with a disk.
#[derive(Serialize, Deserialize)]
pub struct DiskState {
    config: Vec<u8>,
    #[serde(with = "QueueParts")]
    queue: QueueState,
    features: u64,
    halves: [u32; 2],
    status: u8,
    vectors: [u16; 2],
    msix: MsixState,
}

/// [`QueueState`], written down.
#[derive(Serialize, Deserialize)]
#[serde(remote = "QueueState")]
struct QueueParts {
    max_size: u16,
    next_avail: u16,
    next_used: u16,
    event_idx_enabled: bool,
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

/// Opens a disk's file, for reading alone if it must be.
pub fn open(path: &Path) -> Result<(File, bool)> {
    let what = || format!("cannot open the disk {}", path.display());
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => Ok((file, false)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Ok((File::open(path).with_context(what)?, true))
        }
        Err(error) => Err(error).with_context(what),
    }
}

impl Disk {
    /// A disk of a file, which may be for reading alone, at a place on the bus. Another process may
    /// have left the eventfds of its vectors.
    pub fn new(
        (file, read_only): &(File, bool),
        number: u8,
        ram: &Ram,
        iommu: &Iommu,
        machine: &Parts<'_>,
        files: Option<&mut Files>,
    ) -> Result<Arc<Self>> {
        let sectors = file.metadata()?.len() / SECTOR;
        ensure!(sectors != 0, "a disk is empty");
        let source = PciBus::source(number);
        let translation = VtdTranslation::new(iommu.unit.clone(), source, None);
        let mut config = ConfigSpace::new();
        let msix_at = lay_out(&mut config);
        config.put_bar(
            0,
            Bar {
                address: machine.pci.take_address(BAR_SIZE, false)?,
                size: BAR_SIZE,
                wide: false,
                prefetchable: false,
            },
        );
        let state = State {
            config,
            queue: Queue::new(QUEUE_SIZE).context("a queue has a size")?,
            features: 0,
            offered_half: 0,
            taken_half: 0,
            status: 0,
            vectors: [NO_VECTOR; 2],
            mapped: None,
        };
        let msix = Msix::new(machine.interrupts, VECTORS, files)?;
        let file = file.try_clone()?;
        Ok(Arc::new_cyclic(|itself| Self {
            file,
            sectors,
            read_only: *read_only,
            memory: IommuMemory::new(ram.clone(), translation, true, ()),
            msix,
            msix_at,
            buses: machine.buses.clone(),
            itself: itself.clone(),
            state: Mutex::new(state),
        }))
    }

    /// Holds interrupts back, until [`Disk::go_on`]; gives what another process needs.
    pub fn pause(&self, files: &mut Files) -> Result<DiskState> {
        let state = self.state();
        Ok(DiskState {
            config: state.config.bytes().to_vec(),
            queue: state.queue.state(),
            features: state.features,
            halves: [state.offered_half, state.taken_half],
            status: state.status,
            vectors: state.vectors,
            msix: self.msix.pause(files)?,
        })
    }

    /// Interrupts come again.
    pub fn go_on(&self) {
        self.msix.go_on();
    }

    /// Makes it what it was in another process.
    pub fn restore(&self, saved: &DiskState) -> Result<()> {
        let mut state = self.state();
        state.config.put(0, &saved.config);
        state.queue = Queue::try_from(saved.queue).context("no queue is so")?;
        state.features = saved.features;
        [state.offered_half, state.taken_half] = saved.halves;
        state.status = saved.status;
        state.vectors = saved.vectors;
        self.msix.restore(&saved.msix);
        self.map(&mut state);
        Ok(())
    }

    /// Puts the registers where the guest has them now.
    fn map(&self, state: &mut State) {
        let address = state.config.bar(0, false);
        let decodes = state.config.word(pci::COMMAND) & pci::COMMAND_MEMORY != 0;
        let wanted = (decodes && pci::in_window(address, BAR_SIZE)).then_some(address);
        if wanted == state.mapped {
            return;
        }
        if let Some(old) = state.mapped {
            self.buses.memory.remove(old);
        }
        if let (Some(address), Some(itself)) = (wanted, self.itself.upgrade()) {
            self.buses.memory.insert(address, BAR_SIZE, itself);
        }
        state.mapped = wanted;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn features(&self) -> u64 {
        let read_only = if self.read_only { READ_ONLY } else { 0 };
        FLUSH | VERSION_1 | ACCESS_PLATFORM | read_only
    }

    /// The common configuration (virtio 1.3, 4.1.4.3).
    fn read_common(&self, offset: u64) -> u64 {
        let state = self.state();
        let half = |features: u64, half: u32| match half {
            0 => features & 0xffff_ffff,
            1 => features >> 32,
            _ => 0,
        };
        match offset {
            0 => state.offered_half.into(),
            4 => half(self.features(), state.offered_half),
            8 => state.taken_half.into(),
            12 => half(state.features, state.taken_half),
            16 => state.vectors[0].into(),
            18 => 1,
            20 => state.status.into(),
            24 => state.queue.size().into(),
            26 => state.vectors[1].into(),
            28 => state.queue.ready().into(),
            32 => state.queue.desc_table(),
            36 => state.queue.desc_table() >> 32,
            40 => state.queue.avail_ring(),
            44 => state.queue.avail_ring() >> 32,
            48 => state.queue.used_ring(),
            52 => state.queue.used_ring() >> 32,
            _ => 0,
        }
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let mut state = self.state();
        let state = &mut *state;
        let value = number(data);
        // CAST: registers of four, two and one byte.
        let (long, word) = (value as u32, value as u16);
        let (low, high) = (Some(long), Some((value >> 32) as u32));
        let wide = data.len() == 8;
        let high = high.filter(|_| wide);
        let queue = &mut state.queue;
        match offset {
            0 => state.offered_half = long,
            8 => state.taken_half = long,
            12 if state.taken_half == 0 => {
                state.features = state.features & !0xffff_ffff | u64::from(long);
            }
            12 if state.taken_half == 1 => {
                state.features = state.features & 0xffff_ffff | u64::from(long) << 32;
            }
            16 => state.vectors[0] = self.vector(word),
            20 if value == 0 => state.reset(),
            20 => state.status = value as u8,
            24 => queue.set_size(word),
            26 => state.vectors[1] = self.vector(word),
            28 => queue.set_ready(word == 1),
            32 => queue.set_desc_table_address(low, high),
            36 => queue.set_desc_table_address(None, low),
            40 => queue.set_avail_ring_address(low, high),
            44 => queue.set_avail_ring_address(None, low),
            48 => queue.set_used_ring_address(low, high),
            52 => queue.set_used_ring_address(None, low),
            _ => {}
        }
    }

    /// A vector that there is, or none.
    fn vector(&self, vector: u16) -> u16 {
        match vector < VECTORS {
            true => vector,
            false => NO_VECTOR,
        }
    }

    /// Does what is in the queue.
    fn notified(&self) {
        let mut state = self.state();
        let mut done = false;
        // As many as the queue has places: the guest cannot keep this thread for ever.
        for _ in 0..QUEUE_SIZE {
            let Some(chain) = state.queue.pop_descriptor_chain(&self.memory) else {
                break;
            };
            let head = chain.head_index();
            let length = self.serve(chain).unwrap_or_else(|error| {
                tracing::debug!(error = %format!("{error:#}"), "a disk's request makes no sense");
                0
            });
            if let Err(error) = state.queue.add_used(&self.memory, head, length) {
                tracing::debug!(%error, "a disk's queue cannot be written");
                break;
            }
            done = true;
        }
        let needs = done && state.queue.needs_notification(&self.memory).unwrap_or(true);
        if needs {
            self.msix.signal(state.vectors[1]);
        }
    }

    /// Does a request. Gives how many bytes the guest's buffers got.
    fn serve(&self, chain: DescriptorChain<&Memory>) -> Result<u32> {
        let mut reader = chain.clone().reader(&self.memory)?;
        let mut writer = chain.writer(&self.memory)?;
        let kind: u32 = reader.read_obj()?;
        let _priority: u32 = reader.read_obj()?;
        let sector: u64 = reader.read_obj()?;
        let room = writer.available_bytes();
        let data = room
            .checked_sub(1)
            .context("there is no room for a status")?;
        let mut end = writer.split_at(data)?;
        let status = match kind {
            IN => self.transfer(sector, data, |at, buffer| {
                self.file.read_exact_at(buffer, at)?;
                writer.write_all(buffer)
            }),
            OUT => self.transfer(sector, reader.available_bytes(), |at, buffer| {
                reader.read_exact(buffer)?;
                self.file.write_all_at(buffer, at)
            }),
            FLUSH_REQUEST => self.file.sync_data(),
            GET_ID => writer.write_all(ID.get(..data.min(ID.len())).unwrap_or_default()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        let status = match status {
            Ok(()) => OK,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => UNSUPPORTED,
            Err(_) => IO_ERROR,
        };
        end.write_obj(status)?;
        Ok(u32::try_from(writer.bytes_written() + 1)?)
    }

    /// Moves bytes from a sector on, a part at a time.
    fn transfer(
        &self,
        sector: u64,
        bytes: usize,
        mut move_part: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let start = sector.checked_mul(SECTOR).ok_or_else(outside)?;
        let end = start.checked_add(bytes as u64).ok_or_else(outside)?;
        if end > self.sectors * SECTOR || bytes as u64 % SECTOR != 0 {
            return Err(outside());
        }
        let mut buffer = vec![0; bytes.min(1 << 16)];
        let mut at = start;
        while at < end {
            let part = (end - at).min(buffer.len() as u64);
            // CAST: at most the buffer's length.
            move_part(at, buffer.get_mut(..part as usize).unwrap_or_default())?;
            at += part;
        }
        Ok(())
    }
}

impl State {
    fn reset(&mut self) {
        self.queue.reset();
        self.features = 0;
        self.status = 0;
        self.vectors = [NO_VECTOR; 2];
    }
}

/// Names and capabilities. Gives where MSI-X is.
fn lay_out(config: &mut ConfigSpace) -> u16 {
    const FIRST: u16 = 0x40;
    const STATUS_HAS_CAPABILITIES: u16 = 1 << 4;
    const VENDOR: u8 = 9;
    config.put(0, &NAMES.to_le_bytes());
    config.put(8, &CLASS.to_le_bytes());
    config.put(0x2c, &NAMES.to_le_bytes());
    config.put(pci::COMMAND + 2, &STATUS_HAS_CAPABILITIES.to_le_bytes());
    // Memory and bus master.
    config.allow(pci::COMMAND, &[6, 4]);
    config.put(pci::CAPABILITIES, &[FIRST as u8]);
    let mut at = FIRST;
    // Type, page and length of each part; notification has a multiplier after it.
    for (kind, page, length) in [(1, COMMON, 56), (2, NOTIFY, 4), (3, ISR, 1), (4, DEVICE, 8)] {
        let size: u8 = if kind == 2 { 20 } else { 16 };
        let next = at + u16::from(size);
        config.put(at, &[VENDOR, next as u8, size, kind]);
        config.put(at + 8, &((page * PAGE) as u32).to_le_bytes());
        config.put(at + 12, &u32::to_le_bytes(length));
        at = next;
    }
    config.put(at, &[msix::CAPABILITY, 0]);
    config.put(at + msix::CONTROL, &(VECTORS - 1).to_le_bytes());
    config.allow(
        at + msix::CONTROL,
        &(msix::ENABLE | msix::MASK_ALL).to_le_bytes(),
    );
    config.put(at + 4, &((TABLE * PAGE) as u32).to_le_bytes());
    config.put(at + 8, &((PENDING * PAGE) as u32).to_le_bytes());
    at
}

impl Function for Disk {
    fn read(&self, offset: u16, data: &mut [u8]) {
        self.state().config.read(offset, data);
    }

    fn write(&self, offset: u16, data: &[u8]) {
        let mut state = self.state();
        state.config.write(offset, data);
        self.msix
            .set_control(state.config.word(self.msix_at + msix::CONTROL));
        self.map(&mut state);
    }
}

impl Registers for Disk {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset / PAGE, offset % PAGE) {
            (COMMON, at) => give(data, self.read_common(at)),
            (DEVICE, at) if at < 8 => give(data, self.sectors >> (at * 8)),
            (TABLE, at) => self.msix.read(at, data),
            _ => {}
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match (offset / PAGE, offset % PAGE) {
            (COMMON, at) => self.write_common(at, data),
            (NOTIFY, _) => self.notified(),
            (TABLE, at) => self.msix.write(at, data),
            _ => {}
        }
    }
}
