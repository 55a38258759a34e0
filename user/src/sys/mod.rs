// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The unsafe code of the crate: calls of other crates that ask for a promise, and the C API. The
//! system calls are those of `host-iommu-sys`.

#[cfg(feature = "capi")]
mod c;
#[cfg(feature = "kvm")]
pub mod kvm;
#[cfg(feature = "vm-memory")]
pub(crate) mod region;

pub(crate) use host_iommu_sys::{
    device, ioasid, iommufd, is_nonblocking, memory, plain, vfio, Errno,
};

/// Has tokio watch a file for what there is to read.
#[cfg(feature = "tokio")]
pub(crate) fn watch(
    file: std::os::fd::OwnedFd,
) -> std::io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    let readable = tokio::io::Interest::READABLE;
    // SAFETY: an `OwnedFd` is open, and gives the same number, until it is dropped.
    let watched = unsafe { tokio::io::unix::AsyncFd::register_with_interest(file, readable) };
    Ok(watched?)
}
