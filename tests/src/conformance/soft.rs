// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The backend in the process.

use super::{Client, End, Job, Machine, Opened};
use crate::ktap::Outcome;
use host_iommu::backend::soft::{Dma, DmaEnd, DmaId, Soft, SoftDevice, SoftDeviceOptions};
use host_iommu::{Bdf, HostIommu, Iova};
use std::cell::RefCell;
use std::time::Duration;

/// A machine of the process.
#[derive(Clone, Copy, Debug)]
pub struct SoftMachine;

impl Machine for SoftMachine {
    fn backend(&self) -> &'static str {
        "soft"
    }

    fn open(&self, devices: &[usize]) -> Outcome<Opened> {
        let soft = Soft::new();
        let bus = soft.bus();
        let mut clients: Vec<(Bdf, Box<dyn Client>)> = Vec::new();
        for &index in devices {
            let device = Bdf::new(0, 1, 8 * index as u8);
            let client = bus.add(device, &SoftDeviceOptions::default())?;
            clients.push((device, Box::new(SoftClient::new(client))));
        }
        Ok(Opened {
            host: HostIommu::new(soft),
            devices: clients,
        })
    }
}

/// The DMA of a device in the process.
#[derive(Debug)]
pub struct SoftClient {
    device: SoftDevice,
    started: RefCell<Vec<DmaId>>,
}

impl SoftClient {
    /// Of a device.
    pub fn new(device: SoftDevice) -> Self {
        Self {
            device,
            started: RefCell::default(),
        }
    }
}

impl Client for SoftClient {
    fn start(&self, job: &Job) -> Outcome<u64> {
        let address = Iova(job.address);
        let mut dma = match job.store {
            Some(value) => {
                let bytes = value.to_le_bytes().repeat(job.len as usize / 8);
                Dma::write(address, &bytes)
            }
            None => Dma::read(address, job.len as usize),
        };
        if let Some(pasid) = job.pasid {
            dma = dma.at(pasid);
        }
        if !job.ats {
            dma = dma.no_ats();
        }
        if !job.ask {
            dma = dma.no_page_requests();
        }
        let id = self.device.submit(dma)?;
        let mut started = self.started.borrow_mut();
        started.push(id);
        Ok(started.len() as u64 - 1)
    }

    fn end(&self, job: u64, limit: Duration) -> Outcome<Option<End>> {
        let id = self.started.borrow()[job as usize];
        let word = |bytes: &[u8]| {
            let first = bytes.first_chunk().copied().unwrap_or_default();
            u64::from_le_bytes(first)
        };
        Ok(self.device.wait(id, limit).map(|end| match end {
            DmaEnd::Done(bytes) => End::Done(word(&bytes)),
            DmaEnd::NoAccess(_) => End::NoAccess,
            DmaEnd::Invalid(_) => End::Invalid,
            DmaEnd::Retries(_) => End::Retries,
            DmaEnd::Aborted => End::Aborted,
        }))
    }

    fn set_group_size(&self, pages: u32) {
        self.device.set_group_size(pages as usize);
    }
}
