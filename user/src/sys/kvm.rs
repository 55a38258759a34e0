// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of this process that a KVM guest sees: RAM, and BARs of passed-through devices.
//!
//! KVM keeps a slot's addresses and not what is mapped there, so the call is unsafe. [`Slot`] owns
//! what its slot names, and that makes it safe.
//!
//! Beside it, two calls that a VMM needs to take a guest over from another process.

use crate::vfio::Mmio;
use kvm_bindings::{kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use std::fmt;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vm_memory::MmapRegion;
use vmm_sys_util::eventfd::EventFd;

/// An eventfd that was handed to this process, for KVM's irqfds.
pub fn event(file: OwnedFd) -> EventFd {
    // SAFETY: the file is open, and nobody else owns the number.
    unsafe { EventFd::from_raw_fd(file.into_raw_fd()) }
}

/// Sets the extended state of a CPU of `vm`, as `KVM_GET_XSAVE` gave it.
///
/// # Errors
///
/// EINVAL for a process that allows guests states that are larger than a [`kvm_xsave`] (AMX), of
/// which KVM would read more; else what KVM says.
pub fn set_xsave(vm: &VmFd, cpu: &VcpuFd, state: &kvm_xsave) -> io::Result<()> {
    let size = vm.check_extension_int(Cap::Xsave2);
    if usize::try_from(size).is_ok_and(|size| size > size_of::<kvm_xsave>()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: KVM reads as many bytes as it says, which are no more than there are.
    let set = unsafe { cpu.set_xsave(state) };
    set.map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

/// Memory that a guest can be shown.
///
/// # Safety
///
/// For as long as the value lives, `size()` bytes are mapped at `address()`, and nobody holds a Rust
/// reference into them: the guest writes there at any time.
pub unsafe trait GuestVisible: Send + Sync {
    /// The address of the first byte in this process.
    fn address(&self) -> u64;

    /// The number of bytes.
    fn size(&self) -> u64;
}

// SAFETY: the region is mapped until it is dropped; vm-memory touches it by volatile accesses.
unsafe impl GuestVisible for MmapRegion<()> {
    fn address(&self) -> u64 {
        self.as_ptr().expose_provenance() as u64
    }

    fn size(&self) -> u64 {
        // By name: the number of bytes, and not this method.
        Self::size(self) as u64
    }
}

// SAFETY: the registers are mapped until the value is dropped; it touches them by volatile accesses.
unsafe impl GuestVisible for Mmio {
    fn address(&self) -> u64 {
        Self::address(self)
    }

    fn size(&self) -> u64 {
        Self::size(self) as u64
    }
}

/// The memory slots of a VM. All of its memory is to be shown by one value: slots are numbered here.
#[derive(Debug)]
pub struct Slots {
    vm: Arc<VmFd>,
    next: AtomicU32,
    free: Mutex<Vec<u32>>,
}

impl Slots {
    /// The slots of a VM that has none yet.
    pub fn new(vm: Arc<VmFd>) -> Arc<Self> {
        Arc::new(Self {
            vm,
            next: AtomicU32::new(0),
            free: Mutex::default(),
        })
    }

    fn free(&self) -> MutexGuard<'_, Vec<u32>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the guest `memory`, whole, from the guest-physical address `start` on.
    ///
    /// # Errors
    ///
    /// What KVM says (`KVM_SET_USER_MEMORY_REGION`): EINVAL for addresses that are not pages' or too
    /// many slots, EEXIST where the guest sees other memory.
    pub fn map(self: &Arc<Self>, start: u64, memory: Arc<dyn GuestVisible>) -> io::Result<Slot> {
        let free = self.free().pop();
        let region = kvm_userspace_memory_region {
            slot: free.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed)),
            flags: 0,
            guest_phys_addr: start,
            memory_size: memory.size(),
            userspace_addr: memory.address(),
        };
        // SAFETY: the memory is mapped for as long as `memory` lives (`GuestVisible`), and the `Slot`
        // that holds it removes the slot first.
        let set = unsafe { self.vm.set_user_memory_region(region) };
        if let Err(error) = set {
            self.free().push(region.slot);
            return Err(io::Error::from_raw_os_error(error.errno()));
        }
        Ok(Slot {
            slots: self.clone(),
            region,
            memory: Some(memory),
        })
    }
}

/// Memory that the guest sees at an address for as long as this lives.
pub struct Slot {
    slots: Arc<Slots>,
    region: kvm_userspace_memory_region,
    memory: Option<Arc<dyn GuestVisible>>,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("slot", &self.region.slot)
            .field("start", &self.region.guest_phys_addr)
            .field("size", &self.region.memory_size)
            .finish_non_exhaustive()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let gone = kvm_userspace_memory_region {
            memory_size: 0,
            ..self.region
        };
        // SAFETY: a region of no bytes removes the slot, and names no memory.
        match unsafe { self.slots.vm.set_user_memory_region(gone) } {
            Ok(()) => self.slots.free().push(self.region.slot),
            // The guest still sees the memory: it stays mapped for good.
            Err(_) => std::mem::forget(self.memory.take()),
        }
    }
}
