// SPDX-License-Identifier: Apache-2.0 OR MIT
//! On which kernel and in which machine a program of the guest's runs.

use crate::boot::{Hardware, ONE_MORE, THREE_THAT_DIFFER};

/// Programs that check a machine without nesting: they have nothing to do on the other.
const WITHOUT_NESTING: [&str; 1] = ["no_nesting"];
/// Programs that see another side of a machine without nesting.
const WITHOUT_NESTING_TOO: [&str; 2] = ["doctor", "shadow"];
/// Programs whose machine's VT-d has the capabilities of the crate's unit: what Linux's driver does
/// there is replayed on that.
const RECORDED: [&str; 1] = ["hw_bringup"];
/// Programs that need Debian's idxd, which the stock kernel has.
const STOCK_ONLY: [&str; 1] = ["dsa"];
/// Programs for the devices of Debian's own QEMU.
const DEBIAN_QEMU: [&str; 1] = ["shadow_rid"];
/// Programs that check a machine whose stage 1 has four levels: they have nothing to do on the other.
/// It is booted with the patched kernel alone, which takes seconds.
const FOUR_LEVELS: [&str; 1] = ["four_levels"];
/// Programs that see another side of a machine whose CPU has five levels; booted likewise.
const FIVE_LEVEL_CPU: [&str; 2] = ["five_levels", "hw_bringup"];
/// Programs in whose way lockdep finds cycles that are not the module's, and is off after the first
/// report: they run in a machine of their own that does not prove locking. Host SVA takes
/// `mmap_lock` in the page requests' workqueue, which vfio-pci's reset closes to a cycle
/// (`memory_lock`, `iommu_group::mutex`); pciehp takes its `reset_lock` on both sides of
/// `pci_rescan_remove_lock`.
const WITHOUT_LOCKDEP: [&str; 2] = ["hotplug", "hw_bringup"];
/// Programs for a machine with two units that are alike.
const TWO_UNITS: [&str; 1] = ["two_units"];
/// Those that run there too: each device is of another unit then.
const TWO_UNITS_TOO: [&str; 21] = [
    "address_space",
    "bind",
    "blocked",
    "containers",
    "debugfs",
    "devices",
    "differential",
    "dirty_bits",
    "enemy",
    "fault",
    "fault_close",
    "invalidate",
    "isolation",
    "library",
    "mmio",
    "pasid",
    "privilege",
    "quota",
    "reserved",
    "rogue",
    "stress",
];
/// Programs for a machine with units that differ.
const UNITS: [&str; 1] = ["units"];
/// Programs that need what only the debug kernel has.
const DEBUG_ONLY: [&str; 3] = ["fail_nth", "kunit", "lock_stat"];
/// Programs that need our patches in the kernel.
const PATCHED_ONLY: [&str; 2] = ["kernel_patches", "dma_fault"];
/// Programs that need iommufd, which the patched kernel has.
const WITH_IOMMUFD: [&str; 4] = [
    "conformance_iommufd",
    "differential",
    "dirty_bits",
    "iommufd",
];
/// Programs that fail on a kernel without our patches, and are to show it.
const REPRODUCERS: [&str; 1] = ["kernel_patches"];

/// Which kernel is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Debian's own, unmodified.
    Stock,
    /// Built here from the same source with our patches and iommufd.
    Patched,
    /// The same, without our patches: what shows them necessary fails there.
    Unpatched,
    /// Built here from the patched source, to watch locks and memory.
    Debug,
}

impl Which {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Patched => "patched",
            Self::Unpatched => "unpatched",
            Self::Debug => "debug",
        }
    }

    /// The name of a run on it.
    pub fn run(self, name: &str) -> String {
        match self {
            Self::Stock => name.to_owned(),
            other => format!("{name}-{}", other.name()),
        }
    }

    /// For its command line. Where it has KUnit, the module's suites run when it is loaded.
    pub fn words(self) -> &'static str {
        match self {
            Self::Debug => " kunit.enable=1 kunit.autorun=1",
            _ => "",
        }
    }

    /// How much longer than on the stock kernel things may take.
    pub fn patience(self) -> u32 {
        match self {
            Self::Debug => 4,
            _ => 1,
        }
    }

    /// Whether a program has something to do on it.
    pub fn runs(self, program: &str) -> bool {
        let iommufd = WITH_IOMMUFD.contains(&program);
        let patched_only = iommufd || PATCHED_ONLY.contains(&program);
        if STOCK_ONLY.contains(&program) {
            return self == Self::Stock;
        }
        match self {
            Self::Stock => !DEBUG_ONLY.contains(&program) && !patched_only,
            Self::Patched => !DEBUG_ONLY.contains(&program),
            Self::Unpatched => REPRODUCERS.contains(&program),
            Self::Debug => !iommufd,
        }
    }

    /// Seconds for which the storm goes on if nobody says.
    pub fn storm(self) -> u32 {
        match self {
            Self::Debug => 120,
            _ => 3,
        }
    }
}

/// The machine that a program of the guest's runs in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The usual one.
    Usual,
    /// One whose VT-d does not nest.
    WithoutNesting,
    /// One that Debian's own QEMU emulates; booted with the stock kernel alone.
    DebianQemu,
    /// One whose driver is recorded; booted with the stock kernel alone.
    Recorded,
    /// With a stage 1 of four levels.
    FourLevels,
    /// With a CPU of five levels.
    FiveLevelCpu,
    /// One of the debug kernel's that does not prove locking.
    WithoutLockdep,
    /// One with two VT-d units, whose second endpoint is the second unit's.
    TwoUnits,
    /// One with four VT-d units that differ, each with an endpoint.
    Units,
}

impl Place {
    pub const ALL: [Self; 9] = [
        Self::Usual,
        Self::WithoutNesting,
        Self::DebianQemu,
        Self::Recorded,
        Self::FourLevels,
        Self::FiveLevelCpu,
        Self::WithoutLockdep,
        Self::TwoUnits,
        Self::Units,
    ];

    /// The name of a run in it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usual => "guest",
            Self::WithoutNesting => "guest-without-nesting",
            Self::DebianQemu => "guest-debian-qemu",
            Self::Recorded => "guest-recorded",
            Self::FourLevels => "guest-four-levels",
            Self::FiveLevelCpu => "guest-five-level-cpu",
            Self::WithoutLockdep => "guest-without-lockdep",
            Self::TwoUnits => "guest-two-units",
            Self::Units => "guest-units",
        }
    }

    /// That of a program on a kernel.
    fn of(program: &str, kernel: Which) -> Self {
        if WITHOUT_NESTING.contains(&program) {
            Self::WithoutNesting
        } else if DEBIAN_QEMU.contains(&program) {
            Self::DebianQemu
        } else if FOUR_LEVELS.contains(&program) {
            Self::FourLevels
        } else if TWO_UNITS.contains(&program) {
            Self::TwoUnits
        } else if UNITS.contains(&program) {
            Self::Units
        } else if kernel == Which::Debug && WITHOUT_LOCKDEP.contains(&program) {
            Self::WithoutLockdep
        } else {
            Self::Usual
        }
    }

    /// Whether a program runs in it on a kernel.
    pub fn runs(self, program: &str, kernel: Which) -> bool {
        match self {
            Self::FiveLevelCpu => kernel == Which::Patched && FIVE_LEVEL_CPU.contains(&program),
            Self::FourLevels => kernel == Which::Patched && FOUR_LEVELS.contains(&program),
            Self::DebianQemu => kernel == Which::Stock && DEBIAN_QEMU.contains(&program),
            Self::Recorded => kernel == Which::Stock && RECORDED.contains(&program),
            Self::WithoutNesting if WITHOUT_NESTING_TOO.contains(&program) => true,
            Self::TwoUnits if TWO_UNITS_TOO.contains(&program) => true,
            _ => Self::of(program, kernel) == self,
        }
    }

    /// What it is made of.
    pub fn hardware(self) -> Hardware {
        Hardware {
            debian_qemu: self == Self::DebianQemu,
            further: match self {
                Self::TwoUnits => ONE_MORE,
                Self::Units => THREE_THAT_DIFFER,
                _ => &[],
            },
            nesting: self != Self::WithoutNesting,
            five_levels: self != Self::FourLevels,
            five_level_cpu: self == Self::FiveLevelCpu,
            recorded: self == Self::Recorded,
            ..Hardware::USUAL
        }
    }

    /// What its kernel is told beside what every one is.
    pub fn words(self) -> &'static str {
        match self {
            Self::WithoutLockdep => " lockdep.prove_locking=0",
            _ => "",
        }
    }
}
