/* local.h - local mode: stored segments lie in this host's pinned memory instead of in a fleet. An in-process node.
 *
 * lw_open with fleet "local". A range's segments are written by the keeper straight into runs of one pinned memory, and
 * select answers its own misses from there (lwk_tile_t.local): no store, no network, no progress thread. Sessions live as
 * long as the handle has them open. The memory is the one that tickets call landing memory: the ops know one base.
 *
 * Runs are taken by the keeper, belong to the job, then to the directory's row, and go back with it. */
#ifndef LWC_LOCAL_H
#define LWC_LOCAL_H

#include "client/arena.h"
#include "client/control/control.h"

struct lw;

typedef struct lwc_local {
    bool on;
    lwc_arena_t arena; /* over the pinned memory */
    lwc_run_t *runs;   /* [row][layer]: the directory's; the caller's thread */
} lwc_local_t;

LW_CHECK lw_status_t lwc_local_init(struct lw *kv, lw_error_t *error);
void lwc_local_fini(struct lw *kv);
/* Memory for one segment. ERR_EXHAUSTED with words when there is none now. Either thread. */
LW_CHECK lw_status_t lwc_local_take(struct lw *kv, uint64_t bytes, lwc_run_t *run_out, lw_error_t *error);
void lwc_local_give(struct lw *kv, lwc_run_t run); /* an empty run is fine */
/* The segment of a row and layer. */
const uint8_t *lwc_local_segment(const struct lw *kv, uint32_t row, uint32_t layer);

/* Sessions of this process: ids, forks, ranges by their ends. What a fleet would do for others is refused by name. */
LW_CHECK lw_status_t lwc_control_local(const char *tenant, lwc_control_t **control_out, lw_error_t *error);

#endif /* LWC_LOCAL_H */
