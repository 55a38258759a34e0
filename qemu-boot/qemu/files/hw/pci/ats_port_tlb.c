/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The device TLB of an ATSPort (PCIe 6.0, 10.3).
 *
 * Keeps each translation until it is invalidated or the oldest makes room. An
 * entry serves the requests that have its PASID and its privilege: what one
 * privilege may says nothing about the other (PCIe 6.0, 10.2.3).
 */
#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "qemu/host-utils.h"
#include "qemu/xxhash.h"
#include "hw/pci/ats_port.h"

#define ORDER_MIN       12
#define ORDER_MAX       62      /* larger translations are kept in part */
#define LOOKUPS_MAX     64      /* of one invalidation, before it walks all */

struct ATSTlbEntry {
    uint64_t number;            /* iova >> order */
    uint32_t pasid;
    uint8_t order;
    bool priv;
    bool read, write, exec;
    hwaddr addr;
    QTAILQ_ENTRY(ATSTlbEntry) next;
};

static guint entry_hash(gconstpointer p)
{
    const ATSTlbEntry *e = p;

    return qemu_xxhash4(e->number, (uint64_t)e->pasid << 8 | e->order << 1 |
                        e->priv);
}

static gboolean entry_equal(gconstpointer p, gconstpointer q)
{
    const ATSTlbEntry *a = p, *b = q;

    return a->number == b->number && a->pasid == b->pasid &&
           a->order == b->order && a->priv == b->priv;
}

void ats_tlb_init(ATSTlb *tlb)
{
    tlb->entries = g_hash_table_new_full(entry_hash, entry_equal, g_free, NULL);
    QTAILQ_INIT(&tlb->oldest_first);
    memset(tlb->per_order, 0, sizeof(tlb->per_order));
}

void ats_tlb_clear(ATSTlb *tlb)
{
    g_hash_table_remove_all(tlb->entries);
    QTAILQ_INIT(&tlb->oldest_first);
    memset(tlb->per_order, 0, sizeof(tlb->per_order));
}

void ats_tlb_destroy(ATSTlb *tlb)
{
    g_hash_table_destroy(tlb->entries);
    tlb->entries = NULL;
}

unsigned ats_tlb_count(ATSTlb *tlb)
{
    return g_hash_table_size(tlb->entries);
}

static void entry_drop(ATSTlb *tlb, ATSTlbEntry *e)
{
    QTAILQ_REMOVE(&tlb->oldest_first, e, next);
    tlb->per_order[e->order]--;
    g_hash_table_remove(tlb->entries, e);
}

static ATSTlbEntry *entry_find(ATSTlb *tlb, uint32_t pasid, bool priv,
                               unsigned order, uint64_t number)
{
    ATSTlbEntry key = {
        .number = number, .pasid = pasid, .order = order, .priv = priv,
    };

    return g_hash_table_lookup(tlb->entries, &key);
}

/*
 * Looks for a translation of @iova that permits @req. *len is what remains of
 * the entry from @iova on.
 */
bool ats_tlb_find(ATSTlb *tlb, const PCIATSRequest *req, hwaddr iova,
                  hwaddr *addr, hwaddr *len)
{
    for (unsigned order = ORDER_MIN; order <= ORDER_MAX; order++) {
        ATSTlbEntry *e;
        hwaddr offset;

        if (!tlb->per_order[order]) {
            continue;
        }
        e = entry_find(tlb, req->pasid, req->priv, order, iova >> order);
        if (!e || (req->write ? !e->write : !e->read) ||
            (req->exec && !e->exec)) {
            continue;
        }
        offset = iova & MAKE_64BIT_MASK(0, order);
        *addr = e->addr + offset;
        *len = BIT_ULL(order) - offset;
        return true;
    }
    return false;
}

/*
 * Keeps @xlat, the answer to @req for @iova. Returns the number of entries that
 * had to make room.
 */
unsigned ats_tlb_add(ATSTlb *tlb, unsigned capacity, const PCIATSRequest *req,
                     hwaddr iova, const PCIATSTranslation *xlat)
{
    unsigned order = MIN(ORDER_MAX, ctz64(~xlat->mask));
    ATSTlbEntry *e;
    unsigned evicted = 0;

    if (order < ORDER_MIN) {
        return 0;
    }
    e = entry_find(tlb, req->pasid, req->priv, order, iova >> order);
    if (e) {
        entry_drop(tlb, e);
    }
    while (ats_tlb_count(tlb) >= capacity) {
        entry_drop(tlb, QTAILQ_FIRST(&tlb->oldest_first));
        evicted++;
    }

    e = g_new0(ATSTlbEntry, 1);
    e->number = iova >> order;
    e->pasid = req->pasid;
    e->order = order;
    e->priv = req->priv;
    e->read = xlat->read;
    e->write = xlat->write;
    e->exec = req->exec && xlat->exec;
    e->addr = (xlat->addr + (iova - xlat->iova)) & ~MAKE_64BIT_MASK(0, order);
    g_hash_table_add(tlb->entries, e);
    QTAILQ_INSERT_TAIL(&tlb->oldest_first, e, next);
    tlb->per_order[order]++;
    return evicted;
}

/* Walks all entries; returns how many went. */
static unsigned invalidate_walk(ATSTlb *tlb, uint32_t pasid, bool global,
                                uint64_t first, uint64_t last)
{
    ATSTlbEntry *e, *following;
    unsigned dropped = 0;

    QTAILQ_FOREACH_SAFE(e, &tlb->oldest_first, next, following) {
        uint64_t start = e->number << e->order;
        uint64_t end = start + MAKE_64BIT_MASK(0, e->order);

        if (global ? e->pasid == PCI_ATS_NO_PASID : e->pasid != pasid) {
            continue;
        }
        if (end < first || start > last) {
            continue;
        }
        entry_drop(tlb, e);
        dropped++;
    }
    return dropped;
}

/*
 * Drops every entry that touches @size bytes (zero: 2^64) at @addr: those of
 * @pasid, or with @global those of every PASID. Returns how many went.
 */
unsigned ats_tlb_invalidate(ATSTlb *tlb, uint32_t pasid, bool global,
                            uint64_t addr, uint64_t size)
{
    uint64_t last = size ? addr + (size - 1) : UINT64_MAX;
    uint64_t lookups = 0;
    unsigned dropped = 0;

    if (!size || last < addr) {
        addr = size ? addr : 0;
        return invalidate_walk(tlb, pasid, global, addr, UINT64_MAX);
    }
    for (unsigned order = ORDER_MIN; order <= ORDER_MAX; order++) {
        if (tlb->per_order[order]) {
            lookups += (last >> order) - (addr >> order) + 1;
        }
    }
    if (global || lookups > LOOKUPS_MAX) {
        return invalidate_walk(tlb, pasid, global, addr, last);
    }

    for (unsigned order = ORDER_MIN; order <= ORDER_MAX; order++) {
        if (!tlb->per_order[order]) {
            continue;
        }
        for (uint64_t n = addr >> order; n <= last >> order; n++) {
            for (int priv = 0; priv <= 1; priv++) {
                ATSTlbEntry *e = entry_find(tlb, pasid, priv, order, n);

                if (e) {
                    entry_drop(tlb, e);
                    dropped++;
                }
            }
        }
    }
    return dropped;
}
