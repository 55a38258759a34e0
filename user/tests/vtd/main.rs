// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The unit for guests (`host_iommu::vtd`), with the IOMMU in the process as the host.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod clauses;
mod closed;
mod edges;
mod guest;
mod guests;
mod handover;
mod host;
mod order;
mod unit;
mod vmm;
