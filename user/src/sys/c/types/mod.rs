// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The structures of the C API, and what they are in Rust.

mod binding;
mod event;
mod memory;
mod report;
mod soft;
mod told;
mod unit;

use super::pointer::Sized32;
use std::ffi::c_char;

pub use binding::*;
pub use event::*;
pub use memory::*;
pub use report::*;
pub use soft::*;
pub use told::*;
pub use unit::*;

/// Implements [`Sized32`], with the types that fill the structure.
macro_rules! sized {
    ($($structure:ident: [$($field:ty),+]),+ $(,)?) => { $(
        const _: () = assert!(size_of::<$structure>() == 0 $(+ size_of::<$field>())+);
        const _: () = assert!(std::mem::offset_of!($structure, size) == 0);

        // SAFETY: `repr(C)`, integers alone, which leave no room for padding, as the first
        // assertion shows; the second shows that the size comes first.
        unsafe impl Sized32 for $structure {
            const FIRST: usize = size_of::<$structure>();
        }
    )+ };
}

sized! {
    Mapping: [u32, u32, u64, u64, u64, i32, u32],
    CTranslation: [u32, u32, u32, u32, u32, u32, u64, u64],
    CCapabilities: [u32, u32, u64, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u32, u64, u64],
    CStats: [u32, u32, [u64; 14]],
    QueueOptions: [u32, u32, u32, u32],
    Event: [u32, u32, u16, u8, u8, u32, u32, u32, u32, u32, u64, u64, u64],
    SoftDma: [u32, u32, u32, u32, u64],
    SoftEnd: [u32, u32, u64],
    UnitConfig: [u32, u32, u64, u32, u32, u32, u32],
    UnitEvent: [u32, u32, u32, u32, u32, i32, u32, u32, u64, u64, [c_char; TEXT]],
    UnitStats: [u32, u32, [u64; 15]],
}
