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
} Form;

#define BYTES(first, count)     ((uint32_t)MAKE_64BIT_MASK(first, count))

static const Form forms[DSA_OP_LAST + 1] = {
    [DSA_OP_NOOP] = { 0, 0, false },
    [DSA_OP_BATCH] = { FLAGS_READ, 0, false },
    [DSA_OP_DRAIN] = { FLAGS_READ, 0, false },
    [DSA_OP_MEMMOVE] = { FLAGS_WRITE, 0, true },
    [DSA_OP_FILL] = { FLAGS_WRITE, 0, true },
    [DSA_OP_COMPARE] = { FLAGS_READ | DSA_FLAG_CHECK_RESULT, BYTES(0, 1), true },
    [DSA_OP_COMPARE_PATTERN] = { FLAGS_READ | DSA_FLAG_CHECK_RESULT,
                                 BYTES(0, 1), true },
    [DSA_OP_CREATE_DELTA] = { FLAGS_WRITE | DSA_FLAG_CHECK_RESULT,
                              BYTES(0, 12) | BYTES(16, 1), true },
    [DSA_OP_APPLY_DELTA] = { FLAGS_WRITE, BYTES(0, 4), true },
    [DSA_OP_DUALCAST] = { FLAGS_WRITE, BYTES(0, 8), true },
    [DSA_OP_CRC] = { FLAGS_READ | FLAGS_CRC, BYTES(0, 4) | BYTES(8, 8), true },
    [DSA_OP_COPY_CRC] = { FLAGS_WRITE | FLAGS_CRC, BYTES(0, 4) | BYTES(8, 8),
                          true },
    [DSA_OP_DIF_CHECK] = { FLAGS_READ,
                           BYTES(0, 1) | BYTES(2, 1) | BYTES(8, 8), true },
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
           !(w->batch && opcode == DSA_OP_BATCH);
}

/* Whether @w may use the vector that it names. */
static bool int_handle_valid(DSAState *s, const DSAWork *w)
{
    uint64_t perm;

    if (w->ims || w->desc.int_handle >= DSA_VECTORS) {
        return false;
    }
    if (w->has_pasid && !w->priv && !(s->gencfg & DSA_GENCFG_USER_INT)) {
        return false;
    }
    perm = s->msix_perm[w->desc.int_handle];
    if (perm & DSA_MSIX_PERM_IGNORE) {
        return true;
    }
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
    if (!d->size || d->size > 1ull << DSA_WQ_MAX_XFER(c) ||
        (d->opcode != DSA_OP_FILL && d->opcode != DSA_OP_COMPARE_PATTERN &&
         d->opcode != DSA_OP_CACHE_FLUSH && wraps(d->src, d->size)) ||
        (d->opcode != DSA_OP_CRC && d->opcode != DSA_OP_DIF_CHECK &&
         d->opcode != DSA_OP_COMPARE_PATTERN && wraps(d->dst, d->size))) {
        return DSA_BAD_XFER_SIZE;
    }
    return 0;
}

static uint8_t check_operands(DSAWork *w)
{
    const DSADesc *d = &w->desc;
    uint64_t second = ldq_le_p(d->op);
    uint32_t block;

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
    case DSA_OP_COPY_CRC:
        return overlaps(d->src, d->size, d->dst, d->size) ? DSA_BAD_OVERLAP : 0;
    case DSA_OP_CREATE_DELTA:
        if (d->size % 8 || d->size > 0x80000) {
            return DSA_BAD_XFER_SIZE;
        }
        if (ldl_le_p(d->op + 8) < 80) {
            return DSA_BAD_DELTA_SIZE;
        }
        return (d->src | d->dst | second) % 8 ? DSA_BAD_ALIGN : 0;
    case DSA_OP_APPLY_DELTA:
        if (d->size % 8 || d->size > 0x80000) {
            return DSA_BAD_XFER_SIZE;
        }
        w->last_offset = -1;
        if (ldl_le_p(d->op) % 10) {
            return DSA_BAD_DELTA_SIZE;
        }
        return (d->src | d->dst) % 8 ? DSA_BAD_ALIGN : 0;
    case DSA_OP_DIF_CHECK:
    case DSA_OP_DIF_INSERT:
    case DSA_OP_DIF_STRIP:
    case DSA_OP_DIF_UPDATE:
        block = dsa_dif_source_block(d);
        return d->size % block ? DSA_BAD_XFER_SIZE : 0;
    default:
        return 0;
    }
}

/*
 * Zero, or the status that @w ends with at once. Invalid flags are left in the
 * record.
 */
uint8_t dsa_descriptor_check(DSAState *s, DSAWork *w)
{
    const DSADesc *d = &w->desc;
    const uint32_t *c = s->wqs[w->wq].config;
    uint32_t allowed, bad;
    uint8_t status;

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
        allowed &= ~DSA_FLAG_RECORD;
    }
    bad = d->flags & ~allowed;
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
    return status ? status : check_operands(w);
}
