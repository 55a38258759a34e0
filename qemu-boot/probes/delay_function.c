// SPDX-License-Identifier: GPL-2.0
/*
 * Lets functions of the kernel take longer, at their start or when they return,
 * and counts their calls. A race between what a function looked up and what its
 * caller does with that is met every time then, even on a machine whose CPUs
 * take turns. For tests:
 *
 *   insmod delay_function.ko function=iommu_attach_handle_get at_return=1 ms=20
 *
 * Each parameter is an array, for several functions.
 */
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/module.h>

#define FUNCTIONS 3

static char *function[FUNCTIONS];
static unsigned int functions;
module_param_array(function, charp, &functions, 0444);
MODULE_PARM_DESC(function, "names of functions");

static bool at_return[FUNCTIONS];
module_param_array(at_return, bool, NULL, 0444);
MODULE_PARM_DESC(at_return, "delay the return instead of the start");

static uint ms[FUNCTIONS];
module_param_array(ms, uint, NULL, 0644);
MODULE_PARM_DESC(ms, "for how many milliseconds, 1000 at most");

static uint calls[FUNCTIONS];
module_param_array(calls, uint, NULL, 0444);
MODULE_PARM_DESC(calls, "number of calls that were delayed");

static struct kprobe at_start_probes[FUNCTIONS];
static struct kretprobe at_return_probes[FUNCTIONS];

static void delay(size_t index)
{
	WRITE_ONCE(calls[index], calls[index] + 1);
	mdelay(min(ms[index], 1000U));
}

static int at_start_handler(struct kprobe *probe, struct pt_regs *regs)
{
	delay(probe - at_start_probes);
	return 0;
}

static int at_return_handler(struct kretprobe_instance *instance,
			     struct pt_regs *regs)
{
	delay(get_kretprobe(instance) - at_return_probes);
	return 0;
}

static void remove_probes(unsigned int count)
{
	while (count--) {
		if (at_return[count])
			unregister_kretprobe(&at_return_probes[count]);
		else
			unregister_kprobe(&at_start_probes[count]);
	}
}

static int __init delay_function_init(void)
{
	unsigned int index;
	int error;

	for (index = 0; index < functions; index++) {
		struct kretprobe *at_end = &at_return_probes[index];
		struct kprobe *at_start = &at_start_probes[index];

		if (at_return[index]) {
			at_end->kp.symbol_name = function[index];
			at_end->handler = at_return_handler;
			at_end->maxactive = 16;
			error = register_kretprobe(at_end);
		} else {
			at_start->symbol_name = function[index];
			at_start->pre_handler = at_start_handler;
			error = register_kprobe(at_start);
		}
		if (error) {
			remove_probes(index);
			return error;
		}
	}
	return 0;
}

static void __exit delay_function_exit(void)
{
	remove_probes(functions);
}

module_init(delay_function_init);
module_exit(delay_function_exit);
MODULE_DESCRIPTION("Delays functions of the kernel");
MODULE_LICENSE("GPL");
