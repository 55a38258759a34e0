// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The decoder of fault records.

use super::Input;
use host_iommu::{
    FaultChannel, FaultEvent, FaultQueue, FaultRead, FaultRecord, Response, ResponseRecord,
};
use std::any::Any;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

/// Gives what the input says, once, and keeps the answers.
#[derive(Debug)]
struct Channel {
    fd: File,
    records: Mutex<Vec<FaultRecord>>,
    answers: Mutex<Vec<u64>>,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl FaultChannel for Channel {
    fn read(&self, records: &mut [FaultRecord]) -> io::Result<usize> {
        let given = std::mem::take(&mut *self.records.lock().expect("no panic"));
        let count = given.len().min(records.len());
        records[..count].copy_from_slice(&given[..count]);
        Ok(count)
    }

    fn write(&self, responses: &[ResponseRecord]) -> io::Result<usize> {
        let mut answers = self.answers.lock().expect("no panic");
        answers.extend(responses.iter().map(|response| response.cookie));
        Ok(responses.len())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Each group that is given is answered once, by whom it is given to or when it is dropped, and
/// nothing else is answered but groups that came before records without sense.
///
/// # Panics
///
/// If that does not hold.
pub fn records(data: &[u8]) {
    let mut input = Input::new(data);
    let mut records = Vec::new();
    while !input.is_empty() && records.len() < 256 {
        let mut record = FaultRecord {
            kind: (input.byte() % 6).into(),
            flags: (input.byte() & 15).into(),
            pasid: input.half().into(),
            // Few, so that some meet.
            cookie: (input.byte() % 4).into(),
            addr: input.word(),
            perm: input.byte().into(),
            ..Default::default()
        };
        if record.pasid > 0xff00 {
            record.pasid <<= 8;
        }
        record.device.segment = input.byte().into();
        records.push(record);
    }
    let given: Vec<u64> = records.iter().map(|record| record.cookie).collect();
    let channel = Arc::new(Channel {
        fd: File::open("/dev/null").expect("/dev/null"),
        records: Mutex::new(records),
        answers: Mutex::default(),
    });
    let queue = FaultQueue::from_channel(channel.clone());
    let mut expected: BTreeMap<u64, usize> = BTreeMap::new();
    let read = queue.read();
    let malformed = read.is_err();
    if let Ok(FaultRead::Events(events)) = read {
        for event in events {
            if let FaultEvent::PageRequests(group) = event {
                assert!(!group.requests().is_empty());
                *expected.entry(group.cookie()).or_default() += 1;
                if group.index() % 2 == 0 {
                    group
                        .respond(Response::Success)
                        .expect("the channel takes it");
                }
            }
        }
    }
    assert_eq!(queue.outstanding(), 0);
    let answers = channel.answers.lock().expect("no panic");
    if malformed {
        assert!(answers.iter().all(|cookie| given.contains(cookie)));
        return;
    }
    let mut answered: BTreeMap<u64, usize> = BTreeMap::new();
    for cookie in answers.iter() {
        *answered.entry(*cookie).or_default() += 1;
    }
    assert_eq!(answered, expected);
}
