/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pasid-dma-testdev: page requests and their answers (PCIe 6.0, 10.4).
 *
 * A group index is in use from its first request to its response. Indices are
 * given in rotation, across function-level resets too, so that a response that
 * comes late meets no younger group of the same number. Requests without an
 * answer never exceed Outstanding Page Request Allocation.
 */
#include "qemu/osdep.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci_regs.h"
#include "pasid-dma-internal.h"

#define VECTOR_FAILURE  1

static uint16_t pri_control(PDTState *s)
{
    return pci_get_word(PCI_DEVICE(s)->config + s->pri_cap + PCI_PRI_CTRL);
}

static void pri_status_set(PDTState *s, uint16_t bits)
{
    uint8_t *status = PCI_DEVICE(s)->config + s->pri_cap + PCI_PRI_STATUS;

    pci_set_word(status, pci_get_word(status) | bits);
}

/* Stopped: page requests are off, and none waits for its answer (10.5.2.3). */
static void pri_update_stopped(PDTState *s)
{
    uint8_t *status = PCI_DEVICE(s)->config + s->pri_cap + PCI_PRI_STATUS;
    uint16_t value = pci_get_word(status) & ~PCI_PRI_STATUS_STOPPED;

    if (!pdt_pri_on(s) && !s->outstanding) {
        value |= PCI_PRI_STATUS_STOPPED;
    }
    pci_set_word(status, value);
}

bool pdt_pri_on(PDTState *s)
{
    return pri_control(s) & PCI_PRI_CTRL_ENABLE;
}

static uint32_t pri_allocation(PDTState *s)
{
    uint32_t allowed = pci_get_long(PCI_DEVICE(s)->config + s->pri_cap +
                                    PCI_PRI_ALLOC_REQ);

    return MIN(allowed, s->pri_capacity);
}

/* How many more page requests may be sent now. */
uint32_t pdt_pri_room(PDTState *s)
{
    uint32_t allowed = pri_allocation(s);

    return allowed > s->outstanding ? allowed - s->outstanding : 0;
}

static void pri_account(PDTState *s, PDTGroup *g)
{
    uint64_t *peak = pdt_counter(s, PDT_CNT_PRI_PEAK);

    g->requests++;
    s->outstanding++;
    *peak = MAX(*peak, s->outstanding);
}

static PDTSlot *pri_group_end(PDTState *s, PDTGroup *g)
{
    PDTSlot *slot = g->slot;

    s->outstanding -= g->requests;
    memset(g, 0, sizeof(*g));
    if (slot) {
        slot->prgi = PDT_NO_GROUP;
    }
    return slot;
}

static PDTGroup *pri_group_new(PDTState *s)
{
    for (unsigned i = 0; i < PDT_PRG_INDICES; i++) {
        PDTGroup *g = &s->groups[(s->next_prgi + i) % PDT_PRG_INDICES];

        if (!g->used) {
            s->next_prgi = (g - s->groups + 1) % PDT_PRG_INDICES;
            g->used = true;
            g->serial = ++s->group_serial;
            return g;
        }
    }
    return NULL;
}

/* Whoever waited for the allocation may try again. */
static void pri_wake_stalled(PDTState *s)
{
    PDTSlot *slot;

    while ((slot = QTAILQ_FIRST(&s->stalled))) {
        QTAILQ_REMOVE(&s->stalled, slot, next);
        pdt_engine_wake(s, slot);
    }
}

/*
 * Asks for @count @pages with the rights of @req and lets @slot wait for the
 * answer. The IOMMU may answer before this returns.
 */
void pdt_pri_ask(PDTState *s, PDTSlot *slot, const PCIATSRequest *req,
                 const uint64_t *pages, unsigned count)
{
    PDTGroup *g;
    uint64_t serial;

    count = MIN(count, pdt_pri_room(s));
    g = count ? pri_group_new(s) : NULL;
    slot->status = PDT_STATUS_WAITING;
    if (!g) {
        (*pdt_counter(s, PDT_CNT_PRI_STALL))++;
        QTAILQ_INSERT_TAIL(&s->stalled, slot, next);
        return;
    }
    slot->retries++;
    slot->rested = false;
    serial = g->serial;
    g->pasid = req->pasid;
    g->slot = slot;
    slot->prgi = g - s->groups;
    for (unsigned i = 0; i < count; i++) {
        pri_account(s, g);
    }
    (*pdt_counter(s, PDT_CNT_GROUPS))++;

    for (unsigned i = 0; i < count; i++) {
        PCIATSPageRequest pr = {
            .pasid = req->pasid,
            .addr = pages[i],
            .prgi = g - s->groups,
            .priv = req->priv,
            .exec = req->exec,
            .read = true,
            .write = req->write,
            .last = i + 1 == count,
        };
        int ret;

        (*pdt_counter(s, PDT_CNT_PAGE_REQ))++;
        ret = pci_ats_page_request(PCI_DEVICE(s), &pr);
        if (!g->used || g->serial != serial) {
            return;
        }
        if (ret) {
            pri_group_end(s, g);
            slot->answer = PDT_STATUS_FAILURE;
            pdt_engine_wake(s, slot);
            pri_wake_stalled(s);
            return;
        }
    }
}

/* Sends one raw page request: PDT_RAW_SENT, or why not. */
uint32_t pdt_pri_raw(PDTState *s, uint64_t value)
{
    uint32_t enables = pdt_enables(s);
    bool rogue = value & PDT_RAW_ROGUE;
    PDTGroup *g = &s->groups[s->raw_prgi];
    PCIATSPageRequest pr = {
        .pasid = value & PDT_RAW_PASID ? s->raw_pasid : PCI_ATS_NO_PASID,
        .addr = value & PDT_RAW_ADDR_MASK,
        .prgi = s->raw_prgi,
        .read = value & PDT_RAW_READ,
        .write = value & PDT_RAW_WRITE,
        .last = value & PDT_RAW_LAST,
    };

    if (!(enables & PDT_ENABLE_MASTER) || !pdt_pri_on(s) ||
        ((value & PDT_RAW_PASID) && !(enables & PDT_ENABLE_PASID))) {
        return PDT_RAW_DISABLED;
    }
    if (!rogue) {
        if (g->used && (!g->raw || g->pasid != pr.pasid)) {
            return PDT_RAW_GROUP_BUSY;
        }
        if (!pdt_pri_room(s)) {
            return PDT_RAW_NO_CREDIT;
        }
        if (!g->used) {
            g->used = true;
            g->raw = true;
            g->pasid = pr.pasid;
            g->serial = ++s->group_serial;
            (*pdt_counter(s, PDT_CNT_GROUPS))++;
        }
        pri_account(s, g);
    }
    (*pdt_counter(s, PDT_CNT_PAGE_REQ))++;
    if (!pci_ats_page_request(PCI_DEVICE(s), &pr)) {
        return PDT_RAW_SENT;
    }
    if (!rogue && g->used && g->raw) {
        pri_group_end(s, g);
    }
    return PDT_RAW_REFUSED;
}

/* Ends every group; their slots go on, with @answer if it is not zero. */
static void pri_end_all(PDTState *s, uint32_t answer)
{
    for (unsigned i = 0; i < PDT_PRG_INDICES; i++) {
        PDTSlot *slot;

        if (!s->groups[i].used) {
            continue;
        }
        slot = pri_group_end(s, &s->groups[i]);
        if (slot) {
            slot->answer = answer;
            pdt_engine_wake(s, slot);
        }
    }
}

/* A page request group response (10.4.2). */
void pdt_pri_response(PCIDevice *dev, uint32_t pasid, uint16_t prgi,
                      unsigned code)
{
    PDTState *s = PASID_DMA_TESTDEV(dev);
    PDTGroup *g = &s->groups[prgi % PDT_PRG_INDICES];
    PDTSlot *slot;

    if (prgi >= PDT_PRG_INDICES || !g->used || g->pasid != pasid) {
        (*pdt_counter(s, PDT_CNT_RSP_STRAY))++;
        pri_status_set(s, PCI_PRI_STATUS_UPRGI);
        return;
    }

    slot = pri_group_end(s, g);
    switch (code) {
    case PCI_PRI_SUCCESS:
        (*pdt_counter(s, PDT_CNT_RSP_SUCCESS))++;
        break;
    case PCI_PRI_INVALID:
        (*pdt_counter(s, PDT_CNT_RSP_INVALID))++;
        if (slot) {
            slot->answer = PDT_STATUS_INVALID;
        }
        break;
    default:
        /*
         * Failure, and codes without a meaning count as it (table 10-11): the
         * interface is off until software enables it anew.
         */
        (*pdt_counter(s, PDT_CNT_RSP_FAILURE))++;
        if (slot) {
            slot->answer = PDT_STATUS_FAILURE;
        }
        pri_status_set(s, PCI_PRI_STATUS_RF);
        pci_set_word(dev->config + s->pri_cap + PCI_PRI_CTRL,
                     pri_control(s) & ~PCI_PRI_CTRL_ENABLE);
        pri_end_all(s, PDT_STATUS_FAILURE);
        if (msix_enabled(dev)) {
            msix_notify(dev, VECTOR_FAILURE);
        }
        break;
    }
    if (slot) {
        pdt_engine_wake(s, slot);
    }
    pri_wake_stalled(s);
    pri_update_stopped(s);
}

/* PRI Control or Status was written. */
void pdt_pri_control_written(PDTState *s)
{
    uint8_t *control = PCI_DEVICE(s)->config + s->pri_cap + PCI_PRI_CTRL;
    uint16_t value = pci_get_word(control);

    if (value & PCI_PRI_CTRL_RESET) {
        if (!(value & PCI_PRI_CTRL_ENABLE)) {
            pri_end_all(s, PDT_STATUS_FAILURE);
        }
        pci_set_word(control, value & ~PCI_PRI_CTRL_RESET);
    }
    pri_wake_stalled(s);
    pri_update_stopped(s);
}

/* Function-level reset; next_prgi and group_serial go on (see the top). */
void pdt_pri_reset(PDTState *s)
{
    PCIDevice *dev = PCI_DEVICE(s);

    memset(s->groups, 0, sizeof(s->groups));
    s->outstanding = 0;
    pci_set_word(dev->config + s->pri_cap + PCI_PRI_CTRL, 0);
    pci_set_word(dev->config + s->pri_cap + PCI_PRI_STATUS,
                 PCI_PRI_STATUS_PASID | PCI_PRI_STATUS_STOPPED);
    pci_set_long(dev->config + s->pri_cap + PCI_PRI_ALLOC_REQ, 0);
}
