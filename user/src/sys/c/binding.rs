// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PASIDs, and what is bound at them.

use super::context::{invalidation, partly, Context};
use super::fault::Queue;
use super::pointer::{fill, given, read, slice};
use super::result::{done, give_back, guard, Failure, Result};
use super::space::Space;
use super::types::{
    Bound, CBdf, CInvalidation, CTranslation, HOST_IOMMU_BLOCKED, HOST_IOMMU_SPACE,
    HOST_IOMMU_STAGE1, HOST_IOMMU_STAGE2,
};
use crate::context::Translation;
use crate::nesting::Stage1Binding;
use crate::pasid::{PasidAllocation, PasidRequest};
use crate::registry::BoundTable;
use crate::types::Pasid;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// PASIDs that were allocated.
pub struct Pasids(PasidAllocation);

/// Something that is bound.
pub struct BoundHandle(Mutex<Stage1Binding>);

impl BoundHandle {
    fn new(binding: Stage1Binding) -> Box<Self> {
        Box::new(Self(Mutex::new(binding)))
    }

    /// The binding is whole whatever a thread that panicked was doing.
    fn lock(&self) -> MutexGuard<'_, Stage1Binding> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Allocates `count` PASIDs in a row, from `min` to `max`, both inclusive and from 1 to 0xfffff.
///
/// Fails with -ENOSPC if no such run is free, -EDQUOT at the quota, -EINVAL for PASID 0 or an empty
/// range.
#[no_mangle]
extern "C" fn host_iommu_pasids_alloc(
    context: Option<&Context>,
    min: u32,
    max: u32,
    count: u32,
    pasids: Option<&mut MaybeUninit<Box<Pasids>>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let place = given(pasids, "place of the PASIDs")?;
        let allocation = host.alloc_pasids(&PasidRequest {
            min: min.try_into()?,
            max: max.try_into()?,
            count,
        })?;
        place.write(Box::new(Pasids(allocation)));
        Ok(())
    })
}

/// Allocates a guest's PASID at the same number, which a passed-through device has in its own
/// registers. Several devices of the context may use it: each caller gets a handle, and the PASID
/// is freed with the last one.
///
/// Fails as host_iommu_pasids_alloc().
#[no_mangle]
extern "C" fn host_iommu_pasids_share(
    context: Option<&Context>,
    pasid: u32,
    pasids: Option<&mut MaybeUninit<Box<Pasids>>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let place = given(pasids, "place of the PASIDs")?;
        let allocation = host.shared_pasid(pasid.try_into()?)?;
        place.write(Box::new(Pasids(allocation)));
        Ok(())
    })
}

/// The lowest of the PASIDs; zero for NULL.
#[no_mangle]
extern "C" fn host_iommu_pasids_first(pasids: Option<&Pasids>) -> u32 {
    pasids.map_or(0, |pasids| pasids.0.first().get())
}

/// How many PASIDs there are; zero for NULL.
#[no_mangle]
extern "C" fn host_iommu_pasids_count(pasids: Option<&Pasids>) -> u32 {
    pasids.map_or(0, |pasids| pasids.0.count())
}

/// Frees the PASIDs now. The handle is to be given back all the same.
///
/// Fails with -EBUSY while one of them is bound.
#[no_mangle]
extern "C" fn host_iommu_pasids_release(pasids: Option<&Pasids>) -> c_int {
    done(|| Ok(given(pasids, "PASIDs")?.0.free()?))
}

/// Gives the handle back. The PASIDs are freed once nothing is bound at them.
#[no_mangle]
extern "C" fn host_iommu_pasids_free(pasids: Option<Box<Pasids>>) {
    give_back(pasids);
}

/// Binds what translates the requests that a device makes by a PASID, one of `pasids`; with NULL
/// for those and HOST_IOMMU_RID, the requests without one.
///
/// A stage-1 table is used on top of what is mapped. With a fault queue, pages that are not present
/// are asked for there; without one such a request fails. `space` is the address space of a
/// HOST_IOMMU_SPACE, and otherwise NULL.
///
/// Fails with -EOPNOTSUPP where the host cannot nest, -EINVAL for a bad table and for handles that
/// do not belong together, -ENOENT for a device that is not attached, -EBUSY where something is
/// bound, -EEXIST if the guest's PASID is bound elsewhere, -EDQUOT at the quota, -EAGAIN while the
/// device is being reset.
#[no_mangle]
extern "C" fn host_iommu_bind(
    context: Option<&Context>,
    device: CBdf,
    pasids: Option<&Pasids>,
    pasid: u32,
    translation: *const CTranslation,
    space: Option<&Space>,
    queue: Option<&Queue>,
    binding: Option<&mut MaybeUninit<Box<BoundHandle>>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let place = given(binding, "place of the binding")?;
        let translation = read(translation, "translation")?.checked()?;
        let (device, pasid) = (device.into(), Pasid::try_from(pasid)?);
        let (guest, faults) = (translation.guest(), queue.map(Queue::queue));
        if space.is_some() && translation.kind != HOST_IOMMU_SPACE {
            return Err(Failure::argument(
                "An address space that is not to be bound",
            ));
        }
        if faults.is_some() && translation.kind != HOST_IOMMU_STAGE1 {
            return Err(Failure::argument("Only tables have page requests"));
        }
        let bound = match (translation.kind, pasids) {
            (HOST_IOMMU_STAGE1, None) if pasid == Pasid::RID => {
                host.bind_rid(device, &translation.table()?, faults)
            }
            (HOST_IOMMU_BLOCKED, None) if pasid == Pasid::RID => host.block_rid(device),
            (_, None) => return Err(Failure::argument("The PASIDs are NULL")),
            (HOST_IOMMU_STAGE1, Some(pasids)) => {
                host.bind(device, &pasids.0, pasid, &translation.table()?, faults)
            }
            (HOST_IOMMU_BLOCKED, Some(pasids)) => host.block(device, &pasids.0, pasid, guest),
            (HOST_IOMMU_STAGE2, Some(pasids)) => host.bind_stage2(device, &pasids.0, pasid, guest),
            (HOST_IOMMU_SPACE, Some(pasids)) => {
                let space = given(space, "address space")?.space();
                host.bind_address_space(device, &pasids.0, pasid, space, guest)
            }
            _ => return Err(Failure::argument("The translation is of no known kind")),
        };
        place.write(BoundHandle::new(bound?));
        Ok(())
    })
}

/// Puts a stage-1 table in the place of what is bound, or HOST_IOMMU_BLOCKED, in one step. Page
/// requests that wait for the old one are cancelled.
///
/// Fails with -ENOENT if nothing is bound any more. After an error the old one is in force, or if
/// the text says so neither is and DMA is stopped: see host_iommu_binding_is_bound().
#[no_mangle]
extern "C" fn host_iommu_binding_rebind(
    binding: Option<&BoundHandle>,
    translation: *const CTranslation,
    queue: Option<&Queue>,
) -> c_int {
    done(|| {
        let binding = given(binding, "binding")?;
        let translation = read(translation, "translation")?.checked()?;
        let faults = queue.map(Queue::queue);
        match (translation.kind, faults) {
            (HOST_IOMMU_STAGE1, _) => binding.lock().rebind(&translation.table()?, faults)?,
            (HOST_IOMMU_BLOCKED, None) => binding.lock().block()?,
            (HOST_IOMMU_BLOCKED, Some(_)) => {
                return Err(Failure::argument("What is blocked has no page requests"));
            }
            _ => {
                let text = "Only a table or HOST_IOMMU_BLOCKED can take another's place";
                return Err(Failure::argument(text));
            }
        }
        Ok(())
    })
}

/// Drops what is cached of a binding; see host_iommu_flush().
#[no_mangle]
extern "C" fn host_iommu_binding_flush(
    binding: Option<&BoundHandle>,
    entries: *const CInvalidation,
    count: usize,
    done: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    super::result::done(|| {
        let binding = given(binding, "binding")?;
        let invalidation = invalidation(entries, count)?;
        partly(binding.lock().flush(&invalidation), done, count)
    })
}

/// 1 if the binding is in force, 0 if it was unbound, by itself or by host_iommu_unbind().
#[no_mangle]
extern "C" fn host_iommu_binding_is_bound(binding: Option<&BoundHandle>) -> c_int {
    guard(|| Ok(given(binding, "binding")?.lock().is_bound().into()))
}

/// Unbinds now. When it returns, nothing is translated by the table any more, and page requests
/// that waited are answered INVALID; their queue says HOST_IOMMU_CANCELLED. Done once, it does
/// nothing. The handle is to be given back all the same.
#[no_mangle]
extern "C" fn host_iommu_binding_unbind(binding: Option<&BoundHandle>) -> c_int {
    done(|| Ok(given(binding, "binding")?.lock().unbind()?))
}

/// Unbinds if need be, and gives the handle back.
#[no_mangle]
extern "C" fn host_iommu_binding_free(binding: Option<Box<BoundHandle>>) {
    give_back(binding);
}

/// Gives the tables, passthrough and blocked bindings in force, as many as there is room for, and in `count`
/// how many there are: with the tables in guest memory all that another host needs. Address spaces
/// are the caller's own, and made anew.
#[no_mangle]
extern "C" fn host_iommu_export(
    context: Option<&Context>,
    bound: *mut Bound,
    capacity: usize,
    count: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let all: Vec<Bound> = host
            .export()
            .into_iter()
            .map(|table| Bound {
                device: table.device.into(),
                pasid: table.pasid.get(),
                translation: table.translation.into(),
            })
            .collect();
        fill(bound, capacity, &all, "bindings")?;
        given(count, "count")?.write(all.len());
        Ok(())
    })
}

fn table(bound: &Bound) -> Result<BoundTable> {
    let translation = read(&bound.translation, "translation")?.checked()?;
    Ok(BoundTable {
        device: bound.device.into(),
        pasid: Pasid::try_from(bound.pasid)?,
        translation: match translation.kind {
            HOST_IOMMU_STAGE1 => Translation::Stage1(translation.table()?),
            HOST_IOMMU_STAGE2 => Translation::Stage2 {
                guest_pasid: translation.guest(),
            },
            HOST_IOMMU_BLOCKED => Translation::Blocked {
                guest_pasid: translation.guest(),
            },
            _ => {
                let text = "Only tables, stage 2 and what is blocked are imported";
                return Err(Failure::argument(text));
            }
        },
    })
}

/// Binds what host_iommu_export() gave, at the same PASIDs: all of it, or nothing. `bindings` has
/// room for `count` handles. They keep their PASIDs.
///
/// Fails as host_iommu_pasids_alloc() for PASIDs that are taken, and as host_iommu_bind().
#[no_mangle]
extern "C" fn host_iommu_import(
    context: Option<&Context>,
    bound: *const Bound,
    count: usize,
    queue: Option<&Queue>,
    bindings: *mut *mut BoundHandle,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let bound = slice(bound, count, "bindings")?;
        let tables = bound.iter().map(table).collect::<Result<Vec<_>>>()?;
        if count != 0 && (bindings.is_null() || !bindings.is_aligned()) {
            return Err(Failure::argument("The array of handles is none"));
        }
        let imported = host.import(&tables, queue.map(Queue::queue))?;
        let handles: Vec<*mut BoundHandle> = imported
            .into_iter()
            .map(|binding| Box::into_raw(BoundHandle::new(binding)))
            .collect();
        fill(bindings, count, &handles, "handles")
    })
}
