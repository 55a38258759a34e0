/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Address Translation Services and Page Request Interface between an emulated
 * endpoint and the emulated IOMMU above it (PCIe 6.0, chapter 10).
 *
 * The endpoint calls pci_ats_*(); the IOMMU implements PCIATSIOMMUOps, hung on
 * PCIIOMMUOps::ats, and calls back through the PCIATSClientOps that the endpoint
 * registered. All calls are made with the BQL held.
 */
#ifndef HW_PCI_PCI_ATS_H
#define HW_PCI_PCI_ATS_H

#include "exec/hwaddr.h"
#include "exec/memattrs.h"
#include "hw/pci/pci.h"

/* A request without PASID TLP prefix. */
#define PCI_ATS_NO_PASID    UINT32_MAX

/* What a request carries beside its address. */
typedef struct PCIATSRequest {
    uint32_t pasid;         /* PCI_ATS_NO_PASID, or 20 bits */
    bool priv;              /* Privileged Mode Requested */
    bool exec;              /* Execute Requested */
    bool write;             /* untranslated: a write; translation request: write wanted (NW clear) */
} PCIATSRequest;

/*
 * A translation. Covers the naturally aligned range of @mask + 1 bytes around
 * the asked address. Without @read and @write there is no access (a "hole").
 */
typedef struct PCIATSTranslation {
    hwaddr iova;
    hwaddr addr;
    hwaddr mask;
    bool read, write, exec, global;
    bool untranslated_only; /* U: cache nothing, use untranslated requests */
} PCIATSTranslation;

/* Page Response codes (PCIe 6.0, 10.4.2.1). */
enum {
    PCI_PRI_SUCCESS = 0x0,
    PCI_PRI_INVALID = 0x1,
    PCI_PRI_FAILURE = 0xf,
};

typedef struct PCIATSPageRequest {
    uint32_t pasid;
    uint64_t addr;          /* page aligned */
    uint16_t prgi;          /* 9 bits */
    bool priv, exec, read, write, last;
} PCIATSPageRequest;

/* The endpoint's side. */
typedef struct PCIATSClientOps {
    /*
     * Invalidate request: drop what lies in [addr, addr + size - 1]; @size zero
     * is 2^64. @pasid PCI_ATS_NO_PASID: entries without PASID; @global: entries
     * of every PASID. False: no answer, for ATS is off.
     */
    bool (*invalidate)(void *client, uint32_t pasid, bool global,
                       uint64_t addr, uint64_t size);
    /* Page request group response. @pasid as in the request. */
    void (*page_response)(void *client, uint32_t pasid, uint16_t prgi,
                          unsigned code);
} PCIATSClientOps;

/* The IOMMU's side. */
typedef struct PCIATSIOMMUOps {
    /* NULL @ops: unset. 0, or -ENODEV if the IOMMU does not do ATS. */
    int (*set_client)(PCIBus *bus, void *opaque, int devfn, void *client,
                      const PCIATSClientOps *ops);
    /*
     * Untranslated request: *out is the translation of the page at @iova.
     * Reports a fault in the IOMMU where there is none. 0, or -EFAULT.
     */
    int (*translate)(PCIBus *bus, void *opaque, int devfn,
                     const PCIATSRequest *req, hwaddr iova,
                     PCIATSTranslation *out);
    /*
     * Translation request (ATS). 0: *out is the answer, perhaps a hole, and no
     * fault was recorded for one; -EFAULT: Unsupported Request or Completer
     * Abort (translation requests are blocked).
     */
    int (*ats_request)(PCIBus *bus, void *opaque, int devfn,
                       const PCIATSRequest *req, hwaddr iova,
                       PCIATSTranslation *out);
    /*
     * Whether translated requests of this function are allowed (context entry
     * and root table mode). The memory is then accessed by address.
     */
    bool (*translated_allowed)(PCIBus *bus, void *opaque, int devfn);
    /* Page request message. 0, or -EIO if it cannot be taken (PRI off). */
    int (*page_request)(PCIBus *bus, void *opaque, int devfn,
                        const PCIATSPageRequest *req);
} PCIATSIOMMUOps;

/*
 * Each returns -ENODEV (false) where no IOMMU above @dev implements the calls.
 * The endpoint itself checks its own enables (bus master, PASID, ATS, PRI).
 */
int pci_ats_set_client(PCIDevice *dev, void *client,
                       const PCIATSClientOps *ops);
int pci_ats_translate(PCIDevice *dev, const PCIATSRequest *req, hwaddr iova,
                      PCIATSTranslation *out);
int pci_ats_request(PCIDevice *dev, const PCIATSRequest *req, hwaddr iova,
                    PCIATSTranslation *out);
bool pci_ats_translated_allowed(PCIDevice *dev);
int pci_ats_page_request(PCIDevice *dev, const PCIATSPageRequest *req);

#endif
