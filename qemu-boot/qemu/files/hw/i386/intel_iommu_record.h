/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Emulated VT-d: a recording of what a guest's driver does with the unit.
 */
#ifndef INTEL_IOMMU_RECORD_H
#define INTEL_IOMMU_RECORD_H

#include "hw/i386/intel_iommu.h"
#include "exec/memory.h"

/* Opens the recording, if one is asked for. */
bool vtd_record_realize(IntelIOMMUState *s, Error **errp);

/* The operations of the register file, which are recorded if one is open. */
const MemoryRegionOps *vtd_record_ops(IntelIOMMUState *s,
                                      const MemoryRegionOps *ops);

/* What the capability registers say instead of what the unit can do. */
void vtd_record_show(IntelIOMMUState *s);

/* A line of the recording, if one is open. */
void vtd_record(IntelIOMMUState *s, const char *format, ...)
    G_GNUC_PRINTF(2, 3);

#endif
