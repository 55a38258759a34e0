// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Devices by the crate's public calls: regions, interrupts, capabilities and reset, on the module
//! and, where the kernel has it, on iommufd.

use host_iommu::backend::iommufd::Iommufd;
use host_iommu::backend::kmod::Kmod;
use host_iommu::vfio::{Area, Bar, Interrupt, VfioDevice, CONFIG_REGION};
use host_iommu::{Bdf, HostIommu, Iova, MapAccess, SharedMemory};
use host_iommu_tests::conformance::{expect, expect_errno};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::testdev::{status, Order, Testdev, BAR};
use host_iommu_tests::vfio::endpoints;
use host_iommu_tests::{suite, Errno};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs;
use std::os::fd::AsFd;

/// Command register (PCIe 6.0, 7.5.1.1.3): memory, and bus master.
const COMMAND: u64 = 4;
const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;
/// Of the endpoint: an order that raises MSI-X vector 0 when it is done (`PDT_FLAG_IRQ`).
const RAISES: u32 = 1 << 5;
/// Of the endpoint: most page requests of a group, 1 after a reset (`PDT_REG_PRI_GROUP`).
const PRI_GROUP: u64 = 0x018;

/// Runs a test on each backend that there is.
fn each(test: fn(&HostIommu, &VfioDevice) -> Outcome) -> Outcome {
    let Some(found) = endpoints().first().copied() else {
        return skip("no endpoint is bound to vfio-pci");
    };
    let name = Bdf::new(found.segment, found.bus, found.devfn);
    let run = |host: HostIommu| {
        let device = host.device(name)?;
        expect(device.name(), name, "the name")?;
        test(&host, &device)
    };
    run(HostIommu::new(Kmod::open_device(name)?))?;
    if fs::metadata("/dev/iommu").is_ok() {
        run(HostIommu::new(Iommufd::open_device(name)?))?;
    }
    Ok(())
}

fn command(device: &VfioDevice) -> Outcome<u16> {
    let mut bytes = [0; 2];
    device.read_config(COMMAND, &mut bytes)?;
    Ok(u16::from_le_bytes(bytes))
}

fn turn_on(device: &VfioDevice) -> Outcome {
    let value = command(device)? | MEMORY | MASTER;
    Ok(device.write_config(COMMAND, &value.to_le_bytes())?)
}

fn event() -> Outcome<EventFd> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    Ok(EventFd::from_value_and_flags(0, flags)?)
}

/// Waits for an eventfd, and empties it.
fn signalled(event: &EventFd) -> Outcome<bool> {
    let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
    let came = poll(&mut fds, PollTimeout::from(2000u16))? != 0;
    if came {
        event.read()?;
    }
    Ok(came)
}

fn regions_are_read_written_and_mapped() -> Outcome {
    each(|_, device| {
        turn_on(device)?;
        let config = device.region(CONFIG_REGION)?;
        expect(config.size, 4096, "configuration space")?;
        expect(config.mappable(), Vec::new(), "what of it can be mapped")?;
        let mut ids = [0; 4];
        device.read(&config, 0, &mut ids)?;
        let mut again = [0; 4];
        device.read_config(0, &mut again)?;
        expect(ids, again, "the ids")?;

        let bar = device.region(BAR)?;
        let areas = bar.mappable();
        let [area] = &areas[..] else {
            return fail(format!("{areas:?}"));
        };
        let mapped = device.map(&bar, *area)?;
        expect(mapped.size() as u64, bar.size, "bytes mapped")?;
        let mut word = [0; 4];
        device.read(&bar, 0, &mut word)?;
        expect(u32::from_le_bytes(word), mapped.read_u32(0), "a register")?;
        Ok(())
    })
}

fn accesses_outside_are_refused() -> Outcome {
    each(|_, device| {
        let bar = device.region(BAR)?;
        let mut word = [0; 4];
        for offset in [bar.size, bar.size - 2, u64::MAX - 1] {
            expect_errno(device.read(&bar, offset, &mut word), Errno::EINVAL)?;
            expect_errno(device.write(&bar, offset, &word), Errno::EINVAL)?;
        }
        expect_errno(device.read(&bar, 0, &mut []), Errno::EINVAL)?;
        let beyond = Area {
            offset: 0,
            size: bar.size + 4096,
        };
        expect_errno(device.map(&bar, beyond), Errno::EINVAL)?;
        let config = device.region(CONFIG_REGION)?;
        let all = Area {
            offset: 0,
            size: config.size,
        };
        expect_errno(device.map(&config, all), Errno::EOPNOTSUPP)?;
        expect_errno(device.region(device.regions()), Errno::EINVAL)
    })
}

fn capabilities_say_msix_and_page_requests() -> Outcome {
    each(|host, device| {
        let Some(msix) = device.msix()? else {
            return fail("no MSI-X");
        };
        let info = device.interrupt(Interrupt::MsiX)?;
        expect(info.count, msix.vectors, "vectors")?;
        expect(info.eventfd, true, "eventfds")?;
        expect(msix.table.0, Bar(2), "the table's BAR")?;
        let table = device.region(msix.table.0.region())?;
        let end = msix.table.1 + 16 * u64::from(msix.vectors);
        expect(end <= table.size, true, "the table is in its BAR")?;
        let page_requests = device.page_requests()?;
        let present = host.devices()?[0].page_requests.is_present();
        expect(page_requests.is_some(), true, "PRI")?;
        if let Some(found) = page_requests.filter(|_| present) {
            expect(found.capacity > 0, true, "its capacity")?;
            expect(found.response_pasid, true, "PASIDs in answers")?;
        }
        expect(device.extended_capability(0xffff)?, None, "one it lacks")
    })
}

fn interrupts_signal_eventfds() -> Outcome {
    each(|host, device| {
        turn_on(device)?;
        let memory = SharedMemory::new(c"devices", 1 << 20)?;
        host.map(Iova(0), &memory, MapAccess::ReadWrite)?;
        let endpoint = Testdev::new(device.map(
            &device.region(BAR)?,
            Area {
                offset: 0,
                size: device.region(BAR)?.size,
            },
        )?)?;
        let (first, second) = (event()?, event()?);
        let events = [Some(first.as_fd()), Some(second.as_fd())];
        device.set_events(Interrupt::MsiX, 0, &events)?;
        device.trigger(Interrupt::MsiX, 1)?;
        expect(signalled(&second)?, true, "the second, by the host")?;
        let order = Order::fill(0x1000, 8, 5).with(RAISES).no_pri();
        expect(endpoint.run(&order)?.status, status::OK, "the DMA")?;
        expect(signalled(&first)?, true, "the first, by the device")?;
        // One of them off; the other goes on.
        device.set_events(Interrupt::MsiX, 1, &[None])?;
        device.trigger(Interrupt::MsiX, 0)?;
        expect(signalled(&first)?, true, "the first, by the host")?;
        device.disable(Interrupt::MsiX)?;
        let off = device.trigger(Interrupt::MsiX, 0);
        expect_errno(off, Errno::EINVAL)?;
        let none = device.set_events(Interrupt::MsiX, 0, &[]);
        expect_errno(none, Errno::EINVAL)?;
        let many = vec![Some(first.as_fd()); 4096];
        expect_errno(device.set_events(Interrupt::MsiX, 0, &many), Errno::EINVAL)
    })
}

/// The kernel restores configuration space after a reset (`pci_try_reset_function`): bus mastering
/// stays as it was, and a register of the device shows that it was reset.
fn reset_resets_the_device() -> Outcome {
    each(|_, device| {
        expect(device.is_resettable(), true, "resettable")?;
        turn_on(device)?;
        let bar = device.region(BAR)?;
        let group_size = || -> Outcome<u32> {
            let mut word = [0; 4];
            device.read(&bar, PRI_GROUP, &mut word)?;
            Ok(u32::from_le_bytes(word))
        };
        device.write(&bar, PRI_GROUP, &5u32.to_le_bytes())?;
        expect(group_size()?, 5, "before")?;
        device.reset()?;
        expect(command(device)? & MASTER, MASTER, "bus mastering")?;
        expect(group_size()?, 1, "after")
    })
}

fn devices_that_are_none_are_refused() -> Outcome {
    let null = fs::File::open("/dev/null")?;
    let name = Bdf::new(0, 0, 0);
    expect_errno(VfioDevice::from_fd(null.into(), name), Errno::ENOTTY)?;
    each(|host, _| {
        let stranger = Bdf::new(0xfff0, 0, 0);
        expect_errno(host.device(stranger), Errno::ENODEV)
    })
}

suite![
    regions_are_read_written_and_mapped,
    accesses_outside_are_refused,
    capabilities_say_msix_and_page_requests,
    interrupts_signal_eventfds,
    reset_resets_the_device,
    devices_that_are_none_are_refused,
];
