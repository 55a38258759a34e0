// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest's VT-d unit, and shadows.

/// A VT-d unit offers stage-1 tables of five levels beside those of four.
pub const HOST_IOMMU_VTD_FIVE_LEVELS: u32 = 1 << 0;
/// Stage-1 pages of 1 GiB.
pub const HOST_IOMMU_VTD_HUGE_PAGES: u32 = 1 << 1;
/// Page requests.
pub const HOST_IOMMU_VTD_PAGE_REQUESTS: u32 = 1 << 2;
/// Device TLBs (ATS), without which there are no page requests.
pub const HOST_IOMMU_VTD_DEVICE_TLBS: u32 = 1 << 3;
/// Requests of a supervisor.
pub const HOST_IOMMU_VTD_SUPERVISOR: u32 = 1 << 4;
/// Extended accessed flags.
pub const HOST_IOMMU_VTD_EXTENDED_ACCESSED: u32 = 1 << 5;

/// Tables in the format of the second stage: for a context that shadows. None of the first, but with
/// HOST_IOMMU_VTD_BOTH_STAGES.
pub const HOST_IOMMU_VTD_SECOND_STAGE: u32 = 1 << 6;
/// Tables in the format of the first stage beside those of the second.
pub const HOST_IOMMU_VTD_BOTH_STAGES: u32 = 1 << 7;
/// Interrupt remapping, by host_iommu_vtd_remap().
pub const HOST_IOMMU_VTD_INTERRUPT_REMAPPING: u32 = 1 << 8;
/// Destinations of interrupts of 32 bits, for more than 255 CPUs.
pub const HOST_IOMMU_VTD_EXTENDED_INTERRUPTS: u32 = 1 << 9;
/// Snoop control.
pub const HOST_IOMMU_VTD_SNOOP_CONTROL: u32 = 1 << 10;
/// Walks of tables see what CPUs have in their caches.
pub const HOST_IOMMU_VTD_COHERENT_WALKS: u32 = 1 << 11;

/// A guest tells of each change of its second-stage tables, as it does for a unit with caching mode;
/// tables of the first stage are refused.
pub const HOST_IOMMU_SHADOW_CACHING_MODE: u32 = 1;
/// It tells of each change of any table; Linux does not for those of the first stage.
pub const HOST_IOMMU_SHADOW_EVERY_CHANGE: u32 = 2;
/// It tells of what changes or goes, and page requests fill the holes: bindings need a fault queue.
pub const HOST_IOMMU_SHADOW_PAGE_REQUESTS: u32 = 3;
/// As HOST_IOMMU_SHADOW_CACHING_MODE; tables of the first stage are nested by the context below.
pub const HOST_IOMMU_SHADOW_SECOND_STAGE: u32 = 4;

/// What a VT-d unit is and offers.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnitConfig {
    /// Set to sizeof(struct host_iommu_vtd_config).
    pub size: u32,
    /// HOST_IOMMU_VTD_FIVE_LEVELS to HOST_IOMMU_VTD_COHERENT_WALKS.
    pub flags: u32,
    /// The guest-physical address of its registers, on a page.
    pub base: u64,
    /// The PCI segment of the devices behind it.
    pub segment: u32,
    /// Bits of guest-physical addresses, 39 to 52.
    pub address_bits: u32,
    /// Bits of a PASID, 6 to 20.
    pub pasid_bits: u32,
    /// Zero.
    pub reserved: u32,
}

/// A region of a guest's memory: a part of a file.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// Guest-physical.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// Of its first byte in the file.
    pub fd_offset: u64,
    /// The file.
    pub fd: i32,
    /// Zero.
    pub reserved: u32,
}

/// An interrupt message: `data` is written to `address`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Msi {
    pub address: u64,
    pub data: u32,
    /// Zero.
    pub reserved: u32,
}
