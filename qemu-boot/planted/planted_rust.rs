// SPDX-License-Identifier: GPL-2.0
//! Reads memory after it was freed: KASAN must report it.

use kernel::prelude::*;

module! {
    type: Planted,
    name: "planted_rust",
    authors: ["The host-iommu authors"],
    description: "A use after free, planted",
    license: "GPL",
}

struct Planted;

impl kernel::Module for Planted {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let word = KBox::into_raw(KBox::new(0_u32, GFP_KERNEL)?);
        // SAFETY: `word` comes from `into_raw`, and nothing else takes it back.
        drop(unsafe { KBox::from_raw(word) });
        // The planted bug, which nothing makes sound: the box is gone.
        let value = unsafe { word.read_volatile() };
        pr_info!("planted: read {value}\n");
        Ok(Self)
    }
}
