/* move.h - copies of segments that this node should hold and does not: it pulls them from the nodes that do.
 *
 * After a change of the view, and slowly all the time, a *scan* walks all manifests. A copy on a node that is gone, on one
 * that is being emptied, or not where placement puts it has one replacement, which every node computes alike; where that
 * is this node, a *job* reads the segment from a living replica, verifies every checksum, keeps it as committed, and only
 * then changes the manifest by compare-and-swap. What a manifest places here and is not here is pulled in the same way.
 *
 * The module has a fabric of its own and a body, lwd_move_round(), driven by one thread; changes to segments are tasks for
 * the shard's owner, questions to the catalogue go out through callbacks and come back through tell functions. All memory
 * but copies of the view is allocated by create. */
#ifndef LWD_MOVE_H
#define LWD_MOVE_H

#include "base/clock.h"
#include "fabric/fabric.h"
#include "storaged/catalogue/catalogue.h"
#include "storaged/shard/shard.h"
#include "storaged/shard/task.h"
#include "wire/placement.h"

#define LWD_MOVE_PAGE 64u           /* ranges of one question */
#define LWD_MOVE_IN_FLIGHT_MAX 16u  /* jobs that pull at once, at most */
#define LWD_MOVE_BYTES_S_MIN 1048576u

typedef struct lwd_move lwd_move_t;

/* Why a copy comes here; smaller is more urgent. */
typedef enum lwd_move_reason {
    LWD_MOVE_NONE,
    LWD_MOVE_MISSING,   /* a manifest has it here already */
    LWD_MOVE_REPAIR,    /* its node is gone */
    LWD_MOVE_DRAIN,     /* its node is being emptied */
    LWD_MOVE_REBALANCE, /* its node is not where placement puts it now */
} lwd_move_reason_t;

/* May change while it runs (lwd_move_set_limits). */
typedef struct lwd_move_limits {
    uint64_t bytes_s;         /* pulled, at most; a quarter of it while the data threads are busy or for rebalancing */
    uint64_t repair_after_us; /* a node may be gone for this long before its copies are replaced */
    uint64_t rebalance_after_us; /* the view must have been still for this long; UINT64_MAX: never */
    uint64_t scan_us;            /* between two scans when nothing has changed */
    uint32_t in_flight;          /* jobs that pull at once, 1 to LWD_MOVE_IN_FLIGHT_MAX */
} lwd_move_limits_t;

typedef struct lwd_move_params {
    const lw_fabric_ops_t *fabric;
    const char *transports; /* borrowed for create */
    uint64_t node_id, incarnation;
    lwd_shard_t *shard;
    lwd_stats_t *stats; /* a block of its own */
    lwd_move_limits_t limits;
    void *arg;
    /* Do the data threads serve requests now? NULL: never. */
    bool (*busy)(void *arg);
    /* Runs a task on the shard's owner thread; as lwd_worker_submit. */
    lw_status_t (*submit)(void *arg, lwd_task_t *task);
    /* Questions: they return at once. OK: exactly one tell follows (any thread, also from inside); else none. */
    lw_status_t (*placed)(void *arg, const lwd_placed_key_t *after, uint32_t capacity);
    lw_status_t (*move)(void *arg, uint64_t ticket, const lw_segment_name_t *name, uint16_t from, uint16_t to);
} lwd_move_params_t;

LW_CHECK lw_status_t lwd_move_create(const lwd_move_params_t *params, lwd_move_t **move_out, lw_error_t *error);
/* After its thread has ended, and after or before the owner's; no tell may follow. */
void lwd_move_destroy(lwd_move_t *move);

/* One pass: answers, the scan, jobs, fabric. Bounded; returns the number of things that happened. Own thread. */
unsigned lwd_move_round(lwd_move_t *move, uint64_t now_us);
/* Drives it on the calling thread until stopped. */
void lwd_move_run(lwd_move_t *move, const lw_clock_t *clock);
void lwd_move_stop(lwd_move_t *move); /* any thread */

/* ---- any thread ---- */
void lwd_move_set_limits(lwd_move_t *move, const lwd_move_limits_t *limits);
/* The view has changed; it is copied. Without memory for it the old one stays until the next. */
void lwd_move_set_view(lwd_move_t *move, const lw_view_t *view);
/* What other nodes believe: lwd_catalogue node_token. Until it is known nothing is pulled. */
void lwd_move_set_token(lwd_move_t *move, const uint8_t token[LW_TOKEN_BYTES]);
void lwd_move_tell_placed(lwd_move_t *move, lw_status_t status, const lwd_placed_t *rows, uint32_t count);
void lwd_move_tell_moved(lwd_move_t *move, uint64_t ticket, lw_status_t status);

typedef struct lwd_move_status {
    uint64_t scans;        /* that are over */
    uint32_t empty_scans;  /* in a row that found nothing placed here while this node was being emptied */
    uint64_t placed;       /* segments that manifests had on this node at the last scan */
    uint64_t degraded;     /* segments with a copy on a node that is gone */
    uint64_t lost;         /* segments without any copy on a living node */
    uint32_t jobs;         /* waiting or pulling */
    char error[200];       /* the last one; "" for none */
} lwd_move_status_t;
void lwd_move_status(lwd_move_t *move, lwd_move_status_t *status_out);

#endif /* LWD_MOVE_H */
