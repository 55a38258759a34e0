/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated VT-d with nested translation: what intel_iommu.c and the files
 * intel_iommu_nested.c, intel_iommu_nested_walk.c, intel_iommu_nested_cache.c
 * and intel_iommu_prq.c share.
 *
 * With nesting=on every request in scalable mode takes the path declared here,
 * whatever its PGTT, so that all of them meet the same caches. Legacy mode
 * stays with intel_iommu.c.
 *
 * Section numbers are those of the VT-d specification, revision 4.1.
 */
#ifndef HW_I386_INTEL_IOMMU_NESTED_H
#define HW_I386_INTEL_IOMMU_NESTED_H

#include "hw/i386/intel_iommu.h"
#include "hw/pci/pci_ats.h"
#include "qemu/queue.h"
#include "intel_iommu_internal.h"

/*
 * Bound of what a guest can make each cache hold. The oldest entry makes room,
 * so more pages in use than entries cost walks, not the whole cache.
 */
#define VTD_NST_ENTRIES_MAX         65536u

/* Capability register */
#define VTD_CAP_FS5LP               (1ULL << 60)

/* Extended capability register */
#define VTD_ECAP_C                  (1ULL << 0)
#define VTD_ECAP_NEST               (1ULL << 26)
#define VTD_ECAP_PRS                (1ULL << 29)
#define VTD_ECAP_EAFS               (1ULL << 34)
#define VTD_ECAP_PSS(bits)          (((uint64_t)(bits) - 1) << 35)
#define VTD_ECAP_PDS                (1ULL << 42)
#define VTD_ECAP_SSADS              (1ULL << 45)
#define VTD_ECAP_SMPWC              (1ULL << 48)

/* Scalable-mode context entry (9.4) */
#define VTD_SM_CE_DTE               (1ULL << 2)
#define VTD_SM_CE_PASIDE            (1ULL << 3)
#define VTD_SM_CE_PRE               (1ULL << 4)
#define VTD_SM_CE_PDTS(ce)          (((ce)->val[0] >> 9) & 7)
#define VTD_SM_CE_RID_PASID(ce)     ((ce)->val[1] & VTD_PASID_ID_MASK)
#define VTD_SM_CE_RID_PRIV          (1ULL << 20)

/* Scalable-mode PASID table entry (9.6) */
#define VTD_PE_PGTT(pe)             ((pe)->val[0] & VTD_SM_PASID_ENTRY_PGTT)
#define VTD_PE_AW(pe)               (((pe)->val[0] >> 2) & 7)
#define VTD_PE_SSADE                (1ULL << 9)
#define VTD_PE_PGSNP                (1ULL << 24)    /* val[1]; ECAP.SC */
#define VTD_PE_SRE                  (1ULL << 0)
#define VTD_PE_FSPM(pe)             (((pe)->val[2] >> 2) & 3)
#define VTD_PE_WPE                  (1ULL << 4)
#define VTD_PE_EAFE                 (1ULL << 7)

/* First-stage paging entry (9.7): Extended Accessed */
#define VTD_FS_EA                   (1ULL << 10)
/* Second-stage paging entry (9.8): Accessed and Dirty */
#define VTD_SS_A                    (1ULL << 8)
#define VTD_SS_D                    (1ULL << 9)

/*
 * Fault reasons of scalable mode (chapter 7) that intel_iommu_internal.h
 * lacks. The names follow the specification's groups.
 */
enum {
    VTD_FR_RTA_PASID        = 0x31, /* request with PASID in legacy mode */
    VTD_FR_RTA_PAGE_REQ     = 0x32, /* page request in legacy mode */
    VTD_FR_SRT_ACCESS       = 0x38,
    VTD_FR_SRT_P            = 0x39,
    VTD_FR_SRT_RSVD         = 0x3a,
    VTD_FR_SCT_ACCESS       = 0x40,
    VTD_FR_SCT_P            = 0x41,
    VTD_FR_SCT_RSVD         = 0x42,
    VTD_FR_SCT_DTE          = 0x44,
    VTD_FR_SCT_PASIDE       = 0x45,
    VTD_FR_SCT_PASID_RANGE  = 0x46,
    VTD_FR_SCT_PRE          = 0x47,
    VTD_FR_SCT_RID_PASID    = 0x48,
    VTD_FR_SPD_RSVD         = 0x52,
    VTD_FR_SPT_RSVD         = 0x5a,
    VTD_FR_SPT_ERE          = 0x5c,
    VTD_FR_SPT_SRE          = 0x5d,
    VTD_FR_SFS_TABLE_RANGE  = 0x74, /* stage-1 table beyond stage 2's width */
    VTD_FR_SFS_ROOT_READ    = 0x75, /* stage-1 root table: no read in stage 2 */
    VTD_FR_SFS_TABLE_READ   = 0x76, /* lower stage-1 table: the same */
    VTD_FR_SFS_TABLE_WRITE  = 0x77, /* accessed or dirty: no write in stage 2 */
    VTD_FR_SSS_ACCESS       = 0x78,
    VTD_FR_SSS_P            = 0x79, /* neither read nor write */
    VTD_FR_SSS_RSVD         = 0x7a,
    VTD_FR_SSS_ROOT_ACCESS  = 0x7b,
    VTD_FR_SGN_SS_RANGE     = 0x83, /* input address beyond stage 2's width */
    VTD_FR_SGN_GPA_RANGE    = 0x84, /* output of stage 1 beyond that width */
    VTD_FR_SGN_READ         = 0x86,
};

/* A request as the translation sees it. */
typedef struct VTDNstReq {
    uint16_t sid;
    bool has_pasid;
    uint32_t pasid;             /* 20 bits, if has_pasid */
    hwaddr iova;
    bool write;                 /* ATS: write access wanted */
    bool exec;
    bool priv;
    bool ats;                   /* translation request */
    bool page_req;              /* page request; for fault records only */
} VTDNstReq;

/* A translation: a naturally aligned range of mask + 1 bytes. */
typedef struct VTDNstXlat {
    hwaddr iova;
    hwaddr addr;
    hwaddr mask;
    hwaddr s1_mask;             /* of the stage-1 leaf, at least mask */
    bool r, w;
} VTDNstXlat;

/*
 * What is cached of one kind under one tag: it is what an invalidation names,
 * so each of them is a few look-ups.
 */
typedef struct VTDNstSpace VTDNstSpace;

/* An entry of the PASID cache: (source id, PASID) to the PASID table entry. */
typedef struct VTDNstPasid {
    uint64_t key;
    VTDPASIDEntry pe;
    bool fpd;
    uint16_t did;
    uint32_t pasid;
    VTDNstSpace *space;
    QLIST_ENTRY(VTDNstPasid) in_space;
    QTAILQ_ENTRY(VTDNstPasid) in_fifo;
} VTDNstPasid;

typedef struct VTDNstTlb VTDNstTlb;
typedef struct VTDNstDomain VTDNstDomain;

typedef struct VTDNstClient {
    PCIBus *bus;
    int devfn;
    void *client;
    const PCIATSClientOps *ops;
    QLIST_ENTRY(VTDNstClient) next;
} VTDNstClient;

/*
 * IntelIOMMUState::nested. The caches are under IntelIOMMUState::iommu_lock.
 */
typedef struct VTDNested {
    GHashTable *contexts;       /* source id -> VTDContextEntry */
    GHashTable *pasids;         /* source id, PASID -> VTDNstPasid */
    GHashTable *spaces;         /* kind, domain id, PASID -> VTDNstSpace */
    GHashTable *domains;        /* kind, domain id -> VTDNstDomain */
    QTAILQ_HEAD(, VTDNstPasid) pasid_fifo;
    QTAILQ_HEAD(, VTDNstTlb) tlb_fifo;
    unsigned tlb_count;
    unsigned entries_max;       /* of PASID cache and IOTLB; the oldest goes */
    QLIST_HEAD(, VTDNstClient) clients;     /* under the BQL */
} VTDNested;

/* Bits of an address that the platform does not have. */
static inline uint64_t vtd_nst_beyond_haw(IntelIOMMUState *s)
{
    return ~VTD_HAW_MASK(s->aw_bits) & MAKE_64BIT_MASK(12, 52);
}

static inline bool vtd_nst_in_interrupt_range(hwaddr addr)
{
    return addr >= VTD_INTERRUPT_ADDR_FIRST && addr <= VTD_INTERRUPT_ADDR_LAST;
}

/* intel_iommu.c */
void vtd_generate_interrupt(IntelIOMMUState *s, hwaddr mesg_addr_reg,
                            hwaddr mesg_data_reg);
void vtd_report_frcd_fault(IntelIOMMUState *s, uint64_t source_id,
                           uint64_t hi, uint64_t lo);

/* intel_iommu_nested.c */
extern const PCIATSIOMMUOps vtd_nested_ats_ops;

bool vtd_nested_check_config(IntelIOMMUState *s, Error **errp);
int vtd_nested_post_load(IntelIOMMUState *s);
void vtd_nested_realize(IntelIOMMUState *s);
void vtd_nested_cap_init(IntelIOMMUState *s);
bool vtd_nested_translate(IntelIOMMUState *s, PCIBus *bus, uint8_t devfn,
                          uint32_t pasid, hwaddr iova, bool is_write,
                          IOMMUTLBEntry *entry);
int vtd_nested_get_context(IntelIOMMUState *s, uint16_t sid,
                           VTDContextEntry *ce, bool *fpd);
void vtd_nested_report(IntelIOMMUState *s, const VTDNstReq *req, int fault);
VTDNstClient *vtd_nested_find_client(IntelIOMMUState *s, uint16_t sid);
void vtd_nested_dev_tlb_inv(IntelIOMMUState *s, uint16_t sid, uint32_t pasid,
                            bool global, hwaddr addr, bool size);
bool vtd_nested_pasid_cache_desc(IntelIOMMUState *s, const VTDInvDesc *desc);

/* intel_iommu_nested_walk.c: in an RCU critical section */
uint64_t *vtd_nested_ram(hwaddr addr, hwaddr len, bool is_write);
bool vtd_nst_read(hwaddr addr, uint64_t *to, unsigned count);
int vtd_nst_walk(IntelIOMMUState *s, const VTDNstReq *req,
                 const VTDPASIDEntry *pe, VTDNstXlat *out);

/* intel_iommu_nested_cache.c: the caller holds iommu_lock unless stated */
VTDNested *vtd_nst_cache_new(unsigned entries);
void vtd_nst_cache_reset(VTDNested *n);

const VTDContextEntry *vtd_nst_context_find(VTDNested *n, uint16_t sid);
void vtd_nst_context_add(VTDNested *n, uint16_t sid, const VTDContextEntry *ce);

VTDNstPasid *vtd_nst_pasid_find(VTDNested *n, uint16_t sid, uint32_t pasid);
VTDNstPasid *vtd_nst_pasid_add(VTDNested *n, uint16_t sid, uint32_t pasid,
                               const VTDPASIDEntry *pe, bool fpd);

bool vtd_nst_tlb_find(VTDNested *n, const VTDNstPasid *p, hwaddr iova,
                      bool priv, bool write, VTDNstXlat *out);
void vtd_nst_tlb_add(VTDNested *n, const VTDNstPasid *p, bool priv,
                     const VTDNstXlat *xlat);

/*
 * Invalidations; these take iommu_lock themselves, and do nothing without n.
 */
void vtd_nested_inv_all(IntelIOMMUState *s);
void vtd_nested_inv_context(IntelIOMMUState *s, uint16_t sid, uint16_t mask);
void vtd_nested_inv_iotlb_all(IntelIOMMUState *s);
void vtd_nested_inv_iotlb_domain(IntelIOMMUState *s, uint16_t did);
void vtd_nested_inv_iotlb_pages(IntelIOMMUState *s, uint16_t did, hwaddr addr,
                                unsigned am);
void vtd_nested_inv_piotlb_all(IntelIOMMUState *s, uint16_t did,
                               uint32_t pasid);
void vtd_nested_inv_piotlb_pages(IntelIOMMUState *s, uint16_t did,
                                 uint32_t pasid, hwaddr addr, unsigned am);
void vtd_nested_inv_pasid_all(IntelIOMMUState *s);
void vtd_nested_inv_pasid_domain(IntelIOMMUState *s, uint16_t did);
void vtd_nested_inv_pasid_one(IntelIOMMUState *s, uint16_t did, uint32_t pasid);

/* intel_iommu_prq.c */
void vtd_prq_init(IntelIOMMUState *s);
void vtd_prq_regs_written(IntelIOMMUState *s);
int vtd_prq_page_request(IntelIOMMUState *s, uint16_t sid,
                         const PCIATSPageRequest *req);
bool vtd_prq_response_desc(IntelIOMMUState *s, const VTDInvDesc *desc);

#endif
