// SPDX-License-Identifier: Apache-2.0 OR MIT
//! C's pointers: the only place where they are followed.
//!
//! The header asks of each pointer that it is NULL, or good for what the call's text says: so many
//! elements, or a string, or a structure of as many bytes as its field `size` tells, and that
//! nobody changes it during the call.

use super::result::{Failure, Result};
use crate::sys::memory::DmaMemory;
use crate::sys::Errno;
use std::ffi::{c_char, c_void, CStr};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

/// A structure that begins with its size in bytes, so that it can grow.
///
/// # Safety
///
/// It is `repr(C)`, its first field is a `u32` that holds the size, and it is nothing but integers
/// without padding: every bit pattern is a value.
pub(super) unsafe trait Sized32: Copy {
    /// Bytes that the first version had.
    const FIRST: usize;
}

/// More than a structure will ever have.
const MAX_SIZE: usize = 4096;

/// Gives a reference to what a handle or a plain out-pointer leads to.
pub(super) fn given<T>(pointer: Option<T>, what: &str) -> Result<T> {
    pointer.ok_or_else(|| Failure::argument(&format!("The {what} is NULL")))
}

/// The size that the caller's structure has by its own word.
fn size_of_caller<T: Sized32>(pointer: *const T, what: &str) -> Result<usize> {
    if pointer.is_null() {
        return Err(Failure::argument(&format!("The {what} is NULL")));
    }
    // SAFETY: by the header the pointer leads to a structure that begins with this field.
    let size = unsafe { pointer.cast::<u32>().read_unaligned() };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size < T::FIRST {
        let text = format!("The size of the {what} is {size}, below {}", T::FIRST);
        return Err(Failure::argument(&text));
    }
    if size > MAX_SIZE {
        return Err(Failure::new(
            Errno::E2BIG,
            &format!("The size of the {what} is {size}"),
        ));
    }
    Ok(size)
}

/// Reads a structure: what the caller's lacks is zero, and what it has more must be.
pub(super) fn read<T: Sized32>(pointer: *const T, what: &str) -> Result<T> {
    let size = size_of_caller(pointer, what)?;
    let bytes = pointer.cast::<u8>();
    for at in size_of::<T>()..size {
        // SAFETY: the structure has `size` bytes by its own word, and `at` is below that.
        if unsafe { bytes.wrapping_add(at).read() } != 0 {
            let text = format!("The {what} has a field that this library does not know");
            return Err(Failure::new(Errno::E2BIG, &text));
        }
    }
    let mut value = MaybeUninit::<T>::zeroed();
    let len = size.min(size_of::<T>());
    // SAFETY: `len` is at most the size of either, and `value` is ours alone.
    unsafe { std::ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast(), len) };
    // SAFETY: all bytes are initialized, and by `Sized32` any are a value.
    Ok(unsafe { value.assume_init() })
}

/// Writes as much of a structure as the caller's has, but not its size.
pub(super) fn write<T: Sized32>(pointer: *mut T, value: &T, what: &str) -> Result {
    let size = size_of_caller(pointer.cast_const(), what)?.min(size_of::<T>());
    let from = std::ptr::from_ref(value).cast::<u8>();
    let (skip, to) = (size_of::<u32>(), pointer.cast::<u8>());
    let len = size.saturating_sub(skip);
    let (from, to) = (from.wrapping_add(skip), to.wrapping_add(skip));
    // SAFETY: the caller's structure has `size` bytes by its own word and ours at least as many;
    // they do not overlap, since `value` is Rust's.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
    Ok(())
}

/// The elements of an array; none if `count` is zero, whatever the pointer.
pub(super) fn slice<'a, T: Copy>(pointer: *const T, count: usize, what: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    let bytes = count.checked_mul(size_of::<T>());
    let fits = bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok());
    if pointer.is_null() || !pointer.is_aligned() || !fits {
        return Err(Failure::argument(&format!("The array of {what} is none")));
    }
    // SAFETY: it is aligned, and by the header it has `count` elements that stay as they are until
    // the call returns, after which nobody has the slice.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Writes what fits of `values` into an array for `capacity` of them.
pub(super) fn fill<T: Copy>(pointer: *mut T, capacity: usize, values: &[T], what: &str) -> Result {
    let count = values.len().min(capacity);
    if count == 0 {
        return Ok(());
    }
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Failure::argument(&format!("The array of {what} is none")));
    }
    // SAFETY: by the header the array has room for `capacity` elements, which `count` does not
    // exceed; it is aligned, and `values` is Rust's.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), pointer, count) };
    Ok(())
}

/// A string.
pub(super) fn string<'a>(pointer: *const c_char, what: &str) -> Result<&'a CStr> {
    if pointer.is_null() {
        return Err(Failure::argument(&format!("The {what} is NULL")));
    }
    // SAFETY: by the header it ends with a zero byte and stays as it is until the call returns,
    // after which nobody has the reference.
    Ok(unsafe { CStr::from_ptr(pointer) })
}

/// The caller's memory, for one call of `map`.
pub(super) struct CallersMemory<'a> {
    start: *mut u8,
    len: usize,
    file: Option<(BorrowedFd<'a>, u64)>,
}

impl CallersMemory<'_> {
    /// `fd` is negative for memory that is no shared mapping of a file.
    pub(super) fn new(start: *mut c_void, len: u64, fd: i32, offset: u64) -> Result<Self> {
        if start.is_null() {
            return Err(Failure::argument("The memory is NULL"));
        }
        let file = if fd < 0 {
            None
        } else {
            // SAFETY: by the header the fd stays open until the call returns, and it is not -1.
            Some((unsafe { BorrowedFd::borrow_raw(fd) }, offset))
        };
        Ok(Self {
            start: start.cast(),
            len: usize::try_from(len).map_err(|_| Errno::EINVAL)?,
            file,
        })
    }
}

// SAFETY: the header asks that the memory is mapped readable and writable, that devices may write
// to it whatever the caller does meanwhile, and that its addresses are not used for anything else
// before it is unmapped; no reference into it is made here.
unsafe impl DmaMemory for CallersMemory<'_> {
    fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    fn len(&self) -> usize {
        self.len
    }

    fn file(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Small {
        size: u32,
        one: u32,
    }

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        size: u32,
        one: u32,
        two: u64,
    }

    // SAFETY: two integers of four bytes, the size first.
    unsafe impl Sized32 for Small {
        const FIRST: usize = 8;
    }

    // SAFETY: as above, and an integer of eight bytes at offset 8.
    unsafe impl Sized32 for Grown {
        const FIRST: usize = 8;
    }

    const GROWN: Grown = Grown {
        size: 16,
        one: 1,
        two: 2,
    };

    #[test]
    fn read_of_an_older_caller_has_zeroes() -> Result {
        let old = Small { size: 8, one: 1 };
        let seen = read(std::ptr::from_ref(&old).cast::<Grown>(), "thing")?;
        assert_eq!((seen.one, seen.two), (1, 0));
        Ok(())
    }

    #[test]
    fn read_of_a_newer_caller_is_refused_unless_zero() -> Result {
        let new = std::ptr::from_ref(&GROWN).cast::<Small>();
        assert!(read(new, "thing").is_err());
        let zero = Grown { two: 0, ..GROWN };
        assert_eq!(
            read(std::ptr::from_ref(&zero).cast::<Small>(), "thing")?.one,
            1
        );
        for size in [0, 7, 4097, u32::MAX] {
            let odd = Grown { size, ..GROWN };
            assert!(read(&odd, "thing").is_err(), "size {size}");
        }
        Ok(())
    }

    #[test]
    fn write_stays_inside_the_callers_size() -> Result {
        let mut room = [Small { size: 8, one: 0 }, Small { size: 77, one: 77 }];
        write(room.as_mut_ptr().cast::<Grown>(), &GROWN, "thing")?;
        assert_eq!(
            room,
            [Small { size: 8, one: 1 }, Small { size: 77, one: 77 }]
        );
        assert!(write(std::ptr::null_mut::<Grown>(), &GROWN, "thing").is_err());
        Ok(())
    }

    #[test]
    fn slice_of_none_needs_no_pointer() -> Result {
        assert!(slice::<u64>(std::ptr::null(), 0, "things")?.is_empty());
        assert!(slice::<u64>(std::ptr::null(), 1, "things").is_err());
        let value = 1_u64;
        assert!(slice(&value, usize::MAX, "things").is_err());
        fill(std::ptr::null_mut(), 0, &[1_u64], "things")?;
        assert!(fill(std::ptr::null_mut(), 1, &[1_u64], "things").is_err());
        Ok(())
    }
}
