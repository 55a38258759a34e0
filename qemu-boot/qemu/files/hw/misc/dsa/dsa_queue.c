/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: who runs when.
 *
 * A group takes descriptors from its work queues in turn, as often in a round
 * as their priority says, as long as its engines have room. A bottom half gives
 * each descriptor that can run a chunk in turn, so that neither a long transfer
 * nor a full queue keeps the BQL. Every chunk is translated anew: nothing
 * outlives an invalidation.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "hw/pci/msix.h"
#include "dsa.h"

#define STEPS_PER_RUN   32      /* chunks before the BQL is given up */

void dsa_queue_init(DSAState *s)
{
    QTAILQ_INIT(&s->ready);
    QTAILQ_INIT(&s->in_flight);
    for (unsigned i = 0; i < DSA_WQS; i++) {
        QTAILQ_INIT(&s->wqs[i].queue);
    }
}

static void work_ready(DSAState *s, DSAWork *w)
{
    w->state = DSA_WORK_READY;
    w->draining = false;
    QTAILQ_INSERT_TAIL(&s->ready, w, next);
    qemu_bh_schedule(s->bh);
}

void dsa_queue_woken(ATSPort *p, ATSWaiter *waiter)
{
    DSAWork *w = container_of(waiter, DSAWork, waiter);

    if (w->state == DSA_WORK_RUNNING) {
        /* Woken before it is parked: work_step() sees the idle waiter. */
        return;
    }
    work_ready(container_of(p, DSAState, port), w);
}

/* A descriptor came for @wq. */
void dsa_queue_submit(DSAState *s, unsigned wq, bool ims, const uint8_t *desc)
{
    DSAWorkQueue *q = &s->wqs[wq];
    const uint32_t *c = q->config;
    DSAWork *w;

    if (!q->enabled || q->closing) {
        return;
    }
    if (q->queued >= DSA_WQ_SIZE(c)) {
        dsa_swerr_wq_full(s, wq);
        return;
    }
    w = g_new0(DSAWork, 1);
    dsa_descriptor_parse(desc, &w->desc);
    w->wq = wq;
    w->ims = ims;
    w->has_pasid = c[2] & DSA_WQ_PASID_ENABLE;
    w->pasid = w->has_pasid ? DSA_WQ_PASID(c) : 0;
    w->priv = w->has_pasid && (c[2] & DSA_WQ_PRIV);
    w->state = DSA_WORK_QUEUED;
    ats_waiter_init(&w->waiter);
    QTAILQ_INSERT_TAIL(&q->queue, w, next);
    q->queued++;
    qemu_bh_schedule(s->bh);
}

/* Not a child: a batch in a batch is refused. */
static bool is_batch(const DSAWork *w)
{
    return w->desc.opcode == DSA_OP_BATCH && !w->batch;
}

/* Takes @w out of whatever holds it. */
static void work_free(DSAState *s, DSAWork *w)
{
    ats_port_forget(&s->port, &w->waiter);
    switch (w->state) {
    case DSA_WORK_QUEUED:
        QTAILQ_REMOVE(&s->wqs[w->wq].queue, w, next);
        s->wqs[w->wq].queued--;
        break;
    case DSA_WORK_READY:
        QTAILQ_REMOVE(&s->ready, w, next);
        /* fall through */
    default:
        QTAILQ_REMOVE(&s->in_flight, w, in_flight);
        if (is_batch(w)) {
            clear_bit(w->id, s->batch_ids);
        }
        if (!w->batch) {
            int group = dsa_group_of(s, w->wq);

            if (group >= 0) {
                s->groups[group].in_flight--;
            }
        }
        break;
    }
    g_free(w);
}

static bool work_matches(const DSAWork *w, uint32_t wqs, const uint32_t *pasid)
{
    return (wqs & (1u << w->wq)) &&
           (!pasid || (w->has_pasid && w->pasid == *pasid));
}

/*
 * Ends the descriptors of @wqs, of @pasid if it is given, without a word. What
 * runs sees it by the epoch.
 */
void dsa_queue_abort(DSAState *s, uint32_t wqs, const uint32_t *pasid)
{
    DSAWork *w, *following;

    s->port.epoch++;
    QTAILQ_FOREACH_SAFE(w, &s->in_flight, in_flight, following) {
        if (work_matches(w, wqs, pasid)) {
            work_free(s, w);
        }
    }
    for (unsigned i = 0; i < DSA_WQS; i++) {
        QTAILQ_FOREACH_SAFE(w, &s->wqs[i].queue, next, following) {
            if (work_matches(w, wqs, pasid)) {
                work_free(s, w);
            }
        }
    }
}

/* Whether no such descriptor is queued or running. */
bool dsa_queue_idle(DSAState *s, uint32_t wqs, const uint32_t *pasid)
{
    DSAWork *w;

    QTAILQ_FOREACH(w, &s->in_flight, in_flight) {
        if (work_matches(w, wqs, pasid)) {
            return false;
        }
    }
    for (unsigned i = 0; i < DSA_WQS; i++) {
        QTAILQ_FOREACH(w, &s->wqs[i].queue, next) {
            if (work_matches(w, wqs, pasid)) {
                return false;
            }
        }
    }
    return true;
}

/* Dispatch */

/* A work queue of @g that has something, or -1. */
static int group_next(DSAState *s, DSAGroup *g)
{
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < DSA_WQS; i++) {
            DSAWorkQueue *q = &s->wqs[i];

            if ((g->wqs[0] & (1ull << i)) && !QTAILQ_EMPTY(&q->queue) &&
                q->credit) {
                q->credit--;
                return i;
            }
        }
        for (unsigned i = 0; i < DSA_WQS; i++) {
            if (g->wqs[0] & (1ull << i)) {
                s->wqs[i].credit = MAX(1, DSA_WQ_PRIORITY(s->wqs[i].config));
            }
        }
    }
    return -1;
}

/* A group's engines bound the batches in flight: there is a free one. */
QEMU_BUILD_BUG_ON(DSA_ENGINES * DSA_ENGINE_DEPTH >= DSA_BATCH_IDS);

static uint8_t batch_id_take(DSAState *s)
{
    uint8_t id;

    do {
        id = s->next_batch_id++;
    } while (test_and_set_bit(id, s->batch_ids));
    return id;
}

static void in_flight_add(DSAState *s, DSAWork *w)
{
    if (is_batch(w)) {
        w->id = batch_id_take(s);
    }
    w->number = ++s->dispatched;
    QTAILQ_INSERT_TAIL(&s->in_flight, w, in_flight);
    work_ready(s, w);
}

static void dispatch(DSAState *s)
{
    for (unsigned i = 0; i < DSA_GROUPS; i++) {
        DSAGroup *g = &s->groups[i];
        unsigned room = ctpop64(g->engines) * DSA_ENGINE_DEPTH;

        while (g->in_flight < room) {
            int wq = group_next(s, g);
            DSAWork *w;

            if (wq < 0) {
                break;
            }
            w = QTAILQ_FIRST(&s->wqs[wq].queue);
            QTAILQ_REMOVE(&s->wqs[wq].queue, w, next);
            s->wqs[wq].queued--;
            g->in_flight++;
            in_flight_add(s, w);
        }
    }
}

/*
 * Drains. A drain waits for what was dispatched before it from its work queue,
 * and what a batch or a child of one waits for is no drain (a batch cannot have
 * one, 3.12): nobody waits in a circle.
 */

static bool drained(DSAState *s, const DSAWork *drain)
{
    DSAWork *w;

    QTAILQ_FOREACH(w, &s->in_flight, in_flight) {
        if (w->wq == drain->wq && w->number < drain->number) {
            return false;
        }
    }
    return true;
}

static void drains_look(DSAState *s)
{
    DSAWork *w;

    QTAILQ_FOREACH(w, &s->in_flight, in_flight) {
        if (w->draining && drained(s, w)) {
            work_ready(s, w);
        }
    }
}

/* Batches */

static void batch_wake(DSAState *s, DSAWork *batch)
{
    if (batch->state == DSA_WORK_PARKED &&
        batch->waiter.state == ATS_WAITER_IDLE) {
        work_ready(s, batch);
    }
}

static void batch_child_ended(DSAState *s, DSAWork *batch, uint8_t status)
{
    batch->running--;
    batch->completed++;
    batch->failed |= status != DSA_SUCCESS;
    batch_wake(s, batch);
}

/* What a failed access is to a descriptor. */
static uint8_t failed_status(const ATSReach *r, uint8_t fault, uint8_t refused)
{
    switch (r->error) {
    case ATS_ERROR_BUS:
    case ATS_ERROR_DISABLED:
        return DSA_HW_ERROR;
    case ATS_ERROR_REQUEST:
    case ATS_ERROR_FAILURE:
        return DSA_TRANSLATION_FAILED;
    case ATS_ERROR_INVALID:
    case ATS_ERROR_RETRIES:
        return refused;
    default:
        return fault;
    }
}

/* Starts what may start; ATS_STEP_WAITING: a child will wake it. */
static ATSStep batch_step(DSAState *s, DSAWork *w, ATSReach *r)
{
    while (!w->fetch_status && w->index < w->desc.size &&
           w->running < DSA_BATCH_DEPTH) {
        hwaddr at = w->desc.src + (hwaddr)w->index * DSA_DESC_SIZE;
        uint8_t raw[DSA_DESC_SIZE];
        DSAWork *child;
        ATSStep step;

        step = dsa_read(s, w, at, raw, sizeof(raw), r);
        if (step == ATS_STEP_FAILED) {
            /* What is running ends first. */
            w->fault_addr = r->iova;
            w->fetch_status = failed_status(r, DSA_BATCH_PAGE_FAULT,
                                            DSA_BATCH_PAGE_FAULT);
            break;
        }
        if (step != ATS_STEP_OK) {
            return step;
        }
        child = g_new0(DSAWork, 1);
        dsa_descriptor_parse(raw, &child->desc);
        if ((child->desc.flags & DSA_FLAG_FENCE) && (w->running || w->failed)) {
            g_free(child);
            if (w->running) {
                return ATS_STEP_WAITING;
            }
            /* It and all after it are abandoned. */
            w->index = w->desc.size;
            break;
        }
        child->wq = w->wq;
        child->ims = w->ims;
        child->has_pasid = w->has_pasid;
        child->pasid = w->pasid;
        child->priv = w->priv;
        child->batch = w;
        child->index = w->index++;
        ats_waiter_init(&child->waiter);
        w->running++;
        in_flight_add(s, child);
    }
    if (w->running) {
        return ATS_STEP_WAITING;
    }
    if (w->index < w->desc.size && !w->fetch_status) {
        return ATS_STEP_MORE;
    }
    w->completed_bytes = w->completed;
    w->status = w->fetch_status ? w->fetch_status
                : w->failed ? DSA_BATCH_FAILED : DSA_SUCCESS;
    return ATS_STEP_OK;
}

/* Steps */

/* @w has its status, and its record is written. */
static void work_end(DSAState *s, DSAWork *w)
{
    PCIDevice *dev = PCI_DEVICE(s);
    unsigned vector = w->desc.int_handle;
    bool interrupt = w->interrupt &&
                     !(s->msix_perm[vector] & DSA_MSIX_PERM_IGNORE);
    uint64_t epoch = s->port.epoch;

    if (w->batch) {
        batch_child_ended(s, w->batch, w->status);
    }
    work_free(s, w);
    drains_look(s);
    if (interrupt && msix_enabled(dev)) {
        msix_notify(dev, vector);
        if (s->port.epoch != epoch) {
            return;
        }
    }
    dsa_command_look(s);
}

/* What a failed access makes of @w. */
static void work_failed(DSAWork *w, const ATSReach *r)
{
    w->status = failed_status(r, DSA_PAGE_FAULT, DSA_PAGE_FAULT_REFUSED);
    w->fault_addr = r->iova;
    w->completed_bytes = w->done;
    if (w->status == DSA_PAGE_FAULT || w->status == DSA_PAGE_FAULT_REFUSED) {
        w->status |= r->write ? DSA_STATUS_WRITE : 0;
        dsa_operation_partial(w);
    }
}

/* One chunk of @w, which is in no list. */
static void work_step(DSAState *s, DSAWork *w)
{
    ATSReach r = {};
    ATSStep step = ATS_STEP_OK;

    w->state = DSA_WORK_RUNNING;
    if (!w->status) {
        if (!w->checked) {
            w->checked = true;
            w->status = dsa_descriptor_check(s, w);
        }
    }
    if (!w->status) {
        switch (w->desc.opcode) {
        case DSA_OP_BATCH:
            step = batch_step(s, w, &r);
            break;
        case DSA_OP_DRAIN:
            if (!drained(s, w)) {
                w->draining = true;
                w->state = DSA_WORK_PARKED;
                return;
            }
            w->status = DSA_SUCCESS;
            break;
        default:
            step = dsa_operation_step(s, w, &r);
            break;
        }
        if (step == ATS_STEP_FAILED) {
            work_failed(w, &r);
            step = ATS_STEP_MORE;
        } else if (step == ATS_STEP_OK) {
            step = ATS_STEP_MORE;       /* for the record */
        }
    } else {
        step = dsa_completion_record(s, w, &r);
    }

    switch (step) {
    case ATS_STEP_GONE:
        return;
    case ATS_STEP_WAITING:
        w->state = DSA_WORK_PARKED;
        if (w->desc.opcode == DSA_OP_BATCH && !w->status && w->running) {
            return;
        }
        if (w->waiter.state == ATS_WAITER_IDLE) {
            work_ready(s, w);
        }
        return;
    case ATS_STEP_MORE:
        work_ready(s, w);
        return;
    default:
        work_end(s, w);
        return;
    }
}

/* The bottom half. Scheduled again when the machine goes on. */
void dsa_queue_run(void *opaque)
{
    DSAState *s = opaque;

    if (!runstate_is_running()) {
        return;
    }
    object_ref(OBJECT(s));
    for (unsigned i = 0; i < STEPS_PER_RUN; i++) {
        DSAWork *w;

        dispatch(s);
        w = QTAILQ_FIRST(&s->ready);
        if (!w) {
            break;
        }
        QTAILQ_REMOVE(&s->ready, w, next);
        work_step(s, w);
    }
    if (!QTAILQ_EMPTY(&s->ready)) {
        qemu_bh_schedule(s->bh);
    }
    object_unref(OBJECT(s));
}
