/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: what a descriptor may ask for. A descriptor is copied when it
 * comes, so that what is checked is what is done.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/range.h"
#include "dsa.h"

#define FLAGS_ALL       (DSA_FLAG_FENCE | DSA_FLAG_RECORD_VALID | \
                         DSA_FLAG_RECORD | DSA_FLAG_INTERRUPT | \
                         DSA_FLAG_TC_RECORD)
#define FLAGS_READ      (DSA_FLAG_BLOCK_ON_FAULT | DSA_FLAG_TC_1 | \
                         DSA_FLAG_TC_2 | DSA_FLAG_TC_3)
#define FLAGS_WRITE     (FLAGS_READ | DSA_FLAG_CACHE_CONTROL | \
                         DSA_FLAG_STRICT_ORDER)
#define FLAGS_CRC       (DSA_FLAG_CRC_READ_SEED | DSA_FLAG_CRC_PLAIN | \
                         DSA_FLAG_CRC_PLAIN_DATA)

/* Of each operation: flags beside FLAGS_ALL, bytes of op[] that it uses. */
typedef struct Form {
    uint32_t flags;
    uint32_t op_bytes;          /* a bit each */
    bool sized;                 /* size is a number of bytes */
    bool result;                /* and so a record is a must (table 5-5) */
} Form;

/* Deltas (8.3.8): bytes of one, of those of a cache line; most bytes compared. */
#define DELTA                   10
#define DELTA_LINE              80
#define DELTA_MAX               0x80000

#define BYTES(first, count)     ((uint32_t)MAKE_64BIT_MASK(first, count))

static const Form forms[DSA_OP_LAST + 1] = {
    [DSA_OP_NOOP] = { 0, 0, false },
    [DSA_OP_BATCH] = { FLAGS_READ, 0, false },
    [DSA_OP_DRAIN] = { FLAGS_READ, 0, false },
    [DSA_OP_MEMMOVE] = { FLAGS_WRITE, 0, true },
    [DSA_OP_FILL] = { FLAGS_WRITE, 0, true },
    [DSA_OP_COMPARE] = { FLAGS_READ | DSA_FLAG_CHECK_RESULT, BYTES(0, 1), true,
                         true },
    [DSA_OP_COMPARE_PATTERN] = { FLAGS_READ | DSA_FLAG_CHECK_RESULT,
                                 BYTES(0, 1), true, true },
    [DSA_OP_CREATE_DELTA] = { FLAGS_WRITE | DSA_FLAG_CHECK_RESULT,
                              BYTES(0, 12) | BYTES(16, 1), true, true },
    [DSA_OP_APPLY_DELTA] = { FLAGS_WRITE, BYTES(0, 4), true },
    [DSA_OP_DUALCAST] = { FLAGS_WRITE, BYTES(0, 8), true },
    [DSA_OP_CRC] = { FLAGS_READ | FLAGS_CRC, BYTES(0, 4) | BYTES(8, 8), true,
                     true },
    [DSA_OP_COPY_CRC] = { FLAGS_WRITE | FLAGS_CRC, BYTES(0, 4) | BYTES(8, 8),
                          true, true },
    [DSA_OP_DIF_CHECK] = { FLAGS_READ,
                           BYTES(0, 1) | BYTES(2, 1) | BYTES(8, 8), true, true },
    [DSA_OP_DIF_INSERT] = { FLAGS_WRITE, BYTES(1, 2) | BYTES(16, 8), true },
    [DSA_OP_DIF_STRIP] = { FLAGS_WRITE,
                           BYTES(0, 1) | BYTES(2, 1) | BYTES(8, 8), true },
    [DSA_OP_DIF_UPDATE] = { FLAGS_WRITE, BYTES(0, 3) | BYTES(8, 16), true },
    [DSA_OP_CACHE_FLUSH] = { FLAGS_WRITE, 0, true },
};

void dsa_descriptor_parse(const uint8_t *raw, DSADesc *d)
{
    uint32_t first = ldl_le_p(raw), second = ldl_le_p(raw + 4);

    /* PASID and privilege come from WQCFG in dedicated mode. */
    d->reserved = extract32(first, 20, 11) | lduw_le_p(raw + 38);
    d->flags = second & 0xffffff;
    d->opcode = second >> 24;
    d->record = ldq_le_p(raw + 8);
    d->src = ldq_le_p(raw + 16);
    d->dst = ldq_le_p(raw + 24);
    d->size = ldl_le_p(raw + 32);
    d->int_handle = lduw_le_p(raw + 36);
    memcpy(d->op, raw + 40, sizeof(d->op));
}

static bool opcode_known(DSAState *s, const DSAWork *w)
{
    const uint32_t *c = s->wqs[w->wq].config;
    uint8_t opcode = w->desc.opcode;

    return opcode <= DSA_OP_LAST && (dsa_opcap() & (1ull << opcode)) &&
           (c[DSA_WQ_OP_CONFIG + opcode / 32] & (1u << opcode % 32)) &&
           !(w->batch && (opcode == DSA_OP_BATCH || opcode == DSA_OP_DRAIN));
}

static bool interrupts_allowed(DSAState *s, const DSAWork *w)
{
    return !w->has_pasid || w->priv || (s->gencfg & DSA_GENCFG_USER_INT);
}

/* Whether @w may use the vector that it names; there are none of IMS. */
static bool int_handle_valid(DSAState *s, const DSAWork *w)
{
    uint64_t perm;

    if (w->ims || w->desc.int_handle >= DSA_VECTORS) {
        return false;
    }
    perm = s->msix_perm[w->desc.int_handle];
    return !!(perm & DSA_MSIX_PERM_PASID_ENABLE) == w->has_pasid &&
           (!w->has_pasid || DSA_MSIX_PERM_PASID(perm) == w->pasid);
}

static bool wraps(uint64_t first, uint64_t size)
{
    return size && first + (size - 1) < first;
}

static bool overlaps(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return ranges_overlap(a, a_size, b, b_size);
}

static uint64_t max_xfer(DSAState *s, const DSAWork *w)
{
    return 1ull << DSA_WQ_MAX_XFER(s->wqs[w->wq].config);
}

static uint8_t check_sizes(DSAState *s, DSAWork *w)
{
    const DSADesc *d = &w->desc;
    const uint32_t *c = s->wqs[w->wq].config;

    if (d->opcode == DSA_OP_BATCH) {
        if (d->size < 2 || d->size > 1u << DSA_WQ_MAX_BATCH(c)) {
            return DSA_BAD_COUNT;
        }
        if (d->src % DSA_DESC_SIZE) {
            return DSA_BAD_LIST_ALIGN;
        }
        return 0;
    }
    if (!forms[d->opcode].sized) {
        return 0;
    }
    if (!d->size || d->size > max_xfer(s, w) ||
        (d->opcode != DSA_OP_FILL && d->opcode != DSA_OP_COMPARE_PATTERN &&
         d->opcode != DSA_OP_CACHE_FLUSH && wraps(d->src, d->size)) ||
        (d->opcode != DSA_OP_CRC && d->opcode != DSA_OP_DIF_CHECK &&
         d->opcode != DSA_OP_COMPARE_PATTERN && wraps(d->dst, d->size))) {
        return DSA_BAD_XFER_SIZE;
    }
    return 0;
}

static uint8_t check_operands(DSAState *s, DSAWork *w)
{
    const DSADesc *d = &w->desc;
    uint64_t second = ldq_le_p(d->op);
    uint32_t block, record;

    switch (d->opcode) {
    case DSA_OP_MEMMOVE:
        w->backward = d->src < d->dst && d->dst - d->src < d->size;
        return 0;
    case DSA_OP_DUALCAST:
        if ((d->dst ^ second) & 0xfff) {
            return DSA_BAD_DUALCAST;
        }
        if (wraps(second, d->size)) {
            return DSA_BAD_XFER_SIZE;
        }
        if (overlaps(d->dst, d->size, second, d->size) ||
            overlaps(d->src, d->size, d->dst, d->size) ||
            overlaps(d->src, d->size, second, d->size)) {
            return DSA_BAD_OVERLAP;
        }
        return 0;
    case DSA_OP_CRC:
    case DSA_OP_COPY_CRC:
        if ((d->flags & DSA_FLAG_CRC_READ_SEED) && ldq_le_p(d->op + 8) % 4) {
            return DSA_BAD_ALIGN;
        }
        return d->opcode == DSA_OP_COPY_CRC &&
               overlaps(d->src, d->size, d->dst, d->size) ? DSA_BAD_OVERLAP : 0;
    case DSA_OP_CREATE_DELTA:
        record = ldl_le_p(d->op + 8);
        if (d->size > DELTA_MAX) {
            return DSA_BAD_XFER_SIZE;
        }
        if (record < DELTA_LINE || record > max_xfer(s, w)) {
            return DSA_BAD_DELTA_SIZE;
        }
        if ((d->src | d->dst | second | d->size) % 8) {
            return DSA_BAD_ALIGN;
        }
        return overlaps(d->src, d->size, second, record) ||
               overlaps(d->dst, d->size, second, record) ? DSA_BAD_OVERLAP : 0;
    case DSA_OP_APPLY_DELTA:
        record = ldl_le_p(d->op);
        w->last_offset = -1;
        if (d->size > DELTA_MAX) {
            return DSA_BAD_XFER_SIZE;
        }
        if (!record || record % DELTA || record > max_xfer(s, w)) {
            return DSA_BAD_DELTA_SIZE;
        }
        if ((d->dst | d->size) % 8) {
            return DSA_BAD_ALIGN;
        }
        return overlaps(d->src, record, d->dst, d->size) ? DSA_BAD_OVERLAP : 0;
    case DSA_OP_DIF_CHECK:
    case DSA_OP_DIF_INSERT:
    case DSA_OP_DIF_STRIP:
    case DSA_OP_DIF_UPDATE:
        block = dsa_dif_source_block(d);
        if (d->size % block) {
            return DSA_BAD_XFER_SIZE;
        }
        return d->opcode != DSA_OP_DIF_CHECK &&
               overlaps(d->src, d->size, d->dst, dsa_dif_target_size(d))
               ? DSA_BAD_OVERLAP : 0;
    default:
        return 0;
    }
}

/*
 * Zero, or the status that @w ends with at once. Invalid flags, and such as are
 * missing, are left in the record.
 */
uint8_t dsa_descriptor_check(DSAState *s, DSAWork *w)
{
    const DSADesc *d = &w->desc;
    const uint32_t *c = s->wqs[w->wq].config;
    uint32_t allowed, needed = 0, bad;
    uint8_t status;

    /* Whatever else is wrong with it, it raises nobody else's interrupt. */
    w->interrupt = (d->flags & DSA_FLAG_INTERRUPT) &&
                   interrupts_allowed(s, w) && int_handle_valid(s, w);

    if ((d->flags & DSA_FLAG_RECORD_VALID) && d->record % DSA_RECORD_SIZE) {
        return DSA_BAD_RECORD_ALIGN;
    }
    if (!opcode_known(s, w)) {
        return DSA_BAD_OPCODE;
    }
    allowed = FLAGS_ALL | forms[d->opcode].flags;
    if (!w->batch) {
        allowed &= ~DSA_FLAG_FENCE;
    }
    if (!(c[2] & DSA_WQ_BOF)) {
        allowed &= ~DSA_FLAG_BLOCK_ON_FAULT;
    }
    if (!(d->flags & DSA_FLAG_RECORD_VALID)) {
        allowed &= ~(DSA_FLAG_RECORD | DSA_FLAG_TC_RECORD);
    }
    if (!interrupts_allowed(s, w)) {
        allowed &= ~DSA_FLAG_INTERRUPT;
    }
    if (forms[d->opcode].result) {
        needed = DSA_FLAG_RECORD_VALID | DSA_FLAG_RECORD;
    } else if (d->opcode == DSA_OP_DRAIN && !(d->flags & DSA_FLAG_INTERRUPT)) {
        needed = DSA_FLAG_RECORD;
    }
    bad = (d->flags & ~allowed) | (needed & ~d->flags);
    if (bad) {
        stl_le_p(w->op_result, bad);
        return DSA_BAD_FLAGS;
    }
    if (d->reserved) {
        return DSA_BAD_RESERVED;
    }
    for (unsigned i = 0; i < sizeof(d->op); i++) {
        if (d->op[i] && !(forms[d->opcode].op_bytes & (1u << i))) {
            return DSA_BAD_RESERVED;
        }
    }
    if ((d->flags & DSA_FLAG_INTERRUPT) && !int_handle_valid(s, w)) {
        return DSA_BAD_INT_HANDLE;
    }
    status = check_sizes(s, w);
    return status ? status : check_operands(s, w);
}
