/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A device that does DMA: one in the process, or the endpoint pasid-dma-testdev behind VFIO, whose
 * registers qemu-boot/qemu/files/include/hw/misc/pasid-dma-testdev.h describes.
 */
#ifndef DEVICE_H
#define DEVICE_H

#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host_iommu.h"

/* How a DMA ended. */
enum end { END_DONE = 1, END_NO_ACCESS, END_INVALID, END_OTHER };

struct device {
    struct host_iommu_soft_device *soft; /* NULL if the device is the endpoint */
    volatile uint8_t *bar;
    uint32_t slot;
};

/* A DMA that was started. */
struct dma {
    uint64_t id;
    uint32_t slot;
};

enum { REG_ID = 0x000, REG_TAIL = 0x00c, RING = 0x1000, SLOT_SIZE = 64, SLOTS = 256 };
enum { ID_VALUE = 0x31544450 };
enum { OP_FILL = 4, OP_FETCH_ADD = 6, FLAG_PASID = 1, FLAG_NO_PRI = 1 << 4 };
enum { STATUS_DONE = 0x80, STATUS_NO_ACCESS = 0x82, STATUS_INVALID = 0x83, STATUS_ATS = 0x89 };

static inline void write32(struct device *dev, uint32_t at, uint32_t value)
{
    *(volatile uint32_t *)(dev->bar + at) = value;
}

static inline uint32_t read32(struct device *dev, uint32_t at)
{
    return *(volatile uint32_t *)(dev->bar + at);
}

static inline void write64(struct device *dev, uint32_t at, uint64_t value)
{
    *(volatile uint64_t *)(dev->bar + at) = value;
}

/* Maps BAR 0, and lets the device make requests. */
static inline int device_open(struct device *dev, int fd)
{
    struct vfio_region_info config = {.argsz = sizeof(config), .index = VFIO_PCI_CONFIG_REGION_INDEX};
    struct vfio_region_info bar = {.argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX};
    uint16_t command;
    void *mapped;

    if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &config) ||
        ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &bar))
        return -1;
    if (pread(fd, &command, sizeof(command), (off_t)config.offset + 4) != sizeof(command))
        return -1;
    command |= 1 << 1 | 1 << 2; /* memory, bus master */
    if (pwrite(fd, &command, sizeof(command), (off_t)config.offset + 4) != sizeof(command))
        return -1;
    mapped = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)bar.offset);
    if (mapped == MAP_FAILED)
        return -1;
    dev->bar = mapped;
    return read32(dev, REG_ID) == ID_VALUE ? 0 : -1;
}

/* Starts to write a value, or with `write` zero to read one. */
static inline int dma_start(struct device *dev, struct dma *dma, uint32_t pasid, uint64_t address,
                            uint64_t value, int write, int ask)
{
    uint32_t at;

    if (dev->soft) {
        struct host_iommu_soft_dma order = {.size = sizeof(order),
                                            .pasid = pasid,
                                            .length = sizeof(value),
                                            .address = address};

        order.flags = (write ? HOST_IOMMU_SOFT_WRITE : 0) |
                      (ask ? 0 : HOST_IOMMU_SOFT_NO_PAGE_REQUESTS);
        return host_iommu_soft_submit(dev->soft, &order, &value, &dma->id);
    }
    dma->slot = read32(dev, REG_TAIL) % SLOTS;
    at = RING + dma->slot * SLOT_SIZE;
    write32(dev, at, write ? OP_FILL : OP_FETCH_ADD); /* adding nothing reads */
    write32(dev, at + 0x04, FLAG_PASID | (ask ? 0 : FLAG_NO_PRI));
    write32(dev, at + 0x08, pasid);
    write32(dev, at + 0x0c, sizeof(value));
    write64(dev, at + 0x18, address);
    write64(dev, at + 0x20, write ? value : 0);
    write32(dev, REG_TAIL, (dma->slot + 1) % SLOTS);
    return 0;
}

/* Waits for the end of a DMA, for ten seconds at most. */
static inline enum end dma_end(struct device *dev, struct dma *dma, uint64_t *value)
{
    if (dev->soft) {
        struct host_iommu_soft_end end = {.size = sizeof(end)};

        if (host_iommu_soft_wait(dev->soft, dma->id, 10000, &end, value, sizeof(*value)) != 1)
            return END_OTHER;
        return end.kind == HOST_IOMMU_DMA_DONE        ? END_DONE
               : end.kind == HOST_IOMMU_DMA_NO_ACCESS ? END_NO_ACCESS
               : end.kind == HOST_IOMMU_DMA_INVALID   ? END_INVALID
                                                      : END_OTHER;
    }
    for (int tries = 0; tries < 10000; tries++) {
        uint32_t at = RING + dma->slot * SLOT_SIZE, status = read32(dev, at + 0x34);

        if (status >= STATUS_DONE) {
            *value = *(volatile uint64_t *)(dev->bar + at + 0x38);
            return status == STATUS_DONE                                      ? END_DONE
                   : status == STATUS_NO_ACCESS || status == STATUS_ATS ? END_NO_ACCESS
                   : status == STATUS_INVALID                           ? END_INVALID
                                                                        : END_OTHER;
        }
        usleep(1000);
    }
    return END_OTHER;
}

#endif
