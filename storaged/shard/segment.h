/* segment.h - a segment's slot: what any data thread may read of it, and what only its owner may.
 *
 * A slot is found by a reference (slot number and generation). The word is the one thing that is published: a
 * reader loads it with acquire, compares generation and state, and may then use the first cache line until
 * its next quiet point (guard.h); to use it for longer it borrows. */
#ifndef LWD_SHARD_SEGMENT_H
#define LWD_SHARD_SEGMENT_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "storaged/shard/segment_state.h"
#include "wire/segment_name.h"

#define LWD_SLOT_NONE UINT32_MAX
#define LWD_LOG_NONE UINT32_MAX   /* no record in the log */
#define LWD_HEAT_SHIFT 13u        /* heat counts 8 ms */

typedef struct lwd_ref {
    uint32_t slot, generation;
} lwd_ref_t;

/* One record in the table of its head: where it lies, and the checksum that goes out with it. */
typedef struct lwd_record {
    uint32_t offset; /* from the segment's start */
    uint32_t check;
} lwd_record_t;

typedef struct lwd_head {
    uint32_t entry_count; /* clusters, then outliers */
    uint32_t first; /* in the segment's record table; entry_count + 1 records, the last one is the end */
} lwd_head_t;

/* One for each segment that the node can hold (store.segments). */
typedef struct lwd_segment {
    /* any thread, after the word */
    alignas(64) _Atomic uint64_t word; /* generation << 8 | state */
    _Atomic uint32_t borrows;          /* transfers that use the extent */
    uint32_t head_count;
    uint8_t *extent;
    uint64_t bytes;          /* of the segment; the extent is rounded up */
    const lwd_head_t *heads; /* [head_count], in the bookkeeping area */
    const lwd_record_t *records;
    _Atomic uint32_t heat; /* when it was last fetched, LWD_HEAT_SHIFT */
    /* owner only */
    alignas(64) lw_segment_name_t name;
    uint64_t name_hash;
    uint64_t extent_offset, book_offset; /* LWD_EXTENT_NONE: not in memory; no tables */
    uint64_t client_id, incarnation;     /* the writer */
    uint64_t ask_us;                     /* when the catalogue may be asked about it next; 0: not set yet */
    uint64_t retired;                    /* dying: epoch of the guards */
    uint64_t written_us;                 /* when it became readable */
    uint64_t seen;        /* the last scan of the manifests that found this copy placed here; 0: none */
    uint64_t unplaced_us; /* when a scan was first over without finding it; 0: not so */
    uint32_t origin;                     /* in the table of origins */
    uint32_t origin_next, origin_prev;   /* segments of one origin */
    uint32_t list_next, list_prev;       /* of the list that its state is in */
    bool held;  /* a move works on it: no lease, term or verdict takes it away, an ending does */
    uint32_t asked; /* number of the question that awaits the catalogue's verdict on it; 0: none */
    bool writing;        /* written: on its way to the log */
    bool stays;          /* it can never be in the log */
    bool wanted;         /* spilled: somebody waits for it */
    uint32_t log_record; /* LWD_LOG_NONE: not in the log */
    uint64_t fleet_id;   /* restored: the fleet whose sessions it knew */
} lwd_segment_t;

static inline uint64_t lwd_segment_word(uint32_t generation, lwd_segment_state_t state)
{
    return (uint64_t)generation << 8 | (uint64_t)state;
}
static inline lwd_segment_state_t lwd_segment_state(const lwd_segment_t *segment)
{
    return (lwd_segment_state_t)(atomic_load_explicit(&segment->word, memory_order_acquire) & 0xff);
}
static inline uint32_t lwd_segment_generation(const lwd_segment_t *segment)
{
    return (uint32_t)(atomic_load_explicit(&segment->word, memory_order_acquire) >> 8);
}
/* Any thread that serves from it. */
static inline void lwd_segment_touch(lwd_segment_t *segment, uint64_t now_us)
{
    uint32_t heat = (uint32_t)(now_us >> LWD_HEAT_SHIFT);
    if (atomic_load_explicit(&segment->heat, memory_order_relaxed) != heat)
        atomic_store_explicit(&segment->heat, heat, memory_order_relaxed);
}
/* Any thread, while it may use the segment. The memory stays until as many releases. */
static inline void lwd_segment_borrow(lwd_segment_t *segment)
{
    (void)atomic_fetch_add_explicit(&segment->borrows, 1, memory_order_seq_cst);
}
static inline void lwd_segment_release(lwd_segment_t *segment)
{
    uint32_t before = atomic_fetch_sub_explicit(&segment->borrows, 1, memory_order_seq_cst);
    LW_ASSERT(before > 0);
}

#endif /* LWD_SHARD_SEGMENT_H */
