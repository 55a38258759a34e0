/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated VT-d with nested translation: from a request to its translation.
 *
 * A request finds its context entry (VT-d 4.1, 9.4), its PASID table entry (9.5,
 * 9.6) and, by the entry's PGTT, goes through first-stage tables (3.6, 9.7),
 * second-stage tables (3.7, 9.8), both (3.8) or neither. Faults carry the
 * reasons of 7.1.3.
 *
 * Tables are read and updated in RAM only: an address that is not RAM is an
 * access error. So no walk reaches another device, and none takes more steps
 * than tables have levels.
 *
 * Locks: iommu_lock is taken around look-up and walk and dropped before a fault
 * is recorded. Invalidations and the calls from endpoints hold the BQL.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "exec/address-spaces.h"
#include "hw/i386/x86-iommu.h"
#include "hw/pci/pci_bus.h"
#include "intel_iommu_nested.h"

/* A compare-and-exchange lost this often in a row is given up: 0x91. */
#define VTD_NST_CAS_MAX     64

/* The second stage of a PASID entry. */
typedef struct VTDNstStage2 {
    hwaddr root;
    unsigned levels;
    hwaddr last;                /* highest input address */
    bool ad;                    /* SSADE: set accessed and dirty bits */
} VTDNstStage2;

typedef enum VTDNstSetResult {
    VTD_NST_SET_DONE,
    VTD_NST_SET_LOST,           /* the entry has changed: read it again */
    VTD_NST_SET_FAILED,
} VTDNstSetResult;

/* RAM behind @addr, for the current RCU critical section, or NULL. */
uint64_t *vtd_nested_ram(hwaddr addr, hwaddr len, bool is_write)
{
    hwaddr got = len, xlat;
    MemoryRegion *mr = address_space_translate(&address_space_memory, addr,
                                               &xlat, &got, is_write,
                                               MEMTXATTRS_UNSPECIFIED);

    if (got < len ||
        !memory_access_is_direct(mr, is_write, MEMTXATTRS_UNSPECIFIED)) {
        return NULL;
    }
    return (uint64_t *)((uint8_t *)memory_region_get_ram_ptr(mr) + xlat);
}

/*
 * Reads @count quadwords. The first is read first: it holds the present bit,
 * which software sets last.
 */
static bool vtd_nst_read(hwaddr addr, uint64_t *to, unsigned count)
{
    uint64_t *ram = vtd_nested_ram(addr, count * sizeof(*to), false);
    unsigned i;

    if (!ram) {
        return false;
    }
    to[0] = le64_to_cpu(qatomic_load_acquire(&ram[0]));
    for (i = 1; i < count; i++) {
        to[i] = le64_to_cpu(qatomic_read(&ram[i]));
    }
    return true;
}

/* Sets @bits in the entry at @addr, atomically, if it still reads @old. */
static VTDNstSetResult vtd_nst_set(hwaddr addr, uint64_t old, uint64_t bits)
{
    hwaddr len = sizeof(old);
    uint64_t *host, seen;

    if ((old & bits) == bits) {
        return VTD_NST_SET_DONE;
    }
    if (!vtd_nested_ram(addr, len, true)) {
        return VTD_NST_SET_FAILED;
    }
    /* Unmapping tells dirty logging and the translator's code cache. */
    host = address_space_map(&address_space_memory, addr, &len, true,
                             MEMTXATTRS_UNSPECIFIED);
    if (!host) {
        return VTD_NST_SET_FAILED;
    }
    if (len < sizeof(old)) {
        address_space_unmap(&address_space_memory, host, len, true, 0);
        return VTD_NST_SET_FAILED;
    }
    seen = qatomic_cmpxchg(host, cpu_to_le64(old), cpu_to_le64(old | bits));
    address_space_unmap(&address_space_memory, host, len, true, sizeof(old));
    return seen == cpu_to_le64(old) ? VTD_NST_SET_DONE : VTD_NST_SET_LOST;
}

/* Bits of an address that the platform does not have. */
static uint64_t vtd_nst_beyond_haw(IntelIOMMUState *s)
{
    return ~VTD_HAW_MASK(s->aw_bits) & MAKE_64BIT_MASK(12, 52);
}

/* Context entry (9.4) */

/*
 * The context entry of @sid, from the cache or the tables. @fpd is the entry's
 * Fault Processing Disable, valid with an error too. Returns 0 or a fault
 * reason.
 */
static int vtd_nst_context(IntelIOMMUState *s, uint16_t sid,
                           VTDContextEntry *ce, bool *fpd)
{
    const VTDContextEntry *cached = vtd_nst_context_find(s->nested, sid);
    uint8_t devfn = VTD_SID_TO_DEVFN(sid);
    uint64_t root[2], table;

    *fpd = false;
    if (cached) {
        *ce = *cached;
        *fpd = ce->val[0] & VTD_CONTEXT_ENTRY_FPD;
        return 0;
    }

    if (!vtd_nst_read(s->root + VTD_SID_TO_BUS(sid) * sizeof(root), root, 2)) {
        return VTD_FR_SRT_ACCESS;
    }
    table = root[devfn >> 7];
    if (!(table & VTD_ROOT_ENTRY_P)) {
        return VTD_FR_SRT_P;
    }
    if (table & (0xffeULL | vtd_nst_beyond_haw(s))) {
        return VTD_FR_SRT_RSVD;
    }
    table &= VTD_ROOT_ENTRY_CTP;
    if (!vtd_nst_read(table + (devfn & 0x7f) * VTD_CTX_ENTRY_SCALABLE_SIZE,
                      ce->val, ARRAY_SIZE(ce->val))) {
        return VTD_FR_SCT_ACCESS;
    }
    *fpd = ce->val[0] & VTD_CONTEXT_ENTRY_FPD;
    if (!(ce->val[0] & VTD_CONTEXT_ENTRY_P)) {
        return VTD_FR_SCT_P;
    }
    if ((ce->val[0] & VTD_SM_CONTEXT_ENTRY_RSVD_VAL0(s->aw_bits)) ||
        (ce->val[1] & VTD_SM_CONTEXT_ENTRY_RSVD_VAL1) ||
        ce->val[2] || ce->val[3]) {
        return VTD_FR_SCT_RSVD;
    }
    vtd_nst_context_add(s->nested, sid, ce);
    return 0;
}

int vtd_nested_get_context(IntelIOMMUState *s, uint16_t sid,
                           VTDContextEntry *ce, bool *fpd)
{
    QEMU_LOCK_GUARD(&s->iommu_lock);
    RCU_READ_LOCK_GUARD();
    return vtd_nst_context(s, sid, ce, fpd);
}

/* PASID directory and table entry (9.5, 9.6) */

static unsigned vtd_nst_ss_levels(const VTDPASIDEntry *pe)
{
    return VTD_PE_AW(pe) + 2;
}

/* Returns 0 or a fault reason. */
static int vtd_nst_check_pe(IntelIOMMUState *s, const VTDPASIDEntry *pe)
{
    uint64_t pgtt = VTD_PE_PGTT(pe);
    bool fs = pgtt == VTD_SM_PASID_ENTRY_FLT ||
              pgtt == VTD_SM_PASID_ENTRY_NESTED;
    bool ss = pgtt == VTD_SM_PASID_ENTRY_SLT ||
              pgtt == VTD_SM_PASID_ENTRY_NESTED;

    if (!fs && !ss && pgtt != VTD_SM_PASID_ENTRY_PT) {
        return VTD_FR_PASID_TABLE_ENTRY_INV;
    }
    if (pgtt == VTD_SM_PASID_ENTRY_PT && !(s->ecap & VTD_ECAP_PT)) {
        return VTD_FR_PASID_TABLE_ENTRY_INV;
    }
    /* Widths of the second stage are those of CAP.SAGAW. */
    if (ss && (VTD_PE_AW(pe) > 3 ||
               !(s->cap & (1ULL << (VTD_PE_AW(pe) + VTD_CAP_SAGAW_SHIFT))))) {
        return VTD_FR_PASID_TABLE_ENTRY_INV;
    }
    if (fs && VTD_PE_FSPM(pe) > ((s->cap & VTD_CAP_FS5LP) ? 1 : 0)) {
        return VTD_FR_PASID_TABLE_ENTRY_INV;
    }

    /* Second-stage execute (bit 5) is not offered, 11:10 are reserved. */
    if ((pe->val[0] & 0xc20) || (pe->val[1] & 0x7f0000) ||
        (pe->val[3] | pe->val[4] | pe->val[5] | pe->val[6] | pe->val[7])) {
        return VTD_FR_SPT_RSVD;
    }
    if (ss && (pe->val[0] & vtd_nst_beyond_haw(s))) {
        return VTD_FR_SPT_RSVD;
    }
    /* Execute requests (ECAP.ERS) are not offered: ERE, NXE, SMEP, 11:8. */
    if (fs && (pe->val[2] & (0xf62 | vtd_nst_beyond_haw(s)))) {
        return VTD_FR_SPT_RSVD;
    }
    return 0;
}

/*
 * The PASID entry for @pasid of @sid. @fpd is or-ed with what the tables say,
 * with an error too. Returns 0 or a fault reason.
 */
static int vtd_nst_pasid(IntelIOMMUState *s, const VTDContextEntry *ce,
                         uint16_t sid, uint32_t pasid, bool *fpd,
                         VTDNstPasid **out)
{
    VTDNstPasid *p = vtd_nst_pasid_find(s->nested, sid, pasid);
    VTDPASIDEntry pe;
    uint64_t dir;
    hwaddr addr;
    int fault;

    if (p) {
        *fpd |= p->fpd;
        *out = p;
        return 0;
    }

    addr = (ce->val[0] & VTD_PASID_DIR_BASE_ADDR_MASK) +
           VTD_PASID_DIR_INDEX(pasid) * VTD_PASID_DIR_ENTRY_SIZE;
    if (!vtd_nst_read(addr, &dir, 1)) {
        return VTD_FR_PASID_DIR_ACCESS_ERR;
    }
    *fpd |= !!(dir & VTD_PASID_DIR_FPD);
    if (!(dir & 1)) {
        return VTD_FR_PASID_DIR_ENTRY_P;
    }
    if (dir & (0xffcULL | vtd_nst_beyond_haw(s))) {
        return VTD_FR_SPD_RSVD;
    }

    addr = (dir & VTD_PASID_TABLE_BASE_ADDR_MASK) +
           VTD_PASID_TABLE_INDEX(pasid) * VTD_PASID_ENTRY_SIZE;
    if (!vtd_nst_read(addr, pe.val, ARRAY_SIZE(pe.val))) {
        return VTD_FR_PASID_TABLE_ACCESS_ERR;
    }
    *fpd |= !!(pe.val[0] & VTD_PASID_ENTRY_FPD);
    if (!(pe.val[0] & VTD_PASID_ENTRY_P)) {
        return VTD_FR_PASID_ENTRY_P;
    }
    fault = vtd_nst_check_pe(s, &pe);
    if (fault) {
        return fault;
    }
    *out = vtd_nst_pasid_add(s->nested, sid, pasid, &pe, *fpd);
    return 0;
}

/* Second stage (3.7, 9.8) */

static VTDNstStage2 vtd_nst_stage2(IntelIOMMUState *s, const VTDPASIDEntry *pe)
{
    unsigned levels = vtd_nst_ss_levels(pe);
    unsigned width = MIN(12 + 9 * levels, s->aw_bits);

    return (VTDNstStage2) {
        .root = pe->val[0] & VTD_SM_PASID_ENTRY_SLPTPTR,
        .levels = levels,
        .last = VTD_HAW_MASK(width),
        .ad = (s->ecap & VTD_ECAP_SSADS) && (pe->val[0] & VTD_PE_SSADE),
    };
}

static uint64_t vtd_nst_ss_reserved(IntelIOMMUState *s, uint64_t pte,
                                    unsigned level, bool leaf)
{
    /* 52 to 61 and 63 are ignored; 62 was Transient Mapping. */
    uint64_t reserved = (vtd_nst_beyond_haw(s) & MAKE_64BIT_MASK(0, 52)) |
                        (1ULL << 62);

    if (level >= 4) {
        reserved |= VTD_PT_PAGE_SIZE_MASK;
    }
    if (leaf) {
        reserved |= (VTD_PAGE_SIZE << ((level - 1) * VTD_LEVEL_BITS)) -
                    VTD_PAGE_SIZE;
    } else {
        reserved |= VTD_SPTE_SNP;
    }
    return pte & reserved;
}

/*
 * Walks stage 2 for @gpa, which is within its width. With @dirty the access is a
 * write that sets the dirty bit. Without it, and with dirty bits in use, out->w
 * is clear until that bit is set. Returns 0 or a fault reason.
 */
static int vtd_nst_ss_walk(IntelIOMMUState *s, const VTDNstStage2 *ss,
                           hwaddr gpa, bool dirty, VTDNstXlat *out)
{
    hwaddr table = ss->root;
    unsigned level = ss->levels;
    unsigned tries = 0;
    bool r = true, w = true;

    for (;;) {
        unsigned shift = VTD_PAGE_SHIFT_4K + (level - 1) * VTD_LEVEL_BITS;
        hwaddr at = table + ((gpa >> shift) & 0x1ff) * sizeof(uint64_t);
        uint64_t pte, bits;
        bool leaf, now_r, now_w;

        if (!vtd_nst_read(at, &pte, 1)) {
            return level == ss->levels ? VTD_FR_SSS_ROOT_ACCESS :
                                         VTD_FR_SSS_ACCESS;
        }
        if (!(pte & VTD_SL_RW_MASK)) {
            return VTD_FR_SSS_P;
        }
        leaf = level == 1 || (level < 4 && (pte & VTD_PT_PAGE_SIZE_MASK));
        if (vtd_nst_ss_reserved(s, pte, level, leaf)) {
            return VTD_FR_SSS_RSVD;
        }
        now_r = r && (pte & VTD_SL_R);
        now_w = w && (pte & VTD_SL_W);

        if (ss->ad) {
            bits = VTD_SS_A;
            if (leaf && now_w && dirty) {
                bits |= VTD_SS_D;
            }
            switch (vtd_nst_set(at, pte, bits)) {
            case VTD_NST_SET_DONE:
                break;
            case VTD_NST_SET_LOST:
                if (++tries < VTD_NST_CAS_MAX) {
                    continue;
                }
                /* fall through */
            default:
                return VTD_FR_SSS_ACCESS;
            }
            if (leaf && !dirty && !(pte & VTD_SS_D)) {
                now_w = false;
            }
        }

        r = now_r;
        w = now_w;
        if (leaf) {
            hwaddr mask = (1ULL << shift) - 1;

            out->iova = gpa & ~mask;
            out->addr = pte & VTD_HAW_MASK(s->aw_bits) & ~mask & ~0xfffULL;
            out->mask = mask;
            out->s1_mask = mask;
            out->r = r;
            out->w = w;
            return 0;
        }
        table = pte & VTD_PT_BASE_ADDR_MASK(s->aw_bits);
        level--;
        tries = 0;
    }
}

/* First stage (3.6, 9.7), alone or nested (3.8) */

static uint64_t vtd_nst_fs_reserved(IntelIOMMUState *s, uint64_t pte,
                                    unsigned level, bool leaf)
{
    uint64_t reserved = vtd_nst_beyond_haw(s) & MAKE_64BIT_MASK(0, 52);

    if (level >= 4 || (level == 3 && !(s->cap & VTD_CAP_FS1GP))) {
        reserved |= VTD_PT_PAGE_SIZE_MASK;
    }
    if (leaf && level > 1) {
        /* Bit 12 of a large page is PAT. */
        reserved |= MAKE_64BIT_MASK(13, (level - 1) * VTD_LEVEL_BITS - 1);
    }
    return pte & reserved;
}

/* Where a stage-1 table entry lies in memory. */
typedef struct VTDNstEntryAt {
    hwaddr gpa;
    hwaddr hpa;
} VTDNstEntryAt;

/* Translates the address of a stage-1 entry, for reading or for an update. */
static int vtd_nst_fs_locate(IntelIOMMUState *s, const VTDNstStage2 *ss,
                             bool root, bool update, VTDNstEntryAt *at)
{
    VTDNstXlat x;
    int fault;

    if (!ss) {
        at->hpa = at->gpa;
        return 0;
    }
    if (at->gpa > ss->last) {
        return VTD_FR_SFS_TABLE_RANGE;
    }
    fault = vtd_nst_ss_walk(s, ss, at->gpa, update, &x);
    if (update && ((!fault && !x.w) || fault == VTD_FR_SSS_P)) {
        return VTD_FR_SFS_TABLE_WRITE;
    }
    if ((!fault && !x.r) || fault == VTD_FR_SSS_P) {
        return root ? VTD_FR_SFS_ROOT_READ : VTD_FR_SFS_TABLE_READ;
    }
    at->hpa = x.addr | (at->gpa & x.mask);
    return fault;
}

/* Sets @bits in the stage-1 entry @at. 0, a fault reason, or -EAGAIN. */
static int vtd_nst_fs_set(IntelIOMMUState *s, const VTDNstStage2 *ss,
                          bool root, VTDNstEntryAt *at, uint64_t pte,
                          uint64_t bits)
{
    int fault;

    if ((pte & bits) == bits) {
        return 0;
    }
    fault = vtd_nst_fs_locate(s, ss, root, true, at);
    if (fault) {
        return fault;
    }
    switch (vtd_nst_set(at->hpa, pte, bits)) {
    case VTD_NST_SET_DONE:
        return 0;
    case VTD_NST_SET_LOST:
        return -EAGAIN;
    default:
        return VTD_FR_FS_BIT_UPDATE_FAILED;
    }
}

static bool vtd_nst_in_interrupt_range(hwaddr addr)
{
    return addr >= VTD_INTERRUPT_ADDR_FIRST && addr <= VTD_INTERRUPT_ADDR_LAST;
}

/*
 * Checks the final translation of @req and cuts it so that it does not reach
 * into the interrupt range (3.15). Returns 0 or a fault reason.
 */
static int vtd_nst_finish(const VTDNstReq *req, VTDNstXlat *x)
{
    hwaddr addr = x->addr | (req->iova & x->mask);

    if (vtd_nst_in_interrupt_range(addr)) {
        return VTD_FR_SM_INTERRUPT_ADDR;
    }
    if (x->addr <= VTD_INTERRUPT_ADDR_LAST &&
        (x->addr | x->mask) >= VTD_INTERRUPT_ADDR_FIRST) {
        x->mask = ~VTD_PAGE_MASK_4K;
        x->addr = addr & VTD_PAGE_MASK_4K;
        x->iova = req->iova & VTD_PAGE_MASK_4K;
    }
    return 0;
}

/* Whether @req has the access that it needs; ATS takes what there is. */
static int vtd_nst_check_access(const VTDNstReq *req, const VTDNstXlat *x)
{
    if (req->ats) {
        return 0;
    }
    if (req->write && !x->w) {
        return VTD_FR_SM_WRITE;
    }
    if (!req->write && !x->r) {
        return VTD_FR_SGN_READ;
    }
    return 0;
}

/*
 * Handles the leaf @pte of stage 1 at @at: the page through stage 2, the access
 * rights, then accessed and dirty. 0, a fault reason, or -EAGAIN.
 */
static int vtd_nst_fs_leaf(IntelIOMMUState *s, const VTDNstReq *req,
                           const VTDNstStage2 *ss, bool root,
                           VTDNstEntryAt *at, uint64_t pte, unsigned level,
                           bool writable, bool eafe, VTDNstXlat *out)
{
    hwaddr mask = (1ULL << (VTD_PAGE_SHIFT_4K + (level - 1) * VTD_LEVEL_BITS))
                  - 1;
    hwaddr page = pte & VTD_PT_BASE_ADDR_MASK(s->aw_bits) & ~mask;
    hwaddr gpa = page | (req->iova & mask);
    uint64_t bits = VTD_FL_A | (eafe ? VTD_FS_EA : 0);
    int fault;

    out->r = true;
    out->w = writable;
    out->mask = mask;
    out->addr = page;
    fault = vtd_nst_check_access(req, out);
    if (fault) {
        return fault;
    }

    if (ss) {
        VTDNstXlat x;

        if (gpa > ss->last) {
            return VTD_FR_SGN_GPA_RANGE;
        }
        fault = vtd_nst_ss_walk(s, ss, gpa, req->write && writable, &x);
        if (fault) {
            return fault;
        }
        out->r = x.r;
        out->w = writable && x.w;
        fault = vtd_nst_check_access(req, out);
        if (fault) {
            return fault;
        }
        out->mask = MIN(mask, x.mask);
        out->addr = (x.addr | (gpa & x.mask)) & ~out->mask;
    }
    out->s1_mask = mask;
    out->iova = req->iova & ~out->mask;
    fault = vtd_nst_finish(req, out);
    if (fault || (!out->r && !out->w)) {
        return fault;
    }

    if (out->w && req->write) {
        bits |= VTD_FL_D;
    }
    fault = vtd_nst_fs_set(s, ss, root, at, pte, bits);
    if (fault) {
        return fault;
    }
    /* A clean page is cached without write: the first write must come here. */
    if (!((pte | bits) & VTD_FL_D)) {
        out->w = false;
    }
    return 0;
}

/* Walks stage 1, through @ss where it is not NULL. 0 or a fault reason. */
static int vtd_nst_fs_walk(IntelIOMMUState *s, const VTDNstReq *req,
                           const VTDPASIDEntry *pe, const VTDNstStage2 *ss,
                           VTDNstXlat *out)
{
    unsigned top = 4 + VTD_PE_FSPM(pe);
    unsigned va_bits = 12 + 9 * top;
    int64_t upper = (int64_t)req->iova >> (va_bits - 1);
    bool eafe = pe->val[2] & VTD_PE_EAFE;
    bool ignore_rw = req->priv && !(pe->val[2] & VTD_PE_WPE);
    hwaddr table = pe->val[2] & VTD_SM_PASID_ENTRY_FLPTPTR;
    bool writable = true;
    unsigned level = top, tries = 0;

    if (upper != 0 && upper != -1) {
        return VTD_FR_FS_NON_CANONICAL;
    }

    for (;;) {
        unsigned shift = VTD_PAGE_SHIFT_4K + (level - 1) * VTD_LEVEL_BITS;
        VTDNstEntryAt at = {
            .gpa = table + ((req->iova >> shift) & 0x1ff) * sizeof(uint64_t),
        };
        bool root = level == top;
        bool leaf, w;
        uint64_t pte;
        int ret;

        ret = vtd_nst_fs_locate(s, ss, root, false, &at);
        if (ret) {
            return ret;
        }
        if (!vtd_nst_read(at.hpa, &pte, 1)) {
            return root ? VTD_FR_PASID_ENTRY_FSPTPTR_INV :
                          VTD_FR_FS_PAGING_ENTRY_INV;
        }
        if (!(pte & VTD_FL_P)) {
            return VTD_FR_FS_PAGING_ENTRY_P;
        }
        leaf = level == 1 || (level < 4 && (pte & VTD_PT_PAGE_SIZE_MASK));
        if (vtd_nst_fs_reserved(s, pte, level, leaf)) {
            return VTD_FR_FS_PAGING_ENTRY_RSVD;
        }
        if (!(pte & VTD_FL_US) && !req->priv) {
            return VTD_FR_FS_PAGING_ENTRY_US;
        }
        w = writable && ((pte & VTD_FL_RW) || ignore_rw);

        if (leaf) {
            ret = vtd_nst_fs_leaf(s, req, ss, root, &at, pte, level, w, eafe,
                                  out);
            if (ret != -EAGAIN) {
                return ret;
            }
        } else {
            ret = vtd_nst_fs_set(s, ss, root, &at, pte,
                                 VTD_FL_A | (eafe ? VTD_FS_EA : 0));
            if (ret && ret != -EAGAIN) {
                return ret;
            }
        }
        if (ret == -EAGAIN) {
            if (++tries >= VTD_NST_CAS_MAX) {
                return VTD_FR_FS_BIT_UPDATE_FAILED;
            }
            continue;
        }
        writable = w;
        table = pte & VTD_PT_BASE_ADDR_MASK(s->aw_bits);
        level--;
        tries = 0;
    }
}

/* Requests */

static int vtd_nst_passthrough(IntelIOMMUState *s, const VTDNstReq *req,
                               VTDNstXlat *out)
{
    if (req->iova > VTD_HAW_MASK(s->aw_bits)) {
        return VTD_FR_SGN_SS_RANGE;
    }
    out->iova = req->iova & VTD_PAGE_MASK_4K;
    out->addr = out->iova;
    out->mask = ~VTD_PAGE_MASK_4K;
    out->s1_mask = out->mask;
    out->r = true;
    out->w = true;
    return vtd_nst_finish(req, out);
}

static int vtd_nst_walk(IntelIOMMUState *s, const VTDNstReq *req,
                        const VTDPASIDEntry *pe, VTDNstXlat *out)
{
    VTDNstStage2 ss;
    int fault;

    switch (VTD_PE_PGTT(pe)) {
    case VTD_SM_PASID_ENTRY_FLT:
        return vtd_nst_fs_walk(s, req, pe, NULL, out);
    case VTD_SM_PASID_ENTRY_NESTED:
        ss = vtd_nst_stage2(s, pe);
        return vtd_nst_fs_walk(s, req, pe, &ss, out);
    default:
        ss = vtd_nst_stage2(s, pe);
        if (req->iova > ss.last) {
            return VTD_FR_SGN_SS_RANGE;
        }
        fault = vtd_nst_ss_walk(s, &ss, req->iova, req->write, out);
        if (fault) {
            return fault;
        }
        fault = vtd_nst_check_access(req, out);
        return fault ? fault : vtd_nst_finish(req, out);
    }
}

/* With iommu_lock and RCU. Returns 0 or a fault reason; sets *fpd with both. */
static int vtd_nst_translate_locked(IntelIOMMUState *s, VTDNstReq *req,
                                    bool *fpd, VTDNstXlat *out)
{
    VTDContextEntry ce;
    VTDNstPasid *p;
    uint32_t pasid;
    uint64_t pgtt;
    int fault;

    fault = vtd_nst_context(s, req->sid, &ce, fpd);
    if (fault) {
        return fault;
    }
    if (req->ats && !(ce.val[0] & VTD_SM_CE_DTE)) {
        return VTD_FR_SCT_DTE;
    }
    if (req->has_pasid) {
        pasid = req->pasid;
        if (!(ce.val[0] & VTD_SM_CE_PASIDE)) {
            return VTD_FR_SCT_PASIDE;
        }
    } else {
        pasid = VTD_SM_CE_RID_PASID(&ce);
        req->priv = (s->ecap & VTD_ECAP_SRS) && (ce.val[1] & VTD_SM_CE_RID_PRIV);
    }
    /* The directory has 2^(PDTS + 7) entries of 64 PASIDs each. */
    if (pasid >> (VTD_SM_CE_PDTS(&ce) + 13)) {
        return req->has_pasid ? VTD_FR_SCT_PASID_RANGE : VTD_FR_SCT_RID_PASID;
    }
    fault = vtd_nst_pasid(s, &ce, req->sid, pasid, fpd, &p);
    if (fault) {
        return fault;
    }
    pgtt = VTD_PE_PGTT(&p->pe);
    if (pgtt == VTD_SM_PASID_ENTRY_PT) {
        return vtd_nst_passthrough(s, req, out);
    }
    if (pgtt != VTD_SM_PASID_ENTRY_SLT) {
        if (req->exec) {
            return VTD_FR_SPT_ERE;
        }
        if (req->priv && !(p->pe.val[2] & VTD_PE_SRE)) {
            return VTD_FR_SPT_SRE;
        }
    } else {
        req->priv = false;
    }

    if (vtd_nst_tlb_find(s->nested, p, req->iova, req->priv, req->write, out)) {
        return 0;
    }
    fault = vtd_nst_walk(s, req, &p->pe, out);
    if (!fault && (out->r || out->w)) {
        vtd_nst_tlb_add(s->nested, p, req->priv, out);
    }
    return fault;
}

/*
 * Conditions that a translation request answers with "no access" and no fault
 * record, so that the endpoint may ask for the page (7.1.3, 7.3).
 */
static bool vtd_nst_recoverable(int fault)
{
    switch (fault) {
    case VTD_FR_FS_PAGING_ENTRY_P:
    case VTD_FR_SFS_TABLE_RANGE:
    case VTD_FR_SFS_ROOT_READ:
    case VTD_FR_SFS_TABLE_READ:
    case VTD_FR_SFS_TABLE_WRITE:
    case VTD_FR_SSS_P:
    case VTD_FR_FS_NON_CANONICAL:
    case VTD_FR_FS_PAGING_ENTRY_US:
    case VTD_FR_SGN_SS_RANGE:
    case VTD_FR_SGN_GPA_RANGE:
    case VTD_FR_SM_WRITE:
    case VTD_FR_SGN_READ:
        return true;
    default:
        return false;
    }
}

/* Faults that are recorded whatever Fault Processing Disable says. */
static bool vtd_nst_unqualified(int fault)
{
    switch (fault) {
    case VTD_FR_RTA_PASID:
    case VTD_FR_RTA_PAGE_REQ:
    case VTD_FR_SRT_ACCESS:
    case VTD_FR_SRT_P:
    case VTD_FR_SRT_RSVD:
    case VTD_FR_SCT_ACCESS:
        return true;
    default:
        return false;
    }
}

/* Records a fault (11.4.14.2). The caller has looked at FPD. */
void vtd_nested_report(IntelIOMMUState *s, const VTDNstReq *req, int fault)
{
    uint64_t lo = VTD_FRCD_FI(req->iova);
    uint64_t hi = VTD_FRCD_SID(req->sid) | VTD_FRCD_FR((uint64_t)fault);

    if (req->has_pasid) {
        hi |= (uint64_t)(req->pasid & VTD_PASID_ID_MASK) << 40;
        hi |= VTD_FRCD_PP(1);
        hi |= (uint64_t)req->priv << 29;
        hi |= (uint64_t)req->exec << 30;
    }
    /* T1, T2: 00 write, 01 page request, 10 read. */
    if (req->page_req) {
        hi |= 1ULL << 28;
    } else if (!req->write) {
        hi |= VTD_FRCD_T;
    }
    if (req->ats) {
        hi |= 1ULL << 60;
    }
    vtd_report_frcd_fault(s, req->sid, hi, lo);
}

/* Translates @req in scalable mode. 0 (ATS: perhaps a hole), or -EFAULT. */
static int vtd_nst_translate(IntelIOMMUState *s, VTDNstReq *req,
                             VTDNstXlat *out)
{
    bool fpd = false;
    int fault;

    WITH_RCU_READ_LOCK_GUARD() {
        WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
            fault = vtd_nst_translate_locked(s, req, &fpd, out);
        }
    }
    if (!fault) {
        return 0;
    }
    if (req->ats && vtd_nst_recoverable(fault)) {
        *out = (VTDNstXlat) {
            .iova = req->iova & VTD_PAGE_MASK_4K,
            .mask = ~VTD_PAGE_MASK_4K,
        };
        return 0;
    }
    if (!fpd || vtd_nst_unqualified(fault)) {
        vtd_nested_report(s, req, fault);
    }
    return -EFAULT;
}

/*
 * A request of an ordinary device through its address space. False: blocked,
 * and the fault is recorded.
 */
bool vtd_nested_translate(IntelIOMMUState *s, PCIBus *bus, uint8_t devfn,
                          uint32_t pasid, hwaddr iova, bool is_write,
                          IOMMUTLBEntry *entry)
{
    VTDNstXlat x;
    VTDNstReq req = {
        .sid = PCI_BUILD_BDF(pci_bus_num(bus), devfn),
        .has_pasid = pasid != PCI_NO_PASID,
        .pasid = pasid,
        .iova = iova,
        .write = is_write,
    };

    if (vtd_nst_translate(s, &req, &x)) {
        entry->iova = 0;
        entry->translated_addr = 0;
        entry->addr_mask = 0;
        entry->perm = IOMMU_NONE;
        return false;
    }
    entry->iova = x.iova;
    entry->translated_addr = x.addr;
    entry->addr_mask = x.mask;
    entry->perm = IOMMU_ACCESS_FLAG(x.r, x.w);
    return true;
}

/* Calls from endpoints (PCIATSIOMMUOps) */

static int vtd_ats_set_client(PCIBus *bus, void *opaque, int devfn,
                              PCIDevice *dev, const PCIATSClientOps *ops)
{
    IntelIOMMUState *s = opaque;
    VTDNstClient *c;

    if (!s->nested) {
        return -ENODEV;
    }
    QLIST_FOREACH(c, &s->nested->clients, next) {
        if (c->bus == bus && c->devfn == devfn) {
            QLIST_REMOVE(c, next);
            g_free(c);
            break;
        }
    }
    if (ops) {
        c = g_new0(VTDNstClient, 1);
        c->bus = bus;
        c->devfn = devfn;
        c->dev = dev;
        c->ops = ops;
        QLIST_INSERT_HEAD(&s->nested->clients, c, next);
    }
    return 0;
}

VTDNstClient *vtd_nested_find_client(IntelIOMMUState *s, uint16_t sid)
{
    VTDNstClient *c;

    QLIST_FOREACH(c, &s->nested->clients, next) {
        if (PCI_BUILD_BDF(pci_bus_num(c->bus), c->devfn) == sid) {
            return c;
        }
    }
    return NULL;
}

static VTDNstReq vtd_ats_to_req(PCIBus *bus, int devfn,
                                const PCIATSRequest *req, hwaddr iova, bool ats)
{
    bool has_pasid = req->pasid != PCI_ATS_NO_PASID;

    /* Privilege and execute travel in the PASID prefix (PCIe 6.0, 6.20). */
    return (VTDNstReq) {
        .sid = PCI_BUILD_BDF(pci_bus_num(bus), devfn),
        .has_pasid = has_pasid,
        .pasid = has_pasid ? req->pasid & VTD_PASID_ID_MASK : 0,
        .iova = iova,
        .write = req->write,
        .exec = has_pasid && req->exec,
        .priv = has_pasid && req->priv,
        .ats = ats,
    };
}

static void vtd_ats_from_xlat(const VTDNstXlat *x, PCIATSTranslation *out)
{
    *out = (PCIATSTranslation) {
        .iova = x->iova,
        .addr = x->addr,
        .mask = x->mask,
        .read = x->r,
        .write = x->w,
    };
}

static void vtd_ats_identity(hwaddr iova, PCIATSTranslation *out)
{
    *out = (PCIATSTranslation) {
        .iova = iova & VTD_PAGE_MASK_4K,
        .addr = iova & VTD_PAGE_MASK_4K,
        .mask = ~VTD_PAGE_MASK_4K,
        .read = true,
        .write = true,
    };
}

/* Legacy mode: the way of an ordinary device. */
static int vtd_ats_translate_legacy(IntelIOMMUState *s, PCIBus *bus, int devfn,
                                    const VTDNstReq *req,
                                    PCIATSTranslation *out)
{
    VTDAddressSpace *as = vtd_find_add_as(s, bus, devfn, PCI_NO_PASID);
    IOMMUMemoryRegionClass *imrc = IOMMU_MEMORY_REGION_GET_CLASS(&as->iommu);
    IOMMUAccessFlags flag = req->write ? IOMMU_WO : IOMMU_RO;
    IOMMUTLBEntry entry;

    entry = imrc->translate(&as->iommu, req->iova, flag, 0);
    if (!(entry.perm & flag)) {
        return -EFAULT;
    }
    *out = (PCIATSTranslation) {
        .iova = req->iova & ~entry.addr_mask,
        .addr = entry.translated_addr & ~entry.addr_mask,
        .mask = entry.addr_mask,
        .read = entry.perm & IOMMU_RO,
        .write = entry.perm & IOMMU_WO,
    };
    return 0;
}

static int vtd_ats_translate(PCIBus *bus, void *opaque, int devfn,
                             const PCIATSRequest *ats_req, hwaddr iova,
                             PCIATSTranslation *out)
{
    IntelIOMMUState *s = opaque;
    VTDNstReq req = vtd_ats_to_req(bus, devfn, ats_req, iova, false);
    VTDNstXlat x;

    if (!s->nested) {
        return -ENODEV;
    }
    /* Without PASID this is an interrupt request (3.14), which is not DMA. */
    if (!req.has_pasid && vtd_nst_in_interrupt_range(iova)) {
        return -EFAULT;
    }
    if (!s->dmar_enabled) {
        if (req.has_pasid) {
            return -EFAULT;
        }
        vtd_ats_identity(iova, out);
        return 0;
    }
    if (!s->root_scalable) {
        if (req.has_pasid) {
            vtd_nested_report(s, &req, VTD_FR_RTA_PASID);
            return -EFAULT;
        }
        return vtd_ats_translate_legacy(s, bus, devfn, &req, out);
    }
    if (vtd_nst_translate(s, &req, &x)) {
        return -EFAULT;
    }
    vtd_ats_from_xlat(&x, out);
    return 0;
}

static int vtd_ats_request(PCIBus *bus, void *opaque, int devfn,
                           const PCIATSRequest *ats_req, hwaddr iova,
                           PCIATSTranslation *out)
{
    IntelIOMMUState *s = opaque;
    VTDNstReq req = vtd_ats_to_req(bus, devfn, ats_req, iova, true);
    VTDNstXlat x;

    if (!s->nested) {
        return -ENODEV;
    }
    if (!s->dmar_enabled) {
        return -EFAULT;
    }
    if (!s->root_scalable && req.has_pasid) {
        vtd_nested_report(s, &req, VTD_FR_RTA_PASID);
        return -EFAULT;
    }
    /*
     * Legacy mode has no path that does not record faults, and the interrupt
     * range is not translated without PASID: the endpoint is told to send
     * untranslated requests (U, PCIe 6.0, 10.2.3).
     */
    if (!s->root_scalable ||
        (!req.has_pasid && vtd_nst_in_interrupt_range(iova))) {
        vtd_ats_identity(iova, out);
        out->untranslated_only = true;
        return 0;
    }
    if (vtd_nst_translate(s, &req, &x)) {
        return -EFAULT;
    }
    vtd_ats_from_xlat(&x, out);
    return 0;
}

static bool vtd_ats_translated_allowed(PCIBus *bus, void *opaque, int devfn)
{
    IntelIOMMUState *s = opaque;
    VTDContextEntry ce;
    VTDNstReq req = {
        .sid = PCI_BUILD_BDF(pci_bus_num(bus), devfn),
    };
    bool fpd;

    return s->nested && s->dmar_enabled && s->root_scalable &&
           !vtd_nested_get_context(s, req.sid, &ce, &fpd) &&
           (ce.val[0] & VTD_SM_CE_DTE);
}

static int vtd_ats_page_request(PCIBus *bus, void *opaque, int devfn,
                                const PCIATSPageRequest *req)
{
    IntelIOMMUState *s = opaque;

    if (!s->nested) {
        return -ENODEV;
    }
    return vtd_prq_page_request(s, PCI_BUILD_BDF(pci_bus_num(bus), devfn), req);
}

const PCIATSIOMMUOps vtd_nested_ats_ops = {
    .set_client = vtd_ats_set_client,
    .translate = vtd_ats_translate,
    .ats_request = vtd_ats_request,
    .translated_allowed = vtd_ats_translated_allowed,
    .page_request = vtd_ats_page_request,
};

/* Invalidation queue */

/*
 * Device-TLB invalidation to the endpoint @sid (6.5.2.5, 6.5.2.6). With @size
 * the number of low ones in the page number gives the range.
 */
void vtd_nested_dev_tlb_inv(IntelIOMMUState *s, uint16_t sid, uint32_t pasid,
                            bool global, hwaddr addr, bool size)
{
    VTDNstClient *c;
    uint64_t bytes = VTD_PAGE_SIZE;

    if (!s->nested) {
        return;
    }
    if (size) {
        int ones = cto64(addr >> VTD_PAGE_SHIFT);

        /* 2^64 bytes do not fit: zero, as PCIATSClientOps has it. */
        bytes = ones >= 51 ? 0 : (2 * VTD_PAGE_SIZE) << ones;
        addr &= ~(bytes - 1);
    }
    c = vtd_nested_find_client(s, sid);
    if (c) {
        c->ops->invalidate(c->dev, pasid, global, bytes ? addr : 0, bytes);
    }
}

/* PASID-cache invalidation descriptor: 6.5.2.2. False: invalid. */
bool vtd_nested_pasid_cache_desc(IntelIOMMUState *s, const VTDInvDesc *desc)
{
    uint16_t did = (desc->val[0] >> 16) & VTD_DOMAIN_ID_MASK;
    uint32_t pasid = (desc->val[0] >> 32) & VTD_PASID_ID_MASK;

    if (!s->iq_dw || (desc->val[0] & 0xfff000000000f1c0ULL) ||
        desc->val[1] || desc->val[2] || desc->val[3]) {
        error_report_once("%s: invalid descriptor", __func__);
        return false;
    }
    switch ((desc->val[0] >> 4) & 3) {
    case 0:
        vtd_nested_inv_pasid_domain(s, did);
        return true;
    case 1:
        vtd_nested_inv_pasid_one(s, did, pasid);
        return true;
    case 3:
        vtd_nested_inv_pasid_all(s);
        return true;
    default:
        error_report_once("%s: reserved granularity", __func__);
        return false;
    }
}

/* Set-up */

/* The property nesting=on implies what it needs. False: errp is set. */
bool vtd_nested_check_config(IntelIOMMUState *s, Error **errp)
{
    if (!s->nesting) {
        return true;
    }
    if (s->caching_mode) {
        error_setg(errp, "nesting=on needs caching-mode=off");
        return false;
    }
    s->scalable_mode = true;
    s->flts = true;
    s->pasid = true;
    X86_IOMMU_DEVICE(s)->dt_supported = true;
    return true;
}

void vtd_nested_realize(IntelIOMMUState *s)
{
    if (s->nesting) {
        s->nested = vtd_nst_cache_new();
    }
}

void vtd_nested_cap_init(IntelIOMMUState *s)
{
    if (!s->nesting) {
        return;
    }
    if (s->fs5lp) {
        s->cap |= VTD_CAP_FS5LP;
    }
    s->ecap |= VTD_ECAP_C | VTD_ECAP_SLTS | VTD_ECAP_NEST | VTD_ECAP_SRS |
               VTD_ECAP_EAFS | VTD_ECAP_SSADS | VTD_ECAP_SMPWC |
               VTD_ECAP_PASID | VTD_ECAP_PSS(VTD_PASID_ID_SHIFT) |
               VTD_ECAP_PRS | VTD_ECAP_PDS;
}
