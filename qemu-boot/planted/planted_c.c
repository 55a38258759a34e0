// SPDX-License-Identifier: GPL-2.0
/* Reads memory after it was freed: KASAN must report it. */

#include <linux/module.h>
#include <linux/slab.h>

static int __init planted_c_load(void)
{
	u32 *word = kmalloc(sizeof(*word), GFP_KERNEL);

	if (!word)
		return -ENOMEM;
	kfree(word);
	pr_info("planted: read %u\n", READ_ONCE(*word));
	return 0;
}
module_init(planted_c_load);

MODULE_DESCRIPTION("A use after free, planted");
MODULE_LICENSE("GPL");
