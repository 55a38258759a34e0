// SPDX-License-Identifier: GPL-2.0
//! Copies of ABI structures from and to user space, with the ABI's rules for their size.
//!
//! C header: [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h)

use super::abi::Call;
use super::shim;
use core::mem::{size_of, size_of_val, MaybeUninit};
use kernel::prelude::*;
use kernel::transmute::{AsBytes, FromBytes};
use kernel::uaccess::{UserPtr, UserSlice};

/// Largest `argsz` that is looked at: no structure comes near it.
const ARGSZ_MAX: usize = kernel::page::PAGE_SIZE;

/// Bytes of the tail that are compared at a time.
const TAIL_STEP: usize = 64;

/// A pointer that user space gave.
#[derive(Clone, Copy)]
pub(crate) struct Pointer(usize);

impl Pointer {
    /// The pointer of an ioctl's argument.
    pub(crate) fn from_arg(arg: usize) -> Self {
        Self(arg)
    }

    /// A pointer in a 64-bit field of the ABI.
    pub(crate) fn from_field(field: u64) -> Result<Self> {
        Ok(Self(usize::try_from(field).map_err(|_| EFAULT)?))
    }

    /// `bytes` further on.
    pub(crate) fn offset(self, bytes: usize) -> Result<Self> {
        Ok(Self(self.0.checked_add(bytes).ok_or(EFAULT)?))
    }

    pub(super) fn address(self) -> usize {
        self.0
    }

    /// Whether `len` bytes from here on can be pinned and written. Sleeps; takes the mmap_lock.
    pub(crate) fn can_pin(self, len: usize) -> bool {
        // SAFETY: Pins the current process's memory, if it is that, and lets go of it.
        unsafe { shim::ioasid_can_pin(self.0, len) }
    }

    pub(super) fn as_user_ptr(self) -> UserPtr {
        UserPtr::from_addr(self.0)
    }

    /// Whether `len` bytes from here on are addresses that a user may have, mapped or not.
    pub(crate) fn is_users(self, len: usize) -> bool {
        // SAFETY: Addresses are compared, and nothing is accessed.
        unsafe { shim::ioasid_is_users(self.0, len) }
    }

    /// Reads a value.
    pub(crate) fn read<T: FromBytes>(self) -> Result<T> {
        UserSlice::new(self.as_user_ptr(), size_of::<T>())
            .reader()
            .read()
    }

    /// Reads a byte of each page of `len` bytes from here on, so that they are there for a moment.
    /// Sleeps, for as long as the user's memory takes.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if one is not accessible.
    pub(crate) fn touch(self, len: usize) -> Result {
        let mut at = 0;
        while at < len {
            self.offset(at)?.read::<u8>()?;
            at += kernel::page::PAGE_SIZE;
        }
        match len.checked_sub(1) {
            Some(last) => self.offset(last)?.read::<u8>().map(|_| ()),
            None => Ok(()),
        }
    }

    /// Reads `count` values that follow each other, `N` at most, by one copy; whether
    /// `is_good` says so of each.
    ///
    /// # Errors
    ///
    /// [`EFAULT`] if the memory is not accessible; [`EINVAL`] if there are too many.
    pub(crate) fn all<T: FromBytes, const N: usize>(
        self,
        count: usize,
        is_good: impl Fn(&T) -> bool,
    ) -> Result<bool> {
        let mut values = [const { MaybeUninit::<T>::uninit() }; N];
        let values = values.get_mut(..count).ok_or(EINVAL)?;
        let len = size_of_val(values);
        // SAFETY: `values` is that many bytes, none of which has to be initialised.
        let bytes = unsafe {
            core::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<MaybeUninit<u8>>(), len)
        };
        UserSlice::new(self.as_user_ptr(), len)
            .reader()
            .read_raw(bytes)?;
        Ok(values.iter().all(|value| {
            // SAFETY: Its bytes were written just now, and make a value by `FromBytes`.
            is_good(unsafe { value.assume_init_ref() })
        }))
    }

    /// Writes a value.
    pub(crate) fn write<T: AsBytes>(self, value: &T) -> Result {
        UserSlice::new(self.as_user_ptr(), size_of::<T>())
            .writer()
            .write(value)
    }

    /// Writes the first `len` bytes of a value.
    pub(crate) fn write_prefix<T: AsBytes>(self, value: &T, len: usize) -> Result {
        // SAFETY: `value` is a live `T` of that many bytes, and by `AsBytes` all of them are
        // initialised and do not change behind a shared reference.
        let bytes = unsafe {
            core::slice::from_raw_parts(core::ptr::from_ref(value).cast::<u8>(), size_of::<T>())
        };
        let prefix = bytes.get(..len).unwrap_or(bytes);
        UserSlice::new(self.as_user_ptr(), prefix.len())
            .writer()
            .write_slice(prefix)
    }

    /// Reads a call's structure by the rules of the ABI.
    ///
    /// # Errors
    ///
    /// - [`EINVAL`] if `argsz` is smaller than the structure.
    /// - [`E2BIG`] if there are non-zero bytes behind the structure, or `argsz` is absurd.
    /// - [`EFAULT`] if the memory is not accessible.
    pub(crate) fn read_call<T: Call>(self) -> Result<T> {
        let call = self.read::<T>();
        let argsz = match &call {
            Ok(call) => call.argsz(),
            // Too short a structure may end where the memory does.
            Err(_) => self.read::<u32>()? as usize,
        };
        if argsz < size_of::<T>() {
            return Err(EINVAL);
        }
        if argsz > ARGSZ_MAX {
            return Err(E2BIG);
        }
        let call = call?;
        if argsz > size_of::<T>() {
            self.check_tail(size_of::<T>(), argsz)?;
        }
        Ok(call)
    }

    /// Whether all bytes from number `at` on, up to `argsz`, are zero.
    #[inline(never)]
    fn check_tail(self, mut at: usize, argsz: usize) -> Result {
        while at < argsz {
            let mut tail = [0u8; TAIL_STEP];
            let step = TAIL_STEP.min(argsz - at);
            let part = tail.get_mut(..step).ok_or(EINVAL)?;
            UserSlice::new(self.offset(at)?.as_user_ptr(), step)
                .reader()
                .read_slice(part)?;
            if part.iter().any(|&byte| byte != 0) {
                return Err(E2BIG);
            }
            at += step;
        }
        Ok(())
    }
}
