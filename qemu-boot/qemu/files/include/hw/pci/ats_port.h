/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The part of a PCIe function that does DMA by PASID: ATS, PASID and PRI
 * capabilities, a device TLB, page requests, and the way from an address to
 * the memory behind it. A device embeds an ATSPort, and an ATSWaiter in each
 * transfer that may have to wait for a page.
 *
 *   hw/pci/ats_port.c        capabilities, enables, reset
 *   hw/pci/ats_port_reach.c  from an address to the memory behind it
 *   hw/pci/ats_port_tlb.c    the device TLB (PCIe 6.0, 10.3)
 *   hw/pci/ats_port_pri.c    page requests (PCIe 6.0, 10.4)
 *
 * Everything runs with the BQL held. A transfer or an interrupt message can
 * lead anywhere a device's writes lead: to the registers of the IOMMU, to the
 * device's own configuration space, to the slot that it is plugged into. So
 * after each, ATSPort::epoch tells whether what was going on still is, and who
 * calls from outside a memory access holds a reference to the device.
 */
#ifndef HW_PCI_ATS_PORT_H
#define HW_PCI_ATS_PORT_H

#include "hw/pci/pci_ats.h"
#include "hw/pci/pci_device.h"
#include "qemu/queue.h"
#include "qemu/timer.h"

#define ATS_PORT_PAGE_SIZE      4096u
#define ATS_PORT_CHUNK          4096u   /* bytes of a transfer at a time */
#define ATS_PORT_GROUPS         512u    /* a group index has 9 bits */
#define ATS_PORT_GROUP_MAX      64u     /* page requests a group */
#define ATS_PORT_TLB_DEFAULT    4096u
#define ATS_PORT_TLB_MAX        65536u
#define ATS_PORT_PASID_BITS     20
/* Successes in a row for a page that is still missing. */
#define ATS_PORT_RETRY_MAX      16

typedef struct ATSPort ATSPort;
typedef struct ATSTlbEntry ATSTlbEntry;

typedef struct ATSTlb {
    GHashTable *entries;                /* ATSTlbEntry is key and value */
    QTAILQ_HEAD(, ATSTlbEntry) oldest_first;
    unsigned per_order[64];             /* entries of each size */
} ATSTlb;

typedef enum ATSError {
    ATS_ERROR_NONE = 0,
    ATS_ERROR_NO_ACCESS,    /* not translated or not permitted; not asked for */
    ATS_ERROR_INVALID,      /* the page request was answered "invalid" */
    ATS_ERROR_FAILURE,      /* or "failure", or it could not be sent */
    ATS_ERROR_BUS,          /* the memory behind it does not answer */
    ATS_ERROR_RETRIES,      /* no access after ATS_PORT_RETRY_MAX successes */
    ATS_ERROR_DISABLED,     /* bus master, PASID, privilege, execute is off */
    ATS_ERROR_REQUEST,      /* the translation request ended in UR or CA */
} ATSError;

typedef enum ATSStep {
    ATS_STEP_MORE,          /* to be called again */
    ATS_STEP_OK,
    ATS_STEP_FAILED,        /* ATSReach::error and ATSReach::iova say why */
    ATS_STEP_WAITING,       /* ATSPortOps::wake will be called */
    ATS_STEP_GONE,          /* reset, abort or unplugging came in between */
} ATSStep;

typedef struct ATSWaiter {
    enum {
        ATS_WAITER_IDLE,
        ATS_WAITER_GROUP,               /* for the answer to group prgi */
        ATS_WAITER_STALLED,             /* for room in the allocation */
        ATS_WAITER_RESTING,             /* until ready_at */
    } state;
    ATSError answer;                    /* a bad answer that came */
    uint64_t retry_page;
    bool retry_write;
    unsigned retries;                   /* successes in a row there */
    bool rested;                        /* since the last of them */
    int64_t ready_at;                   /* virtual clock */
    uint32_t prgi;
    QTAILQ_ENTRY(ATSWaiter) next;       /* in stalled or resting */
} ATSWaiter;

/* A page request group that has not been answered. */
typedef struct ATSGroup {
    bool used, raw;
    uint32_t pasid;                     /* or PCI_ATS_NO_PASID */
    uint32_t requests;
    uint64_t serial;
    ATSWaiter *waiter;                  /* NULL: raw, or forgotten */
} ATSGroup;

typedef struct ATSPortOps {
    /* @w may go on: ats_port_reach() is to be called again. */
    void (*wake)(ATSPort *p, ATSWaiter *w);
    /* Optional: a response was "failure" and page requests are off. */
    void (*response_failure)(ATSPort *p);
} ATSPortOps;

/* What the device chooses. */
typedef struct ATSPortConfig {
    uint16_t ats_cap, pasid_cap, pri_cap;   /* offsets in configuration space */
    bool pasid_exec, pasid_priv;            /* offered */
    bool global_invalidate;                 /* ATS capability, bit 6 */
    uint32_t pri_capacity;                  /* 1 to ATS_PORT_GROUPS */
    uint32_t tlb_capacity;                  /* 1 to ATS_PORT_TLB_MAX */
} ATSPortConfig;

typedef struct ATSPortCounters {
    uint64_t ats, ats_failed;           /* translation requests */
    uint64_t tlb_hit, invalidations, tlb_dropped, tlb_evicted;
    uint64_t untranslated;              /* requests */
    uint64_t page_requests, groups;
    uint64_t success, invalid, failure, stray;  /* group responses */
    uint64_t peak;                      /* most requests outstanding */
    uint64_t stalls;                    /* for want of room */
} ATSPortCounters;

struct ATSPort {
    PCIDevice *dev;
    const ATSPortOps *ops;
    ATSPortConfig config;
    uint32_t group_pages;               /* most page requests a group */
    bool client_set;
    bool ats_was_on;
    uint16_t pasid_was;

    uint64_t epoch;                     /* counts resets, aborts, the end */
    ATSTlb tlb;
    QTAILQ_HEAD(, ATSWaiter) stalled;
    QTAILQ_HEAD(, ATSWaiter) resting;
    QEMUTimer *rest_timer;
    ATSGroup groups[ATS_PORT_GROUPS];
    uint64_t group_serial;
    uint32_t next_prgi;
    uint32_t outstanding;
    ATSPortCounters counters;
};

/* Enables of configuration space */
#define ATS_PORT_MASTER         (1u << 0)
#define ATS_PORT_PASID          (1u << 1)
#define ATS_PORT_PASID_EXEC     (1u << 2)
#define ATS_PORT_PASID_PRIV     (1u << 3)
#define ATS_PORT_ATS            (1u << 4)
#define ATS_PORT_PRI            (1u << 5)

/* Where an address of a transfer leads to. */
typedef struct ATSReach {
    AddressSpace *as;
    MemTxAttrs attrs;
    hwaddr addr;
    hwaddr len;
    ATSError error;
    hwaddr iova;                        /* that the error is about */
    bool write;                         /* whether that access is a write */
} ATSReach;

/* How a transfer translates. */
#define ATS_REACH_NO_ATS        (1u << 0)   /* by untranslated requests */
#define ATS_REACH_NO_PRI        (1u << 1)   /* a missing page is an error */

bool ats_port_check(const ATSPortConfig *config, Error **errp);
void ats_port_init(ATSPort *p, PCIDevice *dev, const ATSPortOps *ops,
                   const ATSPortConfig *config);
void ats_port_exit(ATSPort *p);
void ats_port_reset(ATSPort *p);
/* After each write to configuration space. */
void ats_port_config_written(ATSPort *p, uint32_t addr, int len);
uint32_t ats_port_enables(ATSPort *p);

/*
 * Finds the memory behind @iova, the next address of a transfer that ends at
 * @last. ATS_STEP_OK: *r leads to r->len bytes of it.
 */
ATSStep ats_port_reach(ATSPort *p, ATSWaiter *w, const PCIATSRequest *req,
                       unsigned flags, hwaddr iova, hwaddr last, ATSReach *r);
/* Moves @len bytes, at most r->len; @iova is what an error is reported with. */
ATSStep ats_port_transfer(ATSPort *p, ATSReach *r, hwaddr iova, void *data,
                          hwaddr len, bool is_write);
ATSStep ats_port_failed(ATSReach *r, ATSError error, hwaddr iova);

void ats_waiter_init(ATSWaiter *w);
/* @w will not be woken; the answer to its group is taken and dropped. */
void ats_port_forget(ATSPort *p, ATSWaiter *w);

/* One page request on its own; @rogue: no account is kept of it. */
typedef enum ATSRaw {
    ATS_RAW_SENT = 0,
    ATS_RAW_DISABLED,
    ATS_RAW_NO_CREDIT,
    ATS_RAW_GROUP_BUSY,
    ATS_RAW_REFUSED,
} ATSRaw;
ATSRaw ats_port_raw(ATSPort *p, const PCIATSPageRequest *pr, bool rogue);
/* Page requests allowed now, and whether a response was "failure". */
uint32_t ats_port_pri_allocation(ATSPort *p);
bool ats_port_pri_failed(ATSPort *p);

/* Between the files of the port */
bool ats_port_pri_on(ATSPort *p);
uint32_t ats_port_pri_room(ATSPort *p);
void ats_port_pri_ask(ATSPort *p, ATSWaiter *w, const PCIATSRequest *req,
                      const uint64_t *pages, unsigned count);
void ats_port_pri_response(ATSPort *p, uint32_t pasid, uint16_t prgi,
                           unsigned code);
void ats_port_pri_control_written(ATSPort *p);
void ats_port_pri_reset(ATSPort *p);
void ats_port_rested(void *opaque);

void ats_tlb_init(ATSTlb *tlb);
void ats_tlb_destroy(ATSTlb *tlb);
void ats_tlb_clear(ATSTlb *tlb);
unsigned ats_tlb_count(ATSTlb *tlb);
bool ats_tlb_find(ATSTlb *tlb, const PCIATSRequest *req, hwaddr iova,
                  hwaddr *addr, hwaddr *len);
unsigned ats_tlb_add(ATSTlb *tlb, unsigned capacity, const PCIATSRequest *req,
                     hwaddr iova, const PCIATSTranslation *xlat);
unsigned ats_tlb_invalidate(ATSTlb *tlb, uint32_t pasid, bool global,
                            uint64_t addr, uint64_t size);

#endif
