// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What stands in the machine of a case.

use super::bench::RAM;
use super::dsa;
use super::endpoint as ep;

/// Where a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the root bus: a root-complex integrated endpoint.
    Root,
    /// Behind a root port whose slot can be powered off.
    Port,
    /// Nowhere.
    Absent,
}

/// The machine of a case.
#[derive(Debug, Clone)]
pub struct Hardware {
    /// Options of the IOMMU, `nesting=on` among them; `None`: there is no IOMMU.
    pub iommu: Option<String>,
    /// Where the endpoint is.
    pub place: Place,
    /// Its options, each after a comma.
    pub endpoint: &'static str,
    /// Where a DSA is: not in the endpoint's port.
    pub dsa: Place,
    /// Its options, each after a comma.
    pub dsa_options: &'static str,
    /// A firmware that CPUs run; without it there are none.
    pub firmware: Option<String>,
    /// Whether the machine waits for `cont` before it runs.
    pub stopped: bool,
    /// Whether it waits for an incoming migration.
    pub incoming: bool,
}

impl Hardware {
    /// The IOMMU with nesting, and the endpoint on the root bus.
    pub fn usual() -> Self {
        Self::with("nesting=on")
    }

    /// [`Hardware::usual`] with these options of the IOMMU.
    pub fn with(options: &str) -> Self {
        Self {
            iommu: Some(options.to_owned()),
            place: Place::Root,
            endpoint: "",
            dsa: Place::Absent,
            dsa_options: "",
            firmware: None,
            stopped: false,
            incoming: false,
        }
    }

    /// [`Hardware::usual`] without the IOMMU.
    pub fn plain() -> Self {
        Self {
            iommu: None,
            ..Self::usual()
        }
    }

    /// QEMU's arguments.
    pub fn args(&self) -> Vec<String> {
        let ram = format!("{}M", RAM >> 20);
        let mut args = vec!["-display", "none", "-nodefaults"];
        args.extend(["-qtest-log", "none", "-m", &ram]);
        match &self.firmware {
            Some(firmware) => {
                args.extend(["-machine", "q35,accel=tcg", "-cpu", "max"]);
                args.extend(["-bios", firmware]);
            }
            None => args.extend(["-machine", "q35,accel=qtest"]),
        }
        let iommu = self.iommu.as_ref().map(|o| format!("intel-iommu,{o}"));
        if let Some(iommu) = &iommu {
            args.extend(["-device", iommu]);
        }
        let on = |place, name, slot, options| match place {
            Place::Root => Some(format!("{name},addr={slot:#x}{options}")),
            Place::Port => Some(format!("{name},bus=port0{options}")),
            Place::Absent => None,
        };
        let endpoint = on(self.place, "pasid-dma-testdev", ep::SLOT, self.endpoint);
        let dsa = on(self.dsa, "intel-dsa", dsa::SLOT, self.dsa_options);
        let port = format!(
            "pcie-root-port,id=port0,chassis=1,slot=1,addr={:#x}",
            ep::SLOT
        );
        if [self.place, self.dsa].contains(&Place::Port) {
            // The slot itself unplugs, not ACPI.
            args.extend([
                "-global",
                "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
            ]);
            args.extend(["-device", &port]);
        }
        for device in endpoint.iter().chain(&dsa) {
            args.extend(["-device", device]);
        }
        if self.stopped {
            args.push("-S");
        }
        if self.incoming {
            args.extend(["-incoming", "defer"]);
        }
        args.into_iter().map(str::to_owned).collect()
    }
}
