// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What runs in the guest of `make guest`: it does what `guest`, on the host, asks for on the second
//! serial port, a command a line, and answers `ok`, `fail` or `skip` and a text, in a line.
//!
//! The device is driven through the test driver pasid_dma_sva (`qemu-boot/sva`), which shares the
//! memory of whoever opens it.

mod changes;
mod costs;
mod disk;
mod hostile;
mod log;
mod process;
mod share;

use host_iommu_tests::ktap::{fail, Outcome, Stop};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The serial port: the guest's init has made it raw.
const PORT: &str = "/dev/ttyS1";
const DRIVER: &str = "/sys/bus/pci/drivers/pasid-dma-sva";
/// Vendor and device of the endpoint, as sysfs has them.
const ENDPOINT: [&str; 2] = ["0x1234", "0x5a1d"];

/// The endpoint's folder in sysfs.
fn endpoint() -> Outcome<PathBuf> {
    for entry in fs::read_dir("/sys/bus/pci/devices")?.flatten() {
        let attribute = |name| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let names = [attribute("vendor"), attribute("device")];
        if names.each_ref().map(|name| name.trim()) == ENDPOINT {
            return Ok(entry.path());
        }
    }
    fail("the guest has no endpoint")
}

/// Gives the endpoint to the driver, unless it has it.
fn give_to_driver() -> Outcome<PathBuf> {
    let endpoint = endpoint()?;
    if !endpoint.join("driver").exists() {
        let name = endpoint.file_name().unwrap_or_default().to_owned();
        fs::write(endpoint.join("driver_override"), "pasid-dma-sva")?;
        fs::write("/sys/bus/pci/drivers_probe", name.as_encoded_bytes())?;
    }
    if !endpoint.join("driver").exists() {
        return fail(format!("{DRIVER} does not take the endpoint"));
    }
    Ok(endpoint)
}

/// What the guest's driver of the unit says of it.
fn unit() -> Outcome<String> {
    let register = |name: &str| -> Outcome<u64> {
        let text = fs::read_to_string(format!("/sys/class/iommu/dmar0/intel-iommu/{name}"))?;
        Ok(u64::from_str_radix(text.trim(), 16)?)
    };
    let ecap = register("ecap")?;
    for (name, bit) in [
        ("scalable mode", 43),
        ("first stage", 47),
        ("PASID", 40),
        ("PRS", 29),
    ] {
        if ecap >> bit & 1 == 0 {
            return fail(format!("the unit does not offer {name}: ECAP {ecap:#x}"));
        }
    }
    let endpoint = give_to_driver()?;
    let kind = fs::read_to_string(endpoint.join("iommu_group/type"))?;
    log::expect_none_of(&["DMAR", "fault"])?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!(
        "Linux {}, domain type {}, ECAP {ecap:#x}",
        release.trim(),
        kind.trim()
    ))
}

/// The driver copies a buffer by the DMA API.
fn rid() -> Outcome<String> {
    let endpoint = give_to_driver()?;
    match fs::read_to_string(endpoint.join("rid_copy"))?.trim() {
        "ok" => Ok("16 KiB copied, equal, told by an interrupt".into()),
        other => fail(format!("the copy ended with {other}")),
    }
}

/// The guest resets the endpoint.
fn reset() -> Outcome<String> {
    fs::write(endpoint()?.join("reset"), "1")?;
    Ok("reset".into())
}

/// The driver lets go of the endpoint, and the guest forgets it.
fn remove() -> Outcome<String> {
    fs::write(endpoint()?.join("remove"), "1")?;
    Ok("removed".into())
}

/// The guest looks for devices again, and the driver takes the endpoint.
fn rescan() -> Outcome<String> {
    fs::write("/sys/bus/pci/rescan", "1")?;
    give_to_driver()?;
    Ok("found".into())
}

fn number(word: Option<&str>) -> Outcome<u32> {
    Ok(word.unwrap_or_default().parse()?)
}

fn command(line: &str) -> Outcome<String> {
    let mut words = line.split_whitespace();
    match words.next().unwrap_or_default() {
        "unit" => unit(),
        "rid" => rid(),
        "disk" => disk::read_and_write(),
        "share" => share::untouched_memory(number(words.next())?),
        "two" => process::two_processes(),
        "killed" => process::killed_with_faults_in_flight(),
        "work" => share::work(number(words.next())?.into()),
        "compute" => hostile::compute(number(words.next())?.into()),
        "attack" => {
            let (seconds, seed) = (number(words.next())?, number(words.next())?);
            hostile::attack(&endpoint()?, seconds.into(), seed.into())
        }
        "go-on" => share::go_on(number(words.next())?.into(), rid),
        "domain" => costs::set_domain(words.next().unwrap_or_default()),
        "hold" => costs::hold(number(words.next())?),
        "forget" => costs::forget(number(words.next())? as usize, number(words.next())?),
        "ask" => costs::ask(number(words.next())? as usize),
        "change" => changes::changing_memory(),
        "start" => process::start_dma(),
        "reset" => reset(),
        "remove" => remove(),
        "rescan" => rescan(),
        // Another one after each boot.
        "boot" => Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned()),
        "log" => log::expect_none_of(&[]).map(|()| "clean".into()),
        other => fail(format!("there is no command {other}")),
    }
}

/// In one line.
fn flat(text: &str) -> String {
    text.replace(['\n', '\r'], " / ")
}

fn serve() -> std::io::Result<()> {
    let input = fs::File::open(PORT)?;
    let mut output = fs::OpenOptions::new().write(true).open(PORT)?;
    writeln!(output, "ready")?;
    for line in BufReader::new(input).lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        match line.trim() {
            // The init that started this one does it.
            "reboot" => std::process::exit(10),
            "power-off" => std::process::exit(11),
            _ => {}
        }
        let answer = match command(&line) {
            Ok(text) => format!("ok {}", flat(&text)),
            Err(Stop::Skip(text)) => format!("skip {}", flat(&text)),
            Err(Stop::Fail(text)) => format!("fail {}", flat(&text)),
        };
        writeln!(output, "{answer}")?;
    }
    Ok(())
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(process::CHILD) {
        return process::child();
    }
    // The host may take its time.
    std::thread::sleep(Duration::from_millis(10));
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-agent: {PORT}: {error}");
            ExitCode::FAILURE
        }
    }
}
