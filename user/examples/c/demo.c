/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A VMM's way through the library, as `make demo` goes it in Rust.
 *
 *   demo soft                  an IOMMU and a device in the process: anywhere
 *   demo kmod 0000:00:04.0     the module vfio_iommu_ioasid and an endpoint pasid-dma-testdev
 *   demo iommufd 0000:00:04.0  the kernel's own interface and such an endpoint
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define MEMORY (16u << 20)
#define ADDRESS 0x7f1234567000ull /* in the guest's process */
#define HOLE (ADDRESS + 0x10000)
#define OUTSIDE (ADDRESS + 0x20000)

/* Ends the program with what went wrong. */
#define CHECK(good)                                                                               \
    do {                                                                                          \
        if (!(good)) {                                                                            \
            fprintf(stderr, "demo: line %d: %s: %s\n", __LINE__, #good, host_iommu_last_error()); \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)
#define OK(call) CHECK((call) == 0)

static uint8_t *memory;
static uint64_t next_page = 0x1000;

static uint64_t alloc_page(void)
{
    uint64_t page = next_page;

    next_page += 0x1000;
    return page;
}

/* Maps a page in a stage-1 table of four levels (VT-d 4.1, 9.8), as the guest would. */
static void guest_map(uint64_t root, uint64_t address, uint64_t gpa)
{
    uint64_t table = root;
    int level;

    for (level = 3; level > 0; level--) {
        uint64_t *entry = (uint64_t *)(memory + table) + (address >> (12 + 9 * level) & 511);

        if (!*entry)
            *entry = alloc_page() | 7; /* present, writable, user */
        table = *entry & ~0xfffull;
    }
    __atomic_store_n((uint64_t *)(memory + table) + (address >> 12 & 511), gpa | 7, __ATOMIC_RELEASE);
}

static enum end dma(struct device *dev, uint32_t pasid, uint64_t address, uint64_t *value, int write)
{
    struct dma dma;

    OK(dma_start(dev, &dma, pasid, address, *value, write, 0));
    return dma_end(dev, &dma, value);
}

/* Has the device write to a page that is not there; gives its page request. */
static struct host_iommu_group *touch(struct device *dev, struct dma *dma, uint32_t pasid,
                                      uint64_t address, struct host_iommu_queue *queue)
{
    struct pollfd fd = {.fd = host_iommu_queue_fd(queue), .events = POLLIN};
    struct host_iommu_event event = {.size = sizeof(event)};
    struct host_iommu_group *group;
    struct host_iommu_page page;
    size_t pages;

    OK(dma_start(dev, dma, pasid, address, 0xf111, 1, 1));
    CHECK(poll(&fd, 1, 10000) == 1);
    CHECK(host_iommu_queue_next(queue, &event, &group) == 1);
    CHECK(event.kind == HOST_IOMMU_PAGE_REQUESTS && event.pasid == pasid && event.user_cookie == 42);
    OK(host_iommu_group_pages(group, &page, 1, &pages));
    CHECK(pages == 1 && page.address == address && (page.access & HOST_IOMMU_WRITE));
    return group;
}

int main(int argc, char **argv)
{
    struct host_iommu_bdf bdf = {.devfn = 4 << 3};
    struct host_iommu_capabilities caps = {.size = sizeof(caps)};
    struct host_iommu_mapping mapping = {.size = sizeof(mapping),
                                         .access = HOST_IOMMU_READ | HOST_IOMMU_WRITE,
                                         .length = MEMORY};
    struct host_iommu_translation table = {
        .size = sizeof(table), .kind = HOST_IOMMU_STAGE1, .width = 48, .cookie = 42};
    struct host_iommu_invalidation page = {{ADDRESS, ADDRESS + 0xfff}, .leaf_only = 1};
    struct host_iommu_stats stats = {.size = sizeof(stats)};
    struct host_iommu_binding *bindings[2];
    struct host_iommu_pasids *pasids[2], *again = NULL;
    uint32_t numbers[2] = {5, 70000};
    uint64_t roots[2], pages[2], value, fresh, bytes;
    struct host_iommu_queue *queue;
    struct host_iommu_group *group;
    struct device dev = {0};
    struct host_iommu *host;
    struct dma fill;
    int fd = -1, i;

    /* 1. The context, and what it can do. */
    CHECK(host_iommu_api_version() == HOST_IOMMU_API_VERSION);
    if (argc == 2 && !strcmp(argv[1], "soft")) {
        OK(host_iommu_open_soft(&host));
        OK(host_iommu_soft_plug(host, bdf, 1 << 20, 1, &dev.soft));
    } else if (argc == 3 && !strcmp(argv[1], "kmod")) {
        OK(host_iommu_bdf_parse(argv[2], &bdf));
        OK(host_iommu_open_kmod(bdf, &fd, &host));
    } else if (argc == 3 && !strcmp(argv[1], "iommufd")) {
        OK(host_iommu_bdf_parse(argv[2], &bdf));
        OK(host_iommu_open_iommufd(bdf, &fd, &host));
    } else {
        fprintf(stderr, "usage: demo soft | kmod DEVICE | iommufd DEVICE\n");
        return 2;
    }
    CHECK(dev.soft || device_open(&dev, fd) == 0);
    OK(host_iommu_get_capabilities(host, &caps));
    CHECK(caps.stage1 == HOST_IOMMU_PRESENT && caps.page_requests == HOST_IOMMU_PRESENT);
    printf(" 1. %u PASID bits, page requests can be answered\n", caps.pasid_bits);

    /* 2. Guest memory, from guest-physical address 0 on. */
    mapping.fd = memfd_create("guest", MFD_CLOEXEC);
    CHECK(mapping.fd >= 0 && ftruncate(mapping.fd, MEMORY) == 0);
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, mapping.fd, 0);
    CHECK(memory != MAP_FAILED);
    OK(host_iommu_map(host, &mapping, memory));
    CHECK(host_iommu_map(host, &mapping, memory) < 0); /* something is there */
    OK(host_iommu_get_stats(host, &stats));
    CHECK(stats.mapped_pages == MEMORY / 4096);
    printf(" 2. %u MiB of guest memory mapped\n", MEMORY >> 20);

    /* 3. to 5. PASIDs, a table for each, both bound with one queue for page requests. */
    OK(host_iommu_queue_new(host, NULL, &queue));
    for (i = 0; i < 2; i++) {
        OK(host_iommu_pasids_alloc(host, numbers[i], numbers[i], 1, &pasids[i]));
        CHECK(host_iommu_pasids_alloc(host, numbers[i], numbers[i], 1, &again) < 0 && !again);
        roots[i] = table.root = alloc_page();
        pages[i] = alloc_page();
        guest_map(roots[i], ADDRESS, pages[i]);
        OK(host_iommu_bind(host, bdf, pasids[i], numbers[i], &table, NULL, queue, &bindings[i]));
    }
    printf(" 3. PASIDs %u and %u are ours, and not to be had twice\n", numbers[0], numbers[1]);
    printf(" 4. tables at %#llx and %#llx\n", (long long)roots[0], (long long)roots[1]);
    printf(" 5. both bound, page requests to one queue\n");

    /* 6. and 7. DMA by guest virtual address: the same one, two memories. */
    for (i = 0; i < 2; i++) {
        value = 0x1111 * (i + 1);
        CHECK(dma(&dev, numbers[i], ADDRESS, &value, 1) == END_DONE);
    }
    for (i = 0; i < 2; i++) {
        CHECK(*(volatile uint64_t *)(memory + pages[i]) == 0x1111u * (i + 1));
        CHECK(dma(&dev, numbers[i], ADDRESS, &value, 0) == END_DONE && value == 0x1111u * (i + 1));
    }
    printf(" 6. DMA by guest virtual address, written and read\n");
    printf(" 7. the same address under a second PASID is another page\n");

    /* 8. An entry that changes is seen after the invalidation, and not before. */
    fresh = alloc_page();
    *(volatile uint64_t *)(memory + fresh) = 0x4e77;
    guest_map(roots[0], ADDRESS, fresh);
    CHECK(dma(&dev, numbers[0], ADDRESS, &value, 0) == END_DONE && value == 0x1111);
    OK(host_iommu_binding_flush(bindings[0], &page, 1, NULL));
    CHECK(dma(&dev, numbers[0], ADDRESS, &value, 0) == END_DONE && value == 0x4e77);
    printf(" 8. an entry changed: the device saw the old page until the invalidation\n");

    /* 9. and 10. Page requests. */
    group = touch(&dev, &fill, numbers[0], HOLE, queue);
    fresh = alloc_page();
    guest_map(roots[0], HOLE, fresh);
    OK(host_iommu_group_respond(group, HOST_IOMMU_SUCCESS));
    CHECK(dma_end(&dev, &fill, &value) == END_DONE);
    CHECK(*(volatile uint64_t *)(memory + fresh) == 0xf111);
    printf(" 9. a hole touched, filled and answered SUCCESS: the DMA went on\n");
    group = touch(&dev, &fill, numbers[0], HOLE + 0x1000, queue);
    OK(host_iommu_group_respond(group, HOST_IOMMU_INVALID));
    CHECK(dma_end(&dev, &fill, &value) == END_INVALID);
    printf("10. a hole touched, answered INVALID: the DMA ended so\n");

    /* 11. Stage 1 does not reach beyond stage 2. */
    guest_map(roots[0], OUTSIDE, MEMORY + (1u << 30));
    CHECK(dma(&dev, numbers[0], OUTSIDE, &value, 1) == END_NO_ACCESS);
    printf("11. an entry that points outside stage 2: the DMA was stopped\n");

    /* 12. What is unbound reaches nothing; what is still bound does. */
    CHECK(host_iommu_pasids_release(pasids[0]) < 0); /* it is bound */
    OK(host_iommu_binding_unbind(bindings[0]));
    CHECK(host_iommu_binding_is_bound(bindings[0]) == 0);
    CHECK(dma(&dev, numbers[0], ADDRESS, &value, 1) == END_NO_ACCESS);
    CHECK(dma(&dev, numbers[1], ADDRESS, &value, 0) == END_DONE && value == 0x2222);
    printf("12. unbound: DMA by PASID %u is stopped, by PASID %u it goes on\n", numbers[0], numbers[1]);

    /* 13. Everything goes back. */
    for (i = 0; i < 2; i++) {
        host_iommu_pasids_free(pasids[i]);
        host_iommu_binding_free(bindings[i]);
    }
    host_iommu_queue_free(queue);
    OK(host_iommu_unmap(host, (struct host_iommu_range){0, UINT64_MAX}, &bytes));
    OK(host_iommu_get_stats(host, &stats));
    CHECK(bytes == MEMORY && !stats.bindings && !stats.pasids && !stats.mapped_pages);
    host_iommu_soft_free(dev.soft);
    host_iommu_free(host);
    printf("13. nothing is left\n");
    return 0;
}
