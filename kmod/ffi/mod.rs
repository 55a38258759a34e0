// SPDX-License-Identifier: GPL-2.0
//! Everything unsafe: one file per C concept, each a safe type over it.

pub(crate) mod abi;
pub(crate) mod account;
pub(crate) mod alias;
pub(crate) mod attach;
pub(crate) mod compat;
pub(crate) mod deadline;
pub(crate) mod debugfs;
pub(crate) mod device;
pub(crate) mod dirty_bits;
pub(crate) mod dma_fault;
pub(crate) mod errno;
pub(crate) mod fault_file;
pub(crate) mod group;
pub(crate) mod group_attachment;
pub(crate) mod iopf;
pub(crate) mod limits;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod nested;
pub(crate) mod paging;
mod shim;
pub(crate) mod table_lock;
pub(crate) mod trace;
mod unit;
pub(crate) mod user;
pub(crate) mod vfio;
pub(crate) mod work;
