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

#define CHUNK           4096u       /* bytes of a slot at a time */
#define STEPS_PER_RUN   32          /* chunks before the BQL is given up */
#define PAGES_AHEAD     64          /* looked at to fill a group */

/*
 * A page that is still missing after "success" is asked for again, later each
 * time: an IOMMU whose queue is full answers so at once (VT-d 4.1, 7.4.1).
 */
#define REST_NS         SCALE_MS
#define REST_DOUBLINGS  7

#define FLAGS_ALL       (PDT_FLAG_PASID | PDT_FLAG_PRIV | PDT_FLAG_EXEC | \
                         PDT_FLAG_NO_ATS | PDT_FLAG_NO_PRI | PDT_FLAG_IRQ | \
                         PDT_FLAG_COMPLETION | PDT_FLAG_COMPLETION_PASID)
#define FLAGS_OF_PASID  (PDT_FLAG_PRIV | PDT_FLAG_EXEC | \
                         PDT_FLAG_COMPLETION_PASID)

#define FNV_OFFSET      0xcbf29ce484222325ull
#define FNV_PRIME       0x100000001b3ull

#define VECTOR_DONE     0

/* Writes here are interrupts; a translated request may not (VT-d 4.1, 3.14) */
#define INTERRUPT_BASE  0xfee00000ull
#define INTERRUPT_LAST  0xfeefffffull

typedef enum Step {
    STEP_MORE,          /* the slot is to be run again */
    STEP_OK,            /* the operation, or the completion, is done */
    STEP_FAILED,        /* Reach::status and Reach::result say why */
    STEP_WAITING,       /* the slot is in the hands of somebody else */
    STEP_GONE,          /* reset or abort came in between */
} Step;

/* Where an address of the slot leads to. */
typedef struct Reach {
    AddressSpace *as;
    MemTxAttrs attrs;
    hwaddr addr;
    hwaddr len;
    uint32_t status;
    uint64_t result;
} Reach;

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
    slot_set_status(s, slot, PDT_STATUS_QUEUED);
    QTAILQ_INSERT_TAIL(&s->runnable, slot, next);
    qemu_bh_schedule(s->bh);
}

static void slot_retire(PDTState *s, PDTSlot *slot, uint32_t status,
                        uint64_t result)
{
    uint32_t flags = slot->flags;

    stq_le_p(slot_ring(s, slot) + PDT_DESC_RESULT, result);
    slot_set_status(s, slot, status);
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

static Step failed(Reach *r, uint32_t status, uint64_t result)
{
    r->status = status;
    r->result = result;
    return STEP_FAILED;
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
void pdt_engine_rested(void *opaque)
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
static Step reach_by_request(PDTState *s, PDTSlot *slot,
                             const PCIATSRequest *req, hwaddr iova,
                             hwaddr last, Reach *r)
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
        return failed(r, PDT_STATUS_RETRIES, iova);
    }
    if (slot->retries && !slot->rested) {
        slot_set_status(s, slot, PDT_STATUS_WAITING);
        slot_rest(s, slot);
        return STEP_WAITING;
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
        return STEP_GONE;
    }
    slot_set_status(s, slot, PDT_STATUS_WAITING);
    pdt_pri_ask(s, slot, req, pages, count);
    return STEP_WAITING;
}

static Step reach_translated(PDTState *s, hwaddr iova, hwaddr addr, hwaddr len,
                             Reach *r)
{
    if (!pci_ats_translated_allowed(PCI_DEVICE(s))) {
        return failed(r, PDT_STATUS_NO_ACCESS, iova);
    }
    if (addr <= INTERRUPT_LAST && addr + (MIN(len, CHUNK) - 1) >=
                                  INTERRUPT_BASE) {
        return failed(r, PDT_STATUS_BUS, iova);
    }
    r->as = &address_space_memory;
    r->attrs = (MemTxAttrs) { .requester_id = pci_requester_id(PCI_DEVICE(s)) };
    r->addr = addr;
    r->len = len;
    return STEP_OK;
}

static Step reach_untranslated(PDTState *s, const PCIATSRequest *req,
                               hwaddr iova, Reach *r)
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
            return failed(r, PDT_STATUS_NO_ACCESS, iova);
        }
        return STEP_OK;
    }

    if (pci_ats_translate(PCI_DEVICE(s), req, iova, &x) ||
        !xlat_permits(req, &x)) {
        return failed(r, PDT_STATUS_NO_ACCESS, iova);
    }
    r->addr = x.addr + (iova - x.iova);
    if (r->addr <= INTERRUPT_LAST && r->addr + (left - 1) >= INTERRUPT_BASE) {
        return failed(r, PDT_STATUS_BUS, iova);
    }
    r->as = &address_space_memory;
    r->attrs = (MemTxAttrs) { .requester_id = pci_requester_id(PCI_DEVICE(s)) };
    r->len = left;
    return STEP_OK;
}

/*
 * Finds the memory behind @iova, the next address of a transfer that ends at
 * @last. STEP_OK: *r leads to r->len bytes of it.
 */
static Step reach(PDTState *s, PDTSlot *slot, const PCIATSRequest *req,
                  hwaddr iova, hwaddr last, Reach *r)
{
    uint32_t enables = pdt_enables(s);
    uint64_t epoch = s->epoch;
    PCIATSTranslation x;
    hwaddr addr, len;
    Step step;
    int ret;

    if (!(enables & PDT_ENABLE_MASTER) ||
        (req->pasid != PCI_ATS_NO_PASID && !(enables & PDT_ENABLE_PASID)) ||
        (req->priv && !(enables & PDT_ENABLE_PASID_PRIV)) ||
        (req->exec && !(enables & PDT_ENABLE_PASID_EXEC))) {
        return failed(r, PDT_STATUS_DISABLED, iova);
    }

    if (!(enables & PDT_ENABLE_ATS) || (slot->flags & PDT_FLAG_NO_ATS)) {
        step = reach_untranslated(s, req, iova, r);
        return s->epoch == epoch ? step : STEP_GONE;
    }
    if (pdt_tlb_find(&s->tlb, req, iova, &addr, &len)) {
        (*pdt_counter(s, PDT_CNT_DTLB_HIT))++;
        return reach_translated(s, iova, addr, len, r);
    }

    ret = ats_ask(s, req, iova, &x);
    if (s->epoch != epoch) {
        return STEP_GONE;
    }
    if (ret == -EAGAIN) {
        step = reach_untranslated(s, req, iova, r);
        return s->epoch == epoch ? step : STEP_GONE;
    }
    if (ret) {
        return failed(r, PDT_STATUS_ATS_ERROR, iova);
    }
    if (xlat_permits(req, &x)) {
        hwaddr offset = iova - x.iova;

        return reach_translated(s, iova, x.addr + offset,
                                MIN(x.mask - offset, CHUNK - 1) + 1, r);
    }
    if (!(enables & PDT_ENABLE_PRI) || (slot->flags & PDT_FLAG_NO_PRI)) {
        return failed(r, PDT_STATUS_NO_ACCESS, iova);
    }
    return reach_by_request(s, slot, req, iova, last, r);
}

/* Moves @len bytes; @iova is what an error is reported with. */
static Step transfer(PDTState *s, Reach *r, hwaddr iova, void *data, hwaddr len,
                     bool is_write)
{
    uint64_t epoch = s->epoch;
    MemTxResult ret = address_space_rw(r->as, r->addr, r->attrs, data, len,
                                       is_write);

    if (s->epoch != epoch) {
        return STEP_GONE;
    }
    return ret == MEMTX_OK ? STEP_OK : failed(r, PDT_STATUS_BUS, iova);
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

static Step run_fetch_add(PDTState *s, PDTSlot *slot, Reach *r)
{
    PCIATSRequest read = slot_request(slot, false);
    PCIATSRequest write = slot_request(slot, true);
    uint64_t *p, was, old;
    ram_addr_t offset;
    hwaddr len = 8;
    Step step;

    read.exec = false;
    step = reach(s, slot, &read, slot->dst, slot->dst + 7, r);
    if (step != STEP_OK) {
        return step;
    }
    step = reach(s, slot, &write, slot->dst, slot->dst + 7, r);
    if (step != STEP_OK) {
        return step;
    }

    p = address_space_map(r->as, r->addr, &len, true, r->attrs);
    if (!p) {
        return failed(r, PDT_STATUS_BUS, slot->dst);
    }
    /* What is no RAM is given as a copy, where nothing would be atomic. */
    if (len < 8 || !QEMU_PTR_IS_ALIGNED(p, 8) ||
        !memory_region_from_host(p, &offset)) {
        address_space_unmap(r->as, p, len, true, 0);
        return failed(r, PDT_STATUS_BUS, slot->dst);
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
    return STEP_OK;
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
static Step run_operation(PDTState *s, PDTSlot *slot, Reach *r)
{
    bool from_src = slot->op == PDT_OP_READ || slot->op == PDT_OP_COPY ||
                    slot->op == PDT_OP_CHECKSUM;
    bool to_dst = slot->op == PDT_OP_WRITE || slot->op == PDT_OP_COPY ||
                  slot->op == PDT_OP_FILL;
    PCIATSRequest read = slot_request(slot, false);
    PCIATSRequest write = slot_request(slot, true);
    hwaddr len = MIN(slot->length - slot->done, CHUNK);
    hwaddr src = slot->src + slot->done, dst = slot->dst + slot->done;
    uint8_t data[CHUNK];
    Reach target;
    Step step;

    if (slot->op == PDT_OP_NOP) {
        return STEP_OK;
    }
    if (slot->op == PDT_OP_FETCH_ADD) {
        return run_fetch_add(s, slot, r);
    }

    if (to_dst) {
        step = reach(s, slot, &write, dst, slot->dst + (slot->length - 1), r);
        if (step != STEP_OK) {
            return step;
        }
        len = MIN(len, r->len);
        target = *r;
    }
    if (from_src) {
        step = reach(s, slot, &read, src, slot->src + (slot->length - 1), r);
        if (step != STEP_OK) {
            return step;
        }
        len = MIN(len, r->len);
        step = transfer(s, r, src, data, len, false);
        if (step != STEP_OK) {
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
        if (step != STEP_OK) {
            *r = target;
            return step;
        }
    }
    slot->done += len;
    *pdt_counter(s, PDT_CNT_BYTES) += len;
    return slot->done == slot->length ? STEP_OK : STEP_MORE;
}

static Step run_completion(PDTState *s, PDTSlot *slot, Reach *r)
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
    Reach at;
    Step step;

    if (!(slot->flags & PDT_FLAG_COMPLETION_PASID)) {
        req.pasid = PCI_ATS_NO_PASID;
        req.priv = false;
    }
    step = reach(s, slot, &req, slot->completion, slot->completion + 15, r);
    if (step != STEP_OK) {
        return step;
    }
    at = *r;
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        r->addr = at.addr + parts[i].offset;
        smp_wmb();
        step = transfer(s, r, slot->completion, parts[i].data, parts[i].len,
                        true);
        if (step != STEP_OK) {
            return step;
        }
    }
    return STEP_OK;
}

/* Runs @slot, which is in no list, for a chunk. */
static void slot_run(PDTState *s, PDTSlot *slot)
{
    bool completing = slot->final;
    Reach r = {};
    Step step;

    if (slot->answer) {
        step = failed(&r, slot->answer, slot->retry_page);
        slot->answer = 0;
    } else if (completing) {
        step = run_completion(s, slot, &r);
    } else {
        step = run_operation(s, slot, &r);
    }

    switch (step) {
    case STEP_GONE:
    case STEP_WAITING:
        return;
    case STEP_MORE:
        QTAILQ_INSERT_TAIL(&s->runnable, slot, next);
        return;
    case STEP_OK:
    case STEP_FAILED:
        break;
    }

    if (!completing) {
        slot->final = step == STEP_OK ? PDT_STATUS_OK : r.status;
        if (step == STEP_FAILED) {
            slot->result = r.result;
        }
        slot->retry_page = UINT64_MAX;
        if (slot->flags & PDT_FLAG_COMPLETION) {
            QTAILQ_INSERT_TAIL(&s->runnable, slot, next);
            return;
        }
    } else if (step == STEP_FAILED && slot->final == PDT_STATUS_OK) {
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
