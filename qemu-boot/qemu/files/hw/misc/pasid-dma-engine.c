/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pasid-dma-testdev: the ring and its operations.
 *
 * The life of a slot:
 *
 *   doorbell ─► QUEUED (in runnable) ─► final
 *                 │  ▲
 *                 ▼  │ response, room in the allocation, or time
 *               WAITING (in the hands of the ATSPort)
 *
 * A bottom half takes the runnable slots in turn and moves a chunk of each, so
 * that neither a long transfer nor a full ring keeps the BQL. Every chunk is
 * translated anew: nothing outlives an invalidation.
 *
 * An access to memory can lead back here (a device may write to the registers
 * of the IOMMU or to configuration space). What it may change is seen by
 * ATSPort::epoch, which is compared after each.
 */
#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "qemu/main-loop.h"
#include "exec/memory.h"
#include "hw/pci/msix.h"
#include "pasid-dma-internal.h"

#define STEPS_PER_RUN   32          /* chunks before the BQL is given up */

#define FLAGS_ALL       (PDT_FLAG_PASID | PDT_FLAG_PRIV | PDT_FLAG_EXEC | \
                         PDT_FLAG_NO_ATS | PDT_FLAG_NO_PRI | PDT_FLAG_IRQ | \
                         PDT_FLAG_COMPLETION | PDT_FLAG_COMPLETION_PASID)
#define FLAGS_OF_PASID  (PDT_FLAG_PRIV | PDT_FLAG_EXEC | \
                         PDT_FLAG_COMPLETION_PASID)

#define FNV_OFFSET      0xcbf29ce484222325ull
#define FNV_PRIME       0x100000001b3ull

#define VECTOR_DONE     0

static unsigned slot_index(PDTState *s, PDTSlot *slot)
{
    return slot - s->slots;
}

static uint8_t *slot_ring(PDTState *s, PDTSlot *slot)
{
    return s->ring + slot_index(s, slot) * PDT_DESC_SIZE;
}

static void slot_set_status(PDTState *s, PDTSlot *slot, uint32_t status)
{
    slot->status = status;
    stl_le_p(slot_ring(s, slot) + PDT_DESC_STATUS, status);
}

static bool status_final(uint32_t status)
{
    return status >= PDT_STATUS_OK;
}

void pdt_engine_init(PDTState *s)
{
    QTAILQ_INIT(&s->runnable);
}

/* After the port's reset, which has forgotten every waiter. */
void pdt_engine_reset(PDTState *s)
{
    QTAILQ_INIT(&s->runnable);
    memset(s->slots, 0, sizeof(s->slots));
    memset(s->ring, 0, sizeof(s->ring));
    memset(s->buffer, 0, sizeof(s->buffer));
    s->head = s->tail = s->taken = 0;
}

/* Unplugged: whatever is on its way ends here. */
void pdt_engine_exit(PDTState *s)
{
    pdt_engine_reset(s);
    qemu_bh_delete(s->bh);
    s->bh = NULL;
}

/* Lets @slot, which is in no list, go on. */
static void slot_queue(PDTState *s, PDTSlot *slot)
{
    slot_set_status(s, slot, PDT_STATUS_QUEUED);
    QTAILQ_INSERT_TAIL(&s->runnable, slot, next);
    qemu_bh_schedule(s->bh);
}

void pdt_engine_woken(ATSPort *p, ATSWaiter *w)
{
    slot_queue(container_of(p, PDTState, port),
               container_of(w, PDTSlot, waiter));
}

/* The interrupt comes last: what it writes to may end or unplug everything. */
static void slot_retire(PDTState *s, PDTSlot *slot, uint32_t status,
                        uint64_t result)
{
    uint32_t flags = slot->flags;

    stq_le_p(slot_ring(s, slot) + PDT_DESC_RESULT, result);
    slot_set_status(s, slot, status);
    if (status == PDT_STATUS_OK) {
        s->done++;
    } else {
        s->errors++;
    }
    while (s->head != s->taken && status_final(s->slots[s->head].status)) {
        s->head = (s->head + 1) % PDT_SLOTS;
    }
    if (status != PDT_STATUS_ABORTED &&
        ((flags & PDT_FLAG_IRQ) || (s->control & PDT_CONTROL_IRQ)) &&
        msix_enabled(PCI_DEVICE(s))) {
        msix_notify(PCI_DEVICE(s), VECTOR_DONE);
    }
}

void pdt_engine_abort(PDTState *s)
{
    s->port.epoch++;
    QTAILQ_INIT(&s->runnable);
    for (uint32_t i = s->head; i != s->taken; i = (i + 1) % PDT_SLOTS) {
        if (!status_final(s->slots[i].status)) {
            ats_port_forget(&s->port, &s->slots[i].waiter);
            slot_retire(s, &s->slots[i], PDT_STATUS_ABORTED, 0);
        }
    }
}

static bool range_wraps(uint64_t first, uint32_t length)
{
    return length && first + (length - 1) < first;
}

/* Returns the offset of the first malformed field, or -1. */
static int slot_check(const PDTSlot *slot)
{
    bool src = slot->op == PDT_OP_READ || slot->op == PDT_OP_COPY ||
               slot->op == PDT_OP_CHECKSUM;
    bool dst = slot->op == PDT_OP_WRITE || slot->op == PDT_OP_COPY ||
               slot->op == PDT_OP_FILL || slot->op == PDT_OP_FETCH_ADD;
    bool buffer = slot->op == PDT_OP_READ || slot->op == PDT_OP_WRITE;

    if (slot->op > PDT_OP_FETCH_ADD) {
        return PDT_DESC_OP;
    }
    if ((slot->flags & ~FLAGS_ALL) ||
        (!(slot->flags & PDT_FLAG_PASID) && (slot->flags & FLAGS_OF_PASID))) {
        return PDT_DESC_FLAGS;
    }
    if (slot->pasid >= (1u << 20) ||
        (!(slot->flags & PDT_FLAG_PASID) && slot->pasid)) {
        return PDT_DESC_PASID;
    }
    if (slot->op == PDT_OP_FETCH_ADD ? slot->length != 8
        : slot->op != PDT_OP_NOP &&
          (!slot->length || slot->length > PDT_LENGTH_MAX)) {
        return PDT_DESC_LENGTH;
    }
    if (src && range_wraps(slot->src, slot->length)) {
        return PDT_DESC_SRC;
    }
    if (dst && (range_wraps(slot->dst, slot->length) ||
                (slot->op == PDT_OP_FETCH_ADD && slot->dst % 8))) {
        return PDT_DESC_DST;
    }
    if (buffer && (slot->length > PDT_BUFFER_SIZE ||
                   slot->operand > PDT_BUFFER_SIZE - slot->length)) {
        return PDT_DESC_OPERAND;
    }
    if ((slot->flags & PDT_FLAG_COMPLETION) && slot->completion % 16) {
        return PDT_DESC_COMPLETION;
    }
    return -1;
}

static void slot_take(PDTState *s, PDTSlot *slot)
{
    const uint8_t *d = slot_ring(s, slot);
    int bad;

    memset(slot, 0, sizeof(*slot));
    slot->op = ldl_le_p(d + PDT_DESC_OP);
    slot->flags = ldl_le_p(d + PDT_DESC_FLAGS);
    slot->pasid = ldl_le_p(d + PDT_DESC_PASID);
    slot->length = ldl_le_p(d + PDT_DESC_LENGTH);
    slot->src = ldq_le_p(d + PDT_DESC_SRC);
    slot->dst = ldq_le_p(d + PDT_DESC_DST);
    slot->operand = ldq_le_p(d + PDT_DESC_OPERAND);
    slot->completion = ldq_le_p(d + PDT_DESC_COMPLETION);
    slot->tag = ldl_le_p(d + PDT_DESC_TAG);
    slot->hash = FNV_OFFSET;
    ats_waiter_init(&slot->waiter);

    bad = slot_check(slot);
    if (bad >= 0) {
        slot_retire(s, slot, PDT_STATUS_BAD_DESC, bad);
        return;
    }
    slot_queue(s, slot);
}

/* Takes the slots that TAIL has passed. */
void pdt_engine_take(PDTState *s)
{
    uint64_t epoch = s->port.epoch;

    while (s->port.epoch == epoch && !(s->control & PDT_CONTROL_PAUSE) &&
           s->taken != s->tail) {
        PDTSlot *slot = &s->slots[s->taken];

        s->taken = (s->taken + 1) % PDT_SLOTS;
        slot_take(s, slot);
    }
}

void pdt_engine_doorbell(PDTState *s, uint32_t tail)
{
    uint32_t now = (s->tail - s->head) % PDT_SLOTS;
    uint32_t then = (tail - s->head) % PDT_SLOTS;

    if (tail >= PDT_SLOTS || then < now) {
        return;
    }
    s->tail = tail;
    pdt_engine_take(s);
}

static uint32_t slot_error(ATSError error)
{
    switch (error) {
    case ATS_ERROR_INVALID:
        return PDT_STATUS_INVALID;
    case ATS_ERROR_FAILURE:
        return PDT_STATUS_FAILURE;
    case ATS_ERROR_BUS:
        return PDT_STATUS_BUS;
    case ATS_ERROR_RETRIES:
        return PDT_STATUS_RETRIES;
    case ATS_ERROR_DISABLED:
        return PDT_STATUS_DISABLED;
    case ATS_ERROR_REQUEST:
        return PDT_STATUS_ATS_ERROR;
    default:
        return PDT_STATUS_NO_ACCESS;
    }
}

/* See ats_port_reach(). */
static ATSStep slot_reach(PDTState *s, PDTSlot *slot, const PCIATSRequest *req,
                          hwaddr iova, hwaddr last, ATSReach *r)
{
    unsigned flags = 0;

    flags |= slot->flags & PDT_FLAG_NO_ATS ? ATS_REACH_NO_ATS : 0;
    flags |= slot->flags & PDT_FLAG_NO_PRI ? ATS_REACH_NO_PRI : 0;
    return ats_port_reach(&s->port, &slot->waiter, req, flags, iova, last, r);
}

static PCIATSRequest slot_request(const PDTSlot *slot, bool write)
{
    return (PCIATSRequest) {
        .pasid = slot->flags & PDT_FLAG_PASID ? slot->pasid : PCI_ATS_NO_PASID,
        .priv = slot->flags & PDT_FLAG_PRIV,
        .exec = !write && (slot->flags & PDT_FLAG_EXEC),
        .write = write,
    };
}

static ATSStep run_fetch_add(PDTState *s, PDTSlot *slot, ATSReach *r)
{
    PCIATSRequest read = slot_request(slot, false);
    PCIATSRequest write = slot_request(slot, true);
    uint64_t *p, was, old;
    ram_addr_t offset;
    hwaddr len = 8;
    ATSStep step;

    read.exec = false;
    step = slot_reach(s, slot, &read, slot->dst, slot->dst + 7, r);
    if (step != ATS_STEP_OK) {
        return step;
    }
    step = slot_reach(s, slot, &write, slot->dst, slot->dst + 7, r);
    if (step != ATS_STEP_OK) {
        return step;
    }

    p = address_space_map(r->as, r->addr, &len, true, r->attrs);
    if (!p) {
        return ats_port_failed(r, ATS_ERROR_BUS, slot->dst);
    }
    /* What is no RAM is given as a copy, where nothing would be atomic. */
    if (len < 8 || !QEMU_PTR_IS_ALIGNED(p, 8) ||
        !memory_region_from_host(p, &offset)) {
        address_space_unmap(r->as, p, len, true, 0);
        return ats_port_failed(r, ATS_ERROR_BUS, slot->dst);
    }
    old = qatomic_read(p);
    do {
        was = old;
        old = qatomic_cmpxchg(p, was,
                              cpu_to_le64(le64_to_cpu(was) + slot->operand));
    } while (old != was);
    address_space_unmap(r->as, p, len, true, 8);

    slot->result = le64_to_cpu(old);
    slot->done = 8;
    s->bytes += 8;
    return ATS_STEP_OK;
}

static void fill_pattern(uint8_t *data, hwaddr len, uint64_t pattern,
                         uint32_t phase)
{
    uint8_t bytes[8];

    stq_le_p(bytes, pattern);
    for (hwaddr i = 0; i < len; i++) {
        data[i] = bytes[(phase + i) % 8];
    }
}

static uint64_t fnv1a(uint64_t hash, const uint8_t *data, hwaddr len)
{
    for (hwaddr i = 0; i < len; i++) {
        hash = (hash ^ data[i]) * FNV_PRIME;
    }
    return hash;
}

/* One chunk of the operation. */
static ATSStep run_operation(PDTState *s, PDTSlot *slot, ATSReach *r)
{
    bool from_src = slot->op == PDT_OP_READ || slot->op == PDT_OP_COPY ||
                    slot->op == PDT_OP_CHECKSUM;
    bool to_dst = slot->op == PDT_OP_WRITE || slot->op == PDT_OP_COPY ||
                  slot->op == PDT_OP_FILL;
    PCIATSRequest read = slot_request(slot, false);
    PCIATSRequest write = slot_request(slot, true);
    hwaddr len = MIN(slot->length - slot->done, ATS_PORT_CHUNK);
    hwaddr src = slot->src + slot->done, dst = slot->dst + slot->done;
    uint8_t data[ATS_PORT_CHUNK];
    ATSReach target;
    ATSStep step;

    if (slot->op == PDT_OP_NOP) {
        return ATS_STEP_OK;
    }
    if (slot->op == PDT_OP_FETCH_ADD) {
        return run_fetch_add(s, slot, r);
    }

    if (to_dst) {
        step = slot_reach(s, slot, &write, dst, slot->dst + (slot->length - 1),
                         r);
        if (step != ATS_STEP_OK) {
            return step;
        }
        len = MIN(len, r->len);
        target = *r;
    }
    if (from_src) {
        step = slot_reach(s, slot, &read, src, slot->src + (slot->length - 1),
                         r);
        if (step != ATS_STEP_OK) {
            return step;
        }
        len = MIN(len, r->len);
        step = ats_port_transfer(&s->port, r, src, data, len, false);
        if (step != ATS_STEP_OK) {
            return step;
        }
    }

    switch (slot->op) {
    case PDT_OP_READ:
        memcpy(s->buffer + slot->operand + slot->done, data, len);
        break;
    case PDT_OP_WRITE:
        memcpy(data, s->buffer + slot->operand + slot->done, len);
        break;
    case PDT_OP_FILL:
        fill_pattern(data, len, slot->operand, slot->done % 8);
        break;
    case PDT_OP_CHECKSUM:
        slot->hash = fnv1a(slot->hash, data, len);
        slot->result = slot->hash;
        break;
    }

    if (to_dst) {
        step = ats_port_transfer(&s->port, &target, dst, data, len, true);
        if (step != ATS_STEP_OK) {
            *r = target;
            return step;
        }
    }
    slot->done += len;
    s->bytes += len;
    return slot->done == slot->length ? ATS_STEP_OK : ATS_STEP_MORE;
}

static ATSStep run_completion(PDTState *s, PDTSlot *slot, ATSReach *r)
{
    PCIATSRequest req = slot_request(slot, true);
    uint64_t result = cpu_to_le64(slot->result);
    uint32_t tag = cpu_to_le32(slot->tag);
    uint32_t status = cpu_to_le32(slot->final);
    const struct {
        unsigned offset, len;
        void *data;
    } parts[] = {
        { PDT_CPL_RESULT, 8, &result },
        { PDT_CPL_TAG, 4, &tag },
        { PDT_CPL_STATUS, 4, &status },
    };
    ATSReach at;
    ATSStep step;

    if (!(slot->flags & PDT_FLAG_COMPLETION_PASID)) {
        req.pasid = PCI_ATS_NO_PASID;
        req.priv = false;
    }
    step = slot_reach(s, slot, &req, slot->completion, slot->completion + 15,
                      r);
    if (step != ATS_STEP_OK) {
        return step;
    }
    at = *r;
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        r->addr = at.addr + parts[i].offset;
        smp_wmb();
        step = ats_port_transfer(&s->port, r, slot->completion, parts[i].data,
                                 parts[i].len, true);
        if (step != ATS_STEP_OK) {
            return step;
        }
    }
    return ATS_STEP_OK;
}

/* Runs @slot, which is in no list, for a chunk. */
static void slot_run(PDTState *s, PDTSlot *slot)
{
    bool completing = slot->final;
    ATSReach r = {};
    ATSStep step;

    if (completing) {
        step = run_completion(s, slot, &r);
    } else {
        step = run_operation(s, slot, &r);
    }

    switch (step) {
    case ATS_STEP_GONE:
        return;
    case ATS_STEP_WAITING:
        /* Unless it has been woken already. */
        if (slot->waiter.state != ATS_WAITER_IDLE) {
            slot_set_status(s, slot, PDT_STATUS_WAITING);
        }
        return;
    case ATS_STEP_MORE:
        QTAILQ_INSERT_TAIL(&s->runnable, slot, next);
        return;
    case ATS_STEP_OK:
    case ATS_STEP_FAILED:
        break;
    }

    if (!completing) {
        slot->final = step == ATS_STEP_OK ? PDT_STATUS_OK : slot_error(r.error);
        if (step == ATS_STEP_FAILED) {
            slot->result = r.iova;
        }
        slot->waiter.retry_page = UINT64_MAX;
        if (slot->flags & PDT_FLAG_COMPLETION) {
            QTAILQ_INSERT_TAIL(&s->runnable, slot, next);
            return;
        }
    } else if (step == ATS_STEP_FAILED && slot->final == PDT_STATUS_OK) {
        slot->final = slot_error(r.error);
        slot->result = slot->completion;
    }
    slot_retire(s, slot, slot->final, slot->result);
}

/* The bottom half. Scheduled again when the machine goes on. */
void pdt_engine_run(void *opaque)
{
    PDTState *s = opaque;

    if (!runstate_is_running()) {
        return;
    }
    object_ref(OBJECT(s));
    for (unsigned i = 0; i < STEPS_PER_RUN; i++) {
        PDTSlot *slot = QTAILQ_FIRST(&s->runnable);

        if (!slot) {
            break;
        }
        QTAILQ_REMOVE(&s->runnable, slot, next);
        slot_run(s, slot);
    }
    if (!QTAILQ_EMPTY(&s->runnable)) {
        qemu_bh_schedule(s->bh);
    }
    object_unref(OBJECT(s));
}
