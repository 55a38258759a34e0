/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: completion records, SWERR and the event log.
 *
 * A record is written if the descriptor asks for it, and on every error. Where
 * it cannot be written, or there is no address for it, the event log has it, or
 * without event log SWERR.
 */
#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "hw/pci/msix.h"
#include "dsa.h"

static void record_fill(const DSAWork *w, uint8_t *record)
{
    memset(record, 0, DSA_RECORD_SIZE);
    record[0] = w->status;
    record[1] = w->result;
    stl_le_p(record + 4, w->completed_bytes);
    stq_le_p(record + 8, w->fault_addr);
    memcpy(record + 16, w->op_result, sizeof(w->op_result));
}

/* The first words of SWERR and of an entry of the event log. */
static void report_fill(const DSAWork *w, uint8_t error, uint64_t addr,
                        uint64_t *words)
{
    words[0] = 1ull << 2 | 1ull << 3 | (uint64_t)!!w->batch << 4 |
               (uint64_t)!!(w->status & DSA_STATUS_WRITE) << 5 |
               (uint64_t)w->priv << 6 | (uint64_t)error << 8 |
               (uint64_t)w->wq << 16 | (uint64_t)w->desc.opcode << 32 |
               (uint64_t)w->pasid << 40;
    words[1] = w->batch ? w->index & 0xffff : 0;
    if (error == DSA_BAD_FLAGS) {
        words[1] |= (uint64_t)ldl_le_p(w->op_result) << 32;
    }
    words[2] = addr;
    words[3] = 0;
}

static void swerr_set(DSAState *s, const uint64_t *words)
{
    if (s->swerr[0] & DSA_SWERR_VALID) {
        s->swerr[0] |= DSA_SWERR_OVERFLOW;
        return;
    }
    memcpy(s->swerr, words, sizeof(s->swerr));
    s->swerr[0] |= DSA_SWERR_VALID;
    dsa_cause(s, DSA_CAUSE_SWERR);
}

/* A descriptor for @wq was lost. */
void dsa_swerr_portal(DSAState *s, unsigned wq)
{
    uint64_t words[4] = {
        1ull << 3 | DSA_SWERR_PORTAL << 8 | (uint64_t)wq << 16,
    };

    swerr_set(s, words);
}

/* False: there is no event log, or it cannot take the entry. */
static bool evl_put(DSAState *s, const DSAWork *w, uint8_t error, uint64_t addr)
{
    uint16_t size = s->evlcfg[1] & 0xffff;
    uint8_t entry[DSA_EVL_ENTRY_SIZE];
    bool by_pasid = s->evlcfg[0] & DSA_EVLCFG_PASID_ENABLE;
    PCIATSRequest req = {
        .pasid = by_pasid ? extract64(s->evlcfg[1], 16, 20) : PCI_ATS_NO_PASID,
        .priv = by_pasid && (s->evlcfg[0] & DSA_EVLCFG_PRIV),
        .write = true,
    };
    uint64_t words[4], at;
    ATSWaiter nobody;
    ATSReach r = {};
    uint16_t next;

    if (!(s->gencfg & DSA_GENCFG_EVL) || s->evl_tail >= size) {
        return false;
    }
    next = (s->evl_tail + 1) % size;
    if (next == s->evl_head) {
        return false;
    }
    report_fill(w, error, addr, words);
    words[0] |= 1ull << 7;                          /* error information */
    if (error != DSA_BAD_FLAGS) {
        words[1] |= (uint64_t)w->desc.int_handle << 32;
        words[1] |= (uint64_t)!!(w->desc.flags & DSA_FLAG_INTERRUPT) << 48;
        words[1] |= (uint64_t)!!(w->desc.flags & DSA_FLAG_RECORD) << 50;
        words[1] |= (uint64_t)(w->batch && !w->batch->failed) << 51;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        stq_le_p(entry + i * 8, words[i]);
    }
    record_fill(w, entry + 32);

    at = (s->evlcfg[0] & ~0xfffull) + (uint64_t)s->evl_tail * sizeof(entry);
    ats_waiter_init(&nobody);
    if (ats_port_reach(&s->port, &nobody, &req, ATS_REACH_NO_PRI, at,
                       at + sizeof(entry) - 1, &r) != ATS_STEP_OK ||
        ats_port_transfer(&s->port, &r, at, entry, sizeof(entry), true) !=
        ATS_STEP_OK) {
        return false;
    }
    s->evl_tail = next;
    return true;
}

void dsa_completion_report(DSAState *s, const DSAWork *w, uint8_t error,
                           uint64_t addr)
{
    uint64_t epoch = s->port.epoch;
    uint64_t words[4];

    report_fill(w, error, addr, words);
    if (!evl_put(s, w, error, addr)) {
        if (s->port.epoch == epoch) {
            swerr_set(s, words);
        }
        return;
    }
    if (!s->evl_pending) {
        s->evl_pending = true;
        dsa_cause(s, DSA_CAUSE_EVL);
    }
}

/* Writes the record of @w, which has its status, where one is wanted. */
ATSStep dsa_completion_record(DSAState *s, DSAWork *w, ATSReach *r)
{
    const DSADesc *d = &w->desc;
    uint32_t config = s->wqs[w->wq].config[2];
    uint64_t epoch = s->port.epoch;
    uint8_t record[DSA_RECORD_SIZE];
    PCIATSRequest req = {
        .pasid = w->has_pasid ? w->pasid : PCI_ATS_NO_PASID,
        .priv = w->priv,
        .write = true,
    };
    ATSStep step;
    hwaddr at;

    if (w->status == DSA_BAD_RECORD_ALIGN ||
        !(d->flags & DSA_FLAG_RECORD_VALID)) {
        if (w->status != DSA_SUCCESS) {
            dsa_completion_report(s, w, w->status, w->fault_addr);
        }
        return s->port.epoch == epoch ? ATS_STEP_OK : ATS_STEP_GONE;
    }
    if (w->status == DSA_SUCCESS && !(d->flags & DSA_FLAG_RECORD)) {
        return ATS_STEP_OK;
    }

    /* Block On Fault is about the operands: a record is never waited for. */
    step = ats_port_reach(&s->port, &w->waiter, &req,
                          ATS_REACH_NO_PRI |
                          (config & DSA_WQ_ATS_DISABLE ? ATS_REACH_NO_ATS : 0),
                          d->record, d->record + DSA_RECORD_SIZE - 1, r);
    if (step == ATS_STEP_OK) {
        record_fill(w, record);
        at = r->addr;
        /* Software polls the status: it comes last. */
        r->addr = at + 1;
        step = ats_port_transfer(&s->port, r, d->record, record + 1,
                                 sizeof(record) - 1, true);
        if (step == ATS_STEP_OK) {
            smp_wmb();
            r->addr = at;
            step = ats_port_transfer(&s->port, r, d->record, record, 1, true);
        }
    }
    if (step == ATS_STEP_FAILED) {
        dsa_completion_report(s, w, DSA_RECORD_FAULT, d->record);
        step = s->port.epoch == epoch ? ATS_STEP_OK : ATS_STEP_GONE;
    }
    return step;
}
