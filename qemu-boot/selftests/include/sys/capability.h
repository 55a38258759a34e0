/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Linux's iommufd selftests use of libcap, by the system calls themselves:
 * to give up one capability of the calling thread.
 */
#ifndef SELFTESTS_CAPABILITY_H
#define SELFTESTS_CAPABILITY_H

#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

struct cap_sets {
	struct __user_cap_header_struct header;
	struct __user_cap_data_struct data[2];
};

typedef struct cap_sets *cap_t;
typedef int cap_value_t;
typedef enum { CAP_EFFECTIVE, CAP_PERMITTED, CAP_INHERITABLE } cap_flag_t;
typedef enum { CAP_CLEAR, CAP_SET } cap_flag_value_t;

static inline cap_t cap_get_proc(void)
{
	cap_t caps = calloc(1, sizeof(*caps));

	if (!caps)
		return NULL;
	caps->header.version = _LINUX_CAPABILITY_VERSION_3;
	if (syscall(SYS_capget, &caps->header, caps->data)) {
		free(caps);
		return NULL;
	}
	return caps;
}

static inline int cap_set_flag(cap_t caps, cap_flag_t flag, int count,
			       const cap_value_t *list, cap_flag_value_t value)
{
	int index;

	if (flag != CAP_EFFECTIVE) {
		errno = EINVAL;
		return -1;
	}
	for (index = 0; index < count; index++) {
		__u32 *set = &caps->data[CAP_TO_INDEX(list[index])].effective;

		if (value == CAP_SET)
			*set |= CAP_TO_MASK(list[index]);
		else
			*set &= ~CAP_TO_MASK(list[index]);
	}
	return 0;
}

static inline int cap_set_proc(cap_t caps)
{
	return syscall(SYS_capset, &caps->header, caps->data);
}

static inline int cap_free(cap_t caps)
{
	free(caps);
	return 0;
}

#endif
