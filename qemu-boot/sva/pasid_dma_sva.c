// SPDX-License-Identifier: GPL-2.0
/*
 * Gives the address space of whoever opens it to the test endpoint: host SVA, by
 * the kernel's own VT-d driver. It proves the emulated hardware without our
 * module, on kernels that lack uio_pci_generic_sva.
 *
 * /dev/pasid-dma-sva: open binds the caller's address space at a PASID, read gives
 * the PASID as a native u32, mmap maps BAR 0, the last close unbinds.
 *
 * It takes no device by itself: write its name to driver_override.
 */
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/uaccess.h>

/* The one device; sysfs cannot unbind it, and open files hold the module. */
static struct pci_dev *endpoint;

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
	.driver = {
		.suppress_bind_attrs = true,
	},
};
module_pci_driver(sva_driver);

MODULE_DESCRIPTION("Shared virtual addressing for the PASID DMA test endpoint");
MODULE_LICENSE("GPL");
