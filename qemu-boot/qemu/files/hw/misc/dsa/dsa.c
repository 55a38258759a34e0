/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA (8086:11fb), a device that copies, compares and checks memory by
 * PASID: the PCI function.
 *
 * The IOMMU must stand before it on the command line.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pcie.h"
#include "hw/pci/pci_regs.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "dsa.h"

#define DSA_PCI_DEVICE          0x11fb

#define REGISTERS_BAR           0
#define REGISTERS_SIZE          0x10000
#define MSIX_TABLE              0x2000
#define MSIX_PBA                0x3000
#define PORTALS_BAR             2
#define PORTALS_SIZE            (DSA_WQS * DSA_PORTALS * DSA_PORTAL_SIZE)

#define EXP_OFFSET              0x40
#define MSIX_OFFSET             0x80
#define ATS_OFFSET              0x100
#define PASID_OFFSET            0x110
#define PRI_OFFSET              0x120

static const ATSPortOps port_ops = {
    .wake = dsa_queue_woken,
};

static void dsa_write_config(PCIDevice *dev, uint32_t addr, uint32_t val,
                             int len)
{
    DSAState *s = DSA(dev);

    pci_default_write_config(dev, addr, val, len);
    pcie_cap_flr_write_config(dev, addr, val, len);
    ats_port_config_written(&s->port, addr, len);
}

static void dsa_reset(DeviceState *qdev)
{
    DSAState *s = DSA(qdev);

    dsa_queue_abort(s, UINT32_MAX, NULL);
    ats_port_reset(&s->port);
    dsa_registers_reset(s);
}

static void vm_state_changed(void *opaque, bool running, RunState state)
{
    DSAState *s = opaque;

    if (running) {
        qemu_bh_schedule(s->bh);
    }
}

static void dsa_realize(PCIDevice *dev, Error **errp)
{
    DSAState *s = DSA(dev);
    const ATSPortConfig config = {
        .ats_cap = ATS_OFFSET,
        .pasid_cap = PASID_OFFSET,
        .pri_cap = PRI_OFFSET,
        .pasid_priv = true,
        .pri_capacity = s->pri_capacity,
        .tlb_capacity = s->tlb_capacity,
    };

    if (!pci_bus_is_express(pci_get_bus(dev))) {
        error_setg(errp, TYPE_DSA " needs a PCI Express bus");
        return;
    }
    if (!ats_port_check(&config, errp)) {
        return;
    }
    if (s->max_transfer > DSA_MAX_XFER) {
        error_setg(errp, "max-transfer is at most %u", DSA_MAX_XFER);
        return;
    }
    if (!s->max_batch || s->max_batch > DSA_MAX_BATCH) {
        error_setg(errp, "max-batch is 1 to %u", DSA_MAX_BATCH);
        return;
    }
    if (pcie_endpoint_cap_init(dev, EXP_OFFSET) < 0) {
        error_setg(errp, "no room for the PCI Express capability");
        return;
    }
    pcie_cap_flr_init(dev);

    memory_region_init_io(&s->registers, OBJECT(s), &dsa_register_ops, s,
                          TYPE_DSA "-registers", REGISTERS_SIZE);
    memory_region_init_io(&s->portals, OBJECT(s), &dsa_portal_ops, s,
                          TYPE_DSA "-portals", PORTALS_SIZE);
    pci_register_bar(dev, REGISTERS_BAR,
                     PCI_BASE_ADDRESS_SPACE_MEMORY |
                     PCI_BASE_ADDRESS_MEM_TYPE_64, &s->registers);
    pci_register_bar(dev, PORTALS_BAR,
                     PCI_BASE_ADDRESS_SPACE_MEMORY |
                     PCI_BASE_ADDRESS_MEM_TYPE_64, &s->portals);
    if (msix_init(dev, DSA_VECTORS, &s->registers, REGISTERS_BAR, MSIX_TABLE,
                  &s->registers, REGISTERS_BAR, MSIX_PBA, MSIX_OFFSET, errp)) {
        pcie_cap_exit(dev);
        return;
    }
    for (unsigned i = 0; i < DSA_VECTORS; i++) {
        msix_vector_use(dev, i);
    }

    s->bh = qemu_bh_new_guarded(dsa_queue_run, s,
                                &DEVICE(s)->mem_reentrancy_guard);
    dsa_queue_init(s);
    ats_port_init(&s->port, dev, &port_ops, &config);
    s->vm_change = qemu_add_vm_change_state_handler(vm_state_changed, s);
}

static void dsa_exit(PCIDevice *dev)
{
    DSAState *s = DSA(dev);

    qemu_del_vm_change_state_handler(s->vm_change);
    dsa_queue_abort(s, UINT32_MAX, NULL);
    ats_port_exit(&s->port);
    qemu_bh_delete(s->bh);
    s->bh = NULL;
    msix_uninit(dev, &s->registers, &s->registers);
    pcie_cap_exit(dev);
}

static const Property dsa_properties[] = {
    DEFINE_PROP_UINT32("pri-capacity", DSAState, pri_capacity, ATS_PORT_GROUPS),
    DEFINE_PROP_UINT32("dtlb-entries", DSAState, tlb_capacity,
                       ATS_PORT_TLB_DEFAULT),
    DEFINE_PROP_UINT8("max-transfer", DSAState, max_transfer, DSA_MAX_XFER),
    DEFINE_PROP_UINT8("max-batch", DSAState, max_batch, DSA_MAX_BATCH_DEFAULT),
};

static const VMStateDescription dsa_vmstate = {
    .name = TYPE_DSA,
    .unmigratable = 1,
};

static void dsa_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *k = PCI_DEVICE_CLASS(klass);

    k->realize = dsa_realize;
    k->exit = dsa_exit;
    k->config_write = dsa_write_config;
    k->vendor_id = PCI_VENDOR_ID_INTEL;
    k->device_id = DSA_PCI_DEVICE;
    k->class_id = PCI_CLASS_SYSTEM_OTHER;
    dc->desc = "Intel Data Streaming Accelerator";
    dc->vmsd = &dsa_vmstate;
    device_class_set_legacy_reset(dc, dsa_reset);
    device_class_set_props(dc, dsa_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo dsa_types[] = {
    {
        .name = TYPE_DSA,
        .parent = TYPE_PCI_DEVICE,
        .instance_size = sizeof(DSAState),
        .class_init = dsa_class_init,
        .interfaces = (InterfaceInfo[]) {
            { INTERFACE_PCIE_DEVICE },
            { },
        },
    },
};

DEFINE_TYPES(dsa_types)
