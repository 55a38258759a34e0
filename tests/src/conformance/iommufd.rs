// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's iommufd and the emulated endpoints.

use super::kmod::{client, nesting};
use super::{Client, Machine, Opened};
use crate::ktap::{fail, skip, Outcome};
use crate::vfio::endpoints;
use host_iommu::backend::iommufd::Iommufd;
use host_iommu::{Bdf, HostIommu};
use std::fs;

/// The booted machine.
#[derive(Clone, Copy, Debug)]
pub struct IommufdMachine;

impl Machine for IommufdMachine {
    fn backend(&self) -> &'static str {
        "iommufd"
    }

    fn open(&self, devices: &[usize]) -> Outcome<Opened> {
        if fs::metadata("/dev/iommu").is_err() {
            return skip("the kernel has no iommufd");
        }
        let found = endpoints();
        let mut iommufd: Option<Iommufd> = None;
        let mut names = Vec::new();
        for &index in devices {
            let Some(&name) = found.get(index) else {
                return skip(format!("no endpoint number {index} is bound to vfio-pci"));
            };
            let device = Bdf::new(name.segment, name.bus, name.devfn);
            match &iommufd {
                None => iommufd = Some(Iommufd::open_device(device)?),
                Some(iommufd) => {
                    iommufd.add_device(device)?;
                }
            }
            names.push(device);
        }
        let Some(iommufd) = iommufd else {
            return fail("no device was asked for");
        };
        let mut clients: Vec<(Bdf, Box<dyn Client>)> = Vec::new();
        for device in names {
            clients.push((device, client(iommufd.open_device_fd(device)?)?));
        }
        nesting(HostIommu::new(iommufd), clients)
    }
}
