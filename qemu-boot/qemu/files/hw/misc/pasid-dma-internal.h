/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pasid-dma-testdev: what its files share.
 *
 *   pasid-dma-testdev.c  the PCI function: configuration space, BAR 0, reset
 *   pasid-dma-engine.c   the ring and the operations
 *
 * ATS, PASID and PRI are those of an ATSPort; see hw/pci/ats_port.h for what
 * a transfer or an interrupt can set off.
 */
#ifndef PASID_DMA_INTERNAL_H
#define PASID_DMA_INTERNAL_H

#include "hw/misc/pasid-dma-testdev.h"
#include "hw/pci/ats_port.h"
#include "hw/pci/pci_device.h"
#include "qemu/queue.h"
#include "qom/object.h"
#include "system/runstate.h"

#define TYPE_PASID_DMA_TESTDEV "pasid-dma-testdev"
OBJECT_DECLARE_SIMPLE_TYPE(PDTState, PASID_DMA_TESTDEV)

typedef struct PDTSlot {
    /* The descriptor, as it was when TAIL passed the slot */
    uint32_t op, flags, pasid, length, tag;
    uint64_t src, dst, operand, completion;

    uint32_t status;                        /* PDT_STATUS_QUEUED: runnable */
    uint32_t final;                         /* status of the operation, or 0 */
    uint64_t result;
    uint64_t hash;
    uint32_t done;                          /* bytes */
    ATSWaiter waiter;
    QTAILQ_ENTRY(PDTSlot) next;             /* in runnable, while QUEUED */
} PDTSlot;

struct PDTState {
    PCIDevice parent_obj;

    MemoryRegion bar;
    QEMUBH *bh;                             /* NULL once unplugged */
    VMChangeStateEntry *vm_change;

    /* Properties */
    uint32_t pri_capacity;
    uint32_t tlb_capacity;
    bool global_invalidate;

    ATSPort port;
    uint32_t control, raw_pasid, raw_prgi, raw_low, raw_result;
    uint32_t head, tail, taken;
    uint64_t done, errors, bytes;           /* counters */

    PDTSlot slots[PDT_SLOTS];
    QTAILQ_HEAD(, PDTSlot) runnable;

    uint8_t ring[PDT_SLOTS * PDT_DESC_SIZE];
    uint8_t buffer[PDT_BUFFER_SIZE];
};

/* pasid-dma-engine.c */
void pdt_engine_init(PDTState *s);
void pdt_engine_reset(PDTState *s);
void pdt_engine_abort(PDTState *s);
void pdt_engine_exit(PDTState *s);
void pdt_engine_doorbell(PDTState *s, uint32_t tail);
void pdt_engine_take(PDTState *s);
void pdt_engine_woken(ATSPort *p, ATSWaiter *w);
void pdt_engine_run(void *opaque);

#endif
