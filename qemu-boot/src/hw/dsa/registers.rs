// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Registers and commands.

use anyhow::{ensure, Result};

use super::super::bench::{Bench, DATA};
use super::super::endpoint::cfg;
use super::super::{Case, Hardware};
use super::device::{
    self as dsa, await_bits, cmd, command, configure, done, reg, wq, Desc, Queue, BAR0,
};
use super::hardware;

fn shows(b: &mut Bench) -> Result<()> {
    dsa::world(b)?;
    dsa::start(b)?;
    ensure!(b.cfg32(0)? == 0x11fb_8086, "vendor and device");
    ensure!(b.q.read32(BAR0 + reg::VERSION)? == 0x200, "version");
    let gencap = b.q.read64(BAR0 + reg::GENCAP)?;
    ensure!(gencap & 1 != 0, "no block on fault: {gencap:#x}");
    ensure!(gencap >> 31 & 1 == 1, "not configurable: {gencap:#x}");
    ensure!(gencap >> 16 & 0x1f == 31, "transfers: {gencap:#x}");
    let wqcap = b.q.read64(BAR0 + reg::WQCAP)?;
    ensure!(
        wqcap & 0xffff == 128 && wqcap >> 16 & 0xff == 8,
        "{wqcap:#x}"
    );
    ensure!(wqcap >> 48 & 3 == 2, "not dedicated alone: {wqcap:#x}");
    ensure!(b.q.read64(BAR0 + reg::OPCAP)? == 0x1_003f_03ff, "OPCAP");
    // Four bytes of eight, and a register that is not there.
    ensure!(
        b.q.read32(BAR0 + reg::GENCAP + 4)? == (gencap >> 32) as u32,
        "upper half"
    );
    ensure!(b.q.read64(BAR0 + 0xa00)? == 0, "something at 0xa00");
    Ok(())
}

/// Configuration is writable while what it configures is off.
fn configuration(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    b.q.write64(BAR0 + reg::GRPCFG, 3)?;
    ensure!(
        b.q.read64(BAR0 + reg::GRPCFG)? == 1,
        "GRPCFG of an enabled device"
    );
    b.q.write32(BAR0 + reg::WQCFG, 3)?;
    ensure!(
        b.q.read32(BAR0 + reg::WQCFG)? == 16,
        "WQCFG of an enabled queue"
    );
    // Another queue is off, but its size is fixed while the device is on: the sum was checked.
    for (word, want) in [(0, 0), (12, 7)] {
        let at = BAR0 + reg::WQCFG + 64 + word;
        b.q.write32(at, 7)?;
        let seen = b.q.read32(at)?;
        ensure!(seen == want, "byte {word} of WQCFG of another one: {seen}");
    }
    ensure!(
        b.q.read32(BAR0 + reg::WQCFG + 24)? >> 30 == 1,
        "the queue's state"
    );
    done(b, cmd::DISABLE_WQ, 1)?;
    ensure!(
        b.q.read32(BAR0 + reg::WQCFG + 24)? >> 30 == 0,
        "its state, off"
    );
    b.q.write32(BAR0 + reg::WQCFG, 3)?;
    b.q.write32(BAR0 + reg::WQCFG + 12, 3)?;
    let size = b.q.read32(BAR0 + reg::WQCFG)?;
    let limits = b.q.read32(BAR0 + reg::WQCFG + 12)?;
    ensure!(
        size == 16 && limits == 3,
        "WQCFG of a disabled queue: {size}, {limits}"
    );
    done(b, cmd::DISABLE_DEVICE, 0)?;
    ensure!(b.q.read32(BAR0 + reg::GENSTS)? == 0, "the device's state");
    b.q.write32(BAR0 + reg::WQCFG, 3)?;
    let size = b.q.read32(BAR0 + reg::WQCFG)?;
    ensure!(size == 3, "WQCFG of a disabled device: {size}");
    done(b, cmd::RESET_DEVICE, 0)?;
    ensure!(b.q.read32(BAR0 + reg::WQCFG)? == 0, "WQCFG after a reset");
    ensure!(b.q.read64(BAR0 + reg::GRPCFG)? == 0, "GRPCFG after a reset");
    Ok(())
}

/// Each command that cannot be, and its code.
fn refusals(b: &mut Bench) -> Result<()> {
    dsa::world(b)?;
    dsa::start(b)?;
    let refused = |b: &mut Bench, code, operand, want: u32| -> Result<()> {
        let status = command(b, code, operand)?;
        ensure!(
            status == want,
            "command {code} of {operand:#x} ends with {status:#x}, not {want:#x}"
        );
        Ok(())
    };
    refused(b, 0, 0, 0x01)?;
    refused(b, 13, 0, 0x01)?;
    refused(b, cmd::ENABLE_WQ, 0, 0x20)?;
    refused(b, cmd::ENABLE_WQ, 8, 0x02)?;
    refused(b, cmd::DISABLE_DEVICE, 0, 0x31)?;
    b.set_cfg16(cfg::COMMAND, cfg::COMMAND_MEMORY)?;
    refused(b, cmd::ENABLE_DEVICE, 0, 0x12)?;
    b.set_cfg16(cfg::COMMAND, cfg::COMMAND_MEMORY | cfg::COMMAND_MASTER)?;
    // Each group's queues and engines: one without the other, one in two groups, a queue without
    // entries in a group, one with entries in none.
    for (size, groups, want) in [
        (16, [(1, 0), (0, 0)], 0x15),
        (16, [(1, 1), (0, 2)], 0x15),
        (16, [(1, 1), (1, 2)], 0x16),
        (16, [(0, 0), (0, 0)], 0x16),
        (0, [(1, 1), (0, 0)], 0x16),
        (16, [(1, 1), (2, 1)], 0x17),
    ] {
        configure(b, 0, sized(size))?;
        for (n, (queues, engines)) in (0..).zip(groups) {
            dsa::group(b, n, queues, engines)?;
        }
        refused(b, cmd::ENABLE_DEVICE, 0, want)?;
    }
    dsa::group(b, 0, 1, 1)?;
    dsa::group(b, 1, 0, 0)?;
    for (n, size) in [(0, 129), (1, 113)] {
        configure(b, 0, sized(16))?;
        configure(b, n, sized(size))?;
        refused(b, cmd::ENABLE_DEVICE, 0, 0x14)?;
    }
    configure(b, 1, sized(0))?;
    // An event log that is too small, that ends nowhere, that is written with a privilege.
    b.q.write32(BAR0 + reg::GENCFG, dsa::GENCFG_EVL)?;
    for (first, second, want) in [
        (DATA, 63, 0x19),
        (u64::MAX << 12, 65, 0x19),
        (DATA | 2, 64, 0x1b),
        (DATA | 3, 64, 0x1b),
    ] {
        b.q.write64(BAR0 + reg::EVLCFG, first)?;
        b.q.write64(BAR0 + reg::EVLCFG + 8, second)?;
        refused(b, cmd::ENABLE_DEVICE, 0, want)?;
    }
    b.q.write32(BAR0 + reg::GENCFG, 0)?;
    done(b, cmd::ENABLE_DEVICE, 0)?;
    refused(b, cmd::ENABLE_DEVICE, 0, 0x10)?;
    refused(b, cmd::ENABLE_WQ, 1, 0x22)?;
    let word = b.q.read32(BAR0 + reg::WQCFG + 8)?;
    for (bits, want) in [(0xf << 4, 0x23), (1, 0x24)] {
        b.q.write32(BAR0 + reg::WQCFG + 8, word & !bits)?;
        refused(b, cmd::ENABLE_WQ, 0, want)?;
    }
    // Privilege that is off, a queue without page requests where no log takes its records.
    for (bits, want) in [(1 << 29, 0x2a), (wq::PRS_DISABLE, 0x2e)] {
        b.q.write32(BAR0 + reg::WQCFG + 8, word | bits)?;
        refused(b, cmd::ENABLE_WQ, 0, want)?;
    }
    b.q.write32(BAR0 + reg::WQCFG + 8, word)?;
    for limits in [22 | 11 << 5, 22] {
        b.q.write32(BAR0 + reg::WQCFG + 12, limits)?;
        refused(b, cmd::ENABLE_WQ, 0, 0x27)?;
    }
    // Operations that there are not.
    configure(b, 0, Queue::USUAL)?;
    for bit in [0xa, 0x3f, 0x40, 0xff] {
        let at = BAR0 + reg::WQCFG + 32 + bit / 32 * 4;
        let old = b.q.read32(at)?;
        b.q.write32(at, old | 1 << (bit % 32))?;
        refused(b, cmd::ENABLE_WQ, 0, 0x2d)?;
        b.q.write32(at, old)?;
    }
    b.enable_pasid(0)?;
    refused(b, cmd::ENABLE_WQ, 0, 0x26)?;
    b.enable_pasid(cfg::PASID_ENABLE)?;
    done(b, cmd::ENABLE_WQ, 0)?;
    refused(b, cmd::ENABLE_WQ, 0, 0x21)?;
    refused(b, cmd::DRAIN_WQ, 2, 0x32)?;
    refused(b, cmd::DRAIN_WQ, 0, 0x02)?;
    refused(b, cmd::RESET_WQ, 1 << 16 | 1, 0x02)
}

/// A queue of so many entries.
fn sized(size: u32) -> Queue {
    Queue {
        size,
        ..Queue::USUAL
    }
}

/// The properties say how much a transfer and a batch may have.
fn limits(b: &mut Bench) -> Result<()> {
    dsa::configured(b, Queue::USUAL)?;
    let gencap = b.q.read64(BAR0 + reg::GENCAP)?;
    ensure!(
        gencap >> 16 & 0x1f == 20 && gencap >> 21 & 0xf == 3,
        "{gencap:#x}"
    );
    done(b, cmd::ENABLE_DEVICE, 0)?;
    for (limits, want) in [(21 | 3 << 5, 0x28), (20 | 4 << 5, 0x27), (20 | 3 << 5, 0)] {
        b.q.write32(BAR0 + reg::WQCFG + 12, limits)?;
        let status = command(b, cmd::ENABLE_WQ, 0)?;
        ensure!(status == want, "{limits:#x}: {status:#x}, not {want:#x}");
    }
    Ok(())
}

fn interrupts(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::USUAL)?;
    let at = DATA + 0x40_0000;
    dsa::vector(b, 0, at, 0x77)?;
    done(b, cmd::DRAIN_WQ, 1)?;
    ensure!(b.q.read32(at)? == 0, "an interrupt nobody asked for");
    b.q.write32(BAR0 + reg::CMD, cmd::INTERRUPT | cmd::DRAIN_WQ << 20 | 1)?;
    let cause = await_bits(b, reg::INTCAUSE, dsa::CAUSE_COMMAND)?;
    ensure!(cause == dsa::CAUSE_COMMAND, "cause {cause:#x}");
    ensure!(b.q.read32(at)? == 0x77, "no interrupt");
    b.q.write32(BAR0 + reg::INTCAUSE, cause)?;
    ensure!(b.q.read32(BAR0 + reg::INTCAUSE)? == 0, "the cause stays");
    Ok(())
}

/// A function-level reset ends everything.
fn function_reset(b: &mut Bench) -> Result<()> {
    dsa::ready(b, Queue::BLOCKING)?;
    b.enable_pri(16, 0)?;
    let hole =
        Desc::moving(dsa::op::FILL, 0, dsa::RECORDS + 0x1000, 8).flags(dsa::flag::BLOCK_ON_FAULT);
    dsa::submit(b, &hole)?;
    b.await_page_requests(1)?;
    b.function_reset()?;
    dsa::start(b)?;
    ensure!(
        b.q.read32(BAR0 + reg::GENSTS)? == 0,
        "the device is enabled"
    );
    ensure!(b.q.read32(BAR0 + reg::WQCFG)? == 0, "WQCFG stays");
    configure(b, 0, Queue::USUAL)?;
    b.q.write64(BAR0 + reg::GRPCFG, 1)?;
    b.q.write64(BAR0 + reg::GRPCFG + 32, 1)?;
    done(b, cmd::ENABLE_DEVICE, 0)?;
    done(b, cmd::ENABLE_WQ, 0)?;
    dsa::ends(b, &Desc::new(dsa::op::NOOP), dsa::status::SUCCESS)?;
    Ok(())
}

/// All cases of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::on(hardware(), "dsa_shows_what_it_is", shows),
        Case::on(
            hardware(),
            "dsa_configuration_is_for_what_is_off",
            configuration,
        ),
        Case::on(
            hardware(),
            "dsa_commands_are_refused_by_their_codes",
            refusals,
        ),
        Case::on(
            Hardware {
                dsa_options: ",max-transfer=20,max-batch=3",
                ..hardware()
            },
            "dsa_limits_are_its_properties",
            limits,
        ),
        Case::on(hardware(), "dsa_command_interrupts", interrupts),
        Case::on(
            hardware(),
            "dsa_function_reset_ends_everything",
            function_reset,
        ),
    ]
}
