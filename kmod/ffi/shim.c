// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of kmod/ffi; see shim.h. Each function is one step that Rust cannot
 * take itself; decisions are made in Rust.
 */
#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/pci-ats.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <uapi/linux/iommufd.h>

/* Private headers of the kernel, found in its source tree. */
#include "vfio.h"
#include "iommu-priv.h"
#include "intel/iommu.h"

#include "shim.h"

/*
 * All parameters are here: Rust's cannot be changed while the module runs, and
 * Linux 7.2 has none that is a bool.
 */
static bool allow_unsafe_interrupts;
module_param(allow_unsafe_interrupts, bool, 0444);
MODULE_PARM_DESC(allow_unsafe_interrupts,
		 "Attach devices where interrupts are not remapped");

static bool type1_compat;
module_param(type1_compat, bool, 0444);
MODULE_PARM_DESC(type1_compat, "Be VFIO_TYPE1_IOMMU and VFIO_TYPE1v2_IOMMU too");

bool ioasid_allow_unsafe_interrupts(void)
{
	return allow_unsafe_interrupts;
}

bool ioasid_type1_compat(void)
{
	return type1_compat;
}

static unsigned int limits[IOASID_LIMITS] = {
	[IOASID_MAX_PASIDS]		= 65536,
	[IOASID_MAX_BINDINGS]		= 4096,
	[IOASID_MAX_FAULT_QUEUES]	= 64,
	[IOASID_MAX_ADDRESS_SPACES]	= 256,
	[IOASID_MAX_AS_ENTRIES]		= 1 << 20,
	[IOASID_MAX_MAPPINGS]		= U16_MAX,
	[IOASID_TOTAL_PASIDS]		= 1 << 24,
	[IOASID_TOTAL_DOMAINS]		= 57344,
	[IOASID_TOTAL_QUEUES]		= 8192,
	[IOASID_TOTAL_RECORDS]		= 1 << 20,
	[IOASID_USER_PASIDS]		= 1 << 23,
	[IOASID_USER_DOMAINS]		= 28672,
	[IOASID_USER_QUEUES]		= 4096,
	[IOASID_USER_RECORDS]		= 1 << 19,
};

module_param_named(max_pasids, limits[IOASID_MAX_PASIDS], uint, 0644);
MODULE_PARM_DESC(max_pasids, "Most PASIDs of a container");
module_param_named(max_bindings, limits[IOASID_MAX_BINDINGS], uint, 0644);
MODULE_PARM_DESC(max_bindings, "Most bindings of a container");
module_param_named(max_fault_queues, limits[IOASID_MAX_FAULT_QUEUES], uint,
		   0644);
MODULE_PARM_DESC(max_fault_queues, "Most fault queues of a container");
module_param_named(max_address_spaces, limits[IOASID_MAX_ADDRESS_SPACES],
		   uint, 0644);
MODULE_PARM_DESC(max_address_spaces, "Most address spaces of a container");
module_param_named(max_as_entries, limits[IOASID_MAX_AS_ENTRIES], uint, 0644);
MODULE_PARM_DESC(max_as_entries,
		 "Most entries in the address spaces of a container");
module_param_named(dma_entry_limit, limits[IOASID_MAX_MAPPINGS], uint, 0644);
MODULE_PARM_DESC(dma_entry_limit, "Most mappings of a container");
module_param_named(total_pasids, limits[IOASID_TOTAL_PASIDS], uint, 0644);
MODULE_PARM_DESC(total_pasids, "Most PASIDs of all containers");
module_param_named(total_domains, limits[IOASID_TOTAL_DOMAINS], uint, 0644);
MODULE_PARM_DESC(total_domains,
		 "Most bindings and address spaces of all containers");
module_param_named(total_fault_queues, limits[IOASID_TOTAL_QUEUES], uint, 0644);
MODULE_PARM_DESC(total_fault_queues, "Most fault queues of all containers");
module_param_named(total_fault_records, limits[IOASID_TOTAL_RECORDS], uint,
		   0644);
MODULE_PARM_DESC(total_fault_records,
		 "Most records that all fault queues have room for");
module_param_named(user_pasids, limits[IOASID_USER_PASIDS], uint, 0644);
MODULE_PARM_DESC(user_pasids, "Most PASIDs of a user");
module_param_named(user_domains, limits[IOASID_USER_DOMAINS], uint, 0644);
MODULE_PARM_DESC(user_domains, "Most bindings and address spaces of a user");
module_param_named(user_fault_queues, limits[IOASID_USER_QUEUES], uint, 0644);
MODULE_PARM_DESC(user_fault_queues, "Most fault queues of a user");
module_param_named(user_fault_records, limits[IOASID_USER_RECORDS], uint, 0644);
MODULE_PARM_DESC(user_fault_records,
		 "Most records that the fault queues of a user have room for");

/* Calls of containers of type1_compat: only these tell which backend runs. */
static atomic_long_t type1_calls;

static int type1_calls_get(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%ld\n", atomic_long_read(&type1_calls));
}

static const struct kernel_param_ops type1_calls_ops = {
	.get	= type1_calls_get,
};

module_param_cb(type1_calls, &type1_calls_ops, NULL, 0444);
MODULE_PARM_DESC(type1_calls, "Calls of type1 containers so far (read only)");

void ioasid_count_type1_call(void)
{
	atomic_long_inc(&type1_calls);
}

u32 ioasid_limit(u32 limit)
{
	return limit < IOASID_LIMITS ? READ_ONCE(limits[limit]) : 0;
}

/* The mutex of the table of containers (container/table.rs). */
static DEFINE_MUTEX(table_lock);

void ioasid_table_lock(void)
{
	mutex_lock(&table_lock);
}

void ioasid_table_unlock(void)
{
	mutex_unlock(&table_lock);
}

/* Set before vfio core can call. */
static const struct ioasid_backend *backend __ro_after_init;

static void *vfio_open(unsigned long type)
{
	return backend->open(type);
}

static void vfio_release(void *data)
{
	backend->release(data);
}

/*
 * vfio core reads a container's driver and data without a lock, so a call may
 * come in while the last group leaves: hold the module until it is over.
 */
static long ioasid_vfio_ioctl(void *data, unsigned int cmd, unsigned long arg)
{
	long ret;

	if (!try_module_get(THIS_MODULE))
		return -ENODEV;
	ret = backend->ioctl(data, cmd, arg);
	module_put(THIS_MODULE);
	return ret;
}

static int vfio_attach_group(void *data, struct iommu_group *group,
			     enum vfio_group_type type)
{
	if (type != VFIO_IOMMU)
		return -EOPNOTSUPP;
	return backend->attach_group(data, group);
}

static void vfio_detach_group(void *data, struct iommu_group *group)
{
	backend->detach_group(data, group);
}

static const struct vfio_iommu_driver_ops vfio_ops = {
	.name		= "vfio-iommu-ioasid",
	.owner		= THIS_MODULE,
	.open		= vfio_open,
	.release	= vfio_release,
	.ioctl		= ioasid_vfio_ioctl,
	.attach_group	= vfio_attach_group,
	.detach_group	= vfio_detach_group,
};

/*
 * vfio core detaches a group with its last device alone. One that leaves before
 * the others is unbound here, while the IOMMU core still knows it: its own
 * notifier comes after this one.
 */
static int device_removed(struct notifier_block *nb, unsigned long action,
			  void *dev)
{
	if (action == BUS_NOTIFY_REMOVED_DEVICE)
		backend->device_removed(dev);
	return NOTIFY_DONE;
}

static struct notifier_block removed_devices = {
	.notifier_call	= device_removed,
	.priority	= 1,
};

int ioasid_vfio_register(const struct ioasid_backend *ops)
{
	int ret;

	backend = ops;
	ret = bus_register_notifier(&pci_bus_type, &removed_devices);
	if (ret)
		return ret;
	ret = vfio_register_iommu_driver(&vfio_ops);
	if (ret)
		bus_unregister_notifier(&pci_bus_type, &removed_devices);
	return ret;
}

void ioasid_vfio_unregister(void)
{
	vfio_unregister_iommu_driver(&vfio_ops);
	bus_unregister_notifier(&pci_bus_type, &removed_devices);
}

int ioasid_device_facts(struct device *dev, struct ioasid_device_facts *facts)
{
	const struct iommu_ops *ops;
	enum iommu_hw_info_type type = IOMMU_HW_INFO_TYPE_DEFAULT;
	struct pci_dev *pdev;
	u32 len = 0;
	void *info;

	memset(facts, 0, sizeof(*facts));
	if (!dev->iommu || !dev->iommu->iommu_dev)
		return -ENODEV;
	ops = dev->iommu->iommu_dev->ops;
	facts->can_nest = ops->domain_alloc_nested;

	if (ops->hw_info) {
		info = ops->hw_info(dev, &len, &type);
		if (IS_ERR(info))
			return PTR_ERR(info);
		facts->hw_type = type;
		if (type == IOMMU_HW_INFO_TYPE_INTEL_VTD &&
		    len >= sizeof(struct iommu_hw_info_vtd)) {
			struct iommu_hw_info_vtd *vtd = info;

			facts->vtd_cap = vtd->cap_reg;
			facts->vtd_ecap = vtd->ecap_reg;
		}
		kfree(info);
	}

	if (!dev_is_pci(dev))
		return 0;
	pdev = to_pci_dev(dev);
	facts->is_pci = true;
	facts->segment = pci_domain_nr(pdev->bus);
	facts->bus = pdev->bus->number;
	facts->devfn = pdev->devfn;
	facts->ats_enabled = pdev->ats_enabled;
	facts->pri_supported = pci_pri_supported(pdev);
	if (pdev->pasid_enabled)
		facts->max_pasids = dev->iommu->max_pasids;
	return 0;
}

/*
 * An empty VT-d stage 2 says yes even without snoop control and then fails to
 * attach, so the hardware is asked first.
 */
bool ioasid_enforce_coherency(struct iommu_domain *domain, struct device *dev)
{
	if (!device_iommu_capable(dev, IOMMU_CAP_ENFORCE_CACHE_COHERENCY))
		return false;
	if (!domain->ops->enforce_cache_coherency)
		return false;
	return domain->ops->enforce_cache_coherency(domain);
}

/* The number of regions, of which @max at most are in @out. */
ssize_t ioasid_group_reserved(struct iommu_group *group,
			      struct ioasid_range *out, size_t max)
{
	struct iommu_resv_region *region, *next;
	LIST_HEAD(regions);
	ssize_t n = 0;
	int ret;

	ret = iommu_get_group_resv_regions(group, &regions);
	list_for_each_entry_safe(region, next, &regions, list) {
		if (region->type != IOMMU_RESV_DIRECT_RELAXABLE &&
		    region->length) {
			if (n < max)
				out[n] = (struct ioasid_range) {
					.start = region->start,
					.last = region->start +
						region->length - 1,
				};
			n++;
		}
		list_del(&region->list);
		kfree(region);
	}
	return ret ? ret : n;
}

u64 ioasid_page_frame(struct page *page)
{
	return page_to_pfn(page);
}

/* How many of the pages follow each other in memory, from the first on. */
size_t ioasid_contiguous_pages(struct page *const *pages, size_t count)
{
	size_t n = 1;

	while (n < count && page_to_pfn(pages[n]) == page_to_pfn(pages[0]) + n)
		n++;
	return n;
}

/* The pages pinned, or an error. */
int ioasid_pin(unsigned long vaddr, int count, bool write, struct page **pages)
{
	unsigned int flags = FOLL_LONGTERM | (write ? FOLL_WRITE : 0);

	return pin_user_pages_fast(vaddr, count, flags, pages);
}

/* Steps, for a run of pages may be as long as memory is. */
void ioasid_unpin(u64 frame, u64 count, bool written)
{
	while (count) {
		u64 step = min_t(u64, count, SZ_64M >> PAGE_SHIFT);

		unpin_user_page_range_dirty_lock(pfn_to_page(frame), step,
						 written);
		frame += step;
		count -= step;
		cond_resched();
	}
}

/*
 * Finds a device's memory, mapped at @vaddr without pages that could be pinned.
 * Gives the number of frames that follow each other from *@frame on.
 */
long ioasid_device_frames(unsigned long vaddr, unsigned long count, bool write,
			  u64 *frame)
{
	const unsigned int fault = FAULT_FLAG_REMOTE |
				   (write ? FAULT_FLAG_WRITE : 0);
	struct mm_struct *mm = current->mm;
	struct follow_pfnmap_args args = { .address = vaddr };
	unsigned long inside;
	bool faulted = false, unlocked;
	long ret = -EFAULT;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	for (;;) {
		args.vma = vma_lookup(mm, vaddr);
		if (!args.vma || !(args.vma->vm_flags & VM_PFNMAP))
			goto out;
		if (!follow_pfnmap_start(&args))
			break;
		if (faulted)
			goto out;
		unlocked = false;
		if (fixup_user_fault(mm, vaddr, fault, &unlocked) ||
		    fatal_signal_pending(current))
			goto out;
		/* The VMA may be another one if the lock was given up. */
		faulted = !unlocked;
	}
	if (write && !args.writable)
		goto end;
	if (pfn_valid(args.pfn) && !PageReserved(pfn_to_page(args.pfn)))
		goto end;
	inside = ~args.addr_mask >> PAGE_SHIFT;
	ret = min3(count, inside + 1 - (args.pfn & inside),
		   (args.vma->vm_end - vaddr) >> PAGE_SHIFT);
	*frame = args.pfn;
end:
	follow_pfnmap_end(&args);
out:
	mmap_read_unlock(mm);
	return ret;
}

/*
 * One flush, whatever the number of ranges. No entry reaches over a multiple of
 * the largest page, so a long range is unmapped in steps.
 */
void ioasid_unmap_ranges(struct iommu_domain *domain,
			 const struct ioasid_range *ranges, size_t count)
{
	struct iommu_iotlb_gather gather;
	size_t i;

	iommu_iotlb_gather_init(&gather);
	for (i = 0; i < count; i++) {
		u64 start = ranges[i].start;

		for (;;) {
			u64 last = min(ranges[i].last, start | (SZ_1G - 1));

			iommu_unmap_fast(domain, start, last - start + 1,
					 &gather);
			cond_resched();
			if (last == ranges[i].last)
				break;
			start = last + 1;
		}
	}
	iommu_iotlb_sync(domain, &gather);
}

int ioasid_lock_killable(struct mutex *lock)
{
	return mutex_lock_killable(lock);
}

/* Gives @lock back until somebody wakes @queue. */
int ioasid_wait_killable(struct wait_queue_head *queue, struct mutex *lock)
{
	DEFINE_WAIT(wait);

	lockdep_assert_held(lock);
	prepare_to_wait(queue, &wait, TASK_KILLABLE);
	mutex_unlock(lock);
	if (!fatal_signal_pending(current))
		schedule();
	finish_wait(queue, &wait);
	mutex_lock(lock);
	return fatal_signal_pending(current) ? -EINTR : 0;
}

void ioasid_wake_all(struct wait_queue_head *queue)
{
	wake_up_all(queue);
}

bool ioasid_is_users(unsigned long address, size_t len)
{
	return access_ok((void __user *)address, len);
}

bool ioasid_yield_unless_killed(void)
{
	might_sleep();
	cond_resched();
	return !fatal_signal_pending(current);
}

/* With a reference, which free_uid() gives back. */
struct user_struct *ioasid_current_user(void)
{
	return get_uid(current_user());
}

/* As iommufd charges a user: the limit is the process's. */
int ioasid_lock_pages(struct user_struct *user, unsigned long pages)
{
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	unsigned long now = atomic_long_read(&user->locked_vm), sum;

	do {
		if (check_add_overflow(now, pages, &sum) || sum > limit)
			return -ENOMEM;
	} while (!atomic_long_try_cmpxchg(&user->locked_vm, &now, sum));
	return 0;
}

void ioasid_unlock_pages(struct user_struct *user, unsigned long pages)
{
	atomic_long_sub(pages, &user->locked_vm);
}

bool ioasid_may_lock_pages(void)
{
	return capable(CAP_IPC_LOCK);
}

/* VmPin of /proc/PID/status. */
void ioasid_count_pinned(struct mm_struct *mm, long pages)
{
	atomic64_add(pages, &mm->pinned_vm);
}

/* As type1 charges a process, which account_locked_vm() gives back. */
int ioasid_mm_lock_pages(struct mm_struct *mm, unsigned long pages)
{
	int ret = mmap_write_lock_killable(mm);

	if (ret)
		return ret;
	ret = __account_locked_vm(mm, pages, true, current,
				  capable(CAP_IPC_LOCK));
	mmap_write_unlock(mm);
	return ret;
}

struct iommu_domain *ioasid_alloc_nested(struct device *dev,
					 struct iommu_domain *parent,
					 bool page_requests, u32 data_type,
					 void __user *data, size_t len)
{
	const struct iommu_ops *ops = dev->iommu->iommu_dev->ops;
	const struct iommu_user_data user_data = {
		.type = data_type,
		.uptr = data,
		.len = len,
	};
	struct iommu_domain *domain;

	if (!ops->domain_alloc_nested)
		return ERR_PTR(-EOPNOTSUPP);
	/*
	 * The driver copies from the user with locks of ours held: that must
	 * not wait for the user's page. The caller touches it and tries again.
	 */
	pagefault_disable();
	domain = ops->domain_alloc_nested(dev, parent, IOMMU_HWPT_ALLOC_PASID,
					  &user_data);
	pagefault_enable();
	if (IS_ERR(domain))
		return domain;
	/* What iommufd does after the same call; attach checks the owner. */
	domain->owner = ops;
	domain->cookie_type = IOMMU_COOKIE_NONE;
	if (page_requests)
		ioasid_take_page_requests(domain);
	return domain;
}

/* VT-d's page request thread looks the handle up and calls this inside one lock. */
static int ioasid_take_group(struct iopf_group *group)
{
	struct device_domain_info *info =
		dev_iommu_priv_get(group->fault_param->dev);

	lockdep_assert_held(&info->iommu->iopf_lock);
	return ioasid_iopf_handler(group);
}

/* Before @domain is attached anywhere, and never after. */
void ioasid_take_page_requests(struct iommu_domain *domain)
{
	domain->iopf_handler = ioasid_take_group;
}

int ioasid_attach_rid(struct iommu_domain *domain, struct iommu_group *group,
		      struct iommu_attach_handle *handle)
{
	return iommu_attach_group_handle(domain, group, handle);
}

int ioasid_replace_rid(struct iommu_domain *domain, struct iommu_group *group,
		       struct iommu_attach_handle *handle)
{
	return iommu_replace_group_handle(group, domain, handle);
}

void ioasid_detach_rid(struct iommu_domain *domain, struct iommu_group *group)
{
	iommu_detach_group_handle(domain, group);
}

int ioasid_replace_pasid(struct iommu_domain *domain, struct device *dev,
			 u32 pasid, struct iommu_attach_handle *handle)
{
	return iommu_replace_device_pasid(domain, dev, pasid, handle);
}

/* The caller touches a page that is not there, and tries again. */
int ioasid_cache_invalidate(struct iommu_domain *nested, u32 data_type,
			    void __user *entries, size_t entry_len, u32 *num)
{
	struct iommu_user_data_array array = {
		.type = data_type,
		.uptr = entries,
		.entry_len = entry_len,
		.entry_num = *num,
	};
	int ret;

	if (!nested->ops->cache_invalidate_user) {
		*num = 0;
		return -EOPNOTSUPP;
	}
	pagefault_disable();
	ret = nested->ops->cache_invalidate_user(nested, &array);
	pagefault_enable();
	*num = array.entry_num;
	return ret;
}

size_t ioasid_iopf_read(struct iopf_group *group,
			struct ioasid_page_request *out, size_t max)
{
	struct iopf_fault *fault;
	size_t n = 0;

	list_for_each_entry(fault, &group->faults, list) {
		const struct iommu_fault_page_request *prm = &fault->fault.prm;

		if (n < max)
			out[n] = (struct ioasid_page_request) {
				.addr = prm->addr,
				.perm = prm->perm,
				.flags = prm->flags,
				.pasid = prm->pasid,
				.grpid = prm->grpid,
			};
		n++;
	}
	return n;
}

/* A fault queue's deadline. */
struct ioasid_timer {
	struct delayed_work work;
	ioasid_deadline_fn *passed;
	const void *queue;
};

static void fault_deadline(struct work_struct *work)
{
	struct ioasid_timer *timer =
		container_of(to_delayed_work(work), struct ioasid_timer, work);

	timer->passed(timer->queue);
}

struct ioasid_timer *ioasid_timer_new(ioasid_deadline_fn *passed)
{
	struct ioasid_timer *timer = kzalloc_obj(*timer, GFP_KERNEL_ACCOUNT);

	if (timer) {
		timer->passed = passed;
		INIT_DELAYED_WORK(&timer->work, fault_deadline);
	}
	return timer;
}

/* A timer that is armed already stays as it is. @queue is always the same. */
void ioasid_timer_arm(struct ioasid_timer *timer, const void *queue, u32 ms)
{
	timer->queue = queue;
	schedule_delayed_work(&timer->work, msecs_to_jiffies(ms));
}

void ioasid_timer_cancel(struct ioasid_timer *timer)
{
	cancel_delayed_work_sync(&timer->work);
}

void ioasid_timer_free(struct ioasid_timer *timer)
{
	kfree(timer);
}

struct file *ioasid_fault_file(const struct file_operations *ops, void *data,
			       int flags)
{
	return anon_inode_getfile("[vfio-ioasid-fault]", ops, data, flags);
}
