// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts of a device.

use super::VfioDevice;
use crate::error::{Error, Operation, Result};
use crate::sys::{device as sys, Errno};
use std::os::fd::{AsFd, BorrowedFd};

/// `VFIO_IRQ_INFO_*`.
const IRQ_EVENTFD: u32 = 1 << 0;
const IRQ_MASKABLE: u32 = 1 << 1;
const IRQ_AUTOMASKED: u32 = 1 << 2;
const IRQ_NORESIZE: u32 = 1 << 3;
/// `VFIO_IRQ_SET_*`.
const SET_DATA_NONE: u32 = 1 << 0;
const SET_DATA_EVENTFD: u32 = 1 << 2;
const SET_MASK: u32 = 1 << 3;
const SET_UNMASK: u32 = 1 << 4;
const SET_TRIGGER: u32 = 1 << 5;

/// A kind of interrupt of a PCI function (`VFIO_PCI_*_IRQ_INDEX`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Interrupt {
    /// The interrupt pin; the host masks it each time, until [`VfioDevice::unmask`].
    IntX,
    /// MSI.
    Msi,
    /// MSI-X.
    MsiX,
    /// An error that the device has reported and cannot recover from (AER).
    Error,
    /// The host wants the device back: the VMM is to close it.
    Request,
}

impl Interrupt {
    const fn index(self) -> u32 {
        match self {
            Self::IntX => 0,
            Self::Msi => 1,
            Self::MsiX => 2,
            Self::Error => 3,
            Self::Request => 4,
        }
    }
}

/// What a kind of interrupt of a device has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InterruptInfo {
    /// Vectors; zero for a kind that the device does not have.
    pub count: u32,
    /// It can signal eventfds.
    pub eventfd: bool,
    /// It can be masked and unmasked.
    pub maskable: bool,
    /// The host masks it each time that it comes.
    pub automasked: bool,
    /// The number of vectors in use cannot change: all are set at once, or turned off first.
    pub fixed: bool,
}

impl VfioDevice {
    /// What a kind of interrupt has.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for a kind that the driver does not know.
    pub fn interrupt(&self, kind: Interrupt) -> Result<InterruptInfo> {
        let operation = Operation::InterruptInfo {
            device: self.name,
            kind,
        };
        let (flags, count) = sys::irq_info(self.as_fd(), kind.index())
            .map_err(|errno| Error::failed(operation, errno))?;
        Ok(InterruptInfo {
            count,
            eventfd: flags & IRQ_EVENTFD != 0,
            maskable: flags & IRQ_MASKABLE != 0,
            automasked: flags & IRQ_AUTOMASKED != 0,
            fixed: flags & IRQ_NORESIZE != 0,
        })
    }

    fn set(
        &self,
        kind: Interrupt,
        flags: u32,
        start: u32,
        count: usize,
        data: &[Option<BorrowedFd<'_>>],
    ) -> Result<()> {
        let failed = |errno| {
            let device = self.name;
            Error::failed(Operation::SetInterrupts { device, kind }, errno)
        };
        let count = u32::try_from(count).map_err(|_| failed(Errno::EINVAL))?;
        sys::set_irqs(self.as_fd(), flags, kind.index(), start, count, data).map_err(failed)
    }

    /// Has the vectors from `start` on signal eventfds; `None` turns one off. The kind of interrupt
    /// is turned on with the first. The host keeps the eventfds, whatever becomes of these.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for more vectors than there are, for another kind of MSI or
    /// MSI-X than is on, and for no vector at all ([`VfioDevice::disable`]).
    pub fn set_events(
        &self,
        kind: Interrupt,
        start: u32,
        events: &[Option<BorrowedFd<'_>>],
    ) -> Result<()> {
        if events.is_empty() {
            let device = self.name;
            let operation = Operation::SetInterrupts { device, kind };
            return Err(Error::failed(operation, Errno::EINVAL));
        }
        let flags = SET_DATA_EVENTFD | SET_TRIGGER;
        self.set(kind, flags, start, events.len(), events)
    }

    /// Turns a kind of interrupt off.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`].
    pub fn disable(&self, kind: Interrupt) -> Result<()> {
        self.set(kind, SET_DATA_NONE | SET_TRIGGER, 0, 0, &[])
    }

    /// Has the host signal the eventfd of a vector, as if the device had.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EINVAL for a kind that is off.
    pub fn trigger(&self, kind: Interrupt, vector: u32) -> Result<()> {
        self.set(kind, SET_DATA_NONE | SET_TRIGGER, vector, 1, &[])
    }

    /// Masks a vector.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with ENOTTY for a kind that cannot be masked.
    pub fn mask(&self, kind: Interrupt, vector: u32) -> Result<()> {
        self.set(kind, SET_DATA_NONE | SET_MASK, vector, 1, &[])
    }

    /// Unmasks a vector: of [`Interrupt::IntX`], after each.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::mask`].
    pub fn unmask(&self, kind: Interrupt, vector: u32) -> Result<()> {
        self.set(kind, SET_DATA_NONE | SET_UNMASK, vector, 1, &[])
    }

    /// Has an eventfd unmask [`Interrupt::IntX`], for KVM's resampling irqfd.
    ///
    /// # Errors
    ///
    /// As [`VfioDevice::mask`].
    pub fn unmask_by(&self, event: BorrowedFd<'_>) -> Result<()> {
        let flags = SET_DATA_EVENTFD | SET_UNMASK;
        self.set(Interrupt::IntX, flags, 0, 1, &[Some(event)])
    }
}
