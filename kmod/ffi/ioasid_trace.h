/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints: /sys/kernel/tracing/events/vfio_ioasid. Fields keep their names
 * and meaning; new ones come at the end.
 *
 * device is segment << 16 | bus << 8 | devfn; pasid is 0 for requests without
 * PASID; error is 0 or a negative errno; ranges have both ends inclusive.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vfio_ioasid

#if !defined(IOASID_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define IOASID_TRACE_H

#include <linux/tracepoint.h>

#define IOASID_DEVICE_FORMAT "device=%04x:%02x:%02x.%x"
#define IOASID_DEVICE(device)						\
	(device) >> 16, (device) >> 8 & 0xff, (device) >> 3 & 0x1f, (device) & 7

/* A BIND was tried: outcome is VFIO_IOASID_OUTCOME_*. */
TRACE_EVENT(ioasid_bind,
	TP_PROTO(u64 container, u32 device, u32 pasid, u32 guest_pasid,
		 u32 kind, bool replace, u32 outcome, int error),
	TP_ARGS(container, device, pasid, guest_pasid, kind, replace, outcome,
		error),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u32, device)
		__field(u32, pasid)
		__field(u32, guest_pasid)
		__field(u32, kind)
		__field(u32, replace)
		__field(u32, outcome)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->device = device;
		__entry->pasid = pasid;
		__entry->guest_pasid = guest_pasid;
		__entry->kind = kind;
		__entry->replace = replace;
		__entry->outcome = outcome;
		__entry->error = error;
	),
	TP_printk("container=%llu " IOASID_DEVICE_FORMAT " pasid=%u guest_pasid=%u kind=%s replace=%u outcome=%u error=%d",
		  __entry->container, IOASID_DEVICE(__entry->device),
		  __entry->pasid, __entry->guest_pasid,
		  __print_symbolic(__entry->kind, { 0, "stage1" },
				   { 1, "stage2" }, { 2, "as" },
				   { 3, "blocked" }),
		  __entry->replace, __entry->outcome, __entry->error)
);

/* A binding goes, for whatever reason but a replacement. */
TRACE_EVENT(ioasid_unbind,
	TP_PROTO(u64 container, u32 device, u32 pasid),
	TP_ARGS(container, device, pasid),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u32, device)
		__field(u32, pasid)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->device = device;
		__entry->pasid = pasid;
	),
	TP_printk("container=%llu " IOASID_DEVICE_FORMAT " pasid=%u",
		  __entry->container, IOASID_DEVICE(__entry->device),
		  __entry->pasid)
);

/* An INVALIDATE of count entries ended: done and bad are what the user got. */
TRACE_EVENT(ioasid_invalidate,
	TP_PROTO(u64 container, u32 count, u32 done, u32 bad, int error),
	TP_ARGS(container, count, done, bad, error),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u32, count)
		__field(u32, done)
		__field(u32, bad)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->count = count;
		__entry->done = done;
		__entry->bad = bad;
		__entry->error = error;
	),
	TP_printk("container=%llu count=%u done=%u bad=%u error=%d",
		  __entry->container, __entry->count, __entry->done,
		  __entry->bad, __entry->error)
);

/*
 * A page request group came in; addr is its last record's. Whatever becomes of
 * it, an ioasid_page_response follows.
 */
TRACE_EVENT(ioasid_page_request,
	TP_PROTO(u64 container, u32 device, u32 pasid, u32 guest_pasid,
		 u32 group, u32 records, u64 addr),
	TP_ARGS(container, device, pasid, guest_pasid, group, records, addr),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u64, addr)
		__field(u32, device)
		__field(u32, pasid)
		__field(u32, guest_pasid)
		__field(u32, group)
		__field(u32, records)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->addr = addr;
		__entry->device = device;
		__entry->pasid = pasid;
		__entry->guest_pasid = guest_pasid;
		__entry->group = group;
		__entry->records = records;
	),
	TP_printk("container=%llu " IOASID_DEVICE_FORMAT " pasid=%u guest_pasid=%u group=%u records=%u addr=0x%llx",
		  __entry->container, IOASID_DEVICE(__entry->device),
		  __entry->pasid, __entry->guest_pasid, __entry->group,
		  __entry->records, __entry->addr)
);

/* A group is answered; by says who does it, and why if it is not the user. */
TRACE_EVENT(ioasid_page_response,
	TP_PROTO(u64 container, u32 device, u32 pasid, u32 group, bool success,
		 u32 by),
	TP_ARGS(container, device, pasid, group, success, by),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u32, device)
		__field(u32, pasid)
		__field(u32, group)
		__field(u32, success)
		__field(u32, by)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->device = device;
		__entry->pasid = pasid;
		__entry->group = group;
		__entry->success = success;
		__entry->by = by;
	),
	TP_printk("container=%llu " IOASID_DEVICE_FORMAT " pasid=%u group=%u code=%s by=%s",
		  __entry->container, IOASID_DEVICE(__entry->device),
		  __entry->pasid, __entry->group,
		  __entry->success ? "success" : "invalid",
		  __print_symbolic(__entry->by, { 0, "user" },
				   { 1, "cancelled" }, { 2, "expired" },
				   { 3, "refused" }))
);

/* The IOMMU stopped DMA: pasid is zero for the RID, reason the IOMMU's. */
TRACE_EVENT(ioasid_dma_fault,
	TP_PROTO(u64 container, u32 device, u32 pasid, u64 addr, u32 perm,
		 u32 reason),
	TP_ARGS(container, device, pasid, addr, perm, reason),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u32, device)
		__field(u32, pasid)
		__field(u64, addr)
		__field(u32, perm)
		__field(u32, reason)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->device = device;
		__entry->pasid = pasid;
		__entry->addr = addr;
		__entry->perm = perm;
		__entry->reason = reason;
	),
	TP_printk("container=%llu " IOASID_DEVICE_FORMAT " pasid=%u addr=0x%llx perm=0x%x reason=0x%x",
		  __entry->container, IOASID_DEVICE(__entry->device), __entry->pasid,
		  __entry->addr, __entry->perm, __entry->reason)
);

/* A MAP_DMA ended. */
TRACE_EVENT(ioasid_map,
	TP_PROTO(u64 container, u64 iova, u64 last, u64 vaddr, int error),
	TP_ARGS(container, iova, last, vaddr, error),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u64, iova)
		__field(u64, last)
		__field(u64, vaddr)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->iova = iova;
		__entry->last = last;
		__entry->vaddr = vaddr;
		__entry->error = error;
	),
	TP_printk("container=%llu iova=0x%llx last=0x%llx vaddr=0x%llx error=%d",
		  __entry->container, __entry->iova, __entry->last,
		  __entry->vaddr, __entry->error)
);

/* An UNMAP_DMA ended. */
TRACE_EVENT(ioasid_unmap,
	TP_PROTO(u64 container, u64 iova, u64 last, u64 bytes, int error),
	TP_ARGS(container, iova, last, bytes, error),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u64, iova)
		__field(u64, last)
		__field(u64, bytes)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->iova = iova;
		__entry->last = last;
		__entry->bytes = bytes;
		__entry->error = error;
	),
	TP_printk("container=%llu iova=0x%llx last=0x%llx bytes=%llu error=%d",
		  __entry->container, __entry->iova, __entry->last,
		  __entry->bytes, __entry->error)
);

/* An address space was made, destroyed, or done of its entries were changed. */
TRACE_EVENT(ioasid_as,
	TP_PROTO(u64 container, u32 as, u32 op, u32 done, int error),
	TP_ARGS(container, as, op, done, error),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u32, as)
		__field(u32, op)
		__field(u32, done)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->as = as;
		__entry->op = op;
		__entry->done = done;
		__entry->error = error;
	),
	TP_printk("container=%llu as=%u op=%s done=%u error=%d",
		  __entry->container, __entry->as,
		  __print_symbolic(__entry->op, { 0, "create" },
				   { 1, "destroy" }, { 2, "map" },
				   { 3, "unmap" }),
		  __entry->done, __entry->error)
);

/* A call was refused by a quota: call is the ioctl's number. */
TRACE_EVENT(ioasid_quota,
	TP_PROTO(u64 container, u32 call),
	TP_ARGS(container, call),
	TP_STRUCT__entry(
		__field(u64, container)
		__field(u32, call)
	),
	TP_fast_assign(
		__entry->container = container;
		__entry->call = call;
	),
	TP_printk("container=%llu call=0x%x", __entry->container,
		  __entry->call)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE ioasid_trace
#include <trace/define_trace.h>
