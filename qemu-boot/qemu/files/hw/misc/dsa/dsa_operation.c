/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: the operations that go through memory from one end to the other.
 * A step does what lies in one page of each operand, after all of them have
 * been translated; so what is before the page of a fault is done, and nothing
 * from it on.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "dsa.h"

ATSStep dsa_reach(DSAState *s, DSAWork *w, hwaddr iova, hwaddr last, bool write,
                  ATSReach *r)
{
    uint32_t config = s->wqs[w->wq].config[2];
    unsigned flags = 0;
    PCIATSRequest req = {
        .pasid = w->has_pasid ? w->pasid : PCI_ATS_NO_PASID,
        .priv = w->priv,
        .write = write,
    };

    if (config & DSA_WQ_ATS_DISABLE) {
        flags |= ATS_REACH_NO_ATS;
    }
    /* A batch's list is always asked for: its flag is about its children. */
    if ((!(w->desc.flags & DSA_FLAG_BLOCK_ON_FAULT) &&
         w->desc.opcode != DSA_OP_BATCH) || (config & DSA_WQ_PRS_DISABLE)) {
        flags |= ATS_REACH_NO_PRI;
    }
    return ats_port_reach(&s->port, &w->waiter, &req, flags, iova, last, r);
}

static ATSStep move(DSAState *s, DSAWork *w, hwaddr iova, uint8_t *data,
                    hwaddr len, bool write, ATSReach *r)
{
    hwaddr done = 0;

    while (done < len) {
        ATSStep step = dsa_reach(s, w, iova + done, iova + len - 1, write, r);
        hwaddr part;

        if (step != ATS_STEP_OK) {
            return step;
        }
        part = MIN(len - done, r->len);
        step = ats_port_transfer(&s->port, r, iova + done, data + done, part,
                                 write);
        if (step != ATS_STEP_OK) {
            return step;
        }
        done += part;
    }
    return ATS_STEP_OK;
}

/*
 * Read and write across pages. After a wait they begin anew, which comes to
 * the same.
 */
ATSStep dsa_read(DSAState *s, DSAWork *w, hwaddr iova, void *data, hwaddr len,
                 ATSReach *r)
{
    return move(s, w, iova, data, len, false, r);
}

ATSStep dsa_write(DSAState *s, DSAWork *w, hwaddr iova, void *data, hwaddr len,
                  ATSReach *r)
{
    return move(s, w, iova, data, len, true, r);
}

/* The operands of @w: what is read, what is written. */
typedef struct Operands {
    unsigned reads, writes;
    hwaddr read[2], write[2];
} Operands;

static Operands operands(const DSADesc *d)
{
    switch (d->opcode) {
    case DSA_OP_MEMMOVE:
    case DSA_OP_COPY_CRC:
        return (Operands) { 1, 1, { d->src }, { d->dst } };
    case DSA_OP_FILL:
        return (Operands) { 0, 1, { }, { d->dst } };
    case DSA_OP_COMPARE:
        return (Operands) { 2, 0, { d->src, d->dst } };
    case DSA_OP_DUALCAST:
        return (Operands) { 1, 2, { d->src }, { d->dst, ldq_le_p(d->op) } };
    case DSA_OP_CACHE_FLUSH:
        return (Operands) { 1, 0, { d->dst } };
    default:
        return (Operands) { 1, 0, { d->src } };
    }
}

/* The end of a compare: what Check Result makes of @result. */
static void compared(DSAWork *w, uint8_t result)
{
    w->result = result;
    w->status = DSA_SUCCESS;
    if ((w->desc.flags & DSA_FLAG_CHECK_RESULT) && result != w->desc.op[0]) {
        w->status = DSA_SUCCESS_FALSE;
    }
}

static void fill(uint8_t *data, hwaddr len, uint64_t pattern, uint32_t phase)
{
    uint8_t bytes[8];

    stq_le_p(bytes, pattern);
    for (hwaddr i = 0; i < len; i++) {
        data[i] = bytes[(phase + i) % 8];
    }
}

static hwaddr differs(const uint8_t *a, const uint8_t *b, hwaddr len)
{
    hwaddr i = 0;

    while (i < len && a[i] == b[i]) {
        i++;
    }
    return i;
}

/* Where the next chunk lies: its offset; *len is what it may have. */
static hwaddr chunk(const DSAWork *w, const Operands *o, hwaddr *len)
{
    hwaddr left = w->desc.size - w->done;

    *len = MIN(left, ATS_PORT_CHUNK);
    if (!w->backward) {
        return w->done;
    }
    for (unsigned i = 0; i < 2; i++) {
        hwaddr end = (i ? o->write[0] : o->read[0]) + left;
        hwaddr in_page = (end - 1) % ATS_PORT_PAGE_SIZE + 1;

        *len = MIN(*len, in_page);
    }
    return left - *len;
}

static ATSStep linear_step(DSAState *s, DSAWork *w, ATSReach *r)
{
    const DSADesc *d = &w->desc;
    Operands o = operands(d);
    uint8_t data[2][ATS_PORT_CHUNK];
    ATSReach target[2];
    hwaddr len, offset, same;
    ATSStep step;

    offset = chunk(w, &o, &len);
    for (unsigned i = 0; i < o.writes; i++) {
        step = dsa_reach(s, w, o.write[i] + offset, o.write[i] + (d->size - 1),
                         true, &target[i]);
        if (step != ATS_STEP_OK) {
            *r = target[i];
            return step;
        }
        len = MIN(len, target[i].len);
    }
    for (unsigned i = 0; i < o.reads; i++) {
        step = dsa_reach(s, w, o.read[i] + offset, o.read[i] + (d->size - 1),
                         false, r);
        if (step != ATS_STEP_OK) {
            return step;
        }
        len = MIN(len, r->len);
        if (d->opcode == DSA_OP_CACHE_FLUSH) {
            continue;
        }
        step = ats_port_transfer(&s->port, r, o.read[i] + offset, data[i], len,
                                 false);
        if (step != ATS_STEP_OK) {
            return step;
        }
    }

    switch (d->opcode) {
    case DSA_OP_FILL:
        fill(data[0], len, d->src, offset % 8);
        break;
    case DSA_OP_COMPARE_PATTERN:
        fill(data[1], len, d->dst, offset % 8);
        /* fall through */
    case DSA_OP_COMPARE:
        same = differs(data[0], data[1], len);
        if (same < len) {
            w->completed_bytes = w->done + same;
            compared(w, 1);
            return ATS_STEP_OK;
        }
        break;
    }

    for (unsigned i = 0; i < o.writes; i++) {
        step = ats_port_transfer(&s->port, &target[i], o.write[i] + offset,
                                 data[0], len, true);
        if (step != ATS_STEP_OK) {
            *r = target[i];
            return step;
        }
    }
    if (d->opcode == DSA_OP_CRC || d->opcode == DSA_OP_COPY_CRC) {
        w->crc = dsa_crc32c(w->crc, d->flags, data[0], len);
    }
    w->done += len;
    if (w->done < d->size) {
        return ATS_STEP_MORE;
    }

    w->completed_bytes = w->done;
    w->status = DSA_SUCCESS;
    if (d->opcode == DSA_OP_COMPARE || d->opcode == DSA_OP_COMPARE_PATTERN) {
        compared(w, 0);
    } else if (d->opcode == DSA_OP_CRC || d->opcode == DSA_OP_COPY_CRC) {
        stq_le_p(w->op_result, dsa_crc32c_end(w->crc, d->flags));
    }
    return ATS_STEP_OK;
}

/* Takes the seed, from memory if the descriptor says so. */
static ATSStep crc_begin(DSAState *s, DSAWork *w, ATSReach *r)
{
    const DSADesc *d = &w->desc;
    uint32_t seed = ldl_le_p(d->op);

    if (w->crc_ready) {
        return ATS_STEP_OK;
    }
    if (d->flags & DSA_FLAG_CRC_READ_SEED) {
        uint8_t raw[4];
        ATSStep step = dsa_read(s, w, ldq_le_p(d->op + 8), raw, sizeof(raw), r);

        if (step != ATS_STEP_OK) {
            return step;
        }
        seed = ldl_le_p(raw);
    }
    w->crc = dsa_crc32c_begin(seed, d->flags);
    w->crc_ready = true;
    return ATS_STEP_OK;
}

void dsa_operation_partial(DSAWork *w)
{
    switch (w->desc.opcode) {
    case DSA_OP_MEMMOVE:
        w->result = w->backward;
        break;
    case DSA_OP_CREATE_DELTA:
        w->result = !!w->written;
        stl_le_p(w->op_result, w->written);
        break;
    case DSA_OP_CRC:
    case DSA_OP_COPY_CRC:
        if (w->crc_ready) {
            stq_le_p(w->op_result, dsa_crc32c_end(w->crc, w->desc.flags));
        }
        break;
    }
}

/* ATS_STEP_OK: w->status and what the record says are set. */
ATSStep dsa_operation_step(DSAState *s, DSAWork *w, ATSReach *r)
{
    ATSStep step;

    switch (w->desc.opcode) {
    case DSA_OP_NOOP:
        w->status = DSA_SUCCESS;
        return ATS_STEP_OK;
    case DSA_OP_CREATE_DELTA:
        return dsa_delta_create(s, w, r);
    case DSA_OP_APPLY_DELTA:
        return dsa_delta_apply(s, w, r);
    case DSA_OP_DIF_CHECK:
    case DSA_OP_DIF_INSERT:
    case DSA_OP_DIF_STRIP:
    case DSA_OP_DIF_UPDATE:
        return dsa_dif_step(s, w, r);
    case DSA_OP_CRC:
    case DSA_OP_COPY_CRC:
        step = crc_begin(s, w, r);
        if (step != ATS_STEP_OK) {
            return step;
        }
        break;
    }
    return linear_step(s, w, r);
}
