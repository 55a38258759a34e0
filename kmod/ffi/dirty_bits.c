// SPDX-License-Identifier: GPL-2.0
/*
 * Dirty bits that the IOMMU sets in the entries of stage 2. The core has what
 * reads them where iommufd is built, and nowhere else.
 */
#include <linux/iommu.h>
#include <linux/iova_bitmap.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>

#include "shim.h"

bool ioasid_dirty_offered(void)
{
	return IS_ENABLED(CONFIG_IOMMUFD_DRIVER);
}

bool ioasid_can_track_dirty(struct device *dev)
{
	return device_iommu_capable(dev, IOMMU_CAP_DIRTY_TRACKING);
}

int ioasid_track_dirty(struct iommu_domain *domain, bool on)
{
	return domain->dirty_ops->set_dirty_tracking(domain, on);
}

/*
 * Sets the bits of the dirty pages in @bitmap, or nowhere if that is NULL. With
 * @clear the entries are clean afterwards, and no cache knows them as dirty.
 */
int ioasid_read_dirty(struct iommu_domain *domain, struct iova_bitmap *bitmap,
		      struct ioasid_range range, bool clear)
{
	const struct iommu_dirty_ops *ops = domain->dirty_ops;
	const unsigned long flags = clear ? 0 : IOMMU_DIRTY_NO_CLEAR;
	struct iommu_iotlb_gather gather;
	struct iommu_dirty_bitmap dirty;
	u64 start = range.start;
	int ret;

	iommu_dirty_bitmap_init(&dirty, bitmap, &gather);
	for (;;) {
		/* No entry reaches over a multiple of the largest page. */
		u64 last = min(range.last, start | (SZ_1G - 1));

		ret = ops->read_and_clear_dirty(domain, start, last - start + 1,
						flags, &dirty);
		if (ret || last == range.last)
			break;
		start = last + 1;
		cond_resched();
		if (fatal_signal_pending(current)) {
			ret = -EINTR;
			break;
		}
	}
	if (gather.end)
		iommu_iotlb_sync(domain, &gather);
	return ret;
}

struct iova_bitmap *ioasid_bitmap_new(struct ioasid_range range, u64 page_size,
				      unsigned long data)
{
	return iova_bitmap_alloc(range.start, range.last - range.start + 1,
				 page_size, (u64 __user *)data);
}

void ioasid_bitmap_free(struct iova_bitmap *bitmap)
{
	iova_bitmap_free(bitmap);
}

/*
 * Whether the user's memory can be pinned, which is how iova_bitmap writes to
 * it: it tells nobody when it cannot.
 */
bool ioasid_can_pin(unsigned long address, size_t len)
{
	unsigned long at;
	struct page *page;

	for (at = address & PAGE_MASK; at < address + len; at += PAGE_SIZE) {
		if (fatal_signal_pending(current))
			return false;
		if (pin_user_pages_fast(at, 1, FOLL_WRITE, &page) != 1)
			return false;
		unpin_user_page(page);
		cond_resched();
	}
	return true;
}
