// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Loads a Linux kernel by its 64-bit boot protocol (Documentation/arch/x86/boot.rst).

use crate::memory::{self, Ram, ECAM};
use anyhow::{bail, Context, Result};
use linux_loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::cmdline::Cmdline;
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::{load_cmdline, KernelLoader};
use std::fs::File;
use std::io::Seek;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// The boot parameters.
pub const ZERO_PAGE: u64 = 0x7000;
const COMMAND_LINE: u64 = 0x2_0000;
/// Bytes of the command line, with its end.
const COMMAND_LINE_MAX: usize = 2048;
/// RAM that a PC's firmware leaves ends here; ACPI's tables are above.
const LOW_END: u64 = 0xa_0000;
/// What the kernel is loaded at.
const KERNEL: u64 = 0x10_0000;
/// The 64-bit entry point, from the start of the kernel.
const ENTRY: u64 = 0x200;
/// The protocol that has the 64-bit entry point.
const PROTOCOL: u16 = 0x020c;
/// XLF_KERNEL_64: there is such an entry point.
const ENTRY_64: u16 = 1;
/// No boot loader that anybody has a number for.
const LOADER: u8 = 0xff;
const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;

/// What is booted.
pub struct Image {
    /// A bzImage.
    pub kernel: File,
    /// Its initial file system, if it has one.
    pub initrd: Option<File>,
    /// Its command line.
    pub cmdline: String,
}

impl Image {
    /// Loads it into RAM. Gives the address of the first instruction.
    pub fn load(&self, ram: &Ram, rsdp: u64) -> Result<u64> {
        let mut kernel = self.kernel.try_clone()?;
        let high = Some(GuestAddress(KERNEL));
        let loaded =
            BzImage::load(ram, high, &mut kernel, high).context("cannot load the kernel")?;
        let header = loaded.setup_header.context("a bzImage has a header")?;
        if header.version < PROTOCOL || header.xloadflags & ENTRY_64 == 0 {
            bail!("this is no 64-bit kernel");
        }
        let mut params = boot_params {
            hdr: header,
            acpi_rsdp_addr: rsdp,
            ..boot_params::default()
        };
        params.hdr.type_of_loader = LOADER;
        // CAST: below 4 GiB.
        params.hdr.cmd_line_ptr = COMMAND_LINE as u32;
        let mut cmdline = Cmdline::new(COMMAND_LINE_MAX)?;
        cmdline
            .insert_str(&self.cmdline)
            .with_context(|| format!("the command line is longer than {COMMAND_LINE_MAX} bytes"))?;
        load_cmdline(ram, GuestAddress(COMMAND_LINE), &cmdline)?;
        if let Some(initrd) = &self.initrd {
            let most = u64::from(header.initrd_addr_max);
            let above = KERNEL + u64::from(header.init_size);
            let (start, size) = load_initrd(ram, initrd, above, most)?;
            params.hdr.ramdisk_image = start;
            params.hdr.ramdisk_size = size;
        }
        add_memory(&mut params, ram)?;
        ram.write_obj(params, GuestAddress(ZERO_PAGE))?;
        Ok(loaded.kernel_load.0 + ENTRY)
    }
}

/// Loads it at the end of RAM below 4 GiB. Gives its address and size.
fn load_initrd(ram: &Ram, mut file: &File, above: u64, most: u64) -> Result<(u32, u32)> {
    let size = file.metadata()?.len();
    let low = memory::ranges(ram.iter().map(size_of_region).sum());
    let end = low.first().map_or(0, |low| low.size).min(most);
    let start = end.checked_sub(size).map(|start| start & !0xfff);
    let Some(start) = start.filter(|start| *start >= above) else {
        bail!("guest memory is too small for the kernel and its initial file system");
    };
    file.rewind()?;
    ram.read_exact_volatile_from(GuestAddress(start), &mut file, usize::try_from(size)?)
        .context("cannot load the initial file system")?;
    // CAST: below 4 GiB, as is its size.
    Ok((start as u32, size as u32))
}

fn size_of_region(region: &impl vm_memory::GuestMemoryRegion) -> u64 {
    region.len()
}

/// Tells the kernel of RAM and of what is none.
fn add_memory(params: &mut boot_params, ram: &Ram) -> Result<()> {
    let size = ram.iter().map(size_of_region).sum();
    let mut entries = vec![(0, LOW_END, E820_RAM)];
    for range in memory::ranges(size) {
        let start = range.start.max(KERNEL);
        entries.push((start, range.start + range.size - start, E820_RAM));
    }
    entries.push((ECAM.start, ECAM.size, E820_RESERVED));
    for (place, (addr, size, kind)) in params.e820_table.iter_mut().zip(&entries) {
        *place = boot_e820_entry {
            addr: *addr,
            size: *size,
            r#type: *kind,
        };
    }
    params.e820_entries = u8::try_from(entries.len())?;
    Ok(())
}
