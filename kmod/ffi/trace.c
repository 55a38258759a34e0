// SPDX-License-Identifier: GPL-2.0
/* The tracepoints, as functions that Rust can call: a jump label each when off. */
#include <linux/iommu.h>

#include "shim.h"

#define CREATE_TRACE_POINTS
#include "ioasid_trace.h"

static u32 pasid_of(const struct iommu_fault_page_request *prm)
{
	return prm->flags & IOMMU_FAULT_PAGE_REQUEST_PASID_VALID ? prm->pasid :
								   0;
}

void ioasid_trace_bind(u64 container, u32 device, u32 pasid, u32 guest_pasid,
		       u32 kind, bool replace, u32 outcome, int error)
{
	trace_ioasid_bind(container, device, pasid, guest_pasid, kind, replace,
			  outcome, error);
}

void ioasid_trace_unbind(u64 container, u32 device, u32 pasid)
{
	trace_ioasid_unbind(container, device, pasid);
}

void ioasid_trace_invalidate(u64 container, u32 count, u32 done, u32 bad,
			     int error)
{
	trace_ioasid_invalidate(container, count, done, bad, error);
}

void ioasid_trace_page_request(u64 container, u32 device, u32 guest_pasid,
			       const struct iopf_group *group)
{
	const struct iommu_fault_page_request *prm =
		&group->last_fault.fault.prm;

	trace_ioasid_page_request(container, device, pasid_of(prm), guest_pasid,
				  prm->grpid, group->fault_count, prm->addr);
}

void ioasid_trace_page_response(u64 container, u32 device,
				const struct iopf_group *group, bool success,
				u32 by)
{
	const struct iommu_fault_page_request *prm =
		&group->last_fault.fault.prm;

	trace_ioasid_page_response(container, device, pasid_of(prm), prm->grpid,
				   success, by);
}

void ioasid_trace_dma_fault(u64 container, u32 device, u32 pasid, u64 addr,
			    u32 perm, u32 reason)
{
	trace_ioasid_dma_fault(container, device, pasid, addr, perm, reason);
}

void ioasid_trace_map(u64 container, u64 iova, u64 last, u64 vaddr, int error)
{
	trace_ioasid_map(container, iova, last, vaddr, error);
}

void ioasid_trace_unmap(u64 container, u64 iova, u64 last, u64 bytes,
			int error)
{
	trace_ioasid_unmap(container, iova, last, bytes, error);
}

void ioasid_trace_as(u64 container, u32 as, u32 op, u32 done, int error)
{
	trace_ioasid_as(container, as, op, done, error);
}

void ioasid_trace_quota(u64 container, u32 call)
{
	trace_ioasid_quota(container, call);
}
