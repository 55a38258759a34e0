/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * A guest's driver of a VT-d unit, as the examples play it: registers, tables and queues in guest
 * memory, which is at `memory`.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <host_iommu.h>

#define MEMORY (1u << 20)
#define BASE 0xfed90000ull
#define SOURCE 0x28
#define PASID 5
#define ADDRESS 0x7f1234567000ull
#define LOW_ADDRESS 0x1234567000ull

/* Where the guest has its tables and queues. */
enum { ROOT = 0x1000, CONTEXTS = 0x2000, DIRECTORY = 0x3000, PASIDS = 0x4000, QUEUE = 0x5000 };
enum { FIRST_STAGE = 1, SECOND_STAGE = 2 };
enum { REQUESTS = 0x6000, STATUS = 0x7000, INTERRUPTS = 0x8000, TABLES = 0x10000, PAGE = 0x20000 };

#define CHECK(good)                                                                              \
    do {                                                                                         \
        if (!(good)) {                                                                           \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #good, host_iommu_last_error()); \
            exit(1);                                                                             \
        }                                                                                        \
    } while (0)
#define OK(call) CHECK((call) == 0)

static uint8_t *memory;
static struct host_iommu_vtd *unit;

static inline uint64_t *at(uint64_t gpa)
{
    return (uint64_t *)(memory + gpa);
}

static inline void write4(uint64_t offset, uint32_t value)
{
    OK(host_iommu_vtd_write(unit, offset, &value, 4));
}

static inline void write8(uint64_t offset, uint64_t value)
{
    OK(host_iommu_vtd_write(unit, offset, &value, 8));
}

static inline uint64_t read_register(uint64_t offset, size_t length)
{
    uint64_t value = 0;

    OK(host_iommu_vtd_read(unit, offset, &value, length));
    return value;
}

/* Global command (VT-d 4.1, 11.4.4). */
static inline void command(uint32_t bit)
{
    write4(0x18, (read_register(0x1c, 4) & 0x86800000) | bit);
    CHECK(read_register(0x1c, 4) & bit);
}

/* A descriptor, and a wait after it. */
static inline void submit(uint64_t low, uint64_t high)
{
    uint64_t tail = read_register(0x88, 8);
    uint64_t descriptors[2][4] = {{low, high}, {1ull << 32 | 1 << 5 | 5, STATUS}};

    *at(STATUS) = 0;
    for (int i = 0; i < 2; i++, tail = (tail + 32) % 4096)
        memcpy(memory + QUEUE + tail, descriptors[i], 32);
    write8(0x88, tail);
    while (host_iommu_vtd_run(unit) == 1)
        ;
    CHECK(*at(STATUS) == 1);
}

/* What a guest's driver does at its start, and for a process at a PASID. */
static inline void boot_guest(uint64_t translation)
{
    write8(0x90, QUEUE | 1 << 11);
    command(1u << 26);
    *at(ROOT) = CONTEXTS | 1;
    *at(CONTEXTS + SOURCE * 32) = DIRECTORY | 0x1d;
    *at(DIRECTORY) = PASIDS | 1;
    write8(0x20, ROOT | 1 << 10);
    command(1u << 30);
    write8(0xd0, REQUESTS);
    write4(0xe4, 0x61); /* the page requests' interrupt */
    write4(0xe8, 0xfee00000);
    write4(0xe0, 0);
    command(1u << 31);

    *at(PASIDS + PASID * 64 + 8) = 2;
    if (translation == FIRST_STAGE)
        *at(PASIDS + PASID * 64 + 16) = TABLES;
    else
        *at(PASIDS + PASID * 64) = TABLES | 2 << 2; /* of four levels */
    *at(PASIDS + PASID * 64) |= 1 | translation << 6;
    submit(7 | 1 << 4 | 2 << 16 | (uint64_t)PASID << 32, 0);
}

static inline void guest_map(uint64_t address, uint64_t gpa, uint64_t rights)
{
    uint64_t table = TABLES;

    for (int level = 3; level > 0; level--) {
        *at(table + (address >> (12 + 9 * level) & 511) * 8) = (table + 0x1000) | rights;
        table += 0x1000;
    }
    *at(table + (address >> 12 & 511) * 8) = gpa | rights;
}

#endif
