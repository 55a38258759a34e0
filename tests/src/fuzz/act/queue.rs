// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Fault queues: made, read, answered, copied and closed.

use super::*;

impl With<'_> {
    pub(super) fn queue(&self, choices: &mut Choices<'_>) -> Done {
        let Some(container) = self.container() else {
            return Ok(());
        };
        let at = usize::from(choices.byte()) % QUEUES;
        // A read that blocks would hold its thread up: those are for the tests.
        let flags = VFIO_IOASID_FAULT_QUEUE_NONBLOCK
            | choices.pick(&[
                0,
                VFIO_IOASID_FAULT_QUEUE_CLOEXEC,
                VFIO_IOASID_FAULT_QUEUE_DMA,
                16,
            ]);
        let depth = choices.pick(&[8, 64, 1, 3, 8, 64, 8, 64, 0, 16_385]);
        let deadline = choices.pick(&[0, 0, 1, 20, u32::MAX]);
        let made = host_iommu_sys::ioasid::fault_queue(container.as_fd(), flags, depth, deadline)?;
        let queue = Arc::new(FaultQueue::from_fd(made));
        *lock(&self.scene.world.queues[at]) = Some(queue);
        Ok(())
    }

    pub(super) fn read(&self, choices: &mut Choices<'_>) -> Done {
        let Some(queue) = self.queue_at(choices.byte()) else {
            return Ok(());
        };
        let edge = self.scene.edge;
        match choices.byte() % 8 {
            0..=4 => {
                let records = queue.read_all_or_error().map_err(|error| error.errno)?;
                for record in records {
                    if record.kind == VFIO_IOASID_FAULT_PAGE_REQUEST {
                        self.scene.world.cookies.add(record.cookie);
                    }
                }
                Ok(())
            }
            5 => {
                let room = choices.pick(&[RECORD, RECORD - 1, 0, 2 * RECORD + 7]);
                raw::read_at_address(queue.as_fd(), edge.end() - room as u64, room).map(drop)
            }
            6 => {
                // Some of it is accessible.
                let room = choices.pick(&[0, RECORD, 8, RECORD + 8]) as u64;
                raw::read_at_address(queue.as_fd(), edge.end() - room, 4 * RECORD).map(drop)
            }
            _ => raw::read_at_address(queue.as_fd(), INACCESSIBLE, 4 * RECORD).map(drop),
        }
    }

    pub(super) fn write(&self, choices: &mut Choices<'_>) -> Done {
        let Some(queue) = self.queue_at(choices.byte()) else {
            return Ok(());
        };
        let code = choices.pick(&[0, 1, 0, 1, 2, u32::MAX]);
        let count = choices.pick(&[1u8, 2, 8, 32]);
        let back = choices.byte();
        let mut bytes = Vec::new();
        for index in 0..count {
            let cookie = match back {
                0..=223 => self
                    .scene
                    .world
                    .cookies
                    .get((back % 32).wrapping_add(index)),
                224..=239 => u64::from(back),
                _ => u64::MAX - u64::from(back),
            };
            let mut answer = response(cookie, code);
            answer.__reserved = u32::from(choices.byte() == 255);
            bytes.extend(bytes_of(&answer));
        }
        match choices.byte() % 16 {
            13 => bytes.truncate(bytes.len() - 1),
            14 => return raw::write_at_address(queue.as_fd(), INACCESSIBLE, bytes.len()).map(drop),
            15 => {
                let edge = self.scene.edge.end() - 16;
                return raw::write_at_address(queue.as_fd(), edge, 32).map(drop);
            }
            _ => {}
        }
        errno(queue.write_bytes(&bytes))
    }

    pub(super) fn poll(&self, choices: &mut Choices<'_>) -> Done {
        let Some(queue) = self.queue_at(choices.byte()) else {
            return Ok(());
        };
        let wanted = PollFlags::POLLIN | PollFlags::POLLOUT | PollFlags::POLLHUP;
        errno(poll(
            &queue,
            wanted,
            Duration::from_millis(u64::from(choices.byte() % 2)),
        ))
    }

    pub(super) fn queue_close(&self, choices: &mut Choices<'_>) -> Done {
        let at = usize::from(choices.byte()) % QUEUES;
        drop(lock(&self.scene.world.queues[at]).take());
        Ok(())
    }

    pub(super) fn queue_copy(&self, choices: &mut Choices<'_>) -> Done {
        let Some(queue) = self.queue_at(choices.byte()) else {
            return Ok(());
        };
        let at = usize::from(choices.byte()) % QUEUES;
        if let Ok(copy) = queue.duplicate() {
            *lock(&self.scene.world.queues[at]) = Some(Arc::new(copy));
        }
        Ok(())
    }

    pub(super) fn queue_call(&self, choices: &mut Choices<'_>) -> Done {
        let Some(queue) = self.queue_at(choices.byte()) else {
            return Ok(());
        };
        match choices.byte() % 2 {
            0 => errno(queue.seek()),
            _ => errno(queue.raw_ioctl(VFIO_IOASID_STATS, &mut [0; 64])),
        }
    }

    /// A child that has the queue for a while.
    pub(super) fn child(&self, choices: &mut Choices<'_>) -> Done {
        if let Some(Ok(copy)) = self.queue_at(choices.byte()).map(|queue| queue.duplicate()) {
            let child = Command::new("/bin/true")
                .stdin(Stdio::from(copy.into_fd()))
                .spawn();
            if let Ok(mut child) = child {
                let _ = child.wait();
            }
        }
        Ok(())
    }
}
