// SPDX-License-Identifier: GPL-2.0
//! The registration as a VFIO container backend.
//!
//! vfio core hands each callback the value that `open` gave, and reads it without a lock in its
//! ioctl. So it is no pointer but a number, never given again: a stale one finds nothing.
//!
//! C header: [`drivers/vfio/vfio.h`](srctree/drivers/vfio/vfio.h)

use super::account;
use super::debugfs::{Folder, Lines};
use super::device::Device;
use super::group::Group;
use super::shim;
use super::user::Pointer;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong, c_void};
use kernel::prelude::*;
use kernel::sync::atomic::{Atomic, Relaxed};
use kernel::sync::SetOnce;

/// `VFIO_CHECK_EXTENSION` of linux/vfio.h.
const CHECK_EXTENSION: c_uint = 0x3b65;

/// Number of the next container. A u64 does not come round.
static NEXT_ID: Atomic<u64> = Atomic::new(1);

/// The containers, each known by its number. A number of which there is none is [`EINVAL`]. Each of
/// these may sleep.
pub(crate) trait Backend: 'static {
    /// `VFIO_SET_IOMMU`: makes container number `id`.
    fn open(id: u64, iommu_type: usize) -> Result;

    /// The last group is gone, and with it the container as the user knew it.
    fn release(id: u64);

    /// `VFIO_CHECK_EXTENSION`: asked of the module, or of a container.
    fn check_extension(id: u64, extension: usize) -> isize;

    /// Any other call; gives its value.
    fn ioctl(id: u64, cmd: u32, arg: Pointer) -> Result<isize>;

    /// A group joins.
    fn attach_group(id: u64, group: Group) -> Result;

    /// A group leaves.
    fn detach_group(id: u64, group: &Group);

    /// A PCI function is about to be forgotten by the IOMMU core. `is_it` knows it.
    fn device_removed(is_it: &dyn Fn(&Device) -> bool);
}

/// Set by the one registration of the module's life, which initialises its statics.
static REGISTERED: SetOnce<()> = SetOnce::new();

/// The functions of a [`Backend`], as C calls them.
#[repr(C)]
pub(super) struct Callbacks {
    open: unsafe extern "C" fn(c_ulong) -> *mut c_void,
    release: unsafe extern "C" fn(*mut c_void),
    ioctl: unsafe extern "C" fn(*mut c_void, c_uint, c_ulong) -> c_long,
    attach_group: unsafe extern "C" fn(*mut c_void, *mut bindings::iommu_group) -> c_int,
    detach_group: unsafe extern "C" fn(*mut c_void, *mut bindings::iommu_group),
    device_removed: unsafe extern "C" fn(*mut bindings::device),
}

/// Those of a `B`.
trait HasCallbacks {
    const CALLBACKS: Callbacks;
}

impl<B: Backend> HasCallbacks for B {
    const CALLBACKS: Callbacks = Callbacks {
        open: open::<B>,
        release: release::<B>,
        ioctl: ioctl::<B>,
        attach_group: attach_group::<B>,
        detach_group: detach_group::<B>,
        device_removed: device_removed::<B>,
    };
}

/// The registration of this module as a container backend.
///
/// # Invariants
///
/// The operations of shim.c are registered with vfio core.
pub(crate) struct Registration {
    /// Dropped before the rest, which its files ask.
    debugfs: Option<Folder>,
}

impl Registration {
    /// Registers the module: its containers are those of `B`, and its files in debugfs have the
    /// lines of `L`.
    ///
    /// # Errors
    ///
    /// [`EBUSY`] the second time; what vfio core says.
    pub(crate) fn new<B: Backend, L: Lines>() -> Result<Self> {
        if !REGISTERED.populate(()) {
            return Err(EBUSY);
        }
        // SAFETY: Only one call comes here.
        unsafe { account::init() };
        // SAFETY: The callbacks are static, and ready.
        to_result(unsafe { shim::ioasid_vfio_register(&B::CALLBACKS) })?;
        // INVARIANT: It was registered just now.
        Ok(Self {
            // SAFETY: Only one call comes here, so there is no other folder.
            debugfs: Some(unsafe { Folder::create::<L>() }),
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        drop(self.debugfs.take());
        // SAFETY: By the invariant it is registered. vfio core holds a reference to the module
        // for each container, so there is none left.
        unsafe { shim::ioasid_vfio_unregister() };
        account::exit();
    }
}

fn number(data: *mut c_void) -> u64 {
    data.addr() as u64
}

/// # Safety
///
/// None: the argument is a number.
unsafe extern "C" fn open<B: Backend>(iommu_type: c_ulong) -> *mut c_void {
    let id = NEXT_ID.fetch_add(1u64, Relaxed);
    match B::open(id, iommu_type) {
        Ok(()) => core::ptr::without_provenance_mut(id as usize),
        Err(error) => error.to_ptr(),
    }
}

/// # Safety
///
/// None: the argument is a number.
unsafe extern "C" fn release<B: Backend>(data: *mut c_void) {
    B::release(number(data));
}

/// # Safety
///
/// None: the arguments are numbers.
unsafe extern "C" fn ioctl<B: Backend>(data: *mut c_void, cmd: c_uint, arg: c_ulong) -> c_long {
    let result = if cmd == CHECK_EXTENSION {
        Ok(B::check_extension(number(data), arg))
    } else {
        B::ioctl(number(data), cmd, Pointer::from_arg(arg))
    };
    match result {
        Ok(value) => value as c_long,
        Err(error) => error.to_errno() as c_long,
    }
}

/// # Safety
///
/// `group` is null, or live during the call.
unsafe extern "C" fn attach_group<B: Backend>(
    data: *mut c_void,
    group: *mut bindings::iommu_group,
) -> c_int {
    let Some(group) = NonNull::new(group) else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the requirement.
    let group = unsafe { Group::from_raw(group) };
    match B::attach_group(number(data), group) {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// `group` is null, or live during the call.
unsafe extern "C" fn detach_group<B: Backend>(
    data: *mut c_void,
    group: *mut bindings::iommu_group,
) {
    if let Some(group) = NonNull::new(group) {
        // SAFETY: By the requirement.
        let group = unsafe { Group::from_raw(group) };
        B::detach_group(number(data), &group);
    }
}

/// Runs in whatever removes a PCI function, with none of our locks held.
///
/// # Safety
///
/// None: the pointer is compared.
unsafe extern "C" fn device_removed<B: Backend>(dev: *mut bindings::device) {
    B::device_removed(&|device| core::ptr::eq(device.as_ptr(), dev));
}
