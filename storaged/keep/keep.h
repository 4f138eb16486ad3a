/* keep.h - joins the shard and the log on disk: cold segments go out, wanted ones come back.
 *
 * Called by the thread that owns the shard; nothing here waits for the disk. */
#ifndef LWD_KEEP_H
#define LWD_KEEP_H

#include "base/clock.h"
#include "storaged/shard/shard.h"
#include "storaged/tier/tier.h"

#define LWD_KEEP_LOADS_MAX LWD_TIER_LOADS_MAX
#define LWD_KEEP_LOOK_US 100000u  /* between two looks at the log's figures, and whether it has room again */
#define LWD_KEEP_PAUSE_US 1000000u /* without a write after the disk has failed */

typedef struct lwd_keep lwd_keep_t;

typedef struct lwd_keep_params {
    lwd_shard_t *shard; /* both borrowed */
    lwd_tier_t *tier;
    lwd_stats_t *stats; /* of the owner's thread */
} lwd_keep_params_t;

/* Tells the shard that there is a log. Before the shard's first round. */
LW_CHECK lw_status_t lwd_keep_create(const lwd_keep_params_t *params, lwd_keep_t **keep_out);
void lwd_keep_destroy(lwd_keep_t *keep); /* after the shard, and when the tier is idle or closed */
/* One pass: takes what the disk has finished, begins what is due. Returns the number of things that happened. */
unsigned lwd_keep_round(lwd_keep_t *keep, uint64_t now_us);
/* Before an orderly end, instead of round: writes what is in memory only. True: nothing is left to be written. */
bool lwd_keep_flush(lwd_keep_t *keep, uint64_t now_us);

#endif /* LWD_KEEP_H */
