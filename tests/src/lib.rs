// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shared parts of the test programs, from the bottom up:
//!
//! - [`vfio`]: container, group and device as owned fds, with every call as it is;
//! - [`memory`]: guest memory, a memfd with guest-physical addresses;
//! - [`stage1`]: a guest's page tables in it;
//! - [`testdev`]: the driver of the endpoint `pasid-dma-testdev`;
//! - [`qemu_devices`]: those of two devices that QEMU has itself;
//! - [`dice`]: random numbers that can be had again;
//! - [`hosts`]: the ways to the IOMMU beside each other;
//! - [`iommufd`]: the kernel's other way to the same hardware;
//! - [`ktap`]: tests, run one by one and reported as KTAP;
//! - [`conformance`]: what every backend of the crate does alike;
//! - [`jail`] and [`vsva`]: that suite under a seccomp filter, and the crate's example;
//! - [`rig`]: what the programs in `bin` stand on.
//!
//! A test program is a list of functions:
//!
//! ```no_run
//! use host_iommu_tests::{ktap::{skip, Outcome}, suite};
//!
//! fn sum_of_two_and_two_is_four() -> Outcome {
//!     if cfg!(target_endian = "big") {
//!         return skip("little-endian machines only");
//!     }
//!     assert_eq!(2 + 2, 4);
//!     Ok(())
//! }
//!
//! suite![sum_of_two_and_two_is_four];
//! ```

pub mod conformance;
pub mod dice;
pub mod disk;
pub mod hosts;
pub mod iommufd;
pub mod jail;
pub mod kmsg;
pub mod ktap;
pub mod kvm;
pub mod memory;
pub mod qemu_devices;
pub mod rig;
pub mod shadow;
pub mod stage1;
pub mod testdev;
pub mod vfio;
pub mod vsva;

pub use host_iommu_sys::Errno;
