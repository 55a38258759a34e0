// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices, bindings and fault queues of a context, under one lock.
//!
//! The lock is held over each attach and detach: what is noted is what is in force, and a group of
//! page requests that the kernel has answered is forgotten before its number is used again. The
//! kernel waits in a detach for its own thread only, which takes no lock that a call of ours holds.

use super::super::bindings::{self, Bindings};
use super::super::pasid::Pool;
use super::super::shared::{count, Shared};
use super::device::{Device, Parent};
use super::queue::FaultState;
use super::MAX_BINDINGS;
use crate::capabilities::Stats;
use crate::context::{Scope, Translation};
use crate::nesting::InvalidationEntry;
use crate::sys::{iommufd, Errno};
use crate::types::{Bdf, Pasid};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Entries of one call, far below the kernel's limit.
const MAX_INVALIDATE: usize = 4096;

/// The state, and who waits for it to change.
pub(super) type Inner = Shared<State>;

/// A translation in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) translation: Translation,
    /// The page table that is attached. `None`: none is, which is how the kernel blocks DMA.
    hwpt: Option<u32>,
    /// The page table is this binding's own.
    own: bool,
    /// Where page requests go.
    queue: Option<u64>,
}

impl Bound {
    fn blocked(translation: Translation) -> Self {
        Self {
            translation,
            hwpt: None,
            own: false,
            queue: None,
        }
    }
}

impl bindings::Bound for Bound {
    fn translation(&self) -> Translation {
        self.translation
    }
}

/// Why nothing was bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BindFailure {
    pub(super) errno: Errno,
    /// What was bound before is gone too.
    pub(super) blocked: bool,
}

impl From<Errno> for BindFailure {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            blocked: false,
        }
    }
}

/// What is to be bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) device: Bdf,
    pub(super) pasid: Pasid,
    pub(super) translation: Translation,
    /// Of the address space.
    pub(super) ioas: Option<u32>,
    pub(super) queue: Option<u64>,
    pub(super) replace: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Until the context ends.
    pub(super) iommufd: Option<Arc<OwnedFd>>,
    pub(super) next_device: u64,
    pub(super) devices: BTreeMap<Bdf, Device>,
    pub(super) bindings: Bindings<Bound>,
    pub(super) pasids: Pool,
    pub(super) queues: BTreeMap<u64, FaultState>,
    pub(super) next_queue: u64,
    pub(super) counters: Stats,
}

/// Where the kernel is to attach.
fn place(pasid: Pasid) -> Option<u32> {
    (pasid != Pasid::RID).then_some(pasid.get())
}

/// Attaches a page table in place of what is attached.
fn attach(device: BorrowedFd<'_>, hwpt: Option<u32>, at: Option<u32>) -> Result<(), Errno> {
    match hwpt {
        Some(hwpt) => iommufd::device_attach(device, hwpt, at),
        // DMA is stopped until the next attach: a device whose owner is a user has no other domain.
        None => iommufd::device_detach(device, at),
    }
}

/// Attaches, by a detach first: a failed replacement leaves DMA blocked while the kernel still names
/// what was there.
fn attach_anew(device: BorrowedFd<'_>, hwpt: Option<u32>, at: Option<u32>) -> Result<(), Errno> {
    iommufd::device_detach(device, at)?;
    attach(device, hwpt, at)
}

impl State {
    fn iommufd(&self) -> Result<Arc<OwnedFd>, Errno> {
        self.iommufd.clone().ok_or(Errno::EBADF)
    }

    /// The page tables of stage 2.
    pub(super) fn parents(&self) -> Vec<Parent> {
        let mut parents: Vec<Parent> = Vec::new();
        for device in self.devices.values() {
            if !parents.contains(&device.parent) {
                parents.push(device.parent);
            }
        }
        parents
    }

    /// Takes a device in.
    pub(super) fn attach(&mut self, ioas: u32, name: Bdf, fd: OwnedFd) -> Result<u64, Errno> {
        let iommufd = self.iommufd()?;
        if self.devices.contains_key(&name) {
            return Err(Errno::EBUSY);
        }
        let number = self.next_device;
        self.next_device = number.wrapping_add(1);
        let device = Device::join(iommufd.as_fd(), ioas, &self.parents(), number, fd)?;
        self.devices.insert(name, device);
        Ok(number)
    }

    /// Lets a device go: nothing is translated for it any more.
    pub(super) fn detach(&mut self, number: u64) -> Result<OwnedFd, Errno> {
        let iommufd = self.iommufd()?;
        let mut devices = self.devices.iter();
        let found = devices.find(|(_, device)| device.number == number);
        let (&name, _) = found.ok_or(Errno::ENOENT)?;
        self.unbind(Scope::Device(name))?;
        if let Some(device) = self.devices.get(&name) {
            iommufd::device_detach(device.fd.as_fd(), None)?;
        }
        let device = self.devices.remove(&name).ok_or(Errno::ENOENT)?;
        if !self.parents().contains(&device.parent) {
            iommufd::destroy(iommufd.as_fd(), device.parent.hwpt)?;
        }
        Ok(device.fd)
    }

    /// Checks what is wanted, before anything is changed.
    fn check(&self, wanted: &Wanted) -> Result<(), Errno> {
        let device = self.devices.get(&wanted.device).ok_or(Errno::ENOENT)?;
        match (wanted.translation, wanted.queue) {
            (Translation::Stage1(table), _) => device.check(&table)?,
            (Translation::AddressSpace { .. }, _) | (_, None) => {}
            (_, Some(_)) => return Err(Errno::EINVAL),
        }
        if wanted.pasid != Pasid::RID && device.max_pasids() == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Some(queue) = wanted.queue {
            if !device.page_requests().is_present() {
                return Err(Errno::EOPNOTSUPP);
            }
            let open = self.queues.get(&queue).is_some_and(|found| !found.closed);
            if !open {
                return Err(Errno::EINVAL);
            }
        }
        if wanted.pasid != Pasid::RID {
            if !self.pasids.holds(wanted.pasid.get()) {
                return Err(Errno::ENOENT);
            }
            if wanted.pasid.get() >= device.max_pasids() {
                return Err(Errno::EINVAL);
            }
        }
        let key = (wanted.device, wanted.pasid);
        self.bindings
            .admit(&key, wanted.translation, wanted.replace, MAX_BINDINGS)
    }

    pub(super) fn bind(&mut self, wanted: &Wanted) -> Result<(), BindFailure> {
        let iommufd = self.iommufd()?;
        self.check(wanted)?;
        let bound = self.page_table(iommufd.as_fd(), wanted)?;
        let key = (wanted.device, wanted.pasid);
        let old = self.bindings.get(&key).copied();
        self.account(old.as_ref());
        let Some(device) = self.devices.get(&wanted.device) else {
            return Err(Errno::ENOENT.into());
        };
        let (fd, at) = (device.fd.as_fd(), place(wanted.pasid));
        // Linux without our patch leaks a reference to the page request queue where a table with
        // page requests takes the place of another at the RID.
        let apart = at.is_none() && old.is_some_and(|old| old.queue.is_some());
        let attached = if apart {
            attach_anew(fd, bound.hwpt, at)
        } else {
            attach(fd, bound.hwpt, at)
        };
        if let Err(errno) = attached {
            // What the driver says of page requests that it cannot turn on.
            let errno = match errno {
                Errno::ENODEV if wanted.queue.is_some() => Errno::EOPNOTSUPP,
                other => other,
            };
            let before = match old {
                Some(old) => old.hwpt,
                None => at.is_none().then_some(device.parent.hwpt),
            };
            let back = attach_anew(fd, before, at);
            self.destroy(iommufd.as_fd(), &bound);
            if old.is_some() {
                // The detach has answered what waited.
                self.cancel_binding(wanted.device, wanted.pasid);
            }
            // At a PASID where nothing was bound DMA was stopped before.
            let blocked = back.is_err() && before.is_some();
            if blocked {
                self.forget(iommufd.as_fd(), key);
                if at.is_none() {
                    // Until something is bound, or the unbind that brings stage 2 back.
                    let bound = Bound::blocked(Translation::Blocked { guest_pasid: None });
                    self.bindings.insert(key, bound);
                }
            }
            return Err(BindFailure { errno, blocked });
        }
        if old.is_some() {
            self.forget(iommufd.as_fd(), key);
        }
        self.bindings.insert(key, bound);
        if let Some(found) = wanted.queue.and_then(|id| self.queues.get_mut(&id)) {
            found.users = found.users.saturating_add(1);
        }
        Ok(())
    }

    /// The page table of what is wanted.
    fn page_table(&self, iommufd: BorrowedFd<'_>, wanted: &Wanted) -> Result<Bound, Errno> {
        let device = self.devices.get(&wanted.device).ok_or(Errno::ENOENT)?;
        let own = |hwpt| (hwpt, true);
        let fault = match wanted.queue.and_then(|id| self.queues.get(&id)) {
            Some(found) => Some(found.kernel_id().ok_or(Errno::EINVAL)?),
            None => None,
        };
        let (hwpt, own) = match (wanted.translation, wanted.ioas) {
            (Translation::Stage1(table), _) => {
                let (id, parent) = (device.id, device.parent.hwpt);
                let flags = iommufd::ALLOC_PASID;
                let data = table.data();
                iommufd::hwpt_alloc(iommufd, flags, id, parent, Some(&data), fault).map(own)?
            }
            (Translation::Stage2 { .. }, _) => (device.parent.hwpt, false),
            (Translation::Blocked { .. }, _) => return Ok(Bound::blocked(wanted.translation)),
            (Translation::AddressSpace { .. }, Some(ioas)) => {
                let flags = iommufd::ALLOC_PASID;
                iommufd::hwpt_alloc(iommufd, flags, device.id, ioas, None, fault).map(own)?
            }
            (Translation::AddressSpace { .. }, None) => return Err(Errno::ENOENT),
        };
        Ok(Bound {
            translation: wanted.translation,
            hwpt: Some(hwpt),
            own,
            queue: wanted.queue,
        })
    }

    /// Takes in what was asked for before a binding goes, for the counters.
    fn account(&mut self, bound: Option<&Bound>) {
        if let Some(queue) = bound.and_then(|bound| bound.queue) {
            // What cannot be read now is answered with the rest.
            let _ = self.pump(queue);
        }
    }

    fn destroy(&self, iommufd: BorrowedFd<'_>, bound: &Bound) {
        if let Some(hwpt) = bound.hwpt.filter(|_| bound.own) {
            // What cannot be destroyed goes with the iommufd.
            let _ = iommufd::destroy(iommufd, hwpt);
        }
    }

    /// Takes out a binding that the kernel has detached.
    fn forget(&mut self, iommufd: BorrowedFd<'_>, key: (Bdf, Pasid)) {
        let Some(bound) = self.bindings.remove(&key) else {
            return;
        };
        self.destroy(iommufd, &bound);
        self.cancel_binding(key.0, key.1);
        if let Some(found) = bound.queue.and_then(|id| self.queues.get_mut(&id)) {
            found.users = found.users.saturating_sub(1);
            if found.closed && found.users == 0 {
                found.wake();
            }
        }
    }

    fn in_scope(&self, scope: Scope) -> Result<Vec<(Bdf, Pasid)>, Errno> {
        let attached = |device| self.devices.contains_key(&device);
        self.bindings.in_scope(attached, scope)
    }

    pub(super) fn unbind(&mut self, scope: Scope) -> Result<(), Errno> {
        let iommufd = self.iommufd()?;
        for key in self.in_scope(scope)? {
            self.account(self.bindings.get(&key).copied().as_ref());
            let Some(device) = self.devices.get(&key.0) else {
                continue;
            };
            let (fd, at) = (device.fd.as_fd(), place(key.1));
            let parent = device.parent.hwpt;
            let detached = iommufd::device_detach(fd, at);
            // At the RID stage 2 comes back.
            let done = match (detached, at) {
                (Ok(()), None) => iommufd::device_attach(fd, parent, None),
                (done, _) => done,
            };
            if detached.is_ok() {
                self.forget(iommufd.as_fd(), key);
            }
            done?;
        }
        Ok(())
    }

    /// Entry by entry; the number of the first that was not carried out comes with an error.
    pub(super) fn invalidate(
        &mut self,
        scope: Scope,
        entries: &[InvalidationEntry],
    ) -> Result<(), (usize, Errno)> {
        let iommufd = self.iommufd().map_err(|errno| (0, errno))?;
        let keys = self.in_scope(scope).map_err(|errno| (0, errno))?;
        let mut before = 0usize;
        for chunk in entries.chunks(MAX_INVALIDATE) {
            let data: Vec<_> = chunk.iter().map(InvalidationEntry::data).collect();
            for key in &keys {
                // What is cached of the others goes with the calls that change them.
                let bound = self.bindings.get(key);
                let bound =
                    bound.filter(|bound| matches!(bound.translation, Translation::Stage1(_)));
                let Some(hwpt) = bound.and_then(|bound| bound.hwpt) else {
                    continue;
                };
                let result = iommufd::hwpt_invalidate(iommufd.as_fd(), hwpt, &data);
                let done = result.map_or_else(|failure| failure.done as usize, |()| chunk.len());
                count(&mut self.counters.invalidations, done as u64);
                if let Err(failure) = result {
                    return Err((before.saturating_add(done), failure.errno));
                }
            }
            before = before.saturating_add(chunk.len());
        }
        Ok(())
    }

    pub(super) fn is_bound_to(&self, space: u32) -> bool {
        self.bindings.of_space(space).next().is_some()
    }

    /// The context goes: gives the threads that end with it.
    pub(super) fn end(&mut self) -> Vec<JoinHandle<()>> {
        // What cannot be undone here goes with the fds.
        while let Some(key) = self.bindings.first() {
            if self.unbind(Scope::Binding(key.0, key.1)).is_err() {
                self.bindings.remove(&key);
            }
        }
        let numbers: Vec<u64> = self.devices.values().map(|device| device.number).collect();
        for number in numbers {
            let _ = self.detach(number);
        }
        self.devices.clear();
        self.pasids.clear();
        self.iommufd = None;
        let mut threads = Vec::new();
        for found in self.queues.values_mut() {
            found.users = 0;
            found.queue.end();
            found.wake();
            threads.extend(found.take_thread());
        }
        threads
    }
}
