// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What modules are built with, of the series of kernels in use and of newer ones.

use crate::root::Root;
use crate::setup::Setup;
use crate::stages::kernel::{self, Kernel};
use crate::stages::metadata::{self, Metadata};
use crate::stages::packages::{self, Packages};
use crate::stages::{build_root, module};
use anyhow::Result;

/// Sets up what is missing of the root, the kernel and its metadata.
pub fn kernel_side(setup: &Setup) -> Result<(Root, Packages, Kernel, Metadata)> {
    let root = build_root::make(setup)?;
    let packages = packages::resolve(setup, &root)?;
    kernel_side_of(setup, root, packages)
}

/// The same of a kernel whose packages are known.
fn kernel_side_of(
    setup: &Setup,
    root: Root,
    packages: Packages,
) -> Result<(Root, Packages, Kernel, Metadata)> {
    let kernel = kernel::make(setup, &root, &packages)?;
    let metadata = metadata::make(setup, &root, &packages, &kernel)?;
    Ok((root, packages, kernel, metadata))
}

/// Tries the module on each series of kernels that the archive has and that is newer than the one in
/// use, and says what came of it. What is in use stays.
///
/// # Errors
///
/// If the archive cannot be asked.
pub fn try_newer(setup: &Setup) -> Result<()> {
    let root = build_root::make(setup)?;
    let newer = packages::newer_series(&root)?;
    if newer.is_empty() {
        println!("the archive has no newer series of kernels");
    }
    for series in newer {
        let built = || -> Result<String> {
            let root = build_root::make(setup)?;
            let packages = packages::resolve_series(setup, &root, &series)?;
            let (root, packages, kernel, metadata) = kernel_side_of(setup, root, packages)?;
            module::IOASID.make(setup, &root, &metadata.tree(&packages)?)?;
            Ok(kernel.release().to_owned())
        };
        match built() {
            Ok(release) => println!(
                "Linux {release} is newer, and the module builds there: \
                 HOST_IOMMU_KERNEL_SERIES={series} make test PART=guest tests it"
            ),
            Err(error) => {
                println!("Linux {series} is newer, and the module does not build there: {error:#}")
            }
        }
    }
    Ok(())
}
