// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The emulated CPU's virtualisation (SVM), by a guest of twenty bytes under KVM: an interrupt
//! that KVM injects is delivered once. QEMU's own emulation delivers one again that is followed by
//! nothing but another CPU's turn, which hangs guests that have just turned interrupts off
//! (`qemu-boot/qemu/patches/0004-*`).

use host_iommu::kvm::{Slot, Slots};
use host_iommu_tests::ktap::{fail, skip, Outcome};
use host_iommu_tests::{kvm, suite};
use kvm_bindings::{kvm_lapic_state, kvm_msi, kvm_regs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

const RAM: usize = 1 << 16;
/// The guest counts down from here, a few milliseconds, and writes to a port: a round.
const COUNT: u32 = 1 << 20;
const CODE: u64 = 0x1000;
/// Counts an interrupt.
const HANDLER: u64 = 0x1100;
const COUNTER: u64 = 0x500;
const PORT: u16 = 0x10;
const VECTOR: u8 = 0x20;
const ROUNDS: u16 = 100;
/// RFLAGS.IF, and the bit that is always set.
const FLAGS: u64 = 1 << 9 | 2;
/// The local APIC's spurious-interrupt register, with its software enable.
const SPURIOUS: usize = 0xf0;
const ENABLED: u32 = 1 << 8;

/// The guest's code, in real mode: `start: mov ecx, COUNT; again: dec ecx; jnz again; out PORT, al;
/// jmp start`.
fn code() -> Vec<u8> {
    let mut code = vec![0x66, 0xb9];
    code.extend(COUNT.to_le_bytes());
    code.extend([0x66, 0x49, 0x75, 0xfc, 0xe6, PORT as u8, 0xeb, 0xf2]);
    code
}

/// `inc word [COUNTER]; iret`
const HANDLER_CODE: [u8; 5] = [0xff, 0x06, 0x00, 0x05, 0xcf];

struct Guest {
    cpu: VcpuFd,
    vm: Arc<VmFd>,
    ram: GuestMemoryMmap,
    _slots: Vec<Slot>,
    lapic: kvm_lapic_state,
}

impl Guest {
    fn new() -> Outcome<Self> {
        let vm = Arc::new(Kvm::new()?.create_vm()?);
        let ram = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), RAM)])?;
        let slots = Slots::new(vm.clone());
        let shown: Result<_, _> = ram
            .iter()
            .map(|region| slots.map(region.start_addr().0, region.get_mmap()))
            .collect();
        let slots: Vec<Slot> = shown?;
        vm.create_irq_chip()?;
        let cpu = vm.create_vcpu(0)?;
        ram.write_slice(&code(), GuestAddress(CODE))?;
        ram.write_slice(&HANDLER_CODE, GuestAddress(HANDLER))?;
        ram.write_obj(HANDLER as u32, GuestAddress(u64::from(VECTOR) * 4))?;
        let mut special = cpu.get_sregs()?;
        (special.cs.base, special.cs.selector) = (0, 0);
        cpu.set_sregs(&special)?;
        cpu.set_regs(&kvm_regs {
            rip: CODE,
            rsp: 0x8000,
            rflags: FLAGS,
            ..Default::default()
        })?;
        let mut lapic = cpu.get_lapic()?;
        let bytes = (ENABLED | u32::from(u8::MAX)).to_le_bytes();
        for (place, byte) in lapic.regs.iter_mut().skip(SPURIOUS).zip(bytes) {
            *place = byte as _;
        }
        Ok(Self {
            cpu,
            vm,
            _slots: slots,
            ram,
            lapic,
        })
    }

    /// Sends an interrupt, and runs the guest until its round ends. The local APIC is as new, which
    /// is the end of the interrupt before.
    fn round(&mut self) -> Outcome {
        self.cpu.set_lapic(&self.lapic)?;
        self.vm.signal_msi(kvm_msi {
            address_lo: 0xfee0_0000,
            data: VECTOR.into(),
            ..Default::default()
        })?;
        match self.cpu.run()? {
            VcpuExit::IoOut(PORT, _) => Ok(()),
            other => fail(format!("the guest ended by {other:?}")),
        }
    }

    fn counted(&self) -> Outcome<u16> {
        Ok(self.ram.read_obj(GuestAddress(COUNTER))?)
    }
}

/// Keeps the other CPU's timer busy, whose interrupts end this CPU's turn.
fn with_company(work: impl FnOnce() -> Outcome) -> Outcome {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_micros(200));
            }
        });
        let outcome = work();
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

fn injected_interrupt_is_delivered_once() -> Outcome {
    if !kvm::load()? {
        return skip("the kernel has no KVM");
    }
    let mut guest = Guest::new()?;
    with_company(|| {
        for round in 1..=ROUNDS {
            guest.round()?;
            let counted = guest.counted()?;
            if counted != round {
                return fail(format!(
                    "the guest saw {counted} interrupts, it was sent {round}"
                ));
            }
        }
        Ok(())
    })
}

suite!(injected_interrupt_is_delivered_once);
