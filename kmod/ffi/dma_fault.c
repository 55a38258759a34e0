// SPDX-License-Identifier: GPL-2.0
/*
 * DMA that the IOMMU stopped, as VT-d's driver tells of it in hard interrupt
 * context: kept here for each device until a work item hands it to Rust. Kernels
 * without our patch tell nobody.
 */
#include <linux/iommu.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "shim.h"

#ifdef IOASID_DMA_FAULTS
#include <linux/dmar.h>

/* So many of a device are kept; what more comes before they are read is lost. */
#define ROOM	16

struct ioasid_dma_watch {
	struct notifier_block nb;
	struct work_struct work;
	/* Protects what follows. */
	raw_spinlock_t lock;
	struct ioasid_dma_fault faults[ROOM];
	size_t count;
	u64 lost;
	/* Do not change. */
	ioasid_dma_faults_fn *tell;
	u64 container;
	u16 segment;
	u16 source_id;
};

static int dma_fault_notify(struct notifier_block *nb, unsigned long action,
			    void *data)
{
	struct ioasid_dma_watch *watch =
		container_of(nb, struct ioasid_dma_watch, nb);
	const struct dmar_dma_fault *fault = data;
	unsigned long flags;

	if (fault->segment != watch->segment ||
	    fault->source_id != watch->source_id)
		return NOTIFY_DONE;

	raw_spin_lock_irqsave(&watch->lock, flags);
	if (watch->count < ROOM)
		watch->faults[watch->count++] = (struct ioasid_dma_fault) {
			.addr = fault->addr,
			.pasid = fault->pasid,
			.perm = fault->perm,
			.reason = fault->reason,
			.has_pasid = fault->pasid != IOMMU_PASID_INVALID,
		};
	else
		watch->lost++;
	raw_spin_unlock_irqrestore(&watch->lock, flags);
	schedule_work(&watch->work);
	return NOTIFY_DONE;
}

static void dma_fault_work(struct work_struct *work)
{
	struct ioasid_dma_watch *watch =
		container_of(work, struct ioasid_dma_watch, work);
	struct ioasid_dma_fault faults[ROOM];
	unsigned long flags;
	size_t count;
	u64 lost;

	raw_spin_lock_irqsave(&watch->lock, flags);
	count = watch->count;
	memcpy(faults, watch->faults, count * sizeof(*faults));
	lost = watch->lost;
	watch->count = 0;
	watch->lost = 0;
	raw_spin_unlock_irqrestore(&watch->lock, flags);

	watch->tell(watch->container, watch->segment, watch->source_id, faults,
		    count, lost);
}

bool ioasid_dma_faults_offered(void)
{
	return true;
}

struct ioasid_dma_watch *ioasid_dma_watch_new(ioasid_dma_faults_fn *tell,
					      u64 container, u16 segment,
					      u16 source_id)
{
	struct ioasid_dma_watch *watch =
		kzalloc(sizeof(*watch), GFP_KERNEL_ACCOUNT);

	if (!watch)
		return NULL;
	watch->nb.notifier_call = dma_fault_notify;
	INIT_WORK(&watch->work, dma_fault_work);
	raw_spin_lock_init(&watch->lock);
	watch->tell = tell;
	watch->container = container;
	watch->segment = segment;
	watch->source_id = source_id;
	dmar_register_dma_fault_notifier(&watch->nb);
	return watch;
}

void ioasid_dma_watch_free(struct ioasid_dma_watch *watch)
{
	dmar_unregister_dma_fault_notifier(&watch->nb);
	cancel_work_sync(&watch->work);
	kfree(watch);
}

#else

bool ioasid_dma_faults_offered(void)
{
	return false;
}

struct ioasid_dma_watch *ioasid_dma_watch_new(ioasid_dma_faults_fn *tell,
					      u64 container, u16 segment,
					      u16 source_id)
{
	return NULL;
}

void ioasid_dma_watch_free(struct ioasid_dma_watch *watch)
{
}

#endif
