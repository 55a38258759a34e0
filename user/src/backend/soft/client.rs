// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices, and how their DMA is programmed.

use super::dma::Device;
use super::state::Inner;
use super::{MAX_DEVICES, MAX_DMA_BYTES};
use crate::error::{Error, Operation, Result};
use crate::sys::Errno;
use crate::types::{Bdf, Iova, Pasid};
use host_iommu_bindings::uapi::VFIO_IOASID_FAULT_GROUP_MAX;
use std::sync::Arc;
use std::time::Duration;

/// What a device can do. ATS it always has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftDeviceOptions {
    /// PASIDs below this number work; zero for a device without PASID.
    pub max_pasids: u32,
    /// It can ask for pages (PRI).
    pub page_requests: bool,
}

impl Default for SoftDeviceOptions {
    /// All PASIDs, and page requests.
    fn default() -> Self {
        Self {
            max_pasids: Pasid::MAX.get() + 1,
            page_requests: true,
        }
    }
}

/// Where devices are plugged in and taken out. Clones are the same.
#[derive(Clone, Debug)]
pub struct SoftBus {
    inner: Arc<Inner>,
}

impl SoftBus {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Plugs in a device.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EEXIST if there is one at the address, EINVAL for more PASIDs than
    /// there are, ENOSPC for too many devices, ENODEV if the context is gone.
    pub fn add(&self, device: Bdf, options: &SoftDeviceOptions) -> Result<SoftDevice> {
        let added = self.inner.with(|state| {
            if state.ended {
                return Err(Errno::ENODEV);
            }
            if options.max_pasids > Pasid::MAX.get() + 1 {
                return Err(Errno::EINVAL);
            }
            if state.devices.contains_key(&device) {
                return Err(Errno::EEXIST);
            }
            if state.devices.len() >= MAX_DEVICES {
                return Err(Errno::ENOSPC);
            }
            state.stays = state.stays.wrapping_add(1);
            let stay = state.stays;
            state.devices.insert(device, Device::new(options, stay));
            Ok(())
        });
        added.map_err(|errno| Error::failed(Operation::PlugDevice(device), errno))?;
        Ok(SoftDevice {
            inner: self.inner.clone(),
            device,
        })
    }

    /// Takes a device out: its bindings go, and its DMA is aborted.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOENT if there is none.
    pub fn remove(&self, device: Bdf) -> Result<()> {
        let removed = self.inner.with(|state| state.remove_device(device));
        removed.map_err(|errno| Error::failed(Operation::UnplugDevice(device), errno))
    }
}

/// What a DMA moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Read(usize),
    Write(Vec<u8>),
    FetchAdd(u64),
}

/// A DMA, made by [`Dma::read`] and its siblings, then refined.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Dma {
    pub(super) address: Iova,
    pub(super) work: Work,
    pub(super) pasid: Option<Pasid>,
    pub(super) privileged: bool,
    pub(super) ats: bool,
    pub(super) page_requests: bool,
}

impl Dma {
    fn new(address: Iova, work: Work) -> Self {
        Self {
            address,
            work,
            pasid: None,
            privileged: false,
            ats: true,
            page_requests: true,
        }
    }

    /// Reads bytes.
    pub fn read(address: Iova, len: usize) -> Self {
        Self::new(address, Work::Read(len))
    }

    /// Writes bytes.
    pub fn write(address: Iova, bytes: &[u8]) -> Self {
        Self::new(address, Work::Write(bytes.to_vec()))
    }

    /// Adds to a little-endian u64 at a multiple of 8, atomically; it ends with the bytes that were
    /// there.
    pub fn fetch_add(address: Iova, addend: u64) -> Self {
        Self::new(address, Work::FetchAdd(addend))
    }

    /// By this PASID.
    pub fn at(self, pasid: Pasid) -> Self {
        Self {
            pasid: Some(pasid),
            ..self
        }
    }

    /// As a supervisor.
    pub fn privileged(self) -> Self {
        Self {
            privileged: true,
            ..self
        }
    }

    /// Past the device TLB, and so without page requests.
    pub fn no_ats(self) -> Self {
        Self { ats: false, ..self }
    }

    /// Without page requests: a missing page is the end.
    pub fn no_page_requests(self) -> Self {
        Self {
            page_requests: false,
            ..self
        }
    }

    fn is_sound(&self) -> bool {
        let len = match &self.work {
            Work::Read(len) => *len,
            Work::Write(bytes) => bytes.len(),
            Work::FetchAdd(_) if self.address.0 % 8 != 0 => return false,
            Work::FetchAdd(_) => 8,
        };
        let fits = self.address.0.checked_add(len as u64).is_some();
        fits && (1..=MAX_DMA_BYTES).contains(&len) && self.pasid != Some(Pasid::RID)
    }
}

/// How a DMA ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DmaEnd {
    /// All of it was moved; these are the bytes that were read.
    Done(Vec<u8>),
    /// This address is not to be had, and no page was asked for.
    NoAccess(Iova),
    /// The page request for this address was answered INVALID.
    Invalid(Iova),
    /// This address was still not to be had after many answers SUCCESS.
    Retries(Iova),
    /// The device was reset or is gone, or the end was told before.
    Aborted,
}

/// Names a DMA of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmaId(u64);

impl DmaId {
    /// That of a number from [`DmaId::get`].
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Counters of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SoftDeviceCounters {
    /// Addresses that the IOMMU was asked for.
    pub translations: u64,
    /// Addresses found in the device TLB.
    pub tlb_hits: u64,
    /// Invalidations received.
    pub invalidations: u64,
    /// Page requests sent.
    pub page_requests: u64,
    /// Groups of them.
    pub groups: u64,
    /// Groups answered SUCCESS.
    pub success: u64,
    /// Groups answered INVALID.
    pub invalid: u64,
}

/// A device of a [`Soft`](super::Soft): a DMA client to be programmed. It goes with its context;
/// dropping this leaves it plugged in.
#[derive(Debug)]
pub struct SoftDevice {
    inner: Arc<Inner>,
    device: Bdf,
}

impl SoftDevice {
    /// Its address.
    pub fn address(&self) -> Bdf {
        self.device
    }

    fn with<T>(&self, act: impl FnOnce(&mut Device) -> T) -> Option<T> {
        self.inner
            .with(|state| state.devices.get_mut(&self.device).map(act))
    }

    /// Starts a DMA, which runs until it ends or needs a page.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for none or too many bytes, addresses that wrap, or an
    /// unaligned [`Dma::fetch_add`]; EBUSY if too many are under way; ENODEV if the device is gone.
    pub fn submit(&self, dma: Dma) -> Result<DmaId> {
        let failed = |errno| Error::failed(Operation::SubmitDma(self.device), errno);
        if !dma.is_sound() {
            return Err(failed(Errno::EINVAL));
        }
        let number = self.inner.with(|state| state.submit(self.device, dma));
        number.map(DmaId).map_err(failed)
    }

    /// How a DMA ended, if it did: told once.
    pub fn poll(&self, dma: DmaId) -> Option<DmaEnd> {
        match self.with(|device| device.ended(dma.0)) {
            Some(end) => end,
            None => Some(DmaEnd::Aborted),
        }
    }

    /// Waits for the end of a DMA, for `limit` at most.
    pub fn wait(&self, dma: DmaId, limit: Duration) -> Option<DmaEnd> {
        self.inner.wait(Some(limit), |state| {
            match state.devices.get_mut(&self.device) {
                Some(device) => device.ended(dma.0),
                None => Some(DmaEnd::Aborted),
            }
        })
    }

    /// Whether a DMA waits for a page.
    pub fn is_waiting(&self, dma: DmaId) -> bool {
        self.with(|device| device.waits(dma.0)).unwrap_or(false)
    }

    /// Starts a DMA and waits for its end, for `limit` at most.
    ///
    /// # Errors
    ///
    /// As [`SoftDevice::submit`].
    pub fn run(&self, dma: Dma, limit: Duration) -> Result<Option<DmaEnd>> {
        let id = self.submit(dma)?;
        Ok(self.wait(id, limit))
    }

    /// Sets how many pages the device asks for at a time: 1, as at first, to 64.
    pub fn set_group_size(&self, pages: usize) {
        let pages = pages.clamp(1, VFIO_IOASID_FAULT_GROUP_MAX as usize);
        self.with(|device| device.group_size = pages);
    }

    /// Resets the device: its DMA ends, and its device TLB is empty.
    pub fn reset(&self) {
        self.inner.with(|state| state.abort(self.device));
    }

    /// Pages in the device TLB.
    pub fn cached(&self) -> usize {
        self.with(|device| device.cached()).unwrap_or(0)
    }

    /// The counters.
    pub fn counters(&self) -> SoftDeviceCounters {
        self.with(|device| device.counters).unwrap_or_default()
    }
}
