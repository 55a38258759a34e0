// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Allocating PASIDs where many are taken.

use crate::report::Report;
use host_iommu_tests::hosts::{Contained, Way};
use host_iommu_tests::ktap::Outcome;

const ROUNDS: u32 = 256;
const LAST: u32 = 0xf_ffff;

/// One PASID allocated and freed, with the others between `1` and all but a few taken.
fn with(report: &Report, taken: u32) -> Outcome {
    let host = Contained::ours()?;
    if taken > 0 {
        host.container.pasid_alloc(1, LAST, taken)?;
    }
    let once = || -> Outcome {
        let pasid = host.container.pasid_alloc(1, LAST, 1)?;
        Ok(host.container.pasid_free(pasid, 1)?)
    };
    once()?;
    report.time(&format!("pasid_{taken}"), Way::Ours, ROUNDS, || {
        (0..ROUNDS).try_for_each(|_| once())
    })
}

/// Rows pasid_0, pasid_1024, pasid_1000000: a PASID allocated and freed.
pub fn measure(report: &Report) -> Outcome {
    report.in_turns(&[Way::Ours], |_| {
        [0, 1024, 1_000_000]
            .into_iter()
            .try_for_each(|taken| with(report, taken))
    })
}
