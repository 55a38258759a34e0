/* SPDX-License-Identifier: GPL-2.0-or-later OR MIT OR Apache-2.0 */
/*
 * pasid-dma-testdev: the interface between the device and its drivers.
 *
 * A PCIe endpoint that does DMA on order, by PASID where asked. It translates
 * by ATS into a device TLB that keeps each entry until it is invalidated, and
 * asks for missing pages by PRI. All registers are little-endian.
 *
 * BAR 0 (64 KiB, 32-bit non-prefetchable memory):
 *
 *   0x0000  registers, accessed as aligned 4 or 8 bytes
 *   0x1000  PDT_SLOTS descriptors of PDT_DESC_SIZE bytes (the ring), accessed
 *           as aligned 1, 2, 4 or 8 bytes
 *   0x8000  PDT_BUFFER_SIZE bytes of buffer, accessed in the same way
 *
 * BAR 2: MSI-X table and PBA, PDT_MSIX_VECTORS vectors.
 *
 * To order work: write descriptors into the slots from TAIL on, then write the
 * new TAIL. The device copies a slot's descriptor when TAIL passes it, and works
 * on all slots at once, a few KiB of each in turn; a slot that waits for a page
 * does not hold up the others, and slots may finish in any order. TAIL and HEAD
 * run from 0 to PDT_SLOTS - 1 and wrap; the ring is full when TAIL + 1 == HEAD
 * modulo PDT_SLOTS. HEAD is the oldest slot not yet finished. A TAIL out of
 * range, or one that would pass HEAD, is ignored.
 *
 * A transfer runs from low to high addresses. One that ends with an error has
 * moved everything below the page that it failed at, and nothing from it on
 * (PDT_OP_COPY: from the first page of either side that failed).
 *
 * The enables of configuration space are obeyed at every step: without bus
 * master there is no access at all, without PASID none by PASID, without ATS
 * requests are untranslated, and without PRI a missing page is an error.
 * Function-level reset ends everything without a completion, clears the device
 * TLB, the registers, the ring and the buffer, and leaves the next page request
 * group index where it was, so that a late response meets no younger group.
 *
 * Interrupts: vector 0 when a slot is done, vector 1 when PDT_REG_PRI_STATE
 * shows a response failure; the other vectors are not used.
 */
#ifndef PASID_DMA_TESTDEV_H
#define PASID_DMA_TESTDEV_H

#define PDT_VENDOR_ID           0x1234
#define PDT_DEVICE_ID           0x5a1d
#define PDT_MSIX_VECTORS        4

/* Registers in BAR 0 */
#define PDT_REG_ID              0x000   /* RO u32: PDT_ID */
#define   PDT_ID                0x31544450 /* "PDT1" */
#define PDT_REG_SLOTS           0x004   /* RO u32: PDT_SLOTS */
#define PDT_REG_HEAD            0x008   /* RO u32: oldest unfinished slot */
#define PDT_REG_TAIL            0x00c   /* RW u32: doorbell, next free slot */
#define PDT_REG_CONTROL         0x010   /* RW u32 */
#define   PDT_CONTROL_IRQ       (1u << 0)  /* completions raise MSI-X vector 0 */
#define   PDT_CONTROL_PAUSE     (1u << 1)  /* take no new slot while set */
#define PDT_REG_COMMAND         0x014   /* WO u32 */
#define   PDT_COMMAND_FLUSH_DTLB (1u << 0) /* drop the device TLB */
#define   PDT_COMMAND_ABORT     (1u << 1)  /* end every slot with PDT_STATUS_ABORTED, without completion */
#define PDT_REG_PRI_GROUP       0x018   /* RW u32: most page requests a group, 1..PDT_GROUP_MAX; reset 1 */
#define   PDT_GROUP_MAX         64u
#define PDT_REG_ENABLES         0x01c   /* RO u32: what configuration space enables now */
#define   PDT_ENABLE_MASTER     (1u << 0)
#define   PDT_ENABLE_PASID      (1u << 1)
#define   PDT_ENABLE_PASID_EXEC (1u << 2)
#define   PDT_ENABLE_PASID_PRIV (1u << 3)
#define   PDT_ENABLE_ATS        (1u << 4)
#define   PDT_ENABLE_PRI        (1u << 5)
#define PDT_REG_PRI_RAW         0x020   /* u64; write: sends one raw page request, PDT_RAW_*; as two u32 the upper half sends.
                                           read: PDT_RAW_SENT or why the last one was not sent */
#define   PDT_RAW_ADDR_MASK     0xfffffffffffff000ull
#define   PDT_RAW_LAST          (1u << 0)
#define   PDT_RAW_READ          (1u << 1)
#define   PDT_RAW_WRITE         (1u << 2)
#define   PDT_RAW_PASID         (1u << 3)  /* with the PASID of PDT_REG_RAW_PASID */
#define   PDT_RAW_ROGUE         (1u << 4)  /* keep no account: whatever the allocation and the groups in use.
                                              Its response counts as PDT_CNT_RSP_STRAY */
#define   PDT_RAW_SENT          0
#define   PDT_RAW_DISABLED      1          /* PRI, PASID or bus master is off */
#define   PDT_RAW_NO_CREDIT     2          /* the allocation is used up */
#define   PDT_RAW_GROUP_BUSY    3          /* the index is in use by another group */
#define   PDT_RAW_REFUSED       4          /* the IOMMU does not take page requests */
#define PDT_REG_RAW_PASID       0x028   /* RW u32: PASID for PDT_REG_PRI_RAW, 20 bits */
#define PDT_REG_RAW_PRGI        0x02c   /* RW u32: group index for PDT_REG_PRI_RAW, 9 bits */
#define PDT_REG_PRI_STATE       0x030   /* RO u32: 15:0 page requests outstanding, PDT_PRI_FAILED */
#define   PDT_PRI_FAILED        (1u << 16) /* a response was "failure"; page requests are off */
#define PDT_REG_PRI_ALLOC       0x034   /* RO u32: page requests allowed, from configuration space, at most capacity */
#define PDT_REG_DTLB_ENTRIES    0x038   /* RO u32: entries in the device TLB */
#define PDT_REG_DTLB_CAPACITY   0x03c   /* RO u32: most entries; the oldest makes room */

/* Counters: RO u64, cleared by reset (function-level reset too) */
#define PDT_CNT_ATS             0x100   /* translation requests sent */
#define PDT_CNT_ATS_FAILED      0x108   /* of them, without the wanted access */
#define PDT_CNT_DTLB_HIT        0x110   /* device TLB hits */
#define PDT_CNT_DTLB_INVAL      0x118   /* invalidations received */
#define PDT_CNT_DTLB_DROPPED    0x120   /* entries dropped by them */
#define PDT_CNT_PAGE_REQ        0x128   /* page requests sent */
#define PDT_CNT_GROUPS          0x130   /* page request groups sent */
#define PDT_CNT_RSP_SUCCESS     0x138   /* group responses: success */
#define PDT_CNT_RSP_INVALID     0x140   /* group responses: invalid request */
#define PDT_CNT_RSP_FAILURE     0x148   /* group responses: failure, and every code without a meaning */
#define PDT_CNT_RSP_STRAY       0x150   /* group responses that fit no group */
#define PDT_CNT_DONE            0x158   /* slots finished with PDT_STATUS_OK */
#define PDT_CNT_ERROR           0x160   /* slots finished with an error */
#define PDT_CNT_BYTES           0x168   /* bytes moved */
#define PDT_CNT_PRI_PEAK        0x170   /* most page requests outstanding at a time */
#define PDT_CNT_PRI_STALL       0x178   /* times that a slot waited for the allocation */
#define PDT_CNT_UNTRANSLATED    0x180   /* untranslated requests sent */
#define PDT_CNT_DTLB_EVICTED    0x188   /* entries dropped for want of room */
#define PDT_CNT_LAST            PDT_CNT_DTLB_EVICTED

/* The ring */
#define PDT_RING                0x1000
#define PDT_SLOTS               256
#define PDT_DESC_SIZE           64

/* Descriptor: offsets in a slot */
#define PDT_DESC_OP             0x00    /* u32: PDT_OP_* */
#define PDT_DESC_FLAGS          0x04    /* u32: PDT_FLAG_* */
#define PDT_DESC_PASID          0x08    /* u32: 20 bits; zero without PDT_FLAG_PASID */
#define PDT_DESC_LENGTH         0x0c    /* u32: bytes, 1..PDT_LENGTH_MAX; any for PDT_OP_NOP */
#define PDT_DESC_SRC            0x10    /* u64: source IOVA */
#define PDT_DESC_DST            0x18    /* u64: destination IOVA */
#define PDT_DESC_OPERAND        0x20    /* u64: fill pattern, addend, or buffer offset */
#define PDT_DESC_COMPLETION     0x28    /* u64: IOVA of the completion record */
#define PDT_DESC_TAG            0x30    /* u32: copied into the completion record */
#define PDT_DESC_STATUS         0x34    /* u32, written by the device: PDT_STATUS_* */
#define PDT_DESC_RESULT         0x38    /* u64, written by the device before the final STATUS */

#define PDT_LENGTH_MAX          0x1000000u

/* Operations */
#define PDT_OP_NOP              0
#define PDT_OP_READ             1  /* SRC -> buffer at OPERAND */
#define PDT_OP_WRITE            2  /* buffer at OPERAND -> DST */
#define PDT_OP_COPY             3  /* SRC -> DST */
#define PDT_OP_FILL             4  /* the 8 bytes of OPERAND, repeated -> DST */
#define PDT_OP_CHECKSUM         5  /* RESULT = FNV-1a, 64 bits, over SRC */
#define PDT_OP_FETCH_ADD        6  /* u64 at DST += OPERAND, RESULT = the old value; LENGTH 8, DST aligned.
                                      Atomic to the CPUs; only on RAM */

/* Flags */
#define PDT_FLAG_PASID          (1u << 0)  /* SRC and DST are of PASID */
#define PDT_FLAG_PRIV           (1u << 1)  /* privileged mode requested; with PDT_FLAG_PASID */
#define PDT_FLAG_EXEC           (1u << 2)  /* execute requested, on reads; with PDT_FLAG_PASID */
#define PDT_FLAG_NO_ATS         (1u << 3)  /* untranslated requests, past the device TLB */
#define PDT_FLAG_NO_PRI         (1u << 4)  /* do not ask for pages: a miss is an error */
#define PDT_FLAG_IRQ            (1u << 5)  /* MSI-X vector 0 when done */
#define PDT_FLAG_COMPLETION     (1u << 6)  /* write a completion record when done */
#define PDT_FLAG_COMPLETION_PASID (1u << 7) /* COMPLETION is of PASID too, else of the RID; with PDT_FLAG_PASID */

/* Status of a slot; PDT_STATUS_OK and above are final */
#define PDT_STATUS_IDLE         0
#define PDT_STATUS_QUEUED       1
#define PDT_STATUS_WAITING      2  /* for a page group response, or to be allowed to ask */
#define PDT_STATUS_OK           0x80
#define PDT_STATUS_BAD_DESC     0x81  /* malformed; RESULT: offset of the bad field */
#define PDT_STATUS_NO_ACCESS    0x82  /* not translated or not permitted, and pages not asked for; RESULT: IOVA */
#define PDT_STATUS_INVALID      0x83  /* the page request was answered INVALID; RESULT: IOVA */
#define PDT_STATUS_FAILURE      0x84  /* the page request was answered FAILURE, or could not be sent; RESULT: IOVA */
#define PDT_STATUS_ABORTED      0x85  /* by PDT_COMMAND_ABORT */
#define PDT_STATUS_BUS          0x86  /* the memory behind the translation does not answer, or is no RAM
                                         (PDT_OP_FETCH_ADD); RESULT: IOVA */
#define PDT_STATUS_RETRIES      0x87  /* still no access after PDT_RETRY_MAX successes; RESULT: IOVA */
#define PDT_STATUS_DISABLED     0x88  /* bus master, PASID, privileged or execute is not enabled; RESULT: IOVA */
#define PDT_STATUS_ATS_ERROR    0x89  /* the translation request was answered by an error (UR or CA); RESULT: IOVA */
/*
 * A page that is missing after its request was answered with success is asked for
 * again, after a rest of 1 ms that doubles up to 128 ms.
 */
#define PDT_RETRY_MAX           16

/*
 * Completion record, 16 bytes, 16-byte aligned; STATUS is written last. Where
 * the record itself cannot be written, a slot that was OK ends with that error,
 * RESULT then being the record's IOVA.
 */
#define PDT_CPL_TAG             0x0     /* u32 */
#define PDT_CPL_STATUS          0x4     /* u32: PDT_STATUS_* */
#define PDT_CPL_RESULT          0x8     /* u64 */

/* The buffer */
#define PDT_BUFFER              0x8000
#define PDT_BUFFER_SIZE         0x8000

#endif
