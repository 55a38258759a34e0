// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Interrupts: KVM's interrupt controllers, and eventfds that send messages.

use anyhow::{Context, Result};
use kvm_bindings::{
    kvm_irq_routing_entry, kvm_msi, KvmIrqRouting, KVM_IRQCHIP_IOAPIC, KVM_IRQ_ROUTING_IRQCHIP,
    KVM_IRQ_ROUTING_MSI,
};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

/// Pins of the IOAPIC, which are the first global interrupts.
const PINS: u32 = 24;
/// Most global interrupts that KVM routes.
const GSIS: u32 = 4096;

/// A message that interrupts a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

impl Message {
    /// Whether its delivery mode is fixed, lowest priority or NMI (SDM, 11.11.2). The others begin
    /// firmware, which this machine has none of: an SMI would end it.
    fn is_deliverable(&self) -> bool {
        matches!(self.data >> 8 & 7, 0 | 1 | 4)
    }
}

/// The interrupts of a VM.
#[derive(Debug)]
pub struct Interrupts {
    vm: Arc<VmFd>,
    /// The messages of the global interrupts from [`PINS`] on that have been given out.
    routes: Mutex<BTreeMap<u32, Message>>,
}

/// What a device signals to interrupt the guest by a message.
#[derive(Debug)]
pub struct Vector {
    interrupts: Arc<Interrupts>,
    event: EventFd,
    gsi: u32,
    connected: bool,
}

impl Interrupts {
    /// Of a VM that has its interrupt controllers.
    pub fn new(vm: Arc<VmFd>) -> Result<Arc<Self>> {
        let interrupts = Arc::new(Self {
            vm,
            routes: Mutex::default(),
        });
        interrupts.set_routes(&interrupts.routes())?;
        Ok(interrupts)
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<u32, Message>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An eventfd that is a pin of the IOAPIC, edge-triggered.
    pub fn pin(&self, pin: u32) -> Result<EventFd> {
        let event = EventFd::new(EFD_NONBLOCK).context("cannot make an eventfd")?;
        self.vm
            .register_irqfd(&event, pin)
            .with_context(|| format!("KVM does not connect pin {pin}"))?;
        Ok(event)
    }

    /// A vector that `event` signals, which is connected to nothing yet.
    pub fn vector(self: &Arc<Self>, event: EventFd) -> Result<Vector> {
        let mut routes = self.routes();
        let gsi = (PINS..GSIS)
            .find(|gsi| !routes.contains_key(gsi))
            .context("there are no more interrupts")?;
        routes.insert(gsi, Message::default());
        Ok(Vector {
            interrupts: self.clone(),
            event,
            gsi,
            connected: false,
        })
    }

    /// Interrupts the guest now.
    pub fn send(&self, message: Message) {
        if !message.is_deliverable() {
            return;
        }
        let msi = kvm_msi {
            address_lo: message.address as u32,
            address_hi: (message.address >> 32) as u32,
            data: message.data,
            ..kvm_msi::default()
        };
        if let Err(error) = self.vm.signal_msi(msi) {
            tracing::warn!(%error, ?message, "an interrupt could not be sent");
        }
    }

    /// KVM takes all routes at once, the pins' too.
    fn set_routes(&self, routes: &BTreeMap<u32, Message>) -> Result<()> {
        let mut entries = Vec::new();
        for pin in 0..PINS {
            let mut entry = kvm_irq_routing_entry {
                gsi: pin,
                type_: KVM_IRQ_ROUTING_IRQCHIP,
                ..kvm_irq_routing_entry::default()
            };
            entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
            entry.u.irqchip.pin = pin;
            entries.push(entry);
        }
        for (&gsi, message) in routes
            .iter()
            .filter(|(_, message)| message.is_deliverable())
        {
            let mut entry = kvm_irq_routing_entry {
                gsi,
                type_: KVM_IRQ_ROUTING_MSI,
                ..kvm_irq_routing_entry::default()
            };
            entry.u.msi.address_lo = message.address as u32;
            entry.u.msi.address_hi = (message.address >> 32) as u32;
            entry.u.msi.data = message.data;
            entries.push(entry);
        }
        let routing = KvmIrqRouting::from_entries(&entries).context("too many interrupts")?;
        self.vm
            .set_gsi_routing(&routing)
            .context("KVM does not take the interrupts' routes")
    }
}

impl Vector {
    /// What the device signals.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Connects it to a message, or to nothing: what is signalled meanwhile comes when it is connected
    /// again.
    pub fn connect(&mut self, message: Option<Message>) -> Result<()> {
        if let Some(message) = message {
            let mut routes = self.interrupts.routes();
            if routes.insert(self.gsi, message) != Some(message) {
                self.interrupts.set_routes(&routes)?;
            }
        }
        let vm = &self.interrupts.vm;
        match (message.is_some(), self.connected) {
            (true, false) => vm.register_irqfd(&self.event, self.gsi),
            (false, true) => vm.unregister_irqfd(&self.event, self.gsi),
            _ => Ok(()),
        }
        .context("KVM does not connect an interrupt")?;
        self.connected = message.is_some();
        Ok(())
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        // A VM that is gone has no routes.
        drop(self.connect(None));
        self.interrupts.routes().remove(&self.gsi);
    }
}
