/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * vfio_iommu_ioasid: PASIDs, nested translation and page requests on a VFIO
 * container.
 *
 * Select the module on a container with ioctl(container, VFIO_SET_IOMMU,
 * VFIO_IOASID_IOMMU). The calls of type1v2 (VFIO_IOMMU_GET_INFO,
 * VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA, VFIO_IOMMU_DIRTY_PAGES) then work as
 * linux/vfio.h describes them; the calls below are added.
 *
 * Every structure starts with @argsz, its size as the caller knows it, and
 * @flags. The rules for all calls:
 *
 * - @argsz smaller than the first published size of the structure: EINVAL.
 * - @argsz larger than the kernel's structure: bytes beyond it must be zero,
 *   E2BIG otherwise, and for more than a page.
 * - Undefined bits of @flags and non-zero padding: EINVAL.
 *
 * errno of all calls:
 *
 * - ENOTTY      the call is unknown
 * - E2BIG       non-zero bytes after the part that the kernel knows
 * - EOPNOTSUPP  a known field asks for what this hardware or kernel cannot do
 * - EINVAL      a wrong value
 * - ENOENT      no such PASID, binding or device in this container
 * - EBUSY       in use
 * - EAGAIN      the device is being reset, or the fault fd has nothing to read
 * - ENOSPC      the range is exhausted
 * - EDQUOT      a quota is reached
 * - ENOMEM      no memory, or RLIMIT_MEMLOCK is reached
 * - EFAULT      a pointer is not accessible
 * - ENODEV      the device has left the machine, and its group stays; or it is
 *               leaving the container at this moment
 * - EIO         the IOMMU driver did less than it was asked, and does not say why
 * - EINTR       the caller was killed; what was done by then stays done
 *
 * A container may be given to another process of the same user by its file
 * descriptors: each call works there as in the one that made it. Memory stays
 * pinned and charged to the user until it is unmapped, whoever ends.
 */
#ifndef _UAPI_LINUX_VFIO_IOASID_H
#define _UAPI_LINUX_VFIO_IOASID_H

#include <linux/types.h>
#include <linux/vfio.h>

/*
 * The IOMMU type for VFIO_SET_IOMMU: the number of type1's former nesting type,
 * which linux/vfio.h keeps reserved.
 */
#define VFIO_IOASID_IOMMU		6

/*
 * Call numbers. linux/vfio.h counts up from VFIO_BASE (100) and stands below
 * 125; ours start at 200.
 */
#define VFIO_IOASID_BASE		200

/* Capability ids in VFIO_IOMMU_GET_INFO's chain; linux/vfio.h counts from 1. */
#define VFIO_IOASID_CAP_NESTING		0x8001

/* Highest PASID plus one: a PASID has 20 bits (PCIe 6.0, 6.20). */
#define VFIO_IOASID_PASID_LIMIT		(1U << 20)

/**
 * struct vfio_ioasid_device - names a PCI function attached to the container
 * @segment: PCI segment (domain)
 * @bus: bus number
 * @devfn: device (bits 7:3) and function (bits 2:0)
 */
struct vfio_ioasid_device {
	__u16 segment;
	__u8 bus;
	__u8 devfn;
};

/*
 * Reasons why something is absent; zero if it is there. The numbers are never
 * reused.
 */
#define VFIO_IOASID_REASON_NONE			0
/* The IOMMU driver of the device has no nested domains. */
#define VFIO_IOASID_REASON_DRIVER		1
/* The IOMMU unit lacks nested translation or scalable mode. */
#define VFIO_IOASID_REASON_HARDWARE		2
/* The device has no PASID capability, or the kernel left it off. */
#define VFIO_IOASID_REASON_NO_PASID		3
/* The device or its IOMMU unit has no PRI, or the kernel left it off. */
#define VFIO_IOASID_REASON_NO_PRI		4
/* More than one device shares the IOMMU group. */
#define VFIO_IOASID_REASON_GROUP_SHARED		5
/* No device is attached to the container yet. */
#define VFIO_IOASID_REASON_NO_DEVICE		6
/* The IOMMU driver is not one whose stage-1 format the module knows. */
#define VFIO_IOASID_REASON_FORMAT		7
/* The running kernel does not offer it. */
#define VFIO_IOASID_REASON_KERNEL		8

/**
 * struct vfio_ioasid_cap_nesting - what the container can nest
 * @header: id VFIO_IOASID_CAP_NESTING, version 1
 * @flags: VFIO_IOASID_NESTING_*
 * @reason: VFIO_IOASID_REASON_*: why VFIO_IOASID_NESTING_PASID is clear
 * @prq_reason: VFIO_IOASID_REASON_*: why VFIO_IOASID_NESTING_PRQ is clear
 * @dma_fault_reason: VFIO_IOASID_REASON_*: why VFIO_IOASID_NESTING_DMA_FAULT is
 *	clear
 * @dirty_reason: VFIO_IOASID_REASON_*: why VFIO_IOASID_NESTING_DIRTY is clear
 * @pasid_bits: number of PASID bits that every PASID-capable device has
 * @data_types: bit n is set where stage-1 data type n of linux/iommufd.h
 *	(enum iommu_hwpt_data_type) can be bound
 * @addr_width: stage-1 address widths as bits: bit 0 48 bits, bit 1 57 bits.
 *	Linux 7.3 answers page requests INVALID, and does not report them, for
 *	addresses that are not canonical on the host's own CPU: above 48 bits
 *	if that has no 5-level paging
 * @max_pasids: quota of PASIDs in this container
 * @max_bindings: quota of bindings in this container
 * @max_fault_queues: quota of fault queues in this container
 * @max_address_spaces: quota of address spaces in this container
 * @max_as_entries: quota of entries in all address spaces of this container
 * @vtd_cap: capability register (VT-d 4.1, 11.4.2) of the unit of the first
 *	device behind one, zero if there is none. Units may differ: those of each
 *	device are in VFIO_IOASID_DEVICES
 * @vtd_ecap: the extended capability register of that unit
 *
 * The report holds for the devices attached at the time of the call; the
 * report of each device is in VFIO_IOASID_DEVICES.
 */
struct vfio_ioasid_cap_nesting {
	struct vfio_info_cap_header header;
	__u32 flags;
/* A stage-1 table can be bound at a PASID of at least one device. */
#define VFIO_IOASID_NESTING_PASID		(1U << 0)
/* Page requests of at least one device can be delivered. */
#define VFIO_IOASID_NESTING_PRQ			(1U << 1)
/* Stage 2 takes no mapping without VFIO_DMA_MAP_FLAG_WRITE (EOPNOTSUPP). */
#define VFIO_IOASID_NESTING_NO_READONLY		(1U << 2)
/* DMA is coherent whatever the device's No Snoop attribute says. */
#define VFIO_IOASID_NESTING_COHERENT		(1U << 3)
/* A stage-1 table can be bound at the RID of at least one device. */
#define VFIO_IOASID_NESTING_RID			(1U << 4)
/* DMA that the IOMMU stops is reported by VFIO_IOASID_FAULT_DMA records. */
#define VFIO_IOASID_NESTING_DMA_FAULT		(1U << 5)
/*
 * VFIO_IOMMU_DIRTY_PAGES reports the pages that DMA wrote; where it is clear,
 * every mapped page counts as dirty. The pages of a large entry of stage 2 are
 * dirty together, and what a writable entry of an address space points at is
 * always dirty. From the time that a device comes for which it is clear, or the
 * last device of an IOMMU unit leaves, every page is dirty until tracking is
 * started anew. What DMA writes while UNMAP_DMA takes the page away may be
 * missing in its bitmap.
 */
#define VFIO_IOASID_NESTING_DIRTY		(1U << 6)
	__u16 reason;
	__u16 prq_reason;
	__u16 dma_fault_reason;
	__u16 dirty_reason;
	__u32 pasid_bits;
	__u64 data_types;
	__u32 addr_width;
	__u32 max_pasids;
	__u32 max_bindings;
	__u32 max_fault_queues;
	__u32 max_address_spaces;
	__u32 max_as_entries;
	__u64 vtd_cap;
	__u64 vtd_ecap;
};

/**
 * struct vfio_ioasid_pasid_alloc - ioctl(VFIO_IOASID_PASID_ALLOC)
 * @argsz: size of this structure
 * @flags: must be zero
 * @min: lowest PASID to give, inclusive, 1 at least (0 is the RID's)
 * @max: highest PASID to give, inclusive, below VFIO_IOASID_PASID_LIMIT
 * @count: how many consecutive PASIDs
 * @pasid: out: the first of them
 *
 * A PASID is a number of this container alone. A virtual IOMMU that wants the
 * guest's number asks with @min == @max and @count == 1.
 *
 * EINVAL: zero @min or @count, @min above @max, @max out of range.
 * ENOSPC: no run of @count numbers is free in @min..=@max.
 * EDQUOT: the container's or the module's quota.
 */
struct vfio_ioasid_pasid_alloc {
	__u32 argsz;
	__u32 flags;
	__u32 min;
	__u32 max;
	__u32 count;
	__u32 pasid;
};
#define VFIO_IOASID_PASID_ALLOC		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 0)

/**
 * struct vfio_ioasid_pasid_free - ioctl(VFIO_IOASID_PASID_FREE)
 * @argsz: size of this structure
 * @flags: must be zero
 * @pasid: the first PASID to free
 * @count: how many
 *
 * All or nothing. ENOENT: one of them is not allocated. EBUSY: one of them is
 * bound.
 */
struct vfio_ioasid_pasid_free {
	__u32 argsz;
	__u32 flags;
	__u32 pasid;
	__u32 count;
};
#define VFIO_IOASID_PASID_FREE		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 1)

/**
 * struct vfio_ioasid_bind - ioctl(VFIO_IOASID_BIND)
 * @argsz: size of this structure
 * @flags: VFIO_IOASID_BIND_*
 * @device: the device
 * @pasid: a PASID that this container allocated, zero with
 *	VFIO_IOASID_BIND_RID
 * @data_type: format of the stage-1 data, enum iommu_hwpt_data_type of
 *	linux/iommufd.h: IOMMU_HWPT_DATA_VTD_S1 (1)
 * @data_len: size of the stage-1 data in bytes
 * @data_uptr: user pointer to it: struct iommu_hwpt_vtd_s1
 * @guest_pasid: the guest's number for @pasid; copied into fault records
 * @fault_fd: a fd of VFIO_IOASID_FAULT_QUEUE of this container, or -1. With -1
 *	page requests are answered INVALID by the host. -1 with
 *	VFIO_IOASID_BIND_STAGE2 and VFIO_IOASID_BIND_BLOCKED.
 * @cookie: the user's; copied into fault records
 * @as_id: the address space with VFIO_IOASID_BIND_AS, zero otherwise
 * @outcome: out: VFIO_IOASID_OUTCOME_*, on success and on failure, but for an
 *	error of the call's own fields
 *
 * Binds a translation at (@device, @pasid), or at the device's requests without
 * PASID: a stage-1 table, whose addresses are the container's IOVAs; stage 2
 * itself; or an address space. VFIO_IOASID_BIND_BLOCKED binds no translation:
 * DMA is stopped there. A first bind is all or nothing.
 *
 * With VFIO_IOASID_BIND_REPLACE the new translation takes the place of what is
 * in force, in one step: at every moment the old translation is in force, the
 * new one, or none (DMA is stopped). At a PASID something must be bound; blocked
 * counts. At the RID something always is in force: stage 2, a stage-1 table, an
 * address space or blocked. All that can be checked is checked first. On failure
 * @outcome says what is in force: the old translation, or none
 * (VFIO_IOASID_OUTCOME_BLOCKED; the old binding is gone, and the state is
 * blocked). Page requests that wait for the old binding are cancelled.
 *
 * Blocked takes no domain id, counts towards no quota and not in
 * vfio_ioasid_stats::bindings; a replacement by blocked does not fail once the
 * call's own fields are right. VFIO_IOASID_OUTCOME_BLOCKED is its outcome on
 * success.
 *
 * At the RID, stage 2 is in force before the first bind and after UNBIND. A bind
 * without VFIO_IOASID_BIND_REPLACE is for a RID with stage 2 or blocked there.
 *
 * EOPNOTSUPP: no nesting here (the capability says why), another @data_type,
 * the device shares its group, or a fault fd where there is no PRI.
 * EINVAL: bad stage-1 data; @fault_fd is not a fault queue of this container.
 * EBADF: @fault_fd is not open. ENOENT: the device, the PASID or the address
 * space is not this container's; nothing to replace. EBUSY: something is bound
 * there, and VFIO_IOASID_BIND_REPLACE is not set. EDQUOT: quota of bindings.
 */
struct vfio_ioasid_bind {
	__u32 argsz;
	__u32 flags;
/* Bind at the device's requests without PASID. */
#define VFIO_IOASID_BIND_RID			(1U << 0)
/* Take the place of what is bound there. */
#define VFIO_IOASID_BIND_REPLACE		(1U << 1)
/* Stage 2 itself: addresses are the container's IOVAs. @data_* are zero. */
#define VFIO_IOASID_BIND_STAGE2			(1U << 2)
/* The address space @as_id. @data_* are zero. */
#define VFIO_IOASID_BIND_AS			(1U << 3)
/* No translation: DMA is stopped. @data_* and @as_id are zero. */
#define VFIO_IOASID_BIND_BLOCKED		(1U << 4)
	struct vfio_ioasid_device device;
	__u32 pasid;
	__u32 data_type;
	__u32 data_len;
	__aligned_u64 data_uptr;
	__u32 guest_pasid;
	__s32 fault_fd;
	__aligned_u64 cookie;
	__u32 as_id;
	__u32 outcome;
/* The new translation is in force. */
#define VFIO_IOASID_OUTCOME_BOUND		1
/* What was in force before still is. */
#define VFIO_IOASID_OUTCOME_UNCHANGED		2
/* No translation is in force: DMA is stopped, and the old binding is gone. */
#define VFIO_IOASID_OUTCOME_BLOCKED		3
};
#define VFIO_IOASID_BIND		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 2)

/**
 * struct vfio_ioasid_unbind - ioctl(VFIO_IOASID_UNBIND)
 * @argsz: size of this structure
 * @flags: exactly one of VFIO_IOASID_SCOPE_*
 * @device: the device (ignored with VFIO_IOASID_SCOPE_CONTAINER)
 * @pasid: the PASID (VFIO_IOASID_SCOPE_BINDING only)
 *
 * At the RID, stage 2 takes the place of what was bound.
 *
 * When it returns, translation has stopped, every answer under way has been
 * given, and what was pending has been answered INVALID and is marked by a
 * CANCELLED record. ENOENT: nothing bound there (VFIO_IOASID_SCOPE_BINDING),
 * no such device (VFIO_IOASID_SCOPE_DEVICE).
 */
struct vfio_ioasid_unbind {
	__u32 argsz;
	__u32 flags;
/* One binding: (device, PASID). */
#define VFIO_IOASID_SCOPE_BINDING		(1U << 0)
/* Every binding of the device. */
#define VFIO_IOASID_SCOPE_DEVICE		(1U << 1)
/* Every binding of the container. */
#define VFIO_IOASID_SCOPE_CONTAINER		(1U << 2)
/* The binding at the RID of the device. */
#define VFIO_IOASID_SCOPE_RID			(1U << 3)
	struct vfio_ioasid_device device;
	__u32 pasid;
};
#define VFIO_IOASID_UNBIND		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 3)

/**
 * struct vfio_ioasid_invalidate - ioctl(VFIO_IOASID_INVALIDATE)
 * @argsz: size of this structure
 * @flags: exactly one of VFIO_IOASID_SCOPE_*
 * @device: the device (ignored with VFIO_IOASID_SCOPE_CONTAINER)
 * @pasid: the PASID (VFIO_IOASID_SCOPE_BINDING only)
 * @data_type: enum iommu_hwpt_invalidate_data_type of linux/iommufd.h:
 *	IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 (0)
 * @entry_len: size of one entry in bytes
 * @entry_num: in: number of entries, VFIO_IOASID_INVALIDATE_MAX at most;
 *	out: number of entries done
 * @bad_index: out: index of the first bad entry, or @entry_num of the input
 * @entries_uptr: user pointer to an array of struct
 *	iommu_hwpt_vtd_s1_invalidate
 *
 * The entries are carried out in order for the binding, or for each binding in
 * scope that is a stage-1 table: the IOTLB and, where the device has ATS, its
 * device TLB. Good entries before a bad one are carried out. It succeeds only if
 * each entry was carried out for each binding. Address 0 with npages U64_MAX
 * means everything. @entry_num and @bad_index are written on success and on error, but
 * for an error of the call's own fields. What is cached of stage 2 and of address
 * spaces is invalidated by the calls that change them.
 *
 * EINVAL: an entry with zero npages, unknown flags, an unaligned address or a
 * range that wraps; a wrong @entry_len; too many entries. EOPNOTSUPP: another
 * @data_type. ENOENT: nothing bound there (VFIO_IOASID_SCOPE_BINDING), no such
 * device (VFIO_IOASID_SCOPE_DEVICE).
 */
struct vfio_ioasid_invalidate {
	__u32 argsz;
	__u32 flags;
	struct vfio_ioasid_device device;
	__u32 pasid;
	__u32 data_type;
	__u32 entry_len;
	__u32 entry_num;
	__u32 bad_index;
	__aligned_u64 entries_uptr;
};
#define VFIO_IOASID_INVALIDATE		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 4)
#define VFIO_IOASID_INVALIDATE_MAX	65536U

/**
 * struct vfio_ioasid_fault_queue - ioctl(VFIO_IOASID_FAULT_QUEUE)
 * @argsz: size of this structure
 * @flags: VFIO_IOASID_FAULT_QUEUE_*
 * @depth: page requests that may wait unanswered, each record counts; zero for
 *	the default, which the attached devices cannot exceed;
 *	VFIO_IOASID_FAULT_DEPTH_MAX at most
 * @fd: out: the fault fd
 * @deadline_ms: milliseconds after which an unanswered group is answered
 *	INVALID, zero for never
 * @__reserved: must be zero
 *
 * read(2) gives whole page request groups as struct vfio_ioasid_fault; it
 * blocks, or fails with EAGAIN where O_NONBLOCK is set; zero bytes (end of
 * file) once the container is gone and everything was read; EINVAL if the
 * first group does not fit into the buffer; EFAULT loses nothing.
 *
 * write(2) takes struct vfio_ioasid_fault_response, whole records; it returns
 * the bytes taken, and an error only if the first record was not taken: EINVAL
 * (length, code or padding), ENOENT (a cookie that was never issued), EFAULT. A
 * cookie that was valid once and is answered, cancelled or expired is taken and
 * counted.
 *
 * poll(2): POLLIN where read would not block, POLLOUT while the container
 * lives, POLLHUP once it is gone.
 *
 * When the last reference to the fd goes, everything that waits is answered
 * INVALID, and so is every later page request of its bindings.
 */
struct vfio_ioasid_fault_queue {
	__u32 argsz;
	__u32 flags;
/* The fd has O_CLOEXEC. */
#define VFIO_IOASID_FAULT_QUEUE_CLOEXEC		(1U << 0)
/* The fd has O_NONBLOCK. */
#define VFIO_IOASID_FAULT_QUEUE_NONBLOCK	(1U << 1)
/*
 * The fd gets the VFIO_IOASID_FAULT_DMA records of all devices of the container
 * for which no binding with a queue of its own is found. EBUSY: another does.
 */
#define VFIO_IOASID_FAULT_QUEUE_DMA		(1U << 2)
	__u32 depth;
	__s32 fd;
	__u32 deadline_ms;
	__u32 __reserved;
};
#define VFIO_IOASID_FAULT_QUEUE		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 5)
#define VFIO_IOASID_FAULT_DEPTH_MAX	16384U

/* Most records of one page request group; a larger one is answered INVALID. */
#define VFIO_IOASID_FAULT_GROUP_MAX	64U

/* Kinds of fault record. */
#define VFIO_IOASID_FAULT_PAGE_REQUEST	1	/* answer it by its cookie */
#define VFIO_IOASID_FAULT_DMA		2	/* unrecoverable, no answer */
#define VFIO_IOASID_FAULT_OVERFLOW	3	/* @addr: page requests lost */
#define VFIO_IOASID_FAULT_CANCELLED	4	/* @cookie needs no answer any more */

/**
 * struct vfio_ioasid_fault - one record read from a fault fd
 *
 * In an OVERFLOW record only @kind and @addr mean something, in a CANCELLED
 * record only @kind, @cookie and VFIO_IOASID_FAULT_FLAG_EXPIRED.
 *
 * @kind: VFIO_IOASID_FAULT_*
 * @flags: VFIO_IOASID_FAULT_FLAG_*
 * @device: the device that asked
 * @pasid: the host's PASID
 * @guest_pasid: the binding's guest PASID
 * @group: page request group index of the device
 * @perm: VFIO_IOASID_FAULT_PERM_*: the access that the device wants
 * @reason: DMA: the fault reason of the IOMMU (VT-d 4.1, 7.1.3)
 * @addr: the page's address in the guest's address space (PAGE_REQUEST, DMA),
 *	the number of page requests that were answered INVALID, and of DMA
 *	records dropped (OVERFLOW)
 * @cookie: names the group in the answer; the same in every record of the
 *	group, never zero for a group and never reused
 * @user_cookie: the binding's cookie
 * @private_data: zero for now
 */
struct vfio_ioasid_fault {
	__u32 kind;
	__u32 flags;
/* PASID is valid; otherwise the request came from the RID. */
#define VFIO_IOASID_FAULT_FLAG_PASID		(1U << 0)
/* The last record of its group. */
#define VFIO_IOASID_FAULT_FLAG_LAST		(1U << 1)
/* CANCELLED: the queue's deadline passed. */
#define VFIO_IOASID_FAULT_FLAG_EXPIRED		(1U << 2)
	struct vfio_ioasid_device device;
	__u32 pasid;
	__u32 guest_pasid;
	__u32 group;
	__u32 perm;
#define VFIO_IOASID_FAULT_PERM_READ		(1U << 0)
#define VFIO_IOASID_FAULT_PERM_WRITE		(1U << 1)
#define VFIO_IOASID_FAULT_PERM_EXEC		(1U << 2)
#define VFIO_IOASID_FAULT_PERM_PRIV		(1U << 3)
	__u32 reason;
	__aligned_u64 addr;
	__aligned_u64 cookie;
	__aligned_u64 user_cookie;
	__aligned_u64 private_data;
};

/* Answers, the codes of PCIe 6.0, 10.4.2.1. */
#define VFIO_IOASID_RESPONSE_SUCCESS	0
#define VFIO_IOASID_RESPONSE_INVALID	1

/**
 * struct vfio_ioasid_fault_response - one answer written to a fault fd
 * @cookie: of the group
 * @code: VFIO_IOASID_RESPONSE_*
 * @__reserved: must be zero
 */
struct vfio_ioasid_fault_response {
	__aligned_u64 cookie;
	__u32 code;
	__u32 __reserved;
};

/**
 * struct vfio_ioasid_device_info - one attached device
 * @device: its name
 * @flags: VFIO_IOASID_DEVICE_*
 * @reason: why VFIO_IOASID_DEVICE_NESTING is clear
 * @prq_reason: why VFIO_IOASID_DEVICE_PRQ is clear
 * @max_pasids: PASIDs below this number work, zero if none
 * @vtd_cap: VT-d's capability register of its unit
 * @vtd_ecap: VT-d's extended capability register of its unit
 */
struct vfio_ioasid_device_info {
	struct vfio_ioasid_device device;
	__u32 flags;
/* A stage-1 table can be bound at a PASID of it. */
#define VFIO_IOASID_DEVICE_NESTING		(1U << 0)
/* Its page requests can be delivered. */
#define VFIO_IOASID_DEVICE_PRQ			(1U << 1)
/* A stage-1 table can be bound at its RID. */
#define VFIO_IOASID_DEVICE_RID			(1U << 2)
	__u16 reason;
	__u16 prq_reason;
	__u32 max_pasids;
	__aligned_u64 vtd_cap;
	__aligned_u64 vtd_ecap;
};

/**
 * struct vfio_ioasid_devices - ioctl(VFIO_IOASID_DEVICES)
 * @argsz: size of this structure
 * @flags: must be zero
 * @entry_len: size of one entry as the caller knows it
 * @count: in: room for entries; out: number of devices attached
 * @entries_uptr: user pointer to an array of struct vfio_ioasid_device_info
 *
 * Writes as many entries as fit. A @count of zero asks for the number.
 */
struct vfio_ioasid_devices {
	__u32 argsz;
	__u32 flags;
	__u32 entry_len;
	__u32 count;
	__aligned_u64 entries_uptr;
};
#define VFIO_IOASID_DEVICES		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 6)

/**
 * struct vfio_ioasid_stats - ioctl(VFIO_IOASID_STATS)
 * @argsz: size of this structure
 * @flags: must be zero
 * @pasids: PASIDs allocated now
 * @bindings: bindings now
 * @fault_queues: fault queues of this container that are open now
 * @address_spaces: address spaces now
 * @as_entries: entries of all address spaces now
 * @mappings: mappings of stage 2 now
 * @mapped_pages: 4 KiB pages mapped in stage 2 now
 * @pages_2m: 2 MiB entries among them
 * @pages_1g: 1 GiB entries among them
 * @calls: calls that reached the module for this container
 * @binds: successful BIND calls, replacements included
 * @unbinds: bindings undone, for whatever reason
 * @page_requests: page request groups handed to a fault queue
 * @responses: groups answered through a fault fd
 * @host_invalid: groups the host answered INVALID (overflow, cancelled, no
 *	queue, last close, too large, expired)
 * @overflows: records answered INVALID because a queue was full
 * @late_responses: answers to a cookie that was no longer pending
 * @expired: groups whose deadline passed
 * @dma_faults: DMA faults reported to this container, delivered or not
 * @invalidations: entries carried out by VFIO_IOASID_INVALIDATE
 */
struct vfio_ioasid_stats {
	__u32 argsz;
	__u32 flags;
	__aligned_u64 pasids;
	__aligned_u64 bindings;
	__aligned_u64 fault_queues;
	__aligned_u64 address_spaces;
	__aligned_u64 as_entries;
	__aligned_u64 mappings;
	__aligned_u64 mapped_pages;
	__aligned_u64 pages_2m;
	__aligned_u64 pages_1g;
	__aligned_u64 calls;
	__aligned_u64 binds;
	__aligned_u64 unbinds;
	__aligned_u64 page_requests;
	__aligned_u64 responses;
	__aligned_u64 host_invalid;
	__aligned_u64 overflows;
	__aligned_u64 late_responses;
	__aligned_u64 expired;
	__aligned_u64 dma_faults;
	__aligned_u64 invalidations;
};
#define VFIO_IOASID_STATS		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 7)

/**
 * struct vfio_ioasid_as_create - ioctl(VFIO_IOASID_AS_CREATE)
 * @argsz: size of this structure
 * @flags: must be zero
 * @as_id: out: names the address space in this container; never zero, never
 *	reused
 * @__reserved: must be zero
 *
 * Makes an empty address space: a page table of the host's, whose entries point
 * into memory that stage 2 maps. EDQUOT: quota of address spaces.
 */
struct vfio_ioasid_as_create {
	__u32 argsz;
	__u32 flags;
	__u32 as_id;
	__u32 __reserved;
};
#define VFIO_IOASID_AS_CREATE		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 8)

/**
 * struct vfio_ioasid_as_destroy - ioctl(VFIO_IOASID_AS_DESTROY)
 * @argsz: size of this structure
 * @flags: must be zero
 * @as_id: the address space
 * @__reserved: must be zero
 *
 * ENOENT: no such address space. EBUSY: it is bound.
 */
struct vfio_ioasid_as_destroy {
	__u32 argsz;
	__u32 flags;
	__u32 as_id;
	__u32 __reserved;
};
#define VFIO_IOASID_AS_DESTROY		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 9)

/**
 * struct vfio_ioasid_as_entry - one range of an address space
 * @iova: first address in the address space
 * @gpa: first address of the memory, an IOVA of the container; zero for
 *	AS_UNMAP
 * @length: in bytes, a multiple of 4 KiB
 * @perm: VFIO_IOASID_AS_READ, VFIO_IOASID_AS_WRITE; zero for AS_UNMAP
 * @__reserved: must be zero
 */
struct vfio_ioasid_as_entry {
	__aligned_u64 iova;
	__aligned_u64 gpa;
	__aligned_u64 length;
	__u32 perm;
#define VFIO_IOASID_AS_READ			(1U << 0)
#define VFIO_IOASID_AS_WRITE			(1U << 1)
	__u32 __reserved;
};

/**
 * struct vfio_ioasid_as_change - ioctl(VFIO_IOASID_AS_MAP, VFIO_IOASID_AS_UNMAP)
 * @argsz: size of this structure
 * @flags: must be zero
 * @as_id: the address space
 * @entry_len: size of one entry as the caller knows it
 * @entry_num: in: number of entries, VFIO_IOASID_AS_CHANGE_MAX at most; out:
 *	number of entries done
 * @bad_index: out: index of the first bad entry, or @entry_num of the input
 * @entries_uptr: user pointer to an array of struct vfio_ioasid_as_entry
 *
 * The entries are carried out in order, up to the first bad one; @entry_num and
 * @bad_index are written on success and on error, but for an error of the call's
 * own fields.
 *
 * AS_MAP: the whole of gpa..gpa+length must be mapped in stage 2, with at least
 * the access asked for; nothing is pinned again. When stage 2 unmaps some of it,
 * the entry goes with it, as if by AS_UNMAP. AS_UNMAP takes out every entry that
 * lies in the range; one flush ends the call.
 *
 * ENOENT: no such address space. Of an entry: EINVAL (alignment, length, flags,
 * a range that wraps or that hardware cannot translate, an AS_UNMAP that would
 * cut an entry in two), EEXIST (some of iova is mapped), EFAULT (some of gpa is
 * not mapped), EPERM (stage 2 does not allow the access), EDQUOT (quota of
 * entries).
 */
struct vfio_ioasid_as_change {
	__u32 argsz;
	__u32 flags;
	__u32 as_id;
	__u32 entry_len;
	__u32 entry_num;
	__u32 bad_index;
	__aligned_u64 entries_uptr;
};
#define VFIO_IOASID_AS_MAP		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 10)
#define VFIO_IOASID_AS_UNMAP		_IO(VFIO_TYPE, VFIO_IOASID_BASE + 11)
#define VFIO_IOASID_AS_CHANGE_MAX	65536U

#endif /* _UAPI_LINUX_VFIO_IOASID_H */
