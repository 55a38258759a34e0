// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VMM of the rust-vmm kind: `VfioContainer` and `VfioDevice` of vfio-ioctls, guest memory of
//! vm-memory, and PASIDs and address spaces of this crate in the same container.
//!
//! `rust_vmm 0000:00:04.0` needs an endpoint `pasid-dma-testdev` bound to vfio-pci, and the module
//! `vfio_iommu_ioasid` loaded with `type1_compat=1`: vfio-ioctls asks for a container of type1v2 and
//! for no other. Stage-1 tables need one that nests; `docs/vfio-ioctls.md` has the few lines that
//! let a VMM choose.

use host_iommu::backend::kmod::Kmod;
use host_iommu::vfio::{self, Bar};
use host_iommu::{
    duplicate, AddressSpaceEntry, Bdf, Gpa, GuestTable, HostIommu, Iova, IovaRange, MapAccess,
    PasidRequest, RegionListener,
};
use host_iommu_tests::testdev::{status, Order, Testdev, BAR};
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use vfio_ioctls::{VfioContainer, VfioDevice};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// Guest memory.
const RAM: usize = 16 << 20;
const PAGE: u64 = 4096;
/// The command register with its bus master bit.
const COMMAND: u64 = 4;
const MASTER: u8 = 1 << 2;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The device of vfio-ioctls, whose DMA is programmed through its BAR.
fn endpoint(device: &VfioDevice, address: Bdf) -> Outcome<Testdev> {
    let mut command = [0];
    device.region_read(vfio::CONFIG_REGION, &mut command, COMMAND);
    device.region_write(vfio::CONFIG_REGION, &[command[0] | MASTER], COMMAND);
    let device = vfio::VfioDevice::from_fd(duplicate(device)?, address)?;
    let bar = device.region(Bar(BAR).region())?;
    let areas = bar.mappable();
    let all = areas.first().ok_or("BAR 0 cannot be mapped")?;
    Ok(Testdev::new(device.map(&bar, *all)?)?)
}

/// Runs an order, and says whether the device had what it asked for.
fn reaches(endpoint: &Testdev, order: &Order) -> Outcome<bool> {
    match endpoint.run(order)?.status {
        status::OK => Ok(true),
        status::NO_ACCESS | status::ATS_ERROR => Ok(false),
        other => Err(format!("the DMA ended with {}", status::name(other)).into()),
    }
}

fn expect(seen: bool, what: &str) -> Outcome {
    if seen {
        return Ok(());
    }
    Err(format!("it is not so that {what}").into())
}

fn run(address: Bdf) -> Outcome {
    // 1. What a VMM has today.
    let container = Arc::new(VfioContainer::new(None)?);
    let path = PathBuf::from(format!("/sys/bus/pci/devices/{address}"));
    let device = VfioDevice::new(&path, container.clone(), true)?;
    let endpoint = endpoint(&device, address)?;
    println!("1. {address} is a VfioDevice in a VfioContainer");

    // 2. This crate in the same container.
    let kmod = Kmod::share(duplicate(&*container)?).map_err(|error| {
        let errno = error.errno().unwrap_or(0);
        format!("{error} (errno {errno}): is the module loaded with type1_compat=1?")
    })?;
    let host = HostIommu::new(kmod);
    let found = host.devices()?;
    expect(
        found.len() == 1 && found[0].device == address,
        "it has the device",
    )?;
    println!("2. the container is the module's: its calls work in it");

    // 3. Guest memory.
    let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM)])?;
    let mut listener = RegionListener::new(host.clone());
    let skipped = listener.update(&ram)?;
    expect(skipped.is_empty(), "all of guest memory is mapped")?;
    let store = |at, value| Order::fill(at, 8, value).no_pri();
    let load = |at| -> Outcome<u64> { Ok(ram.read_obj(GuestAddress(at))?) };
    expect(reaches(&endpoint, &store(0x5000, 1))?, "the device writes")?;
    expect(load(0x5000)? == 1, "guest memory has it")?;
    let beyond = store(RAM as u64, 1);
    expect(
        !reaches(&endpoint, &beyond)?,
        "it is stopped beyond guest memory",
    )?;
    println!(
        "3. {} MiB of guest memory mapped, written by the device's DMA",
        RAM >> 20
    );

    // 4. Guest memory and a part of it at PASIDs of their own.
    let pasids = host.alloc_pasids(&PasidRequest {
        count: 2,
        ..PasidRequest::any()
    })?;
    let whole = pasids.first();
    let part = whole.checked_add(1).ok_or("no second PASID")?;
    let _whole = host.bind_stage2(address, &pasids, whole, None)?;
    let space = host.address_space()?;
    space.map(&[AddressSpaceEntry {
        range: IovaRange::sized(Iova(0x7000_0000), PAGE).ok_or("an empty range")?,
        gpa: Gpa(0x9000),
        access: MapAccess::ReadWrite,
    }])?;
    let _part = host.bind_address_space(address, &pasids, part, &space, None)?;
    let order = |at, value, pasid: host_iommu::Pasid| store(at, value).at(pasid.get());
    expect(
        reaches(&endpoint, &order(0x6000, 2, whole))?,
        "it writes by PASID",
    )?;
    expect(
        reaches(&endpoint, &order(0x7000_0000, 3, part))?,
        "and by the other",
    )?;
    expect(
        (load(0x6000)?, load(0x9000)?) == (2, 3),
        "guest memory has both",
    )?;
    expect(
        !reaches(&endpoint, &order(0x6000, 4, part))?,
        "that reaches its page only",
    )?;
    println!("4. PASID {whole} reaches guest memory, PASID {part} one page of it");

    // 5. What this container cannot: it is type1v2's, and takes read-only mappings.
    let (device, third) = (address, host.alloc_pasids(&PasidRequest::any())?);
    let table = GuestTable::four_level(Gpa(0x1000));
    let refused = host.bind(device, &third, third.first(), &table, None);
    let errno = refused.err().and_then(|error| error.errno());
    expect(errno == Some(libc::EOPNOTSUPP), "stage 1 says EOPNOTSUPP")?;
    println!("5. a stage-1 table is refused: it needs a container that nests");
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let address = match (arguments.next().map(|text| text.parse()), arguments.next()) {
        (Some(Ok(address)), None) => address,
        _ => {
            eprintln!("usage: rust_vmm <segment:bus:device.function>");
            return ExitCode::from(2);
        }
    };
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rust_vmm: {error}");
            ExitCode::FAILURE
        }
    }
}
