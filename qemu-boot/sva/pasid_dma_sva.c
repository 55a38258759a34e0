// SPDX-License-Identifier: GPL-2.0
/*
 * Gives the address space of whoever opens it to the test endpoint: host SVA, by
 * the kernel's own VT-d driver. It proves the emulated hardware without our
 * module, on kernels that lack uio_pci_generic_sva.
 *
 * /dev/pasid-dma-sva: open binds the caller's address space at a PASID, read gives
 * the PASID as a native u32, mmap maps BAR 0, the last close unbinds. The driver
 * drains the device of a process's orders before the process's page tables go, and
 * before it unbinds.
 *
 * Its attribute rid_copy has the endpoint copy a buffer by the DMA API, without a
 * PASID, and wait for the endpoint's interrupt: it reads "ok" if the copy is equal.
 * held_pages is how many DMA mappings of a page it holds: written, it maps or unmaps
 * until they are as many.
 *
 * It takes no device by itself: write its name to driver_override.
 */
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/iopoll.h>
#include <linux/miscdevice.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/srcu.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "../qemu/files/include/hw/misc/pasid-dma-testdev.h"

#define RID_PAGES	4
#define RID_BYTES	(RID_PAGES * PAGE_SIZE)
/* A page request goes through three kernels, emulated. */
#define SVA_PATIENCE	(60 * USEC_PER_SEC)

/* The one device; sysfs cannot unbind it, and open files hold the module. */
static struct pci_dev *endpoint;
static void __iomem *endpoint_bar;
/* Entered by whoever uses the device's registers while the device may be unplugged. */
DEFINE_STATIC_SRCU(sva_srcu);

/* An open file. */
struct sva_user {
	struct mmu_notifier notifier;
	struct mm_struct *mm;
	struct iommu_sva *handle;
	u32 pasid;
};

/* How many orders of this PASID are not done, and the status of one of them. */
static u32 sva_orders(u32 pasid, u32 *status)
{
	u32 tail = ioread32(endpoint_bar + PDT_REG_TAIL) % PDT_SLOTS;
	u32 at = ioread32(endpoint_bar + PDT_REG_HEAD) % PDT_SLOTS;
	u32 count = 0;

	for (; at != tail; at = (at + 1) % PDT_SLOTS) {
		void __iomem *slot = endpoint_bar + PDT_RING +
				     at * PDT_DESC_SIZE;
		u32 now = ioread32(slot + PDT_DESC_STATUS);

		if (ioread32(slot + PDT_DESC_FLAGS) & PDT_FLAG_PASID &&
		    ioread32(slot + PDT_DESC_PASID) == pasid &&
		    now < PDT_STATUS_OK) {
			*status = now;
			count++;
		}
	}
	return count;
}

/*
 * Waits until the device has done the orders of a PASID. Those that ask for pages
 * of a process that ends get the kernel's answer, INVALID, and end by it.
 *
 * The kernel's worker for a page request may be the last that has the process's
 * memory, and so the one that gives it up: it answers its own request afterwards.
 */
static void sva_drain(struct pci_dev *pdev, u32 pasid)
{
	u32 own = current->flags & PF_WQ_WORKER ? 1 : 0;
	u32 count, state, status = 0;

	if (!read_poll_timeout(sva_orders, count, count <= own, 1000,
			       SVA_PATIENCE, false, pasid, &status))
		return;
	state = ioread32(endpoint_bar + PDT_REG_PRI_STATE);
	dev_warn(&pdev->dev,
		 "PASID %u: %u orders are aborted, status %u, PRI state %#x\n",
		 pasid, count, status, state);
	iowrite32(PDT_COMMAND_ABORT, endpoint_bar + PDT_REG_COMMAND);
	if (read_poll_timeout(ioread32, state, !(state & 0xffff), 1000,
			      SVA_PATIENCE, false,
			      endpoint_bar + PDT_REG_PRI_STATE))
		dev_warn(&pdev->dev, "page requests are not answered\n");
}

/*
 * The process ends, or closes the file. Called before the VT-d driver's own
 * notifier, which was registered earlier: while the PASID is bound, each page
 * request has its answer from the kernel. Afterwards would be too late, as 7.3
 * shows: intel_mm_release() clears the PASID entry's present bit, so that
 * intel_pasid_clear_entry() does not set FPD, and at unbind
 * intel_pasid_tear_down_entry() takes the entry for one that never was and does
 * not drain. iommu_sva_handle_iopf() then gets requests whose handle is freed.
 */
static void sva_mm_release(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	struct sva_user *user = container_of(notifier, struct sva_user, notifier);
	int index = srcu_read_lock(&sva_srcu);
	struct pci_dev *pdev = READ_ONCE(endpoint);

	if (pdev)
		sva_drain(pdev, user->pasid);
	srcu_read_unlock(&sva_srcu, index);
}

static const struct mmu_notifier_ops sva_notifier_ops = {
	.release = sva_mm_release,
};

/* Before 6.16 a driver asks for page requests and for SVA first. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
static bool sva_enabled;

/* Without them, an open says so, and copies without a PASID work. */
static void sva_enable(struct device *dev)
{
	if (iommu_dev_enable_feature(dev, IOMMU_DEV_FEAT_IOPF))
		return;
	sva_enabled = !iommu_dev_enable_feature(dev, IOMMU_DEV_FEAT_SVA);
	if (!sva_enabled)
		iommu_dev_disable_feature(dev, IOMMU_DEV_FEAT_IOPF);
}

static void sva_disable(struct device *dev)
{
	if (!sva_enabled)
		return;
	iommu_dev_disable_feature(dev, IOMMU_DEV_FEAT_SVA);
	iommu_dev_disable_feature(dev, IOMMU_DEV_FEAT_IOPF);
	sva_enabled = false;
}
#else
static void sva_enable(struct device *dev)
{
}

static void sva_disable(struct device *dev)
{
}
#endif

static struct iommu_sva *sva_bind(struct device *dev, struct mm_struct *mm)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
	return iommu_sva_bind_device(dev, mm, NULL);
#else
	return iommu_sva_bind_device(dev, mm);
#endif
}

static int sva_open(struct inode *inode, struct file *file)
{
	struct sva_user *user = kzalloc(sizeof(*user), GFP_KERNEL);
	int ret;

	if (!user)
		return -ENOMEM;
	user->mm = current->mm;
	user->handle = sva_bind(&endpoint->dev, user->mm);
	if (IS_ERR(user->handle)) {
		ret = PTR_ERR(user->handle);
		goto out_free;
	}
	user->pasid = iommu_sva_get_pasid(user->handle);
	user->notifier.ops = &sva_notifier_ops;
	ret = mmu_notifier_register(&user->notifier, user->mm);
	if (ret)
		goto out_unbind;
	file->private_data = user;
	return 0;

out_unbind:
	iommu_sva_unbind_device(user->handle);
out_free:
	kfree(user);
	return ret;
}

static int sva_release(struct inode *inode, struct file *file)
{
	struct sva_user *user = file->private_data;

	/* Calls sva_mm_release(), unless the process's end has. */
	mmu_notifier_unregister(&user->notifier, user->mm);
	iommu_sva_unbind_device(user->handle);
	kfree(user);
	return 0;
}

static ssize_t sva_read(struct file *file, char __user *to, size_t count,
			loff_t *pos)
{
	struct sva_user *user = file->private_data;
	u32 pasid = user->pasid;

	if (count != sizeof(pasid))
		return -EINVAL;
	if (copy_to_user(to, &pasid, sizeof(pasid)))
		return -EFAULT;
	return sizeof(pasid);
}

static int sva_mmap(struct file *file, struct vm_area_struct *vma)
{
	vma->vm_page_prot = pgprot_noncached(vma->vm_page_prot);
	return vm_iomap_memory(vma, pci_resource_start(endpoint, 0),
			       pci_resource_len(endpoint, 0));
}

static const struct file_operations sva_fops = {
	.owner = THIS_MODULE,
	.open = sva_open,
	.release = sva_release,
	.read = sva_read,
	.mmap = sva_mmap,
};

static struct miscdevice sva_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "pasid-dma-sva",
	.fops = &sva_fops,
};

static DEFINE_MUTEX(rid_lock);
static DECLARE_COMPLETION(rid_done);

static irqreturn_t rid_interrupt(int irq, void *data)
{
	complete(&rid_done);
	return IRQ_HANDLED;
}

/* Orders a copy, and gives the status that it ends with. */
static int rid_order(dma_addr_t from, dma_addr_t to)
{
	void __iomem *bar = endpoint_bar;
	u32 tail = ioread32(bar + PDT_REG_TAIL) % PDT_SLOTS;
	void __iomem *slot = bar + PDT_RING + tail * PDT_DESC_SIZE;

	memset_io(slot, 0, PDT_DESC_SIZE);
	iowrite32(PDT_OP_COPY, slot + PDT_DESC_OP);
	iowrite32(PDT_FLAG_IRQ, slot + PDT_DESC_FLAGS);
	iowrite32(RID_BYTES, slot + PDT_DESC_LENGTH);
	writeq(from, slot + PDT_DESC_SRC);
	writeq(to, slot + PDT_DESC_DST);
	reinit_completion(&rid_done);
	iowrite32((tail + 1) % PDT_SLOTS, bar + PDT_REG_TAIL);
	if (!wait_for_completion_timeout(&rid_done, 30 * HZ))
		return -ETIMEDOUT;
	return ioread32(slot + PDT_DESC_STATUS);
}

static int rid_copy(struct pci_dev *pdev, u8 *from, u8 *to)
{
	dma_addr_t source, target;
	int status = -ENOMEM;

	source = dma_map_single(&pdev->dev, from, RID_BYTES, DMA_TO_DEVICE);
	if (dma_mapping_error(&pdev->dev, source))
		return status;
	target = dma_map_single(&pdev->dev, to, RID_BYTES, DMA_FROM_DEVICE);
	if (!dma_mapping_error(&pdev->dev, target)) {
		status = rid_order(source, target);
		dma_unmap_single(&pdev->dev, target, RID_BYTES, DMA_FROM_DEVICE);
	}
	dma_unmap_single(&pdev->dev, source, RID_BYTES, DMA_TO_DEVICE);
	return status;
}

static ssize_t rid_copy_show(struct device *dev, struct device_attribute *attr,
			     char *text)
{
	struct pci_dev *pdev = to_pci_dev(dev);
	u8 *from = kmalloc(RID_BYTES, GFP_KERNEL);
	u8 *to = kzalloc(RID_BYTES, GFP_KERNEL);
	ssize_t ret = -ENOMEM;
	int status;
	size_t at;

	if (from && to) {
		for (at = 0; at < RID_BYTES; at++)
			from[at] = at * 7 + (at >> 8) + jiffies;
		mutex_lock(&rid_lock);
		status = rid_copy(pdev, from, to);
		mutex_unlock(&rid_lock);
		if (status != PDT_STATUS_OK)
			ret = sysfs_emit(text, "status %d\n", status);
		else if (memcmp(from, to, RID_BYTES))
			ret = sysfs_emit(text, "differs\n");
		else
			ret = sysfs_emit(text, "ok\n");
	}
	kfree(to);
	kfree(from);
	return ret;
}
static DEVICE_ATTR_RO(rid_copy);

#define HELD_MAX	1024
static dma_addr_t held[HELD_MAX];
static unsigned int held_count;
static u8 *held_page;

static int held_set(struct pci_dev *pdev, unsigned int count)
{
	while (held_count > count)
		dma_unmap_single(&pdev->dev, held[--held_count], PAGE_SIZE,
				 DMA_TO_DEVICE);
	while (held_count < count) {
		dma_addr_t at = dma_map_single(&pdev->dev, held_page, PAGE_SIZE,
					       DMA_TO_DEVICE);

		if (dma_mapping_error(&pdev->dev, at))
			return -ENOMEM;
		held[held_count++] = at;
	}
	return 0;
}

static ssize_t held_pages_show(struct device *dev,
			       struct device_attribute *attr, char *text)
{
	return sysfs_emit(text, "%u\n", held_count);
}

static ssize_t held_pages_store(struct device *dev,
				struct device_attribute *attr,
				const char *text, size_t size)
{
	unsigned int count;
	int ret = kstrtouint(text, 10, &count);

	if (ret)
		return ret;
	if (count > HELD_MAX)
		return -EINVAL;
	mutex_lock(&rid_lock);
	ret = held_set(to_pci_dev(dev), count);
	mutex_unlock(&rid_lock);
	return ret ?: size;
}
static DEVICE_ATTR_RW(held_pages);

static struct attribute *sva_attrs[] = {
	&dev_attr_rid_copy.attr,
	&dev_attr_held_pages.attr,
	NULL,
};
ATTRIBUTE_GROUPS(sva);

static int sva_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int ret;

	if (endpoint)
		return -EBUSY;
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	held_page = devm_kzalloc(&pdev->dev, PAGE_SIZE, GFP_KERNEL);
	if (!held_page)
		return -ENOMEM;
	endpoint_bar = devm_ioremap_resource(&pdev->dev, &pdev->resource[0]);
	if (IS_ERR(endpoint_bar))
		return PTR_ERR(endpoint_bar);
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	ret = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
	if (ret < 0)
		return ret;
	ret = devm_request_irq(&pdev->dev, pci_irq_vector(pdev, 0),
			       rid_interrupt, 0, "pasid-dma-sva", pdev);
	if (ret)
		return ret;
	pci_set_master(pdev);
	sva_enable(&pdev->dev);
	endpoint = pdev;
	ret = misc_register(&sva_misc);
	if (ret) {
		endpoint = NULL;
		sva_disable(&pdev->dev);
	}
	return ret;
}

static void sva_remove(struct pci_dev *pdev)
{
	misc_deregister(&sva_misc);
	pci_clear_master(pdev);
	WRITE_ONCE(endpoint, NULL);
	synchronize_srcu(&sva_srcu);
	held_set(pdev, 0);
	sva_disable(&pdev->dev);
}

static struct pci_driver sva_driver = {
	.name = "pasid-dma-sva",
	.probe = sva_probe,
	.remove = sva_remove,
	.dev_groups = sva_groups,
	.driver = {
		.suppress_bind_attrs = true,
	},
};
module_pci_driver(sva_driver);

MODULE_DESCRIPTION("Shared virtual addressing for the PASID DMA test endpoint");
MODULE_LICENSE("GPL");
