/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: completion records, SWERR and the event log.
 *
 * A record is written if the descriptor asks for it, and on every error. Its
 * page is asked for where page requests are on. A record that cannot be written
 * goes to the event log, and so do the record of a batch that has such children
 * and, while page requests are off, that of a drain: software writes them all,
 * in the log's order (5.9). Without event log SWERR has the error, and the
 * record is lost.
 */
#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "hw/pci/msix.h"
#include "dsa.h"

#define OPERAND_LIST            1       /* table 8-13 */
#define OPERAND_RECORD          5

static void record_fill(const DSAWork *w, uint8_t *record)
{
    memset(record, 0, DSA_RECORD_SIZE);
    record[0] = w->status;
    record[1] = w->result;
    stl_le_p(record + 4, w->completed_bytes);
    stq_le_p(record + 8, w->fault_addr);
    memcpy(record + 16, w->op_result, sizeof(w->op_result));
}

/* Whether @w ended as one that has no record unless it is asked for. */
static bool ended_well(const DSAWork *w)
{
    return w->status == DSA_SUCCESS || w->status == DSA_SUCCESS_FALSE ||
           w->status == DSA_BATCH_FAILED;
}

static bool record_due(const DSAWork *w)
{
    return (w->desc.flags & DSA_FLAG_RECORD_VALID) &&
           ((w->desc.flags & DSA_FLAG_RECORD) || !ended_well(w));
}

/* The first words of SWERR (9.2.15) and of an entry of the event log (5.9.1). */
static void report_fill(const DSAWork *w, uint8_t error, uint64_t *words)
{
    bool faulted = error == (w->status & DSA_STATUS_MASK);
    bool write = error == DSA_RECORD_FAULT ||
                 (faulted && (w->status & DSA_STATUS_WRITE));

    words[0] = 1ull << 2 | 1ull << 3 | (uint64_t)!!w->batch << 4 |
               (uint64_t)write << 5 | (uint64_t)w->priv << 6 |
               (uint64_t)error << 8 | (uint64_t)w->wq << 16 |
               (uint64_t)w->desc.opcode << 32 | (uint64_t)w->pasid << 40;
    words[1] = w->batch ? w->index & 0xffff : 0;
    words[2] = faulted ? w->fault_addr : w->desc.record;
    words[3] = 0;
    if (error == DSA_BAD_FLAGS) {
        words[1] |= (uint64_t)ldl_le_p(w->op_result) << 32;
    } else if (error == DSA_BAD_INT_HANDLE) {
        words[1] |= (uint64_t)w->desc.int_handle << 32;
    } else if (error == DSA_BATCH_PAGE_FAULT) {
        words[1] |= (uint64_t)OPERAND_LIST << 61;
    }
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

/* A descriptor was lost: @wq has no room. */
void dsa_swerr_wq_full(DSAState *s, unsigned wq)
{
    uint64_t words[4] = {
        1ull << 3 | DSA_SWERR_WQ_FULL << 8 | (uint64_t)wq << 16,
    };

    swerr_set(s, words);
}

/* What an entry has beside the words of SWERR. */
static void entry_fill(const DSAWork *w, uint8_t error, uint8_t *entry)
{
    bool logs_record = error == DSA_RECORD_FAULT || error == DSA_BATCH_LOGGED ||
                       error == DSA_DRAIN_LOGGED;
    uint64_t words[4];

    report_fill(w, error, words);
    words[0] |= 1ull << 7;                          /* error information */
    words[0] |= (uint64_t)(w->batch ? w->batch->id : w->id) << 24;
    if (logs_record || error == DSA_BAD_INT_HANDLE) {
        words[1] |= (uint64_t)w->desc.int_handle << 32;
        words[1] |= (uint64_t)(w->interrupt || !logs_record) << 48;
        words[1] |= (uint64_t)w->ims << 49;
        words[1] |= (uint64_t)record_due(w) << 50;
    }
    if (error == DSA_RECORD_FAULT) {
        words[1] |= (uint64_t)(w->batch && !w->batch->logged) << 51;
        words[1] |= (uint64_t)OPERAND_RECORD << 61;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        stq_le_p(entry + i * 8, words[i]);
    }
    memset(entry + 32, 0, DSA_RECORD_SIZE);
    if (logs_record && record_due(w)) {
        record_fill(w, entry + 32);
    }
}

/* False: the log cannot take the entry. */
static bool evl_put(DSAState *s, const DSAWork *w, uint8_t error)
{
    uint16_t size = s->evlcfg[1] & 0xffff;
    uint8_t entry[DSA_EVL_ENTRY_SIZE];
    bool by_pasid = s->evlcfg[0] & DSA_EVLCFG_PASID_ENABLE;
    PCIATSRequest req = {
        .pasid = by_pasid ? extract64(s->evlcfg[1], 16, 20) : PCI_ATS_NO_PASID,
        .priv = by_pasid && (s->evlcfg[0] & DSA_EVLCFG_PRIV),
        .write = true,
    };
    ATSWaiter nobody;
    ATSReach r = {};
    uint16_t next;
    uint64_t at;

    if (s->evl_tail >= size) {
        return false;
    }
    next = (s->evl_tail + 1) % size;
    if (next == s->evl_head) {
        return false;
    }
    entry_fill(w, error, entry);
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

/* Tells the event log, or SWERR, of an error. True: the log has it. */
static bool report(DSAState *s, const DSAWork *w, uint8_t error)
{
    uint64_t words[4] = { DSA_SWERR_EVL_LOST << 8 };
    uint64_t epoch = s->port.epoch;

    if (!(s->gencfg & DSA_GENCFG_EVL)) {
        report_fill(w, error, words);
        swerr_set(s, words);
        return false;
    }
    if (!evl_put(s, w, error)) {
        if (s->port.epoch == epoch) {
            swerr_set(s, words);
        }
        return false;
    }
    if (!s->evl_pending && (s->genctrl & DSA_GENCTRL_EVL_INT)) {
        s->evl_pending = true;
        dsa_cause(s, DSA_CAUSE_EVL);
    }
    return true;
}

/* The code by which the log is to have the record of @w, or zero. */
static uint8_t log_instead(DSAState *s, const DSAWork *w)
{
    bool prs = (ats_port_enables(&s->port) & ATS_PORT_PRI) &&
               !(s->wqs[w->wq].config[2] & DSA_WQ_PRS_DISABLE);

    if (!(s->gencfg & DSA_GENCFG_EVL)) {
        return 0;
    }
    if (w->logged && (record_due(w) || (w->interrupt && ended_well(w)))) {
        return DSA_BATCH_LOGGED;
    }
    if (w->desc.opcode == DSA_OP_DRAIN && w->status == DSA_SUCCESS && !prs) {
        return DSA_DRAIN_LOGGED;
    }
    return 0;
}

/* Reports that the record of @w goes to the log, or is lost. */
static ATSStep record_elsewhere(DSAState *s, DSAWork *w, uint8_t error)
{
    uint64_t epoch = s->port.epoch;
    bool logged = report(s, w, error);

    if (s->port.epoch != epoch) {
        return ATS_STEP_GONE;
    }
    /* Who writes the record raises the interrupt, too. */
    w->interrupt = false;
    if (w->batch) {
        w->batch->logged |= logged && error == DSA_RECORD_FAULT;
        w->batch->failed |= !logged;
    }
    return ATS_STEP_OK;
}

/* Writes the record of @w, which has its status, where one is wanted. */
ATSStep dsa_completion_record(DSAState *s, DSAWork *w, ATSReach *r)
{
    const DSADesc *d = &w->desc;
    uint32_t config = s->wqs[w->wq].config[2];
    uint64_t epoch = s->port.epoch;
    uint8_t record[DSA_RECORD_SIZE];
    uint8_t log = log_instead(s, w);
    PCIATSRequest req = {
        .pasid = w->has_pasid ? w->pasid : PCI_ATS_NO_PASID,
        .priv = w->priv,
        .write = true,
    };
    unsigned flags = 0;
    ATSStep step;
    hwaddr at;

    if (w->status == DSA_BAD_RECORD_ALIGN || log) {
        return record_elsewhere(s, w, log ? log : DSA_BAD_RECORD_ALIGN);
    }
    if (!(d->flags & DSA_FLAG_RECORD_VALID) && !ended_well(w)) {
        report(s, w, w->status & DSA_STATUS_MASK);
        return s->port.epoch == epoch ? ATS_STEP_OK : ATS_STEP_GONE;
    }
    if (!record_due(w)) {
        return ATS_STEP_OK;
    }

    /* Block On Fault is about the operands: a record is always asked for. */
    if (config & DSA_WQ_ATS_DISABLE) {
        flags |= ATS_REACH_NO_ATS;
    }
    if (config & DSA_WQ_PRS_DISABLE) {
        flags |= ATS_REACH_NO_PRI;
    }
    step = ats_port_reach(&s->port, &w->waiter, &req, flags, d->record,
                          d->record + DSA_RECORD_SIZE - 1, r);
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
        return record_elsewhere(s, w, DSA_RECORD_FAULT);
    }
    return step;
}
