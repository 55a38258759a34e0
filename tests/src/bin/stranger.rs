// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nobody but the caller waits for the caller's memory.
//!
//! A child makes a call whose memory nobody resolves. Meanwhile a copy of its fault fd is closed,
//! the kernel closes another one in the place of a process that does not exist any more, debugfs is
//! read, and vfio-pci is taken from the child's device and from a stranger's; in the end the child
//! is killed.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use host_iommu_bindings::ioctl::*;
use host_iommu_bindings::uapi::*;
use host_iommu_tests::cases;
use host_iommu_tests::rig::{
    all, as_entry, bind_at, bytes_of, child, endpoint, endpoint_count, fail, invalidate_args,
    needs_userfaultfd, program, receive_fd, send_fd, size_u32, skip, Attempt, Called, Outcome, Rig,
    Space, Stop, Unbinding, GUEST_BASE, PAGE,
};
use host_iommu_tests_sys::userfault::Waiting;
use nix::mount::{mount, MsFlags};

/// For what should take milliseconds.
const SOON: Duration = Duration::from_secs(2);
const DEBUGFS: &str = "/sys/kernel/debug";
const LEN: u64 = 16 * PAGE;
const ELSEWHERE: u64 = 0x7_0000_0000;

/// A call on memory at an address, which does not come.
type Call = Box<dyn FnOnce(&Rig, u64) -> Called<()>>;

/// A call, and the memory that it waits for.
struct Prepared {
    memory: Waiting,
    call: Call,
}

impl Prepared {
    fn new(memory: Waiting, call: impl FnOnce(&Rig, u64) -> Called<()> + 'static) -> Outcome<Self> {
        let call = Box::new(call);
        Ok(Self { memory, call })
    }
}

fn track_dirty(rig: &Rig) -> Called<()> {
    let flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_START;
    let mut bytes = [48u32, flags].map(u32::to_ne_bytes).concat();
    bytes.resize(48, 0);
    rig.container
        .raw(VFIO_IOMMU_DIRTY_PAGES, &mut bytes)
        .map(drop)
}

/// The words of a call of type1 with a bitmap at `data` for the rig's memory.
fn with_bitmap(flags: u32, rig: &Rig, data: u64) -> Vec<u8> {
    let mut bytes = [48u32, flags].map(u32::to_ne_bytes).concat();
    let words = [GUEST_BASE, rig.mem.size(), PAGE, PAGE, data];
    bytes.extend(words.map(u64::to_ne_bytes).concat());
    bytes
}

fn prepare(case: &str, rig: &Rig, space: &Space) -> Outcome<Prepared> {
    let pasid = space.pasid;
    match case {
        "invalidate_entries" => Prepared::new(Waiting::missing(4096)?, move |rig, at| {
            let mut call = invalidate_args(VFIO_IOASID_SCOPE_BINDING, rig.id(), pasid, &[], 2);
            call.entries_uptr = at;
            rig.container.invalidate_raw(&mut call)
        }),
        "pasid_alloc_reply" => {
            let call = vfio_ioasid_pasid_alloc {
                argsz: size_u32::<vfio_ioasid_pasid_alloc>(),
                flags: 0,
                min: 1,
                max: 1000,
                count: 1,
                pasid: 0,
            };
            let memory = Waiting::read_only(&bytes_of(&call))?;
            Prepared::new(memory, |rig, at| {
                rig.container.raw_at(VFIO_IOASID_PASID_ALLOC, at).map(drop)
            })
        }
        "bind_data" => {
            let second = Space::new(rig)?;
            let data = second.stage1_data();
            let mut bind = bind_at(rig.id(), second.pasid, &data);
            Prepared::new(Waiting::missing(4096)?, move |rig, at| {
                bind.data_uptr = at;
                rig.container.bind(&bind)
            })
        }
        "as_map_entries" | "as_unmap_entries" => {
            let id = rig.container.as_create()?;
            let entry = as_entry(ELSEWHERE, GUEST_BASE, PAGE, VFIO_IOASID_AS_READ);
            rig.container
                .as_map(id, &[entry])
                .0
                .map_err(|errno| Stop::Fail(format!("AS_MAP: {errno:?}")))?;
            let request = match case {
                "as_map_entries" => VFIO_IOASID_AS_MAP,
                _ => VFIO_IOASID_AS_UNMAP,
            };
            Prepared::new(Waiting::missing(4096)?, move |rig, at| {
                let call = vfio_ioasid_as_change {
                    argsz: size_u32::<vfio_ioasid_as_change>(),
                    flags: 0,
                    as_id: id,
                    entry_len: size_u32::<vfio_ioasid_as_entry>(),
                    entry_num: 2,
                    bad_index: 0,
                    entries_uptr: at,
                };
                rig.container.raw(request, &mut bytes_of(&call)).map(drop)
            })
        }
        "devices_entries" => Prepared::new(Waiting::missing(4096)?, |rig, at| {
            let mut call = vfio_ioasid_devices {
                argsz: size_u32::<vfio_ioasid_devices>(),
                entry_len: size_u32::<vfio_ioasid_device_info>(),
                count: 16,
                entries_uptr: at,
                ..Default::default()
            };
            rig.container.devices_raw(&mut call)
        }),
        "map_dma_source" => Prepared::new(Waiting::missing(LEN as usize)?, |rig, at| {
            rig.container.map_raw(&vfio_iommu_type1_dma_map {
                argsz: size_u32::<vfio_iommu_type1_dma_map>(),
                flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
                vaddr: at,
                iova: ELSEWHERE,
                size: LEN,
            })
        }),
        "dirty_bitmap" => {
            track_dirty(rig)?;
            Prepared::new(Waiting::missing(4096)?, |rig, at| {
                let mut bytes = with_bitmap(VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, rig, at);
                rig.container
                    .raw(VFIO_IOMMU_DIRTY_PAGES, &mut bytes)
                    .map(drop)
            })
        }
        "unmap_bitmap" => {
            track_dirty(rig)?;
            Prepared::new(Waiting::missing(4096)?, |rig, at| {
                let mut bytes = with_bitmap(VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP, rig, at);
                rig.container
                    .raw(VFIO_IOMMU_UNMAP_DMA, &mut bytes)
                    .map(drop)
            })
        }
        other => fail(format!("no case {other}")),
    }
}

/// The child: gives two fault fds away, says that it waits, and waits.
fn wait(arguments: &[String]) -> Outcome {
    let [case] = arguments else {
        return fail("usage: case");
    };
    let parent = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let rig = Rig::nesting()?;
    let space = Space::new(&rig)?;
    space.bind(&rig)?;
    for _ in 0..2 {
        let flags = VFIO_IOASID_FAULT_QUEUE_NONBLOCK | VFIO_IOASID_FAULT_QUEUE_CLOEXEC;
        let queue = rig.container.fault_queue(flags, 16)?;
        send_fd(&parent, queue.as_fd())?;
    }
    let Prepared { memory, call } = prepare(case, &rig, &space)?;
    let ended = std::thread::scope(|scope| {
        scope.spawn(|| {
            if memory.is_waited_for(Duration::from_secs(20)) == Ok(true) {
                // A parent that is gone does not read it.
                let _ = rustix::net::send(&parent, b"w", rustix::net::SendFlags::empty());
            }
        });
        call(&rig, memory.address())
    });
    fail(format!("the call did not wait: {ended:?}"))
}

/// The child, until it is killed.
struct Caller {
    child: Child,
    socket: UnixStream,
}

impl Caller {
    fn start(case: &str) -> Outcome<Self> {
        let (socket, childs) = UnixStream::pair()?;
        let mut command = child(&[case])?;
        command.stdin(OwnedFd::from(childs)).stdout(Stdio::piped());
        let child = command.spawn()?;
        // The command has the child's end of the socket until here.
        drop(command);
        Ok(Self { child, socket })
    }

    /// Its fault fds, once it waits in its call.
    fn waits(&mut self) -> Outcome<[OwnedFd; 2]> {
        let mut ready = || -> Outcome<_> {
            let queues = [
                receive_fd(self.socket.as_fd())?,
                receive_fd(self.socket.as_fd())?,
            ];
            self.socket.read_exact(&mut [0])?;
            Ok(queues)
        };
        ready().or_else(|_| self.why())
    }

    /// What a child that ended had to say.
    fn why<T>(&mut self) -> Outcome<T> {
        let mut text = String::new();
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_string(&mut text)?;
        }
        match self.child.wait()?.code() {
            Some(4) => skip(text.trim()),
            _ => fail(format!("the child: {text}")),
        }
    }

    /// Kills it, and sees to it that it goes.
    fn dies(mut self) -> Outcome {
        self.child.kill()?;
        let attempt = Attempt::start("the killed child", move || self.child.wait().map(drop));
        Ok(attempt.ends_within(SOON)??)
    }
}

/// Leaves a fd, and one end of a pipe, to the kernel: they are in a socket's queue, which is in that
/// queue itself. The other end of the pipe hears when the kernel has closed them.
fn leave_to_the_kernel(queue: OwnedFd) -> Outcome {
    let (mut read, write) =
        nix::unistd::pipe().map(|(read, write)| (fs::File::from(read), write))?;
    let (left, right) = UnixStream::pair()?;
    send_fd(&left, queue.as_fd())?;
    send_fd(&left, write.as_fd())?;
    send_fd(&left, right.as_fd())?;
    drop((queue, write, right, left));
    // The next socket that is closed lets the kernel look for such circles, if none did.
    drop(UnixStream::pair()?);
    let mut rest = Vec::new();
    read.read_to_end(&mut rest)?;
    Ok(())
}

fn read_debugfs() -> Outcome {
    let folder = Path::new(DEBUGFS).join("vfio_ioasid");
    for entry in fs::read_dir(folder)? {
        fs::read_to_string(entry?.path())?;
    }
    Ok(())
}

fn nobody_waits_for(case: &str) -> Outcome {
    needs_userfaultfd()?;
    if fs::read_dir(DEBUGFS)?.next().is_none() {
        let none = None::<&str>;
        mount(
            Some("debugfs"),
            DEBUGFS,
            Some("debugfs"),
            MsFlags::empty(),
            none,
        )?;
    }
    if endpoint_count() < 2 {
        return skip("there is one endpoint only");
    }
    let devices = [endpoint(0)?.to_string(), endpoint(1)?.to_string()];
    let mut caller = Caller::start(case)?;
    let [first, second] = caller.waits()?;
    let close = Attempt::start("the close of a fault fd", move || drop(first));
    let leave = Attempt::start("the kernel's own close", move || {
        leave_to_the_kernel(second)
    });
    let debugfs = Attempt::start("a read of debugfs", read_debugfs);
    let mut outcomes = vec![
        close.ends_within(SOON),
        leave.ends_within(SOON).and_then(|left| left),
        debugfs.ends_within(SOON).and_then(|read| read),
    ];
    let unbindings = devices.map(|device| Unbinding::start(&device));
    outcomes.extend(unbindings.iter().map(|one| one.ends_within(SOON)));
    outcomes.push(caller.dies());
    drop(unbindings);
    all(outcomes)
}

cases![
    nobody_waits_for_entries_of_invalidate => nobody_waits_for("invalidate_entries"),
    nobody_waits_for_the_reply_of_pasid_alloc => nobody_waits_for("pasid_alloc_reply"),
    nobody_waits_for_stage_1_data_of_bind => nobody_waits_for("bind_data"),
    nobody_waits_for_entries_of_as_map => nobody_waits_for("as_map_entries"),
    nobody_waits_for_entries_of_as_unmap => nobody_waits_for("as_unmap_entries"),
    nobody_waits_for_the_reply_of_devices => nobody_waits_for("devices_entries"),
    nobody_waits_for_the_memory_of_map_dma => nobody_waits_for("map_dma_source"),
    nobody_waits_for_the_bitmap_of_dirty_pages => nobody_waits_for("dirty_bitmap"),
    nobody_waits_for_the_bitmap_of_unmap_dma => nobody_waits_for("unmap_bitmap"),
];

program![
    child wait;
    nobody_waits_for_entries_of_invalidate,
    nobody_waits_for_the_reply_of_pasid_alloc,
    nobody_waits_for_stage_1_data_of_bind,
    nobody_waits_for_entries_of_as_map,
    nobody_waits_for_entries_of_as_unmap,
    nobody_waits_for_the_reply_of_devices,
    nobody_waits_for_the_memory_of_map_dma,
    nobody_waits_for_the_bitmap_of_dirty_pages,
    nobody_waits_for_the_bitmap_of_unmap_dma,
];
