/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated VT-d with nested translation: from a request to its translation.
 *
 * A request finds its context entry (VT-d 4.1, 9.4), its PASID table entry
 * (9.5, 9.6), then the IOTLB or the walk of intel_iommu_nested_walk.c. Faults
 * carry the reasons of chapter 7.
 *
 * Locks: iommu_lock is taken around look-up and walk and dropped before a
 * fault is recorded. Invalidations and the calls from endpoints hold the BQL.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/lockable.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "hw/i386/x86-iommu.h"
#include "hw/pci/pci_bus.h"
#include "intel_iommu_nested.h"

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

    /*
     * Second-stage execute (bit 5) is not offered, 11:10 are reserved. Nor are
     * memory types (ECAP.MTS) offered: CD, EMTE, EMT, PWT, PCD and PAT.
     */
    if ((pe->val[0] & 0xc20) || (pe->val[1] & 0xfffffffffe7f0000ULL) ||
        ((pe->val[1] & VTD_PE_PGSNP) && !(s->ecap & VTD_ECAP_SC)) ||
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

/* Requests */

/*
 * With iommu_lock and RCU. Returns 0 or a fault reason; sets *fpd with both.
 */
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
        req->priv = (s->ecap & VTD_ECAP_SRS) &&
                    (ce.val[1] & VTD_SM_CE_RID_PRIV);
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
        return vtd_nst_walk(s, req, &p->pe, out);
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
 * record, so that the endpoint may ask for the page (chapter 7).
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

/* Records a fault in FRCD_REG (chapter 11). The caller has looked at FPD. */
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
                              void *client, const PCIATSClientOps *ops)
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
        c->client = client;
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
        c->ops->invalidate(c->client, pasid, global, bytes ? addr : 0, bytes);
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
    if (!s->iotlb_entries || s->iotlb_entries > VTD_NST_ENTRIES_MAX) {
        error_setg(errp, "iotlb-entries must be between 1 and %u",
                   VTD_NST_ENTRIES_MAX);
        return false;
    }
    s->scalable_mode = true;
    s->flts = true;
    s->pasid = true;
    X86_IOMMU_DEVICE(s)->dt_supported = true;
    return true;
}

/*
 * After migration: the guest must find the unit that it knows. 0, or -EINVAL.
 */
int vtd_nested_post_load(IntelIOMMUState *s)
{
    uint64_t cap = ldq_le_p(&s->csr[DMAR_CAP_REG]);
    uint64_t ecap = ldq_le_p(&s->csr[DMAR_ECAP_REG]);

    if (!s->nested && !(ecap & VTD_ECAP_NEST)) {
        return 0;
    }
    if (cap != s->cap || ecap != s->ecap) {
        error_report("intel-iommu: the guest knows CAP 0x%" PRIx64 ", ECAP 0x%"
                     PRIx64 "; this unit has 0x%" PRIx64 ", 0x%" PRIx64
                     ": start it with the same nesting, fs5lp and so on",
                     cap, ecap, s->cap, s->ecap);
        return -EINVAL;
    }
    return 0;
}

void vtd_nested_realize(IntelIOMMUState *s)
{
    if (s->nesting) {
        s->nested = vtd_nst_cache_new(s->iotlb_entries);
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
