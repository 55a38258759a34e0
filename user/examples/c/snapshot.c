/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * What a guest's life brings, over the IOMMU in the process: memory that comes and goes, faults, and
 * a move to another process by what was saved.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>

#include "guest.h"

#define MORE (64u << 10) /* bytes of the memory that comes, after the first */

/* What a VMM has for a guest. */
struct vmm {
    struct host_iommu *context;
    struct host_iommu_soft_device *device;
    struct host_iommu_listener *listener;
    struct host_iommu_vtd_device *plugged;
};

static struct host_iommu_bdf bdf;

static int new_file(size_t length)
{
    int fd = memfd_create("guest", MFD_CLOEXEC);

    CHECK(fd >= 0 && ftruncate(fd, (off_t)length) == 0);
    return fd;
}

/* The guest has this memory from now on: its devices, and its unit. */
static void set_memory(struct vmm *vmm, const struct host_iommu_region *regions, size_t count)
{
    OK(host_iommu_listener_update(vmm->listener, regions, count));
    OK(host_iommu_vtd_set_memory(unit, regions, count));
}

static void start(struct vmm *vmm, const struct host_iommu_region *regions, size_t count)
{
    struct host_iommu_vtd_config config = {.size = sizeof(config)};

    OK(host_iommu_open_soft(&vmm->context));
    OK(host_iommu_soft_plug(vmm->context, bdf, 1 << 20, 1, &vmm->device));
    OK(host_iommu_listener_new(vmm->context, &vmm->listener));
    OK(host_iommu_listener_update(vmm->listener, regions, count));
    OK(host_iommu_vtd_offer(vmm->context, &config));
    OK(host_iommu_vtd_new(&config, regions, count, &unit));
    OK(host_iommu_vtd_plug(unit, vmm->context, bdf, SOURCE, &vmm->plugged));
}

static void stop(struct vmm *vmm)
{
    host_iommu_vtd_unplug(vmm->plugged);
    host_iommu_vtd_free(unit);
    host_iommu_listener_free(vmm->listener);
    host_iommu_soft_free(vmm->device);
    host_iommu_free(vmm->context);
}

/* The device writes a value by the guest's address; gives how that ended. */
static uint32_t store(struct vmm *vmm, uint64_t address, uint64_t value)
{
    struct host_iommu_soft_dma dma = {.size = sizeof(dma),
                                      .flags = HOST_IOMMU_SOFT_WRITE |
                                               HOST_IOMMU_SOFT_NO_PAGE_REQUESTS,
                                      .pasid = PASID,
                                      .length = sizeof(value),
                                      .address = address};
    struct host_iommu_soft_end end = {.size = sizeof(end)};
    uint64_t id;

    OK(host_iommu_soft_submit(vmm->device, &dma, &value, &id));
    CHECK(host_iommu_soft_wait(vmm->device, id, 10000, &end, NULL, 0) == 1);
    return end.kind;
}

/* What the file has at an offset. */
static uint64_t in_file(int fd, off_t offset)
{
    uint64_t value;

    CHECK(pread(fd, &value, sizeof(value), offset) == sizeof(value));
    return value;
}

int main(void)
{
    int fd = new_file(MEMORY), more = new_file(MORE), other = new_file(MORE);
    struct host_iommu_region regions[2] = {{.length = MEMORY, .fd = fd},
                                           {.address = MEMORY, .length = MORE, .fd = more}};
    struct host_iommu_vtd_event event = {.size = sizeof(event)};
    struct host_iommu_vtd_stats counted = {.size = sizeof(counted)};
    struct host_iommu_stats stats = {.size = sizeof(stats)};
    struct host_iommu_vtd_config config = {.size = sizeof(config)};
    struct host_iommu_vtd_dma *emulated;
    struct host_iommu_vtd *another;
    struct host_iommu_bound bound[4];
    struct host_iommu_binding *bindings[4];
    struct vmm vmm, next;
    uint64_t value = 7;
    size_t length, count, cut;
    uint8_t *saved;

    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(memory != MAP_FAILED);
    OK(host_iommu_bdf_parse("0000:3a:04.0", &bdf));
    start(&vmm, regions, 1);
    boot_guest(FIRST_STAGE);
    guest_map(ADDRESS, PAGE, 7);
    CHECK(store(&vmm, ADDRESS, 1) == HOST_IOMMU_DMA_DONE && *at(PAGE) == 1);
    puts("1. a guest and its device");

    /* Memory comes, goes, and other memory comes in its place. The first stays mapped. */
    guest_map(ADDRESS + 0x1000, MEMORY, 7);
    CHECK(store(&vmm, ADDRESS + 0x1000, 2) == HOST_IOMMU_DMA_NO_ACCESS);
    set_memory(&vmm, regions, 2);
    OK(host_iommu_get_stats(vmm.context, &stats));
    CHECK(stats.mapped_pages == (MEMORY + MORE) / 4096);
    CHECK(store(&vmm, ADDRESS + 0x1000, 2) == HOST_IOMMU_DMA_DONE && in_file(more, 0) == 2);
    OK(host_iommu_vtd_dma_new(unit, SOURCE, PASID, &emulated));
    OK(host_iommu_vtd_dma_write(emulated, ADDRESS + 0x1008, &value, sizeof(value)));
    CHECK(in_file(more, 8) == 7);
    regions[1].fd = other;
    set_memory(&vmm, regions, 2);
    CHECK(store(&vmm, ADDRESS + 0x1000, 3) == HOST_IOMMU_DMA_DONE);
    CHECK(in_file(other, 0) == 3 && in_file(more, 0) == 2);
    OK(host_iommu_vtd_dma_write(emulated, ADDRESS + 0x1008, &value, sizeof(value)));
    CHECK(in_file(other, 8) == 7);
    set_memory(&vmm, regions, 1);
    CHECK(store(&vmm, ADDRESS + 0x1000, 4) == HOST_IOMMU_DMA_NO_ACCESS);
    CHECK(host_iommu_vtd_dma_write(emulated, ADDRESS + 0x1008, &value, sizeof(value)) == -EFAULT);
    CHECK(in_file(other, 0) == 3 && in_file(other, 8) == 7);
    CHECK(store(&vmm, ADDRESS, 5) == HOST_IOMMU_DMA_DONE && *at(PAGE) == 5);
    regions[1].address = MEMORY - 0x1000; /* what overlaps is refused, and nothing is changed */
    CHECK(host_iommu_listener_update(vmm.listener, regions, 2) == -EINVAL);
    CHECK(host_iommu_vtd_set_memory(unit, regions, 2) == -EINVAL);
    regions[0].length -= 8;
    CHECK(host_iommu_listener_update(vmm.listener, regions, 1) == -EINVAL);
    regions[0].length += 8;
    CHECK(host_iommu_shadow_set_memory(vmm.context, regions, 1) == -EOPNOTSUPP);
    OK(host_iommu_get_stats(vmm.context, &stats));
    CHECK(stats.mapped_pages == MEMORY / 4096);
    puts("2. memory came and went");

    /* The unit tells what it did: last that a fault stands in the guest's registers. */
    while (host_iommu_vtd_next_event(unit, &event) == 1)
        ;
    CHECK(host_iommu_vtd_dma_read(emulated, ADDRESS + 0x5000, &value, 8) == -EFAULT);
    struct pollfd told = {.fd = host_iommu_vtd_fd(unit), .events = POLLIN};
    CHECK(poll(&told, 1, 10000) == 1 && host_iommu_vtd_run(unit) == 0);
    CHECK(host_iommu_vtd_next_event(unit, &event) == 1);
    CHECK(event.kind == HOST_IOMMU_VTD_FAULT_RECORDED && event.source == SOURCE);
    CHECK(event.pasid == PASID && event.address == ADDRESS + 0x5000 && !event.first && event.reason);
    CHECK(strstr(event.text, "a fault of requests of") && !event.lost);
    CHECK(host_iommu_vtd_next_event(unit, &event) == 0);
    OK(host_iommu_vtd_get_stats(unit, &counted));
    CHECK(counted.faults == 1 && counted.bindings_made >= 1 && counted.waits == 1);
    host_iommu_vtd_dma_free(emulated);
    puts("3. a fault was recorded and told");

    /* What another context binds anew. */
    OK(host_iommu_export(vmm.context, bound, 4, &count));
    CHECK(count >= 1 && count <= 4);

    /* The unit as bytes: their length first, then all of them. */
    OK(host_iommu_vtd_save(unit, NULL, 0, &length));
    CHECK((saved = malloc(length)) != NULL);
    OK(host_iommu_vtd_save(unit, saved, length, &cut));
    CHECK(cut == length);
    OK(host_iommu_vtd_offer(vmm.context, &config));
    stop(&vmm);
    puts("4. everything was saved and has ended");

    /* A unit that is another, and bytes that are damaged, are refused. */
    config.pasid_bits--;
    OK(host_iommu_vtd_new(&config, regions, 1, &another));
    CHECK(host_iommu_vtd_restore(another, saved, length) == -EINVAL);
    CHECK(strstr(host_iommu_last_error(), "pasid_bits"));
    for (cut = 0; cut < length; cut += 1 + length / 64)
        CHECK(host_iommu_vtd_restore(another, saved, cut) == -EINVAL);
    CHECK(host_iommu_vtd_restore(another, "{\"version\":2}", 13) == -EPROTO);
    host_iommu_vtd_free(another);
    puts("5. what does not fit is refused");

    /* The guest goes on in what stands for another process, with its memory. */
    start(&next, regions, 1);
    CHECK(store(&next, ADDRESS, 6) != HOST_IOMMU_DMA_DONE);
    OK(host_iommu_vtd_restore(unit, saved, length));
    while (host_iommu_vtd_run(unit) == 1)
        ;
    CHECK(store(&next, ADDRESS, 8) == HOST_IOMMU_DMA_DONE && *at(PAGE) == 8);
    submit(6 | 3 << 4 | 2 << 16 | (uint64_t)PASID << 32, ADDRESS | 1 << 6); /* and its driver */
    stop(&next);
    free(saved);
    puts("6. the guest goes on");

    /* Without a unit: what was bound, with the handles that come with it. */
    struct host_iommu_mapping mapping = {.size = sizeof(mapping),
                                         .access = HOST_IOMMU_READ | HOST_IOMMU_WRITE,
                                         .length = MEMORY,
                                         .fd = fd};
    OK(host_iommu_open_soft(&next.context));
    OK(host_iommu_soft_plug(next.context, bdf, 1 << 20, 1, &next.device));
    OK(host_iommu_map(next.context, &mapping, memory));
    OK(host_iommu_import(next.context, bound, count, NULL, bindings));
    CHECK(store(&next, ADDRESS, 9) == HOST_IOMMU_DMA_DONE && *at(PAGE) == 9);
    for (size_t i = 0; i < count; i++)
        host_iommu_binding_free(bindings[i]);
    CHECK(store(&next, ADDRESS, 10) == HOST_IOMMU_DMA_NO_ACCESS && *at(PAGE) == 9);
    host_iommu_soft_free(next.device);
    host_iommu_free(next.context);
    puts("7. and so does what was bound without a unit");
    munmap(memory, MEMORY);
    close(fd);
    close(more);
    close(other);
    return 0;
}
