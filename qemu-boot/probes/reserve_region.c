// SPDX-License-Identifier: GPL-2.0
/*
 * Gives an IOMMU group one reserved region more than firmware does, so that its
 * addresses differ from another group's. For tests:
 *
 *   insmod reserve_region.ko group=7 start=0x70000000 length=4096
 */
#include <linux/iommu.h>
#include <linux/kprobes.h>
#include <linux/module.h>

static int group;
module_param(group, int, 0444);
MODULE_PARM_DESC(group, "number of the group");

static ulong start;
module_param(start, ulong, 0444);
MODULE_PARM_DESC(start, "first address");

static ulong length;
module_param(length, ulong, 0444);
MODULE_PARM_DESC(length, "bytes");

struct arguments {
	struct iommu_group *group;
	struct list_head *regions;
};

static int at_start(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct arguments *args = (void *)instance->data;

	args->group = (void *)regs_get_kernel_argument(regs, 0);
	args->regions = (void *)regs_get_kernel_argument(regs, 1);
	return 0;
}

static int at_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	struct arguments *args = (void *)instance->data;
	struct iommu_resv_region *region;

	if (regs_return_value(regs) || iommu_group_id(args->group) != group)
		return 0;
	region = iommu_alloc_resv_region(start, length, 0, IOMMU_RESV_RESERVED,
					 GFP_ATOMIC);
	if (region)
		list_add_tail(&region->list, args->regions);
	return 0;
}

static struct kretprobe probe = {
	.kp.symbol_name	= "iommu_get_group_resv_regions",
	.entry_handler	= at_start,
	.handler	= at_return,
	.data_size	= sizeof(struct arguments),
	.maxactive	= 16,
};

static int __init reserve_region_init(void)
{
	return register_kretprobe(&probe);
}

static void __exit reserve_region_exit(void)
{
	unregister_kretprobe(&probe);
}

module_init(reserve_region_init);
module_exit(reserve_region_exit);
MODULE_DESCRIPTION("Reserves addresses of an IOMMU group");
MODULE_LICENSE("GPL");
