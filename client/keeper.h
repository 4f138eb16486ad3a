/* keeper.h - the handle's background: seals ranges, ships their segments, commits them, renews leases,
 * refreshes the view.
 *
 * Two threads meet here. The caller's thread submits tasks (one at a time for each session) and takes
 * results; the keeper's thread does the rest in lwc_keeper_round, which the simulator may call itself. They
 * share a single-producer ring of tasks, a state word for each job, a mailbox for views, and the fault of
 * each session; no lock.
 *
 *   job:  FREE --keeper takes a task--> BUSY --committed or failed--> DONE --caller publishes it--> TAKEN
 *         --the device has read what is pinned in it--> FREE
 *
 * A session's `keep` belongs to the keeper from the first task to the end of the last one, except for its
 * atomics. */
#ifndef LWC_KEEPER_H
#define LWC_KEEPER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "client/control/control.h"
#include "base/stat.h"
#include "client/reread.h"
#include "client/seal.h"
#include "client/store/store.h"

struct lw;
struct lw_session;
typedef struct lwc_keeper lwc_keeper_t;

typedef enum lwc_task_kind { LWC_TASK_RANGE = 1, LWC_TASK_RAW } lwc_task_kind_t;

typedef struct lwc_task {
    struct lw_session *session;
    uint32_t kind; /* lwc_task_kind_t */
    uint32_t row;  /* RANGE: of the directory, held for the task */
    uint32_t first_token, token_count;
} lwc_task_t;

typedef enum lwc_job_state { LWC_JOB_FREE, LWC_JOB_BUSY, LWC_JOB_DONE, LWC_JOB_TAKEN } lwc_job_state_t;

/* A task at work and its result. LWC_JOBS exist. */
typedef struct lwc_job {
    _Atomic uint32_t state; /* lwc_job_state_t */
    lwc_task_t task;
    lw_status_t status;     /* OK: committed */
    lw_segment_name_t name; /* of layer 0 */
    bool has_moments;
    uint32_t replicas, entry_slots;
    uint64_t stored_bytes, index_bytes, clusters, outliers;
    lwk_tile_t *tiles;       /* pinned, [layer][head] */
    uint8_t *moments;        /* pinned, [layer][head] */
    uint16_t *node_index;    /* [layer][LW_REPLICAS_MAX] */
    lwc_run_t *runs;         /* [layer] of the index arena */
    lwc_run_t *local;        /* [layer] of local memory, local mode only */
    uint64_t *segment_bytes; /* [layer] */
    double *sums;            /* [layer][head][sums_count]: the range's own */
    lwk_event_t *published;  /* behind the publish op that reads tiles and moments */
} lwc_job_t;

#define LWC_JOBS 2u

/* The keeper's part of a session. */
typedef struct lwc_keep {
    lwc_session_info_t info;  /* with the current term */
    uint32_t registered_term; /* in the keeper's store; 0: not registered */
    uint32_t raw_term;        /* of the raw tail at the manifest's end; 0: none of this handle's making */
    bool moments_stored;
    uint64_t moments_tokens;  /* that came since moments were last stored */
    lwk_event_t *cut;         /* behind the newest token of the task on the caller's stream */
    double *sums;             /* [layer][head][sums_count] of committed ranges */
    _Atomic uint32_t abandon; /* the caller closes the session: drop its work */
    _Atomic int32_t fault;    /* lw_status_t: sticky; stored with release after the text */
    char fault_text[240];
} lwc_keep_t;

typedef struct lwc_keeper_stats {
    lw_counter_t bytes_shipped, segments_shipped, ranges_committed, ship_retries;
} lwc_keeper_stats_t;

/* A segment on its way. */
typedef struct lwc_parcel {
    bool used, flying;
    uint8_t *extent; /* pinned, sizes.extent_bytes */
    uint64_t bytes, deadline_us, retry_at_us, backoff_us;
    uint32_t layer;
    lw_status_t landed; /* of the last attempt; LW_INPROGRESS while flying */
    lw_error_t cause;   /* the most telling failure so far: a deadline is told only where there is no other */
    lwc_keeper_t *keeper;
} lwc_parcel_t;

typedef enum lwc_stage {
    LWC_STAGE_NONE,
    LWC_STAGE_BEGIN,
    LWC_STAGE_BUILD,
    LWC_STAGE_DRAIN,
    LWC_STAGE_COMMIT
} lwc_stage_t;

struct lwc_keeper {
    struct lw *kv;
    lwc_store_t *store; /* NULL: local mode */
    lwc_seal_t seal;
    lwc_job_t jobs[LWC_JOBS];
    uint32_t job_next;     /* jobs are taken, finish and are published in this order */
    uint32_t result_next;  /* caller's: the job whose result comes next */
    uint32_t return_next;  /* caller's: the job that is given back next */
    lwc_parcel_t *parcels; /* [parcel_count] */
    uint32_t parcel_count;
    uint8_t *landing; /* of its store: unused by puts, but a store wants one */

    /* the running job */
    lwc_job_t *job;
    lwc_range_t range; /* for its commit */
    double *total;     /* [heads][sums_count]: the session's sums with this range's */
    lwc_stage_t stage;
    uint32_t layer;
    bool built; /* this layer is clustered and waits for index memory */
    lwc_tile_source_t heads[LW_KV_HEADS_MAX];
    uint64_t stage_deadline_us, retry_at_us, backoff_us;
    lw_error_t error;

    uint64_t renew_at_us, renewed_us, view_at_us, view_backoff_us;
    lwc_keeper_stats_t stats;

    /* caller -> keeper */
    lwc_task_t *tasks; /* ring of task_capacity, a power of two */
    uint32_t task_capacity;
    _Atomic uint32_t task_head, task_tail; /* submitted by the caller; taken by the keeper */
    /* keeper -> caller: a view that differs from the one before, owned by whoever takes it */
    _Atomic(lw_view_t *) view_mail;
    uint64_t view_hash; /* of the last view that was handed over */

    bool threaded;
    pthread_t thread;
    _Atomic bool stop;
};

LW_CHECK lw_status_t lwc_keeper_init(lwc_keeper_t *keeper, struct lw *kv, lw_error_t *error);
/* Stops the thread and frees everything; sessions are closed by then. */
void lwc_keeper_fini(lwc_keeper_t *keeper);
LW_CHECK lw_status_t lwc_keeper_start(lwc_keeper_t *keeper, lw_error_t *error);

/* One pass of bounded work (one op over one layer, or one control call, is the bound). Returns what happened.
 */
unsigned lwc_keeper_round(lwc_keeper_t *keeper, uint64_t now_us);

/* ---- the caller's side ---- */
void lwc_keeper_submit(lwc_keeper_t *keeper, const lwc_task_t *task);
/* The oldest finished job that was not taken, NULL: none. Take it before asking for the next. */
lwc_job_t *lwc_keeper_result(lwc_keeper_t *keeper);
void lwc_keeper_take(lwc_keeper_t *keeper, lwc_job_t *job);
/* Gives back the jobs that were taken and whose `published` event has passed. */
void lwc_keeper_return(lwc_keeper_t *keeper);
/* A view that differs from the last one taken, or NULL; free it with lwc_view_mail_free. */
lw_view_t *lwc_keeper_take_view(lwc_keeper_t *keeper);
void lwc_view_mail_free(lw_view_t *view);

/* ---- ship.c: the keeper's thread ---- */
unsigned lwc_job_advance(lwc_keeper_t *keeper, uint64_t now_us);
void lwc_keep_fail(lwc_keep_t *keep, lw_status_t status, const char *text);

#endif /* LWC_KEEPER_H */
