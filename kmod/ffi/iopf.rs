// SPDX-License-Identifier: GPL-2.0
//! Page request groups that the IOMMU core hands over.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::attach::Handle;
use super::shim;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::ffi::c_int;
use kernel::prelude::*;
use kernel::sync::Arc;

/// `IOMMU_FAULT_PAGE_REQUEST_PASID_VALID` of linux/iommu.h.
const PASID_VALID: u32 = 1 << 0;

/// One page request, as the device sent it.
#[derive(Clone, Copy)]
pub(crate) struct PageRequest {
    /// The page's address.
    pub(crate) addr: u64,
    /// `IOMMU_FAULT_PERM_*`, the bits of `VFIO_IOASID_FAULT_PERM_*`.
    pub(crate) perm: u32,
    /// The PASID, if the request carried one.
    pub(crate) pasid: Option<u32>,
    /// The device's page request group index.
    pub(crate) group: u32,
}

/// The answer to a group (PCIe 6.0, 10.4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// The pages are there: try again.
    Success,
    /// The pages are not to be had.
    Invalid,
}

/// Where the page requests of an attachment go.
pub(crate) trait PageRequests: Send + Sync {
    /// Takes a group. Waits for nothing that is held across attach or detach, whose drain waits for
    /// this thread.
    fn page_request(self: Arc<Self>, group: PageGroup, thread: PageRequestThread<'_>);
}

/// Says that the page request thread of an IOMMU unit is in our handler: what asks is attached
/// still.
pub(crate) struct PageRequestThread<'a>(PhantomData<&'a ()>);

/// A page request group that is owed an answer; dropped, it is answered INVALID.
///
/// # Invariants
///
/// - `group` is live, dequeued from the IOMMU core, and not answered.
/// - The device that asked is behind its IOMMU unit while the value lives: the value lives in the
///   page request thread until the handler returns, or in the queue of a binding, whose end
///   answers what is its own before it lets go of the device.
pub(crate) struct PageGroup {
    group: NonNull<bindings::iopf_group>,
}

// SAFETY: A dequeued group may be answered from any thread.
unsafe impl Send for PageGroup {}

impl PageGroup {
    pub(super) fn as_ptr(&self) -> *const bindings::iopf_group {
        self.group.as_ptr()
    }

    /// Number of page requests in the group, one at least.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: The group is live by the invariant; the count does not change any more.
        unsafe { (*self.group.as_ptr()).fault_count }
    }

    /// Calls `each` with every page request of a group of `N` at most, in the order they came
    /// in. A longer group is [`E2BIG`].
    pub(crate) fn for_each<const N: usize>(
        &self,
        mut each: impl FnMut(PageRequest) -> Result,
    ) -> Result {
        let mut requests = [const { MaybeUninit::<shim::PageRequest>::uninit() }; N];
        let first = requests.as_mut_ptr().cast();
        // SAFETY: The group is live by the invariant, and `first` is the first of `N` entries.
        let count = unsafe { shim::ioasid_iopf_read(self.group.as_ptr(), first, N) };
        for request in requests.get(..count).ok_or(E2BIG)? {
            // SAFETY: The call has written as many as it says.
            let request = unsafe { request.assume_init_ref() };
            each(PageRequest {
                addr: request.addr,
                perm: request.perm,
                pasid: (request.flags & PASID_VALID != 0).then_some(request.pasid),
                group: request.grpid,
            })?;
        }
        Ok(())
    }

    /// Answers the group. Sleeps.
    pub(crate) fn respond(self, response: Response) {
        self.send(response);
        core::mem::forget(self);
    }

    fn send(&self, response: Response) {
        let code = match response {
            Response::Success => bindings::iommu_page_response_code_IOMMU_PAGE_RESP_SUCCESS,
            Response::Invalid => bindings::iommu_page_response_code_IOMMU_PAGE_RESP_INVALID,
        };
        // SAFETY: The group is live and unanswered, and its device in place, by the invariant.
        unsafe { bindings::iopf_group_response(self.group.as_ptr(), code) };
        // SAFETY: It was answered just now and is on no list; both callers give it up.
        unsafe { bindings::iopf_free_group(self.group.as_ptr()) };
    }
}

impl Drop for PageGroup {
    fn drop(&mut self) {
        self.send(Response::Invalid);
    }
}

/// Runs in the page request thread of the IOMMU unit.
///
/// # Safety
///
/// - `group` is null, or live and queued with the IOMMU core, which lets go of it here.
/// - It came to a domain that is attached with a [`Handle`] alone, and `intel_iommu::iopf_lock` is
///   held: a handle is not freed before a passage through that.
#[no_mangle]
unsafe extern "C" fn ioasid_iopf_handler(group: *mut bindings::iopf_group) -> c_int {
    let Some(group) = NonNull::new(group) else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the requirement.
    unsafe { bindings::iopf_group_dequeue(group.as_ptr()) };
    // SAFETY: By the requirement; the field is set before the handler is called.
    let handle = unsafe { (*group.as_ptr()).attach_handle };
    // INVARIANT: Dequeued just now; with our return value the answer is ours to give.
    let group = PageGroup { group };
    // SAFETY: By the requirement.
    let handle = unsafe { Handle::from_raw(handle) };
    match handle.page_requests() {
        Some(requests) => requests.page_request(group, PageRequestThread(PhantomData)),
        None => group.respond(Response::Invalid),
    }
    0
}
