/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The C side of kmod/ffi: what Rust cannot reach, because it is an inline
 * function, a bit field, or a declaration private to drivers/vfio and
 * drivers/iommu. Mirrored by hand in shim.rs: both sides say how large each
 * structure is and where its fields are, so that one alone does not compile.
 */
#ifndef IOASID_SHIM_H
#define IOASID_SHIM_H

#include <linux/build_bug.h>
#include <linux/stddef.h>
#include <linux/types.h>

struct device;
struct file;
struct file_operations;
struct ioasid_dma_watch;
struct iommu_attach_handle;
struct iommu_domain;
struct iommu_group;
struct ioasid_timer;
struct ioasid_unit;
struct iopf_group;
struct iova_bitmap;
struct mm_struct;
struct mutex;
struct page;
struct wait_queue_head;
struct user_struct;

/* What the module asks of a device. */
struct ioasid_device_facts {
	u16 segment;
	u8 bus;
	u8 devfn;
	/* dev_iommu::max_pasids, zero where the device's PASID is off. */
	u32 max_pasids;
	/* enum iommu_hw_info_type */
	u32 hw_type;
	bool is_pci;
	bool ats_enabled;
	bool pri_supported;
	bool can_nest;
	u64 vtd_cap;
	u64 vtd_ecap;
};

/* One page request of a group. */
struct ioasid_page_request {
	u64 addr;
	u32 perm;
	u32 flags;
	u32 pasid;
	u32 grpid;
};

/* A range of IOVAs, both ends inclusive. */
struct ioasid_range {
	u64 start;
	u64 last;
};

/*
 * How far a reader of a debugfs file has come: the container of its next line,
 * and where in that one. Both are numbers that only grow.
 */
struct ioasid_cursor {
	u64 container;
	u64 item;
};

/* DMA that the IOMMU stopped. */
struct ioasid_dma_fault {
	u64 addr;
	u32 pasid;
	u32 perm;
	u8 reason;
	bool has_pasid;
};

/* The containers; @data is the number that open gave. */
struct ioasid_backend {
	void *(*open)(unsigned long type);
	void (*release)(void *data);
	long (*ioctl)(void *data, unsigned int cmd, unsigned long arg);
	int (*attach_group)(void *data, struct iommu_group *group);
	void (*detach_group)(void *data, struct iommu_group *group);
	void (*device_removed)(struct device *dev);
};

#define IOASID_AT(type, field, at) \
	static_assert(offsetof(struct type, field) == (at))

static_assert(sizeof(struct ioasid_device_facts) == 32);
IOASID_AT(ioasid_device_facts, bus, 2);
IOASID_AT(ioasid_device_facts, devfn, 3);
IOASID_AT(ioasid_device_facts, max_pasids, 4);
IOASID_AT(ioasid_device_facts, hw_type, 8);
IOASID_AT(ioasid_device_facts, is_pci, 12);
IOASID_AT(ioasid_device_facts, ats_enabled, 13);
IOASID_AT(ioasid_device_facts, pri_supported, 14);
IOASID_AT(ioasid_device_facts, can_nest, 15);
IOASID_AT(ioasid_device_facts, vtd_cap, 16);
IOASID_AT(ioasid_device_facts, vtd_ecap, 24);
static_assert(sizeof(struct ioasid_backend) == 48);
IOASID_AT(ioasid_backend, release, 8);
IOASID_AT(ioasid_backend, ioctl, 16);
IOASID_AT(ioasid_backend, attach_group, 24);
IOASID_AT(ioasid_backend, detach_group, 32);
IOASID_AT(ioasid_backend, device_removed, 40);
static_assert(sizeof(struct ioasid_page_request) == 24);
IOASID_AT(ioasid_page_request, perm, 8);
IOASID_AT(ioasid_page_request, flags, 12);
IOASID_AT(ioasid_page_request, pasid, 16);
IOASID_AT(ioasid_page_request, grpid, 20);
static_assert(sizeof(struct ioasid_range) == 16);
IOASID_AT(ioasid_range, last, 8);
static_assert(sizeof(struct ioasid_cursor) == 16);
IOASID_AT(ioasid_cursor, item, 8);
static_assert(sizeof(struct ioasid_dma_fault) == 24);
IOASID_AT(ioasid_dma_fault, pasid, 8);
IOASID_AT(ioasid_dma_fault, perm, 12);
IOASID_AT(ioasid_dma_fault, reason, 16);
IOASID_AT(ioasid_dma_fault, has_pasid, 17);

/* Writes a line of a debugfs file; gives its length. */
typedef size_t ioasid_line_fn(u32 kind, struct ioasid_cursor *at, char *line,
			      size_t room);
/* Takes the DMA faults of a device. */
typedef void ioasid_dma_faults_fn(u64 container, u16 segment, u16 source_id,
				  const struct ioasid_dma_fault *faults,
				  size_t count, u64 lost);
/* A fault queue's deadline has passed. */
typedef void ioasid_deadline_fn(const void *queue);
/* iopf.rs implements this. */
int ioasid_iopf_handler(struct iopf_group *group);

/* Limits that root may change; limits.rs describes them. */
enum ioasid_limit {
	IOASID_MAX_PASIDS,
	IOASID_MAX_BINDINGS,
	IOASID_MAX_FAULT_QUEUES,
	IOASID_MAX_ADDRESS_SPACES,
	IOASID_MAX_AS_ENTRIES,
	IOASID_MAX_MAPPINGS,
	IOASID_TOTAL_PASIDS,
	IOASID_TOTAL_DOMAINS,
	IOASID_TOTAL_QUEUES,
	IOASID_TOTAL_RECORDS,
	IOASID_USER_PASIDS,
	IOASID_USER_DOMAINS,
	IOASID_USER_QUEUES,
	IOASID_USER_RECORDS,
	IOASID_LIMITS
};

u32 ioasid_limit(u32 limit);

bool ioasid_allow_unsafe_interrupts(void);
int ioasid_vfio_register(const struct ioasid_backend *ops);
void ioasid_vfio_unregister(void);
void ioasid_table_lock(void);
void ioasid_table_unlock(void);

bool ioasid_dma_faults_offered(void);
struct ioasid_dma_watch *ioasid_dma_watch_new(ioasid_dma_faults_fn *tell,
					      u64 container, u16 segment,
					      u16 source_id);
void ioasid_dma_watch_free(struct ioasid_dma_watch *watch);

bool ioasid_dirty_offered(void);
bool ioasid_can_track_dirty(struct device *dev);
int ioasid_track_dirty(struct iommu_domain *domain, bool on);
int ioasid_read_dirty(struct iommu_domain *domain, struct iova_bitmap *bitmap,
		      struct ioasid_range range, bool clear);
struct iova_bitmap *ioasid_bitmap_new(struct ioasid_range range, u64 page_size,
				      unsigned long data);
void ioasid_bitmap_free(struct iova_bitmap *bitmap);
bool ioasid_can_pin(unsigned long address, size_t len);

void ioasid_debugfs_create(ioasid_line_fn *line);
void ioasid_debugfs_remove(void);

void ioasid_trace_bind(u64 container, u32 device, u32 pasid, u32 guest_pasid,
		       u32 kind, bool replace, u32 outcome, int error);
void ioasid_trace_unbind(u64 container, u32 device, u32 pasid);
void ioasid_trace_invalidate(u64 container, u32 count, u32 done, u32 bad,
			     int error);
void ioasid_trace_page_request(u64 container, u32 device, u32 guest_pasid,
			       const struct iopf_group *group);
void ioasid_trace_page_response(u64 container, u32 device,
				const struct iopf_group *group, bool success,
				u32 by);
void ioasid_trace_dma_fault(u64 container, u32 device, u32 pasid, u64 addr,
			    u32 perm, u32 reason);
void ioasid_trace_map(u64 container, u64 iova, u64 last, u64 vaddr, int error);
void ioasid_trace_unmap(u64 container, u64 iova, u64 last, u64 bytes,
			int error);
void ioasid_trace_as(u64 container, u32 as, u32 op, u32 done, int error);
void ioasid_trace_quota(u64 container, u32 call);

int ioasid_device_facts(struct device *dev, struct ioasid_device_facts *facts);
bool ioasid_enforce_coherency(struct iommu_domain *domain, struct device *dev);
ssize_t ioasid_group_reserved(struct iommu_group *group,
			      struct ioasid_range *out, size_t max);
u64 ioasid_page_frame(struct page *page);
size_t ioasid_contiguous_pages(struct page *const *pages, size_t count);
int ioasid_pin(unsigned long vaddr, int count, bool write, struct page **pages);
void ioasid_unpin(u64 frame, u64 count, bool written);
long ioasid_device_frames(unsigned long vaddr, unsigned long count, bool write,
			  u64 *frame);
void ioasid_unmap_ranges(struct iommu_domain *domain,
			 const struct ioasid_range *ranges, size_t count);
void ioasid_count_type1_call(void);
bool ioasid_type1_compat(void);
int ioasid_lock_killable(struct mutex *lock);
int ioasid_wait_killable(struct wait_queue_head *queue, struct mutex *lock);
void ioasid_wake_all(struct wait_queue_head *queue);
bool ioasid_is_users(unsigned long address, size_t len);
bool ioasid_yield_unless_killed(void);

struct user_struct *ioasid_current_user(void);
int ioasid_lock_pages(struct user_struct *user, unsigned long pages);
void ioasid_unlock_pages(struct user_struct *user, unsigned long pages);
bool ioasid_may_lock_pages(void);
void ioasid_count_pinned(struct mm_struct *mm, long pages);
int ioasid_mm_lock_pages(struct mm_struct *mm, unsigned long pages);

struct iommu_domain *ioasid_alloc_nested(struct device *dev,
					 struct iommu_domain *parent,
					 bool page_requests, u32 data_type,
					 void __user *data, size_t len);
void ioasid_take_page_requests(struct iommu_domain *domain);
int ioasid_attach_rid(struct iommu_domain *domain, struct iommu_group *group,
		      struct iommu_attach_handle *handle);
int ioasid_replace_rid(struct iommu_domain *domain, struct iommu_group *group,
		       struct iommu_attach_handle *handle);
void ioasid_detach_rid(struct iommu_domain *domain, struct iommu_group *group);
int ioasid_replace_pasid(struct iommu_domain *domain, struct device *dev,
			 u32 pasid, struct iommu_attach_handle *handle);
int ioasid_cache_invalidate(struct iommu_domain *nested, u32 data_type,
			    void __user *entries, size_t entry_len, u32 *num);
struct ioasid_unit *ioasid_unit_get(struct device *dev);
void ioasid_unit_put(struct ioasid_unit *unit);
int ioasid_unit_lock_killable(struct ioasid_unit *unit);
void ioasid_unit_lock(struct ioasid_unit *unit);
void ioasid_unit_unlock(struct ioasid_unit *unit);
void ioasid_unit_quiesce_page_requests(struct ioasid_unit *unit);
size_t ioasid_iopf_read(struct iopf_group *group,
			struct ioasid_page_request *out, size_t max);
struct ioasid_timer *ioasid_timer_new(ioasid_deadline_fn *passed);
void ioasid_timer_arm(struct ioasid_timer *timer, const void *queue, u32 ms);
void ioasid_timer_cancel(struct ioasid_timer *timer);
void ioasid_timer_free(struct ioasid_timer *timer);
struct file *ioasid_fault_file(const struct file_operations *ops, void *data,
			       int flags);

#endif
