/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * pasid-dma-testdev: a PCIe endpoint with ATS, PASID and PRI that does DMA on
 * order. This file is the PCI function; the header for drivers describes it.
 *
 * On the root bus it is a root-complex integrated endpoint, behind a port an
 * ordinary one. The IOMMU must stand before it on the command line.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qapi/error.h"
#include "hw/pci/msix.h"
#include "hw/pci/pcie.h"
#include "hw/pci/pci_regs.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "pasid-dma-internal.h"

#define BAR_SIZE        0x10000
#define MSIX_BAR        2

#define EXP_OFFSET      0x80
#define ATS_OFFSET      0x100
#define PASID_OFFSET    0x110
#define PRI_OFFSET      0x120

#define PASID_BITS      20

static void client_invalidate(PCIDevice *dev, uint32_t pasid, bool global,
                              uint64_t addr, uint64_t size)
{
    PDTState *s = PASID_DMA_TESTDEV(dev);

    (*pdt_counter(s, PDT_CNT_DTLB_INVAL))++;
    *pdt_counter(s, PDT_CNT_DTLB_DROPPED) +=
        pdt_tlb_invalidate(&s->tlb, pasid, global, addr, size);
}

static const PCIATSClientOps client_ops = {
    .invalidate = client_invalidate,
    .page_response = pdt_pri_response,
};

uint32_t pdt_enables(PDTState *s)
{
    const uint8_t *config = PCI_DEVICE(s)->config;
    uint16_t pasid = pci_get_word(config + s->pasid_cap + PCI_PASID_CTRL);
    uint32_t enables = 0;

    if (pci_get_word(config + PCI_COMMAND) & PCI_COMMAND_MASTER) {
        enables |= PDT_ENABLE_MASTER;
    }
    if (pasid & PCI_PASID_CTRL_ENABLE) {
        enables |= PDT_ENABLE_PASID;
        enables |= pasid & PCI_PASID_CTRL_EXEC ? PDT_ENABLE_PASID_EXEC : 0;
        enables |= pasid & PCI_PASID_CTRL_PRIV ? PDT_ENABLE_PASID_PRIV : 0;
    }
    if (pci_get_word(config + s->ats_cap + PCI_ATS_CTRL) &
        PCI_ATS_CTRL_ENABLE) {
        enables |= PDT_ENABLE_ATS;
    }
    return enables | (pdt_pri_on(s) ? PDT_ENABLE_PRI : 0);
}

static uint32_t reg_read32(PDTState *s, hwaddr addr)
{
    const uint8_t *config = PCI_DEVICE(s)->config;

    switch (addr) {
    case PDT_REG_ID:
        return PDT_ID;
    case PDT_REG_SLOTS:
        return PDT_SLOTS;
    case PDT_REG_HEAD:
        return s->head;
    case PDT_REG_TAIL:
        return s->tail;
    case PDT_REG_CONTROL:
        return s->control;
    case PDT_REG_PRI_GROUP:
        return s->pri_group;
    case PDT_REG_ENABLES:
        return pdt_enables(s);
    case PDT_REG_PRI_RAW:
        return s->raw_result;
    case PDT_REG_RAW_PASID:
        return s->raw_pasid;
    case PDT_REG_RAW_PRGI:
        return s->raw_prgi;
    case PDT_REG_PRI_STATE:
        return s->outstanding |
               (pci_get_word(config + s->pri_cap + PCI_PRI_STATUS) &
                PCI_PRI_STATUS_RF ? PDT_PRI_FAILED : 0);
    case PDT_REG_PRI_ALLOC:
        return MIN(pci_get_long(config + s->pri_cap + PCI_PRI_ALLOC_REQ),
                   s->pri_capacity);
    case PDT_REG_DTLB_ENTRIES:
        return pdt_tlb_count(&s->tlb);
    case PDT_REG_DTLB_CAPACITY:
        return s->tlb_capacity;
    default:
        return 0;
    }
}

static uint64_t reg_read(PDTState *s, hwaddr addr, unsigned size)
{
    if (size < 4) {
        return 0;
    }
    if (addr >= PDT_CNT_ATS && addr < PDT_CNT_LAST + 8) {
        uint64_t value = *pdt_counter(s, addr & ~7ull);

        return size == 8 ? value : extract64(value, addr & 4 ? 32 : 0, 32);
    }
    if (size == 4) {
        return reg_read32(s, addr);
    }
    return deposit64(reg_read32(s, addr), 32, 32, reg_read32(s, addr + 4));
}

static void reg_write32(PDTState *s, hwaddr addr, uint32_t value)
{
    switch (addr) {
    case PDT_REG_TAIL:
        pdt_engine_doorbell(s, value);
        break;
    case PDT_REG_CONTROL:
        s->control = value & (PDT_CONTROL_IRQ | PDT_CONTROL_PAUSE);
        pdt_engine_take(s);
        break;
    case PDT_REG_COMMAND:
        if (value & PDT_COMMAND_FLUSH_DTLB) {
            pdt_tlb_clear(&s->tlb);
        }
        if (value & PDT_COMMAND_ABORT) {
            pdt_engine_abort(s);
        }
        break;
    case PDT_REG_PRI_GROUP:
        s->pri_group = MAX(1, MIN(value, PDT_GROUP_MAX));
        break;
    case PDT_REG_PRI_RAW:
        s->raw_low = value;
        break;
    case PDT_REG_PRI_RAW + 4:
        s->raw_result = pdt_pri_raw(s, deposit64(s->raw_low, 32, 32, value));
        break;
    case PDT_REG_RAW_PASID:
        s->raw_pasid = extract32(value, 0, PASID_BITS);
        break;
    case PDT_REG_RAW_PRGI:
        s->raw_prgi = value % PDT_PRG_INDICES;
        break;
    }
}

/* What lies behind @addr if it is memory: the ring or the buffer. */
static uint8_t *bar_memory(PDTState *s, hwaddr addr, unsigned size)
{
    if (addr >= PDT_BUFFER && addr + size <= PDT_BUFFER + sizeof(s->buffer)) {
        return s->buffer + (addr - PDT_BUFFER);
    }
    if (addr >= PDT_RING && addr + size <= PDT_RING + sizeof(s->ring)) {
        return s->ring + (addr - PDT_RING);
    }
    return NULL;
}

static uint64_t bar_read(void *opaque, hwaddr addr, unsigned size)
{
    PDTState *s = opaque;
    uint8_t *p = bar_memory(s, addr, size);

    if (p) {
        return ldn_le_p(p, size);
    }
    return addr < PDT_RING ? reg_read(s, addr, size) : 0;
}

static void bar_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    PDTState *s = opaque;
    uint8_t *p = bar_memory(s, addr, size);

    if (p) {
        stn_le_p(p, size, value);
    } else if (addr < PDT_RING && size >= 4) {
        reg_write32(s, addr, value);
        if (size == 8) {
            reg_write32(s, addr + 4, value >> 32);
        }
    }
}

static const MemoryRegionOps bar_ops = {
    .read = bar_read,
    .write = bar_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8 },
    .impl = { .min_access_size = 1, .max_access_size = 8 },
};

/* A control was written: what it takes away goes at once. */
static void controls_changed(PDTState *s)
{
    PCIDevice *dev = PCI_DEVICE(s);
    bool ats = pdt_enables(s) & PDT_ENABLE_ATS;
    uint16_t pasid = pci_get_word(dev->config + s->pasid_cap + PCI_PASID_CTRL);

    if (ats && !s->client_set) {
        s->client_set = !pci_ats_set_client(dev, &client_ops);
    }
    if (ats != s->ats_was_on || pasid != s->pasid_was) {
        pdt_tlb_clear(&s->tlb);
    }
    s->ats_was_on = ats;
    s->pasid_was = pasid;
}

static void pdt_write_config(PCIDevice *dev, uint32_t addr, uint32_t val,
                             int len)
{
    PDTState *s = PASID_DMA_TESTDEV(dev);

    pci_default_write_config(dev, addr, val, len);
    if (ranges_overlap(addr, len, s->pri_cap, PCI_EXT_CAP_PRI_SIZEOF)) {
        pdt_pri_control_written(s);
    }
    pcie_cap_flr_write_config(dev, addr, val, len);
    controls_changed(s);
}

static void pdt_reset(DeviceState *qdev)
{
    PDTState *s = PASID_DMA_TESTDEV(qdev);
    PCIDevice *dev = PCI_DEVICE(s);

    pci_set_word(dev->config + s->ats_cap + PCI_ATS_CTRL, 0);
    pci_set_word(dev->config + s->pasid_cap + PCI_PASID_CTRL, 0);
    pdt_pri_reset(s);
    pdt_engine_reset(s);
    pdt_tlb_clear(&s->tlb);
    s->ats_was_on = false;
    s->pasid_was = 0;
    s->control = 0;
    s->pri_group = 1;
    s->raw_pasid = s->raw_prgi = s->raw_low = s->raw_result = 0;
    memset(s->counters, 0, sizeof(s->counters));
}

static void add_capabilities(PDTState *s)
{
    PCIDevice *dev = PCI_DEVICE(s);
    uint8_t *c;

    s->ats_cap = ATS_OFFSET;
    pcie_ats_init(dev, s->ats_cap, true);
    pci_set_word(dev->wmask + s->ats_cap + PCI_ATS_CTRL,
                 PCI_ATS_CTRL_ENABLE | 0x1f);

    s->pasid_cap = PASID_OFFSET;
    pcie_add_capability(dev, PCI_EXT_CAP_ID_PASID, 1, s->pasid_cap,
                        PCI_EXT_CAP_PASID_SIZEOF);
    pci_set_word(dev->config + s->pasid_cap + PCI_PASID_CAP,
                 PCI_PASID_CAP_EXEC | PCI_PASID_CAP_PRIV | PASID_BITS << 8);
    pci_set_word(dev->wmask + s->pasid_cap + PCI_PASID_CTRL,
                 PCI_PASID_CTRL_ENABLE | PCI_PASID_CTRL_EXEC |
                 PCI_PASID_CTRL_PRIV);

    s->pri_cap = PRI_OFFSET;
    pcie_add_capability(dev, PCI_EXT_CAP_ID_PRI, 1, s->pri_cap,
                        PCI_EXT_CAP_PRI_SIZEOF);
    c = dev->config + s->pri_cap;
    pci_set_word(c + PCI_PRI_STATUS,
                 PCI_PRI_STATUS_PASID | PCI_PRI_STATUS_STOPPED);
    pci_set_long(c + PCI_PRI_MAX_REQ, s->pri_capacity);
    pci_set_word(dev->wmask + s->pri_cap + PCI_PRI_CTRL,
                 PCI_PRI_CTRL_ENABLE | PCI_PRI_CTRL_RESET);
    pci_set_word(dev->w1cmask + s->pri_cap + PCI_PRI_STATUS,
                 PCI_PRI_STATUS_RF | PCI_PRI_STATUS_UPRGI);
    pci_set_long(dev->wmask + s->pri_cap + PCI_PRI_ALLOC_REQ, UINT32_MAX);
}

static void pdt_realize(PCIDevice *dev, Error **errp)
{
    PDTState *s = PASID_DMA_TESTDEV(dev);

    if (!pci_bus_is_express(pci_get_bus(dev))) {
        error_setg(errp, "pasid-dma-testdev needs a PCI Express bus");
        return;
    }
    if (!s->pri_capacity || s->pri_capacity > PDT_PRG_INDICES) {
        error_setg(errp, "pri-capacity must be between 1 and %u",
                   PDT_PRG_INDICES);
        return;
    }
    if (!s->tlb_capacity || s->tlb_capacity > PDT_TLB_MAX) {
        error_setg(errp, "dtlb-entries must be between 1 and %u", PDT_TLB_MAX);
        return;
    }
    if (msix_init_exclusive_bar(dev, PDT_MSIX_VECTORS, MSIX_BAR, errp)) {
        return;
    }
    for (unsigned i = 0; i < PDT_MSIX_VECTORS; i++) {
        msix_vector_use(dev, i);
    }
    if (pcie_endpoint_cap_init(dev, EXP_OFFSET) < 0) {
        msix_uninit_exclusive_bar(dev);
        error_setg(errp, "no room for the PCI Express capability");
        return;
    }
    pcie_cap_flr_init(dev);
    add_capabilities(s);

    memory_region_init_io(&s->bar, OBJECT(s), &bar_ops, s, "pasid-dma-testdev",
                          BAR_SIZE);
    pci_register_bar(dev, 0, PCI_BASE_ADDRESS_SPACE_MEMORY, &s->bar);

    s->bh = qemu_bh_new_guarded(pdt_engine_run, s,
                                &DEVICE(s)->mem_reentrancy_guard);
    s->rest_timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, pdt_reach_rested, s);
    pdt_tlb_init(&s->tlb);
    pdt_engine_init(s);
    s->client_set = !pci_ats_set_client(dev, &client_ops);
}

static void pdt_exit(PCIDevice *dev)
{
    PDTState *s = PASID_DMA_TESTDEV(dev);

    if (s->client_set) {
        pci_ats_set_client(dev, NULL);
    }
    timer_free(s->rest_timer);
    qemu_bh_delete(s->bh);
    pdt_tlb_destroy(&s->tlb);
    pcie_cap_exit(dev);
    msix_uninit_exclusive_bar(dev);
}

static const Property pdt_properties[] = {
    DEFINE_PROP_UINT32("pri-capacity", PDTState, pri_capacity, PDT_PRG_INDICES),
    DEFINE_PROP_UINT32("dtlb-entries", PDTState, tlb_capacity, PDT_TLB_DEFAULT),
};

static const VMStateDescription pdt_vmstate = {
    .name = TYPE_PASID_DMA_TESTDEV,
    .unmigratable = 1,
};

static void pdt_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *k = PCI_DEVICE_CLASS(klass);

    k->realize = pdt_realize;
    k->exit = pdt_exit;
    k->config_write = pdt_write_config;
    k->vendor_id = PDT_VENDOR_ID;
    k->device_id = PDT_DEVICE_ID;
    k->revision = 1;
    k->class_id = PCI_CLASS_OTHERS;
    dc->desc = "DMA test endpoint with ATS, PASID and PRI";
    dc->vmsd = &pdt_vmstate;
    device_class_set_legacy_reset(dc, pdt_reset);
    device_class_set_props(dc, pdt_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo pdt_types[] = {
    {
        .name = TYPE_PASID_DMA_TESTDEV,
        .parent = TYPE_PCI_DEVICE,
        .instance_size = sizeof(PDTState),
        .class_init = pdt_class_init,
        .interfaces = (InterfaceInfo[]) {
            { INTERFACE_PCIE_DEVICE },
            { },
        },
    },
};

DEFINE_TYPES(pdt_types)
