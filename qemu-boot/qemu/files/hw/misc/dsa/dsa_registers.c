/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: the registers of BAR 0. Configuration is writable while what it
 * configures is off, a work queue's size while the device is off (table 9-7):
 * Enable Device has checked their sum. Other writes are ignored.
 */
#include "qemu/osdep.h"
#include "hw/pci/msix.h"
#include "dsa.h"

#define VERSION                 0x200

/* What works is shown, and nothing else. */
uint64_t dsa_opcap(void)
{
    static const uint8_t opcodes[] = {
        DSA_OP_NOOP, DSA_OP_BATCH, DSA_OP_DRAIN, DSA_OP_MEMMOVE, DSA_OP_FILL,
        DSA_OP_COMPARE, DSA_OP_COMPARE_PATTERN, DSA_OP_CREATE_DELTA,
        DSA_OP_APPLY_DELTA, DSA_OP_DUALCAST, DSA_OP_CRC, DSA_OP_COPY_CRC,
        DSA_OP_DIF_CHECK, DSA_OP_DIF_INSERT, DSA_OP_DIF_STRIP,
        DSA_OP_DIF_UPDATE, DSA_OP_CACHE_FLUSH,
    };
    uint64_t bits = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(opcodes); i++) {
        bits |= 1ull << opcodes[i];
    }
    return bits;
}

void dsa_registers_reset(DSAState *s)
{
    s->enabled = false;
    s->gencfg = s->genctrl = s->intcause = s->cmdsts = 0;
    s->evlcfg[0] = s->evlcfg[1] = 0;
    s->evl_head = s->evl_tail = 0;
    s->evl_pending = false;
    s->command = 0;
    memset(s->swerr, 0, sizeof(s->swerr));
    memset(s->msix_perm, 0, sizeof(s->msix_perm));
    for (unsigned i = 0; i < DSA_GROUPS; i++) {
        DSAGroup *g = &s->groups[i];

        memset(g->wqs, 0, sizeof(g->wqs));
        g->engines = g->flags = 0;
    }
    for (unsigned i = 0; i < DSA_WQS; i++) {
        DSAWorkQueue *q = &s->wqs[i];

        memset(q->config, 0, sizeof(q->config));
        memset(q->portals, 0, sizeof(q->portals));
        q->enabled = q->closing = false;
    }
}

/* Sets bits of INTCAUSE. The interrupt of vector 0 comes last. */
void dsa_cause(DSAState *s, uint32_t cause)
{
    PCIDevice *dev = PCI_DEVICE(s);
    bool notify = true;

    s->intcause |= cause;
    if (cause == DSA_CAUSE_SWERR) {
        notify = s->genctrl & DSA_GENCTRL_SWERR_INT;
    } else if (cause == DSA_CAUSE_EVL) {
        notify = s->genctrl & DSA_GENCTRL_EVL_INT;
    }
    if (notify && msix_enabled(dev)) {
        msix_notify(dev, 0);
    }
}

/* The group that @wq is in, or -1. */
int dsa_group_of(DSAState *s, unsigned wq)
{
    for (unsigned i = 0; i < DSA_GROUPS; i++) {
        if (s->groups[i].wqs[0] & (1ull << wq)) {
            return i;
        }
    }
    return -1;
}

static uint64_t capability(DSAState *s, hwaddr addr)
{
    switch (addr) {
    case DSA_VERSION:
        return VERSION;
    case DSA_GENCAP:
        return DSA_GENCAP_BLOCK_ON_FAULT | DSA_GENCAP_OVERLAP_COPY |
               DSA_GENCAP_CACHE_MEM | DSA_GENCAP_CACHE_CACHE |
               DSA_GENCAP_CMD_CAP | 1ull << DSA_GENCAP_EVL_SHIFT |
               (uint64_t)s->max_transfer << DSA_GENCAP_MAX_XFER_SHIFT |
               (uint64_t)s->max_batch << DSA_GENCAP_MAX_BATCH_SHIFT |
               DSA_GENCAP_CONFIG | DSA_GENCAP_EVL_OVERFLOW;
    case DSA_WQCAP:
        /* Shared mode would need ENQCMD. */
        return DSA_TOTAL_SIZE | (uint64_t)DSA_WQS << DSA_WQCAP_WQS_SHIFT |
               1ull << DSA_WQCAP_WQCFG_SIZE_SHIFT | DSA_WQCAP_DEDICATED |
               DSA_WQCAP_ATS | DSA_WQCAP_PRIORITY | DSA_WQCAP_OCCUPANCY |
               DSA_WQCAP_OP_CONFIG | DSA_WQCAP_PRS;
    case DSA_GRPCAP:
        /* Read buffers are configured and change nothing: they are for speed. */
        return DSA_GROUPS | DSA_RDBUFS << DSA_GRPCAP_RDBUFS_SHIFT |
               DSA_GRPCAP_RDBUF_CONTROL | DSA_GRPCAP_RDBUF_LIMIT;
    case DSA_ENGCAP:
        return DSA_ENGINES;
    case DSA_OPCAP:
        return dsa_opcap();
    case DSA_OFFSETS:
        return DSA_GRPCFG / 0x100 |
               (uint64_t)DSA_WQCFG / 0x100 << DSA_OFFSETS_WQCFG_SHIFT |
               (uint64_t)DSA_MSIX_PERM / 0x100 << DSA_OFFSETS_MSIX_PERM_SHIFT;
    case DSA_CMDCAP:
        return MAKE_64BIT_MASK(DSA_CMD_ENABLE_DEVICE, DSA_CMD_LAST);
    default:
        return 0;
    }
}

/* The aligned 8 bytes at @addr. */
static uint64_t read64(DSAState *s, hwaddr addr)
{
    switch (addr) {
    case DSA_GENCFG:
        return s->gencfg;
    case DSA_GENCTRL:
        return s->genctrl;
    case DSA_GENSTS:
        return s->enabled ? DSA_STATE_ENABLED : DSA_STATE_DISABLED;
    case DSA_INTCAUSE:
        return s->intcause;
    case DSA_CMDSTS:
        return s->cmdsts;
    case DSA_SWERR ... DSA_SWERR + 31:
        return s->swerr[(addr - DSA_SWERR) / 8];
    case DSA_EVLCFG:
    case DSA_EVLCFG + 8:
        return s->evlcfg[(addr - DSA_EVLCFG) / 8];
    case DSA_EVLSTATUS:
        return s->evl_head | (uint64_t)s->evl_tail << 32 |
               (s->evl_pending ? (uint64_t)DSA_EVLSTATUS_PENDING << 32 : 0);
    case DSA_GRPCFG ... DSA_GRPCFG + DSA_GROUPS * DSA_GRPCFG_SIZE - 1: {
        DSAGroup *g = &s->groups[(addr - DSA_GRPCFG) / DSA_GRPCFG_SIZE];
        hwaddr offset = (addr - DSA_GRPCFG) % DSA_GRPCFG_SIZE;

        return offset < DSA_GRPCFG_ENGINES ? g->wqs[offset / 8]
               : offset == DSA_GRPCFG_ENGINES ? g->engines
               : offset == DSA_GRPCFG_FLAGS ? g->flags : 0;
    }
    case DSA_WQCFG ... DSA_WQCFG + DSA_WQS * DSA_WQCFG_SIZE - 1: {
        DSAWorkQueue *q = &s->wqs[(addr - DSA_WQCFG) / DSA_WQCFG_SIZE];
        unsigned word = (addr - DSA_WQCFG) % DSA_WQCFG_SIZE / 4;
        uint64_t value = q->config[word] | (uint64_t)q->config[word + 1] << 32;

        if (word == 6) {
            value = q->queued;
            value |= q->enabled ? DSA_WQ_STATE_ENABLED << DSA_WQ_STATE_SHIFT
                                : 0;
        }
        return value;
    }
    case DSA_MSIX_PERM ... DSA_MSIX_PERM + DSA_VECTORS * 8 - 1:
        return s->msix_perm[(addr - DSA_MSIX_PERM) / 8];
    default:
        return capability(s, addr);
    }
}

static uint64_t registers_read(void *opaque, hwaddr addr, unsigned size)
{
    uint64_t value = read64(opaque, addr & ~7ull);

    return extract64(value, (addr & 7) * 8, size * 8);
}

static void group_write(DSAState *s, hwaddr addr, uint64_t value, uint64_t mask)
{
    DSAGroup *g = &s->groups[(addr - DSA_GRPCFG) / DSA_GRPCFG_SIZE];
    hwaddr offset = (addr - DSA_GRPCFG) % DSA_GRPCFG_SIZE;
    uint64_t *field = NULL;

    if (offset == 0) {
        field = &g->wqs[0];
        value &= MAKE_64BIT_MASK(0, DSA_WQS);
    } else if (offset == DSA_GRPCFG_ENGINES) {
        field = &g->engines;
        value &= MAKE_64BIT_MASK(0, DSA_ENGINES);
    } else if (offset == DSA_GRPCFG_FLAGS) {
        field = &g->flags;
    }
    if (field && !s->enabled) {
        *field = (*field & ~mask) | (value & mask);
    }
}

static void wq_write(DSAState *s, hwaddr addr, uint32_t value)
{
    DSAWorkQueue *q = &s->wqs[(addr - DSA_WQCFG) / DSA_WQCFG_SIZE];
    unsigned word = (addr - DSA_WQCFG) % DSA_WQCFG_SIZE / 4;

    if (!q->enabled && !(word == 0 && s->enabled) && word != 6 && word != 7) {
        q->config[word] = value;
    }
}

static void write32(DSAState *s, hwaddr addr, uint32_t value)
{
    switch (addr) {
    case DSA_GENCFG:
        if (!s->enabled) {
            s->gencfg = value & DSA_GENCFG_MASK;
        } else {
            /* The enable of user-mode interrupts alone. */
            s->gencfg = (s->gencfg & ~DSA_GENCFG_USER_INT) |
                        (value & DSA_GENCFG_USER_INT);
        }
        break;
    case DSA_GENCTRL:
        s->genctrl = value & (DSA_GENCTRL_SWERR_INT | DSA_GENCTRL_HALT_INT |
                              DSA_GENCTRL_EVL_INT);
        break;
    case DSA_INTCAUSE:
        s->intcause &= ~value;
        break;
    case DSA_CMD:
        dsa_command(s, value);
        break;
    case DSA_SWERR:
        s->swerr[0] &= ~(value & (DSA_SWERR_VALID | DSA_SWERR_OVERFLOW));
        if (!(s->swerr[0] & DSA_SWERR_VALID)) {
            memset(s->swerr, 0, sizeof(s->swerr));
        }
        break;
    case DSA_EVLCFG ... DSA_EVLCFG + 15: {
        unsigned i = (addr - DSA_EVLCFG) / 8;

        if (!s->enabled) {
            s->evlcfg[i] = deposit64(s->evlcfg[i], (addr & 4) * 8, 32, value);
            s->evl_head = s->evl_tail = 0;
        }
        break;
    }
    case DSA_EVLSTATUS:
        s->evl_head = value;
        break;
    case DSA_EVLSTATUS + 4:
        if (value & DSA_EVLSTATUS_PENDING) {
            s->evl_pending = false;
        }
        break;
    case DSA_GRPCFG ... DSA_GRPCFG + DSA_GROUPS * DSA_GRPCFG_SIZE - 1:
        group_write(s, addr & ~7ull, (uint64_t)value << (addr & 4) * 8,
                    (uint64_t)UINT32_MAX << (addr & 4) * 8);
        break;
    case DSA_WQCFG ... DSA_WQCFG + DSA_WQS * DSA_WQCFG_SIZE - 1:
        wq_write(s, addr, value);
        break;
    case DSA_MSIX_PERM ... DSA_MSIX_PERM + DSA_VECTORS * 8 - 1:
        if (!(addr & 4)) {
            s->msix_perm[(addr - DSA_MSIX_PERM) / 8] = value &
                                                       DSA_MSIX_PERM_MASK;
        }
        break;
    }
}

static void registers_write(void *opaque, hwaddr addr, uint64_t value,
                            unsigned size)
{
    write32(opaque, addr, value);
    if (size == 8) {
        write32(opaque, addr + 4, value >> 32);
    }
}

const MemoryRegionOps dsa_register_ops = {
    .read = registers_read,
    .write = registers_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 4, .max_access_size = 8 },
    .impl = { .min_access_size = 4, .max_access_size = 8 },
};
