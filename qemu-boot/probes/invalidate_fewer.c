// SPDX-License-Identifier: GPL-2.0
/*
 * Lets the VT-d driver carry out fewer invalidation entries a call than it is
 * given, and return success, as a driver may. For tests:
 *
 *   insmod invalidate_fewer.ko most=3
 */
#include <linux/iommu.h>
#include <linux/kprobes.h>
#include <linux/module.h>

static uint most;
module_param(most, uint, 0444);
MODULE_PARM_DESC(most, "entries a call; with 0 nothing is done");

static uint calls;
module_param(calls, uint, 0444);
MODULE_PARM_DESC(calls, "number of calls");

static int at_start(struct kprobe *probe, struct pt_regs *regs)
{
	struct iommu_user_data_array *array =
		(void *)regs_get_kernel_argument(regs, 1);

	array->entry_num = min(array->entry_num, most);
	WRITE_ONCE(calls, calls + 1);
	return 0;
}

static struct kprobe probe = {
	.symbol_name	= "intel_nested_cache_invalidate_user",
	.pre_handler	= at_start,
};

static int __init invalidate_fewer_init(void)
{
	return register_kprobe(&probe);
}

static void __exit invalidate_fewer_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(invalidate_fewer_init);
module_exit(invalidate_fewer_exit);
MODULE_DESCRIPTION("Lets a driver invalidate less than it is asked to");
MODULE_LICENSE("GPL");
