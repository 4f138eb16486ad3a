/* restore.h - at start: what the arena of an earlier life still holds, verified, goes back into the shard. */
#ifndef LWD_KEEP_RESTORE_H
#define LWD_KEEP_RESTORE_H

#include "storaged/shard/shard.h"
#include "storaged/tier/tier.h"

#define LWD_RESTORE_THREADS_MAX 64u

typedef struct lwd_restored {
    uint64_t segments, bytes; /* taken back; the catalogue is still to be asked about them */
    uint64_t dropped;         /* torn rows, wrong checksums, overlapping extents, no slot */
} lwd_restored_t;

/* Reads every row of the shard's journal, verifies its segment (structure, name, every checksum) on `threads`
 * threads (0: one for each allowed CPU), and restores the good ones; the rows of the others are cleared, with a log
 * line each (the first few) and a sum. Main thread, before the shard's first round. ERR_NO_MEMORY. */
LW_CHECK lw_status_t lwd_restore_arena(lwd_shard_t *shard, lwd_journal_t *journal, const uint8_t *arena,
                                       uint32_t threads, lwd_restored_t *restored_out, lw_error_t *error);

/* Restores every record of the log, after the arena; what the shard has no place for is forgotten. They are verified when
 * they are loaded. Main thread, before the shard's first round. */
void lwd_restore_log(lwd_shard_t *shard, lwd_tier_t *tier, uint32_t record_max, lwd_restored_t *restored_out);

#endif /* LWD_KEEP_RESTORE_H */
