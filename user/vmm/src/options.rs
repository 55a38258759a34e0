// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a machine is made of, with its files open: nothing is opened while a guest runs.

use crate::boot::Image;
use crate::serial::Line;
use crate::takeover::Files;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::Path;

/// What a machine is made of.
pub struct Options {
    /// What is booted.
    pub image: Image,
    /// How many CPUs.
    pub cpus: u8,
    /// Whether the guest has an IOMMU.
    pub iommu: bool,
    /// What its serial ports are connected to.
    pub serial: Vec<Line>,
    /// Files that are disks, and whether they are for reading alone.
    pub disks: Vec<(File, bool)>,
    /// It ends when the guest resets.
    pub no_reboot: bool,
}

/// The same without its files.
#[derive(Serialize, Deserialize)]
pub struct Shape {
    initrd: bool,
    cmdline: String,
    cpus: u8,
    iommu: bool,
    /// Of each serial port: nothing, standard input and output, or a file.
    serial: Vec<Option<bool>>,
    /// Whether each disk is for reading alone.
    disks: Vec<bool>,
    no_reboot: bool,
}

impl Options {
    /// Adds copies of the files, in the order of [`Options::take`].
    pub fn give(&self, files: &mut Files) -> Result<Shape> {
        files.add(&self.image.kernel)?;
        self.image
            .initrd
            .as_ref()
            .map_or(Ok(()), |it| files.add(it))?;
        for line in &self.serial {
            if let Line::File(file) = line {
                files.add(file)?;
            }
        }
        self.disks
            .iter()
            .try_for_each(|(file, _)| files.add(file))?;
        Ok(Shape {
            initrd: self.image.initrd.is_some(),
            cmdline: self.image.cmdline.clone(),
            cpus: self.cpus,
            iommu: self.iommu,
            serial: self.serial.iter().map(Line::kind).collect(),
            disks: self.disks.iter().map(|(_, read_only)| *read_only).collect(),
            no_reboot: self.no_reboot,
        })
    }

    /// What another process has given.
    pub fn take(shape: Shape, files: &mut Files) -> Result<Self> {
        let mut file = || -> Result<File> { Ok(files.take()?.into()) };
        let kernel = file()?;
        let initrd = shape.initrd.then(&mut file).transpose()?;
        let serial = shape.serial.into_iter().map(|kind| {
            Ok(match kind {
                None => Line::None,
                Some(false) => Line::Stdio,
                Some(true) => Line::File(file()?),
            })
        });
        let serial = serial.collect::<Result<_>>()?;
        let disks = shape.disks.into_iter();
        let disks = disks.map(|read_only| Ok((file()?, read_only)));
        Ok(Self {
            image: Image {
                kernel,
                initrd,
                cmdline: shape.cmdline,
            },
            cpus: shape.cpus,
            iommu: shape.iommu,
            serial,
            disks: disks.collect::<Result<_>>()?,
            no_reboot: shape.no_reboot,
        })
    }
}

/// Opens a file to read it.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}
