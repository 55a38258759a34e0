/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ATS and PRI between an endpoint and the IOMMU above it: finds the IOMMU.
 */
#include "qemu/osdep.h"
#include "hw/pci/pci_ats.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"

/*
 * Returns the ops of the IOMMU above @dev, or NULL. A conventional bus on the
 * way hides the requester and carries neither ATS nor a PASID prefix.
 */
static const PCIATSIOMMUOps *pci_ats_ops(PCIDevice *dev, void **opaque)
{
    PCIBus *bus = pci_get_bus(dev);

    if (pci_bus_bypass_iommu(bus)) {
        return NULL;
    }
    while (!bus->iommu_ops) {
        if (!pci_bus_is_express(bus) || !bus->parent_dev) {
            return NULL;
        }
        bus = pci_get_bus(bus->parent_dev);
    }
    *opaque = bus->iommu_opaque;
    return pci_bus_is_express(bus) ? bus->iommu_ops->ats : NULL;
}

int pci_ats_set_client(PCIDevice *dev, void *client,
                       const PCIATSClientOps *client_ops)
{
    void *opaque;
    const PCIATSIOMMUOps *ops = pci_ats_ops(dev, &opaque);

    if (!ops) {
        return -ENODEV;
    }
    return ops->set_client(pci_get_bus(dev), opaque, dev->devfn, client,
                           client_ops);
}

int pci_ats_translate(PCIDevice *dev, const PCIATSRequest *req, hwaddr iova,
                      PCIATSTranslation *out)
{
    void *opaque;
    const PCIATSIOMMUOps *ops = pci_ats_ops(dev, &opaque);

    if (!ops) {
        return -ENODEV;
    }
    return ops->translate(pci_get_bus(dev), opaque, dev->devfn, req, iova, out);
}

int pci_ats_request(PCIDevice *dev, const PCIATSRequest *req, hwaddr iova,
                    PCIATSTranslation *out)
{
    void *opaque;
    const PCIATSIOMMUOps *ops = pci_ats_ops(dev, &opaque);

    if (!ops) {
        return -ENODEV;
    }
    return ops->ats_request(pci_get_bus(dev), opaque, dev->devfn, req, iova,
                            out);
}

bool pci_ats_translated_allowed(PCIDevice *dev)
{
    void *opaque;
    const PCIATSIOMMUOps *ops = pci_ats_ops(dev, &opaque);

    return ops &&
           ops->translated_allowed(pci_get_bus(dev), opaque, dev->devfn);
}

int pci_ats_page_request(PCIDevice *dev, const PCIATSPageRequest *req)
{
    void *opaque;
    const PCIATSIOMMUOps *ops = pci_ats_ops(dev, &opaque);

    if (!ops) {
        return -ENODEV;
    }
    return ops->page_request(pci_get_bus(dev), opaque, dev->devfn, req);
}
