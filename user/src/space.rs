// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Address spaces of the host's: what a VMM maps entry by entry, instead of a guest's table.

use crate::context::HostIommu;
use crate::error::{is_gone, Error, Operation, Result};
use crate::registry::Registry;
use crate::types::{Gpa, IovaRange, MapAccess};
use std::fmt;
use std::sync::Arc;

/// Names an address space of a context; not used again while the context has a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AddressSpaceId(u32);

impl AddressSpaceId {
    /// For backends: the host's number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for AddressSpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One range of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpaceEntry {
    /// Addresses in the address space, whole pages of 4 KiB.
    pub range: IovaRange,
    /// Where in the memory that is mapped they lead to.
    pub gpa: Gpa,
    /// What devices may do.
    pub access: MapAccess,
}

#[derive(Debug)]
pub(crate) struct Held {
    host: HostIommu,
    id: AddressSpaceId,
    /// The name in the registry: another one there is another's.
    name: u64,
}

impl Held {
    fn destroy(&self) -> Result<()> {
        // Held over the call: the outcome is known before anybody else is told of it.
        let mut registry = self.host.registry();
        if !registry.has_space(self.id.get(), self.name) {
            return Ok(());
        }
        let destroyed = self.host.context().destroy_address_space(self.id);
        if destroyed.is_ok() || is_gone(&destroyed) {
            registry.destroy_space(self.id.get());
            return Ok(());
        }
        destroyed
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The context destroys what is left when it goes; nothing else can be done here.
        let _ = self.destroy();
    }
}

/// An address space of a context: to shadow a guest's table where hardware cannot nest, or to give
/// a queue of a device some memory and no more. It is destroyed when this and every binding of it
/// are gone.
#[derive(Debug)]
pub struct AddressSpace {
    held: Arc<Held>,
}

impl AddressSpace {
    pub(crate) fn new(host: HostIommu) -> Result<Self> {
        let mut registry = host.registry();
        let id = host.context().create_address_space()?;
        let name = registry.create_space(id.get());
        drop(registry);
        Ok(Self {
            held: Arc::new(Held { host, id, name }),
        })
    }

    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Whether it is still there.
    pub(crate) fn is_held(&self, registry: &Registry) -> bool {
        registry.has_space(self.id().get(), self.held.name)
    }

    pub(crate) fn is_of(&self, host: &HostIommu) -> bool {
        self.held.host.is(host)
    }

    /// Its name.
    pub fn id(&self) -> AddressSpaceId {
        self.held.id
    }

    /// Maps entries in order. Each leads into memory that is mapped already, pins nothing, and goes
    /// when some of that memory is unmapped.
    ///
    /// # Errors
    ///
    /// [`Error::Entries`] names the first entry that failed, those before it are in force: EEXIST
    /// where something is mapped, EFAULT for memory that is not, EPERM for more access than the
    /// memory has, EINVAL for what is no whole pages or cannot be translated, EDQUOT at the quota.
    pub fn map(&self, entries: &[AddressSpaceEntry]) -> Result<()> {
        let context = self.held.host.context();
        context.map_address_space(self.id(), entries)
    }

    /// Takes the entries out that lie in ranges. When it returns, no device uses them.
    ///
    /// # Errors
    ///
    /// [`Error::Entries`] with EINVAL for a range that would cut an entry in two.
    pub fn unmap(&self, ranges: &[IovaRange]) -> Result<()> {
        let context = self.held.host.context();
        context.unmap_address_space(self.id(), ranges)
    }

    /// Destroys it now, and says whether it worked. Where it is gone already it does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] with EBUSY while it is bound; dropping tries again.
    pub fn destroy(&self) -> Result<()> {
        self.held.destroy()
    }
}

/// What backends without address spaces say.
pub(crate) fn unsupported<T>(what: &'static str) -> Result<T> {
    let operation = Operation::AddressSpace(what);
    Err(Error::failed(operation, crate::sys::Errno::EOPNOTSUPP))
}
