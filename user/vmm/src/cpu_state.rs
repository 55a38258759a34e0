// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a CPU is between two instructions, for another process to go on with.

use anyhow::{Context, Result};
use host_iommu::kvm::set_xsave;
use kvm_bindings::{
    kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave, Msrs,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

/// IA32_TSC_DEADLINE, which counts on the TSC and on the local APIC's timer mode.
const TSC_DEADLINE: u32 = 0x6e0;
/// Registers in one call of KVM, which takes 255.
const CHUNK: usize = 200;

/// A CPU at rest.
#[derive(Serialize, Deserialize)]
pub struct CpuState {
    registers: kvm_regs,
    special: kvm_sregs,
    extended: kvm_xsave,
    extended_control: kvm_xcrs,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    /// Model-specific registers, index and value.
    model_specific: Vec<(u32, u64)>,
    activity: kvm_mp_state,
    events: kvm_vcpu_events,
}

impl CpuState {
    /// Of a CPU that does not run.
    pub fn save(kvm: &Kvm, cpu: &VcpuFd) -> Result<Self> {
        Ok(Self {
            registers: cpu.get_regs()?,
            special: cpu.get_sregs()?,
            extended: cpu.get_xsave()?,
            extended_control: cpu.get_xcrs()?,
            debug: cpu.get_debug_regs()?,
            lapic: cpu.get_lapic()?,
            model_specific: model_specific(kvm, cpu)?,
            activity: cpu.get_mp_state()?,
            events: cpu.get_vcpu_events()?,
        })
    }

    /// Makes a new CPU of `vm`, which has its features, what was saved.
    pub fn restore(&self, vm: &VmFd, cpu: &VcpuFd) -> Result<()> {
        cpu.set_sregs(&self.special)?;
        cpu.set_regs(&self.registers)?;
        set_xsave(vm, cpu, &self.extended)?;
        cpu.set_xcrs(&self.extended_control)?;
        cpu.set_debug_regs(&self.debug)?;
        cpu.set_lapic(&self.lapic)?;
        let is_last = |register: &&(u32, u64)| register.0 == TSC_DEADLINE;
        let registers = &self.model_specific;
        let first: Vec<_> = registers.iter().filter(|it| !is_last(it)).collect();
        let last: Vec<_> = registers.iter().filter(is_last).collect();
        for part in [first, last] {
            let entry = |&&(index, data): &&(u32, u64)| entry(index, data);
            each(&part.iter().map(entry).collect::<Vec<_>>(), |msrs| {
                cpu.set_msrs(msrs)
            })?;
        }
        cpu.set_mp_state(self.activity)?;
        cpu.set_vcpu_events(&self.events)?;
        Ok(())
    }
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    }
}

/// Has KVM take or give registers, and leaves those out that it does not; gives the others.
fn each(
    entries: &[kvm_msr_entry],
    mut call: impl FnMut(&mut Msrs) -> Result<usize, kvm_ioctls::Error>,
) -> Result<Vec<kvm_msr_entry>> {
    let mut done = Vec::new();
    let mut left = entries;
    while !left.is_empty() {
        let part = left.get(..CHUNK).unwrap_or(left);
        let mut msrs = Msrs::from_entries(part).context("there are too many registers")?;
        let count = call(&mut msrs)?;
        done.extend(msrs.as_slice().iter().take(count));
        let refused = part.get(count);
        if let Some(entry) = refused {
            tracing::debug!(index = entry.index, "a register is left out");
        }
        let next = count + usize::from(refused.is_some());
        left = left.get(next..).unwrap_or_default();
    }
    Ok(done)
}

fn model_specific(kvm: &Kvm, cpu: &VcpuFd) -> Result<Vec<(u32, u64)>> {
    let list = kvm.get_msr_index_list()?;
    let entries: Vec<_> = list
        .as_slice()
        .iter()
        .map(|&index| entry(index, 0))
        .collect();
    let found = each(&entries, |msrs| cpu.get_msrs(msrs))?;
    Ok(found
        .iter()
        .map(|entry| (entry.index, entry.data))
        .collect())
}
