// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What each call of the fuzzer's does: its choices become arguments, right and wrong ones.

mod device;
mod queue;

use super::call::{Call, Choices, Kind};
use super::world::{lock, World, GVA, QUEUES, SPARE};
use host_iommu_bindings::ioctl::*;
use host_iommu_bindings::uapi::*;
use host_iommu_sys::plain::bytes_of_slice;
use host_iommu_sys::Errno;
use host_iommu_tests::memory::PAGE;
use host_iommu_tests::rig::{
    as_entry, bind_at, bytes_of, invalidate_args, poll, range, response, size_u32, CallError,
    Container, FaultQueue, Order, PollFlags, GUEST_BASE, INACCESSIBLE, RECORD,
};
use host_iommu_tests::stage1::entry;
use host_iommu_tests::testdev::{raw as request, reg};
use host_iommu_tests_sys::guarded::Guarded;
use host_iommu_tests_sys::raw;
use std::fs;
use std::ops::Range;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How a call ended; what came of it in the device is nobody's business.
pub type Done = Result<(), Errno>;

/// Where memory is mapped beside the guest's.
const ELSEWHERE: u64 = 0x6_0000_0000;

const PASIDS: [u32; 10] = [1, 2, 3, 4, 5, 100, 0, 0xf_ffff, 0x10_0000, u32::MAX];
const IOVAS: [u64; 12] = [
    ELSEWHERE,
    ELSEWHERE + PAGE,
    ELSEWHERE + 0x10_0000,
    ELSEWHERE + 0x20_0000,
    ELSEWHERE + 0x40_0000,
    GUEST_BASE,
    GUEST_BASE + PAGE,
    0,
    0xfee0_0000,
    1 << 48,
    ELSEWHERE + 1,
    u64::MAX - 0xfff,
];
/// With the largest offset they stay in the spare memory.
const SIZES: [u64; 8] = [
    PAGE,
    2 * PAGE,
    16 * PAGE,
    64 * PAGE,
    0x20_0000,
    0,
    0x801,
    SPARE / 4,
];
const OFFSETS: [u64; 4] = [0, PAGE, 0x10_0000, 0x20_0000];
const GVAS: [u64; 12] = [
    GVA,
    GVA + PAGE,
    GVA + 2 * PAGE,
    GVA + 3 * PAGE,
    GVA + 4 * PAGE,
    GVA + 5 * PAGE,
    GVA + 0x20_0000,
    GUEST_BASE,
    ELSEWHERE,
    0,
    1 << 47,
    0xfee0_0000,
];

/// A call in its world.
pub struct Scene<'a> {
    /// The world.
    pub world: &'a World,
    /// The thread's memory before an edge.
    pub edge: &'a Guarded,
    /// Memory that no device may reach, as the process has it.
    pub canary: u64,
}

/// Makes a call.
pub fn act(scene: &Scene<'_>, call: &Call) -> Done {
    let Some(kind) = call.kind() else {
        return Ok(());
    };
    let mut choices = call.choices();
    let with = With {
        scene,
        side: usize::from(choices.byte() % 8 / 6),
        shape: call.shape(),
    };
    match kind {
        Kind::World => Ok(()),
        Kind::Planted => with.planted(&mut choices),
        Kind::Map => with.map(&mut choices),
        Kind::Unmap => with.unmap(&mut choices),
        Kind::Dirty => with.dirty(&mut choices),
        Kind::Info => with.info(&mut choices),
        Kind::Extension => with.extension(&mut choices),
        Kind::PasidAlloc => with.pasid_alloc(&mut choices),
        Kind::PasidFree => with.pasid_free(&mut choices),
        Kind::Bind => with.bind(&mut choices),
        Kind::Unbind => with.unbind(&mut choices),
        Kind::Invalidate => with.invalidate(&mut choices),
        Kind::Queue => with.queue(&mut choices),
        Kind::Devices => with.devices(&mut choices),
        Kind::Stats => with.stats(),
        Kind::AsCreate => with.as_create(),
        Kind::AsDestroy => with.as_destroy(&mut choices),
        Kind::AsMap => with.as_change(VFIO_IOASID_AS_MAP, &mut choices),
        Kind::AsUnmap => with.as_change(VFIO_IOASID_AS_UNMAP, &mut choices),
        Kind::Unknown => with.unknown(&mut choices),
        Kind::Read => with.read(&mut choices),
        Kind::Write => with.write(&mut choices),
        Kind::Poll => with.poll(&mut choices),
        Kind::QueueClose => with.queue_close(&mut choices),
        Kind::QueueCopy => with.queue_copy(&mut choices),
        Kind::QueueCall => with.queue_call(&mut choices),
        Kind::Dma => with.dma(&mut choices),
        Kind::Request => with.request(&mut choices),
        Kind::Table => with.table(&mut choices),
        Kind::Control => with.control(&mut choices),
        Kind::Reset => with.reset(),
        Kind::Detach => with.detach(),
        Kind::Attach => with.attach(),
        Kind::Second => with.second(),
        Kind::Inspect => with.inspect(&mut choices),
        Kind::Child => with.child(&mut choices),
    }
}

struct With<'a> {
    scene: &'a Scene<'a>,
    side: usize,
    shape: (u8, u8),
}

fn errno<T>(result: Result<T, CallError>) -> Done {
    result.map(drop).map_err(|error| error.errno)
}

impl With<'_> {
    fn container(&self) -> Option<Arc<Container>> {
        self.scene.world.sides[self.side].container()
    }

    /// Makes a container's call with `bytes`, misshapen as chosen; bits of `firm` are left alone:
    /// they are pointers, or say how much the kernel writes there.
    fn ioctl(&self, nr: u32, bytes: &mut Vec<u8>, firm: Range<usize>) -> Done {
        let Some(container) = self.container() else {
            return Ok(());
        };
        let (way, place) = self.shape;
        let at = usize::from(place) % bytes.len().max(1);
        let set_argsz = |bytes: &mut Vec<u8>, size: u32| {
            for (to, from) in bytes.iter_mut().zip(size.to_ne_bytes()) {
                *to = from;
            }
        };
        match way {
            0..=207 => {}
            208..=215 => set_argsz(bytes, u32::from(place)),
            216..=223 => {
                bytes.resize(bytes.len() + 1 + usize::from(place % 64), 0);
                let size = bytes.len() as u32;
                set_argsz(bytes, size);
            }
            224..=229 => {
                bytes.resize(bytes.len() + 1 + usize::from(place % 64), 0xff);
                let size = bytes.len() as u32;
                set_argsz(bytes, size);
            }
            230..=239 => {
                if let Some(byte) = bytes.get_mut(4 + usize::from(place / 8) % 4) {
                    *byte ^= 1 << (place % 8);
                }
            }
            240..=249 => {
                let known = at < 4 || firm.contains(&at);
                if let Some(byte) = bytes.get_mut(at).filter(|_| !known) {
                    *byte ^= 1 << (way % 8);
                }
            }
            250..=252 => return errno(container.raw_inaccessible(nr)),
            // Right in front of memory that nobody may touch.
            253..=255 => bytes.truncate(at),
        }
        errno(container.raw(nr, bytes))
    }

    fn planted(&self, choices: &mut Choices<'_>) -> Done {
        if choices.byte() % 64 == 37 {
            // What it prints is for the console; that it is loaded once is enough.
            let _ = Command::new("/bin/insmod")
                .arg("/modules/planted_c.ko")
                .stderr(Stdio::null())
                .status();
        }
        Ok(())
    }

    fn map(&self, choices: &mut Choices<'_>) -> Done {
        let world = self.scene.world;
        let flags = choices.pick(&[3, 3, 3, 3, 1, 2, 0, 4, 8, 7]);
        let (vaddr, iova, size) = match choices.byte() % 8 {
            0 => (world.memory.address(), GUEST_BASE, world.memory.size()),
            7 => {
                let bad = [INACCESSIBLE, 0, u64::MAX - 0xfff, world.spare.address() + 1];
                (
                    choices.pick(&bad),
                    choices.pick(&IOVAS),
                    choices.pick(&SIZES),
                )
            }
            _ => {
                let vaddr = world.spare.address() + choices.pick(&OFFSETS);
                (vaddr, choices.pick(&IOVAS), choices.pick(&SIZES))
            }
        };
        let map = vfio_iommu_type1_dma_map {
            argsz: size_u32::<vfio_iommu_type1_dma_map>(),
            flags,
            vaddr,
            iova,
            size,
        };
        // Addresses that nobody chose may be the fuzzer's own memory.
        self.ioctl(VFIO_IOMMU_MAP_DMA, &mut bytes_of(&map), 8..32)
    }

    fn unmap(&self, choices: &mut Choices<'_>) -> Done {
        let flags: u32 = choices.pick(&[0, 0, 0, 2, 1, 1, 3, 4, 8]);
        let mut iova = choices.pick(&IOVAS);
        let mut size = choices.pick(&[
            PAGE,
            SPARE,
            16 * PAGE,
            64 * PAGE,
            0x20_0000,
            0,
            0x801,
            1 << 40,
        ]);
        if flags == 2 {
            (iova, size) = choices.pick(&[(0, 0), (iova, 0), (0, size)]);
        }
        let mut bytes = [24u32, flags].map(u32::to_ne_bytes).concat();
        bytes.extend([iova, size].map(u64::to_ne_bytes).concat());
        if flags & 1 != 0 {
            bytes.extend(self.bitmap(choices));
            bytes[0] = 48;
        }
        self.ioctl(VFIO_IOMMU_UNMAP_DMA, &mut bytes, 8..48)
    }

    /// `struct vfio_bitmap`.
    fn bitmap(&self, choices: &mut Choices<'_>) -> Vec<u8> {
        let page = choices.pick(&[PAGE, PAGE, 0x20_0000, 0, 0x801]);
        // No more than there is memory, or more than can be.
        let size = choices.pick(&[PAGE, 8, 64, 0, 7, 1 << 40]);
        let data = choices.pick(&[self.scene.world.bitmap.address(), INACCESSIBLE, 0]);
        [page, size, data].map(u64::to_ne_bytes).concat()
    }

    fn dirty(&self, choices: &mut Choices<'_>) -> Done {
        let flags: u32 = choices.pick(&[4, 1, 2, 4, 5, 0, 8]);
        let (iova, size) = (choices.pick(&IOVAS), choices.pick(&SIZES));
        let mut call = [48, flags].map(u32::to_ne_bytes).concat();
        call.extend([iova, size].map(u64::to_ne_bytes).concat());
        call.extend(self.bitmap(choices));
        self.ioctl(VFIO_IOMMU_DIRTY_PAGES, &mut call, 8..48)
    }

    fn info(&self, choices: &mut Choices<'_>) -> Done {
        let argsz: u32 = choices.pick(&[4096, 16, 24, 0, 15, 17, 100, 1 << 20]);
        let mut bytes = vec![0xa5; choices.pick(&[4096, 24, 4, 0])];
        for (to, from) in bytes.iter_mut().zip(argsz.to_ne_bytes()) {
            *to = from;
        }
        self.ioctl(VFIO_IOMMU_GET_INFO, &mut bytes, 0..0)
    }

    fn extension(&self, choices: &mut Choices<'_>) -> Done {
        let Some(container) = self.container() else {
            return Ok(());
        };
        let number = choices.pick(&[6, 1, 3, 4, 9, 10, u32::MAX]);
        errno(container.check_extension(number))
    }

    fn pasid_alloc(&self, choices: &mut Choices<'_>) -> Done {
        let min = choices.pick(&PASIDS);
        let max = match choices.byte() % 4 {
            0 | 1 => min,
            2 => choices.pick(&PASIDS),
            _ => 0xf_ffff,
        };
        let count = choices.pick(&[1, 1, 2, 5, 0, 1000, 0x10_0000, u32::MAX]);
        let call = vfio_ioasid_pasid_alloc {
            argsz: size_u32::<vfio_ioasid_pasid_alloc>(),
            min,
            max,
            count,
            ..Default::default()
        };
        self.ioctl(VFIO_IOASID_PASID_ALLOC, &mut bytes_of(&call), 0..0)
    }

    fn pasid_free(&self, choices: &mut Choices<'_>) -> Done {
        let call = vfio_ioasid_pasid_free {
            argsz: size_u32::<vfio_ioasid_pasid_free>(),
            flags: 0,
            pasid: choices.pick(&PASIDS),
            count: choices.pick(&[1, 1, 2, 5, 0, 1000, u32::MAX]),
        };
        self.ioctl(VFIO_IOASID_PASID_FREE, &mut bytes_of(&call), 0..0)
    }

    fn device(&self, choices: &mut Choices<'_>) -> vfio_ioasid_device {
        let sides = &self.scene.world.sides;
        match choices.byte() % 16 {
            0..=10 => sides[self.side].id(),
            11..=13 => sides[self.side].second_id(),
            14 => sides[1 - self.side].id(),
            _ => vfio_ioasid_device {
                segment: 7,
                bus: 7,
                devfn: 7,
            },
        }
    }

    fn queue_at(&self, choice: u8) -> Option<Arc<FaultQueue>> {
        lock(&self.scene.world.queues[usize::from(choice) % QUEUES]).clone()
    }

    fn bind(&self, choices: &mut Choices<'_>) -> Done {
        let world = self.scene.world;
        let device = self.device(choices);
        let target = choices.byte() % 8;
        let pasid = choices.pick(&PASIDS);
        let table = &world.tables[usize::from(choices.byte()) % world.tables.len()];
        let flags = choices.byte();
        let data = bytes_of(&iommu_hwpt_vtd_s1 {
            flags: choices.pick(&[0, 0, 1, 2, 4, 7, 8]),
            pgtbl_addr: match choices.byte() % 8 {
                0..=4 => table.root,
                5 => ELSEWHERE,
                6 => table.root + 8,
                _ => 1 << 60,
            },
            addr_width: choices.pick(&[48, 48, 48, 57, 39, 0, u32::MAX]),
            ..Default::default()
        });
        let mut call = bind_at(device, pasid, &data);
        call.guest_pasid = pasid ^ 1;
        call.cookie = u64::MAX;
        match target {
            0..=4 => {}
            5 => {
                call.flags = VFIO_IOASID_BIND_STAGE2;
                (call.data_type, call.data_len, call.data_uptr) = (0, 0, 0);
            }
            6 => {
                call.flags = VFIO_IOASID_BIND_BLOCKED;
                (call.data_type, call.data_len, call.data_uptr) = (0, 0, 0);
            }
            _ => {
                call.flags = VFIO_IOASID_BIND_AS;
                (call.data_type, call.data_len, call.data_uptr) = (0, 0, 0);
                call.as_id = world.spaces.get(flags / 64) as u32;
            }
        }
        if flags % 4 == 3 {
            call.flags |= VFIO_IOASID_BIND_RID;
            call.pasid = 0;
        }
        if flags % 16 / 4 >= 2 {
            call.flags |= VFIO_IOASID_BIND_REPLACE;
        }
        let fd = choices.byte();
        // Held until the call has been made, or not: both may be.
        let queue = self.queue_at(fd / 4);
        call.fault_fd = match fd % 8 {
            0..=4 if target < 5 || call.flags & VFIO_IOASID_BIND_AS != 0 => {
                queue.as_ref().map_or(-1, |queue| queue.raw_fd())
            }
            6 => choices.pick(&[0, 1, 9999, i32::MIN]),
            _ => -1,
        };
        self.ioctl(VFIO_IOASID_BIND, &mut bytes_of(&call), 24..32)
    }

    fn scope(&self, choices: &mut Choices<'_>) -> (u32, u32) {
        let scope = choices.pick(&[
            VFIO_IOASID_SCOPE_BINDING,
            VFIO_IOASID_SCOPE_BINDING,
            VFIO_IOASID_SCOPE_RID,
            VFIO_IOASID_SCOPE_DEVICE,
            VFIO_IOASID_SCOPE_CONTAINER,
            0,
            3,
        ]);
        (scope, choices.pick(&PASIDS))
    }

    fn unbind(&self, choices: &mut Choices<'_>) -> Done {
        let device = self.device(choices);
        let (flags, pasid) = self.scope(choices);
        let call = vfio_ioasid_unbind {
            argsz: size_u32::<vfio_ioasid_unbind>(),
            flags,
            device,
            pasid,
        };
        self.ioctl(VFIO_IOASID_UNBIND, &mut bytes_of(&call), 0..0)
    }

    fn invalidate(&self, choices: &mut Choices<'_>) -> Done {
        let device = self.device(choices);
        let (scope, pasid) = self.scope(choices);
        let addr = choices.pick(&GVAS);
        let count = choices.pick(&[1u32, 2, 3, 40, 0, 65_536, 65_537]);
        let npages = choices.pick(&[1, 2, 64, 0x1000, u64::MAX, 0, 1 << 52]);
        let mut entries = vec![range(addr, npages); count.min(40) as usize];
        if let (Some(last), 1) = (entries.last_mut(), choices.byte() % 4) {
            *last = choices.pick(&[range(0, u64::MAX), range(GVA + 1, 1), range(GVA, 0)]);
        }
        let bytes = bytes_of_slice(&entries);
        let mut call = invalidate_args(scope, device, pasid, bytes, count);
        match choices.byte() % 16 {
            13 => call.entry_len = choices.pick(&[0, 23, 32]),
            14 => call.data_type = 1,
            15 => call.entries_uptr = INACCESSIBLE,
            _ => {}
        }
        self.ioctl(VFIO_IOASID_INVALIDATE, &mut bytes_of(&call), 0..0)
    }

    fn devices(&self, choices: &mut Choices<'_>) -> Done {
        let mut entries = vec![vfio_ioasid_device_info::default(); 16];
        let size = size_u32::<vfio_ioasid_device_info>();
        let buffer = host_iommu_sys::plain::bytes_of_slice_mut(&mut entries);
        let address = buffer.as_mut_ptr().expose_provenance() as u64;
        let call = vfio_ioasid_devices {
            argsz: size_u32::<vfio_ioasid_devices>(),
            flags: 0,
            entry_len: choices.pick(&[size, size, size - 8, 0, 1, 2 * size]),
            count: choices.pick(&[8, 0, 1, 2]),
            entries_uptr: choices.pick(&[address, address, INACCESSIBLE, 0]),
        };
        let mut bytes = bytes_of(&call);
        self.ioctl(VFIO_IOASID_DEVICES, &mut bytes, 8..24)
    }

    fn stats(&self) -> Done {
        let call = vfio_ioasid_stats {
            argsz: size_u32::<vfio_ioasid_stats>(),
            ..Default::default()
        };
        self.ioctl(VFIO_IOASID_STATS, &mut bytes_of(&call), 0..0)
    }

    fn as_create(&self) -> Done {
        let mut bytes = [16u32, 0, 0, 0].map(u32::to_ne_bytes).concat();
        self.ioctl(VFIO_IOASID_AS_CREATE, &mut bytes, 0..0)?;
        if let Some(Ok(id)) = bytes.get(8..12).map(<[u8; 4]>::try_from) {
            self.scene
                .world
                .spaces
                .add(u64::from(u32::from_ne_bytes(id)));
        }
        Ok(())
    }

    fn space(&self, choices: &mut Choices<'_>) -> u32 {
        match choices.byte() {
            choice @ 0..=239 => self.scene.world.spaces.get(choice % 4) as u32,
            choice => u32::from(choice),
        }
    }

    fn as_destroy(&self, choices: &mut Choices<'_>) -> Done {
        let mut bytes = [16u32, 0, self.space(choices), 0]
            .map(u32::to_ne_bytes)
            .concat();
        self.ioctl(VFIO_IOASID_AS_DESTROY, &mut bytes, 0..0)
    }

    fn as_change(&self, nr: u32, choices: &mut Choices<'_>) -> Done {
        let id = self.space(choices);
        let iova = choices.pick(&GVAS);
        let gpa = match nr {
            VFIO_IOASID_AS_UNMAP => choices.pick(&[0, 0, 0, 1]),
            _ => choices.pick(&[
                GUEST_BASE,
                GUEST_BASE + 16 * PAGE,
                ELSEWHERE,
                0,
                u64::MAX - 0xfff,
            ]),
        };
        let length = choices.pick(&[PAGE, 2 * PAGE, 64 * PAGE, 1 << 40, 0, 0x801]);
        let perm = match nr {
            VFIO_IOASID_AS_UNMAP => choices.pick(&[0, 0, 0, 1]),
            _ => choices.pick(&[3, 1, 2, 0, 4]),
        };
        let count = choices.pick(&[1u32, 2, 8, 0, 65_536, 65_537]);
        let entries: Vec<_> = (0..u64::from(count.min(8)))
            .map(|index| {
                let step = index.wrapping_mul(length);
                as_entry(iova.wrapping_add(step), gpa, length, perm)
            })
            .collect();
        let entry_len = choices.pick(&[
            size_u32::<vfio_ioasid_as_entry>(),
            size_u32::<vfio_ioasid_as_entry>(),
            0,
            31,
            64,
        ]);
        let address = entries.as_ptr().expose_provenance() as u64;
        let address = choices.pick(&[address, address, address, INACCESSIBLE]);
        let size = size_u32::<vfio_ioasid_as_change>();
        let mut bytes = [size, 0, id, entry_len, count, 0]
            .map(u32::to_ne_bytes)
            .concat();
        bytes.extend(address.to_ne_bytes());
        self.ioctl(nr, &mut bytes, 0..0)
    }

    fn unknown(&self, choices: &mut Choices<'_>) -> Done {
        const ENDS: [u32; 3] = [
            VFIO_IOMMU_GET_INFO,
            VFIO_IOASID_AS_UNMAP,
            VFIO_IOASID_PASID_ALLOC,
        ];
        let nr = match choices.byte() % 2 {
            0 => VFIO_IOASID_AS_UNMAP + 1 + u32::from(choices.byte() % 32),
            _ => choices.pick(&ENDS) + u32::from(choices.byte() % 8),
        };
        // The calls of the list are made with arguments of their own.
        let known = (VFIO_IOASID_PASID_ALLOC..=VFIO_IOASID_AS_UNMAP).contains(&nr)
            || (VFIO_IOMMU_GET_INFO..=VFIO_IOMMU_GET_INFO + 5).contains(&nr);
        match known {
            true => Ok(()),
            false => self.ioctl(nr, &mut vec![0; 64], 0..0),
        }
    }

    fn inspect(&self, choices: &mut Choices<'_>) -> Done {
        let file = choices.pick(&[
            "containers",
            "devices",
            "pasids",
            "bindings",
            "queues",
            "module",
        ]);
        // Without debugfs there is nothing to read.
        let _ = fs::read(format!("/sys/kernel/debug/vfio_ioasid/{file}"));
        Ok(())
    }
}
