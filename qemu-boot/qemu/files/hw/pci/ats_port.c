/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The part of a PCIe function that does DMA by PASID: its capabilities and
 * what they enable. See the header.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/range.h"
#include "hw/pci/ats_port.h"
#include "hw/pci/pcie.h"
#include "hw/pci/pci_regs.h"

/* ATS capability register: Global Invalidate Supported (PCIe 6.0, 10.5.1.2) */
#define ATS_CAP_GLOBAL_INVALIDATE   (1u << 6)

static uint8_t *port_config(ATSPort *p, uint16_t offset)
{
    return p->dev->config + offset;
}

static bool port_invalidate(void *client, uint32_t pasid, bool global,
                            uint64_t addr, uint64_t size)
{
    ATSPort *p = client;

    if (!(ats_port_enables(p) & ATS_PORT_ATS)) {
        return false;
    }
    p->counters.invalidations++;
    p->counters.tlb_dropped +=
        ats_tlb_invalidate(&p->tlb, pasid,
                           global && p->config.global_invalidate, addr, size);
    return true;
}

static void port_page_response(void *client, uint32_t pasid, uint16_t prgi,
                               unsigned code)
{
    ats_port_pri_response(client, pasid, prgi, code);
}

static const PCIATSClientOps port_client_ops = {
    .invalidate = port_invalidate,
    .page_response = port_page_response,
};

uint32_t ats_port_enables(ATSPort *p)
{
    uint16_t pasid = pci_get_word(port_config(p, p->config.pasid_cap) +
                                  PCI_PASID_CTRL);
    uint32_t enables = 0;

    if (pci_get_word(p->dev->config + PCI_COMMAND) & PCI_COMMAND_MASTER) {
        enables |= ATS_PORT_MASTER;
    }
    if (pasid & PCI_PASID_CTRL_ENABLE) {
        enables |= ATS_PORT_PASID;
        enables |= pasid & PCI_PASID_CTRL_EXEC ? ATS_PORT_PASID_EXEC : 0;
        enables |= pasid & PCI_PASID_CTRL_PRIV ? ATS_PORT_PASID_PRIV : 0;
    }
    if (pci_get_word(port_config(p, p->config.ats_cap) + PCI_ATS_CTRL) &
        PCI_ATS_CTRL_ENABLE) {
        enables |= ATS_PORT_ATS;
    }
    return enables | (ats_port_pri_on(p) ? ATS_PORT_PRI : 0);
}

/* A control was written: what it takes away goes at once. */
void ats_port_config_written(ATSPort *p, uint32_t addr, int len)
{
    uint16_t pasid;
    bool ats;

    if (ranges_overlap(addr, len, p->config.pri_cap, PCI_EXT_CAP_PRI_SIZEOF)) {
        ats_port_pri_control_written(p);
    }
    ats = ats_port_enables(p) & ATS_PORT_ATS;
    pasid = pci_get_word(port_config(p, p->config.pasid_cap) + PCI_PASID_CTRL);
    if (ats && !p->client_set) {
        p->client_set = !pci_ats_set_client(p->dev, p, &port_client_ops);
    }
    if (ats != p->ats_was_on || pasid != p->pasid_was) {
        ats_tlb_clear(&p->tlb);
    }
    p->ats_was_on = ats;
    p->pasid_was = pasid;
}

/* Ends everything without a word to the device. */
static void port_end(ATSPort *p)
{
    p->epoch++;
    QTAILQ_INIT(&p->stalled);
    QTAILQ_INIT(&p->resting);
    timer_del(p->rest_timer);
    for (unsigned i = 0; i < ATS_PORT_GROUPS; i++) {
        p->groups[i].waiter = NULL;
    }
    ats_tlb_clear(&p->tlb);
}

/* Function-level reset. The waiters are the device's to forget. */
void ats_port_reset(ATSPort *p)
{
    pci_set_word(port_config(p, p->config.ats_cap) + PCI_ATS_CTRL, 0);
    pci_set_word(port_config(p, p->config.pasid_cap) + PCI_PASID_CTRL, 0);
    port_end(p);
    ats_port_pri_reset(p);
    p->ats_was_on = false;
    p->pasid_was = 0;
    memset(&p->counters, 0, sizeof(p->counters));
}

bool ats_port_check(const ATSPortConfig *config, Error **errp)
{
    if (!config->pri_capacity || config->pri_capacity > ATS_PORT_GROUPS) {
        error_setg(errp, "pri-capacity must be between 1 and %u",
                   ATS_PORT_GROUPS);
        return false;
    }
    if (!config->tlb_capacity || config->tlb_capacity > ATS_PORT_TLB_MAX) {
        error_setg(errp, "dtlb-entries must be between 1 and %u",
                   ATS_PORT_TLB_MAX);
        return false;
    }
    return true;
}

static void port_add_capabilities(ATSPort *p)
{
    const ATSPortConfig *c = &p->config;
    uint16_t pasid = (c->pasid_exec ? PCI_PASID_CAP_EXEC : 0) |
                     (c->pasid_priv ? PCI_PASID_CAP_PRIV : 0);
    PCIDevice *dev = p->dev;

    pcie_ats_init(dev, c->ats_cap, true);
    if (c->global_invalidate) {
        pci_word_test_and_set_mask(port_config(p, c->ats_cap) + PCI_ATS_CAP,
                                   ATS_CAP_GLOBAL_INVALIDATE);
    }
    pci_set_word(dev->wmask + c->ats_cap + PCI_ATS_CTRL,
                 PCI_ATS_CTRL_ENABLE | 0x1f);

    pcie_add_capability(dev, PCI_EXT_CAP_ID_PASID, 1, c->pasid_cap,
                        PCI_EXT_CAP_PASID_SIZEOF);
    pci_set_word(port_config(p, c->pasid_cap) + PCI_PASID_CAP,
                 pasid | ATS_PORT_PASID_BITS << 8);
    /* The enables of what is offered have the places of the offers. */
    pci_set_word(dev->wmask + c->pasid_cap + PCI_PASID_CTRL,
                 PCI_PASID_CTRL_ENABLE | pasid);

    pcie_add_capability(dev, PCI_EXT_CAP_ID_PRI, 1, c->pri_cap,
                        PCI_EXT_CAP_PRI_SIZEOF);
    pci_set_word(port_config(p, c->pri_cap) + PCI_PRI_STATUS,
                 PCI_PRI_STATUS_PASID | PCI_PRI_STATUS_STOPPED);
    pci_set_long(port_config(p, c->pri_cap) + PCI_PRI_MAX_REQ, c->pri_capacity);
    pci_set_word(dev->wmask + c->pri_cap + PCI_PRI_CTRL,
                 PCI_PRI_CTRL_ENABLE | PCI_PRI_CTRL_RESET);
    pci_set_word(dev->w1cmask + c->pri_cap + PCI_PRI_STATUS,
                 PCI_PRI_STATUS_RF | PCI_PRI_STATUS_UPRGI);
    pci_set_long(dev->wmask + c->pri_cap + PCI_PRI_ALLOC_REQ, UINT32_MAX);
}

void ats_port_init(ATSPort *p, PCIDevice *dev, const ATSPortOps *ops,
                   const ATSPortConfig *config)
{
    QEMU_BUILD_BUG_ON(PCI_PASID_CAP_EXEC != PCI_PASID_CTRL_EXEC ||
                      PCI_PASID_CAP_PRIV != PCI_PASID_CTRL_PRIV);

    p->dev = dev;
    p->ops = ops;
    p->config = *config;
    p->group_pages = 1;
    QTAILQ_INIT(&p->stalled);
    QTAILQ_INIT(&p->resting);
    p->rest_timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, ats_port_rested, p);
    ats_tlb_init(&p->tlb);
    port_add_capabilities(p);
    p->client_set = !pci_ats_set_client(dev, p, &port_client_ops);
}

void ats_port_exit(ATSPort *p)
{
    if (p->client_set) {
        pci_ats_set_client(p->dev, NULL, NULL);
        p->client_set = false;
    }
    port_end(p);
    timer_free(p->rest_timer);
    p->rest_timer = NULL;
    ats_tlb_destroy(&p->tlb);
}
