// SPDX-License-Identifier: GPL-2.0
/*
 * Gives the address space of whoever opens it to the test endpoint: host SVA, by
 * the kernel's own VT-d driver. It proves the emulated hardware without our
 * module, on kernels that lack uio_pci_generic_sva.
 *
 * /dev/pasid-dma-sva: open binds the caller's address space at a PASID, read gives
 * the PASID as a native u32, mmap maps BAR 0, the last close unbinds.
 *
 * Its attribute rid_copy has the endpoint copy a buffer by the DMA API, without a
 * PASID, and wait for the endpoint's interrupt: it reads "ok" if the copy is equal.
 *
 * It takes no device by itself: write its name to driver_override.
 */
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "../qemu/files/include/hw/misc/pasid-dma-testdev.h"

#define RID_PAGES	4
#define RID_BYTES	(RID_PAGES * PAGE_SIZE)

/* The one device; sysfs cannot unbind it, and open files hold the module. */
static struct pci_dev *endpoint;
static void __iomem *endpoint_bar;

static int sva_open(struct inode *inode, struct file *file)
{
	struct iommu_sva *handle;

	handle = iommu_sva_bind_device(&endpoint->dev, current->mm);
	if (IS_ERR(handle))
		return PTR_ERR(handle);
	file->private_data = handle;
	return 0;
}

static int sva_release(struct inode *inode, struct file *file)
{
	iommu_sva_unbind_device(file->private_data);
	return 0;
}

static ssize_t sva_read(struct file *file, char __user *to, size_t count,
			loff_t *pos)
{
	u32 pasid = iommu_sva_get_pasid(file->private_data);

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

static struct attribute *sva_attrs[] = {
	&dev_attr_rid_copy.attr,
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
	ret = pcim_request_region(pdev, 0, "pasid-dma-sva");
	if (ret)
		return ret;
	endpoint_bar = pcim_iomap(pdev, 0, 0);
	if (!endpoint_bar)
		return -ENOMEM;
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
	endpoint = pdev;
	ret = misc_register(&sva_misc);
	if (ret)
		endpoint = NULL;
	return ret;
}

static void sva_remove(struct pci_dev *pdev)
{
	misc_deregister(&sva_misc);
	pci_clear_master(pdev);
	endpoint = NULL;
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
