// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The life of a binding under fire (kmod/fault/mod.rs) as a model: the module's own queue, every
//! interleaving of a page request, an answer and an unbind.
//!
//! What the kernel does around it is modelled by a lock and a flag: the attach handle is found
//! without a reference inside `iopf_lock`, and is gone from the core before unbind passes through
//! that lock. The variants that leave a step out must fail, each in its own way.

#[allow(dead_code, reason = "the module uses what is not modelled here")]
#[path = "../../kmod/fault/queue.rs"]
mod queue;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use loom::sync::{Arc, Mutex};
use loom::thread;
use queue::{Chained, Cookie, Ends, Next, Refusal, Slot, State};
use std::sync::atomic::AtomicU64;

/// Which step is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// None: the protocol as it is.
    Whole,
    /// Unbind does not take the responder before it lets the device go.
    AnswerAfterUnbind,
    /// Unbind does not pass through `iopf_lock` before it frees the handle.
    FreeAtOnce,
    /// An answer is given before the group is taken out.
    TwoAnswers,
}

/// What the device and the kernel know.
struct Host {
    attached: AtomicBool,
    handle_freed: AtomicBool,
    device_gone: AtomicBool,
    answers: AtomicUsize,
    iopf_lock: Mutex<()>,
    /// The chain of the only source, changed with its state held: nothing to explore.
    waiting: AtomicU64,
}

/// A page request group that is owed an answer.
#[derive(Clone)]
struct Group(Arc<Host>);

impl Group {
    fn respond(self) {
        assert!(
            !self.0.device_gone.load(SeqCst),
            "an answer uses a device that unbind has let go"
        );
        let before = self.0.answers.fetch_add(1, SeqCst);
        assert_eq!(before, 0, "a group is answered twice");
    }
}

impl Chained<Slots> for Group {
    fn chain(&self, _: &State<Slots>) -> Ends {
        Ends::from_bits(self.0.waiting.load(SeqCst))
    }

    fn set_chain(&self, _: &State<Slots>, chain: Ends) {
        self.0.waiting.store(chain.to_bits(), SeqCst);
    }
}

/// The slots of a queue, in chunks.
type Slots = Vec<Vec<Slot<Group, ()>>>;

struct Source {
    variant: Variant,
    host: Arc<Host>,
    stopping: AtomicBool,
    responder: Mutex<()>,
    state: Mutex<State<Slots>>,
}

impl Source {
    /// Steps 1 and 2: the page request thread.
    fn page_request(&self) {
        let _iopf = self.host.iopf_lock.lock().unwrap();
        if !self.host.attached.load(SeqCst) {
            // The core found no handle, and answers itself.
            self.host.answers.fetch_add(1, SeqCst);
            return;
        }
        self.use_handle();
        let group = Group(self.host.clone());
        if self.stopping.load(SeqCst) {
            group.respond();
        } else {
            let refused = self.state.lock().unwrap().push(group, 1, (), |_, _| {});
            if let Err(Refusal { group, .. }) = refused {
                group.respond();
            }
        }
        self.use_handle();
    }

    fn use_handle(&self) {
        assert!(
            !self.host.handle_freed.load(SeqCst),
            "the page request thread uses a handle that was freed"
        );
    }

    /// Step 3: a user reads and answers, if there is something to read.
    fn read_and_answer(&self) {
        let next = self.state.lock().unwrap().next(|_| true);
        let Ok(Some(Next::Group { cookie, .. })) = next else {
            return;
        };
        self.state.lock().unwrap().delivered(cookie);
        if self.state.lock().unwrap().look_up(cookie) != Cookie::Pending {
            return;
        }
        if self.variant == Variant::TwoAnswers {
            let pending = self.state.lock().unwrap().pending(cookie).cloned();
            if let Some(group) = pending {
                group.respond();
            }
            self.state.lock().unwrap().take(cookie);
            return;
        }
        let _responder = self.responder.lock().unwrap();
        let taken = self.state.lock().unwrap().take(cookie);
        if let Some(group) = taken {
            group.respond();
        }
    }

    /// Steps 4 and 5.
    fn unbind(&self) {
        self.stopping.store(true, SeqCst);
        self.host.attached.store(false, SeqCst);
        if self.variant != Variant::FreeAtOnce {
            drop(self.host.iopf_lock.lock().unwrap());
        }
        let responder =
            (self.variant != Variant::AnswerAfterUnbind).then(|| self.responder.lock().unwrap());
        loop {
            let taken = {
                let mut state = self.state.lock().unwrap();
                let chain = Ends::from_bits(self.host.waiting.load(SeqCst));
                state.take_first(chain, false, |_| true)
            };
            match taken {
                Some(group) => group.respond(),
                None => break,
            }
        }
        drop(responder);
        self.host.handle_freed.store(true, SeqCst);
        // The variant is about the handle alone.
        self.host
            .device_gone
            .store(self.variant != Variant::FreeAtOnce, SeqCst);
    }
}

fn check(variant: Variant) {
    loom::model(move || {
        let host = Arc::new(Host {
            attached: AtomicBool::new(true),
            handle_freed: AtomicBool::new(false),
            device_gone: AtomicBool::new(false),
            answers: AtomicUsize::new(0),
            iopf_lock: Mutex::new(()),
            waiting: AtomicU64::new(Ends::EMPTY.to_bits()),
        });
        let state = State::new(vec![vec![Slot::free()]]).expect("one slot");
        let source = Arc::new(Source {
            variant,
            host: host.clone(),
            stopping: AtomicBool::new(false),
            responder: Mutex::new(()),
            state: Mutex::new(state),
        });
        let threads: [fn(&Source); 2] = [Source::page_request, Source::read_and_answer];
        let threads = threads.map(|step| {
            let source = source.clone();
            thread::spawn(move || step(&source))
        });
        source.unbind();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(host.answers.load(SeqCst), 1, "a group is not answered");
    });
}

#[test]
fn every_group_is_answered_once_before_the_device_goes() {
    check(Variant::Whole);
}

#[test]
#[should_panic(expected = "an answer uses a device that unbind has let go")]
fn unbind_that_does_not_wait_for_an_answer_is_caught() {
    check(Variant::AnswerAfterUnbind);
}

#[test]
#[should_panic(expected = "the page request thread uses a handle that was freed")]
fn handle_freed_at_once_is_caught() {
    check(Variant::FreeAtOnce);
}

#[test]
#[should_panic(expected = "a group is answered twice")]
fn answer_before_taking_the_group_out_is_caught() {
    check(Variant::TwoAnswers);
}
