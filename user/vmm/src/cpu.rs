// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's CPUs: what they start with, and the threads that run them.

use crate::boot::ZERO_PAGE;
use crate::bus::Bus;
use crate::memory::Ram;
use crate::platform::{End, Ender};
use crate::seccomp::{self, Thread};
use anyhow::{Context, Result};
use kvm_bindings::{
    kvm_msr_entry, kvm_regs, kvm_segment, CpuId, Msrs, KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    KVM_MAX_CPUID_ENTRIES,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::signal::{register_signal_handler, Killable, SIGRTMIN};

/// A global descriptor table, and tables that map the first 4 GiB to themselves by pages of 2 MiB.
const GDT: u64 = 0x500;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
const PD: u64 = 0xb000;
const PDS: u64 = 4;
const PRESENT_WRITABLE: u64 = 3;
const LARGE: u64 = 1 << 7;

/// Selectors that the boot protocol asks for, and what they stand for.
const CODE: (u16, u64) = (0x10, 0x00af_9b00_0000_ffff);
const DATA: (u16, u64) = (0x18, 0x00cf_9300_0000_ffff);

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// Enabled, all memory write-back.
const WRITE_BACK: u64 = 0xc06;

/// The buses that a CPU reaches.
pub struct Buses {
    /// Ports.
    pub ports: Bus,
    /// Memory that is not RAM.
    pub memory: Bus,
    /// How often CPUs came out of the guest.
    pub exits: AtomicU64,
}

/// CPUs on threads of their own, which wait until they may run: nothing can fail any more.
pub struct ReadyCpus {
    gates: Vec<Sender<()>>,
    cpus: Cpus,
}

impl ReadyCpus {
    /// Lets them run.
    pub fn run(self) -> Cpus {
        for gate in &self.gates {
            // Its thread waits for this, or for the gate to go.
            let _ = gate.send(());
        }
        self.cpus
    }
}

/// CPUs that run. They stop when this is dropped.
pub struct Cpus {
    threads: Vec<JoinHandle<VcpuFd>>,
    stop: Arc<AtomicBool>,
}

extern "C" fn interrupted(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Makes `count` CPUs, as they are after power-on.
pub fn create(kvm: &Kvm, vm: &VmFd, count: u8) -> Result<Vec<VcpuFd>> {
    let mut cpus = Vec::new();
    for number in 0..count {
        let cpu = vm
            .create_vcpu(number.into())
            .with_context(|| format!("KVM does not make CPU {number}"))?;
        cpu.set_cpuid2(&cpuid(kvm, number, count)?)
            .context("KVM does not take the CPU's features")?;
        let msrs = Msrs::from_entries(
            &[
                (MSR_MISC_ENABLE, FAST_STRINGS),
                (MSR_MTRR_DEF_TYPE, WRITE_BACK),
            ]
            .map(|(index, data)| kvm_msr_entry {
                index,
                data,
                ..kvm_msr_entry::default()
            }),
        )
        .context("there are too many registers")?;
        cpu.set_msrs(&msrs).context("KVM does not take registers")?;
        cpus.push(cpu);
    }
    Ok(cpus)
}

/// Has the first CPU begin at `entry`. The others begin when it says so.
pub fn boot(first: &VcpuFd, ram: &Ram, entry: u64) -> Result<()> {
    write_tables(ram)?;
    set_registers(first, entry).context("KVM does not take the first CPU's registers")
}

impl Cpus {
    /// Gives each CPU a thread.
    pub fn prepare(cpus: Vec<VcpuFd>, buses: &Arc<Buses>, ender: &Arc<Ender>) -> Result<ReadyCpus> {
        register_signal_handler(SIGRTMIN(), interrupted).context("cannot handle a signal")?;
        let mut prepared = ReadyCpus {
            gates: Vec::new(),
            cpus: Self {
                threads: Vec::new(),
                stop: Arc::default(),
            },
        };
        let (tell, told) = mpsc::channel();
        for (number, cpu) in cpus.into_iter().enumerate() {
            let stop = prepared.cpus.stop.clone();
            let (buses, ender, tell) = (buses.clone(), ender.clone(), tell.clone());
            let (gate, opened) = mpsc::channel();
            let thread = thread::Builder::new()
                .name(format!("cpu{number}"))
                .spawn(move || {
                    drop(tell.send(seccomp::apply(Thread::Cpu)));
                    match opened.recv() {
                        Ok(()) => run(cpu, &stop, &buses, &ender),
                        Err(_) => cpu,
                    }
                })
                .context("cannot make a thread")?;
            prepared.gates.push(gate);
            prepared.cpus.threads.push(thread);
            told.recv().context("a thread has ended")??;
        }
        Ok(prepared)
    }

    /// Stops them between two instructions.
    pub fn stop(&mut self) -> Vec<VcpuFd> {
        self.stop.store(true, Ordering::Release);
        let threads = self.threads.drain(..).map(|thread| {
            // A signal that comes just before KVM_RUN interrupts nothing: until it does.
            while !thread.is_finished() {
                let _ = thread.kill(SIGRTMIN());
                thread::sleep(Duration::from_micros(500));
            }
            thread.join().ok()
        });
        threads.flatten().collect()
    }
}

impl Drop for Cpus {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

fn run(mut cpu: VcpuFd, stop: &AtomicBool, buses: &Buses, ender: &Ender) -> VcpuFd {
    loop {
        let stopping = stop.load(Ordering::Acquire);
        if stopping {
            // KVM ends the instruction that an access was for, and begins no other.
            cpu.set_kvm_immediate_exit(1);
        }
        let end = match cpu.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                buses.ports.read(port.into(), data);
                None
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                buses.ports.write(port.into(), data);
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                buses.memory.read(address, data);
                None
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                buses.memory.write(address, data);
                None
            }
            // A triple fault.
            Ok(VcpuExit::Shutdown) => Some(End::Reset),
            // An instruction that KVM cannot emulate, or a state that no CPU can be in.
            Ok(other) => Some(End::Broken(format!("{other:?}"))),
            Err(error) => match error.errno() {
                libc::EINTR | libc::EAGAIN if stopping => {
                    cpu.set_kvm_immediate_exit(0);
                    return cpu;
                }
                libc::EINTR | libc::EAGAIN => None,
                // KVM has given the machine up, as for an SMI (enter_smm): there is no SMRAM.
                libc::EIO => Some(End::Broken("KVM has given the machine up".into())),
                _ => Some(End::Failed(format!("KVM cannot run a CPU: {error}"))),
            },
        };
        buses.exits.fetch_add(1, Ordering::Relaxed);
        if let Some(end) = end {
            ender.end(end);
            return cpu;
        }
    }
}

/// What KVM offers, with the numbers that make a CPU this one.
fn cpuid(kvm: &Kvm, number: u8, count: u8) -> Result<CpuId> {
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .context("KVM does not say which features CPUs have")?;
    let number = u32::from(number);
    let count = u32::from(count);
    let topology = [0xb, 0x1f];
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let leaves: Vec<_> = cpuid
        .as_slice()
        .iter()
        .filter(|entry| !topology.contains(&entry.function))
        .copied()
        .collect();
    cpuid = CpuId::from_entries(&leaves).context("there are too many features")?;
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0xffff | number << 24 | count << 16;
                // The hypervisor's own; a timer of the local APIC; several CPUs of one package.
                entry.ecx |= 1 << 31 | u32::from(deadline) << 24;
                entry.edx |= u32::from(count > 1) << 28;
            }
            0x8000_0008 => entry.ecx = entry.ecx & !0xff | (count - 1),
            0x8000_001e => {
                entry.eax = number;
                entry.ebx = number;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    // A thread a core, all cores in one package (SDM, CPUID leaf 0xb).
    let bits = u32::BITS - (count - 1).leading_zeros();
    for (index, (shift, level, kind)) in [(0, 1, 1), (bits, count, 2)].into_iter().enumerate() {
        let index = index as u32;
        let entry = kvm_bindings::kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: level,
            ecx: index | kind << 8,
            edx: number,
            ..Default::default()
        };
        cpuid.push(entry).context("there are too many features")?;
    }
    Ok(cpuid)
}

/// The tables that the boot protocol wants the kernel to be started with.
fn write_tables(ram: &Ram) -> Result<()> {
    for (selector, descriptor) in [CODE, DATA] {
        ram.write_obj(descriptor, GuestAddress(GDT + u64::from(selector)))?;
    }
    ram.write_obj(PDPT | PRESENT_WRITABLE, GuestAddress(PML4))?;
    for table in 0..PDS {
        let entry = (PD + table * 0x1000) | PRESENT_WRITABLE;
        ram.write_obj(entry, GuestAddress(PDPT + table * 8))?;
    }
    for page in 0..PDS * 512 {
        let entry = page << 21 | PRESENT_WRITABLE | LARGE;
        ram.write_obj(entry, GuestAddress(PD + page * 8))?;
    }
    Ok(())
}

/// The segment that a descriptor of [`CODE`] or [`DATA`] stands for.
fn segment((selector, descriptor): (u16, u64)) -> kvm_segment {
    // CAST: bits of the descriptor.
    let bits = |from: u32, width: u32| (descriptor >> from) as u8 & ((1u16 << width) - 1) as u8;
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: bits(40, 4),
        s: bits(44, 1),
        dpl: bits(45, 2),
        present: bits(47, 1),
        avl: bits(52, 1),
        l: bits(53, 1),
        db: bits(54, 1),
        g: bits(55, 1),
        ..kvm_segment::default()
    }
}

fn set_registers(cpu: &VcpuFd, entry: u64) -> Result<(), kvm_ioctls::Error> {
    let mut special = cpu.get_sregs()?;
    special.cs = segment(CODE);
    let data = segment(DATA);
    for place in [
        &mut special.ds,
        &mut special.es,
        &mut special.fs,
        &mut special.gs,
        &mut special.ss,
    ] {
        *place = data;
    }
    special.gdt.base = GDT;
    special.gdt.limit = DATA.0 + 7;
    special.cr0 = special.cr0 | CR0_PE | CR0_PG;
    special.cr3 = PML4;
    special.cr4 |= CR4_PAE;
    special.efer |= EFER_LME | EFER_LMA;
    cpu.set_sregs(&special)?;
    cpu.set_regs(&kvm_regs {
        rip: entry,
        rsi: ZERO_PAGE,
        rflags: 2,
        ..kvm_regs::default()
    })
}
