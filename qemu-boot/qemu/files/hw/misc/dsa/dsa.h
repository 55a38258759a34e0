/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Intel DSA (8086:11fb): what its files share.
 *
 *   dsa.c             the PCI function
 *   dsa_registers.c   BAR 0: capabilities, configuration, causes
 *   dsa_command.c     CMD and CMDSTS
 *   dsa_portal.c      BAR 2: from MOVDIR64B to a descriptor in a work queue
 *   dsa_queue.c       who runs when: groups, engines, batches, drains
 *   dsa_descriptor.c  what a descriptor may ask for
 *   dsa_operation.c   what it does: memory moves, compares and the like
 *   dsa_delta.c       delta records
 *   dsa_crc.c         CRC-32C, CRC-16 of T10 DIF
 *   dsa_dif.c         data integrity fields
 *   dsa_completion.c  completion records, interrupts, SWERR and event log
 *
 * ATS, PASID and PRI are those of an ATSPort; see hw/pci/ats_port.h for what
 * a transfer or an interrupt can set off.
 */
#ifndef HW_MISC_DSA_H
#define HW_MISC_DSA_H

#include "dsa_regs.h"
#include "hw/pci/ats_port.h"
#include "hw/pci/pci_device.h"
#include "qemu/bitmap.h"
#include "qemu/queue.h"
#include "qom/object.h"
#include "system/runstate.h"

#define TYPE_DSA "intel-dsa"
OBJECT_DECLARE_SIMPLE_TYPE(DSAState, DSA)

#define DSA_WQS                 8
#define DSA_GROUPS              4
#define DSA_ENGINES             4
#define DSA_TOTAL_SIZE          128     /* entries of all work queues */
#define DSA_RDBUFS              96
#define DSA_MAX_XFER            31      /* as powers of two: */
#define DSA_MAX_BATCH           15      /* what the fields can say */
#define DSA_MAX_BATCH_DEFAULT   10
#define DSA_BATCH_IDS           256
#define DSA_VECTORS             (DSA_WQS + 1)
#define DSA_PORTALS             4       /* pages of a work queue */
#define DSA_PORTAL_SIZE         4096u

/* Descriptors that an engine works on at a time, and those of one batch. */
#define DSA_ENGINE_DEPTH        8
#define DSA_BATCH_DEPTH         8

typedef struct DSAWork DSAWork;
typedef QTAILQ_HEAD(, DSAWork) DSAWorkList;

/* A descriptor as it came, in the host's byte order. */
typedef struct DSADesc {
    uint32_t reserved;          /* bits that must be zero */
    uint32_t flags;
    uint8_t opcode;
    uint64_t record;            /* completion address */
    uint64_t src, dst;
    uint32_t size;
    uint16_t int_handle;
    uint8_t op[24];
} DSADesc;

/*
 * The life of a descriptor:
 *
 *   portal ─► QUEUED ─► READY ─► final status ─► record, interrupt ─► freed
 *                        │ ▲
 *                        ▼ │ page, end of what is before it, or of a child
 *                       PARKED
 */
typedef enum DSAWorkState {
    DSA_WORK_QUEUED,            /* in its work queue */
    DSA_WORK_READY,             /* in DSAState::ready */
    DSA_WORK_RUNNING,           /* in no list */
    DSA_WORK_PARKED,            /* the ATSPort or dsa_queue.c makes it ready */
} DSAWorkState;

struct DSAWork {
    DSADesc desc;
    unsigned wq;
    bool ims;                   /* came by an IMS portal */
    bool interrupt;             /* asked for, and may be raised */
    bool has_pasid, priv;
    uint32_t pasid;
    DSAWorkState state;
    bool checked;               /* by dsa_descriptor_check() */
    bool draining;              /* parked until those before it are done */
    uint64_t number;            /* in the order of dispatch */
    QTAILQ_ENTRY(DSAWork) next; /* in a work queue or in ready */
    QTAILQ_ENTRY(DSAWork) in_flight;
    ATSWaiter waiter;

    /* Of a batch: its children; of a child: its batch and place there. */
    DSAWork *batch;
    unsigned index;             /* next to be fetched; place of a child */
    unsigned running, completed;
    bool failed;
    bool logged;                /* the event log has a child's record */
    uint8_t id;                 /* in the event log: of batches in flight */
    uint8_t fetch_status;       /* why the list cannot be read */

    /* Progress */
    bool backward;
    uint32_t done;              /* bytes */
    uint32_t crc;
    bool crc_ready;
    uint32_t written;           /* bytes of a delta record, of a DIF stream */
    int32_t last_offset;        /* of a delta record */
    uint32_t dif_blocks;

    /* The completion record; status zero: not yet known */
    uint8_t status, result;
    uint32_t completed_bytes;
    uint64_t fault_addr;
    uint8_t op_result[16];
};

typedef struct DSAPortal {
    uint8_t data[DSA_DESC_SIZE];
    unsigned filled;            /* bytes that have come, in order */
    uint32_t offset;            /* of the descriptor in the page */
} DSAPortal;

typedef struct DSAWorkQueue {
    uint32_t config[DSA_WQCFG_SIZE / 4];
    bool enabled;
    bool closing;               /* takes no more; off when it is empty */
    unsigned queued;
    DSAWorkList queue;
    unsigned credit;            /* of the round among the work queues */
    DSAPortal portals[DSA_PORTALS];
} DSAWorkQueue;

typedef struct DSAGroup {
    uint64_t wqs[4];
    uint64_t engines;
    uint64_t flags;
    unsigned in_flight;
} DSAGroup;

struct DSAState {
    PCIDevice parent_obj;

    MemoryRegion registers, portals;
    QEMUBH *bh;                 /* NULL once unplugged */
    VMChangeStateEntry *vm_change;

    /* Properties */
    uint32_t pri_capacity, tlb_capacity;
    uint8_t max_transfer, max_batch;    /* as powers of two */

    ATSPort port;
    bool enabled;
    uint32_t gencfg, genctrl, intcause, cmdsts;
    uint64_t evlcfg[2];
    uint16_t evl_head, evl_tail;
    bool evl_pending;
    uint64_t swerr[4];
    uint64_t msix_perm[DSA_VECTORS];
    DSAGroup groups[DSA_GROUPS];
    DSAWorkQueue wqs[DSA_WQS];

    uint32_t command;           /* that waits for its end, while active */

    DSAWorkList ready;
    DSAWorkList in_flight;      /* dispatched, and children of batches */
    uint64_t dispatched;
    DECLARE_BITMAP(batch_ids, DSA_BATCH_IDS);
    uint8_t next_batch_id;
};

/* dsa_registers.c */
extern const MemoryRegionOps dsa_register_ops;
uint64_t dsa_opcap(void);
void dsa_registers_reset(DSAState *s);
void dsa_cause(DSAState *s, uint32_t cause);
int dsa_group_of(DSAState *s, unsigned wq);

/* dsa_command.c */
void dsa_command(DSAState *s, uint32_t command);
/* After something has ended: whether the command that waits is done. */
void dsa_command_look(DSAState *s);

/* dsa_portal.c */
extern const MemoryRegionOps dsa_portal_ops;

/* dsa_queue.c */
void dsa_queue_init(DSAState *s);
void dsa_queue_submit(DSAState *s, unsigned wq, bool ims, const uint8_t *desc);
void dsa_queue_run(void *opaque);
void dsa_queue_woken(ATSPort *p, ATSWaiter *w);
void dsa_queue_abort(DSAState *s, uint32_t wqs, const uint32_t *pasid);
bool dsa_queue_idle(DSAState *s, uint32_t wqs, const uint32_t *pasid);

/* dsa_descriptor.c */
void dsa_descriptor_parse(const uint8_t *raw, DSADesc *d);
uint8_t dsa_descriptor_check(DSAState *s, DSAWork *w);

/* dsa_operation.c; each is called again after ATS_STEP_MORE and waits */
ATSStep dsa_operation_step(DSAState *s, DSAWork *w, ATSReach *r);
/* What the record of a fault has, so that the rest can be done later. */
void dsa_operation_partial(DSAWork *w);
ATSStep dsa_reach(DSAState *s, DSAWork *w, hwaddr iova, hwaddr last, bool write,
                  ATSReach *r);
ATSStep dsa_read(DSAState *s, DSAWork *w, hwaddr iova, void *data, hwaddr len,
                 ATSReach *r);
ATSStep dsa_write(DSAState *s, DSAWork *w, hwaddr iova, void *data, hwaddr len,
                  ATSReach *r);

/* dsa_delta.c, dsa_dif.c */
ATSStep dsa_delta_create(DSAState *s, DSAWork *w, ATSReach *r);
ATSStep dsa_delta_apply(DSAState *s, DSAWork *w, ATSReach *r);
ATSStep dsa_dif_step(DSAState *s, DSAWork *w, ATSReach *r);
uint32_t dsa_dif_source_block(const DSADesc *d);
uint64_t dsa_dif_target_size(const DSADesc *d);

/* dsa_crc.c */
uint32_t dsa_crc32c_begin(uint32_t seed, uint32_t flags);
uint32_t dsa_crc32c(uint32_t crc, uint32_t flags, const uint8_t *data,
                    size_t len);
uint32_t dsa_crc32c_end(uint32_t crc, uint32_t flags);
uint16_t dsa_crc16_t10(uint16_t crc, const uint8_t *data, size_t len);

/* dsa_completion.c */
ATSStep dsa_completion_record(DSAState *s, DSAWork *w, ATSReach *r);
void dsa_swerr_wq_full(DSAState *s, unsigned wq);

#endif
