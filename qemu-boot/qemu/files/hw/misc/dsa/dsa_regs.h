/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA: registers, descriptors and completion records, after Linux's
 * drivers/dma/idxd/registers.h and include/uapi/linux/idxd.h. Sections and
 * tables in the comments of this device are those of the Intel Data Streaming
 * Accelerator Architecture Specification (341204), revision 3.0.
 */
#ifndef HW_MISC_DSA_REGS_H
#define HW_MISC_DSA_REGS_H

/* Registers in BAR 0 */
#define DSA_VERSION             0x00
#define DSA_GENCAP              0x10
#define   DSA_GENCAP_BLOCK_ON_FAULT     (1ull << 0)
#define   DSA_GENCAP_OVERLAP_COPY       (1ull << 1)
#define   DSA_GENCAP_CACHE_MEM          (1ull << 2)
#define   DSA_GENCAP_CACHE_CACHE        (1ull << 3)
#define   DSA_GENCAP_CMD_CAP            (1ull << 4)
#define   DSA_GENCAP_EVL_SHIFT          13      /* entries of 32 << n bytes */
#define   DSA_GENCAP_MAX_XFER_SHIFT     16
#define   DSA_GENCAP_MAX_BATCH_SHIFT    21
#define   DSA_GENCAP_CONFIG             (1ull << 31)
#define   DSA_GENCAP_EVL_OVERFLOW       (1ull << 32)
#define DSA_WQCAP               0x20
#define   DSA_WQCAP_WQS_SHIFT           16
#define   DSA_WQCAP_WQCFG_SIZE_SHIFT    24      /* 32 << n bytes */
#define   DSA_WQCAP_DEDICATED           (1ull << 49)
#define   DSA_WQCAP_ATS                 (1ull << 50)
#define   DSA_WQCAP_PRIORITY            (1ull << 51)
#define   DSA_WQCAP_OCCUPANCY           (1ull << 52)
#define   DSA_WQCAP_OP_CONFIG           (1ull << 54)
#define   DSA_WQCAP_PRS                 (1ull << 55)
#define DSA_GRPCAP              0x30
#define   DSA_GRPCAP_RDBUFS_SHIFT       8
#define   DSA_GRPCAP_RDBUF_CONTROL      (1u << 16)
#define   DSA_GRPCAP_RDBUF_LIMIT        (1u << 17)
#define DSA_ENGCAP              0x38
#define DSA_OPCAP               0x40            /* 256 bits */
#define DSA_OFFSETS             0x60            /* of the tables, in 0x100 */
#define   DSA_OFFSETS_WQCFG_SHIFT       16
#define   DSA_OFFSETS_MSIX_PERM_SHIFT   32
#define DSA_GENCFG              0x80
#define   DSA_GENCFG_USER_INT           (1u << 12)
#define   DSA_GENCFG_EVL                (1u << 13)
#define   DSA_GENCFG_MASK               0x30ff
#define DSA_GENCTRL             0x88
#define   DSA_GENCTRL_SWERR_INT         (1u << 0)
#define   DSA_GENCTRL_HALT_INT          (1u << 1)
#define   DSA_GENCTRL_EVL_INT           (1u << 2)
#define DSA_GENSTS              0x90
#define   DSA_STATE_DISABLED            0
#define   DSA_STATE_ENABLED             1
#define DSA_INTCAUSE            0x98
#define   DSA_CAUSE_SWERR               (1u << 0)
#define   DSA_CAUSE_COMMAND             (1u << 1)
#define   DSA_CAUSE_EVL                 (1u << 5)
#define DSA_CMD                 0xa0
#define   DSA_CMD_OPERAND(cmd)          ((cmd) & 0xfffff)
#define   DSA_CMD_CODE(cmd)             (((cmd) >> 20) & 0x1f)
#define   DSA_CMD_INTERRUPT             (1u << 31)
#define DSA_CMDSTS              0xa8
#define   DSA_CMDSTS_ACTIVE             (1u << 31)
#define DSA_CMDCAP              0xb0
#define DSA_SWERR               0xc0            /* 32 bytes */
#define   DSA_SWERR_VALID               (1ull << 0)
#define   DSA_SWERR_OVERFLOW            (1ull << 1)
#define DSA_EVLCFG              0xe0            /* 16 bytes */
#define   DSA_EVLCFG_PASID_ENABLE       (1ull << 0)
#define   DSA_EVLCFG_PRIV               (1ull << 1)
#define DSA_EVLSTATUS           0xf0
#define   DSA_EVLSTATUS_PENDING         (1u << 30)      /* upper half */
#define   DSA_EVL_SIZE_MIN              64
#define DSA_GRPCFG              0x400           /* 64 bytes a group */
#define   DSA_GRPCFG_SIZE               64
#define   DSA_GRPCFG_ENGINES            32
#define   DSA_GRPCFG_FLAGS              40
#define DSA_WQCFG               0x600           /* 64 bytes a work queue */
#define   DSA_WQCFG_SIZE                64
#define DSA_MSIX_PERM           0x900           /* 8 bytes a vector */
#define   DSA_MSIX_PERM_IGNORE          (1u << 2)
#define   DSA_MSIX_PERM_PASID_ENABLE    (1u << 3)
#define   DSA_MSIX_PERM_PASID(perm)     ((perm) >> 12)
#define   DSA_MSIX_PERM_MASK            0xfffff00cu

/* Words of WQCFG */
#define DSA_WQ_SIZE(c)          ((c)[0] & 0xffff)
#define DSA_WQ_DEDICATED        (1u << 0)       /* word 2 */
#define DSA_WQ_BOF              (1u << 1)
#define DSA_WQ_ATS_DISABLE      (1u << 2)
#define DSA_WQ_PRS_DISABLE      (1u << 3)
#define DSA_WQ_PRIORITY(c)      (((c)[2] >> 4) & 0xf)
#define DSA_WQ_PASID(c)         (((c)[2] >> 8) & 0xfffff)
#define DSA_WQ_PASID_ENABLE     (1u << 28)
#define DSA_WQ_PRIV             (1u << 29)
#define DSA_WQ_MAX_XFER(c)      ((c)[3] & 0x1f)
#define DSA_WQ_MAX_BATCH(c)     (((c)[3] >> 5) & 0xf)
#define DSA_WQ_STATE_SHIFT      30              /* word 6 */
#define DSA_WQ_STATE_ENABLED    1u
#define DSA_WQ_OP_CONFIG        8               /* words 8 to 15 */

/* Commands */
enum {
    DSA_CMD_ENABLE_DEVICE = 1,
    DSA_CMD_DISABLE_DEVICE,
    DSA_CMD_DRAIN_ALL,
    DSA_CMD_ABORT_ALL,
    DSA_CMD_RESET_DEVICE,
    DSA_CMD_ENABLE_WQ,
    DSA_CMD_DISABLE_WQ,
    DSA_CMD_DRAIN_WQ,
    DSA_CMD_ABORT_WQ,
    DSA_CMD_RESET_WQ,
    DSA_CMD_DRAIN_PASID,
    DSA_CMD_ABORT_PASID,
    DSA_CMD_LAST = DSA_CMD_ABORT_PASID,
};

/* How a command ended (5.8.3) */
enum {
    DSA_CMDERR_NONE = 0,
    DSA_CMDERR_COMMAND = 0x01,
    DSA_CMDERR_WQ_INDEX = 0x02,
    DSA_CMDERR_DEVICE_ENABLED = 0x10,
    DSA_CMDERR_BUS_MASTER = 0x12,
    DSA_CMDERR_WQ_TOTAL = 0x14,
    DSA_CMDERR_GROUP = 0x15,            /* work queues or engines alone */
    DSA_CMDERR_GROUP_WQS = 0x16,        /* in two; active in none; off in one */
    DSA_CMDERR_GROUP_ENGINES = 0x17,    /* in two */
    DSA_CMDERR_EVL = 0x19,
    DSA_CMDERR_PASID = 0x1b,
    DSA_CMDERR_DEVICE_DISABLED = 0x20,
    DSA_CMDERR_WQ_ENABLED = 0x21,
    DSA_CMDERR_WQ_SIZE = 0x22,
    DSA_CMDERR_WQ_PRIORITY = 0x23,
    DSA_CMDERR_WQ_MODE = 0x24,
    DSA_CMDERR_WQ_PASID = 0x26,
    DSA_CMDERR_WQ_MAX_BATCH = 0x27,
    DSA_CMDERR_WQ_MAX_XFER = 0x28,
    DSA_CMDERR_WQ_PRIV = 0x2a,
    DSA_CMDERR_WQ_OP_CONFIG = 0x2d,
    DSA_CMDERR_WQ_PRS = 0x2e,
    DSA_CMDERR_NOT_ENABLED = 0x31,
    DSA_CMDERR_WQ_NOT_ENABLED = 0x32,
};

/* Operations */
enum {
    DSA_OP_NOOP = 0,
    DSA_OP_BATCH,
    DSA_OP_DRAIN,
    DSA_OP_MEMMOVE,
    DSA_OP_FILL,
    DSA_OP_COMPARE,
    DSA_OP_COMPARE_PATTERN,
    DSA_OP_CREATE_DELTA,
    DSA_OP_APPLY_DELTA,
    DSA_OP_DUALCAST,
    DSA_OP_CRC = 0x10,
    DSA_OP_COPY_CRC,
    DSA_OP_DIF_CHECK,
    DSA_OP_DIF_INSERT,
    DSA_OP_DIF_STRIP,
    DSA_OP_DIF_UPDATE,
    DSA_OP_CACHE_FLUSH = 0x20,
    DSA_OP_LAST = DSA_OP_CACHE_FLUSH,
};

/* Flags of a descriptor */
#define DSA_FLAG_FENCE          (1u << 0)
#define DSA_FLAG_BLOCK_ON_FAULT (1u << 1)
#define DSA_FLAG_RECORD_VALID   (1u << 2)       /* completion address valid */
#define DSA_FLAG_RECORD         (1u << 3)       /* write it on success too */
#define DSA_FLAG_INTERRUPT      (1u << 4)
#define DSA_FLAG_CHECK_RESULT   (1u << 7)
#define DSA_FLAG_CACHE_CONTROL  (1u << 8)
#define DSA_FLAG_TC_1           (1u << 9)
#define DSA_FLAG_TC_2           (1u << 10)
#define DSA_FLAG_TC_3           (1u << 11)
#define DSA_FLAG_TC_RECORD      (1u << 12)
#define DSA_FLAG_STRICT_ORDER   (1u << 13)
#define DSA_FLAG_CRC_READ_SEED  (1u << 16)
#define DSA_FLAG_CRC_PLAIN      (1u << 17)      /* no inversion, no reflection */
#define DSA_FLAG_CRC_PLAIN_DATA (1u << 18)      /* no reflection of the data */

/* Status of a completion record, and what the event log says (5.8.1) */
enum {
    DSA_SUCCESS = 0x01,
    DSA_SUCCESS_FALSE = 0x02,           /* Check Result: not as expected */
    DSA_PAGE_FAULT = 0x03,              /* and Block On Fault is 0 */
    DSA_PAGE_FAULT_REFUSED = 0x04,      /* the page request was answered so */
    DSA_BATCH_FAILED = 0x05,
    DSA_BATCH_PAGE_FAULT = 0x06,
    DSA_DELTA_OFFSET_ORDER = 0x07,
    DSA_DELTA_OFFSET_RANGE = 0x08,
    DSA_DIF_ERROR = 0x09,
    DSA_BAD_OPCODE = 0x10,
    DSA_BAD_FLAGS = 0x11,
    DSA_BAD_RESERVED = 0x12,
    DSA_BAD_XFER_SIZE = 0x13,
    DSA_BAD_COUNT = 0x14,
    DSA_BAD_DELTA_SIZE = 0x15,
    DSA_BAD_OVERLAP = 0x16,
    DSA_BAD_DUALCAST = 0x17,
    DSA_BAD_LIST_ALIGN = 0x18,
    DSA_BAD_INT_HANDLE = 0x19,
    DSA_RECORD_FAULT = 0x1a,
    DSA_BAD_RECORD_ALIGN = 0x1b,
    DSA_BAD_ALIGN = 0x1c,
    DSA_HW_ERROR = 0x20,                /* UR or CA of a memory access */
    /* UR or CA of a translation request; "failure" to a page request */
    DSA_TRANSLATION_FAILED = 0x22,
    DSA_DRAIN_LOGGED = 0x26,            /* these two in the event log alone */
    DSA_BATCH_LOGGED = 0x27,
    DSA_STATUS_MASK = 0x3f,
    DSA_STATUS_WRITE = 0x80,            /* added: the faulting access wrote */
};
/* Errors of SWERR alone (5.8.2) */
#define DSA_SWERR_WQ_FULL       0x53
#define DSA_SWERR_EVL_LOST      0x54

#define DSA_DESC_SIZE           64
#define DSA_RECORD_SIZE         32
#define DSA_EVL_ENTRY_SIZE      64

#endif
