// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sizes, flags, pointers and unknown calls: the rules that every call shares.

use host_iommu_bindings::ioctl::*;
use host_iommu_bindings::uapi::*;
use host_iommu_tests::rig::{
    bind_at, bytes_of, expect_errno, expect_ok, program, size_u32, Errno, Outcome, Rig, Space, Stop,
};

/// One new call: its size, the flags it knows, and how to make arguments it accepts.
struct Call {
    name: &'static str,
    number: u32,
    size: usize,
    /// Flags that are refused are all others.
    known_flags: u32,
    /// Prepares what the call needs and returns its arguments.
    good: fn(&Rig) -> Result<Vec<u8>, Stop>,
}

const CALLS: [Call; 12] = [
    Call {
        name: "PASID_ALLOC",
        number: VFIO_IOASID_PASID_ALLOC,
        size: size_of::<vfio_ioasid_pasid_alloc>(),
        known_flags: 0,
        good: good_pasid_alloc,
    },
    Call {
        name: "PASID_FREE",
        number: VFIO_IOASID_PASID_FREE,
        size: size_of::<vfio_ioasid_pasid_free>(),
        known_flags: 0,
        good: good_pasid_free,
    },
    Call {
        name: "BIND",
        number: VFIO_IOASID_BIND,
        size: size_of::<vfio_ioasid_bind>(),
        known_flags: VFIO_IOASID_BIND_RID
            | VFIO_IOASID_BIND_REPLACE
            | VFIO_IOASID_BIND_STAGE2
            | VFIO_IOASID_BIND_AS,
        good: good_bind,
    },
    Call {
        name: "UNBIND",
        number: VFIO_IOASID_UNBIND,
        size: size_of::<vfio_ioasid_unbind>(),
        known_flags: SCOPES,
        good: good_unbind,
    },
    Call {
        name: "INVALIDATE",
        number: VFIO_IOASID_INVALIDATE,
        size: size_of::<vfio_ioasid_invalidate>(),
        known_flags: SCOPES,
        good: good_invalidate,
    },
    Call {
        name: "FAULT_QUEUE",
        number: VFIO_IOASID_FAULT_QUEUE,
        size: size_of::<vfio_ioasid_fault_queue>(),
        known_flags: VFIO_IOASID_FAULT_QUEUE_CLOEXEC
            | VFIO_IOASID_FAULT_QUEUE_NONBLOCK
            | VFIO_IOASID_FAULT_QUEUE_DMA,
        good: good_fault_queue,
    },
    Call {
        name: "DEVICES",
        number: VFIO_IOASID_DEVICES,
        size: size_of::<vfio_ioasid_devices>(),
        known_flags: 0,
        good: good_devices,
    },
    Call {
        name: "STATS",
        number: VFIO_IOASID_STATS,
        size: size_of::<vfio_ioasid_stats>(),
        known_flags: 0,
        good: good_stats,
    },
    Call {
        name: "AS_CREATE",
        number: VFIO_IOASID_AS_CREATE,
        size: size_of::<vfio_ioasid_as_create>(),
        known_flags: 0,
        good: good_as_create,
    },
    Call {
        name: "AS_DESTROY",
        number: VFIO_IOASID_AS_DESTROY,
        size: size_of::<vfio_ioasid_as_destroy>(),
        known_flags: 0,
        good: good_as_destroy,
    },
    Call {
        name: "AS_MAP",
        number: VFIO_IOASID_AS_MAP,
        size: size_of::<vfio_ioasid_as_change>(),
        known_flags: 0,
        good: good_as_change,
    },
    Call {
        name: "AS_UNMAP",
        number: VFIO_IOASID_AS_UNMAP,
        size: size_of::<vfio_ioasid_as_change>(),
        known_flags: 0,
        good: good_as_change,
    },
];

fn good_as_create(_rig: &Rig) -> Result<Vec<u8>, Stop> {
    Ok([16u32, 0, 0, 0].map(u32::to_ne_bytes).concat())
}

fn new_address_space(rig: &Rig) -> Result<u32, Stop> {
    let mut bytes = good_as_create(rig)?;
    rig.container.raw(VFIO_IOASID_AS_CREATE, &mut bytes)?;
    Ok(u32::from_ne_bytes([
        bytes[8], bytes[9], bytes[10], bytes[11],
    ]))
}

fn good_as_destroy(rig: &Rig) -> Result<Vec<u8>, Stop> {
    let id = new_address_space(rig)?;
    Ok([16u32, 0, id, 0].map(u32::to_ne_bytes).concat())
}

/// A change of no entries.
fn good_as_change(rig: &Rig) -> Result<Vec<u8>, Stop> {
    let id = new_address_space(rig)?;
    let entry_len = size_u32::<vfio_ioasid_as_entry>();
    let words = [
        size_u32::<vfio_ioasid_as_change>(),
        0,
        id,
        entry_len,
        0,
        0,
        0,
        0,
    ];
    Ok(words.map(u32::to_ne_bytes).concat())
}

const SCOPES: u32 = VFIO_IOASID_SCOPE_BINDING
    | VFIO_IOASID_SCOPE_DEVICE
    | VFIO_IOASID_SCOPE_CONTAINER
    | VFIO_IOASID_SCOPE_RID;

fn good_pasid_alloc(_rig: &Rig) -> Result<Vec<u8>, Stop> {
    Ok(bytes_of(&vfio_ioasid_pasid_alloc {
        argsz: size_u32::<vfio_ioasid_pasid_alloc>(),
        min: 1,
        max: VFIO_IOASID_PASID_LIMIT - 1,
        count: 1,
        ..Default::default()
    }))
}

fn good_pasid_free(rig: &Rig) -> Result<Vec<u8>, Stop> {
    Ok(bytes_of(&vfio_ioasid_pasid_free {
        argsz: size_u32::<vfio_ioasid_pasid_free>(),
        pasid: rig.container.pasid_alloc_any()?,
        count: 1,
        ..Default::default()
    }))
}

fn good_bind(rig: &Rig) -> Result<Vec<u8>, Stop> {
    let space = Space::new(rig)?;
    // The stage-1 data must stay where it is until the call: it is leaked on purpose.
    let data: &'static [u8] = Box::leak(space.stage1_data().into_boxed_slice());
    Ok(bytes_of(&bind_at(rig.id(), space.pasid, data)))
}

fn good_unbind(rig: &Rig) -> Result<Vec<u8>, Stop> {
    let space = Space::new(rig)?;
    space.bind(rig)?;
    Ok(bytes_of(&vfio_ioasid_unbind {
        argsz: size_u32::<vfio_ioasid_unbind>(),
        flags: VFIO_IOASID_SCOPE_BINDING,
        device: rig.id(),
        pasid: space.pasid,
    }))
}

fn good_invalidate(rig: &Rig) -> Result<Vec<u8>, Stop> {
    Ok(bytes_of(&vfio_ioasid_invalidate {
        argsz: size_u32::<vfio_ioasid_invalidate>(),
        flags: VFIO_IOASID_SCOPE_DEVICE,
        device: rig.id(),
        ..Default::default()
    }))
}

fn good_fault_queue(_rig: &Rig) -> Result<Vec<u8>, Stop> {
    Ok(bytes_of(&vfio_ioasid_fault_queue {
        argsz: size_u32::<vfio_ioasid_fault_queue>(),
        flags: VFIO_IOASID_FAULT_QUEUE_CLOEXEC,
        ..Default::default()
    }))
}

fn good_devices(_rig: &Rig) -> Result<Vec<u8>, Stop> {
    Ok(bytes_of(&vfio_ioasid_devices {
        argsz: size_u32::<vfio_ioasid_devices>(),
        entry_len: size_u32::<vfio_ioasid_device_info>(),
        ..Default::default()
    }))
}

fn good_stats(_rig: &Rig) -> Result<Vec<u8>, Stop> {
    Ok(bytes_of(&vfio_ioasid_stats {
        argsz: size_u32::<vfio_ioasid_stats>(),
        ..Default::default()
    }))
}

/// `good` with `argsz` written over.
fn with_argsz(mut bytes: Vec<u8>, argsz: usize) -> Vec<u8> {
    bytes[..4].copy_from_slice(&(argsz as u32).to_ne_bytes());
    bytes
}

fn flags_of(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])
}

fn with_flags(mut bytes: Vec<u8>, flags: u32) -> Vec<u8> {
    bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// Makes each call with what `change` makes of good arguments and expects `errno`, and
/// that nothing came of it.
fn each_call_fails(errno: Errno, change: impl Fn(&Call, Vec<u8>) -> Vec<u8>) -> Outcome {
    let rig = Rig::nesting()?;
    for call in &CALLS {
        let good = (call.good)(&rig)?;
        let before = rig.container.stats()?;
        let mut bytes = change(call, good);
        expect_errno(rig.container.raw(call.number, &mut bytes), errno, call.name);
        let after = rig.container.stats()?;
        assert_eq!(before.pasids, after.pasids, "{}: PASIDs", call.name);
        assert_eq!(before.bindings, after.bindings, "{}: bindings", call.name);
        assert_eq!(
            before.fault_queues, after.fault_queues,
            "{}: fault queues",
            call.name
        );
    }
    Ok(())
}

/// Makes each call with what `change` makes of good arguments and expects success.
fn each_call_succeeds(change: impl Fn(&Call, Vec<u8>) -> Vec<u8>) -> Outcome {
    let rig = Rig::nesting()?;
    for call in &CALLS {
        let mut bytes = change(call, (call.good)(&rig)?);
        expect_ok(rig.container.raw(call.number, &mut bytes), call.name);
    }
    Ok(())
}

fn argsz_exact_succeeds() -> Outcome {
    each_call_succeeds(|call, good| {
        assert_eq!(good.len(), call.size, "{}", call.name);
        good
    })
}

fn argsz_zero_returns_einval() -> Outcome {
    each_call_fails(Errno::EINVAL, |_, good| with_argsz(good, 0))
}

fn argsz_four_returns_einval() -> Outcome {
    each_call_fails(Errno::EINVAL, |_, good| with_argsz(good, 4))
}

fn argsz_one_short_returns_einval() -> Outcome {
    each_call_fails(Errno::EINVAL, |call, good| with_argsz(good, call.size - 1))
}

fn tail_of_one_zero_byte_succeeds() -> Outcome {
    each_call_succeeds(|call, mut good| {
        good.push(0);
        with_argsz(good, call.size + 1)
    })
}

fn tail_of_one_dirty_byte_returns_e2big() -> Outcome {
    each_call_fails(Errno::E2BIG, |call, mut good| {
        good.push(1);
        with_argsz(good, call.size + 1)
    })
}

fn tail_of_eight_zero_bytes_succeeds() -> Outcome {
    each_call_succeeds(|call, mut good| {
        good.extend([0; 8]);
        with_argsz(good, call.size + 8)
    })
}

fn tail_dirty_in_its_last_byte_returns_e2big() -> Outcome {
    each_call_fails(Errno::E2BIG, |call, mut good| {
        good.extend([0; 63]);
        good.push(0x80);
        with_argsz(good, call.size + 64)
    })
}

fn byte_behind_argsz_is_not_looked_at() -> Outcome {
    each_call_succeeds(|_, mut good| {
        good.extend([0xff; 8]);
        good
    })
}

fn flags_unknown_return_einval() -> Outcome {
    for bit in 0..u32::BITS {
        let flag = 1 << bit;
        // A rig for each bit: good() leaves PASIDs and bindings behind.
        if bit > 4 && bit % 9 != 0 && bit != 31 {
            continue;
        }
        let rig = Rig::nesting()?;
        for call in CALLS.iter().filter(|call| call.known_flags & flag == 0) {
            let good = (call.good)(&rig)?;
            let flags = flags_of(&good) | flag;
            let mut bytes = with_flags(good, flags);
            expect_errno(
                rig.container.raw(call.number, &mut bytes),
                Errno::EINVAL,
                &format!("{} with flags {flags:#x}", call.name),
            );
        }
    }
    Ok(())
}

fn argument_inaccessible_returns_efault() -> Outcome {
    let rig = Rig::open()?;
    for call in &CALLS {
        expect_errno(
            rig.container.raw_inaccessible(call.number),
            Errno::EFAULT,
            call.name,
        );
    }
    Ok(())
}

fn argument_ending_at_an_unmapped_page_returns_efault() -> Outcome {
    let rig = Rig::nesting()?;
    for call in &CALLS {
        let mut good = (call.good)(&rig)?;
        // All but the last byte is there.
        expect_errno(
            rig.container.raw(call.number, &mut good[..call.size - 1]),
            Errno::EFAULT,
            call.name,
        );
    }
    Ok(())
}

fn call_unknown_returns_enotty() -> Outcome {
    let rig = Rig::open()?;
    let unknown = [
        VFIO_IOASID_AS_UNMAP + 1,
        VFIO_IOASID_AS_UNMAP + 2,
        VFIO_IOASID_PASID_ALLOC - 1,
        (u32::from(VFIO_TYPE) << 8) | 0xff,
        // Numbers of linux/vfio.h that are for other files or other drivers.
        VFIO_IOMMU_GET_INFO + 6,
        VFIO_IOMMU_GET_INFO + 8,
    ];
    for number in unknown {
        let mut bytes = vec![0u8; 256];
        bytes[0] = 24;
        expect_errno(
            rig.container.raw(number, &mut bytes),
            Errno::ENOTTY,
            &format!("call {number:#x}"),
        );
    }
    Ok(())
}

fn call_with_size_and_direction_bits_returns_enotty() -> Outcome {
    let rig = Rig::open()?;
    for direction in [1u32, 2, 3] {
        let number = VFIO_IOASID_STATS | (direction << 30) | (88 << 16);
        let mut bytes = good_stats(&rig)?;
        expect_errno(
            rig.container.raw(number, &mut bytes),
            Errno::ENOTTY,
            &format!("call {number:#x}"),
        );
    }
    Ok(())
}

fn call_numbers_are_those_of_the_header() -> Outcome {
    for (index, call) in CALLS.iter().enumerate() {
        assert_eq!(
            call.number,
            (u32::from(b';') << 8) | (200 + index as u32),
            "{}",
            call.name
        );
    }
    Ok(())
}

fn stats_of_a_new_container_are_zero() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let stats = rig.container.stats()?;
    let all = [
        stats.pasids,
        stats.bindings,
        stats.fault_queues,
        stats.mapped_pages,
        stats.page_requests,
        stats.responses,
        stats.host_invalid,
        stats.overflows,
        stats.late_responses,
        stats.invalidations,
    ];
    assert_eq!(all, [0; 10]);
    Ok(())
}

fn stats_follow_pasids_queues_and_pages() -> Outcome {
    let rig = Rig::open_unmapped()?;
    let first = rig.container.pasid_alloc(1, 4096, 3)?;
    let queue = rig.container.fault_queue(0, 0)?;
    rig.map_memory()?;

    let held = rig.container.stats()?;
    assert_eq!(held.pasids, 3);
    assert_eq!(held.fault_queues, 1);
    assert_eq!(held.mapped_pages, rig.mem.size() / 4096);

    rig.container.pasid_free(first, 3)?;
    drop(queue);
    rig.unmap_memory()?;
    let given_back = rig.container.stats()?;
    assert_eq!(given_back.pasids, 0);
    assert_eq!(given_back.fault_queues, 0);
    assert_eq!(given_back.mapped_pages, 0);
    Ok(())
}

program![
    call_numbers_are_those_of_the_header,
    argsz_exact_succeeds,
    argsz_zero_returns_einval,
    argsz_four_returns_einval,
    argsz_one_short_returns_einval,
    tail_of_one_zero_byte_succeeds,
    tail_of_one_dirty_byte_returns_e2big,
    tail_of_eight_zero_bytes_succeeds,
    tail_dirty_in_its_last_byte_returns_e2big,
    byte_behind_argsz_is_not_looked_at,
    flags_unknown_return_einval,
    argument_inaccessible_returns_efault,
    argument_ending_at_an_unmapped_page_returns_efault,
    call_unknown_returns_enotty,
    call_with_size_and_direction_bits_returns_enotty,
    stats_of_a_new_container_are_zero,
    stats_follow_pasids_queues_and_pages,
];
