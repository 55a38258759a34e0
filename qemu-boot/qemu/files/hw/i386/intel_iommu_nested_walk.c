/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated VT-d with nested translation: the walk of paging structures. By the
 * PASID entry's PGTT an address goes through first-stage tables (VT-d 4.1,
 * 3.6, 9.7), second-stage tables (3.7, 9.8), both (3.8) or neither.
 *
 * Tables are read and updated in RAM only: an address that is not RAM is an
 * access error. So no walk reaches another device, and none takes more steps
 * than tables have levels, each with a bounded number of tries.
 */
#include "qemu/osdep.h"
#include "exec/address-spaces.h"
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
bool vtd_nst_read(hwaddr addr, uint64_t *to, unsigned count)
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

/* Second stage (3.7, 9.8) */

static VTDNstStage2 vtd_nst_stage2(IntelIOMMUState *s, const VTDPASIDEntry *pe)
{
    unsigned levels = VTD_PE_AW(pe) + 2;
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
 * Walks stage 2 for @gpa, which is within its width. With @dirty the access is
 * a write that sets the dirty bit. Without it, and with dirty bits in use,
 * out->w is clear until that bit is set. Returns 0 or a fault reason.
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
 * Handles the leaf @pte of stage 1 at @at: the page through stage 2, the
 * access rights, then accessed and dirty. 0, a fault reason, or -EAGAIN.
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

/*
 * Translates @req by @pe, with iommu_lock and in an RCU critical section.
 * Returns 0 or a fault reason.
 */
int vtd_nst_walk(IntelIOMMUState *s, const VTDNstReq *req,
                 const VTDPASIDEntry *pe, VTDNstXlat *out)
{
    VTDNstStage2 ss;
    int fault;

    switch (VTD_PE_PGTT(pe)) {
    case VTD_SM_PASID_ENTRY_PT:
        return vtd_nst_passthrough(s, req, out);
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
