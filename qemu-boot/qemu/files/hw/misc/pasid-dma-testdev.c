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

#define VECTOR_FAILURE  1

/* A response was "failure". */
static void response_failure(ATSPort *p)
{
    if (msix_enabled(p->dev)) {
        msix_notify(p->dev, VECTOR_FAILURE);
    }
}

static const ATSPortOps port_ops = {
    .wake = pdt_engine_woken,
    .response_failure = response_failure,
};

static uint32_t reg_read32(PDTState *s, hwaddr addr)
{
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
        return s->port.group_pages;
    case PDT_REG_ENABLES:
        return ats_port_enables(&s->port);
    case PDT_REG_PRI_RAW:
        return s->raw_result;
    case PDT_REG_RAW_PASID:
        return s->raw_pasid;
    case PDT_REG_RAW_PRGI:
        return s->raw_prgi;
    case PDT_REG_PRI_STATE:
        return s->port.outstanding |
               (ats_port_pri_failed(&s->port) ? PDT_PRI_FAILED : 0);
    case PDT_REG_PRI_ALLOC:
        return ats_port_pri_allocation(&s->port);
    case PDT_REG_DTLB_ENTRIES:
        return ats_tlb_count(&s->port.tlb);
    case PDT_REG_DTLB_CAPACITY:
        return s->tlb_capacity;
    default:
        return 0;
    }
}

static uint64_t counter(PDTState *s, hwaddr addr)
{
    const ATSPortCounters *c = &s->port.counters;

    switch (addr) {
    case PDT_CNT_ATS:
        return c->ats;
    case PDT_CNT_ATS_FAILED:
        return c->ats_failed;
    case PDT_CNT_DTLB_HIT:
        return c->tlb_hit;
    case PDT_CNT_DTLB_INVAL:
        return c->invalidations;
    case PDT_CNT_DTLB_DROPPED:
        return c->tlb_dropped;
    case PDT_CNT_PAGE_REQ:
        return c->page_requests;
    case PDT_CNT_GROUPS:
        return c->groups;
    case PDT_CNT_RSP_SUCCESS:
        return c->success;
    case PDT_CNT_RSP_INVALID:
        return c->invalid;
    case PDT_CNT_RSP_FAILURE:
        return c->failure;
    case PDT_CNT_RSP_STRAY:
        return c->stray;
    case PDT_CNT_DONE:
        return s->done;
    case PDT_CNT_ERROR:
        return s->errors;
    case PDT_CNT_BYTES:
        return s->bytes;
    case PDT_CNT_PRI_PEAK:
        return c->peak;
    case PDT_CNT_PRI_STALL:
        return c->stalls;
    case PDT_CNT_UNTRANSLATED:
        return c->untranslated;
    case PDT_CNT_DTLB_EVICTED:
        return c->tlb_evicted;
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
        uint64_t value = counter(s, addr & ~7ull);

        return size == 8 ? value : extract64(value, addr & 4 ? 32 : 0, 32);
    }
    if (size == 4) {
        return reg_read32(s, addr);
    }
    return deposit64(reg_read32(s, addr), 32, 32, reg_read32(s, addr + 4));
}

/* Sends one raw page request: PDT_RAW_SENT, or why not. */
static uint32_t page_request(PDTState *s, uint64_t value)
{
    PCIATSPageRequest pr = {
        .pasid = value & PDT_RAW_PASID ? s->raw_pasid : PCI_ATS_NO_PASID,
        .addr = value & PDT_RAW_ADDR_MASK,
        .prgi = s->raw_prgi,
        .read = value & PDT_RAW_READ,
        .write = value & PDT_RAW_WRITE,
        .last = value & PDT_RAW_LAST,
    };

    QEMU_BUILD_BUG_ON(ATS_RAW_DISABLED != PDT_RAW_DISABLED ||
                      ATS_RAW_NO_CREDIT != PDT_RAW_NO_CREDIT ||
                      ATS_RAW_GROUP_BUSY != PDT_RAW_GROUP_BUSY ||
                      ATS_RAW_REFUSED != PDT_RAW_REFUSED);
    return ats_port_raw(&s->port, &pr, value & PDT_RAW_ROGUE);
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
            ats_tlb_clear(&s->port.tlb);
        }
        if (value & PDT_COMMAND_ABORT) {
            pdt_engine_abort(s);
        }
        break;
    case PDT_REG_PRI_GROUP:
        QEMU_BUILD_BUG_ON(PDT_GROUP_MAX != ATS_PORT_GROUP_MAX);
        s->port.group_pages = MAX(1, MIN(value, PDT_GROUP_MAX));
        break;
    case PDT_REG_PRI_RAW:
        s->raw_low = value;
        break;
    case PDT_REG_PRI_RAW + 4:
        s->raw_result = page_request(s, deposit64(s->raw_low, 32, 32, value));
        break;
    case PDT_REG_RAW_PASID:
        s->raw_pasid = extract32(value, 0, ATS_PORT_PASID_BITS);
        break;
    case PDT_REG_RAW_PRGI:
        s->raw_prgi = value % ATS_PORT_GROUPS;
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

static void pdt_write_config(PCIDevice *dev, uint32_t addr, uint32_t val,
                             int len)
{
    PDTState *s = PASID_DMA_TESTDEV(dev);

    pci_default_write_config(dev, addr, val, len);
    pcie_cap_flr_write_config(dev, addr, val, len);
    ats_port_config_written(&s->port, addr, len);
}

static void pdt_reset(DeviceState *qdev)
{
    PDTState *s = PASID_DMA_TESTDEV(qdev);

    ats_port_reset(&s->port);
    pdt_engine_reset(s);
    s->control = 0;
    s->port.group_pages = 1;
    s->raw_pasid = s->raw_prgi = s->raw_low = s->raw_result = 0;
    s->done = s->errors = s->bytes = 0;
}

static void vm_state_changed(void *opaque, bool running, RunState state)
{
    PDTState *s = opaque;

    if (running) {
        qemu_bh_schedule(s->bh);
    }
}

static void pdt_realize(PCIDevice *dev, Error **errp)
{
    PDTState *s = PASID_DMA_TESTDEV(dev);
    const ATSPortConfig config = {
        .ats_cap = ATS_OFFSET,
        .pasid_cap = PASID_OFFSET,
        .pri_cap = PRI_OFFSET,
        .pasid_exec = true,
        .pasid_priv = true,
        .global_invalidate = s->global_invalidate,
        .pri_capacity = s->pri_capacity,
        .tlb_capacity = s->tlb_capacity,
    };

    if (!pci_bus_is_express(pci_get_bus(dev))) {
        error_setg(errp, "pasid-dma-testdev needs a PCI Express bus");
        return;
    }
    if (!ats_port_check(&config, errp)) {
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

    memory_region_init_io(&s->bar, OBJECT(s), &bar_ops, s, "pasid-dma-testdev",
                          BAR_SIZE);
    pci_register_bar(dev, 0, PCI_BASE_ADDRESS_SPACE_MEMORY, &s->bar);

    s->bh = qemu_bh_new_guarded(pdt_engine_run, s,
                                &DEVICE(s)->mem_reentrancy_guard);
    pdt_engine_init(s);
    ats_port_init(&s->port, dev, &port_ops, &config);
    s->vm_change = qemu_add_vm_change_state_handler(vm_state_changed, s);
}

static void pdt_exit(PCIDevice *dev)
{
    PDTState *s = PASID_DMA_TESTDEV(dev);

    qemu_del_vm_change_state_handler(s->vm_change);
    ats_port_exit(&s->port);
    pdt_engine_exit(s);
    pcie_cap_exit(dev);
    msix_uninit_exclusive_bar(dev);
}

static const Property pdt_properties[] = {
    DEFINE_PROP_UINT32("pri-capacity", PDTState, pri_capacity, ATS_PORT_GROUPS),
    DEFINE_PROP_UINT32("dtlb-entries", PDTState, tlb_capacity,
                       ATS_PORT_TLB_DEFAULT),
    DEFINE_PROP_BOOL("global-invalidate", PDTState, global_invalidate, false),
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
