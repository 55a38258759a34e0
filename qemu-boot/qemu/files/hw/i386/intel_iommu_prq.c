/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated VT-d: the page request queue and its registers (VT-d 4.1, chapters
 * 7 and 11), and the page group response descriptor.
 *
 * All state is in the registers. Everything runs with the BQL held.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "block/aio.h"
#include "exec/address-spaces.h"
#include "hw/pci/pci.h"
#include "intel_iommu_nested.h"
#include "intel_iommu_record.h"

#define VTD_PRQ_ENTRY_SIZE      32
#define VTD_PRQ_INDEX_MASK      0x7ffe0ULL

#define VTD_PRS_PPR             (1u << 0)   /* pending page request */
#define VTD_PRS_PRO             (1u << 1)   /* page request overflow */
#define VTD_PECTL_IM            (1u << 31)
#define VTD_PECTL_IP            (1u << 30)

static uint32_t vtd_prq_get(IntelIOMMUState *s, hwaddr reg)
{
    return ldl_le_p(&s->csr[reg]);
}

static void vtd_prq_set(IntelIOMMUState *s, hwaddr reg, uint32_t val)
{
    stl_le_p(&s->csr[reg], val);
}

static void vtd_prq_define(IntelIOMMUState *s, hwaddr reg, uint32_t val,
                           uint32_t wmask, uint32_t w1cmask)
{
    stl_le_p(&s->csr[reg], val);
    stl_le_p(&s->wmask[reg], wmask);
    stl_le_p(&s->w1cmask[reg], w1cmask);
}

/* Called by vtd_init(), so by reset too. */
void vtd_prq_init(IntelIOMMUState *s)
{
    if (!s->nested) {
        return;
    }
    vtd_prq_define(s, DMAR_PQH_REG, 0, VTD_PRQ_INDEX_MASK, 0);
    vtd_prq_define(s, DMAR_PQT_REG, 0, VTD_PRQ_INDEX_MASK, 0);
    vtd_prq_define(s, DMAR_PQA_REG, 0, 0xfffff007u, 0);
    vtd_prq_define(s, DMAR_PQA_REG_HI, 0, 0xffffffffu, 0);
    vtd_prq_define(s, DMAR_PRS_REG, 0, 0, VTD_PRS_PPR | VTD_PRS_PRO);
    vtd_prq_define(s, DMAR_PECTL_REG, VTD_PECTL_IM, VTD_PECTL_IM, 0);
    vtd_prq_define(s, DMAR_PEDATA_REG, 0, 0xffffffffu, 0);
    vtd_prq_define(s, DMAR_PEADDR_REG, 0, 0xfffffffcu, 0);
    /* As for the other events: reserved without extended interrupt mode. */
    vtd_prq_define(s, DMAR_PEUADDR_REG, 0, 0, 0);
}

static void vtd_prq_send(IntelIOMMUState *s)
{
    uint32_t pectl = vtd_prq_get(s, DMAR_PECTL_REG);

    if (!(pectl & VTD_PECTL_IM)) {
        vtd_prq_set(s, DMAR_PECTL_REG, pectl & ~VTD_PECTL_IP);
        vtd_generate_interrupt(s, DMAR_PEADDR_REG, DMAR_PEDATA_REG);
    }
}

/* After software wrote the status or the control register. */
void vtd_prq_regs_written(IntelIOMMUState *s)
{
    uint32_t pectl = vtd_prq_get(s, DMAR_PECTL_REG);

    if (!s->nested || !(pectl & VTD_PECTL_IP)) {
        return;
    }
    if (!(vtd_prq_get(s, DMAR_PRS_REG) & (VTD_PRS_PPR | VTD_PRS_PRO))) {
        vtd_prq_set(s, DMAR_PECTL_REG, pectl & ~VTD_PECTL_IP);
    } else {
        vtd_prq_send(s);
    }
}

/*
 * Sets @bit of the status; an interrupt only if software knew of nothing yet.
 */
static void vtd_prq_event(IntelIOMMUState *s, uint32_t bit)
{
    uint32_t prs = vtd_prq_get(s, DMAR_PRS_REG);

    vtd_prq_set(s, DMAR_PRS_REG, prs | bit);
    if (prs & (VTD_PRS_PPR | VTD_PRS_PRO)) {
        return;
    }
    vtd_prq_set(s, DMAR_PECTL_REG,
                vtd_prq_get(s, DMAR_PECTL_REG) | VTD_PECTL_IP);
    vtd_prq_send(s);
}

/* Appends an entry. False: full, or not in RAM. */
static bool vtd_prq_put(IntelIOMMUState *s, const uint64_t *entry)
{
    uint64_t pqa = ldq_le_p(&s->csr[DMAR_PQA_REG]);
    uint32_t mask = (VTD_PAGE_SIZE << (pqa & 7)) - 1;
    uint32_t head = vtd_prq_get(s, DMAR_PQH_REG) & mask;
    uint32_t tail = vtd_prq_get(s, DMAR_PQT_REG) & mask;
    uint32_t next = (tail + VTD_PRQ_ENTRY_SIZE) & mask;
    hwaddr addr = (pqa & VTD_PT_BASE_ADDR_MASK(s->aw_bits)) + tail;
    uint64_t le[VTD_PRQ_ENTRY_SIZE / sizeof(uint64_t)];
    unsigned i;

    if (next == head) {
        return false;
    }
    for (i = 0; i < ARRAY_SIZE(le); i++) {
        le[i] = cpu_to_le64(entry[i]);
    }
    RCU_READ_LOCK_GUARD();
    if (!vtd_nested_ram(addr, sizeof(le), true) ||
        address_space_write(&address_space_memory, addr, MEMTXATTRS_UNSPECIFIED,
                            le, sizeof(le)) != MEMTX_OK) {
        return false;
    }
    vtd_record(s, "Q %" PRIx64 " %" PRIx64 " %" PRIx64 "\n", addr, entry[0],
               entry[1]);
    /* The guest that reads the tail must find the entry. */
    smp_wmb();
    vtd_prq_set(s, DMAR_PQT_REG, next);
    return true;
}

typedef struct VTDPrqAnswer {
    IntelIOMMUState *s;
    uint16_t sid;
    uint16_t prgi;
    uint32_t pasid;
    unsigned code;
} VTDPrqAnswer;

static void vtd_prq_respond(IntelIOMMUState *s, uint16_t sid, uint32_t pasid,
                            uint16_t prgi, unsigned code)
{
    VTDNstClient *c = vtd_nested_find_client(s, sid);

    vtd_record(s, "A %x %x %x %x\n", sid, pasid, prgi, code);
    if (c) {
        c->ops->page_response(c->client, pasid, prgi, code);
    }
}

static void vtd_prq_answer_bh(void *opaque)
{
    g_autofree VTDPrqAnswer *a = opaque;

    vtd_prq_respond(a->s, a->sid, a->pasid, a->prgi, a->code);
}

/*
 * Drops a request. The hardware answers a last request itself. Later: a page
 * request is a posted message, and the endpoint is still in the call that sent
 * it.
 */
static void vtd_prq_answer(IntelIOMMUState *s, uint16_t sid,
                           const PCIATSPageRequest *req, unsigned code)
{
    VTDPrqAnswer *a;

    if (!req->last) {
        return;
    }
    a = g_new0(VTDPrqAnswer, 1);
    a->s = s;
    a->sid = sid;
    a->pasid = req->pasid;
    a->prgi = req->prgi;
    a->code = code;
    aio_bh_schedule_oneshot(qemu_get_aio_context(), vtd_prq_answer_bh, a);
}

/* Why a page request of @sid cannot be taken, or 0. */
static int vtd_prq_check(IntelIOMMUState *s, const VTDNstReq *req, bool *fpd)
{
    VTDContextEntry ce;
    int fault;

    *fpd = false;
    if (!s->root_scalable) {
        return VTD_FR_RTA_PAGE_REQ;
    }
    fault = vtd_nested_get_context(s, req->sid, &ce, fpd);
    if (fault) {
        return fault;
    }
    if (!(ce.val[0] & VTD_SM_CE_DTE)) {
        return VTD_FR_SCT_DTE;
    }
    if (!(ce.val[0] & VTD_SM_CE_PRE)) {
        return VTD_FR_SCT_PRE;
    }
    if (req->has_pasid && !(ce.val[0] & VTD_SM_CE_PASIDE)) {
        return VTD_FR_SCT_PASIDE;
    }
    if (req->has_pasid && req->pasid >> (VTD_SM_CE_PDTS(&ce) + 13)) {
        return VTD_FR_SCT_PASID_RANGE;
    }
    return 0;
}

/* A page request message. 0, or -EIO: translation is off. */
int vtd_prq_page_request(IntelIOMMUState *s, uint16_t sid,
                         const PCIATSPageRequest *page)
{
    bool has_pasid = page->pasid != PCI_ATS_NO_PASID;
    VTDNstReq req = {
        .sid = sid,
        .has_pasid = has_pasid,
        .pasid = has_pasid ? page->pasid & VTD_PASID_ID_MASK : 0,
        .iova = page->addr,
        .exec = has_pasid && page->exec,
        .priv = has_pasid && page->priv,
        .page_req = true,
    };
    uint64_t entry[4] = { 0 };
    bool fpd;
    int fault;

    vtd_record(s, "P %x %x %" PRIx64 " %x %x\n", sid, page->pasid, page->addr,
               page->read | page->write << 1 | page->last << 2 |
               page->priv << 3, page->prgi);
    if (!s->dmar_enabled) {
        return -EIO;
    }
    fault = vtd_prq_check(s, &req, &fpd);
    if (fault) {
        if (!fpd) {
            vtd_nested_report(s, &req, fault);
        }
        vtd_prq_answer(s, sid, page, PCI_PRI_FAILURE);
        return 0;
    }

    /* Nothing is taken until software has cleared an overflow. */
    if (vtd_prq_get(s, DMAR_PRS_REG) & VTD_PRS_PRO) {
        vtd_prq_answer(s, sid, page, PCI_PRI_SUCCESS);
        return 0;
    }

    /* Page request descriptor (VT-d 4.1, chapter 7). */
    entry[0] = 1 | ((uint64_t)has_pasid << 8) | ((uint64_t)sid << 16) |
               ((uint64_t)req.pasid << 32) | ((uint64_t)req.exec << 52) |
               ((uint64_t)req.priv << 53);
    entry[1] = (uint64_t)page->read | ((uint64_t)page->write << 1) |
               ((uint64_t)page->last << 2) |
               ((uint64_t)(page->prgi & 0x1ff) << 3) |
               (page->addr & VTD_PAGE_MASK_4K);
    if (!vtd_prq_put(s, entry)) {
        vtd_prq_event(s, VTD_PRS_PRO);
        /* Success, so that the endpoint tries again. */
        vtd_prq_answer(s, sid, page, PCI_PRI_SUCCESS);
        return 0;
    }
    vtd_prq_event(s, VTD_PRS_PPR);
    return 0;
}

/* Page group response descriptor. False: invalid. */
bool vtd_prq_response_desc(IntelIOMMUState *s, const VTDInvDesc *desc)
{
    uint16_t sid = (desc->val[0] >> 16) & 0xffff;
    uint32_t pasid = (desc->val[0] >> 32) & VTD_PASID_ID_MASK;
    bool has_pasid = desc->val[0] & (1ULL << 4);
    unsigned code = (desc->val[0] >> 12) & 0xf;
    uint16_t prgi = (desc->val[1] >> 3) & 0x1ff;

    if (!s->nested || !s->iq_dw || (desc->val[0] & 0xfff00000000001e0ULL) ||
        (desc->val[1] & ~0xffcULL) || desc->val[2] || desc->val[3]) {
        error_report_once("%s: invalid descriptor", __func__);
        return false;
    }
    vtd_prq_respond(s, sid, has_pasid ? pasid : PCI_ATS_NO_PASID, prgi, code);
    return true;
}
