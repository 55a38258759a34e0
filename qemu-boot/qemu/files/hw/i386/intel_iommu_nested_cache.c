/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated VT-d with nested translation: context cache, PASID cache and IOTLB
 * (VT-d 4.1, 6.2), and what the invalidation descriptors drop from them
 * (6.5.2).
 *
 * PASID cache entries, first-stage and nested IOTLB entries are tagged with
 * (domain id, PASID), second-stage IOTLB entries with the domain id alone. A
 * "space" holds the entries of one kind with one tag; the spaces of one kind
 * and domain id are chained. So a look-up costs the same with one PASID in use
 * as with thousands, and an invalidation costs what it drops: one write of the
 * queue's tail asks for thousands of them while the BQL is held. Nothing that
 * is not present is cached (CAP.CM is clear).
 */
#include "qemu/osdep.h"
#include "qemu/interval-tree.h"
#include "qemu/lockable.h"
#include "intel_iommu_nested.h"

/* Page sizes 4 KiB, 2 MiB and 1 GiB. */
#define VTD_NST_LEVELS          3

/* What a space holds; those of the IOTLB are numbered as PGTT is. */
typedef enum VTDNstKind {
    VTD_NST_PASIDS = 0,
    VTD_NST_FS = 1,
    VTD_NST_SS = 2,
    VTD_NST_NESTED = 3,
} VTDNstKind;

struct VTDNstTlb {
    uint64_t key;               /* page number, level, privilege */
    VTDNstXlat xlat;
    unsigned level;
    VTDNstSpace *space;
    /*
     * In VTDNstSpace::ranges: the stage-1 page, since an invalidation that
     * meets it drops all parts of it.
     */
    IntervalTreeNode range;
    QTAILQ_ENTRY(VTDNstTlb) in_fifo;
};

struct VTDNstSpace {
    uint64_t key;               /* kind, domain id, PASID */
    GHashTable *tlb;            /* key -> VTDNstTlb; NULL in VTD_NST_PASIDS */
    IntervalTreeRoot ranges;    /* the same entries */
    unsigned of_level[VTD_NST_LEVELS];
    QLIST_HEAD(, VTDNstPasid) pasids;       /* of VTD_NST_PASIDS */
    VTDNstDomain *domain;
    QLIST_ENTRY(VTDNstSpace) in_domain;
};

struct VTDNstDomain {
    uint64_t key;               /* kind, domain id */
    QLIST_HEAD(, VTDNstSpace) spaces;
};

static guint vtd_nst_hash(gconstpointer key)
{
    /* 2^64 divided by the golden ratio spreads consecutive numbers. */
    return (*(const uint64_t *)key * 0x9e3779b97f4a7c15ULL) >> 32;
}

static gboolean vtd_nst_equal(gconstpointer a, gconstpointer b)
{
    return *(const uint64_t *)a == *(const uint64_t *)b;
}

static uint64_t vtd_nst_key(uint16_t id, uint32_t pasid)
{
    return ((uint64_t)id << VTD_PASID_ID_SHIFT) | (pasid & VTD_PASID_ID_MASK);
}

static uint64_t vtd_nst_space_key(VTDNstKind kind, uint16_t did, uint32_t pasid)
{
    return (uint64_t)kind << 62 |
           vtd_nst_key(did, kind == VTD_NST_SS ? 0 : pasid);
}

static uint64_t vtd_nst_domain_key(VTDNstKind kind, uint16_t did)
{
    return (uint64_t)kind << 62 | did;
}

static unsigned vtd_nst_level_shift(unsigned level)
{
    return VTD_PAGE_SHIFT_4K + level * VTD_LEVEL_BITS;
}

static uint64_t vtd_nst_tlb_key(hwaddr iova, unsigned level, bool priv)
{
    uint64_t page = iova >> vtd_nst_level_shift(level);

    /* A page number has 52 bits at most. */
    return (page << 3) | (level << 1) | priv;
}

VTDNested *vtd_nst_cache_new(unsigned entries)
{
    VTDNested *n = g_new0(VTDNested, 1);

    n->entries_max = entries;
    n->contexts = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    n->pasids = g_hash_table_new(vtd_nst_hash, vtd_nst_equal);
    n->spaces = g_hash_table_new(vtd_nst_hash, vtd_nst_equal);
    n->domains = g_hash_table_new(vtd_nst_hash, vtd_nst_equal);
    QTAILQ_INIT(&n->pasid_fifo);
    QTAILQ_INIT(&n->tlb_fifo);
    QLIST_INIT(&n->clients);
    return n;
}

/* Spaces */

static VTDNstSpace *vtd_nst_space_find(VTDNested *n, VTDNstKind kind,
                                       uint16_t did, uint32_t pasid)
{
    uint64_t key = vtd_nst_space_key(kind, did, pasid);

    return g_hash_table_lookup(n->spaces, &key);
}

static VTDNstDomain *vtd_nst_domain_find(VTDNested *n, VTDNstKind kind,
                                         uint16_t did)
{
    uint64_t key = vtd_nst_domain_key(kind, did);

    return g_hash_table_lookup(n->domains, &key);
}

static VTDNstSpace *vtd_nst_space_get(VTDNested *n, VTDNstKind kind,
                                      uint16_t did, uint32_t pasid)
{
    VTDNstSpace *space = vtd_nst_space_find(n, kind, did, pasid);

    if (space) {
        return space;
    }
    space = g_new0(VTDNstSpace, 1);
    space->key = vtd_nst_space_key(kind, did, pasid);
    if (kind != VTD_NST_PASIDS) {
        space->tlb = g_hash_table_new(vtd_nst_hash, vtd_nst_equal);
    }
    QLIST_INIT(&space->pasids);

    space->domain = vtd_nst_domain_find(n, kind, did);
    if (!space->domain) {
        space->domain = g_new0(VTDNstDomain, 1);
        space->domain->key = vtd_nst_domain_key(kind, did);
        QLIST_INIT(&space->domain->spaces);
        g_hash_table_add(n->domains, space->domain);
    }
    QLIST_INSERT_HEAD(&space->domain->spaces, space, in_domain);
    g_hash_table_add(n->spaces, space);
    return space;
}

/* Frees @space if nothing is in it any more. */
static void vtd_nst_space_put(VTDNested *n, VTDNstSpace *space)
{
    VTDNstDomain *domain = space->domain;

    if (!QLIST_EMPTY(&space->pasids) ||
        (space->tlb && g_hash_table_size(space->tlb))) {
        return;
    }
    g_hash_table_remove(n->spaces, space);
    QLIST_REMOVE(space, in_domain);
    if (QLIST_EMPTY(&domain->spaces)) {
        g_hash_table_remove(n->domains, domain);
        g_free(domain);
    }
    if (space->tlb) {
        g_hash_table_destroy(space->tlb);
    }
    g_free(space);
}

/* Context cache */

const VTDContextEntry *vtd_nst_context_find(VTDNested *n, uint16_t sid)
{
    return g_hash_table_lookup(n->contexts, GUINT_TO_POINTER(sid));
}

void vtd_nst_context_add(VTDNested *n, uint16_t sid, const VTDContextEntry *ce)
{
    g_hash_table_replace(n->contexts, GUINT_TO_POINTER(sid),
                         g_memdup2(ce, sizeof(*ce)));
}

/* PASID cache */

static void vtd_nst_pasid_drop(VTDNested *n, VTDNstPasid *p)
{
    VTDNstSpace *space = p->space;

    g_hash_table_remove(n->pasids, p);
    QTAILQ_REMOVE(&n->pasid_fifo, p, in_fifo);
    QLIST_REMOVE(p, in_space);
    g_free(p);
    vtd_nst_space_put(n, space);
}

VTDNstPasid *vtd_nst_pasid_find(VTDNested *n, uint16_t sid, uint32_t pasid)
{
    uint64_t key = vtd_nst_key(sid, pasid);

    return g_hash_table_lookup(n->pasids, &key);
}

VTDNstPasid *vtd_nst_pasid_add(VTDNested *n, uint16_t sid, uint32_t pasid,
                               const VTDPASIDEntry *pe, bool fpd)
{
    VTDNstPasid *p;

    while (g_hash_table_size(n->pasids) >= n->entries_max) {
        vtd_nst_pasid_drop(n, QTAILQ_FIRST(&n->pasid_fifo));
    }

    p = g_new0(VTDNstPasid, 1);
    p->key = vtd_nst_key(sid, pasid);
    p->pe = *pe;
    p->fpd = fpd;
    p->did = VTD_SM_PASID_ENTRY_DID(pe->val[1]);
    p->pasid = pasid;
    p->space = vtd_nst_space_get(n, VTD_NST_PASIDS, p->did, pasid);
    QLIST_INSERT_HEAD(&p->space->pasids, p, in_space);
    QTAILQ_INSERT_TAIL(&n->pasid_fifo, p, in_fifo);
    g_hash_table_add(n->pasids, p);
    return p;
}

/* Drops all of @space, which is freed. */
static void vtd_nst_pasid_drop_space(VTDNested *n, VTDNstSpace *space)
{
    VTDNstPasid *p, *next;

    for (p = QLIST_FIRST(&space->pasids); p; p = next) {
        next = QLIST_NEXT(p, in_space);
        vtd_nst_pasid_drop(n, p);
    }
}

/* IOTLB */

static VTDNstKind vtd_nst_tlb_kind(const VTDNstPasid *p)
{
    switch (VTD_PE_PGTT(&p->pe)) {
    case VTD_SM_PASID_ENTRY_FLT:
        return VTD_NST_FS;
    case VTD_SM_PASID_ENTRY_SLT:
        return VTD_NST_SS;
    default:
        return VTD_NST_NESTED;
    }
}

/* Drops @e, and its space if it was the last there. */
static void vtd_nst_tlb_drop(VTDNested *n, VTDNstTlb *e)
{
    VTDNstSpace *space = e->space;

    g_hash_table_remove(space->tlb, e);
    interval_tree_remove(&e->range, &space->ranges);
    space->of_level[e->level]--;
    QTAILQ_REMOVE(&n->tlb_fifo, e, in_fifo);
    n->tlb_count--;
    g_free(e);
    vtd_nst_space_put(n, space);
}

bool vtd_nst_tlb_find(VTDNested *n, const VTDNstPasid *p, hwaddr iova,
                      bool priv, bool write, VTDNstXlat *out)
{
    VTDNstSpace *space = vtd_nst_space_find(n, vtd_nst_tlb_kind(p), p->did,
                                            p->pasid);
    unsigned level;

    for (level = 0; space && level < VTD_NST_LEVELS; level++) {
        uint64_t key = vtd_nst_tlb_key(iova, level, priv);
        VTDNstTlb *e;

        if (!space->of_level[level]) {
            continue;
        }
        e = g_hash_table_lookup(space->tlb, &key);
        /*
         * Without the wanted right the tables decide: they may give it by now,
         * and a dirty bit that is clear must be set first.
         */
        if (e && (write ? e->xlat.w : e->xlat.r)) {
            *out = e->xlat;
            return true;
        }
    }
    return false;
}

void vtd_nst_tlb_add(VTDNested *n, const VTDNstPasid *p, bool priv,
                     const VTDNstXlat *xlat)
{
    VTDNstKind kind = vtd_nst_tlb_kind(p);
    VTDNstSpace *space;
    VTDNstTlb *e, *old;
    unsigned level = 0;
    uint64_t key;

    while (level + 1 < VTD_NST_LEVELS &&
           (xlat->mask + 1) >> vtd_nst_level_shift(level + 1)) {
        level++;
    }

    /* What goes may take its space along: first drop, then find the space. */
    key = vtd_nst_tlb_key(xlat->iova, level, priv);
    space = vtd_nst_space_find(n, kind, p->did, p->pasid);
    old = space ? g_hash_table_lookup(space->tlb, &key) : NULL;
    if (!old && n->tlb_count >= n->entries_max) {
        old = QTAILQ_FIRST(&n->tlb_fifo);
    }
    if (old) {
        vtd_nst_tlb_drop(n, old);
    }
    space = vtd_nst_space_get(n, kind, p->did, p->pasid);

    e = g_new0(VTDNstTlb, 1);
    e->key = key;
    e->xlat = *xlat;
    e->level = level;
    e->space = space;
    e->range.start = xlat->iova & ~xlat->s1_mask;
    e->range.last = xlat->iova | xlat->s1_mask;

    g_hash_table_add(space->tlb, e);
    interval_tree_insert(&e->range, &space->ranges);
    QTAILQ_INSERT_TAIL(&n->tlb_fifo, e, in_fifo);
    n->tlb_count++;
    space->of_level[level]++;
}

/* Drops what meets [@first, @last] in @space, which may be freed. */
static void vtd_nst_tlb_drop_range(VTDNested *n, VTDNstSpace *space,
                                   hwaddr first, hwaddr last)
{
    IntervalTreeNode *node, *next;

    node = interval_tree_iter_first(&space->ranges, first, last);
    while (node) {
        next = interval_tree_iter_next(node, first, last);
        vtd_nst_tlb_drop(n, container_of(node, VTDNstTlb, range));
        node = next;
    }
}

static void vtd_nst_tlb_drop_domain(VTDNested *n, VTDNstKind kind, uint16_t did)
{
    VTDNstDomain *domain;

    /* The last space that goes takes the domain along. */
    while ((domain = vtd_nst_domain_find(n, kind, did))) {
        vtd_nst_tlb_drop_range(n, QLIST_FIRST(&domain->spaces), 0, HWADDR_MAX);
    }
}

static void vtd_nst_tlb_drop_all(VTDNested *n)
{
    while (!QTAILQ_EMPTY(&n->tlb_fifo)) {
        vtd_nst_tlb_drop(n, QTAILQ_FIRST(&n->tlb_fifo));
    }
}

static void vtd_nst_pasid_drop_all(VTDNested *n)
{
    while (!QTAILQ_EMPTY(&n->pasid_fifo)) {
        vtd_nst_pasid_drop(n, QTAILQ_FIRST(&n->pasid_fifo));
    }
}

void vtd_nst_cache_reset(VTDNested *n)
{
    g_hash_table_remove_all(n->contexts);
    vtd_nst_pasid_drop_all(n);
    vtd_nst_tlb_drop_all(n);
}

/* Invalidations */

/*
 * The range of 2^@am pages around @addr, cut at the end of the address space.
 */
static void vtd_nst_range(hwaddr addr, unsigned am, hwaddr *first, hwaddr *last)
{
    hwaddr mask = am + VTD_PAGE_SHIFT_4K >= 64 ?
                  HWADDR_MAX : (1ULL << (am + VTD_PAGE_SHIFT_4K)) - 1;

    *first = addr & ~mask;
    *last = addr | mask;
}

void vtd_nested_inv_all(IntelIOMMUState *s)
{
    if (s->nested) {
        WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
            vtd_nst_cache_reset(s->nested);
        }
    }
}

/*
 * Device-selective context-cache invalidation: 6.5.2.1. @mask: bits to compare
 */
void vtd_nested_inv_context(IntelIOMMUState *s, uint16_t sid, uint16_t mask)
{
    GHashTableIter iter;
    gpointer key;

    if (!s->nested) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
        g_hash_table_iter_init(&iter, s->nested->contexts);
        while (g_hash_table_iter_next(&iter, &key, NULL)) {
            if (((GPOINTER_TO_UINT(key) ^ sid) & mask) == 0) {
                g_hash_table_iter_remove(&iter);
            }
        }
    }
}

void vtd_nested_inv_iotlb_all(IntelIOMMUState *s)
{
    if (s->nested) {
        WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
            vtd_nst_tlb_drop_all(s->nested);
        }
    }
}

void vtd_nested_inv_iotlb_domain(IntelIOMMUState *s, uint16_t did)
{
    if (s->nested) {
        WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
            vtd_nst_tlb_drop_domain(s->nested, VTD_NST_FS, did);
            vtd_nst_tlb_drop_domain(s->nested, VTD_NST_SS, did);
            vtd_nst_tlb_drop_domain(s->nested, VTD_NST_NESTED, did);
        }
    }
}

/*
 * Page-selective-within-domain: 6.5.2.3. The address is one of stage 2. No
 * nested entry is filed under it, so all of those of the domain go; what comes
 * of first-stage tables alone stays.
 */
void vtd_nested_inv_iotlb_pages(IntelIOMMUState *s, uint16_t did, hwaddr addr,
                                unsigned am)
{
    VTDNstSpace *space;
    hwaddr first, last;

    if (!s->nested) {
        return;
    }
    vtd_nst_range(addr, am, &first, &last);
    WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
        space = vtd_nst_space_find(s->nested, VTD_NST_SS, did, 0);
        if (space) {
            vtd_nst_tlb_drop_range(s->nested, space, first, last);
        }
        vtd_nst_tlb_drop_domain(s->nested, VTD_NST_NESTED, did);
    }
}

/* PASID-based IOTLB invalidation: 6.5.2.4. Second-stage entries stay. */
static void vtd_nst_piotlb(IntelIOMMUState *s, uint16_t did, uint32_t pasid,
                           hwaddr first, hwaddr last)
{
    static const VTDNstKind kinds[] = { VTD_NST_FS, VTD_NST_NESTED };

    if (!s->nested) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
        for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
            VTDNstSpace *space = vtd_nst_space_find(s->nested, kinds[i], did,
                                                    pasid);

            if (space) {
                vtd_nst_tlb_drop_range(s->nested, space, first, last);
            }
        }
    }
}

void vtd_nested_inv_piotlb_all(IntelIOMMUState *s, uint16_t did, uint32_t pasid)
{
    vtd_nst_piotlb(s, did, pasid, 0, HWADDR_MAX);
}

void vtd_nested_inv_piotlb_pages(IntelIOMMUState *s, uint16_t did,
                                 uint32_t pasid, hwaddr addr, unsigned am)
{
    hwaddr first, last;

    vtd_nst_range(addr, am, &first, &last);
    vtd_nst_piotlb(s, did, pasid, first, last);
}

/* PASID-cache invalidation: 6.5.2.2. */
void vtd_nested_inv_pasid_all(IntelIOMMUState *s)
{
    if (s->nested) {
        WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
            vtd_nst_pasid_drop_all(s->nested);
        }
    }
}

void vtd_nested_inv_pasid_domain(IntelIOMMUState *s, uint16_t did)
{
    VTDNstDomain *domain;

    if (!s->nested) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
        while ((domain = vtd_nst_domain_find(s->nested, VTD_NST_PASIDS, did))) {
            vtd_nst_pasid_drop_space(s->nested, QLIST_FIRST(&domain->spaces));
        }
    }
}

void vtd_nested_inv_pasid_one(IntelIOMMUState *s, uint16_t did, uint32_t pasid)
{
    VTDNstSpace *space;

    if (!s->nested) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
        space = vtd_nst_space_find(s->nested, VTD_NST_PASIDS, did, pasid);
        if (space) {
            vtd_nst_pasid_drop_space(s->nested, space);
        }
    }
}
