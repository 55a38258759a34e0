// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Holes that page requests fill.

use super::*;

/// A world whose table is bound with a queue, and whose first-stage table maps [`AT`].
fn bound(memory: &GuestMemory) -> (World, Table<'_>, FaultQueue) {
    memory.alloc(TABLES, PAGE);
    let table = Table::new(memory);
    table.map(AT, PAGE_0, entry::RW);
    let mut world = shadowed(memory, table.root(), Shadowing::PageRequests);
    world.table = world.table.with_cookie(88).with_guest_pasid(77);
    world.map(memory, 0, SIZE, MapAccess::ReadWrite);
    let options = FaultQueueOptions::nonblocking();
    let queue = world.host.fault_queue(&options).expect("a queue");
    let pasid = world.pasids.first();
    let bound = world
        .host
        .bind(DEVICE, &world.pasids, pasid, &world.table, Some(&queue));
    world.binding = Some(bound.expect("a binding"));
    (world, table, queue)
}

impl World {
    /// Starts a DMA that asks for pages.
    fn ask(&self, dma: Dma) -> DmaId {
        let dma = dma.at(self.pasids.first());
        self.device.submit(dma).expect("a DMA")
    }

    fn end(&self, dma: DmaId) -> Option<DmaEnd> {
        self.device.wait(dma, Duration::ZERO)
    }
}

fn group(queue: &FaultQueue) -> FaultGroup {
    match queue.read().expect("a read") {
        FaultRead::Events(mut events) => match (events.pop(), events.len()) {
            (Some(FaultEvent::PageRequests(group)), 0) => group,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn done(gpa: u64) -> Option<DmaEnd> {
    value(gpa).map(DmaEnd::Done)
}

#[test]
fn page_that_is_there_by_now_is_filled_without_a_word_to_the_guest() {
    let memory = filled();
    let (world, table, queue) = bound(&memory);
    let nesting = world.host.capabilities().expect("capabilities").nesting;
    let nesting = nesting.expect("nesting");
    assert_eq!(nesting.shadowed, Some(Shadowing::PageRequests));
    assert!(nesting.page_requests.is_present() && nesting.stage1.is_present());
    let there = world.ask(Dma::read(Iova(AT), 8));
    assert_eq!(world.end(there), done(PAGE_0));
    // No invalidation tells of it.
    table.map(AT + PAGE, PAGE_1, entry::RW);
    let filled = world.ask(Dma::read(Iova(AT + PAGE), 8));
    assert_eq!(world.end(filled), None);
    assert!(matches!(queue.read(), Ok(FaultRead::Empty)));
    assert_eq!(world.end(filled), done(PAGE_1));
    assert_eq!(queue.outstanding(), 0);
    // From now on it is held, also for writes.
    let write = world.ask(Dma::write(Iova(AT + PAGE + 8), &[7; 8]));
    assert_eq!(world.end(write), Some(DmaEnd::Done(vec![])));
    // And an invalidation takes it out again.
    table.unmap(AT + PAGE);
    world.flush(range(AT + PAGE, PAGE));
    assert_eq!(world.dma(Dma::read(Iova(AT + PAGE), 8)), None);
    let stats = world.host.stats().expect("counters");
    assert_eq!((stats.page_requests, stats.responses), (1, 1));
}

#[test]
fn page_that_is_not_there_is_the_guests_to_answer() {
    let memory = filled();
    let (world, table, queue) = bound(&memory);
    let at = AT + PAGE;
    let read = world.ask(Dma::read(Iova(at), 8));
    let asked = group(&queue);
    assert_eq!((asked.guest_pasid(), asked.user_cookie()), (77, 88));
    assert_eq!(asked.requests()[0].address, Iova(at));
    assert_eq!(world.end(read), None);
    table.map(at, PAGE_1, entry::R);
    asked.respond(Response::Success).expect("an answer");
    assert_eq!(world.end(read), done(PAGE_1));
    // More rights are asked for as a page is.
    let write = world.ask(Dma::write(Iova(at), &[7; 8]));
    let asked = group(&queue);
    assert!(asked.requests()[0].access.write);
    asked.respond(Response::Invalid).expect("an answer");
    assert_eq!(world.end(write), Some(DmaEnd::Invalid(Iova(at))));
    assert_eq!(memory.read_u64(PAGE_1), PAGE_1);
    // A lie of the guest's has the device ask again.
    let again = world.ask(Dma::write(Iova(at), &[7; 8]));
    group(&queue).respond(Response::Success).expect("an answer");
    assert_eq!(world.end(again), None);
    table.map(at, PAGE_1, entry::RW);
    assert!(matches!(queue.read(), Ok(FaultRead::Empty)));
    assert_eq!(world.end(again), Some(DmaEnd::Done(vec![])));
    assert_eq!(memory.read_u64(PAGE_1), 0x0707_0707_0707_0707);
}

#[test]
fn group_with_a_page_that_is_not_there_is_the_guests_whole() {
    let memory = filled();
    let (world, table, queue) = bound(&memory);
    world.device.set_group_size(4);
    let at = AT + PAGE;
    table.map(at, PAGE_1, entry::R);
    let read = world.ask(Dma::read(Iova(at), 2 * PAGE as usize));
    let asked = group(&queue);
    assert_eq!(asked.requests().len(), 2);
    table.map(at + PAGE, PAGE_0, entry::R);
    asked.respond(Response::Success).expect("an answer");
    let Some(DmaEnd::Done(bytes)) = world.end(read) else {
        panic!("the read has not ended");
    };
    assert_eq!(bytes[..8], PAGE_1.to_le_bytes());
    assert_eq!(bytes[PAGE as usize..][..8], PAGE_0.to_le_bytes());
}

#[test]
fn group_of_a_binding_that_goes_is_cancelled() {
    let memory = filled();
    let (mut world, table, queue) = bound(&memory);
    let read = world.ask(Dma::read(Iova(AT + PAGE), 8));
    let asked = group(&queue);
    let cookie = asked.cookie();
    table.map(AT + PAGE, PAGE_1, entry::RW);
    world.binding = None;
    assert!(matches!(world.end(read), Some(DmaEnd::Invalid(_))));
    match queue.read().expect("a read") {
        FaultRead::Events(events) => match events.as_slice() {
            [FaultEvent::Cancelled(gone)] => assert_eq!(*gone, cookie),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    asked.respond(Response::Success).expect("a late answer");
    assert_eq!(world.host.stats().expect("counters").address_spaces, 0);
}

#[test]
fn page_that_the_host_does_not_translate_is_answered_invalid() {
    let memory = filled();
    let (world, table, queue) = bound(&memory);
    // The last page that the host translates.
    let upper = 1u64 << 47;
    table.map(upper - PAGE, PAGE_1, entry::RW);
    let read = world.ask(Dma::read(Iova(upper - PAGE), 8));
    assert!(matches!(queue.read(), Ok(FaultRead::Empty)));
    assert_eq!(world.end(read), done(PAGE_1));
    // The host does not translate these.
    let beyond = 0xffff_8000_0000_0000;
    table.map(beyond, PAGE_1, entry::RW);
    let read = world.ask(Dma::read(Iova(beyond), 8));
    assert!(matches!(queue.read(), Ok(FaultRead::Empty)));
    assert_eq!(world.end(read), Some(DmaEnd::Invalid(Iova(beyond))));
    assert_eq!(queue.outstanding(), 0);
}

#[test]
fn promise_of_page_requests_needs_a_queue() {
    let memory = filled();
    let (world, ..) = bound(&memory);
    let pasids = world.host.alloc_pasids(&PasidRequest::any());
    let pasids = pasids.expect("a PASID");
    let table = world.table.with_guest_pasid(78);
    let refused = world
        .host
        .bind(DEVICE, &pasids, pasids.first(), &table, None);
    let error = refused.expect_err("no queue");
    assert!(matches!(error, Error::NotShadowed { .. }), "{error:?}");
    assert!(error.to_string().contains("holes"), "{error}");
    let elsewhere = filled();
    let (other, ..) = bound(&elsewhere);
    let foreign = other.host.fault_queue(&FaultQueueOptions::default());
    let foreign = foreign.expect("a queue");
    let refused = world
        .host
        .bind(DEVICE, &pasids, pasids.first(), &table, Some(&foreign));
    let errno = refused.expect_err("another context's queue").errno();
    assert_eq!(errno, Some(Errno::EINVAL as i32));
}

#[test]
fn queue_of_a_shadow_that_is_gone_ends() {
    let memory = filled();
    let (world, _, queue) = bound(&memory);
    let World {
        host,
        pasids,
        binding,
        ..
    } = world;
    drop((binding, pasids, host));
    assert!(matches!(queue.read(), Ok(FaultRead::Ended)));
}
