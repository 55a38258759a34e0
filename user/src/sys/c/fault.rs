// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fault queues.

use super::context::Context;
use super::pointer::{fill, given, read, write};
use super::result::{done, give_back, guard, Failure};
use super::types::{
    requested, CBdf, Event, Page, QueueOptions, HOST_IOMMU_CANCELLED, HOST_IOMMU_DMA_FAULT,
    HOST_IOMMU_EXPIRED, HOST_IOMMU_INVALID, HOST_IOMMU_OVERFLOW, HOST_IOMMU_PAGE_REQUESTS,
    HOST_IOMMU_RID, HOST_IOMMU_SUCCESS,
};
use crate::fault::{FaultEvent, FaultGroup, FaultQueue, FaultQueueOptions, FaultRead, Response};
use crate::sys::Errno;
use crate::types::Pasid;
use std::collections::VecDeque;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A fault queue.
pub struct Queue {
    queue: FaultQueue,
    /// What one read gave and nobody has taken yet: bounded by what a read gives, since the next
    /// comes when this is empty.
    waiting: Mutex<VecDeque<FaultEvent>>,
}

impl Queue {
    pub(super) fn queue(&self) -> &FaultQueue {
        &self.queue
    }
}

/// A page request group that waits for its answer.
pub struct Group(FaultGroup);

/// Makes a fault queue, for any number of bindings of the context. `options` may be NULL.
///
/// Fails with -EDQUOT at the quota, -EINVAL for too large a depth.
#[no_mangle]
extern "C" fn host_iommu_queue_new(
    context: Option<&Context>,
    options: *const QueueOptions,
    queue: Option<&mut MaybeUninit<Box<Queue>>>,
) -> c_int {
    done(|| {
        let host = &given(context, "context")?.host;
        let place = given(queue, "place of the queue")?;
        let mut made = FaultQueueOptions::nonblocking();
        if !options.is_null() {
            let options = read(options, "options")?;
            made.depth = (options.depth != 0).then_some(options.depth);
            let deadline = Duration::from_millis(options.deadline_ms.into());
            made.deadline = (!deadline.is_zero()).then_some(deadline);
            made.dma_faults = options.dma_faults != 0;
        }
        place.write(Box::new(Queue {
            queue: host.fault_queue(&made)?,
            waiting: Mutex::default(),
        }));
        Ok(())
    })
}

/// The queue's fd, to poll for POLLIN, or a negative errno. It is the queue's: not to be read,
/// written or closed. What it tells counts only after host_iommu_queue_next() gave 0.
#[no_mangle]
extern "C" fn host_iommu_queue_fd(queue: Option<&Queue>) -> c_int {
    guard(|| Ok(given(queue, "queue")?.queue.as_fd().as_raw_fd()))
}

fn address(event: &mut Event, device: CBdf, pasid: Option<Pasid>) {
    (event.segment, event.bus, event.devfn) = (device.segment, device.bus, device.devfn);
    event.pasid = pasid.map_or(HOST_IOMMU_RID, Pasid::get);
}

fn describe(event: &FaultEvent) -> Event {
    let mut described = Event::default();
    match event {
        FaultEvent::PageRequests(group) => {
            described.kind = HOST_IOMMU_PAGE_REQUESTS;
            address(&mut described, group.device().into(), group.pasid());
            described.guest_pasid = group.guest_pasid();
            described.reason = group.index();
            described.pages = u32::try_from(group.requests().len()).unwrap_or(u32::MAX);
            described.cookie = group.cookie();
            described.user_cookie = group.user_cookie();
        }
        FaultEvent::Dma(fault) => {
            described.kind = HOST_IOMMU_DMA_FAULT;
            address(&mut described, fault.device.into(), fault.pasid);
            described.guest_pasid = fault.guest_pasid;
            described.access = requested(fault.access);
            described.reason = fault.reason;
            described.address = fault.address.0;
            described.user_cookie = fault.user_cookie;
        }
        FaultEvent::Overflow(lost) => {
            (described.kind, described.cookie) = (HOST_IOMMU_OVERFLOW, *lost);
        }
        FaultEvent::Cancelled(cookie) => {
            (described.kind, described.cookie) = (HOST_IOMMU_CANCELLED, *cookie);
        }
        FaultEvent::Expired(cookie) => {
            (described.kind, described.cookie) = (HOST_IOMMU_EXPIRED, *cookie);
        }
    }
    described
}

/// Takes the next event, without waiting: 1 if there was one, 0 if there is none now, -EPIPE if
/// there will be none any more since the context is gone.
///
/// Of HOST_IOMMU_PAGE_REQUESTS `group` gets a handle, which is answered or given back; otherwise
/// NULL.
#[no_mangle]
extern "C" fn host_iommu_queue_next(
    queue: Option<&Queue>,
    event: *mut Event,
    group: Option<&mut MaybeUninit<Option<Box<Group>>>>,
) -> c_int {
    guard(|| {
        let queue = given(queue, "queue")?;
        let place = given(group, "place of the group")?;
        // Before something is taken that could not be told.
        write(event, &Event::default(), "event")?;
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            match queue.queue.read()? {
                FaultRead::Events(events) => waiting.extend(events),
                FaultRead::Empty => {}
                FaultRead::Ended => {
                    return Err(Failure::new(Errno::EPIPE, "The context is gone"));
                }
            }
        }
        let Some(taken) = waiting.pop_front() else {
            place.write(None);
            return Ok(0);
        };
        write(event, &describe(&taken), "event")?;
        place.write(match taken {
            FaultEvent::PageRequests(group) => Some(Box::new(Group(group))),
            _ => None,
        });
        Ok(1)
    })
}

/// Nothing is read any more, before a snapshot or a reset: page requests wait in the host.
/// host_iommu_queue_next() still gives what was read before.
#[no_mangle]
extern "C" fn host_iommu_queue_freeze(queue: Option<&Queue>) -> c_int {
    done(|| {
        given(queue, "queue")?.queue.freeze();
        Ok(())
    })
}

/// Reading goes on.
#[no_mangle]
extern "C" fn host_iommu_queue_thaw(queue: Option<&Queue>) -> c_int {
    done(|| {
        given(queue, "queue")?.queue.thaw();
        Ok(())
    })
}

/// Waits until every group that was read is answered, for so many milliseconds at most; `left` gets
/// the number that is not.
#[no_mangle]
extern "C" fn host_iommu_queue_drain(
    queue: Option<&Queue>,
    limit_ms: u32,
    left: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    done(|| {
        let queue = &given(queue, "queue")?.queue;
        let left = given(left, "number left")?;
        left.write(queue.drain(Duration::from_millis(limit_ms.into())));
        Ok(())
    })
}

/// Gives a queue back. Everything that waits is answered INVALID, and so is every later page
/// request of its bindings.
#[no_mangle]
extern "C" fn host_iommu_queue_free(queue: Option<Box<Queue>>) {
    give_back(queue);
}

/// Gives the pages of a group: as many as there is room for, and in `count` how many there are.
#[no_mangle]
extern "C" fn host_iommu_group_pages(
    group: Option<&Group>,
    pages: *mut Page,
    capacity: usize,
    count: Option<&mut MaybeUninit<usize>>,
) -> c_int {
    done(|| {
        let requests = given(group, "group")?.0.requests();
        let all: Vec<Page> = requests
            .iter()
            .map(|request| Page {
                address: request.address.0,
                access: requested(request.access),
                reserved: 0,
            })
            .collect();
        fill(pages, capacity, &all, "pages")?;
        given(count, "count")?.write(all.len());
        Ok(())
    })
}

/// Answers a group with HOST_IOMMU_SUCCESS or HOST_IOMMU_INVALID, and gives its handle back,
/// whatever comes of it. An answer to a group that was cancelled meanwhile has no effect.
///
/// Fails with -EPIPE if the queue was given back: the host has answered INVALID. With -EINVAL for
/// another answer: then it is INVALID.
#[no_mangle]
extern "C" fn host_iommu_group_respond(group: Option<Box<Group>>, response: u32) -> c_int {
    done(|| {
        let group = *given(group, "group")?;
        let response = match response {
            HOST_IOMMU_SUCCESS => Response::Success,
            HOST_IOMMU_INVALID => Response::Invalid,
            _ => return Err(Failure::argument("The answer is of no known kind")),
        };
        Ok(group.0.respond(response)?)
    })
}

/// Answers INVALID, and gives the handle back.
#[no_mangle]
extern "C" fn host_iommu_group_free(group: Option<Box<Group>>) {
    give_back(group);
}
