// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The calls of linux/vfio.h on a device: what it has, its interrupts, its reset.

use crate::plain::Plain;
use crate::{call_number, vfio::request, Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

const GET_INFO: u32 = request(7);
const GET_REGION_INFO: u32 = request(8);
const GET_IRQ_INFO: u32 = request(9);
const SET_IRQS: u32 = request(10);
const RESET: u32 = request(11);

/// Requests of `ioctl` that the functions here make.
pub const REQUESTS: [u32; 5] = [GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, SET_IRQS, RESET];

/// Longer than any reply: a sparse region of a page each for 4,000 areas.
const MAX_REPLY: usize = 1 << 16;

/// A call whose reply starts with `argsz` and may be longer than was asked for: the whole reply.
/// `words` are the first 32-bit words of the request after `argsz`.
fn reply(device: BorrowedFd<'_>, number: u32, fixed: usize, words: &[u32]) -> Result<Vec<u8>> {
    let mut len = fixed;
    loop {
        // The call wants no alignment: the kernel copies.
        let mut bytes = vec![0u8; len];
        let argsz = u32::try_from(len).map_err(|_| Errno::E2BIG)?;
        let start = std::iter::once(argsz).chain(words.iter().copied());
        let start = start.flat_map(u32::to_ne_bytes);
        bytes
            .iter_mut()
            .zip(start)
            .for_each(|(to, from)| *to = from);
        // SAFETY: the kernel writes `argsz` bytes at most, the size of `bytes`.
        let value = unsafe {
            libc::ioctl(
                device.as_raw_fd(),
                number as libc::Ioctl,
                bytes.as_mut_ptr(),
            )
        };
        Errno::result(value)?;
        let needed = u32::from_bytes(&bytes).map_or(0, |needed| needed as usize);
        if needed <= len {
            return Ok(bytes);
        }
        if needed > MAX_REPLY {
            return Err(Errno::E2BIG);
        }
        len = needed;
    }
}

/// `VFIO_DEVICE_GET_INFO`: the reply as bytes (`struct vfio_device_info`), with its chain of
/// capabilities.
pub fn info(device: BorrowedFd<'_>) -> Result<Vec<u8>> {
    reply(device, GET_INFO, 24, &[])
}

/// `VFIO_DEVICE_GET_REGION_INFO`: the reply as bytes (`struct vfio_region_info`), with its chain of
/// capabilities.
pub fn region_info(device: BorrowedFd<'_>, index: u32) -> Result<Vec<u8>> {
    // Flags, then the index.
    reply(device, GET_REGION_INFO, 32, &[0, index])
}

/// `VFIO_DEVICE_GET_IRQ_INFO`: flags and the number of vectors (`struct vfio_irq_info`).
pub fn irq_info(device: BorrowedFd<'_>, index: u32) -> Result<(u32, u32)> {
    let bytes = reply(device, GET_IRQ_INFO, 16, &[0, index])?;
    let word = |at: usize| {
        let bytes = bytes.get(at..at.checked_add(4)?)?;
        u32::from_bytes(bytes)
    };
    word(4).zip(word(12)).ok_or(Errno::EPROTO)
}

/// `VFIO_DEVICE_SET_IRQS`: `flags` are `VFIO_IRQ_SET_*`, the vectors `start` to `start + count`;
/// `data` is what follows for `VFIO_IRQ_SET_DATA_EVENTFD`, a descriptor or -1 for each vector, and
/// empty otherwise.
pub fn set_irqs(
    device: BorrowedFd<'_>,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
    data: &[Option<BorrowedFd<'_>>],
) -> Result<()> {
    const HEADER: usize = 5;
    let argsz = data
        .len()
        .checked_add(HEADER)
        .and_then(|words| words.checked_mul(size_of::<u32>()));
    let argsz = argsz.and_then(|bytes| u32::try_from(bytes).ok());
    let argsz = argsz.ok_or(Errno::EINVAL)?;
    let mut words = vec![argsz, flags, index, start, count];
    // CAST: the kernel reads `__s32`.
    words.extend(
        data.iter()
            .map(|fd| fd.map_or(-1, |fd| fd.as_raw_fd()) as u32),
    );
    // SAFETY: the kernel reads `argsz` bytes at most, the size of `words`, and writes none.
    let value = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            SET_IRQS as libc::Ioctl,
            words.as_mut_ptr(),
        )
    };
    Errno::result(value)?;
    Ok(())
}

/// `VFIO_DEVICE_RESET`.
pub fn reset(device: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the call takes no argument.
    unsafe { call_number(device, RESET, 0) }?;
    Ok(())
}
