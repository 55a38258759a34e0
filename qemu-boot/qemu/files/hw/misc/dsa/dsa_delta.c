/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: delta records. A record is a list of entries of ten bytes: the
 * offset of eight bytes that differ, in units of eight, and what they are.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "dsa.h"

#define UNIT                    8u
#define ENTRY_SIZE              10u
#define CREATE_CHUNK            512u    /* bytes compared in a step */
#define APPLY_ENTRIES           32u     /* applied in a step */

enum { RESULT_EQUAL = 0, RESULT_DELTA = 1, RESULT_TOO_LONG = 2 };

static void created(DSAWork *w, uint8_t result)
{
    w->result = result;
    w->completed_bytes = w->done;
    stl_le_p(w->op_result, w->written);
    w->status = DSA_SUCCESS;
    if ((w->desc.flags & DSA_FLAG_CHECK_RESULT) &&
        !(w->desc.op[16] & (1u << result))) {
        w->status = DSA_SUCCESS_FALSE;
    }
}

ATSStep dsa_delta_create(DSAState *s, DSAWork *w, ATSReach *r)
{
    const DSADesc *d = &w->desc;
    hwaddr record = ldq_le_p(d->op);
    uint32_t max = ldl_le_p(d->op + 8);
    uint32_t len = MIN(d->size - w->done, CREATE_CHUNK), out = 0;
    uint8_t old[CREATE_CHUNK], new[CREATE_CHUNK];
    uint8_t entries[CREATE_CHUNK / UNIT * ENTRY_SIZE];
    ATSStep step;

    step = dsa_read(s, w, d->src + w->done, old, len, r);
    if (step == ATS_STEP_OK) {
        step = dsa_read(s, w, d->dst + w->done, new, len, r);
    }
    if (step != ATS_STEP_OK) {
        return step;
    }
    for (uint32_t i = 0; i < len; i += UNIT) {
        if (!memcmp(old + i, new + i, UNIT)) {
            continue;
        }
        if (w->written + out + ENTRY_SIZE > max) {
            created(w, RESULT_TOO_LONG);
            return ATS_STEP_OK;
        }
        stw_le_p(entries + out, (w->done + i) / UNIT);
        memcpy(entries + out + 2, new + i, UNIT);
        out += ENTRY_SIZE;
    }
    if (out) {
        step = dsa_write(s, w, record + w->written, entries, out, r);
        if (step != ATS_STEP_OK) {
            return step;
        }
    }
    w->written += out;
    w->done += len;
    if (w->done < d->size) {
        return ATS_STEP_MORE;
    }
    created(w, w->written ? RESULT_DELTA : RESULT_EQUAL);
    return ATS_STEP_OK;
}

ATSStep dsa_delta_apply(DSAState *s, DSAWork *w, ATSReach *r)
{
    const DSADesc *d = &w->desc;
    uint32_t size = ldl_le_p(d->op);
    uint32_t len = MIN(size - w->written, APPLY_ENTRIES * ENTRY_SIZE);
    uint8_t entries[APPLY_ENTRIES * ENTRY_SIZE];
    ATSStep step;

    step = dsa_read(s, w, d->src + w->written, entries, len, r);
    if (step != ATS_STEP_OK) {
        return step;
    }
    for (uint32_t i = 0; i < len; i += ENTRY_SIZE) {
        int32_t offset = lduw_le_p(entries + i);

        if (offset <= w->last_offset) {
            w->status = DSA_DELTA_OFFSET_ORDER;
        } else if ((uint32_t)offset * UNIT >= d->size) {
            w->status = DSA_DELTA_OFFSET_RANGE;
        }
        if (w->status) {
            w->completed_bytes = w->written;
            return ATS_STEP_OK;
        }
        step = dsa_write(s, w, d->dst + (hwaddr)offset * UNIT, entries + i + 2,
                         UNIT, r);
        if (step != ATS_STEP_OK) {
            return step;
        }
        w->last_offset = offset;
        w->written += ENTRY_SIZE;
        w->done = w->written;
    }
    if (w->written < size) {
        return ATS_STEP_MORE;
    }
    w->completed_bytes = w->written;
    w->status = DSA_SUCCESS;
    return ATS_STEP_OK;
}
