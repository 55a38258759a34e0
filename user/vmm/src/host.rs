// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the host gives and a guest's reboot leaves as it is: KVM, RAM, and the devices with their
//! context.

use crate::memory::{self, Ram};
use crate::takeover::Files;
use crate::vfio::HostDevice;
use anyhow::{bail, ensure, Context, Result};
use host_iommu::backend::kmod::Kmod;
use host_iommu::{Bdf, Error, HostIommu, HostIommuContext, RegionListener};
use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

/// The version of KVM's interface, which has been this one since 2007.
const KVM_API: i32 = 12;

/// What another process needs beside the files.
#[derive(Serialize, Deserialize)]
pub struct HostState {
    /// Bytes of guest memory.
    memory: u64,
    devices: Vec<Bdf>,
    /// How many groups these are in.
    groups: usize,
}

/// The host's side of a VMM.
pub struct Host {
    /// KVM.
    pub kvm: Kvm,
    /// Guest memory.
    pub ram: Ram,
    /// The context of the devices, if there are any: they share one, and guest memory is pinned once.
    pub context: Option<HostIommu>,
    /// The devices.
    pub devices: Vec<Arc<HostDevice>>,
    /// The files of container and groups, for another process.
    files: Option<(OwnedFd, Vec<OwnedFd>)>,
    _listener: Option<RegionListener>,
}

impl Host {
    /// Opens what a guest of this size with these devices needs.
    pub fn open(memory: u64, devices: &[Bdf]) -> Result<Self> {
        let kvm = open_kvm()?;
        let ram = memory::create(memory)?;
        let Some((first, others)) = devices.split_first() else {
            return Ok(Self {
                kvm,
                ram,
                context: None,
                devices: Vec::new(),
                files: None,
                _listener: None,
            });
        };
        let kmod = Kmod::open_device(*first).map_err(|error| explain(*first, error))?;
        for device in others {
            attach(&kmod, *device)?;
        }
        let files = kmod.files()?;
        let context = HostIommu::new(kmod);
        let mut opened = Vec::new();
        for device in devices {
            opened.push(Arc::new(HostDevice::new(&context, *device)?));
        }
        let mut listener = RegionListener::new(context.clone());
        let skipped = listener.update(&ram).map_err(explain_memory)?;
        ensure!(
            skipped.is_empty(),
            "devices do not see all of guest memory: {skipped:?}"
        );
        Ok(Self {
            kvm,
            ram,
            context: Some(context),
            devices: opened,
            files: Some(files),
            _listener: Some(listener),
        })
    }

    /// Takes the host's side over from another process, which has left its files.
    pub fn adopt(state: &HostState, files: &mut Files) -> Result<Self> {
        let kvm = open_kvm()?;
        let ram = memory::map(File::from(files.take()?), state.memory)?;
        let mut host = Self {
            kvm,
            ram,
            context: None,
            devices: Vec::new(),
            files: None,
            _listener: None,
        };
        if state.devices.is_empty() {
            return Ok(host);
        }
        let container = files.take()?;
        let groups = (0..state.groups).map(|_| files.take());
        let kmod = Kmod::from_files(container, groups.collect::<Result<_>>()?)?;
        for device in &state.devices {
            let device = HostDevice::from_file(files.take()?, *device)?;
            host.devices.push(Arc::new(device));
        }
        host.files = Some(kmod.files()?);
        host.context = Some(HostIommu::new(kmod));
        Ok(host)
    }

    /// Adds copies of its files, in the order of [`Host::adopt`].
    pub fn give(&self, files: &mut Files) -> Result<HostState> {
        let ram = self.ram.iter().find_map(|region| region.file_offset());
        files.add(ram.context("guest memory is a file")?.file())?;
        let mut count = 0;
        if let Some((container, groups)) = &self.files {
            files.add(container)?;
            groups.iter().try_for_each(|group| files.add(group))?;
            count = groups.len();
        }
        let mut devices = self.devices.iter();
        devices.try_for_each(|device| files.add(&**device))?;
        Ok(HostState {
            memory: self.ram.iter().map(GuestMemoryRegion::len).sum(),
            devices: self.devices.iter().map(|device| device.bdf()).collect(),
            groups: count,
        })
    }

    /// An open device.
    pub fn device(&self, bdf: Bdf) -> Result<&Arc<HostDevice>> {
        let found = self.devices.iter().find(|device| device.bdf() == bdf);
        found.with_context(|| format!("the VMM was not started with --device {bdf}"))
    }
}

fn open_kvm() -> Result<Kvm> {
    let kvm = Kvm::new().map_err(|error| {
        let hint = match error.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => {
                "is the module kvm-intel or kvm-amd loaded, and virtualisation on?"
            }
            libc::EACCES | libc::EPERM => "is this user in the group that may open it (kvm)?",
            _ => "see the kernel's log",
        };
        anyhow::anyhow!("cannot open /dev/kvm: {error}: {hint}")
    })?;
    let version = kvm.get_api_version();
    ensure!(
        version == KVM_API,
        "KVM's interface has version {version}, not {KVM_API}"
    );
    Ok(kvm)
}

/// Attaches the group of a further device, unless a device before it is in the same group.
fn attach(kmod: &Kmod, device: Bdf) -> Result<()> {
    let link = format!("/sys/bus/pci/devices/{device}/iommu_group");
    let group = fs::read_link(&link).with_context(|| format!("{device} has no IOMMU group"))?;
    let number = group.file_name().context("an IOMMU group has a number")?;
    let path = PathBuf::from("/dev/vfio").join(number);
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => {
            HostIommuContext::attach(kmod, File::into(file))
                .map_err(|error| explain(device, error))?;
            Ok(())
        }
        // A group can be opened once.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
    }
}

/// What a user can do about a device that cannot be had.
fn explain(device: Bdf, error: Error) -> anyhow::Error {
    let sysfs = format!("/sys/bus/pci/devices/{device}");
    let hint = match (error.errno(), fs::metadata(&sysfs)) {
        (_, Err(_)) => "there is no such PCI device".to_owned(),
        (Some(libc::ENOENT), _) if fs::metadata("/dev/vfio/vfio").is_err() => {
            "is the module vfio loaded?".to_owned()
        }
        (Some(libc::ENOENT), _) => format!(
            "is the device bound to vfio-pci? echo vfio-pci > {sysfs}/driver_override, unbind its driver, \
             echo {device} > /sys/bus/pci/drivers_probe"
        ),
        (Some(libc::EACCES | libc::EPERM), _) => {
            "may this user open the device's group in /dev/vfio? Are interrupts remapped?".to_owned()
        }
        (Some(libc::EBUSY), _) => "somebody else uses the device's group".to_owned(),
        (Some(libc::ENODEV | libc::EINVAL | libc::ENOTTY), _) => {
            "is the module vfio_iommu_ioasid loaded?".to_owned()
        }
        _ => "see the kernel's log".to_owned(),
    };
    let device = format!("cannot open {device} ({hint})");
    anyhow::Error::new(error).context(device)
}

/// What a user can do about memory that cannot be pinned.
fn explain_memory(error: Error) -> anyhow::Error {
    let hint = match error.errno() {
        Some(libc::ENOMEM) => {
            ": guest memory is pinned, and the limit of locked memory is too low (ulimit -l)"
        }
        _ => "",
    };
    anyhow::Error::new(error).context(format!("cannot give devices guest memory{hint}"))
}

/// Refuses what is named twice.
pub fn check_devices(devices: &[Bdf]) -> Result<()> {
    for (index, device) in devices.iter().enumerate() {
        if devices.iter().skip(index + 1).any(|other| other == device) {
            bail!("{device} is named twice");
        }
    }
    Ok(())
}
