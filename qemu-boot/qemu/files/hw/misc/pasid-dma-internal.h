/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pasid-dma-testdev: what its files share.
 *
 *   pasid-dma-testdev.c  the PCI function: configuration space, BAR 0, reset
 *   pasid-dma-engine.c   the ring and the operations
 *   pasid-dma-reach.c    from an address to the memory behind it
 *   pasid-dma-tlb.c      the device TLB (PCIe 6.0, 10.3)
 *   pasid-dma-pri.c      page requests (PCIe 6.0, 10.4)
 *
 * Everything runs with the BQL held.
 */
#ifndef PASID_DMA_INTERNAL_H
#define PASID_DMA_INTERNAL_H

#include "hw/misc/pasid-dma-testdev.h"
#include "hw/pci/pci_ats.h"
#include "hw/pci/pci_device.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "qom/object.h"

#define TYPE_PASID_DMA_TESTDEV "pasid-dma-testdev"
OBJECT_DECLARE_SIMPLE_TYPE(PDTState, PASID_DMA_TESTDEV)

#define PDT_PAGE_SIZE           4096u
#define PDT_PRG_INDICES         512u        /* a group index has 9 bits */
#define PDT_TLB_DEFAULT         4096u
#define PDT_TLB_MAX             65536u
#define PDT_CHUNK               4096u       /* bytes of a slot at a time */
#define PDT_NO_GROUP            UINT32_MAX

typedef struct PDTTlbEntry PDTTlbEntry;

typedef struct PDTTlb {
    GHashTable *entries;                    /* PDTTlbEntry is key and value */
    QTAILQ_HEAD(, PDTTlbEntry) oldest_first;
    unsigned per_order[64];                 /* entries of each size */
} PDTTlb;

typedef struct PDTSlot {
    /* The descriptor, as it was when TAIL passed the slot */
    uint32_t op, flags, pasid, length, tag;
    uint64_t src, dst, operand, completion;

    uint32_t status;                        /* PDT_STATUS_QUEUED: runnable */
    uint32_t final;                         /* status of the operation, or 0 */
    uint64_t result;
    uint64_t hash;
    uint32_t done;                          /* bytes */
    uint64_t retry_page;
    unsigned retries;                       /* successes in a row there */
    bool rested;                            /* since the last of them */
    int64_t ready_at;                       /* in resting; virtual clock */
    uint32_t prgi;                          /* awaited, or PDT_NO_GROUP */
    uint32_t answer;                        /* a bad answer: the final status */
    QTAILQ_ENTRY(PDTSlot) next;             /* in one of PDTState's lists */
} PDTSlot;

/* A page request group that has not been answered. */
typedef struct PDTGroup {
    bool used, raw;
    uint32_t pasid;                         /* or PCI_ATS_NO_PASID */
    uint32_t requests;
    uint64_t serial;
    PDTSlot *slot;                          /* NULL: raw, or aborted */
} PDTGroup;

struct PDTState {
    PCIDevice parent_obj;

    MemoryRegion bar;
    QEMUBH *bh;
    bool client_set;

    /* Properties */
    uint32_t pri_capacity;
    uint32_t tlb_capacity;

    /* Offsets in configuration space, and the controls as last seen */
    uint16_t ats_cap, pasid_cap, pri_cap;
    bool ats_was_on;
    uint16_t pasid_was;

    uint32_t control, pri_group, raw_pasid, raw_prgi, raw_low, raw_result;
    uint32_t head, tail, taken;
    uint64_t counters[(PDT_CNT_LAST - PDT_CNT_ATS) / 8 + 1];

    uint64_t epoch;                         /* counts resets and aborts */
    PDTSlot slots[PDT_SLOTS];
    QTAILQ_HEAD(, PDTSlot) runnable;
    QTAILQ_HEAD(, PDTSlot) stalled;         /* want page requests, no credit */
    QTAILQ_HEAD(, PDTSlot) resting;         /* before they ask again */
    QEMUTimer *rest_timer;

    PDTTlb tlb;

    PDTGroup groups[PDT_PRG_INDICES];
    uint64_t group_serial;
    uint32_t next_prgi;
    uint32_t outstanding;

    uint8_t ring[PDT_SLOTS * PDT_DESC_SIZE];
    uint8_t buffer[PDT_BUFFER_SIZE];
};

typedef enum PDTStep {
    PDT_STEP_MORE,          /* the slot is to be run again */
    PDT_STEP_OK,            /* the operation, or the completion, is done */
    PDT_STEP_FAILED,        /* PDTReach::status and PDTReach::result say why */
    PDT_STEP_WAITING,       /* the slot is in the hands of somebody else */
    PDT_STEP_GONE,          /* reset or abort came in between */
} PDTStep;

/* Where an address of the slot leads to. */
typedef struct PDTReach {
    AddressSpace *as;
    MemTxAttrs attrs;
    hwaddr addr;
    hwaddr len;
    uint32_t status;
    uint64_t result;
} PDTReach;

static inline uint64_t *pdt_counter(PDTState *s, unsigned reg)
{
    return &s->counters[(reg - PDT_CNT_ATS) / 8];
}

/* pasid-dma-testdev.c */
uint32_t pdt_enables(PDTState *s);

/* pasid-dma-engine.c */
void pdt_engine_init(PDTState *s);
void pdt_engine_reset(PDTState *s);
void pdt_engine_abort(PDTState *s);
void pdt_engine_doorbell(PDTState *s, uint32_t tail);
void pdt_engine_take(PDTState *s);
void pdt_engine_wake(PDTState *s, PDTSlot *slot);
void pdt_engine_run(void *opaque);
void pdt_slot_set_status(PDTState *s, PDTSlot *slot, uint32_t status);

/* pasid-dma-reach.c */
PDTStep pdt_failed(PDTReach *r, uint32_t status, uint64_t result);
PDTStep pdt_reach(PDTState *s, PDTSlot *slot, const PCIATSRequest *req,
                  hwaddr iova, hwaddr last, PDTReach *r);
void pdt_reach_rested(void *opaque);

/* pasid-dma-tlb.c */
void pdt_tlb_init(PDTTlb *tlb);
void pdt_tlb_destroy(PDTTlb *tlb);
void pdt_tlb_clear(PDTTlb *tlb);
unsigned pdt_tlb_count(PDTTlb *tlb);
bool pdt_tlb_find(PDTTlb *tlb, const PCIATSRequest *req, hwaddr iova,
                  hwaddr *addr, hwaddr *len);
unsigned pdt_tlb_add(PDTTlb *tlb, unsigned capacity, const PCIATSRequest *req,
                     hwaddr iova, const PCIATSTranslation *xlat);
unsigned pdt_tlb_invalidate(PDTTlb *tlb, uint32_t pasid, bool global,
                            uint64_t addr, uint64_t size);

/* pasid-dma-pri.c */
bool pdt_pri_on(PDTState *s);
uint32_t pdt_pri_room(PDTState *s);
void pdt_pri_ask(PDTState *s, PDTSlot *slot, const PCIATSRequest *req,
                 const uint64_t *pages, unsigned count);
uint32_t pdt_pri_raw(PDTState *s, uint64_t value);
void pdt_pri_response(PCIDevice *dev, uint32_t pasid, uint16_t prgi,
                      unsigned code);
void pdt_pri_control_written(PDTState *s);
void pdt_pri_reset(PDTState *s);

#endif
