/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pasid-dma-testdev: from an address of a transfer to the memory behind it.
 *
 * The way is a translated request where ATS is on (device TLB, else a
 * translation request, else a page request), an untranslated one otherwise.
 */
#include "qemu/osdep.h"
#include "exec/memory.h"
#include "exec/address-spaces.h"
#include "pasid-dma-internal.h"

#define PAGES_AHEAD     64          /* looked at to fill a group */

/*
 * A page that is still missing after "success" is asked for again, later each
 * time: an IOMMU whose queue is full answers so at once (VT-d 4.1, 7.4.1).
 */
#define REST_NS         SCALE_MS
#define REST_DOUBLINGS  7

/* Writes here are interrupts; a translated request may not (VT-d 4.1, 3.14) */
#define INTERRUPT_BASE  0xfee00000ull
#define INTERRUPT_LAST  0xfeefffffull

PDTStep pdt_failed(PDTReach *r, uint32_t status, uint64_t result)
{
    r->status = status;
    r->result = result;
    return PDT_STEP_FAILED;
}

static bool xlat_permits(const PCIATSRequest *req, const PCIATSTranslation *x)
{
    return (req->write ? x->write : x->read) && (!req->exec || x->exec);
}

/* One translation request; -EAGAIN: the answer is "use untranslated". */
static int ats_ask(PDTState *s, const PCIATSRequest *req, hwaddr iova,
                   PCIATSTranslation *x)
{
    int ret;

    (*pdt_counter(s, PDT_CNT_ATS))++;
    memset(x, 0, sizeof(*x));
    ret = pci_ats_request(PCI_DEVICE(s), req, iova, x);
    if (ret == -ENODEV) {
        return -EAGAIN;
    }
    if (ret) {
        return ret;
    }
    if (x->untranslated_only) {
        return -EAGAIN;
    }
    if (!xlat_permits(req, x)) {
        (*pdt_counter(s, PDT_CNT_ATS_FAILED))++;
        return 0;
    }
    *pdt_counter(s, PDT_CNT_DTLB_EVICTED) +=
        pdt_tlb_add(&s->tlb, s->tlb_capacity, req, iova, x);
    return 0;
}

static void rest_arm(PDTState *s)
{
    int64_t first = INT64_MAX;
    PDTSlot *slot;

    QTAILQ_FOREACH(slot, &s->resting, next) {
        first = MIN(first, slot->ready_at);
    }
    if (first == INT64_MAX) {
        timer_del(s->rest_timer);
    } else {
        timer_mod(s->rest_timer, first);
    }
}

/* The timer: who has rested long enough may ask again. */
void pdt_reach_rested(void *opaque)
{
    PDTState *s = opaque;
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    PDTSlot *slot, *following;

    QTAILQ_FOREACH_SAFE(slot, &s->resting, next, following) {
        if (slot->ready_at <= now) {
            QTAILQ_REMOVE(&s->resting, slot, next);
            slot->rested = true;
            pdt_engine_wake(s, slot);
        }
    }
    rest_arm(s);
}

static void slot_rest(PDTState *s, PDTSlot *slot)
{
    unsigned doublings = MIN(slot->retries - 1, REST_DOUBLINGS);

    slot->ready_at = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) +
                     ((int64_t)REST_NS << doublings);
    QTAILQ_INSERT_TAIL(&s->resting, slot, next);
    rest_arm(s);
}

/* Asks for the page of @iova and the missing ones after it, up to @last. */
static PDTStep reach_by_request(PDTState *s, PDTSlot *slot,
                                const PCIATSRequest *req, hwaddr iova,
                                hwaddr last, PDTReach *r)
{
    hwaddr page = iova & ~(hwaddr)(PDT_PAGE_SIZE - 1);
    uint64_t pages[PDT_GROUP_MAX], epoch = s->epoch;
    unsigned count = 1;

    if (page != slot->retry_page) {
        slot->retry_page = page;
        slot->retries = 0;
        slot->rested = false;
    }
    if (slot->retries >= PDT_RETRY_MAX) {
        return pdt_failed(r, PDT_STATUS_RETRIES, iova);
    }
    if (slot->retries && !slot->rested) {
        pdt_slot_set_status(s, slot, PDT_STATUS_WAITING);
        slot_rest(s, slot);
        return PDT_STEP_WAITING;
    }

    pages[0] = page;
    for (unsigned i = 1; i < PAGES_AHEAD && count < s->pri_group; i++) {
        hwaddr ahead = page + (hwaddr)i * PDT_PAGE_SIZE, addr, len;
        PCIATSTranslation x;

        if (ahead < page || ahead > last) {
            break;
        }
        if (pdt_tlb_find(&s->tlb, req, ahead, &addr, &len)) {
            continue;
        }
        if (ats_ask(s, req, ahead, &x)) {
            break;
        }
        if (!xlat_permits(req, &x)) {
            pages[count++] = ahead;
        }
    }
    if (s->epoch != epoch) {
        return PDT_STEP_GONE;
    }
    pdt_slot_set_status(s, slot, PDT_STATUS_WAITING);
    pdt_pri_ask(s, slot, req, pages, count);
    return PDT_STEP_WAITING;
}

static PDTStep reach_translated(PDTState *s, hwaddr iova, hwaddr addr,
                                hwaddr len, PDTReach *r)
{
    if (!pci_ats_translated_allowed(PCI_DEVICE(s))) {
        return pdt_failed(r, PDT_STATUS_NO_ACCESS, iova);
    }
    if (addr <= INTERRUPT_LAST && addr + (MIN(len, PDT_CHUNK) - 1) >=
                                  INTERRUPT_BASE) {
        return pdt_failed(r, PDT_STATUS_BUS, iova);
    }
    r->as = &address_space_memory;
    r->attrs = (MemTxAttrs) { .requester_id = pci_requester_id(PCI_DEVICE(s)) };
    r->addr = addr;
    r->len = len;
    return PDT_STEP_OK;
}

static PDTStep reach_untranslated(PDTState *s, const PCIATSRequest *req,
                                  hwaddr iova, PDTReach *r)
{
    hwaddr left = PDT_PAGE_SIZE - iova % PDT_PAGE_SIZE;
    PCIATSTranslation x = {};

    (*pdt_counter(s, PDT_CNT_UNTRANSLATED))++;
    if (req->pasid == PCI_ATS_NO_PASID) {
        r->as = pci_get_address_space(PCI_DEVICE(s));
        r->attrs = MEMTXATTRS_UNSPECIFIED;
        r->addr = iova;
        r->len = left;
        /* Asked for the first byte alone: one refusal, one fault. */
        if (!address_space_access_valid(r->as, iova, 1, req->write, r->attrs)) {
            return pdt_failed(r, PDT_STATUS_NO_ACCESS, iova);
        }
        return PDT_STEP_OK;
    }

    if (pci_ats_translate(PCI_DEVICE(s), req, iova, &x) ||
        !xlat_permits(req, &x)) {
        return pdt_failed(r, PDT_STATUS_NO_ACCESS, iova);
    }
    r->addr = x.addr + (iova - x.iova);
    if (r->addr <= INTERRUPT_LAST && r->addr + (left - 1) >= INTERRUPT_BASE) {
        return pdt_failed(r, PDT_STATUS_BUS, iova);
    }
    r->as = &address_space_memory;
    r->attrs = (MemTxAttrs) { .requester_id = pci_requester_id(PCI_DEVICE(s)) };
    r->len = left;
    return PDT_STEP_OK;
}

/*
 * Finds the memory behind @iova, the next address of a transfer that ends at
 * @last. PDT_STEP_OK: *r leads to r->len bytes of it.
 */
PDTStep pdt_reach(PDTState *s, PDTSlot *slot, const PCIATSRequest *req,
                  hwaddr iova, hwaddr last, PDTReach *r)
{
    uint32_t enables = pdt_enables(s);
    uint64_t epoch = s->epoch;
    PCIATSTranslation x;
    hwaddr addr, len;
    PDTStep step;
    int ret;

    if (!(enables & PDT_ENABLE_MASTER) ||
        (req->pasid != PCI_ATS_NO_PASID && !(enables & PDT_ENABLE_PASID)) ||
        (req->priv && !(enables & PDT_ENABLE_PASID_PRIV)) ||
        (req->exec && !(enables & PDT_ENABLE_PASID_EXEC))) {
        return pdt_failed(r, PDT_STATUS_DISABLED, iova);
    }

    if (!(enables & PDT_ENABLE_ATS) || (slot->flags & PDT_FLAG_NO_ATS)) {
        step = reach_untranslated(s, req, iova, r);
        return s->epoch == epoch ? step : PDT_STEP_GONE;
    }
    if (pdt_tlb_find(&s->tlb, req, iova, &addr, &len)) {
        (*pdt_counter(s, PDT_CNT_DTLB_HIT))++;
        return reach_translated(s, iova, addr, len, r);
    }

    ret = ats_ask(s, req, iova, &x);
    if (s->epoch != epoch) {
        return PDT_STEP_GONE;
    }
    if (ret == -EAGAIN) {
        step = reach_untranslated(s, req, iova, r);
        return s->epoch == epoch ? step : PDT_STEP_GONE;
    }
    if (ret) {
        return pdt_failed(r, PDT_STATUS_ATS_ERROR, iova);
    }
    if (xlat_permits(req, &x)) {
        hwaddr offset = iova - x.iova;

        return reach_translated(s, iova, x.addr + offset,
                                MIN(x.mask - offset, PDT_CHUNK - 1) + 1, r);
    }
    if (!(enables & PDT_ENABLE_PRI) || (slot->flags & PDT_FLAG_NO_PRI)) {
        return pdt_failed(r, PDT_STATUS_NO_ACCESS, iova);
    }
    return reach_by_request(s, slot, req, iova, last, r);
}
