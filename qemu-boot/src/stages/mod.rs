// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The stages of the set-up, in the order that they stand on each other.

pub mod accel_config;
pub mod archive;
pub mod build_root;
pub mod ccache;
pub mod debian_qemu;
pub mod frames;
pub mod fresh_debian;
pub mod guest_kernel;
pub mod image;
pub mod kernel;
pub mod l2_image;
pub mod mdbook;
pub mod metadata;
pub mod module;
pub mod own_build;
pub mod own_kernel;
pub mod packages;
pub mod patched_source;
pub mod programs;
pub mod qemu;
pub mod selftests;
pub mod vendor;
pub mod vmm_qemu;
