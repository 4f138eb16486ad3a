/* extent.h - carves contiguous extents out of a range of bytes, without touching the range itself.
 *
 * Two-level segregated fit over equal units: allocation and release take constant time (plus a short bounded
 * search when the range is nearly full), neighbours coalesce at once, and all bookkeeping was allocated at
 * creation. The daemon has three of these: the arena (64 KiB units), its bookkeeping area (256 B) and each
 * data thread's reply buffers (4 KiB).
 *
 * Not thread-safe: one thread owns an allocator. */
#ifndef LWD_MEM_EXTENT_H
#define LWD_MEM_EXTENT_H

#include <stdbool.h>

#include "base/base.h"

#define LWD_EXTENT_NONE UINT64_MAX
#define LWD_EXTENT_UNITS_MAX (1u << 30)

typedef struct lwd_extents lwd_extents_t;

typedef struct lwd_extents_usage {
    uint64_t bytes, used_bytes;  /* whole units */
    uint64_t largest_free_bytes; /* lower bound: the smallest size in the fullest non-empty class */
    uint64_t extent_count, free_run_count;
} lwd_extents_usage_t;

/* An allocator of `bytes` (rounded down to whole units; at least one) in units of `unit_bytes` (a power of
 * two). ERR_INVALID for sizes outside the bounds, ERR_NO_MEMORY. The caller owns and destroys it. */
LW_CHECK lw_status_t lwd_extents_create(uint64_t bytes, uint64_t unit_bytes, lwd_extents_t **extents_out);
void lwd_extents_destroy(lwd_extents_t *extents);

/* Offset of an extent of at least `bytes` > 0, unit-aligned; LWD_EXTENT_NONE when no free run is large
 * enough. */
uint64_t lwd_extents_alloc(lwd_extents_t *extents, uint64_t bytes);
/* Makes the extent at `offset` (a unit's first byte) live, as alloc would have given it. For extents of an earlier
 * life: in ascending order, and before the first alloc or free, this takes constant time. ERR_EXISTS: not all of it
 * is free; ERR_INVALID: it does not lie in the range. */
LW_CHECK lw_status_t lwd_extents_take(lwd_extents_t *extents, uint64_t offset, uint64_t bytes);
/* Gives an extent back; `offset` must come from alloc and be live (asserted). */
void lwd_extents_free(lwd_extents_t *extents, uint64_t offset);
/* Bytes that the live extent at `offset` occupies (whole units). */
uint64_t lwd_extents_bytes(const lwd_extents_t *extents, uint64_t offset);

void lwd_extents_usage(const lwd_extents_t *extents, lwd_extents_usage_t *usage_out);
/* Walks everything: tiling, tags, lists, bitmaps and counts agree. For tests and the simulator; linear time.
 */
bool lwd_extents_check(const lwd_extents_t *extents);

#endif /* LWD_MEM_EXTENT_H */
