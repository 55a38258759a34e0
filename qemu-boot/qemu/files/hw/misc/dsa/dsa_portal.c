/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: the portals of BAR 2. A work queue has four pages: unlimited and
 * limited, with MSI-X and with IMS. A descriptor comes as eight writes of eight
 * bytes in order, which is what MOVDIR64B is to a device; anything else is
 * dropped. Portals read as ones.
 */
#include "qemu/osdep.h"
#include "dsa.h"

static uint64_t portals_read(void *opaque, hwaddr addr, unsigned size)
{
    return UINT64_MAX;
}

static void portals_write(void *opaque, hwaddr addr, uint64_t value,
                          unsigned size)
{
    DSAState *s = opaque;
    unsigned page = addr / DSA_PORTAL_SIZE;
    unsigned wq = page / DSA_PORTALS;
    DSAPortal *portal = &s->wqs[wq].portals[page % DSA_PORTALS];
    uint32_t offset = addr % DSA_PORTAL_SIZE;

    if (size != 8) {
        portal->filled = 0;
        return;
    }
    if (offset % DSA_DESC_SIZE == 0) {
        portal->offset = offset;
        portal->filled = 0;
    } else if (!portal->filled || offset != portal->offset + portal->filled) {
        portal->filled = 0;
        return;
    }
    stq_le_p(portal->data + portal->filled, value);
    portal->filled += 8;
    if (portal->filled == DSA_DESC_SIZE) {
        portal->filled = 0;
        dsa_queue_submit(s, wq, page % DSA_PORTALS >= 2, portal->data);
    }
}

const MemoryRegionOps dsa_portal_ops = {
    .read = portals_read,
    .write = portals_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8 },
    .impl = { .min_access_size = 1, .max_access_size = 8 },
};
