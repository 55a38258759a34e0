// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Error numbers, all of them: the kernel has more than libraries have names for, and a seccomp
//! filter injects any.

use std::fmt;
use std::io;

/// An error number, 1 to 4095.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

/// The largest that a system call gives (`MAX_ERRNO` of the kernel).
const MAX: i32 = 4095;

macro_rules! names {
    ($($name:ident),+ $(,)?) => {
        #[allow(missing_docs, reason = "errno(3) says what they are")]
        impl Errno {
            $(pub const $name: Self = Self(libc::$name);)+
        }
    };
}

names![
    E2BIG,
    EACCES,
    EAGAIN,
    EALREADY,
    EBADMSG,
    ECANCELED,
    ECHILD,
    EDOM,
    EISDIR,
    ELOOP,
    ENODATA,
    ENOSYS,
    ENOTDIR,
    ENOTEMPTY,
    ENXIO,
    EROFS,
    ESRCH,
    ETIMEDOUT,
    EXDEV,
    EBADF,
    EBUSY,
    EDQUOT,
    EEXIST,
    EFAULT,
    EINTR,
    EINVAL,
    EIO,
    EMFILE,
    EMSGSIZE,
    ENFILE,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSPC,
    ENOTRECOVERABLE,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    EPIPE,
    EPROTO,
    ERANGE,
    ESPIPE,
    EWOULDBLOCK,
];

impl Errno {
    /// That of a number; EIO for what is none.
    pub const fn from_raw(number: i32) -> Self {
        if number < 1 || number > MAX {
            return Self::EIO;
        }
        Self(number)
    }

    /// That of the thread's last system call that failed.
    pub fn last() -> Self {
        Self::from_raw(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }

    /// The number.
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// What a system call gave: its value, or for -1 the error number.
    ///
    /// # Errors
    ///
    /// [`Errno::last`].
    pub fn result<T: PartialEq + From<i8>>(value: T) -> Result<T, Self> {
        if value == T::from(-1) {
            return Err(Self::last());
        }
        Ok(value)
    }

    /// What it means; the number where nobody has a text.
    pub fn desc(self) -> String {
        match nix::errno::Errno::from_raw(self.0) {
            nix::errno::Errno::UnknownErrno => format!("Error {}", self.0),
            known => known.desc().to_owned(),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::errno::Errno::from_raw(self.0) {
            nix::errno::Errno::UnknownErrno => write!(f, "Errno({})", self.0),
            known => known.fmt(f),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}: {}", self.desc())
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(errno: nix::errno::Errno) -> Self {
        match errno {
            // Its number is lost there, and is still that of the call which has just failed.
            nix::errno::Errno::UnknownErrno => Self::last(),
            known => Self::from_raw(known as i32),
        }
    }
}

impl From<Errno> for nix::errno::Errno {
    fn from(errno: Errno) -> Self {
        Self::from_raw(errno.0)
    }
}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        Self::from_raw(error.raw_os_error().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives() {
        for number in 1..=MAX {
            let errno = Errno::from_raw(number);
            assert_eq!(errno.raw(), number);
            assert_eq!(io::Error::from(errno).raw_os_error(), Some(number));
            assert!(!errno.desc().is_empty());
        }
        for none in [0, -1, MAX + 1, i32::MIN, i32::MAX] {
            assert_eq!(Errno::from_raw(none), Errno::EIO);
        }
        assert_eq!(
            format!("{:?} {:?}", Errno::EBUSY, Errno(524)),
            "EBUSY Errno(524)"
        );
    }
}
