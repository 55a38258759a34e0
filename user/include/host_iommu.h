/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * Nested translation, PASIDs and page requests of the host's IOMMU, for VMMs: the C API of the
 * crate host-iommu. Written by cbindgen from user/src/sys/c: do not edit.
 *
 * Results. A call gives zero, or a number that its text explains, or a negative errno; then
 * host_iommu_last_error() says more. What a call gives through a pointer is written only when it
 * succeeds, unless its text says otherwise.
 *
 * Handles are what the calls with a double pointer give. Each is given back once, by the call that
 * ends with _free, to which NULL is nothing; in any order, since each keeps what it needs of the
 * others.
 *
 * Structures that begin with `size` grow in later versions: the caller sets it to what sizeof
 * says, and the library reads and writes no more. Fields called `reserved` are zero.
 *
 * Threads. Every call may be made by any thread, with the same handles at the same time, but none
 * while another gives that handle back or after. Calls may sleep. None calls back. What a call
 * gives is ready to be used by other threads once it has returned.
 *
 * Forks. A child of fork() shares the kernel's side of every handle, and has none of the library's
 * threads: handles are used and given back in one of the two processes only, as a rule the parent.
 * The child ends by _exit() or execve(), at which every fd of the library closes.
 *
 * Versions. The library's soname is libhost_iommu.so.N, where N is HOST_IOMMU_API_VERSION: a program
 * that was linked with one library of N runs with every later one. Symbols have no versions, since
 * no call ever changes: what a call needs more comes in a structure that grows, and what is to mean
 * something else becomes a call of another name, or another N. Whoever uses dlopen() compares
 * host_iommu_api_version().
 */

#ifndef HOST_IOMMU_H
#define HOST_IOMMU_H

#include <stddef.h>
#include <stdint.h>

// The version of this interface. Structures grow at their end and calls are added without a
// change of it; it changes when something that was there means something else.
#define HOST_IOMMU_API_VERSION 1

// A guest's stage-1 table.
#define HOST_IOMMU_STAGE1 1

// Stage 2 itself: a guest's passthrough entry.
#define HOST_IOMMU_STAGE2 2

// An address space.
#define HOST_IOMMU_SPACE 3

// Nothing: DMA is stopped.
#define HOST_IOMMU_BLOCKED 4

// Of a stage-1 table: supervisor requests are allowed.
#define HOST_IOMMU_SUPERVISOR (1 << 0)

// Of a stage-1 table: accessed flags are extended.
#define HOST_IOMMU_EXTENDED_ACCESSED (1 << 1)

// Of a stage-1 table: supervisor requests obey write protection.
#define HOST_IOMMU_WRITE_PROTECT (1 << 2)

// `guest_pasid` is the guest's number for the PASID; otherwise that is the host's.
#define HOST_IOMMU_GUEST_PASID (1 << 3)

// One binding.
#define HOST_IOMMU_SCOPE_BINDING 1

// Every binding of a device.
#define HOST_IOMMU_SCOPE_DEVICE 2

// Every binding.
#define HOST_IOMMU_SCOPE_ALL 3

// Pages are asked for, and an answer is due.
#define HOST_IOMMU_PAGE_REQUESTS 1

// A request failed; there is nothing to answer.
#define HOST_IOMMU_DMA_FAULT 2

// The queue was full: `cookie` page requests were answered INVALID.
#define HOST_IOMMU_OVERFLOW 3

// The group with this cookie needs no answer any more: its binding is gone.
#define HOST_IOMMU_CANCELLED 4

// The group with this cookie needs no answer any more: its deadline passed.
#define HOST_IOMMU_EXPIRED 5

// The pages are there, or the device finds out when it tries again.
#define HOST_IOMMU_SUCCESS 0

// They are not, and will not be.
#define HOST_IOMMU_INVALID 1

// Devices may read.
#define HOST_IOMMU_READ (1 << 0)

// Devices may write.
#define HOST_IOMMU_WRITE (1 << 1)

// In faults: to fetch instructions.
#define HOST_IOMMU_EXECUTE (1 << 2)

// In faults: as a supervisor.
#define HOST_IOMMU_PRIVILEGED (1 << 3)

// Stands for requests without PASID, which the requester id alone names.
#define HOST_IOMMU_RID 0

// The host can do it.
#define HOST_IOMMU_PRESENT 0

// The IOMMU driver of the device cannot nest.
#define HOST_IOMMU_MISSING_DRIVER 1

// The IOMMU lacks nested translation or scalable mode.
#define HOST_IOMMU_MISSING_HARDWARE 2

// The device has no PASID capability, or it is off.
#define HOST_IOMMU_MISSING_PASID 3

// The device or its IOMMU has no page requests, or they are off.
#define HOST_IOMMU_MISSING_PRI 4

// More than one device is in the IOMMU group.
#define HOST_IOMMU_MISSING_GROUP_SHARED 5

// No device is attached yet.
#define HOST_IOMMU_MISSING_DEVICE 6

// The format of the IOMMU's stage 1 is not known.
#define HOST_IOMMU_MISSING_FORMAT 7

// The running kernel does not offer it.
#define HOST_IOMMU_MISSING_KERNEL 8

// Added to a reason that a later kernel gave.
#define HOST_IOMMU_MISSING_OTHER 65536

// Stage 1 can be bound at the RID.
#define HOST_IOMMU_CAN_RID (1 << 0)

// Read-only mappings are refused.
#define HOST_IOMMU_NO_READ_ONLY (1 << 1)

// The IOMMU reads tables coherently.
#define HOST_IOMMU_COHERENT (1 << 2)

// Stage-1 tables of four levels.
#define HOST_IOMMU_WIDTH_48 (1 << 3)

// Stage-1 tables of five levels.
#define HOST_IOMMU_WIDTH_57 (1 << 4)

// Past the device TLB, and so without page requests.
#define HOST_IOMMU_SOFT_NO_ATS (1 << 0)

// Without page requests: a missing page is the end.
#define HOST_IOMMU_SOFT_NO_PAGE_REQUESTS (1 << 1)

// As a supervisor.
#define HOST_IOMMU_SOFT_PRIVILEGED (1 << 2)

// It writes to memory; otherwise it reads.
#define HOST_IOMMU_SOFT_WRITE (1 << 3)

// All of it was moved.
#define HOST_IOMMU_DMA_DONE 1

// An address is not to be had, and no page was asked for.
#define HOST_IOMMU_DMA_NO_ACCESS 2

// A page request was answered INVALID.
#define HOST_IOMMU_DMA_INVALID 3

// An address was still not to be had after many answers SUCCESS.
#define HOST_IOMMU_DMA_RETRIES 4

// The device was reset or is gone, or the end was told before.
#define HOST_IOMMU_DMA_ABORTED 5

// The host did not carry out what the guest's entry asks for: the requests of `source` and `pasid`
// are stopped. `error` says why.
#define HOST_IOMMU_VTD_BINDING_REFUSED 1

// The guest's entries stop the requests of `source` and `pasid`. `reason` is that of a fault.
#define HOST_IOMMU_VTD_ENTRY_STOPPED 2

// The host did not drop translations of `source` and `pasid` that the guest has invalidated. `error`
// says why.
#define HOST_IOMMU_VTD_FLUSH_FAILED 3

// A request of `source` and `pasid` that was stopped stands in the guest's fault registers: the
// `address`, whether it was to write in `write`, the `reason`. Of an interrupt that was blocked, bits
// 63:48 of the address have the index of its entry.
#define HOST_IOMMU_VTD_FAULT_RECORDED 4

// The invalidation queue stopped, until the guest clears the status of faults.
#define HOST_IOMMU_VTD_QUEUE_STOPPED 5

// The guest has changed how interrupts are remapped: those of the entries from `first` to `last`, both
// inclusive, are to be remapped anew by host_iommu_vtd_remap().
#define HOST_IOMMU_VTD_INTERRUPTS_CHANGED 6

// A page request of `source` and `pasid` was answered INVALID, and the guest was not asked.
#define HOST_IOMMU_VTD_PAGE_REQUEST_REFUSED 7

// The guest has turned translation on.
#define HOST_IOMMU_VTD_TRANSLATION_ON 8

// The guest has turned translation off.
#define HOST_IOMMU_VTD_TRANSLATION_OFF 9

// A VT-d unit offers stage-1 tables of five levels beside those of four.
#define HOST_IOMMU_VTD_FIVE_LEVELS (1 << 0)

// Stage-1 pages of 1 GiB.
#define HOST_IOMMU_VTD_HUGE_PAGES (1 << 1)

// Page requests.
#define HOST_IOMMU_VTD_PAGE_REQUESTS (1 << 2)

// Device TLBs (ATS), without which there are no page requests.
#define HOST_IOMMU_VTD_DEVICE_TLBS (1 << 3)

// Requests of a supervisor.
#define HOST_IOMMU_VTD_SUPERVISOR (1 << 4)

// Extended accessed flags.
#define HOST_IOMMU_VTD_EXTENDED_ACCESSED (1 << 5)

// Tables in the format of the second stage: for a context that shadows. None of the first, but with
// HOST_IOMMU_VTD_BOTH_STAGES.
#define HOST_IOMMU_VTD_SECOND_STAGE (1 << 6)

// Tables in the format of the first stage beside those of the second.
#define HOST_IOMMU_VTD_BOTH_STAGES (1 << 7)

// Interrupt remapping, by host_iommu_vtd_remap().
#define HOST_IOMMU_VTD_INTERRUPT_REMAPPING (1 << 8)

// Destinations of interrupts of 32 bits, for more than 255 CPUs.
#define HOST_IOMMU_VTD_EXTENDED_INTERRUPTS (1 << 9)

// Snoop control.
#define HOST_IOMMU_VTD_SNOOP_CONTROL (1 << 10)

// Walks of tables see what CPUs have in their caches.
#define HOST_IOMMU_VTD_COHERENT_WALKS (1 << 11)

// A guest tells of each change of its second-stage tables, as it does for a unit with caching mode;
// tables of the first stage are refused.
#define HOST_IOMMU_SHADOW_CACHING_MODE 1

// It tells of each change of any table; Linux does not for those of the first stage.
#define HOST_IOMMU_SHADOW_EVERY_CHANGE 2

// It tells of what changes or goes, and page requests fill the holes: bindings need a fault queue.
#define HOST_IOMMU_SHADOW_PAGE_REQUESTS 3

// As HOST_IOMMU_SHADOW_CACHING_MODE; tables of the first stage are nested by the context below.
#define HOST_IOMMU_SHADOW_SECOND_STAGE 4

// Something that is bound.
struct host_iommu_binding;

// A context: one VFIO container, or what stands for one.
struct host_iommu;

// A device in the process.
struct host_iommu_soft_device;

// A page request group that waits for its answer.
struct host_iommu_group;

// What gives devices a guest's memory as it comes and goes.
struct host_iommu_listener;

// PASIDs that were allocated.
struct host_iommu_pasids;

// A fault queue.
struct host_iommu_queue;

// An address space.
struct host_iommu_space;

// A VT-d unit for a guest.
struct host_iommu_vtd;

// A device that is plugged into a unit.
struct host_iommu_vtd_device;

// The DMA of an emulated device behind a unit.
struct host_iommu_vtd_dma;

// A PCI function. `devfn` is the device in bits 7:3 and the function in bits 2:0.
struct host_iommu_bdf {
    uint16_t segment;
    uint8_t bus;
    uint8_t devfn;
};

// What translates a device's requests.
struct host_iommu_translation {
    // Set to sizeof(struct host_iommu_translation).
    uint32_t size;
    // HOST_IOMMU_STAGE1, HOST_IOMMU_STAGE2, HOST_IOMMU_SPACE or HOST_IOMMU_BLOCKED.
    uint32_t kind;
    // Of a stage-1 table: 48 address bits for four levels, 57 for five.
    uint32_t width;
    // HOST_IOMMU_SUPERVISOR to HOST_IOMMU_GUEST_PASID.
    uint32_t flags;
    // See HOST_IOMMU_GUEST_PASID.
    uint32_t guest_pasid;
    // Zero.
    uint32_t reserved;
    // Of a stage-1 table: the guest-physical address of its top level.
    uint64_t root;
    // Of a stage-1 table: a number of the caller's own, given back with faults.
    uint64_t cookie;
};

// Addresses from the first to the last, both inclusive.
struct host_iommu_range {
    uint64_t first;
    uint64_t last;
};

// One step of an invalidation: addresses of stage 1, from 0 to UINT64_MAX for everything.
struct host_iommu_invalidation {
    // What to drop; whole pages of 4 KiB, and the hardware may round up further.
    struct host_iommu_range range;
    // Not zero if only entries that map pages changed, and no tables.
    uint32_t leaf_only;
    // Zero.
    uint32_t reserved;
};

// A binding, as host_iommu_export() gives it and host_iommu_import() takes it.
struct host_iommu_bound {
    // The device.
    struct host_iommu_bdf device;
    // The host's PASID, or HOST_IOMMU_RID.
    uint32_t pasid;
    // What is bound.
    struct host_iommu_translation translation;
};

// What a context can do with the devices attached now. What can be present or not is
// HOST_IOMMU_PRESENT or one of HOST_IOMMU_MISSING_*.
struct host_iommu_capabilities {
    // Set to sizeof(struct host_iommu_capabilities).
    uint32_t size;
    // HOST_IOMMU_CAN_RID to HOST_IOMMU_WIDTH_57.
    uint32_t flags;
    // A bit for each size of pages of stage 2.
    uint64_t page_sizes;
    // Mappings that can still be made; UINT32_MAX if nobody knows.
    uint32_t mappings_left;
    // Stage-1 tables.
    uint32_t stage1;
    // Page requests that can be answered.
    uint32_t page_requests;
    // Reports of failed DMA.
    uint32_t dma_faults;
    // Dirty pages by hardware.
    uint32_t dirty;
    // Bits of a PASID.
    uint32_t pasid_bits;
    // Quotas.
    uint32_t max_pasids;
    uint32_t max_bindings;
    uint32_t max_fault_queues;
    uint32_t max_spaces;
    uint32_t max_space_entries;
    // Zero.
    uint32_t reserved;
    // VT-d's capability register.
    uint64_t vtd_cap;
    // VT-d's extended capability register.
    uint64_t vtd_ecap;
};

// An attached device.
struct host_iommu_device_info {
    // Its address.
    struct host_iommu_bdf device;
    // Not zero if stage 1 can be bound at its RID.
    uint32_t rid;
    // HOST_IOMMU_PRESENT, or why stage 1 cannot be bound at a PASID of it.
    uint32_t stage1;
    // HOST_IOMMU_PRESENT, or why its page requests cannot be delivered.
    uint32_t page_requests;
    // PASIDs below this number work; zero for none.
    uint32_t max_pasids;
    // Zero.
    uint32_t reserved;
    // VT-d's capability register of its unit.
    uint64_t vtd_cap;
    // VT-d's extended capability register of its unit.
    uint64_t vtd_ecap;
};

// Counters of a context; the first six are what there is now, the others only grow.
struct host_iommu_stats {
    // Set to sizeof(struct host_iommu_stats).
    uint32_t size;
    // Zero.
    uint32_t reserved;
    uint64_t pasids;
    uint64_t bindings;
    uint64_t fault_queues;
    uint64_t spaces;
    uint64_t space_entries;
    // Pages of 4 KiB.
    uint64_t mapped_pages;
    // Page request groups given to a fault queue.
    uint64_t page_requests;
    // Groups answered through a fault queue.
    uint64_t responses;
    // Groups that the host answered INVALID itself.
    uint64_t host_invalid;
    // Page requests answered INVALID because a queue was full.
    uint64_t overflows;
    // Answers that came after the group was settled.
    uint64_t late_responses;
    // Groups whose deadline passed.
    uint64_t expired;
    // Failed DMA that was reported.
    uint64_t dma_faults;
    // Invalidation entries carried out.
    uint64_t invalidations;
};

// Memory to map. It is given to devices: they may write to it whatever the caller does, and its
// addresses must not be used for anything else until it is unmapped.
struct host_iommu_mapping {
    // Set to sizeof(struct host_iommu_mapping).
    uint32_t size;
    // HOST_IOMMU_READ, HOST_IOMMU_WRITE, or both.
    uint32_t access;
    // Where devices find it: for a VMM the guest-physical address.
    uint64_t iova;
    // Bytes.
    uint64_t length;
    // If the memory is a shared mapping of a file: where in the file it begins, in bytes.
    uint64_t fd_offset;
    // The file's descriptor, which need not stay open; -1 if there is no file. What
    // host_iommu_open_soft() made maps nothing else.
    int32_t fd;
    // Zero.
    uint32_t reserved;
};

// What an unbind or a flush is about.
struct host_iommu_scope {
    // HOST_IOMMU_SCOPE_BINDING, HOST_IOMMU_SCOPE_DEVICE or HOST_IOMMU_SCOPE_ALL.
    uint32_t kind;
    // The device, unless the scope is all.
    struct host_iommu_bdf device;
    // The host's PASID of the binding, or HOST_IOMMU_RID.
    uint32_t pasid;
};

// How a fault queue is made.
struct host_iommu_queue_options {
    // Set to sizeof(struct host_iommu_queue_options).
    uint32_t size;
    // Page requests that may wait unanswered; zero for as many as the devices can have.
    uint32_t depth;
    // Milliseconds after which the host answers a page request INVALID; zero for never.
    uint32_t deadline_ms;
    // Not zero if the queue also gets the DMA faults that no other queue of the context does.
    uint32_t dma_faults;
};

// What a fault queue gives. Fields that the kind does not name are zero.
struct host_iommu_event {
    // Set to sizeof(struct host_iommu_event).
    uint32_t size;
    // HOST_IOMMU_PAGE_REQUESTS to HOST_IOMMU_EXPIRED.
    uint32_t kind;
    // Of page requests and DMA faults: the device.
    uint16_t segment;
    uint8_t bus;
    uint8_t devfn;
    // And the host's PASID, HOST_IOMMU_RID if there is none.
    uint32_t pasid;
    // And the guest's, as the binding named it.
    uint32_t guest_pasid;
    // Of DMA faults: HOST_IOMMU_READ to HOST_IOMMU_PRIVILEGED.
    uint32_t access;
    // Of DMA faults: why, as the IOMMU has it. Of page requests: the group's index.
    uint32_t reason;
    // Of page requests: how many pages.
    uint32_t pages;
    // Of DMA faults: the address.
    uint64_t address;
    // The group's name in its queue, or the count of an overflow.
    uint64_t cookie;
    // Of page requests and DMA faults: the cookie of the binding.
    uint64_t user_cookie;
};

// A page that a device asks for.
struct host_iommu_page {
    // Its address.
    uint64_t address;
    // HOST_IOMMU_READ to HOST_IOMMU_PRIVILEGED.
    uint32_t access;
    // Zero.
    uint32_t reserved;
};

// A region of a guest's memory: a part of a file.
struct host_iommu_region {
    // Guest-physical.
    uint64_t address;
    // Bytes.
    uint64_t length;
    // Of its first byte in the file.
    uint64_t fd_offset;
    // The file.
    int32_t fd;
    // Zero.
    uint32_t reserved;
};

// A DMA of a device in the process.
struct host_iommu_soft_dma {
    // Set to sizeof(struct host_iommu_soft_dma).
    uint32_t size;
    // HOST_IOMMU_SOFT_NO_ATS to HOST_IOMMU_SOFT_WRITE.
    uint32_t flags;
    // By which PASID; HOST_IOMMU_RID for none.
    uint32_t pasid;
    // Bytes.
    uint32_t length;
    // Where.
    uint64_t address;
};

// How a DMA ended.
struct host_iommu_soft_end {
    // Set to sizeof(struct host_iommu_soft_end).
    uint32_t size;
    // HOST_IOMMU_DMA_DONE to HOST_IOMMU_DMA_ABORTED.
    uint32_t kind;
    // The address that was not to be had.
    uint64_t address;
};

// An entry of an address space.
struct host_iommu_space_entry {
    // Addresses in the address space, whole pages of 4 KiB.
    struct host_iommu_range range;
    // The guest-physical address of the first: it leads into memory that is mapped.
    uint64_t gpa;
    // HOST_IOMMU_READ, HOST_IOMMU_WRITE, or both.
    uint32_t access;
    // Zero.
    uint32_t reserved;
};

// What a VT-d unit is and offers.
struct host_iommu_vtd_config {
    // Set to sizeof(struct host_iommu_vtd_config).
    uint32_t size;
    // HOST_IOMMU_VTD_FIVE_LEVELS to HOST_IOMMU_VTD_COHERENT_WALKS.
    uint32_t flags;
    // The guest-physical address of its registers, on a page.
    uint64_t base;
    // The PCI segment of the devices behind it.
    uint32_t segment;
    // Bits of guest-physical addresses, 39 to 52.
    uint32_t address_bits;
    // Bits of a PASID, 6 to 20.
    uint32_t pasid_bits;
    // Zero.
    uint32_t reserved;
};

// Counters of a VT-d unit. They only grow.
struct host_iommu_vtd_stats {
    // Set to sizeof(struct host_iommu_vtd_stats).
    uint32_t size;
    // Zero.
    uint32_t reserved;
    // PASIDs, and devices' requests without PASID, that were bound or bound anew.
    uint64_t bindings_made;
    // What the host refused to bind: the requests were stopped.
    uint64_t bindings_refused;
    // Entries of the guest's that stop requests, each time the unit looked at one.
    uint64_t entries_stopped;
    // Descriptors of the invalidation queue that were taken.
    uint64_t descriptors;
    // Wait descriptors that were done.
    uint64_t waits;
    // Invalidations that the host was asked for: calls.
    uint64_t flush_calls;
    // And entries in them.
    uint64_t flush_entries;
    // And calls that failed.
    uint64_t flushes_failed;
    // Times that the invalidation queue stopped at an error.
    uint64_t queue_stops;
    // Faults of requests that were recorded.
    uint64_t faults;
    // Faults that there was no record free for.
    uint64_t faults_lost;
    // Page request groups that were put into the guest's queue.
    uint64_t page_requests;
    // Page request groups that were answered INVALID without the guest.
    uint64_t page_requests_refused;
    // Interrupts that were remapped.
    uint64_t interrupts_remapped;
    // Interrupts that were blocked.
    uint64_t interrupts_blocked;
};

// An interrupt message: `data` is written to `address`.
struct host_iommu_msi {
    uint64_t address;
    uint32_t data;
    // Zero.
    uint32_t reserved;
};

// Something that a VT-d unit did. Fields that the kind does not name are zero.
struct host_iommu_vtd_event {
    // Set to sizeof(struct host_iommu_vtd_event).
    uint32_t size;
    // HOST_IOMMU_VTD_BINDING_REFUSED to HOST_IOMMU_VTD_TRANSLATION_OFF, or one that a later version
    // has.
    uint32_t kind;
    // The function, as the guest knows it: bus in bits 15:8, device and function below.
    uint32_t source;
    // The guest's PASID, HOST_IOMMU_RID for requests without one.
    uint32_t pasid;
    // Why requests are stopped (VT-d 4.1, 7.1.3).
    uint32_t reason;
    // What the host said, a negative errno.
    int32_t error;
    // Of interrupts. Of a fault `first` is not zero if the request was to write.
    uint32_t first;
    uint32_t last;
    // Where.
    uint64_t address;
    // Events before this one that there was no room for. Then interrupts are to be remapped anew,
    // all of them.
    uint64_t lost;
    // What it is in words, for a log: cut off if it is longer, and with a zero byte at its end.
    char text[160];
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library's interface, to compare with HOST_IOMMU_API_VERSION.
uint32_t host_iommu_api_version(void);

// Allocates `count` PASIDs in a row, from `min` to `max`, both inclusive and from 1 to 0xfffff.
//
// Fails with -ENOSPC if no such run is free, -EDQUOT at the quota, -EINVAL for PASID 0 or an empty
// range.
int host_iommu_pasids_alloc(const struct host_iommu *context,
                            uint32_t min,
                            uint32_t max,
                            uint32_t count,
                            struct host_iommu_pasids **pasids);

// Allocates a guest's PASID at the same number, which a passed-through device has in its own
// registers. Several devices of the context may use it: each caller gets a handle, and the PASID
// is freed with the last one.
//
// Fails as host_iommu_pasids_alloc().
int host_iommu_pasids_share(const struct host_iommu *context,
                            uint32_t pasid,
                            struct host_iommu_pasids **pasids);

// The lowest of the PASIDs; zero for NULL.
uint32_t host_iommu_pasids_first(const struct host_iommu_pasids *pasids);

// How many PASIDs there are; zero for NULL.
uint32_t host_iommu_pasids_count(const struct host_iommu_pasids *pasids);

// Frees the PASIDs now. The handle is to be given back all the same.
//
// Fails with -EBUSY while one of them is bound.
int host_iommu_pasids_release(const struct host_iommu_pasids *pasids);

// Gives the handle back. The PASIDs are freed once nothing is bound at them.
void host_iommu_pasids_free(struct host_iommu_pasids *pasids);

// Binds what translates the requests that a device makes by a PASID, one of `pasids`; with NULL
// for those and HOST_IOMMU_RID, the requests without one.
//
// A stage-1 table is used on top of what is mapped. With a fault queue, pages that are not present
// are asked for there; without one such a request fails. `space` is the address space of a
// HOST_IOMMU_SPACE, and otherwise NULL.
//
// Fails with -EOPNOTSUPP where the host cannot nest, -EINVAL for a bad table and for handles that
// do not belong together, -ENOENT for a device that is not attached, -EBUSY where something is
// bound, -EEXIST if the guest's PASID is bound elsewhere, -EDQUOT at the quota, -EAGAIN while the
// device is being reset.
int host_iommu_bind(const struct host_iommu *context,
                    struct host_iommu_bdf device,
                    const struct host_iommu_pasids *pasids,
                    uint32_t pasid,
                    const struct host_iommu_translation *translation,
                    const struct host_iommu_space *space,
                    const struct host_iommu_queue *queue,
                    struct host_iommu_binding **binding);

// Puts a stage-1 table in the place of what is bound, or HOST_IOMMU_BLOCKED, in one step. Page
// requests that wait for the old one are cancelled.
//
// Fails with -ENOENT if nothing is bound any more. After an error the old one is in force, or if
// the text says so neither is and DMA is stopped: see host_iommu_binding_is_bound().
int host_iommu_binding_rebind(const struct host_iommu_binding *binding,
                              const struct host_iommu_translation *translation,
                              const struct host_iommu_queue *queue);

// Drops what is cached of a binding; see host_iommu_flush().
int host_iommu_binding_flush(const struct host_iommu_binding *binding,
                             const struct host_iommu_invalidation *entries,
                             size_t count,
                             size_t *done);

// 1 if the binding is in force, 0 if it was unbound, by itself or by host_iommu_unbind().
int host_iommu_binding_is_bound(const struct host_iommu_binding *binding);

// Unbinds now. When it returns, nothing is translated by the table any more, and page requests
// that waited are answered INVALID; their queue says HOST_IOMMU_CANCELLED. Done once, it does
// nothing. The handle is to be given back all the same.
int host_iommu_binding_unbind(const struct host_iommu_binding *binding);

// Unbinds if need be, and gives the handle back.
void host_iommu_binding_free(struct host_iommu_binding *binding);

// Gives the tables, passthrough and blocked bindings in force, as many as there is room for, and in `count`
// how many there are: with the tables in guest memory all that another host needs. Address spaces
// are the caller's own, and made anew.
int host_iommu_export(const struct host_iommu *context,
                      struct host_iommu_bound *bound,
                      size_t capacity,
                      size_t *count);

// Binds what host_iommu_export() gave, at the same PASIDs: all of it, or nothing. `bindings` has
// room for `count` handles. They keep their PASIDs.
//
// Fails as host_iommu_pasids_alloc() for PASIDs that are taken, and as host_iommu_bind().
int host_iommu_import(const struct host_iommu *context,
                      const struct host_iommu_bound *bound,
                      size_t count,
                      const struct host_iommu_queue *queue,
                      struct host_iommu_binding **bindings);

// Reads a PCI address as in "0000:00:04.0".
//
// Fails with -EINVAL for what is none.
int host_iommu_bdf_parse(const char *text, struct host_iommu_bdf *device);

// Opens a new container of the kernel module vfio_iommu_ioasid with the group of a device, which
// must be bound to vfio-pci.
//
// `device_fd`, unless it is NULL, gets a fd of the device for its registers, interrupts and reset
// by VFIO, which the caller closes.
//
// Fails with what cannot be opened, -EBUSY for a group that is in use, -ENODEV where the module is
// not loaded, -EPERM without interrupt remapping.
int host_iommu_open_kmod(struct host_iommu_bdf device, int *device_fd, struct host_iommu **context);

// The same by the path of a group, as in "/dev/vfio/12".
int host_iommu_open_kmod_group(const char *path, struct host_iommu **context);

// The same with a container that has no group yet and a group, opened by somebody else. The
// caller keeps both fds, and may close them. With a `group` of -1 the container is one that
// somebody else has set up for the module, groups and all.
int host_iommu_open_kmod_fds(int container, int group, struct host_iommu **context);

// Opens a new iommufd with a device, which must be bound to vfio-pci; `device_fd` as for
// host_iommu_open_kmod().
//
// Fails with what cannot be opened, -ENOENT on a kernel without iommufd, -EBUSY for a device that
// is in use, -EPERM without interrupt remapping.
int host_iommu_open_iommufd(struct host_iommu_bdf device,
                            int *device_fd,
                            struct host_iommu **context);

// The same with an iommufd and the file of a device, opened by somebody else; `device` names it
// from now on. The caller keeps both fds, and may close them.
int host_iommu_open_iommufd_fds(int iommufd,
                                int file,
                                struct host_iommu_bdf device,
                                struct host_iommu **context);

// Makes an IOMMU in the process, without devices: see host_iommu_soft_plug().
int host_iommu_open_soft(struct host_iommu **context);

// Gives a context back. What was made of it keeps it alive until it is given back too.
void host_iommu_free(struct host_iommu *context);

// Tells what a context can do with the devices attached now.
int host_iommu_get_capabilities(const struct host_iommu *context,
                                struct host_iommu_capabilities *capabilities);

// Tells at which IOVAs memory can be mapped: as many ranges as there is room for, and in `count`
// how many there are.
int host_iommu_get_ranges(const struct host_iommu *context,
                          struct host_iommu_range *ranges,
                          size_t capacity,
                          size_t *count);

// Tells of the devices attached now: as many as there is room for, and in `count` how many there
// are.
int host_iommu_get_devices(const struct host_iommu *context,
                           struct host_iommu_device_info *devices,
                           size_t capacity,
                           size_t *count);

// Gives the counters.
int host_iommu_get_stats(const struct host_iommu *context, struct host_iommu_stats *stats);

// Attaches another group, or on an iommufd another device, by its fd, which the caller keeps. The
// number in `id` names it for host_iommu_detach().
//
// Fails with -EINVAL for one that does not fit what is mapped, -EPERM without interrupt remapping.
int host_iommu_attach(const struct host_iommu *context, int fd, uint64_t *id);

// Detaches what host_iommu_attach() attached.
int host_iommu_detach(const struct host_iommu *context, uint64_t id);

// Gives devices memory that begins at `memory`. The host pins it and charges it to RLIMIT_MEMLOCK.
// Devices keep it until it is unmapped or the context is gone.
//
// Fails with -EEXIST where something is mapped, -ENOMEM over RLIMIT_MEMLOCK, -EINVAL for addresses
// that are not pages' or cannot be mapped, -ENOSPC for too many mappings, -EOPNOTSUPP for a
// read-only mapping where the host nests.
int host_iommu_map(const struct host_iommu *context,
                   const struct host_iommu_mapping *mapping,
                   void *memory);

// Takes back the mappings that lie in a range; `bytes`, unless NULL, gets their number of bytes.
//
// Fails with -EINVAL if a mapping lies in it in part only.
int host_iommu_unmap(const struct host_iommu *context,
                     struct host_iommu_range range,
                     uint64_t *bytes);

// Starts the tracking of what devices write, or ends it with an `on` of zero.
int host_iommu_track_dirty(const struct host_iommu *context, int on);

// Gives the pages of 4 KiB in a range that may have been written since the last time: bit n of
// the words is page n. There must be a word for each 64 pages.
//
// Fails with -EINVAL for a range that is not that of whole mappings, for another number of words,
// and if nothing is tracked.
int host_iommu_read_dirty(const struct host_iommu *context,
                          struct host_iommu_range range,
                          uint64_t *words,
                          size_t count);

// Unbinds what is in a scope, as a guest's reset does. Handles of what was bound there do nothing
// any more, but keep their PASIDs.
//
// Fails with -ENOENT if nothing is bound there.
int host_iommu_unbind(const struct host_iommu *context, struct host_iommu_scope scope);

// Drops what is cached of each binding in a scope. When it returns, no request uses what the
// tables said before. `done`, unless NULL, gets the number of entries carried out, also when one
// fails.
//
// Fails with -ENOENT if the scope names what is not there.
int host_iommu_flush(const struct host_iommu *context,
                     struct host_iommu_scope scope,
                     const struct host_iommu_invalidation *entries,
                     size_t count,
                     size_t *done);

// Gives the host's PASID for a guest's: that of the binding that named it, or else the same
// number.
//
// Fails with -ENOENT if that number stands for another PASID of the guest on this device.
int host_iommu_host_pasid(const struct host_iommu *context,
                          struct host_iommu_bdf device,
                          uint32_t guest,
                          uint32_t *pasid);

// Gives the guest's number for a PASID of the host: that of the binding, or else the same.
int host_iommu_guest_pasid(const struct host_iommu *context,
                           struct host_iommu_bdf device,
                           uint32_t pasid,
                           uint32_t *guest);

// Makes a fault queue, for any number of bindings of the context. `options` may be NULL.
//
// Fails with -EDQUOT at the quota, -EINVAL for too large a depth.
int host_iommu_queue_new(const struct host_iommu *context,
                         const struct host_iommu_queue_options *options,
                         struct host_iommu_queue **queue);

// The queue's fd, to poll for POLLIN, or a negative errno. It is the queue's: not to be read,
// written or closed. What it tells counts only after host_iommu_queue_next() gave 0.
int host_iommu_queue_fd(const struct host_iommu_queue *queue);

// Takes the next event, without waiting: 1 if there was one, 0 if there is none now, -EPIPE if
// there will be none any more since the context is gone.
//
// Of HOST_IOMMU_PAGE_REQUESTS `group` gets a handle, which is answered or given back; otherwise
// NULL.
int host_iommu_queue_next(const struct host_iommu_queue *queue,
                          struct host_iommu_event *event,
                          struct host_iommu_group **group);

// Nothing is read any more, before a snapshot or a reset: page requests wait in the host.
// host_iommu_queue_next() still gives what was read before.
int host_iommu_queue_freeze(const struct host_iommu_queue *queue);

// Reading goes on.
int host_iommu_queue_thaw(const struct host_iommu_queue *queue);

// Waits until every group that was read is answered, for so many milliseconds at most; `left` gets
// the number that is not.
int host_iommu_queue_drain(const struct host_iommu_queue *queue, uint32_t limit_ms, size_t *left);

// Gives a queue back. Everything that waits is answered INVALID, and so is every later page
// request of its bindings.
void host_iommu_queue_free(struct host_iommu_queue *queue);

// Gives the pages of a group: as many as there is room for, and in `count` how many there are.
int host_iommu_group_pages(const struct host_iommu_group *group,
                           struct host_iommu_page *pages,
                           size_t capacity,
                           size_t *count);

// Answers a group with HOST_IOMMU_SUCCESS or HOST_IOMMU_INVALID, and gives its handle back,
// whatever comes of it. An answer to a group that was cancelled meanwhile has no effect.
//
// Fails with -EPIPE if the queue was given back: the host has answered INVALID. With -EINVAL for
// another answer: then it is INVALID.
int host_iommu_group_respond(struct host_iommu_group *group, uint32_t response);

// Answers INVALID, and gives the handle back.
void host_iommu_group_free(struct host_iommu_group *group);

// Makes what gives the devices of a context the guest's memory, in which nothing is mapped yet
// where that will be. It takes the place of host_iommu_map() and host_iommu_unmap() for memory that
// comes and goes.
int host_iommu_listener_new(const struct host_iommu *context,
                            struct host_iommu_listener **listener);

// To be called with the guest's memory whenever it has changed: devices lose the regions that are
// gone, and get those that are new, readable and writable. A region is the same if it has the same
// addresses and is the same part of the same file. Regions are whole pages of 4 KiB, each a shared
// mapping of a file, which is mapped once more; the fds may be closed afterwards. What the host has
// dropped itself, as with the last device of a context, is given to devices anew.
//
// Fails with -EINVAL for regions that overlap or cannot be mapped, before anything is changed;
// and as host_iommu_map() and host_iommu_unmap(): then what was done stays, and the next call goes
// on from there.
int host_iommu_listener_update(const struct host_iommu_listener *listener,
                               const struct host_iommu_region *regions,
                               size_t count);

// Gives the handle back. What it has given to devices they keep, until it is unmapped.
void host_iommu_listener_free(struct host_iommu_listener *listener);

// The text of the last call of this thread that failed, empty if none has: what was to be done,
// where, and why not. It is good until the next call of this thread that fails, or its end. Calls
// that succeed leave it.
const char *host_iommu_last_error(void);

// Makes a context over another, in which nothing is mapped yet: it walks guests' tables itself and
// binds what they say as address spaces, for hosts that have those and cannot nest. `promise`,
// HOST_IOMMU_SHADOW_CACHING_MODE to HOST_IOMMU_SHADOW_SECOND_STAGE, is what the guest does; a
// table that it does not cover is refused. The guest's memory is that of `regions`, as for
// host_iommu_vtd_new().
//
// From now on the other context is used for nothing but to attach and detach, and may be given
// back.
//
// Fails with -EBUSY if something is mapped, -EOPNOTSUPP where the host has no address spaces.
int host_iommu_open_shadow(const struct host_iommu *context,
                           const struct host_iommu_region *regions,
                           size_t count,
                           uint32_t promise,
                           struct host_iommu **shadow);

// Tells a context of host_iommu_open_shadow() that the guest's memory is that of `regions` from now
// on: what comes before it is given to devices, and what goes after it is taken from them.
//
// Fails with -EOPNOTSUPP for another context, and as host_iommu_vtd_new(); then the memory is what it
// was.
int host_iommu_shadow_set_memory(const struct host_iommu *shadow,
                                 const struct host_iommu_region *regions,
                                 size_t count);

// Plugs a device into a context of host_iommu_open_soft(): one with ATS, PASIDs below `max_pasids`
// and, if that is not zero, page requests.
//
// Fails with -EOPNOTSUPP for another context, -EEXIST if there is a device at the address, -EINVAL
// for more PASIDs than there are, -ENOSPC for too many devices.
int host_iommu_soft_plug(const struct host_iommu *context,
                         struct host_iommu_bdf device,
                         uint32_t max_pasids,
                         int page_requests,
                         struct host_iommu_soft_device **plugged);

// Starts a DMA, which runs until it ends or needs a page; `id` names it. What is to be written is
// taken from `data` before the call returns.
//
// Fails with -EINVAL for none or too many bytes and addresses that wrap, -EBUSY if too many are
// under way, -ENODEV if the device is gone.
int host_iommu_soft_submit(const struct host_iommu_soft_device *device,
                           const struct host_iommu_soft_dma *dma,
                           const void *data,
                           uint64_t *id);

// Waits for the end of a DMA, for so many milliseconds at most: 1 if it ended, 0 if not. An end is
// told once. As many of the bytes that were read as fit are put at `data`.
int host_iommu_soft_wait(const struct host_iommu_soft_device *device,
                         uint64_t id,
                         uint32_t limit_ms,
                         struct host_iommu_soft_end *end,
                         void *data,
                         size_t capacity);

// Gives the handle back; the device stays plugged in.
void host_iommu_soft_free(struct host_iommu_soft_device *device);

// Makes an empty address space.
//
// Fails with -EDQUOT at the quota, -EOPNOTSUPP where the host has none.
int host_iommu_space_new(const struct host_iommu *context, struct host_iommu_space **space);

// Maps entries in order. Each leads into memory that is mapped already, pins nothing, and goes
// when some of that memory is unmapped. `done`, unless NULL, gets the number of entries in force.
//
// Fails with -EEXIST where something is mapped, -EFAULT for memory that is not, -EPERM for more
// access than the memory has, -EINVAL for what is no whole pages, -EDQUOT at the quota.
int host_iommu_space_map(const struct host_iommu_space *space,
                         const struct host_iommu_space_entry *entries,
                         size_t count,
                         size_t *done);

// Takes the entries out that lie in ranges. When it returns, no device uses them. `done`, unless
// NULL, gets the number of ranges carried out.
//
// Fails with -EINVAL for a range that would cut an entry in two.
int host_iommu_space_unmap(const struct host_iommu_space *space,
                           const struct host_iommu_range *ranges,
                           size_t count,
                           size_t *done);

// Destroys an address space now. The handle is to be given back all the same.
//
// Fails with -EBUSY while it is bound.
int host_iommu_space_destroy(const struct host_iommu_space *space);

// Gives the handle back. The address space goes once it is not bound any more.
void host_iommu_space_free(struct host_iommu_space *space);

// Tells the most that a unit can offer on a context, but for requests of a supervisor.
//
// Fails with -EOPNOTSUPP on a host that does not nest.
int host_iommu_vtd_offer(const struct host_iommu *context, struct host_iommu_vtd_config *config);

// Makes a unit as it is after power-on, of one page of registers at `base`. The guest's memory is
// that of `regions`, each a shared mapping of a file, which the unit maps once more; the fds may be
// closed afterwards.
//
// Fails with -EINVAL for a configuration that no unit can have and for memory that overlaps or
// cannot be mapped.
int host_iommu_vtd_new(const struct host_iommu_vtd_config *config,
                       const struct host_iommu_region *regions,
                       size_t count,
                       struct host_iommu_vtd **unit);

// Gives the ACPI table DMAR: as many of its bytes as there is room for, and in `length` how many
// there are. `oem` has 6 bytes and `oem_table` 8, as in every ACPI table.
int host_iommu_vtd_dmar(const struct host_iommu_vtd *unit,
                        const uint8_t *oem,
                        const uint8_t *oem_table,
                        uint8_t *table,
                        size_t capacity,
                        size_t *length);

// A guest's read of the registers, `offset` bytes from their base, of `length` bytes.
int host_iommu_vtd_read(const struct host_iommu_vtd *unit,
                        uint64_t offset,
                        void *data,
                        size_t length);

// A guest's write. What it asks for is done when this returns, or the unit's fd becomes readable.
int host_iommu_vtd_write(const struct host_iommu_vtd *unit,
                         uint64_t offset,
                         const void *data,
                         size_t length);

// As after power-on: everything is unbound, and what waits is answered INVALID. The devices stay.
int host_iommu_vtd_reset(const struct host_iommu_vtd *unit);

// Tells a unit that the guest's memory is that of `regions` from now on, as host_iommu_vtd_new() has
// them: what comes and what goes. What the unit has of a region that stays is kept.
//
// Fails as host_iommu_vtd_new(); then the memory is what it was.
int host_iommu_vtd_set_memory(const struct host_iommu_vtd *unit,
                              const struct host_iommu_region *regions,
                              size_t count);

// Gives a unit's counters.
int host_iommu_vtd_get_stats(const struct host_iommu_vtd *unit, struct host_iommu_vtd_stats *stats);

// Gives a unit back. Devices that are plugged in keep it alive.
void host_iommu_vtd_free(struct host_iommu_vtd *unit);

// To be called when the device was reset, as by the guest: its entries stay in force, what the host
// has lost of them is bound again, and what the device has asked for is given up.
int host_iommu_vtd_device_reset(const struct host_iommu_vtd_device *device);

// Plugs a device of a context into a unit. The guest knows it as `source`: bus in bits 15:8, device
// and function below.
//
// Fails with -EBUSY if something is plugged in there, -EOPNOTSUPP if the context does not carry
// what the unit offers, -EDQUOT for too many devices.
int host_iommu_vtd_plug(const struct host_iommu_vtd *unit,
                        const struct host_iommu *context,
                        struct host_iommu_bdf device,
                        uint16_t source,
                        struct host_iommu_vtd_device **plugged);

// The fd to poll for POLLIN of what the device asks for, or a negative errno. It is the unit's: not
// to be read, written or closed. Devices of one context have the same.
//
// Fails with -ENOENT if nothing is offered that comes there.
int host_iommu_vtd_device_fd(const struct host_iommu_vtd_device *device);

// Hands to the unit what the device asks for, without waiting: how many events, 0 if there is none
// now, -EPIPE if there will be none any more since the context is gone.
int host_iommu_vtd_deliver(const struct host_iommu_vtd_device *device);

// Unplugs a device: what the guest has bound there is unbound.
void host_iommu_vtd_unplug(struct host_iommu_vtd_device *device);

// Gives the memory that an emulated device sees, which the guest knows as `source`, by a PASID of
// the guest's or, with HOST_IOMMU_RID, without.
int host_iommu_vtd_dma_new(const struct host_iommu_vtd *unit,
                           uint16_t source,
                           uint32_t pasid,
                           struct host_iommu_vtd_dma **dma);

// Reads memory as the device would.
//
// Fails with -EFAULT if the guest's tables do not let it, which is recorded in the unit's registers,
// or where there is no memory; then some of the bytes may have been read.
int host_iommu_vtd_dma_read(const struct host_iommu_vtd_dma *dma,
                            uint64_t address,
                            void *data,
                            size_t length);

// Writes memory as the device would. Fails as host_iommu_vtd_dma_read().
int host_iommu_vtd_dma_write(const struct host_iommu_vtd_dma *dma,
                             uint64_t address,
                             const void *data,
                             size_t length);

// Gives the handle back.
void host_iommu_vtd_dma_free(struct host_iommu_vtd_dma *dma);

// Saves a unit, at any time: gives as many of its bytes as there is room for, and in `length` how
// many there are. They are for host_iommu_vtd_restore() alone, in this process or another, with this
// version of the library or a later one. While the guest runs the length may change from call to call; what was cut off
// is refused later.
//
// The guest's memory is saved by the caller, and after the unit. Page requests that wait are given
// up: the answers that the guest gives after a restore have no effect.
int host_iommu_vtd_save(const struct host_iommu_vtd *unit,
                        void *state,
                        size_t capacity,
                        size_t *length);

// Makes a unit what host_iommu_vtd_save() saved, with the devices that are plugged in now. It was
// made with the same configuration, and the guest's memory is what it was.
//
// If the guest translates, the devices' requests are stopped until what its tables say is bound: when this returns,
// or when the unit's fd has become readable and host_iommu_vtd_run() gives 0. Then the guest may
// run.
//
// Fails with -EINVAL for bytes that are damaged or of a unit of another configuration, whose first
// difference the text names, with -EPROTO for those of a version that is not known. Then
// nothing is changed.
int host_iommu_vtd_restore(const struct host_iommu_vtd *unit,
                           const void *state,
                           size_t length);

// The unit's fd, to poll for POLLIN, or a negative errno: readable when interrupts or events wait or
// work was left, until host_iommu_vtd_run(). It is the unit's: not to be read, written or closed.
int host_iommu_vtd_fd(const struct host_iommu_vtd *unit);

// Goes on with work that was left: 1 if there is more, 0 if not. Then the interrupts are to be
// taken, and the events if they are of interest.
int host_iommu_vtd_run(const struct host_iommu_vtd *unit);

// Takes an interrupt that the guest is to get: 1 if there was one, 0 if there is none now.
int host_iommu_vtd_interrupt(const struct host_iommu_vtd *unit, struct host_iommu_msi *message);

// Takes an event: something that the unit did and that whoever looks into the VMM wants to know, or
// that interrupts are to be remapped anew. 1 if there was one, 0 if there is none now. What nobody
// takes is lost from the 257th on, and counted.
int host_iommu_vtd_next_event(const struct host_iommu_vtd *unit,
                              struct host_iommu_vtd_event *event);

// What becomes of an interrupt that a device or an IOAPIC behind the unit sends, which the guest knows
// as `source`: 1 and the message that reaches the CPUs, or 0 if the guest's table blocks it. Bits 31:8
// of a destination of 32 bits are in the upper half of the address, as KVM has them. What it gives
// holds until there is an event HOST_IOMMU_VTD_INTERRUPTS_CHANGED.
int host_iommu_vtd_remap(const struct host_iommu_vtd *unit,
                         uint16_t source,
                         uint64_t address,
                         uint32_t data,
                         struct host_iommu_msi *message);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* HOST_IOMMU_H */
