// SPDX-License-Identifier: GPL-2.0
/*
 * IOMMU units, each with the lock of whoever may wait for its page requests.
 */
#include <linux/iommu.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/slab.h>

/* A private header of the kernel, found in its source tree. */
#include "intel/iommu.h"

#include "shim.h"

/*
 * A unit has one completion for all who wait until its page requests have been
 * handled (intel_iommu_drain_pasid_prq), and each of them arms it anew: of two
 * at a time, one may wait until the unit's next page request. So everything of
 * ours that may come to wait for a unit does so one by one, and nobody waits for
 * another unit.
 */
struct ioasid_unit {
	struct list_head list;
	/* Stays while a device of a container is behind it. */
	struct iommu_device *iommu;
	/* Protected by @units_lock. */
	unsigned int users;
	struct mutex drain;
};

static LIST_HEAD(units);
/* A leaf. */
static DEFINE_MUTEX(units_lock);

/* The unit of @dev, which has one. NULL without memory. */
struct ioasid_unit *ioasid_unit_get(struct device *dev)
{
	struct iommu_device *iommu = dev->iommu->iommu_dev;
	struct ioasid_unit *unit;

	mutex_lock(&units_lock);
	list_for_each_entry(unit, &units, list) {
		if (unit->iommu == iommu) {
			unit->users++;
			goto out;
		}
	}
	unit = kzalloc_obj(*unit);
	if (unit) {
		unit->iommu = iommu;
		unit->users = 1;
		mutex_init(&unit->drain);
		list_add(&unit->list, &units);
	}
out:
	mutex_unlock(&units_lock);
	return unit;
}

void ioasid_unit_put(struct ioasid_unit *unit)
{
	bool last;

	mutex_lock(&units_lock);
	last = !--unit->users;
	if (last)
		list_del(&unit->list);
	mutex_unlock(&units_lock);
	if (last) {
		mutex_destroy(&unit->drain);
		kfree(unit);
	}
}

int ioasid_unit_lock_killable(struct ioasid_unit *unit)
{
	return mutex_lock_killable(&unit->drain);
}

void ioasid_unit_lock(struct ioasid_unit *unit)
{
	mutex_lock(&unit->drain);
}

void ioasid_unit_unlock(struct ioasid_unit *unit)
{
	mutex_unlock(&unit->drain);
}

/*
 * For a VT-d unit. Its page request thread looks an attach handle up, and calls
 * its handler, inside intel_iommu::iopf_lock, with no reference to either. Once
 * the handle is out of the group's PASID array, a passage through that lock
 * leaves nobody who still sees it.
 */
void ioasid_unit_quiesce_page_requests(struct ioasid_unit *unit)
{
	struct intel_iommu *iommu =
		container_of(unit->iommu, struct intel_iommu, iommu);

	mutex_lock(&iommu->iopf_lock);
	mutex_unlock(&iommu->iopf_lock);
}
