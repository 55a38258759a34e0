/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated VT-d: a recording of what a guest's driver does with the unit, for
 * another unit to be judged by. Faults are recorded by whoever does the DMA,
 * everything else with the BQL held.
 *
 * A line an event, numbers in hexadecimal:
 *
 *   M address word            memory that the unit reads has changed: a word of
 *                             the invalidation queue or of the tables from the
 *                             root to the PASID entries, zero at first
 *   R offset size value       a read of a register gave this
 *   W offset size value       a write; what it did follows
 *   S address word            the status of a wait was written
 *   I address data            an interrupt was sent
 *   P source pasid address flags index
 *                             an endpoint asked for a page: flags 1 read, 2
 *                             write, 4 last of its group, 8 supervisor; a pasid
 *                             of ffffffff is none
 *   Q address word word       ... which was put into the guest's queue
 *   A source pasid index code the guest's answer went to the endpoint
 *   F source low high         a fault was to be recorded
 *   T                         the recording became too long, or its tables too
 *                             large, and ends here
 */
#include "qemu/osdep.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "exec/address-spaces.h"
#include "intel_iommu_internal.h"
#include "intel_iommu_record.h"

/* Bytes and pages: far more than a boot and the tests of host SVA take. */
#define VTD_RECORD_MAX      (1ULL << 30)
#define VTD_RECORD_PAGES    16384
#define VTD_RECORD_WORDS    (VTD_PAGE_SIZE / sizeof(uint64_t))

struct VTDRecord {
    QemuMutex lock;             /* of what follows, up to ended */
    FILE *out;
    uint64_t size;
    bool ended;
    const MemoryRegionOps *inner;
    MemoryRegionOps ops;
    GHashTable *pages;          /* page number to what it held */
};

/* With the lock held. */
static void vtd_record_end(struct VTDRecord *r)
{
    fputs("T\n", r->out);
    fflush(r->out);
    r->ended = true;
}

void vtd_record(IntelIOMMUState *s, const char *format, ...)
{
    struct VTDRecord *r = s->record;
    va_list args;
    int n;

    if (!r) {
        return;
    }
    QEMU_LOCK_GUARD(&r->lock);
    if (r->ended) {
        return;
    }
    va_start(args, format);
    n = vfprintf(r->out, format, args);
    va_end(args);
    r->size += MAX(n, 0);
    if (r->size > VTD_RECORD_MAX) {
        vtd_record_end(r);
    }
}

static bool vtd_record_goes_on(struct VTDRecord *r)
{
    QEMU_LOCK_GUARD(&r->lock);
    return !r->ended;
}

/* Tells what has changed in a page; gives what it holds now, or NULL. */
static const uint64_t *vtd_record_page(IntelIOMMUState *s, hwaddr addr)
{
    struct VTDRecord *r = s->record;
    gpointer key = GSIZE_TO_POINTER(addr >> VTD_PAGE_SHIFT);
    uint64_t *old = g_hash_table_lookup(r->pages, key);
    uint64_t now[VTD_RECORD_WORDS];
    unsigned i;

    if (!old && g_hash_table_size(r->pages) == VTD_RECORD_PAGES) {
        QEMU_LOCK_GUARD(&r->lock);
        if (!r->ended) {
            vtd_record_end(r);
        }
        return NULL;
    }
    if (!old) {
        old = g_new0(uint64_t, VTD_RECORD_WORDS);
        g_hash_table_insert(r->pages, key, old);
    }
    if (address_space_read(&address_space_memory, addr, MEMTXATTRS_UNSPECIFIED,
                           now, sizeof(now)) != MEMTX_OK) {
        return old;
    }
    if (!memcmp(now, old, sizeof(now))) {
        return old;
    }
    for (i = 0; i < VTD_RECORD_WORDS; i++) {
        if (now[i] != old[i]) {
            vtd_record(s, "M %" PRIx64 " %" PRIx64 "\n",
                       addr + i * sizeof(uint64_t), le64_to_cpu(now[i]));
        }
    }
    memcpy(old, now, sizeof(now));
    return old;
}

static uint64_t vtd_record_word(const uint64_t *page, unsigned index)
{
    return le64_to_cpu(page[index]);
}

static void vtd_record_directory(IntelIOMMUState *s, uint64_t context)
{
    hwaddr dir = context & VTD_PAGE_MASK_4K;
    /* 2^(PDTS + 7) entries of 8 bytes. */
    unsigned pages = MAX(1, (1 << (((context >> 9) & 7) + 10)) >> 12);
    unsigned i, j;

    for (i = 0; i < pages; i++, dir += VTD_PAGE_SIZE) {
        const uint64_t *entries = vtd_record_page(s, dir);

        for (j = 0; entries && j < VTD_RECORD_WORDS; j++) {
            uint64_t entry = vtd_record_word(entries, j);

            if (entry & 1) {
                vtd_record_page(s, entry & VTD_PAGE_MASK_4K);
            }
        }
    }
}

/* The tables from the root to the PASID entries. */
static void vtd_record_tables(IntelIOMMUState *s)
{
    uint64_t rtaddr = ldq_le_p(&s->csr[DMAR_RTADDR_REG]);
    const uint64_t *root, *contexts;
    unsigned i, j;

    if (!(rtaddr & VTD_RTADDR_SMT)) {
        return;
    }
    root = vtd_record_page(s, rtaddr & VTD_PAGE_MASK_4K);
    for (i = 0; root && i < VTD_RECORD_WORDS; i++) {
        if (!(vtd_record_word(root, i) & 1)) {
            continue;
        }
        contexts = vtd_record_page(s, vtd_record_word(root, i) &
                                      VTD_PAGE_MASK_4K);
        for (j = 0; contexts && j < VTD_RECORD_WORDS; j += 4) {
            if (vtd_record_word(contexts, j) & 1) {
                vtd_record_directory(s, vtd_record_word(contexts, j));
            }
        }
    }
}

static void vtd_record_queue(IntelIOMMUState *s)
{
    uint64_t iqa = ldq_le_p(&s->csr[DMAR_IQA_REG]);
    unsigned i;

    for (i = 0; i < 1u << (iqa & 7); i++) {
        vtd_record_page(s, (iqa & VTD_PAGE_MASK_4K) + i * VTD_PAGE_SIZE);
    }
}

static uint64_t vtd_record_read(void *opaque, hwaddr addr, unsigned size)
{
    IntelIOMMUState *s = opaque;
    uint64_t val = s->record->inner->read(opaque, addr, size);

    vtd_record(s, "R %" PRIx64 " %x %" PRIx64 "\n", addr, size, val);
    return val;
}

static void vtd_record_write(void *opaque, hwaddr addr, uint64_t val,
                             unsigned size)
{
    IntelIOMMUState *s = opaque;

    if ((addr == DMAR_IQT_REG || addr == DMAR_GCMD_REG) &&
        vtd_record_goes_on(s->record)) {
        vtd_record_queue(s);
        vtd_record_tables(s);
    }
    vtd_record(s, "W %" PRIx64 " %x %" PRIx64 "\n", addr, size, val);
    s->record->inner->write(opaque, addr, val, size);
}

const MemoryRegionOps *vtd_record_ops(IntelIOMMUState *s,
                                      const MemoryRegionOps *ops)
{
    struct VTDRecord *r = s->record;

    if (!r) {
        return ops;
    }
    r->inner = ops;
    r->ops = *ops;
    r->ops.read = vtd_record_read;
    r->ops.write = vtd_record_write;
    return &r->ops;
}

void vtd_record_show(IntelIOMMUState *s)
{
    if (s->show_cap) {
        stq_le_p(&s->csr[DMAR_CAP_REG], s->show_cap);
    }
    if (s->show_ecap) {
        stq_le_p(&s->csr[DMAR_ECAP_REG], s->show_ecap);
    }
}

bool vtd_record_realize(IntelIOMMUState *s, Error **errp)
{
    struct VTDRecord *r;

    if (!s->record_path) {
        return true;
    }
    r = g_new0(struct VTDRecord, 1);
    r->out = fopen(s->record_path, "w");
    if (!r->out) {
        error_setg_errno(errp, errno, "cannot write the recording %s",
                         s->record_path);
        g_free(r);
        return false;
    }
    qemu_mutex_init(&r->lock);
    r->pages = g_hash_table_new_full(NULL, NULL, NULL, g_free);
    s->record = r;
    return true;
}
