/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From an address of a transfer to the memory behind it.
 *
 * The way is a translated request where ATS is on (device TLB, else a
 * translation request, else a page request), an untranslated one otherwise.
 */
#include "qemu/osdep.h"
#include "exec/memory.h"
#include "exec/address-spaces.h"
#include "hw/pci/ats_port.h"

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

ATSStep ats_port_failed(ATSReach *r, ATSError error, hwaddr iova)
{
    r->error = error;
    r->iova = iova;
    return ATS_STEP_FAILED;
}

void ats_waiter_init(ATSWaiter *w)
{
    *w = (ATSWaiter) { .retry_page = UINT64_MAX };
}

void ats_port_forget(ATSPort *p, ATSWaiter *w)
{
    switch (w->state) {
    case ATS_WAITER_GROUP:
        p->groups[w->prgi].waiter = NULL;
        break;
    case ATS_WAITER_STALLED:
        QTAILQ_REMOVE(&p->stalled, w, next);
        break;
    case ATS_WAITER_RESTING:
        QTAILQ_REMOVE(&p->resting, w, next);
        break;
    case ATS_WAITER_IDLE:
        break;
    }
    w->state = ATS_WAITER_IDLE;
}

static bool xlat_permits(const PCIATSRequest *req, const PCIATSTranslation *x)
{
    return (req->write ? x->write : x->read) && (!req->exec || x->exec);
}

/* One translation request; -EAGAIN: the answer is "use untranslated". */
static int ats_ask(ATSPort *p, const PCIATSRequest *req, hwaddr iova,
                   PCIATSTranslation *x)
{
    int ret;

    p->counters.ats++;
    memset(x, 0, sizeof(*x));
    ret = pci_ats_request(p->dev, req, iova, x);
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
        p->counters.ats_failed++;
        return 0;
    }
    p->counters.tlb_evicted += ats_tlb_add(&p->tlb, p->config.tlb_capacity, req,
                                           iova, x);
    return 0;
}

static void rest_arm(ATSPort *p)
{
    int64_t first = INT64_MAX;
    ATSWaiter *w;

    QTAILQ_FOREACH(w, &p->resting, next) {
        first = MIN(first, w->ready_at);
    }
    if (first == INT64_MAX) {
        timer_del(p->rest_timer);
    } else {
        timer_mod(p->rest_timer, first);
    }
}

/* The timer: who has rested long enough may ask again. */
void ats_port_rested(void *opaque)
{
    ATSPort *p = opaque;
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
    ATSWaiter *w, *following;

    QTAILQ_FOREACH_SAFE(w, &p->resting, next, following) {
        if (w->ready_at <= now) {
            QTAILQ_REMOVE(&p->resting, w, next);
            w->state = ATS_WAITER_IDLE;
            w->rested = true;
            p->ops->wake(p, w);
        }
    }
    rest_arm(p);
}

static void waiter_rest(ATSPort *p, ATSWaiter *w)
{
    unsigned doublings = MIN(w->retries - 1, REST_DOUBLINGS);

    w->state = ATS_WAITER_RESTING;
    w->ready_at = qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL) +
                  ((int64_t)REST_NS << doublings);
    QTAILQ_INSERT_TAIL(&p->resting, w, next);
    rest_arm(p);
}

/* Asks for the page of @iova and the missing ones after it, up to @last. */
static ATSStep reach_by_request(ATSPort *p, ATSWaiter *w,
                                const PCIATSRequest *req, hwaddr iova,
                                hwaddr last, ATSReach *r)
{
    hwaddr page = iova & ~(hwaddr)(ATS_PORT_PAGE_SIZE - 1);
    uint64_t pages[ATS_PORT_GROUP_MAX], epoch = p->epoch;
    unsigned count = 1;

    if (page != w->retry_page) {
        w->retry_page = page;
        w->retries = 0;
        w->rested = false;
    }
    if (w->retries >= ATS_PORT_RETRY_MAX) {
        return ats_port_failed(r, ATS_ERROR_RETRIES, iova);
    }
    if (w->retries && !w->rested) {
        waiter_rest(p, w);
        return ATS_STEP_WAITING;
    }

    pages[0] = page;
    for (unsigned i = 1; i < PAGES_AHEAD && count < p->group_pages; i++) {
        hwaddr ahead = page + (hwaddr)i * ATS_PORT_PAGE_SIZE, addr, len;
        PCIATSTranslation x;

        if (ahead < page || ahead > last) {
            break;
        }
        if (ats_tlb_find(&p->tlb, req, ahead, &addr, &len)) {
            continue;
        }
        if (ats_ask(p, req, ahead, &x)) {
            break;
        }
        if (!xlat_permits(req, &x)) {
            pages[count++] = ahead;
        }
    }
    if (p->epoch != epoch) {
        return ATS_STEP_GONE;
    }
    ats_port_pri_ask(p, w, req, pages, count);
    return ATS_STEP_WAITING;
}

static ATSStep reach_translated(ATSPort *p, hwaddr iova, hwaddr addr,
                                hwaddr len, ATSReach *r)
{
    if (!pci_ats_translated_allowed(p->dev)) {
        return ats_port_failed(r, ATS_ERROR_NO_ACCESS, iova);
    }
    if (addr <= INTERRUPT_LAST && addr + (MIN(len, ATS_PORT_CHUNK) - 1) >=
                                  INTERRUPT_BASE) {
        return ats_port_failed(r, ATS_ERROR_BUS, iova);
    }
    r->as = &address_space_memory;
    r->attrs = (MemTxAttrs) { .requester_id = pci_requester_id(p->dev) };
    r->addr = addr;
    r->len = len;
    return ATS_STEP_OK;
}

static ATSStep reach_untranslated(ATSPort *p, const PCIATSRequest *req,
                                  hwaddr iova, ATSReach *r)
{
    hwaddr left = ATS_PORT_PAGE_SIZE - iova % ATS_PORT_PAGE_SIZE;
    PCIATSTranslation x = {};

    p->counters.untranslated++;
    if (req->pasid == PCI_ATS_NO_PASID) {
        r->as = pci_get_address_space(p->dev);
        r->attrs = MEMTXATTRS_UNSPECIFIED;
        r->addr = iova;
        r->len = left;
        /* Asked for the first byte alone: one refusal, one fault. */
        if (!address_space_access_valid(r->as, iova, 1, req->write, r->attrs)) {
            return ats_port_failed(r, ATS_ERROR_NO_ACCESS, iova);
        }
        return ATS_STEP_OK;
    }

    if (pci_ats_translate(p->dev, req, iova, &x) || !xlat_permits(req, &x)) {
        return ats_port_failed(r, ATS_ERROR_NO_ACCESS, iova);
    }
    r->addr = x.addr + (iova - x.iova);
    if (r->addr <= INTERRUPT_LAST && r->addr + (left - 1) >= INTERRUPT_BASE) {
        return ats_port_failed(r, ATS_ERROR_BUS, iova);
    }
    r->as = &address_space_memory;
    r->attrs = (MemTxAttrs) { .requester_id = pci_requester_id(p->dev) };
    r->len = left;
    return ATS_STEP_OK;
}

ATSStep ats_port_reach(ATSPort *p, ATSWaiter *w, const PCIATSRequest *req,
                       unsigned flags, hwaddr iova, hwaddr last, ATSReach *r)
{
    uint32_t enables = ats_port_enables(p);
    uint64_t epoch = p->epoch;
    PCIATSTranslation x;
    hwaddr addr, len;
    ATSStep step;
    int ret;

    r->write = req->write;
    if (w->answer) {
        r->write = w->retry_write;
        step = ats_port_failed(r, w->answer, w->retry_page);
        w->answer = ATS_ERROR_NONE;
        w->retry_page = UINT64_MAX;
        return step;
    }
    if (!(enables & ATS_PORT_MASTER) ||
        (req->pasid != PCI_ATS_NO_PASID && !(enables & ATS_PORT_PASID)) ||
        (req->priv && !(enables & ATS_PORT_PASID_PRIV)) ||
        (req->exec && !(enables & ATS_PORT_PASID_EXEC))) {
        return ats_port_failed(r, ATS_ERROR_DISABLED, iova);
    }

    if (!(enables & ATS_PORT_ATS) || (flags & ATS_REACH_NO_ATS)) {
        step = reach_untranslated(p, req, iova, r);
        return p->epoch == epoch ? step : ATS_STEP_GONE;
    }
    if (ats_tlb_find(&p->tlb, req, iova, &addr, &len)) {
        p->counters.tlb_hit++;
        return reach_translated(p, iova, addr, len, r);
    }

    ret = ats_ask(p, req, iova, &x);
    if (p->epoch != epoch) {
        return ATS_STEP_GONE;
    }
    if (ret == -EAGAIN) {
        step = reach_untranslated(p, req, iova, r);
        return p->epoch == epoch ? step : ATS_STEP_GONE;
    }
    if (ret) {
        return ats_port_failed(r, ATS_ERROR_REQUEST, iova);
    }
    if (xlat_permits(req, &x)) {
        hwaddr offset = iova - x.iova;

        return reach_translated(p, iova, x.addr + offset,
                                MIN(x.mask - offset, ATS_PORT_CHUNK - 1) + 1,
                                r);
    }
    if (!(enables & ATS_PORT_PRI) || (flags & ATS_REACH_NO_PRI)) {
        return ats_port_failed(r, ATS_ERROR_NO_ACCESS, iova);
    }
    return reach_by_request(p, w, req, iova, last, r);
}

ATSStep ats_port_transfer(ATSPort *p, ATSReach *r, hwaddr iova, void *data,
                          hwaddr len, bool is_write)
{
    uint64_t epoch = p->epoch;
    MemTxResult ret = address_space_rw(r->as, r->addr, r->attrs, data, len,
                                       is_write);

    if (p->epoch != epoch) {
        return ATS_STEP_GONE;
    }
    return ret == MEMTX_OK ? ATS_STEP_OK
                           : ats_port_failed(r, ATS_ERROR_BUS, iova);
}
