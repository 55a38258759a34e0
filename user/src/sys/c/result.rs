// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a call gives back: a number, and a text for each thread.

use crate::error::Error;
use crate::sys::Errno;
use std::cell::RefCell;
use std::error::Error as _;
use std::ffi::{c_char, c_int, CString};
use std::panic::{catch_unwind, AssertUnwindSafe};

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Why a call failed.
#[derive(Debug)]
pub struct Failure {
    errno: Errno,
    text: String,
}

impl Failure {
    /// What the caller got wrong.
    pub(super) fn argument(text: &str) -> Self {
        Self::new(Errno::EINVAL, text)
    }

    pub(super) fn new(errno: Errno, text: &str) -> Self {
        let text = text.to_owned();
        Self { errno, text }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::new(errno, &errno.desc())
    }
}

/// The error number that C gets for an error.
pub(super) fn errno_of(error: &Error) -> Errno {
    match error {
        Error::GuestPasidBound { .. } => Errno::EEXIST,
        Error::PasidOutOfRange(_) | Error::PasidNotAllocated(_) | Error::OtherContext(_) => {
            Errno::EINVAL
        }
        Error::NotCarried { .. } => Errno::EOPNOTSUPP,
        Error::QueueClosed => Errno::EPIPE,
        Error::Malformed { .. } => Errno::EPROTO,
        _ => error.errno().map_or(Errno::EIO, Errno::from_raw),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let errno = errno_of(&error);
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { errno, text }
    }
}

pub(super) type Result<T = ()> = std::result::Result<T, Failure>;

fn remember(text: &str) {
    let text = CString::new(text.replace('\0', "?")).unwrap_or_default();
    // A thread that ends has nobody left to read it.
    let _ = LAST.try_with(|last| last.replace(text));
}

/// Runs a call. No panic leaves it.
pub(super) fn guard(act: impl FnOnce() -> Result<c_int>) -> c_int {
    let failure = match catch_unwind(AssertUnwindSafe(act)) {
        Ok(Ok(value)) => return value,
        Ok(Err(failure)) => failure,
        Err(payload) => {
            // What was thrown may panic again when it is dropped.
            std::mem::forget(payload);
            Failure::new(Errno::ENOTRECOVERABLE, "The library has a bug: it panicked")
        }
    };
    remember(&failure.text);
    // Between 1 and 4095, whatever its name: never zero.
    -failure.errno.raw()
}

/// Runs a call that gives nothing but success.
pub(super) fn done(act: impl FnOnce() -> Result) -> c_int {
    guard(|| act().map(|()| 0))
}

/// Drops what C gave back. No panic leaves it.
pub(super) fn give_back<T>(handle: Option<Box<T>>) {
    done(|| {
        drop(handle);
        Ok(())
    });
}

/// The text of the last call of this thread that failed, empty if none has: what was to be done,
/// where, and why not. It is good until the next call of this thread that fails, or its end. Calls
/// that succeed leave it.
#[no_mangle]
extern "C" fn host_iommu_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn last() -> String {
        LAST.with(|last| CStr::to_string_lossy(&last.borrow()).into_owned())
    }

    #[test]
    fn guard_panic_is_an_error_number() {
        let value = guard(|| panic!("as a bug would"));
        assert_eq!(value, -libc::ENOTRECOVERABLE);
        assert!(last().contains("panicked"));
    }

    #[test]
    fn guard_is_never_zero_on_failure() {
        for number in 1..=4095 {
            let source = std::io::Error::from_raw_os_error(number);
            let error = Error::failed(crate::Operation::ReadStats, source);
            assert_eq!(done(|| Err(error.into())), -number);
        }
        for error in [
            std::io::Error::from_raw_os_error(0),
            std::io::Error::from(std::io::ErrorKind::WriteZero),
        ] {
            let error = Error::failed(crate::Operation::ReadStats, error);
            assert_eq!(done(|| Err(error.into())), -libc::EIO);
        }
    }

    #[test]
    fn failure_text_has_the_cause_and_is_of_the_thread() {
        done(|| Err(Errno::EBUSY.into()));
        let other = std::thread::spawn(|| {
            let before = last();
            let error = Error::failed(crate::Operation::ReadStats, Errno::EPERM);
            (before, done(|| Err(error.into())), last())
        });
        let (before, value, text) = other.join().expect("the thread");
        assert_eq!((before.as_str(), value), ("", -libc::EPERM));
        assert!(text.starts_with("Failed to read the counters: Operation not permitted"));
        assert_eq!(last(), Errno::EBUSY.desc());
    }
}
