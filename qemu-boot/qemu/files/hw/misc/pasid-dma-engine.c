/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pasid-dma-testdev: the ring and its operations.
 *
 * The life of a slot:
 *
 *   doorbell ─► QUEUED (in runnable) ─► final
 *                 │  ▲
 *                 ▼  │ response, room in the allocation, or time
 *               WAITING (of a group, in stalled or in resting)
 *
 * A bottom half takes the runnable slots in turn and moves a chunk of each, so
 * that neither a long transfer nor a full ring keeps the BQL. Every chunk is
 * translated anew: nothing outlives an invalidation.
 *
 * An access to memory can lead back here (a device may write to the registers
 * of the IOMMU or to configuration space). What it may change is seen by
 * PDTState::epoch, which is compared after each.
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

void pdt_slot_set_status(PDTState *s, PDTSlot *slot, uint32_t status)
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
    QTAILQ_INIT(&s->stalled);
    QTAILQ_INIT(&s->resting);
}

void pdt_engine_reset(PDTState *s)
{
    s->epoch++;
    QTAILQ_INIT(&s->runnable);
    QTAILQ_INIT(&s->stalled);
    QTAILQ_INIT(&s->resting);
    memset(s->slots, 0, sizeof(s->slots));
    memset(s->ring, 0, sizeof(s->ring));
    memset(s->buffer, 0, sizeof(s->buffer));
    s->head = s->tail = s->taken = 0;
}

/* Lets @slot, which waited and is in no list, go on. */
void pdt_engine_wake(PDTState *s, PDTSlot *slot)
{
    pdt_slot_set_status(s, slot, PDT_STATUS_QUEUED);
    QTAILQ_INSERT_TAIL(&s->runnable, slot, next);
    qemu_bh_schedule(s->bh);
}

static void slot_retire(PDTState *s, PDTSlot *slot, uint32_t status,
                        uint64_t result)
{
    uint32_t flags = slot->flags;

    stq_le_p(slot_ring(s, slot) + PDT_DESC_RESULT, result);
    pdt_slot_set_status(s, slot, status);
    (*pdt_counter(s, status == PDT_STATUS_OK ? PDT_CNT_DONE
                                             : PDT_CNT_ERROR))++;
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
    s->epoch++;
    for (unsigned i = 0; i < PDT_PRG_INDICES; i++) {
        s->groups[i].slot = NULL;
    }
    QTAILQ_INIT(&s->runnable);
    QTAILQ_INIT(&s->stalled);
    QTAILQ_INIT(&s->resting);
    for (uint32_t i = s->head; i != s->taken; i = (i + 1) % PDT_SLOTS) {
        if (!status_final(s->slots[i].status)) {
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
    slot->prgi = PDT_NO_GROUP;
    slot->retry_page = UINT64_MAX;

    bad = slot_check(slot);
    if (bad >= 0) {
        slot_retire(s, slot, PDT_STATUS_BAD_DESC, bad);
        return;
    }
    pdt_engine_wake(s, slot);
}

/* Takes the slots that TAIL has passed. */
void pdt_engine_take(PDTState *s)
{
    while (!(s->control & PDT_CONTROL_PAUSE) && s->taken != s->tail) {
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

/* Moves @len bytes; @iova is what an error is reported with. */
static PDTStep transfer(PDTState *s, PDTReach *r, hwaddr iova, void *data,
                        hwaddr len, bool is_write)
{
    uint64_t epoch = s->epoch;
    MemTxResult ret = address_space_rw(r->as, r->addr, r->attrs, data, len,
                                       is_write);

    if (s->epoch != epoch) {
        return PDT_STEP_GONE;
    }
    return ret == MEMTX_OK ? PDT_STEP_OK : pdt_failed(r, PDT_STATUS_BUS, iova);
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

static PDTStep run_fetch_add(PDTState *s, PDTSlot *slot, PDTReach *r)
{
    PCIATSRequest read = slot_request(slot, false);
    PCIATSRequest write = slot_request(slot, true);
    uint64_t *p, was, old;
    ram_addr_t offset;
    hwaddr len = 8;
    PDTStep step;

    read.exec = false;
    step = pdt_reach(s, slot, &read, slot->dst, slot->dst + 7, r);
    if (step != PDT_STEP_OK) {
        return step;
    }
    step = pdt_reach(s, slot, &write, slot->dst, slot->dst + 7, r);
    if (step != PDT_STEP_OK) {
        return step;
    }

    p = address_space_map(r->as, r->addr, &len, true, r->attrs);
    if (!p) {
        return pdt_failed(r, PDT_STATUS_BUS, slot->dst);
    }
    /* What is no RAM is given as a copy, where nothing would be atomic. */
    if (len < 8 || !QEMU_PTR_IS_ALIGNED(p, 8) ||
        !memory_region_from_host(p, &offset)) {
        address_space_unmap(r->as, p, len, true, 0);
        return pdt_failed(r, PDT_STATUS_BUS, slot->dst);
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
    *pdt_counter(s, PDT_CNT_BYTES) += 8;
    return PDT_STEP_OK;
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
static PDTStep run_operation(PDTState *s, PDTSlot *slot, PDTReach *r)
{
    bool from_src = slot->op == PDT_OP_READ || slot->op == PDT_OP_COPY ||
                    slot->op == PDT_OP_CHECKSUM;
    bool to_dst = slot->op == PDT_OP_WRITE || slot->op == PDT_OP_COPY ||
                  slot->op == PDT_OP_FILL;
    PCIATSRequest read = slot_request(slot, false);
    PCIATSRequest write = slot_request(slot, true);
    hwaddr len = MIN(slot->length - slot->done, PDT_CHUNK);
    hwaddr src = slot->src + slot->done, dst = slot->dst + slot->done;
    uint8_t data[PDT_CHUNK];
    PDTReach target;
    PDTStep step;

    if (slot->op == PDT_OP_NOP) {
        return PDT_STEP_OK;
    }
    if (slot->op == PDT_OP_FETCH_ADD) {
        return run_fetch_add(s, slot, r);
    }

    if (to_dst) {
        step = pdt_reach(s, slot, &write, dst, slot->dst + (slot->length - 1),
                         r);
        if (step != PDT_STEP_OK) {
            return step;
        }
        len = MIN(len, r->len);
        target = *r;
    }
    if (from_src) {
        step = pdt_reach(s, slot, &read, src, slot->src + (slot->length - 1),
                         r);
        if (step != PDT_STEP_OK) {
            return step;
        }
        len = MIN(len, r->len);
        step = transfer(s, r, src, data, len, false);
        if (step != PDT_STEP_OK) {
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
        step = transfer(s, &target, dst, data, len, true);
        if (step != PDT_STEP_OK) {
            *r = target;
            return step;
        }
    }
    slot->done += len;
    *pdt_counter(s, PDT_CNT_BYTES) += len;
    return slot->done == slot->length ? PDT_STEP_OK : PDT_STEP_MORE;
}

static PDTStep run_completion(PDTState *s, PDTSlot *slot, PDTReach *r)
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
    PDTReach at;
    PDTStep step;

    if (!(slot->flags & PDT_FLAG_COMPLETION_PASID)) {
        req.pasid = PCI_ATS_NO_PASID;
        req.priv = false;
    }
    step = pdt_reach(s, slot, &req, slot->completion, slot->completion + 15, r);
    if (step != PDT_STEP_OK) {
        return step;
    }
    at = *r;
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        r->addr = at.addr + parts[i].offset;
        smp_wmb();
        step = transfer(s, r, slot->completion, parts[i].data, parts[i].len,
                        true);
        if (step != PDT_STEP_OK) {
            return step;
        }
    }
    return PDT_STEP_OK;
}

/* Runs @slot, which is in no list, for a chunk. */
static void slot_run(PDTState *s, PDTSlot *slot)
{
    bool completing = slot->final;
    PDTReach r = {};
    PDTStep step;

    if (slot->answer) {
        step = pdt_failed(&r, slot->answer, slot->retry_page);
        slot->answer = 0;
    } else if (completing) {
        step = run_completion(s, slot, &r);
    } else {
        step = run_operation(s, slot, &r);
    }

    switch (step) {
    case PDT_STEP_GONE:
    case PDT_STEP_WAITING:
        return;
    case PDT_STEP_MORE:
        QTAILQ_INSERT_TAIL(&s->runnable, slot, next);
        return;
    case PDT_STEP_OK:
    case PDT_STEP_FAILED:
        break;
    }

    if (!completing) {
        slot->final = step == PDT_STEP_OK ? PDT_STATUS_OK : r.status;
        if (step == PDT_STEP_FAILED) {
            slot->result = r.result;
        }
        slot->retry_page = UINT64_MAX;
        if (slot->flags & PDT_FLAG_COMPLETION) {
            QTAILQ_INSERT_TAIL(&s->runnable, slot, next);
            return;
        }
    } else if (step == PDT_STEP_FAILED && slot->final == PDT_STATUS_OK) {
        slot->final = r.status;
        slot->result = slot->completion;
    }
    slot_retire(s, slot, slot->final, slot->result);
}

/* The bottom half. */
void pdt_engine_run(void *opaque)
{
    PDTState *s = opaque;

    for (unsigned i = 0; i < STEPS_PER_RUN; i++) {
        PDTSlot *slot = QTAILQ_FIRST(&s->runnable);

        if (!slot) {
            return;
        }
        QTAILQ_REMOVE(&s->runnable, slot, next);
        slot_run(s, slot);
    }
    if (!QTAILQ_EMPTY(&s->runnable)) {
        qemu_bh_schedule(s->bh);
    }
}
