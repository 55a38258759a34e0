// SPDX-License-Identifier: GPL-2.0
/*
 * /sys/kernel/debug/vfio_ioasid: files of lines that Rust makes one at a time.
 * A reader holds one line and a cursor, whatever the number of objects, and no
 * lock of a container while it copies to the user. Each file holds the module
 * while it is open.
 */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "shim.h"

/* The longest line, the numbers of a container, has less than 700. */
#define LINE_MAX_BYTES 1024

struct reader {
	/* Outermost: two threads may read one file. */
	struct mutex lock;
	struct ioasid_cursor at;
	size_t len;
	size_t done;
	char line[LINE_MAX_BYTES];
};

/* In the order of File in debugfs.rs. */
static const char * const names[] = {
	"module", "containers", "devices", "pasids", "bindings", "queues",
};

static struct dentry *folder;
/* Set before the files are made. */
static ioasid_line_fn *write_line;

static int lines_open(struct inode *inode, struct file *file)
{
	struct reader *reader = kzalloc_obj(*reader);

	if (!reader)
		return -ENOMEM;
	mutex_init(&reader->lock);
	file->private_data = reader;
	return nonseekable_open(inode, file);
}

static ssize_t lines_read(struct file *file, char __user *buf, size_t len,
			  loff_t *pos)
{
	struct reader *reader = file->private_data;
	u32 kind = (uintptr_t)file_inode(file)->i_private;
	size_t done = 0, part;
	ssize_t ret = 0;

	if (mutex_lock_interruptible(&reader->lock))
		return -ERESTARTSYS;
	while (done < len) {
		if (reader->done == reader->len) {
			reader->done = 0;
			reader->len = write_line(kind, &reader->at,
						 reader->line, LINE_MAX_BYTES);
			if (!reader->len)
				break;
		}
		part = min(len - done, reader->len - reader->done);
		if (copy_to_user(buf + done, reader->line + reader->done,
				 part)) {
			ret = -EFAULT;
			break;
		}
		reader->done += part;
		done += part;
		cond_resched();
		if (signal_pending(current))
			break;
	}
	mutex_unlock(&reader->lock);
	return done ?: ret;
}

static int lines_release(struct inode *inode, struct file *file)
{
	struct reader *reader = file->private_data;

	mutex_destroy(&reader->lock);
	kfree(reader);
	return 0;
}

static const struct file_operations lines_fops = {
	.owner		= THIS_MODULE,
	.open		= lines_open,
	.read		= lines_read,
	.release	= lines_release,
};

/* Without debugfs there is nothing to see, which is no error. */
void ioasid_debugfs_create(ioasid_line_fn *line)
{
	uintptr_t kind;

	write_line = line;
	folder = debugfs_create_dir("vfio_ioasid", NULL);
	for (kind = 0; kind < ARRAY_SIZE(names); kind++)
		debugfs_create_file(names[kind], 0400, folder, (void *)kind,
				    &lines_fops);
}

void ioasid_debugfs_remove(void)
{
	debugfs_remove(folder);
}
