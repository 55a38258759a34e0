// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Functions of the kernel that take longer (qemu-boot/probes), so that a race is met every time.

use super::check::wait_until;
use super::probe::Probe;
use crate::ktap::{fail, Outcome};
use nix::sched::CpuSet;
use std::fs;
use std::time::Duration;

/// A function to delay.
#[derive(Clone, Copy, Debug)]
pub struct Delay {
    /// Its name.
    pub function: &'static str,
    /// When it returns, instead of when it starts.
    pub at_return: bool,
    /// For how long.
    pub time: Duration,
}

/// Delays that are in force until this is dropped.
#[derive(Debug)]
pub struct Delays(Probe);

impl Delays {
    /// Delays three functions at most.
    ///
    /// # Errors
    ///
    /// If the module is not there or does not find a function.
    pub fn start(delays: &[Delay]) -> Outcome<Self> {
        let list = |item: fn(&Delay) -> String| -> String {
            delays.iter().map(item).collect::<Vec<_>>().join(",")
        };
        let parameters = format!(
            "function={} at_return={} ms={}",
            list(|delay| delay.function.to_owned()),
            list(|delay| u8::from(delay.at_return).to_string()),
            list(|delay| delay.time.as_millis().to_string()),
        );
        Ok(Self(Probe::load("delay_function", &parameters)?))
    }

    /// How often function number `index` was called.
    ///
    /// # Errors
    ///
    /// If the module does not say.
    pub fn calls(&self, index: usize) -> Outcome<u32> {
        let text = fs::read_to_string(format!("{}/calls", self.0.parameters()))?;
        match text.trim().split(',').nth(index).map(str::parse) {
            Some(Ok(calls)) => Ok(calls),
            _ => fail(format!("calls: {text}")),
        }
    }

    /// Waits until function number `index` is called.
    ///
    /// # Errors
    ///
    /// If it is not within the deadline.
    pub fn wait_for_call(&self, index: usize) -> Outcome {
        wait_until("a call of the delayed function", || {
            Ok(self.calls(index)? != 0)
        })
    }
}

/// Lets this thread run on one CPU alone.
///
/// # Errors
///
/// If there is no such CPU.
pub fn pin_to_cpu(cpu: usize) -> Outcome {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
    Ok(())
}

/// Lets the page request thread of every IOMMU unit run on one CPU alone.
///
/// # Errors
///
/// If there is none.
pub fn pin_page_request_threads(cpu: u32) -> Outcome {
    let interrupts = fs::read_to_string("/proc/interrupts")?;
    let numbers: Vec<_> = interrupts
        .lines()
        .filter(|line| line.trim_end().ends_with("-prq"))
        .filter_map(|line| line.split(':').next())
        .collect();
    if numbers.is_empty() {
        return fail("no interrupt of a page request queue");
    }
    for number in numbers {
        let path = format!("/proc/irq/{}/smp_affinity", number.trim());
        fs::write(path, format!("{:x}", 1 << cpu))?;
    }
    Ok(())
}
