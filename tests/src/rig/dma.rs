// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The endpoint as the tests drive it: every wait has a deadline.

use super::DEADLINE;
use crate::ktap::Outcome;
use crate::testdev::{self, flag, Counter, Testdev};
use crate::vfio::Device;
use std::ops::Deref;

pub use crate::testdev::{status, Done, Order, Slot};

/// The endpoint.
#[derive(Debug)]
pub struct Dma(Testdev);

impl Deref for Dma {
    type Target = Testdev;

    fn deref(&self) -> &Testdev {
        &self.0
    }
}

/// What the endpoint counted since its last reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Translation requests sent.
    pub translation_requests: u64,
    /// Page requests sent.
    pub page_requests: u64,
    /// Group responses that fit no group.
    pub stray_responses: u64,
}

impl Dma {
    /// That of an open device.
    pub fn of(device: &Device) -> Outcome<Self> {
        Self::new(device)
    }

    pub(super) fn new(device: &Device) -> Outcome<Self> {
        Ok(Self(Testdev::new(device.map_bar(testdev::BAR)?)?))
    }

    /// Waits for the end of an order.
    ///
    /// # Errors
    ///
    /// If it does not end within [`DEADLINE`].
    pub fn wait(&self, slot: Slot) -> Result<Done, testdev::Error> {
        self.0.wait(slot, DEADLINE)
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        Counters {
            translation_requests: self.counter(Counter::Ats),
            page_requests: self.counter(Counter::PageReq),
            stray_responses: self.counter(Counter::RspStray),
        }
    }
}

/// More of an order.
pub trait OrderExt {
    /// With a completion record by the order's PASID.
    #[must_use]
    fn completion_at_pasid(self, record: u64, tag: u32) -> Self;
}

impl OrderExt for Order {
    fn completion_at_pasid(self, record: u64, tag: u32) -> Self {
        Self {
            completion: record,
            tag,
            ..self
        }
        .with(flag::COMPLETION | flag::COMPLETION_PASID)
    }
}
