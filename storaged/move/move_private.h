/* move_private.h - what the files of this folder share: links, requests, jobs, the scan. */
#ifndef LWD_MOVE_PRIVATE_H
#define LWD_MOVE_PRIVATE_H

#include <pthread.h>
#include <stdalign.h>

#include "storaged/move/plan.h"
#include "wire/msg.h"
#include "wire/segment_fmt.h"

#define MOVE_JOBS_MAX 192u      /* waiting and pulling; when they are many the scan waits */
#define MOVE_LINKS_MAX 32u      /* connections to sources */
#define MOVE_REQUESTS_MAX 128u  /* in flight to all sources */
#define MOVE_CHUNK_BYTES (1u << 20)
#define MOVE_WINDOW 4u          /* chunks in flight of one job */
#define MOVE_MARKS_MAX 64u      /* names of one task of the scan */
#define MOVE_SCAN_STEP 1024u    /* segments that one round looks at */
#define MOVE_SILENT_US 3000000u /* a source that owes an answer for this long is left */
#define MOVE_IDLE_US 2000000u   /* a link without jobs is closed after this */
#define MOVE_ATTACHED_MAX 4096u /* handles that one connection takes up at its source */
#define MOVE_SETTLE_US 50000u   /* from a new view to the scan */
#define MOVE_AGAIN_US 200000u   /* from the end of a scan's jobs to the next one */
#define MOVE_BUSY_US 10000u     /* after a source had no room for a reply */
#define MOVE_RETRY_US 1000000u  /* after something failed */
#define MOVE_CHANGES_MAX 8u     /* times that a manifest's change is asked for while the catalogue is away */

typedef struct move_job move_job_t;

typedef enum move_link_state {
    MOVE_LINK_FREE,
    MOVE_LINK_GREETING, /* HELLO is on its way */
    MOVE_LINK_READY,
    MOVE_LINK_CLOSING,
    MOVE_LINK_WAITING, /* failed: not before retry_us */
} move_link_state_t;

typedef struct move_link { /* to one source */
    lwd_move_t *move;
    move_link_state_t state;
    uint16_t node;
    lw_conn_t *conn;
    uint64_t heard_us, used_us, retry_us;
    uint32_t requests, attached;
} move_link_t;

typedef enum move_request_kind {
    MOVE_REQUEST_FREE,
    MOVE_REQUEST_HELLO,
    MOVE_REQUEST_ATTACH,
    MOVE_REQUEST_SIZE,
    MOVE_REQUEST_CHUNK,
    MOVE_REQUEST_DOUBT,
} move_request_kind_t;

typedef struct move_request {
    lwd_move_t *move;
    move_request_kind_t kind;
    uint32_t turn; /* with the index the id on the wire */
    bool lands;    /* its reply came, the payload is on its way */
    move_link_t *link;
    move_job_t *job; /* NULL: HELLO, DOUBT */
    uint64_t offset, bytes;
    lw_msg_t reply; /* while its payload lands */
    alignas(64) uint8_t landing[256]; /* lists, and the segment's header */
} move_request_t;

typedef enum move_job_state {
    MOVE_JOB_FREE,
    MOVE_JOB_QUEUED,
    MOVE_JOB_LINKING,   /* waits for the connection to its source */
    MOVE_JOB_ATTACHING,
    MOVE_JOB_SIZING,    /* reads the header, whose reply says how large the segment is */
    MOVE_JOB_ROOM,      /* task */
    MOVE_JOB_READING,
    MOVE_JOB_BEGINNING, /* task: commit_begin */
    MOVE_JOB_ENDING,    /* task: commit_end */
    MOVE_JOB_CHANGING,  /* the catalogue was asked */
    MOVE_JOB_PAUSING,   /* the catalogue was away: asks again */
    MOVE_JOB_LEAVING,   /* task: pulled */
} move_job_state_t;

struct move_job {
    lwd_task_t task; /* first: run() gets it */
    lwd_move_t *move;
    move_job_state_t state;
    lwd_move_reason_t reason;
    lw_segment_name_t name;
    uint16_t from;
    uint16_t sources[LW_REPLICAS_MAX];
    uint32_t source_count, source; /* source: the one in use */
    move_link_t *link; /* while it is connected and of use: NULL once that has ended */
    uint64_t handle, bytes, asked; /* of the segment's bytes: asked for up to here, but for those to ask again */
    uint64_t again[MOVE_WINDOW];   /* chunks that the source had no room for: their offsets */
    uint32_t again_count;
    uint32_t requests;
    bool failed;         /* the source will not do; what is in flight is awaited */
    bool running;        /* its task is with the owner */
    bool written;        /* it was, when the commit began */
    bool placed;         /* a manifest has the copy here: keep it */
    bool answered;       /* by the catalogue, with `answer`; both under the module's lock */
    lw_status_t answer;
    uint32_t turn;       /* with the index the ticket of a question */
    uint32_t changes;
    lwd_ref_t ref;
    bool held;
    lw_status_t status;  /* of the task, of the answer, or why the source failed */
    uint64_t again_us, serial;
};

typedef enum move_scan_state {
    MOVE_SCAN_IDLE,
    MOVE_SCAN_ASKING,  /* for a page */
    MOVE_SCAN_ROWS,
    MOVE_SCAN_MARKING, /* task: which of these are here? */
    MOVE_SCAN_ENDING,  /* task: the scan is over */
} move_scan_state_t;

typedef struct move_scan {
    lwd_task_t task; /* first */
    move_scan_state_t state;
    bool running, rebalance, last_page;
    bool retries; /* some job of the last one failed */
    uint64_t number, began_us, next_us;
    lwd_placed_t rows[LWD_MOVE_PAGE];
    uint32_t row_count, row, layer;
    lwd_placed_key_t key;
    uint64_t placed, degraded, lost;
    uint32_t found, failed; /* jobs made; not made or failed since */
    uint32_t mark_count;
    lw_segment_name_t marks[MOVE_MARKS_MAX];
    uint16_t mark_nodes[MOVE_MARKS_MAX][LW_REPLICAS_MAX];
    uint32_t mark_replicas[MOVE_MARKS_MAX];
    bool have[MOVE_MARKS_MAX];
} move_scan_t;

struct lwd_move {
    lwd_move_params_t params;
    lw_fabric_t *fabric;
    uint64_t now_us;
    /* The thread alone. */
    lwd_plan_t plan;
    lw_node_t *nodes; /* of the view as it is; plan.view has the plan's own copy */
    uint64_t gone_us[LW_NODES_MAX], changed_us, judged_us;
    move_link_t links[MOVE_LINKS_MAX];
    move_request_t requests[MOVE_REQUESTS_MAX];
    move_job_t jobs[MOVE_JOBS_MAX];
    uint32_t job_count, active;
    uint64_t job_serial;
    move_scan_t scan;
    int64_t allowance; /* bytes that may be asked for; below zero: later */
    uint64_t filled_us;
    uint64_t retry_us; /* from failed jobs to the next scan; grows while they fail */
    lwd_move_limits_t limits;
    uint8_t token[LW_TOKEN_BYTES];
    bool token_known;
    /* Under the lock. */
    pthread_mutex_t lock;
    lw_view_t next_view; /* node_count 0: none */
    bool view_waits, limits_wait, token_waits;
    lwd_move_limits_t next_limits;
    uint8_t next_token[LW_TOKEN_BYTES];
    bool page_waits;
    lw_status_t page_status;
    uint32_t page_count;
    lwd_placed_t page[LWD_MOVE_PAGE];
    lwd_move_status_t status;
    _Atomic bool stopping;
};

/* move.c */
/* Notes the last error and logs it, at most once a second. */
void lwd_move_failed(lwd_move_t *move, const char *format, ...) LW_PRINTF(2, 3);
void lwd_move_judge(lwd_move_t *move); /* plan.c's states, from the view and the time */

/* scan.c */
unsigned lwd_scan_step(lwd_move_t *move);

/* pull.c */
/* A job for it, unless there is one; false: the table is full. */
bool lwd_job_add(lwd_move_t *move, lwd_move_reason_t reason, const lw_segment_name_t *name, uint16_t from,
                 const uint16_t *sources, uint32_t source_count);
unsigned lwd_jobs_step(lwd_move_t *move);
/* What links tell jobs. */
void lwd_job_attached(move_job_t *job, lw_status_t status, uint64_t handle);
void lwd_job_sized(move_job_t *job, lw_status_t status, uint64_t bytes);
void lwd_job_chunk(move_job_t *job, lw_status_t status, uint64_t offset, uint64_t bytes);
/* Does a job read through this link, or will it go on doing so? */
bool lwd_jobs_use(const move_link_t *link);
/* The link's connection has ended: its jobs must not use it again, nor their handles. */
void lwd_jobs_unlink(const move_link_t *link);

/* link.c */
void lwd_links_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg);
void lwd_links_closed(void *arg, lw_conn_t *conn, lw_status_t status);
void lwd_links_accept(void *arg, lw_conn_t *conn);
/* The link to a node once it is READY; NULL: not yet, or *failed_out: it cannot be had. Starts it where needed. */
move_link_t *lwd_link_get(lwd_move_t *move, uint16_t node, bool *failed_out);
/* These return false when no request is free or the link is being closed; the answer comes through lwd_job_*. */
bool lwd_link_attach(move_link_t *link, move_job_t *job);
bool lwd_link_size(move_link_t *link, move_job_t *job);
bool lwd_link_chunk(move_link_t *link, move_job_t *job, uint64_t offset, uint64_t bytes);
/* Tells a source that what came from it was wrong; what it finds is its own business. Nothing when link is NULL. */
void lwd_link_doubt(move_link_t *link, uint64_t handle, uint64_t bytes);
unsigned lwd_links_step(lwd_move_t *move); /* silent and idle ones */

#endif /* LWD_MOVE_PRIVATE_H */
