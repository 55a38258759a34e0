// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The emulated hardware as the unmodified VT-d driver sees it, without our module: what it
//! brought up, and host SVA, where a device works on a process's own addresses.
//!
//! SVA goes through the test driver pasid_dma_sva (qemu-boot/sva): it binds whoever opens it.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use host_iommu_sys::memory::Mmio;
use host_iommu_tests::kmsg;
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::memory::{fnv1a, GuestMemory, PAGE};
use host_iommu_tests::suite;
use host_iommu_tests::testdev::{flag, status, Counter, Done, Order, Testdev};
use host_iommu_tests::vfio::{endpoints, Bdf};
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags};

const MODULE: &str = "/modules/pasid_dma_sva.ko";
const MODULE_NAME: &str = "pasid_dma_sva";
const DRIVER: &str = "pasid-dma-sva";
const NODE: &str = "/dev/pasid-dma-sva";
const BAR_SIZE: usize = 0x1_0000;
/// The endpoint's register of what configuration space enables, and its bits.
const ENABLES: u64 = 0x1c;
const ENABLE_PASID: u32 = 1 << 1;
const ENABLE_ATS: u32 = 1 << 4;
const ENABLE_PRI: u32 = 1 << 5;

/// Extended capabilities: id, and offset and bit of the enable (PCIe 6.0, 7.8.8, 7.8.9).
const ATS: (u32, u64, u16) = (0x0f, 6, 1 << 15);
const PASID: (u32, u64, u16) = (0x1b, 6, 1 << 0);
const PRI: (u32, u64, u16) = (0x13, 4, 1 << 0);

fn endpoint() -> Outcome<Bdf> {
    match endpoints().last() {
        Some(bdf) => Ok(*bdf),
        None => fail("no endpoint is bound to vfio-pci"),
    }
}

/// A register that the driver shows in sysfs.
fn iommu_register(name: &str) -> Outcome<u64> {
    let path = format!("/sys/class/iommu/dmar0/intel-iommu/{name}");
    let text = fs::read_to_string(path)?;
    Ok(u64::from_str_radix(text.trim(), 16)?)
}

fn config_u32(config: &File, at: u64) -> Outcome<u32> {
    let mut bytes = [0; 4];
    config.read_exact_at(&mut bytes, at)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Whether an extended capability of `device` is enabled.
fn enabled(device: Bdf, (id, control, bit): (u32, u64, u16)) -> Outcome<bool> {
    let config = File::open(device.sysfs().join("config"))?;
    let mut at = 0x100;
    for _ in 0..64 {
        let header = config_u32(&config, at)?;
        if header & 0xffff == id {
            let mut bytes = [0; 2];
            config.read_exact_at(&mut bytes, at + control)?;
            return Ok(u16::from_le_bytes(bytes) & bit != 0);
        }
        at = u64::from(header >> 20 & 0xffc);
        if at == 0 {
            break;
        }
    }
    fail(format!("{device} has no extended capability {id:#x}"))
}

fn driver_shows_what_nesting_needs() -> Outcome {
    let ecap = iommu_register("ecap")?;
    let needed = [
        ("DT", 2),
        ("NEST", 26),
        ("PRS", 29),
        ("SRS", 31),
        ("PASID", 40),
        ("PDS", 42),
        ("SMTS", 43),
        ("SSTS", 46),
        ("FSTS", 47),
        ("SMPWC", 48),
    ];
    for (name, bit) in needed {
        if ecap >> bit & 1 == 0 {
            return if name == "NEST" {
                skip(format!("ECAP {ecap:#x}: this VT-d does not offer nesting"))
            } else {
                fail(format!("ECAP {ecap:#x} lacks {name}"))
            };
        }
    }
    Ok(())
}

fn driver_complains_of_nothing() -> Outcome {
    let log = kmsg::text()?;
    if !log.contains("DMAR: Intel(R) Virtualization Technology for Directed I/O") {
        return fail("the driver did not start");
    }
    // DMA faults are not among them: other tests make them on purpose.
    let complaints = [
        "Invalidation Queue Error",
        "Invalidation Completion Error",
        "Invalidation Time-out Error",
        "SVM disabled",
        "Failed to",
    ];
    let found = log
        .lines()
        .filter(|line| line.contains("DMAR"))
        .find(|line| complaints.iter().any(|complaint| line.contains(complaint)));
    found.map_or(Ok(()), fail)
}

fn driver_gives_each_endpoint_a_group() -> Outcome {
    let groups: Vec<u32> = endpoints()
        .iter()
        .map(|device| device.group())
        .collect::<Result<_, _>>()?;
    if groups.is_empty() {
        return fail("no endpoints");
    }
    for (at, group) in groups.iter().enumerate() {
        assert!(!groups[..at].contains(group), "{groups:?}");
        let members = fs::read_dir(format!("/sys/kernel/iommu_groups/{group}/devices"))?.count();
        assert_eq!(members, 1, "group {group}");
    }
    Ok(())
}

/// What host SVA needs; nesting is nothing to it.
fn sva_is_offered() -> Outcome {
    let ecap = iommu_register("ecap")?;
    for (name, bit) in [("PRS", 29), ("PASID", 40), ("SMTS", 43), ("FSTS", 47)] {
        if ecap >> bit & 1 == 0 {
            return skip(format!("ECAP {ecap:#x}: this VT-d does not offer {name}"));
        }
    }
    Ok(())
}

/// The endpoint with the test driver, bound to this process.
struct Sva {
    // In the order in which they go.
    testdev: Testdev,
    pasid: u32,
    _node: File,
    driver: Driver,
}

/// The endpoint taken from vfio-pci, and the test driver; both go back when dropped.
struct Driver {
    device: Bdf,
}

impl Driver {
    fn load() -> Outcome<Self> {
        let Ok(module) = File::open(MODULE) else {
            return skip(format!("there is no {MODULE}"));
        };
        let driver = Self {
            device: endpoint()?,
        };
        match nix::kmod::finit_module(&module, &CString::default(), ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        give(driver.device, DRIVER)?;
        if !Path::new(NODE).exists() {
            return fail(format!("the driver did not take {}", driver.device));
        }
        Ok(driver)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The driver lets go of its device when it goes; failures show in the next test.
        let gone = nix::kmod::delete_module(
            &CString::new(MODULE_NAME).unwrap_or_default(),
            DeleteModuleFlags::O_NONBLOCK,
        );
        let back = give(self.device, "vfio-pci");
        if gone.is_err() || back.is_err() {
            println!("# {gone:?}, {} to vfio-pci: {back:?}", self.device);
        }
    }
}

/// Takes `device` from its driver and gives it to `driver`.
fn give(device: Bdf, driver: &str) -> Outcome {
    let path = device.sysfs();
    if path.join("driver").exists() {
        fs::write(path.join("driver/unbind"), device.to_string())?;
    }
    fs::write(path.join("driver_override"), driver)?;
    fs::write("/sys/bus/pci/drivers_probe", device.to_string())?;
    Ok(())
}

impl Sva {
    fn open() -> Outcome<Self> {
        sva_is_offered()?;
        let driver = Driver::load()?;
        let mut node = OpenOptions::new().read(true).write(true).open(NODE)?;
        let mut pasid = [0; 4];
        node.read_exact(&mut pasid)?;
        let testdev = Testdev::new(Mmio::new(node.as_fd(), 0, BAR_SIZE)?)?;
        Ok(Self {
            testdev,
            pasid: u32::from_ne_bytes(pasid),
            _node: node,
            driver,
        })
    }

    fn run(&self, order: Order) -> Outcome<Done> {
        Ok(self.testdev.run(&order.at(self.pasid))?)
    }

    #[track_caller]
    fn expect(&self, order: Order, wanted: u32) -> Outcome<Done> {
        let done = self.run(order)?;
        assert_eq!(
            done.status,
            wanted,
            "{} where {} was wanted, at {:#x}",
            status::name(done.status),
            status::name(wanted),
            done.result
        );
        Ok(done)
    }
}

/// Memory of this process that nobody has touched.
fn fresh(pages: u64) -> Outcome<GuestMemory> {
    Ok(GuestMemory::new(0, pages * PAGE)?)
}

fn sva_binding_enables_pasid_ats_and_pri() -> Outcome {
    let sva = Sva::open()?;
    assert_ne!(sva.pasid, 0);
    let wanted = ENABLE_PASID | ENABLE_ATS | ENABLE_PRI;
    assert_eq!(sva.testdev.register(ENABLES) & wanted, wanted);
    for capability in [PASID, ATS, PRI] {
        assert!(enabled(sva.driver.device, capability)?, "{capability:x?}");
    }
    Ok(())
}

fn sva_device_reads_this_process() -> Outcome {
    let sva = Sva::open()?;
    let memory = fresh(4)?;
    let text: Vec<u8> = (0..3 * PAGE).map(|n| (n % 251) as u8).collect();
    memory.write(0x123, &text);
    let order = Order::checksum(memory.host_address() + 0x123, text.len() as u32);
    let done = sva.expect(order, status::OK)?;
    assert_eq!(done.result, fnv1a(&text));
    Ok(())
}

fn sva_untouched_page_comes_by_a_page_request() -> Outcome {
    let sva = Sva::open()?;
    let memory = fresh(8)?;
    let before = sva.testdev.counter(Counter::PageReq);
    sva.expect(
        Order::fill(
            memory.host_address() + PAGE,
            (4 * PAGE) as u32,
            0x1122_3344_5566_7788,
        ),
        status::OK,
    )?;
    let asked = sva.testdev.counter(Counter::PageReq) - before;
    assert!(asked >= 4, "{asked} requests for 4 pages");
    assert_eq!(memory.read_u64(PAGE - 8), 0);
    assert_eq!(memory.read_u64(PAGE), 0x1122_3344_5566_7788);
    assert_eq!(memory.read_u64(5 * PAGE - 8), 0x1122_3344_5566_7788);
    assert_eq!(memory.read_u64(5 * PAGE), 0);
    Ok(())
}

fn sva_page_group_is_served_as_a_whole() -> Outcome {
    let sva = Sva::open()?;
    let memory = fresh(32)?;
    sva.testdev.set_group_size(16);
    let groups = sva.testdev.counter(Counter::Groups);
    sva.expect(
        Order::fill(memory.host_address(), (32 * PAGE) as u32, 7),
        status::OK,
    )?;
    let groups = sva.testdev.counter(Counter::Groups) - groups;
    assert!(groups <= 4, "{groups} groups for 32 pages");
    assert_eq!(memory.read_u64(32 * PAGE - 8), 7);
    Ok(())
}

fn sva_without_page_requests_misses() -> Outcome {
    let sva = Sva::open()?;
    let memory = fresh(1)?;
    let order = Order::fill(memory.host_address(), 8, 7).with(flag::NO_PRI);
    sva.expect(order, status::NO_ACCESS)?;
    memory.write_u64(0, 1);
    sva.expect(order, status::OK)?;
    assert_eq!(memory.read_u64(0), 7);
    Ok(())
}

/// In a section of the program that may only be read.
static READ_ONLY: [u64; 512] = [0x5ec2e7; 512];

fn sva_read_only_memory_refuses_a_write() -> Outcome {
    let sva = Sva::open()?;
    let address = READ_ONLY.as_ptr() as u64;
    sva.expect(Order::read(address, 8, 0), status::OK)?;
    assert_eq!(sva.testdev.read_buffer(0, 8), 0x5ec2e7_u64.to_le_bytes());
    sva.expect(Order::fill(address, 8, 0), status::INVALID)?;
    assert!(READ_ONLY
        .iter()
        .all(|word| std::hint::black_box(*word) == 0x5ec2e7));
    Ok(())
}

fn sva_unmapped_memory_is_gone_for_the_device() -> Outcome {
    let sva = Sva::open()?;
    let memory = fresh(1)?;
    let address = memory.host_address();
    sva.expect(Order::fill(address, 8, 7), status::OK)?;
    let dropped = sva.testdev.counter(Counter::DtlbDropped);
    drop(memory);
    let dropped = sva.testdev.counter(Counter::DtlbDropped) - dropped;
    assert!(dropped >= 1, "the device TLB has kept its entry");
    sva.expect(Order::fill(address, 8, 7), status::INVALID)?;
    Ok(())
}

fn sva_kernel_addresses_are_refused() -> Outcome {
    let sva = Sva::open()?;
    // The kernel's text is mapped in every process, for the kernel alone.
    sva.expect(Order::read(0xffff_ffff_8100_0000, 8, 0), status::INVALID)?;
    Ok(())
}

fn sva_atomic_addition_meets_the_cpu() -> Outcome {
    const TIMES: u64 = 2000;
    let sva = Sva::open()?;
    let memory = fresh(1)?;
    memory.write_u64(0, 0);
    let word = std::sync::atomic::AtomicU64::new(0);
    let address = word.as_ptr() as u64;
    std::thread::scope(|scope| {
        let cpu = scope.spawn(|| {
            for _ in 0..TIMES * 20 {
                word.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
        });
        let mut result = Ok(());
        for _ in 0..TIMES {
            result = sva
                .expect(Order::fetch_add(address, 1 << 32), status::OK)
                .map(drop);
            if result.is_err() {
                break;
            }
        }
        assert!(cpu.join().is_ok());
        result
    })?;
    let sum = word.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(sum, TIMES << 32 | (TIMES * 20));
    Ok(())
}

fn sva_comes_back_after_a_reset() -> Outcome {
    let memory = fresh(2)?;
    let sva = Sva::open()?;
    let order = Order::fill(memory.host_address(), 8, 7);
    sva.expect(order, status::OK)?;
    // With the process still bound.
    let reset = sva.driver.device.sysfs().join("reset");
    fs::write(reset, "1")?;
    drop(sva);
    let sva = Sva::open()?;
    let order = Order::fill(memory.host_address() + PAGE, 8, 7);
    sva.expect(order, status::OK)?;
    assert_eq!(memory.read_u64(PAGE), 7);
    Ok(())
}

fn sva_other_pasid_is_out_of_reach() -> Outcome {
    let sva = Sva::open()?;
    let memory = fresh(1)?;
    memory.write_u64(0, 1);
    let order = Order::fill(memory.host_address(), 8, 7);
    let done = sva.testdev.run(&order.at(sva.pasid + 1))?;
    assert_eq!(
        done.status,
        status::ATS_ERROR,
        "{}",
        status::name(done.status)
    );
    assert_eq!(memory.read_u64(0), 1);
    sva.expect(order, status::OK)?;
    assert_eq!(memory.read_u64(0), 7);
    Ok(())
}

suite!(
    driver_shows_what_nesting_needs,
    driver_complains_of_nothing,
    driver_gives_each_endpoint_a_group,
    sva_binding_enables_pasid_ats_and_pri,
    sva_device_reads_this_process,
    sva_untouched_page_comes_by_a_page_request,
    sva_page_group_is_served_as_a_whole,
    sva_without_page_requests_misses,
    sva_read_only_memory_refuses_a_write,
    sva_unmapped_memory_is_gone_for_the_device,
    sva_kernel_addresses_are_refused,
    sva_atomic_addition_meets_the_cpu,
    sva_comes_back_after_a_reset,
    sva_other_pasid_is_out_of_reach,
);
