/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A VT-d unit for a guest, over the IOMMU in the process: what a guest's driver writes, a device
 * that is passed through, and one that the VMM emulates.
 */
#define _GNU_SOURCE
#include <poll.h>

#include "guest.h"

int main(void)
{
    struct host_iommu *context;
    struct host_iommu_bdf bdf;
    struct host_iommu_soft_device *device;
    struct host_iommu_vtd_config config = {.size = sizeof(config)};
    struct host_iommu_vtd_device *plugged;
    struct host_iommu_vtd_dma *emulated;
    struct host_iommu_msi msi;
    int fd = memfd_create("guest", MFD_CLOEXEC);
    struct host_iommu_region region = {.length = MEMORY, .fd = fd};
    struct host_iommu_mapping mapping = {.size = sizeof(mapping),
                                         .access = HOST_IOMMU_READ | HOST_IOMMU_WRITE,
                                         .length = MEMORY,
                                         .fd = fd};
    struct host_iommu_soft_dma dma = {
        .size = sizeof(dma), .pasid = PASID, .length = 8, .address = ADDRESS};
    struct host_iommu_soft_end end = {.size = sizeof(end)};
    uint64_t id, value = 0, written = 0x1122334455667788;
    uint8_t dmar[256];
    size_t length;

    CHECK(fd >= 0 && ftruncate(fd, MEMORY) == 0);
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    OK(host_iommu_bdf_parse("0000:3a:04.0", &bdf));
    OK(host_iommu_open_soft(&context));
    OK(host_iommu_soft_plug(context, bdf, 1 << 20, 1, &device));
    OK(host_iommu_map(context, &mapping, memory));

    OK(host_iommu_vtd_offer(context, &config));
    CHECK(config.base == BASE && config.flags & HOST_IOMMU_VTD_PAGE_REQUESTS);
    config.flags |= HOST_IOMMU_VTD_INTERRUPT_REMAPPING;
    OK(host_iommu_vtd_new(&config, &region, 1, &unit));
    OK(host_iommu_vtd_dmar(unit, (uint8_t *)"EXAMPL", (uint8_t *)"EXAMPLE ", dmar, sizeof(dmar), &length));
    CHECK(length <= sizeof(dmar) && memcmp(dmar, "DMAR", 4) == 0);
    OK(host_iommu_vtd_plug(unit, context, bdf, SOURCE, &plugged));
    boot_guest(FIRST_STAGE);
    puts("1. a guest has a unit");

    /* The device asks for a page, the guest is interrupted, maps it and answers. */
    OK(host_iommu_soft_submit(device, &dma, NULL, &id));
    struct pollfd asks = {.fd = host_iommu_vtd_device_fd(plugged), .events = POLLIN};
    CHECK(poll(&asks, 1, 10000) == 1 && host_iommu_vtd_deliver(plugged) == 1);
    struct pollfd told = {.fd = host_iommu_vtd_fd(unit), .events = POLLIN};
    CHECK(poll(&told, 1, 10000) == 1);
    CHECK(host_iommu_vtd_run(unit) == 0);
    CHECK(host_iommu_vtd_interrupt(unit, &msi) == 1 && msi.data == 0x61);
    CHECK(host_iommu_vtd_interrupt(unit, &msi) == 0 && poll(&told, 1, 0) == 0);
    CHECK(read_register(0xc8, 8) == 32 && (*at(REQUESTS + 8) & ~0xfffull) == ADDRESS);
    puts("2. the guest has a page request");

    guest_map(ADDRESS, PAGE, 7);
    memcpy(memory + PAGE, &written, 8);
    submit(9 | 1 << 4 | SOURCE << 16 | (uint64_t)PASID << 32, *at(REQUESTS + 8) & 0xff8);
    CHECK(host_iommu_soft_wait(device, id, 10000, &end, &value, sizeof(value)) == 1);
    CHECK(end.kind == HOST_IOMMU_DMA_DONE && value == written);
    puts("3. the device has read the page");

    /* One that the VMM emulates, by the same tables. */
    OK(host_iommu_vtd_dma_new(unit, SOURCE, PASID, &emulated));
    OK(host_iommu_vtd_dma_write(emulated, ADDRESS + 8, &written, 8));
    CHECK(*at(PAGE + 8) == written);
    OK(host_iommu_vtd_dma_read(emulated, ADDRESS, &value, 8));
    CHECK(host_iommu_vtd_dma_read(emulated, ADDRESS + 0x1000, &value, 8) < 0);
    CHECK(read_register(0x34, 4) & 2); /* a fault is recorded */
    puts("4. an emulated device too");

    /* An interrupt by the guest's table (VT-d 5.1.2.1, 9.10): entry 1 is vector 45h at APIC 3. */
    write8(0xb8, INTERRUPTS);
    command(1u << 24);
    command(1u << 25);
    *at(INTERRUPTS + 16) = 3ull << 40 | 0x45 << 16 | 1;
    CHECK(host_iommu_vtd_remap(unit, SOURCE, 0xfee00000 | 1 << 5 | 1 << 4, 0, &msi) == 1);
    CHECK(msi.address == 0xfee03000 && msi.data == 0x45);
    CHECK(host_iommu_vtd_remap(unit, SOURCE, 0xfee00000 | 1 << 4, 0, &msi) == 0);
    puts("5. interrupts go by the guest's table");

    /* A reset of the device by the guest leaves the guest's entries in force. */
    OK(host_iommu_vtd_device_reset(plugged));
    value = 0;
    OK(host_iommu_soft_submit(device, &dma, NULL, &id));
    CHECK(host_iommu_soft_wait(device, id, 10000, &end, &value, sizeof(value)) == 1);
    CHECK(end.kind == HOST_IOMMU_DMA_DONE && value == written);
    puts("6. a reset leaves the entries");

    host_iommu_vtd_dma_free(emulated);
    host_iommu_vtd_unplug(plugged);
    host_iommu_vtd_free(unit);
    host_iommu_soft_free(device);
    host_iommu_free(context);

    /* On a host that cannot nest: the guest is offered second-stage tables, which are shadowed. */
    struct host_iommu *below;

    memset(memory, 0, MEMORY);
    OK(host_iommu_open_soft(&below));
    OK(host_iommu_soft_plug(below, bdf, 1 << 20, 0, &device));
    OK(host_iommu_open_shadow(below, &region, 1, HOST_IOMMU_SHADOW_CACHING_MODE, &context));
    host_iommu_free(below);
    OK(host_iommu_map(context, &mapping, memory));
    OK(host_iommu_vtd_offer(context, &config));
    CHECK(config.flags & HOST_IOMMU_VTD_SECOND_STAGE);
    OK(host_iommu_vtd_new(&config, &region, 1, &unit));
    OK(host_iommu_vtd_plug(unit, context, bdf, SOURCE, &plugged));
    boot_guest(SECOND_STAGE);
    guest_map(LOW_ADDRESS, PAGE, 3);
    submit(2 | 3 << 4 | 2 << 16, LOW_ADDRESS); /* caching mode: what is new is told */
    memcpy(memory + PAGE, &written, 8);
    dma.address = LOW_ADDRESS;
    OK(host_iommu_soft_submit(device, &dma, NULL, &id));
    value = 0;
    CHECK(host_iommu_soft_wait(device, id, 10000, &end, &value, sizeof(value)) == 1);
    CHECK(end.kind == HOST_IOMMU_DMA_DONE && value == written);
    puts("7. a guest's second-stage table is shadowed");

    host_iommu_vtd_unplug(plugged);
    host_iommu_vtd_free(unit);
    host_iommu_soft_free(device);
    host_iommu_free(context);
    return 0;
}
