/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: data integrity fields (T10 DIF). A field of eight bytes follows
 * each block: guard (CRC-16 of the block), application tag, reference tag, all
 * big-endian. A step does one block.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "dsa.h"

#define FIELD_SIZE              8u
#define BLOCK_MAX               4104u

/* The flags of the source, op[0] */
#define SRC_ALL_F_ERROR         (1u << 0)
#define SRC_ALL_F               (1u << 1)
#define SRC_APP_F               (1u << 2)
#define SRC_APP_REF_F           (1u << 3)
#define SRC_APP_COUNTS          (1u << 4)   /* the tag grows with each block */
#define SRC_GUARD_OFF           (1u << 5)
#define SRC_REF_OFF             (1u << 6)
#define SRC_REF_FIXED           (1u << 7)
/* The flags of the destination, op[1] */
#define DST_APP_PASS            (1u << 3)   /* as in the source */
#define DST_APP_COUNTS          (1u << 4)
#define DST_GUARD_PASS          (1u << 5)
#define DST_REF_PASS            (1u << 6)
#define DST_REF_FIXED           (1u << 7)
/* op[2] */
#define DIF_BLOCK(flags)        ((flags) & 3)
#define DIF_INVERT_SEED         (1u << 2)
#define DIF_INVERT_RESULT       (1u << 3)

/* The record's second byte: what did not fit */
#define BAD_GUARD               (1u << 0)
#define BAD_APP                 (1u << 1)
#define BAD_REF                 (1u << 2)
#define BAD_ALL_F               (1u << 3)

typedef struct Tags {
    uint32_t ref;
    uint16_t app, app_mask;
} Tags;

static uint32_t block_size(const DSADesc *d)
{
    static const uint16_t sizes[] = { 512, 520, 4096, 4104 };

    return sizes[DIF_BLOCK(d->op[2])];
}

/* Bytes of the source that one block takes. */
uint32_t dsa_dif_source_block(const DSADesc *d)
{
    return block_size(d) + (d->opcode == DSA_OP_DIF_INSERT ? 0 : FIELD_SIZE);
}

/* The tags at @seed for block number @n. */
static Tags tags(const uint8_t *seed, uint32_t n, bool ref_fixed,
                 bool app_counts)
{
    return (Tags) {
        .ref = ldl_le_p(seed) + (ref_fixed ? 0 : n),
        .app_mask = lduw_le_p(seed + 4),
        .app = lduw_le_p(seed + 6) + (app_counts ? n : 0),
    };
}

static uint16_t guard(const DSADesc *d, const uint8_t *block)
{
    uint16_t crc = dsa_crc16_t10(d->op[2] & DIF_INVERT_SEED ? 0xffff : 0, block,
                                 block_size(d));

    return d->op[2] & DIF_INVERT_RESULT ? ~crc : crc;
}

/* What does not fit of @field, which follows @block in the source. */
static uint8_t check(const DSADesc *d, const uint8_t *block,
                     const uint8_t *field, const Tags *want)
{
    uint8_t flags = d->op[0], bad = 0;
    uint16_t app = lduw_be_p(field + 2);
    uint32_t ref = ldl_be_p(field + 4);
    bool all_f = lduw_be_p(field) == 0xffff && app == 0xffff &&
                 ref == UINT32_MAX;

    if ((flags & SRC_ALL_F_ERROR) && all_f) {
        return BAD_ALL_F;
    }
    if (((flags & SRC_ALL_F) && all_f) ||
        ((flags & SRC_APP_F) && app == 0xffff) ||
        ((flags & SRC_APP_REF_F) && app == 0xffff && ref == UINT32_MAX)) {
        return 0;
    }
    if (!(flags & SRC_GUARD_OFF) && lduw_be_p(field) != guard(d, block)) {
        bad |= BAD_GUARD;
    }
    if ((app ^ want->app) & ~want->app_mask) {
        bad |= BAD_APP;
    }
    if (!(flags & SRC_REF_OFF) && ref != want->ref) {
        bad |= BAD_REF;
    }
    return bad;
}

static void make_field(const DSADesc *d, const uint8_t *block,
                       const uint8_t *from, const Tags *want, uint8_t *field)
{
    uint8_t pass = d->opcode == DSA_OP_DIF_UPDATE ? d->op[1] : 0;
    uint16_t app = want->app;

    stw_be_p(field, pass & DST_GUARD_PASS ? lduw_be_p(from) : guard(d, block));
    if (pass & DST_APP_PASS) {
        app = lduw_be_p(from + 2);
    }
    stw_be_p(field + 2, app);
    stl_be_p(field + 4, pass & DST_REF_PASS ? ldl_be_p(from + 4) : want->ref);
}

static void put_tags(uint8_t *to, const Tags *t)
{
    stl_le_p(to, t->ref);
    stw_le_p(to + 4, t->app_mask);
    stw_le_p(to + 6, t->app);
}

/* Bytes that the operation writes. */
uint64_t dsa_dif_target_size(const DSADesc *d)
{
    uint64_t blocks = d->size / dsa_dif_source_block(d);
    bool has_field = d->opcode == DSA_OP_DIF_INSERT ||
                     d->opcode == DSA_OP_DIF_UPDATE;

    return blocks * (block_size(d) + (has_field ? FIELD_SIZE : 0));
}

ATSStep dsa_dif_step(DSAState *s, DSAWork *w, ATSReach *r)
{
    const DSADesc *d = &w->desc;
    bool has_source = d->opcode != DSA_OP_DIF_INSERT;
    bool has_target = d->opcode == DSA_OP_DIF_INSERT ||
                      d->opcode == DSA_OP_DIF_UPDATE;
    uint32_t size = block_size(d), in = dsa_dif_source_block(d);
    uint32_t out = size + (has_target ? FIELD_SIZE : 0);
    uint8_t block[BLOCK_MAX + FIELD_SIZE];
    Tags source = {}, target = {};
    uint8_t *field = block + size;
    ATSStep step;

    /* Also what the record of a fault has: the tags to go on with. */
    if (has_source) {
        source = tags(d->op + 8, w->dif_blocks, d->op[0] & SRC_REF_FIXED,
                      d->op[0] & SRC_APP_COUNTS);
        put_tags(w->op_result, &source);
    }
    if (has_target) {
        target = tags(d->op + 16, w->dif_blocks, d->op[1] & DST_REF_FIXED,
                      d->op[1] & DST_APP_COUNTS);
        put_tags(w->op_result + 8, &target);
    }
    step = dsa_read(s, w, d->src + w->done, block, in, r);
    if (step != ATS_STEP_OK) {
        return step;
    }
    if (has_source) {
        w->result = check(d, block, field, &source);
        if (w->result) {
            w->status = DSA_DIF_ERROR;
            w->completed_bytes = w->done;
            return ATS_STEP_OK;
        }
    }
    if (has_target) {
        uint8_t from[FIELD_SIZE] = {};

        if (has_source) {
            memcpy(from, field, sizeof(from));
        }
        make_field(d, block, from, &target, field);
    }
    if (d->opcode != DSA_OP_DIF_CHECK) {
        step = dsa_write(s, w, d->dst + w->written, block, out, r);
        if (step != ATS_STEP_OK) {
            return step;
        }
    }
    w->done += in;
    w->written += out;
    w->dif_blocks++;
    if (w->done < d->size) {
        return ATS_STEP_MORE;
    }
    w->completed_bytes = w->done;
    w->status = DSA_SUCCESS;
    return ATS_STEP_OK;
}
