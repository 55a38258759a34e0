/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Page requests of an ATSPort and their answers (PCIe 6.0, 10.4).
 *
 * A group index is in use from its first request to its response. Indices are
 * given in rotation, across function-level resets too, so that a response that
 * comes late meets no younger group of the same number. Requests without an
 * answer never exceed Outstanding Page Request Allocation.
 */
#include "qemu/osdep.h"
#include "hw/pci/pci_regs.h"
#include "hw/pci/ats_port.h"

static uint16_t pri_control(ATSPort *p)
{
    return pci_get_word(p->dev->config + p->config.pri_cap + PCI_PRI_CTRL);
}

static void pri_status_set(ATSPort *p, uint16_t bits)
{
    uint8_t *status = p->dev->config + p->config.pri_cap + PCI_PRI_STATUS;

    pci_set_word(status, pci_get_word(status) | bits);
}

/* Stopped: page requests are off, and none waits for its answer (10.5.2.3). */
static void pri_update_stopped(ATSPort *p)
{
    uint8_t *status = p->dev->config + p->config.pri_cap + PCI_PRI_STATUS;
    uint16_t value = pci_get_word(status) & ~PCI_PRI_STATUS_STOPPED;

    if (!ats_port_pri_on(p) && !p->outstanding) {
        value |= PCI_PRI_STATUS_STOPPED;
    }
    pci_set_word(status, value);
}

bool ats_port_pri_on(ATSPort *p)
{
    return pri_control(p) & PCI_PRI_CTRL_ENABLE;
}

/* How many page requests may be outstanding. */
uint32_t ats_port_pri_allocation(ATSPort *p)
{
    uint32_t allowed = pci_get_long(p->dev->config + p->config.pri_cap +
                                    PCI_PRI_ALLOC_REQ);

    return MIN(allowed, p->config.pri_capacity);
}

bool ats_port_pri_failed(ATSPort *p)
{
    return pci_get_word(p->dev->config + p->config.pri_cap + PCI_PRI_STATUS) &
           PCI_PRI_STATUS_RF;
}

/* How many more page requests may be sent now. */
uint32_t ats_port_pri_room(ATSPort *p)
{
    uint32_t allowed = ats_port_pri_allocation(p);

    return allowed > p->outstanding ? allowed - p->outstanding : 0;
}

static void pri_account(ATSPort *p, ATSGroup *g)
{
    g->requests++;
    p->outstanding++;
    p->counters.peak = MAX(p->counters.peak, p->outstanding);
}

static ATSWaiter *pri_group_end(ATSPort *p, ATSGroup *g)
{
    ATSWaiter *w = g->waiter;

    p->outstanding -= g->requests;
    memset(g, 0, sizeof(*g));
    if (w) {
        w->state = ATS_WAITER_IDLE;
    }
    return w;
}

static ATSGroup *pri_group_new(ATSPort *p)
{
    for (unsigned i = 0; i < ATS_PORT_GROUPS; i++) {
        ATSGroup *g = &p->groups[(p->next_prgi + i) % ATS_PORT_GROUPS];

        if (!g->used) {
            p->next_prgi = (g - p->groups + 1) % ATS_PORT_GROUPS;
            g->used = true;
            g->serial = ++p->group_serial;
            return g;
        }
    }
    return NULL;
}

/* Whoever waited for the allocation may try again. */
static void pri_wake_stalled(ATSPort *p)
{
    ATSWaiter *w;

    while ((w = QTAILQ_FIRST(&p->stalled))) {
        QTAILQ_REMOVE(&p->stalled, w, next);
        w->state = ATS_WAITER_IDLE;
        p->ops->wake(p, w);
    }
}

/*
 * Asks for @count @pages with the rights of @req and lets @w wait for the
 * answer. It may be woken before this returns.
 */
void ats_port_pri_ask(ATSPort *p, ATSWaiter *w, const PCIATSRequest *req,
                      const uint64_t *pages, unsigned count)
{
    ATSGroup *g;
    uint64_t serial;

    count = MIN(count, ats_port_pri_room(p));
    g = count ? pri_group_new(p) : NULL;
    if (!g) {
        p->counters.stalls++;
        w->state = ATS_WAITER_STALLED;
        QTAILQ_INSERT_TAIL(&p->stalled, w, next);
        return;
    }
    w->state = ATS_WAITER_GROUP;
    w->retries++;
    w->rested = false;
    w->retry_write = req->write;
    serial = g->serial;
    g->pasid = req->pasid;
    g->waiter = w;
    w->prgi = g - p->groups;
    for (unsigned i = 0; i < count; i++) {
        pri_account(p, g);
    }
    p->counters.groups++;

    for (unsigned i = 0; i < count; i++) {
        PCIATSPageRequest pr = {
            .pasid = req->pasid,
            .addr = pages[i],
            .prgi = g - p->groups,
            .priv = req->priv,
            .exec = req->exec,
            .read = true,
            .write = req->write,
            .last = i + 1 == count,
        };
        int ret;

        p->counters.page_requests++;
        ret = pci_ats_page_request(p->dev, &pr);
        if (!g->used || g->serial != serial) {
            return;
        }
        if (ret) {
            pri_group_end(p, g);
            w->answer = ATS_ERROR_FAILURE;
            p->ops->wake(p, w);
            pri_wake_stalled(p);
            return;
        }
    }
}

ATSRaw ats_port_raw(ATSPort *p, const PCIATSPageRequest *pr, bool rogue)
{
    uint32_t enables = ats_port_enables(p);
    ATSGroup *g = &p->groups[pr->prgi % ATS_PORT_GROUPS];

    if (!(enables & ATS_PORT_MASTER) || !(enables & ATS_PORT_PRI) ||
        (pr->pasid != PCI_ATS_NO_PASID && !(enables & ATS_PORT_PASID))) {
        return ATS_RAW_DISABLED;
    }
    if (!rogue) {
        if (g->used && (!g->raw || g->pasid != pr->pasid)) {
            return ATS_RAW_GROUP_BUSY;
        }
        if (!ats_port_pri_room(p)) {
            return ATS_RAW_NO_CREDIT;
        }
        if (!g->used) {
            g->used = true;
            g->raw = true;
            g->pasid = pr->pasid;
            g->serial = ++p->group_serial;
            p->counters.groups++;
        }
        pri_account(p, g);
    }
    p->counters.page_requests++;
    if (!pci_ats_page_request(p->dev, pr)) {
        return ATS_RAW_SENT;
    }
    if (!rogue && g->used && g->raw) {
        pri_group_end(p, g);
    }
    return ATS_RAW_REFUSED;
}

/* Ends every group as if the answer had been "failure". */
static void pri_end_all(ATSPort *p)
{
    for (unsigned i = 0; i < ATS_PORT_GROUPS; i++) {
        ATSWaiter *w;

        if (!p->groups[i].used) {
            continue;
        }
        w = pri_group_end(p, &p->groups[i]);
        if (w) {
            w->answer = ATS_ERROR_FAILURE;
            p->ops->wake(p, w);
        }
    }
}

/* A page request group response (10.4.2). */
void ats_port_pri_response(ATSPort *p, uint32_t pasid, uint16_t prgi,
                           unsigned code)
{
    ATSGroup *g = &p->groups[prgi % ATS_PORT_GROUPS];
    bool failed = false;
    ATSWaiter *w;

    if (prgi >= ATS_PORT_GROUPS || !g->used || g->pasid != pasid) {
        p->counters.stray++;
        pri_status_set(p, PCI_PRI_STATUS_UPRGI);
        return;
    }

    w = pri_group_end(p, g);
    switch (code) {
    case PCI_PRI_SUCCESS:
        p->counters.success++;
        break;
    case PCI_PRI_INVALID:
        p->counters.invalid++;
        if (w) {
            w->answer = ATS_ERROR_INVALID;
        }
        break;
    default:
        /*
         * Failure, and codes without a meaning count as it (table 10-11): the
         * interface is off until software enables it anew.
         */
        p->counters.failure++;
        if (w) {
            w->answer = ATS_ERROR_FAILURE;
        }
        pri_status_set(p, PCI_PRI_STATUS_RF);
        pci_set_word(p->dev->config + p->config.pri_cap + PCI_PRI_CTRL,
                     pri_control(p) & ~PCI_PRI_CTRL_ENABLE);
        pri_end_all(p);
        failed = true;
        break;
    }
    if (w) {
        p->ops->wake(p, w);
    }
    pri_wake_stalled(p);
    pri_update_stopped(p);
    /* Last: an interrupt may end the device. */
    if (failed && p->ops->response_failure) {
        p->ops->response_failure(p);
    }
}

/* PRI Control or Status was written. */
void ats_port_pri_control_written(ATSPort *p)
{
    uint8_t *control = p->dev->config + p->config.pri_cap + PCI_PRI_CTRL;
    uint16_t value = pci_get_word(control);

    if (value & PCI_PRI_CTRL_RESET) {
        if (!(value & PCI_PRI_CTRL_ENABLE)) {
            pri_end_all(p);
        }
        pci_set_word(control, value & ~PCI_PRI_CTRL_RESET);
    }
    pri_wake_stalled(p);
    pri_update_stopped(p);
}

/* Function-level reset; next_prgi and group_serial go on (see the top). */
void ats_port_pri_reset(ATSPort *p)
{
    PCIDevice *dev = p->dev;

    memset(p->groups, 0, sizeof(p->groups));
    p->outstanding = 0;
    pci_set_word(dev->config + p->config.pri_cap + PCI_PRI_CTRL, 0);
    pci_set_word(dev->config + p->config.pri_cap + PCI_PRI_STATUS,
                 PCI_PRI_STATUS_PASID | PCI_PRI_STATUS_STOPPED);
    pci_set_long(dev->config + p->config.pri_cap + PCI_PRI_ALLOC_REQ, 0);
}
