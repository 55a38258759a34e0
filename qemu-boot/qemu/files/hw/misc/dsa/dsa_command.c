/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: the command register. A command that has to wait for descriptors
 * stays active until they have ended; no other is taken meanwhile.
 */
#include "qemu/osdep.h"
#include "hw/pci/pci_regs.h"
#include "dsa.h"

static bool bus_master(DSAState *s)
{
    return ats_port_enables(&s->port) & ATS_PORT_MASTER;
}

/* A group has both or neither, and nothing is in two (9.2.23). */
static uint8_t check_groups(DSAState *s)
{
    uint64_t wqs = 0, engines = 0, active = 0;

    for (unsigned i = 0; i < DSA_GROUPS; i++) {
        const DSAGroup *g = &s->groups[i];

        if (!g->wqs[0] != !g->engines) {
            return DSA_CMDERR_GROUP;
        }
        if (g->wqs[0] & wqs) {
            return DSA_CMDERR_GROUP_WQS;
        }
        if (g->engines & engines) {
            return DSA_CMDERR_GROUP_ENGINES;
        }
        wqs |= g->wqs[0];
        engines |= g->engines;
    }
    for (unsigned i = 0; i < DSA_WQS; i++) {
        active |= (uint64_t)!!DSA_WQ_SIZE(s->wqs[i].config) << i;
    }
    return wqs == active ? DSA_CMDERR_NONE : DSA_CMDERR_GROUP_WQS;
}

static uint8_t check_event_log(DSAState *s)
{
    uint32_t enables = ats_port_enables(&s->port);
    uint64_t size = s->evlcfg[1] & 0xffff, base = s->evlcfg[0] & ~0xfffull;
    bool pasid = s->evlcfg[0] & DSA_EVLCFG_PASID_ENABLE;
    bool priv = s->evlcfg[0] & DSA_EVLCFG_PRIV;

    if (!(s->gencfg & DSA_GENCFG_EVL)) {
        return DSA_CMDERR_NONE;
    }
    if (size < DSA_EVL_SIZE_MIN ||
        size * DSA_EVL_ENTRY_SIZE - 1 > UINT64_MAX - base) {
        return DSA_CMDERR_EVL;
    }
    if ((pasid && !(enables & ATS_PORT_PASID)) ||
        (priv && !(pasid && (enables & ATS_PORT_PASID_PRIV)))) {
        return DSA_CMDERR_PASID;
    }
    return DSA_CMDERR_NONE;
}

static uint8_t enable_device(DSAState *s)
{
    unsigned total = 0;
    uint8_t error;

    if (s->enabled) {
        return DSA_CMDERR_DEVICE_ENABLED;
    }
    if (!bus_master(s)) {
        return DSA_CMDERR_BUS_MASTER;
    }
    for (unsigned i = 0; i < DSA_WQS; i++) {
        total += DSA_WQ_SIZE(s->wqs[i].config);
    }
    if (total > DSA_TOTAL_SIZE) {
        return DSA_CMDERR_WQ_TOTAL;
    }
    error = check_groups(s);
    if (!error) {
        error = check_event_log(s);
    }
    if (!error) {
        s->enabled = true;
        s->evl_head = s->evl_tail = 0;
        s->evl_pending = false;
    }
    return error;
}

static uint8_t enable_wq(DSAState *s, uint32_t wq)
{
    uint32_t enables = ats_port_enables(&s->port);
    const uint32_t *c;

    if (wq >= DSA_WQS) {
        return DSA_CMDERR_WQ_INDEX;
    }
    c = s->wqs[wq].config;
    if (!s->enabled) {
        return DSA_CMDERR_DEVICE_DISABLED;
    }
    if (s->wqs[wq].enabled) {
        return DSA_CMDERR_WQ_ENABLED;
    }
    if (!DSA_WQ_SIZE(c) || dsa_group_of(s, wq) < 0) {
        return DSA_CMDERR_WQ_SIZE;
    }
    if (!DSA_WQ_PRIORITY(c)) {
        return DSA_CMDERR_WQ_PRIORITY;
    }
    if (!(c[2] & DSA_WQ_DEDICATED)) {
        return DSA_CMDERR_WQ_MODE;
    }
    if ((c[2] & DSA_WQ_PRS_DISABLE) &&
        ((c[2] & DSA_WQ_BOF) || !(s->gencfg & DSA_GENCFG_EVL))) {
        return DSA_CMDERR_WQ_PRS;
    }
    if ((c[2] & DSA_WQ_PASID_ENABLE) && !(enables & ATS_PORT_PASID)) {
        return DSA_CMDERR_WQ_PASID;
    }
    if ((c[2] & DSA_WQ_PASID_ENABLE) && (c[2] & DSA_WQ_PRIV) &&
        !(enables & ATS_PORT_PASID_PRIV)) {
        return DSA_CMDERR_WQ_PRIV;
    }
    if (!DSA_WQ_MAX_BATCH(c) || DSA_WQ_MAX_BATCH(c) > s->max_batch) {
        return DSA_CMDERR_WQ_MAX_BATCH;
    }
    if (DSA_WQ_MAX_XFER(c) > s->max_transfer) {
        return DSA_CMDERR_WQ_MAX_XFER;
    }
    for (unsigned i = DSA_WQ_OP_CONFIG; i < DSA_WQCFG_SIZE / 4; i++) {
        unsigned shift = (i - DSA_WQ_OP_CONFIG) * 32;

        if (c[i] & ~(shift < 64 ? (uint32_t)(dsa_opcap() >> shift) : 0)) {
            return DSA_CMDERR_WQ_OP_CONFIG;
        }
    }
    s->wqs[wq].enabled = true;
    s->wqs[wq].closing = false;
    return DSA_CMDERR_NONE;
}

/* The work queues that the operand of most commands names. */
static uint32_t wq_mask(uint32_t operand)
{
    unsigned first = (operand >> 16) * 16;

    return first < DSA_WQS ? (operand & 0xffff) << first : 0;
}

static uint8_t check_wqs(DSAState *s, uint32_t operand, bool enabled)
{
    uint32_t wqs = wq_mask(operand);

    if (!wqs || (wqs >> DSA_WQS)) {
        return DSA_CMDERR_WQ_INDEX;
    }
    if (!enabled) {
        return DSA_CMDERR_NONE;
    }
    for (unsigned i = 0; i < DSA_WQS; i++) {
        if ((wqs & (1u << i)) && !s->wqs[i].enabled) {
            return DSA_CMDERR_WQ_NOT_ENABLED;
        }
    }
    return DSA_CMDERR_NONE;
}

/* What is known at once; DSA_CMDERR_NONE: the command goes on. */
static uint8_t command_check(DSAState *s, uint32_t command)
{
    uint32_t operand = DSA_CMD_OPERAND(command);

    switch (DSA_CMD_CODE(command)) {
    case DSA_CMD_ENABLE_DEVICE:
        return enable_device(s);
    case DSA_CMD_ENABLE_WQ:
        return enable_wq(s, operand);
    case DSA_CMD_RESET_DEVICE:
        return DSA_CMDERR_NONE;
    case DSA_CMD_DISABLE_DEVICE:
    case DSA_CMD_DRAIN_ALL:
    case DSA_CMD_ABORT_ALL:
    case DSA_CMD_DRAIN_PASID:
    case DSA_CMD_ABORT_PASID:
        return s->enabled ? DSA_CMDERR_NONE : DSA_CMDERR_NOT_ENABLED;
    case DSA_CMD_DISABLE_WQ:
    case DSA_CMD_DRAIN_WQ:
    case DSA_CMD_ABORT_WQ:
        return check_wqs(s, operand, true);
    case DSA_CMD_RESET_WQ:
        return check_wqs(s, operand, false);
    default:
        return DSA_CMDERR_COMMAND;
    }
}

/* The work queues whose descriptors the command is about. */
static uint32_t command_wqs(uint32_t command)
{
    switch (DSA_CMD_CODE(command)) {
    case DSA_CMD_DISABLE_WQ:
    case DSA_CMD_DRAIN_WQ:
    case DSA_CMD_ABORT_WQ:
    case DSA_CMD_RESET_WQ:
        return wq_mask(DSA_CMD_OPERAND(command));
    default:
        return MAKE_64BIT_MASK(0, DSA_WQS);
    }
}

static void command_begin(DSAState *s, uint32_t command)
{
    uint32_t operand = DSA_CMD_OPERAND(command);
    uint32_t wqs = command_wqs(command);

    switch (DSA_CMD_CODE(command)) {
    case DSA_CMD_RESET_DEVICE:
    case DSA_CMD_ABORT_ALL:
    case DSA_CMD_ABORT_WQ:
        dsa_queue_abort(s, wqs, NULL);
        break;
    case DSA_CMD_ABORT_PASID:
        dsa_queue_abort(s, wqs, &operand);
        break;
    case DSA_CMD_DISABLE_DEVICE:
    case DSA_CMD_DISABLE_WQ:
    case DSA_CMD_RESET_WQ:
        for (unsigned i = 0; i < DSA_WQS; i++) {
            if (wqs & (1u << i)) {
                s->wqs[i].closing = true;
            }
        }
        break;
    }
}

/* Its descriptors have ended. */
static void command_end(DSAState *s, uint32_t command)
{
    unsigned code = DSA_CMD_CODE(command);
    uint32_t wqs = command_wqs(command);

    if (code == DSA_CMD_RESET_DEVICE) {
        uint32_t cause = s->intcause;

        dsa_registers_reset(s);
        s->intcause = cause;
        return;
    }
    if (code == DSA_CMD_DISABLE_DEVICE) {
        s->enabled = false;
    }
    for (unsigned i = 0; i < DSA_WQS; i++) {
        DSAWorkQueue *q = &s->wqs[i];

        if (!(wqs & (1u << i))) {
            continue;
        }
        if (q->closing) {
            q->enabled = q->closing = false;
        }
        if (code == DSA_CMD_RESET_WQ) {
            /* The size stays (3.15). */
            memset(&q->config[1], 0, sizeof(q->config) - sizeof(q->config[0]));
        }
    }
}

static void command_status(DSAState *s, uint32_t command, uint8_t error)
{
    s->cmdsts = error;
    s->command = 0;
    if (command & DSA_CMD_INTERRUPT) {
        dsa_cause(s, DSA_CAUSE_COMMAND);
    }
}

void dsa_command_look(DSAState *s)
{
    uint32_t command = s->command;
    uint32_t pasid = DSA_CMD_OPERAND(command);

    if (!(s->cmdsts & DSA_CMDSTS_ACTIVE)) {
        return;
    }
    if (!dsa_queue_idle(s, command_wqs(command),
                        DSA_CMD_CODE(command) == DSA_CMD_DRAIN_PASID ? &pasid
                                                                     : NULL) &&
        DSA_CMD_CODE(command) != DSA_CMD_ABORT_PASID) {
        return;
    }
    command_end(s, command);
    command_status(s, command, DSA_CMDERR_NONE);
}

void dsa_command(DSAState *s, uint32_t command)
{
    uint8_t error;

    if (s->cmdsts & DSA_CMDSTS_ACTIVE) {
        return;
    }
    error = command_check(s, command);
    if (error || DSA_CMD_CODE(command) == DSA_CMD_ENABLE_DEVICE ||
        DSA_CMD_CODE(command) == DSA_CMD_ENABLE_WQ) {
        command_status(s, command, error);
        return;
    }
    s->command = command;
    s->cmdsts = DSA_CMDSTS_ACTIVE;
    command_begin(s, command);
    dsa_command_look(s);
}
