// SPDX-License-Identifier: GPL-2.0
//! errno values of the ABI that the Rust of Linux 7.2 does not name.
//!
//! C header: [`include/uapi/asm-generic/errno.h`](srctree/include/uapi/asm-generic/errno.h)

use kernel::bindings;
use kernel::ffi::c_int;
use kernel::prelude::*;

/// A quota is reached.
pub(crate) fn edquot() -> Error {
    // CAST: errno values are small.
    Error::from_errno(-(bindings::EDQUOT as c_int))
}

/// The hardware or this kernel cannot do it.
pub(crate) fn eopnotsupp() -> Error {
    // CAST: As above.
    Error::from_errno(-(bindings::EOPNOTSUPP as c_int))
}
