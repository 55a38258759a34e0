/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated VT-d with nested translation: context cache, PASID cache and IOTLB
 * (VT-d 4.1, 6.2), and what the invalidation descriptors drop from them
 * (6.5.2).
 *
 * The PASID cache and the IOTLB are tagged with (domain id, PASID). A "space"
 * holds what carries one such tag; the spaces of a domain id are chained. So a
 * look-up, and an invalidation of one PASID, cost the same with one PASID in
 * use as with thousands. Nothing that is not present is cached (CAP.CM is
 * clear).
 */
#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "intel_iommu_nested.h"

/*
 * Bounds of what a guest can make us hold. The oldest entry makes room, so
 * more pages in use than entries cost walks, not the whole cache.
 */
#define VTD_NST_TLB_MAX         65536
#define VTD_NST_PASIDS_MAX      65536

/* Page sizes 4 KiB, 2 MiB and 1 GiB. */
#define VTD_NST_LEVELS          3

struct VTDNstTlb {
    uint64_t key;               /* page number, level, privilege */
    VTDNstXlat xlat;
    uint64_t pgtt;              /* as in the PASID entry */
    unsigned level;
    VTDNstSpace *space;
    QTAILQ_ENTRY(VTDNstTlb) in_fifo;
};

struct VTDNstSpace {
    uint64_t key;
    uint16_t did;
    GHashTable *tlb;            /* key -> VTDNstTlb */
    unsigned of_level[VTD_NST_LEVELS];
    /* Entries smaller than the stage-1 page that they are part of. */
    unsigned fractured;
    QLIST_HEAD(, VTDNstPasid) pasids;
    VTDNstDomain *domain;
    QLIST_ENTRY(VTDNstSpace) in_domain;
};

struct VTDNstDomain {
    uint64_t key;
    QLIST_HEAD(, VTDNstSpace) spaces;
};

/* What an invalidation takes out of one space. */
typedef struct VTDNstFilter {
    bool ss, fs, nested;        /* by PGTT */
    hwaddr first, last;
} VTDNstFilter;

#define VTD_NST_EVERYTHING      ((VTDNstFilter) { \
    .ss = true, .fs = true, .nested = true, .first = 0, .last = HWADDR_MAX })

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

VTDNested *vtd_nst_cache_new(void)
{
    VTDNested *n = g_new0(VTDNested, 1);

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

static VTDNstSpace *vtd_nst_space_find(VTDNested *n, uint16_t did,
                                       uint32_t pasid)
{
    uint64_t key = vtd_nst_key(did, pasid);

    return g_hash_table_lookup(n->spaces, &key);
}

static VTDNstSpace *vtd_nst_space_get(VTDNested *n, uint16_t did,
                                      uint32_t pasid)
{
    VTDNstSpace *space = vtd_nst_space_find(n, did, pasid);
    uint64_t key = did;

    if (space) {
        return space;
    }
    space = g_new0(VTDNstSpace, 1);
    space->key = vtd_nst_key(did, pasid);
    space->did = did;
    space->tlb = g_hash_table_new(vtd_nst_hash, vtd_nst_equal);
    QLIST_INIT(&space->pasids);

    space->domain = g_hash_table_lookup(n->domains, &key);
    if (!space->domain) {
        space->domain = g_new0(VTDNstDomain, 1);
        space->domain->key = did;
        QLIST_INIT(&space->domain->spaces);
        g_hash_table_add(n->domains, space->domain);
    }
    QLIST_INSERT_HEAD(&space->domain->spaces, space, in_domain);
    g_hash_table_add(n->spaces, space);
    return space;
}

/* Frees @space if nothing carries its tag any more. */
static void vtd_nst_space_put(VTDNested *n, VTDNstSpace *space)
{
    VTDNstDomain *domain = space->domain;

    if (!QLIST_EMPTY(&space->pasids) || g_hash_table_size(space->tlb)) {
        return;
    }
    g_hash_table_remove(n->spaces, space);
    QLIST_REMOVE(space, in_domain);
    if (QLIST_EMPTY(&domain->spaces)) {
        g_hash_table_remove(n->domains, domain);
        g_free(domain);
    }
    g_hash_table_destroy(space->tlb);
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

/* Leaves the space alone: the caller puts it. */
static void vtd_nst_pasid_unlink(VTDNested *n, VTDNstPasid *p)
{
    g_hash_table_remove(n->pasids, p);
    QTAILQ_REMOVE(&n->pasid_fifo, p, in_fifo);
    QLIST_REMOVE(p, in_space);
    g_free(p);
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

    while (g_hash_table_size(n->pasids) >= VTD_NST_PASIDS_MAX) {
        VTDNstPasid *oldest = QTAILQ_FIRST(&n->pasid_fifo);
        VTDNstSpace *space = oldest->space;

        vtd_nst_pasid_unlink(n, oldest);
        vtd_nst_space_put(n, space);
    }

    p = g_new0(VTDNstPasid, 1);
    p->key = vtd_nst_key(sid, pasid);
    p->pe = *pe;
    p->fpd = fpd;
    p->space = vtd_nst_space_get(n, VTD_SM_PASID_ENTRY_DID(pe->val[1]), pasid);
    QLIST_INSERT_HEAD(&p->space->pasids, p, in_space);
    QTAILQ_INSERT_TAIL(&n->pasid_fifo, p, in_fifo);
    g_hash_table_add(n->pasids, p);
    return p;
}

static void vtd_nst_pasid_drop_space(VTDNested *n, VTDNstSpace *space)
{
    VTDNstPasid *p, *next;

    QLIST_FOREACH_SAFE(p, &space->pasids, in_space, next) {
        vtd_nst_pasid_unlink(n, p);
    }
    vtd_nst_space_put(n, space);
}

/* IOTLB */

/* Forgets @e; its space's hash table has it no more, or is told to drop it. */
static void vtd_nst_tlb_free(VTDNested *n, VTDNstTlb *e)
{
    VTDNstSpace *space = e->space;

    space->of_level[e->level]--;
    if (e->xlat.s1_mask > e->xlat.mask) {
        space->fractured--;
    }
    QTAILQ_REMOVE(&n->tlb_fifo, e, in_fifo);
    n->tlb_count--;
    g_free(e);
}

static void vtd_nst_tlb_remove(VTDNested *n, VTDNstTlb *e)
{
    g_hash_table_remove(e->space->tlb, e);
    vtd_nst_tlb_free(n, e);
}

bool vtd_nst_tlb_find(VTDNested *n, const VTDNstPasid *p, hwaddr iova,
                      bool priv, bool write, VTDNstXlat *out)
{
    VTDNstSpace *space = p->space;
    unsigned level;

    for (level = 0; level < VTD_NST_LEVELS; level++) {
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
    VTDNstSpace *space = p->space;
    VTDNstTlb *e, *old;
    unsigned level = 0;

    while (level + 1 < VTD_NST_LEVELS &&
           (xlat->mask + 1) >> vtd_nst_level_shift(level + 1)) {
        level++;
    }

    e = g_new0(VTDNstTlb, 1);
    e->key = vtd_nst_tlb_key(xlat->iova, level, priv);
    e->xlat = *xlat;
    e->pgtt = VTD_PE_PGTT(&p->pe);
    e->level = level;
    e->space = space;

    old = g_hash_table_lookup(space->tlb, &e->key);
    if (old) {
        vtd_nst_tlb_remove(n, old);
    } else if (n->tlb_count >= VTD_NST_TLB_MAX) {
        VTDNstTlb *oldest = QTAILQ_FIRST(&n->tlb_fifo);
        VTDNstSpace *of = oldest->space;

        vtd_nst_tlb_remove(n, oldest);
        vtd_nst_space_put(n, of);   /* @space stays: @p is in it */
    }

    g_hash_table_add(space->tlb, e);
    QTAILQ_INSERT_TAIL(&n->tlb_fifo, e, in_fifo);
    n->tlb_count++;
    space->of_level[level]++;
    if (xlat->s1_mask > xlat->mask) {
        space->fractured++;
    }
}

static bool vtd_nst_tlb_matches(const VTDNstTlb *e, const VTDNstFilter *f)
{
    /* An invalidation that meets a stage-1 page drops all parts of it. */
    hwaddr first = e->xlat.iova & ~e->xlat.s1_mask;
    hwaddr last = e->xlat.iova | e->xlat.s1_mask;
    bool kind;

    switch (e->pgtt) {
    case VTD_SM_PASID_ENTRY_SLT:
        kind = f->ss;
        break;
    case VTD_SM_PASID_ENTRY_FLT:
        kind = f->fs;
        break;
    default:
        kind = f->nested;
        break;
    }
    return kind && first <= f->last && last >= f->first;
}

/* Drops what @f names from @space, which may be freed. */
static void vtd_nst_tlb_drop(VTDNested *n, VTDNstSpace *space,
                             const VTDNstFilter *f)
{
    hwaddr pages = ((f->last - f->first) >> VTD_PAGE_SHIFT_4K) + 1;
    unsigned level, priv;

    if (!space->fractured && pages < g_hash_table_size(space->tlb)) {
        /* Few pages, many entries: look them up. */
        for (level = 0; level < VTD_NST_LEVELS; level++) {
            hwaddr first = f->first >> vtd_nst_level_shift(level);
            hwaddr last = f->last >> vtd_nst_level_shift(level);
            hwaddr page;

            for (page = first; page <= last && space->of_level[level]; page++) {
                for (priv = 0; priv <= 1; priv++) {
                    uint64_t key = vtd_nst_tlb_key(
                        page << vtd_nst_level_shift(level), level, priv);
                    VTDNstTlb *e = g_hash_table_lookup(space->tlb, &key);

                    if (e && vtd_nst_tlb_matches(e, f)) {
                        vtd_nst_tlb_remove(n, e);
                    }
                }
            }
        }
    } else {
        GHashTableIter iter;
        gpointer value;

        g_hash_table_iter_init(&iter, space->tlb);
        while (g_hash_table_iter_next(&iter, NULL, &value)) {
            if (vtd_nst_tlb_matches(value, f)) {
                g_hash_table_iter_remove(&iter);
                vtd_nst_tlb_free(n, value);
            }
        }
    }
    vtd_nst_space_put(n, space);
}

static void vtd_nst_tlb_drop_domain(VTDNested *n, uint16_t did,
                                    const VTDNstFilter *f)
{
    uint64_t key = did;
    VTDNstDomain *domain = g_hash_table_lookup(n->domains, &key);
    VTDNstSpace *space, *next;

    if (!domain) {
        return;
    }
    /* The last space that goes takes the domain along. */
    for (space = QLIST_FIRST(&domain->spaces); space; space = next) {
        next = QLIST_NEXT(space, in_domain);
        vtd_nst_tlb_drop(n, space, f);
    }
}

static void vtd_nst_tlb_drop_all(VTDNested *n)
{
    while (!QTAILQ_EMPTY(&n->tlb_fifo)) {
        VTDNstTlb *e = QTAILQ_FIRST(&n->tlb_fifo);
        VTDNstSpace *space = e->space;

        vtd_nst_tlb_remove(n, e);
        vtd_nst_space_put(n, space);
    }
}

static void vtd_nst_pasid_drop_all(VTDNested *n)
{
    while (!QTAILQ_EMPTY(&n->pasid_fifo)) {
        vtd_nst_pasid_drop_space(n, QTAILQ_FIRST(&n->pasid_fifo)->space);
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
static void vtd_nst_range(VTDNstFilter *f, hwaddr addr, unsigned am)
{
    hwaddr mask = am + VTD_PAGE_SHIFT_4K >= 64 ?
                  HWADDR_MAX : (1ULL << (am + VTD_PAGE_SHIFT_4K)) - 1;

    f->first = addr & ~mask;
    f->last = addr | mask;
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
            vtd_nst_tlb_drop_domain(s->nested, did, &VTD_NST_EVERYTHING);
        }
    }
}

/*
 * Page-selective-within-domain: 6.5.2.3. The address is one of stage 2, which
 * no first-stage or nested entry is filed under: all of those of the domain
 * go.
 */
void vtd_nested_inv_iotlb_pages(IntelIOMMUState *s, uint16_t did, hwaddr addr,
                                unsigned am)
{
    VTDNstFilter ss = { .ss = true };
    VTDNstFilter other = { .fs = true, .nested = true, .last = HWADDR_MAX };

    if (!s->nested) {
        return;
    }
    vtd_nst_range(&ss, addr, am);
    WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
        vtd_nst_tlb_drop_domain(s->nested, did, &ss);
        vtd_nst_tlb_drop_domain(s->nested, did, &other);
    }
}

/* PASID-based IOTLB invalidation: 6.5.2.4. Second-stage entries stay. */
static void vtd_nst_piotlb(IntelIOMMUState *s, uint16_t did, uint32_t pasid,
                           const VTDNstFilter *f)
{
    VTDNstSpace *space;

    if (!s->nested) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
        space = vtd_nst_space_find(s->nested, did, pasid);
        if (space) {
            vtd_nst_tlb_drop(s->nested, space, f);
        }
    }
}

void vtd_nested_inv_piotlb_all(IntelIOMMUState *s, uint16_t did, uint32_t pasid)
{
    VTDNstFilter f = { .fs = true, .nested = true, .last = HWADDR_MAX };

    vtd_nst_piotlb(s, did, pasid, &f);
}

void vtd_nested_inv_piotlb_pages(IntelIOMMUState *s, uint16_t did,
                                 uint32_t pasid, hwaddr addr, unsigned am)
{
    VTDNstFilter f = { .fs = true, .nested = true };

    vtd_nst_range(&f, addr, am);
    vtd_nst_piotlb(s, did, pasid, &f);
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
    uint64_t key = did;
    VTDNstDomain *domain;
    VTDNstSpace *space, *next;

    if (!s->nested) {
        return;
    }
    WITH_QEMU_LOCK_GUARD(&s->iommu_lock) {
        domain = g_hash_table_lookup(s->nested->domains, &key);
        space = domain ? QLIST_FIRST(&domain->spaces) : NULL;
        for (; space; space = next) {
            next = QLIST_NEXT(space, in_domain);
            vtd_nst_pasid_drop_space(s->nested, space);
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
        space = vtd_nst_space_find(s->nested, did, pasid);
        if (space) {
            vtd_nst_pasid_drop_space(s->nested, space);
        }
    }
}
