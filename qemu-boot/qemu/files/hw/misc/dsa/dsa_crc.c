/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: CRC-32C (polynomial 1EDC6F41h) and the CRC-16 of T10 DIF
 * (polynomial 8BB7h).
 */
#include "qemu/osdep.h"
#include "qemu/bitops.h"
#include "dsa.h"

#define CRC32C_REFLECTED        0x82f63b78u
#define CRC16_T10               0x8bb7u

static uint32_t reflect(uint32_t value, unsigned bits)
{
    uint32_t result = 0;

    for (unsigned i = 0; i < bits; i++) {
        result |= ((value >> i) & 1) << (bits - 1 - i);
    }
    return result;
}

/* The register is kept reflected, whatever @flags say of seed and result. */
uint32_t dsa_crc32c_begin(uint32_t seed, uint32_t flags)
{
    return flags & DSA_FLAG_CRC_PLAIN ? reflect(seed, 32) : ~seed;
}

uint32_t dsa_crc32c_end(uint32_t crc, uint32_t flags)
{
    return flags & DSA_FLAG_CRC_PLAIN ? reflect(crc, 32) : ~crc;
}

uint32_t dsa_crc32c(uint32_t crc, uint32_t flags, const uint8_t *data,
                    size_t len)
{
    static uint32_t table[256];

    if (!table[1]) {
        for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
            uint32_t value = i;

            for (unsigned bit = 0; bit < 8; bit++) {
                value = value >> 1 ^ (value & 1 ? CRC32C_REFLECTED : 0);
            }
            table[i] = value;
        }
    }
    for (size_t i = 0; i < len; i++) {
        uint8_t byte = data[i];

        if (flags & DSA_FLAG_CRC_PLAIN_DATA) {
            byte = reflect(byte, 8);
        }
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xff];
    }
    return crc;
}

uint16_t dsa_crc16_t10(uint16_t crc, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        crc ^= data[i] << 8;
        for (unsigned bit = 0; bit < 8; bit++) {
            crc = crc << 1 ^ (crc & 0x8000 ? CRC16_T10 : 0);
        }
    }
    return crc;
}
