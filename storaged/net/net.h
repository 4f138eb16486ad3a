/* net.h - the data plane of one thread: messages in, segments, messages out.
 *
 * A worker has a fabric with a listener, its connections with their attachments, and pools for what is in
 * flight; all of it is allocated by create. Its body is lwd_worker_round(): bounded work, never blocking;
 * lwd_loop_run() drives it in the daemon, the simulator calls it itself. The first worker owns the shard; the
 * others serve reads and landing writes on their own and hand it the changes. What only the catalogue knows
 * is asked through `ask` and told through tell().
 */
#ifndef LWD_NET_H
#define LWD_NET_H

#include "base/clock.h"
#include "fabric/fabric.h"
#include "storaged/shard/shard.h"
#include "storaged/shard/task.h"
#include "wire/msg.h"

#define LWD_ORIGINS_MAX 64u /* sessions that one session may read from: itself and its line of forks */
#define LWD_NEWS_MAX 1024u  /* endings waiting for a worker; answers have room of their own */
#define LWD_REQUESTS_PER_PEER_MAX 256u
#define LWD_HELLO_US 10000000u     /* from accept to HELLO; then the connection is closed */
#define LWD_HELLO_LOOK_US 250000u  /* between two looks for those that are late */
#define LWD_TASKS_MAX 256u      /* tasks of other threads waiting for the owner */
#define LWD_ROUND_NEWS_MAX 64u  /* news and changes handled in one round */
#define LWD_SPACE_ASK_US 50000u /* between two requests for room */
#define LWD_WAIT_US 500000u     /* a request waits this long for segments in the log */
#define LWD_REPLY_UNIT_BYTES 4096u
#define LWD_REPLY_BYTES_MIN (4u << 20)
#define LWD_REGION_BYTES_MAX (3584ull << 20) /* one registration: 3.5 GiB */

typedef struct lwd_worker lwd_worker_t;

/* What every worker of a node tells its peers. Written by the control side, read by workers; one for the
 * node. */
typedef struct lwd_node {
    uint64_t node_id, incarnation;
    _Atomic uint64_t fleet_id, epoch; /* 0: the catalogue was not reached yet */
    _Atomic bool writable, draining;
    _Atomic uint64_t node_token[2]; /* what other nodes show to read any segment; zeros: not known yet */
} lwd_node_t;

/* ---- questions ---- */
typedef enum lwd_ask_kind {
    LWD_ASK_CHECK = 1, /* may this session touch the data plane? */
    LWD_ASK_SPACE,     /* make room: bytes; no answer but the endings that follow */
    LWD_ASK_ORPHANS,   /* which of these names are dead? */
} lwd_ask_kind_t;
typedef struct lwd_ask {
    lwd_ask_kind_t kind;
    uint32_t worker; /* who asks */
    uint64_t ticket; /* comes back with the answer */
    uint64_t session_id;
    uint8_t token[LW_TOKEN_BYTES];
    bool write;
    uint32_t term;
    uint64_t bytes;
    const lw_segment_name_t *names; /* borrowed for the call */
    uint32_t name_count;            /* <= LWD_SUSPECTS_MAX */
} lwd_ask_t;
/* Called from round(), so it must not block. OK: CHECK and ORPHANS are answered by exactly one tell (from any
 * thread, also from inside this call); otherwise nothing follows. */
typedef lw_status_t (*lwd_ask_fn)(void *arg, const lwd_ask_t *ask);

/* ---- answers and news ---- */
typedef enum lwd_news_kind { LWD_NEWS_CHECKED = 1, LWD_NEWS_ORPHANS, LWD_NEWS_ENDED } lwd_news_kind_t;
typedef struct lwd_news {
    lwd_news_kind_t kind;
    lw_status_t status;
    uint64_t ticket;
    union {
        struct {
            uint32_t count;
            uint32_t cuts[LWD_ORIGINS_MAX]; /* only segments that begin below */
            uint64_t origins[LWD_ORIGINS_MAX];
        } checked;
        struct {
            uint32_t count;
            bool dead[LWD_SUSPECTS_MAX];
        } orphans;
        struct {
            uint64_t origin;
            uint32_t from_token, generation_max;
            uint16_t rank; /* UINT16_MAX: all */
        } ended;
    };
} lwd_news_t;

typedef struct lwd_worker_params {
    const lw_fabric_ops_t *fabric;
    const char *transports, *listen; /* as the fabric takes them; borrowed for create */
    uint32_t index;                  /* 0 owns the shard */
    lwd_worker_t *owner;             /* worker 0; NULL for worker 0 itself */
    lwd_shard_t *shard;
    lwd_guards_t *guards;
    lwd_node_t *node;
    lwd_stats_t *stats;      /* of this worker */
    const lw_clock_t *clock; /* for histograms */
    uint8_t *arena;          /* registered with the fabric */
    uint64_t arena_bytes;
    uint64_t reply_bytes; /* pool of reply and landing buffers, at least LWD_REPLY_BYTES_MIN */
    uint32_t connection_max, request_max;
    uint32_t attachment_max, attachments_per_connection_max;
    uint32_t change_max; /* requests of all other workers together (worker 0) */
    lwd_ask_fn ask;
    void *ask_arg;
    /* Worker 0, once a round, between two messages: something else that lives on the owner's thread. Bounded, never
     * blocking; returns the number of things that happened. NULL: nothing. */
    unsigned (*duty)(void *arg, uint64_t now_us);
    void *duty_arg;
} lwd_worker_params_t;

/* Opens the fabric, listens, registers. Errors name what failed. */
LW_CHECK lw_status_t lwd_worker_create(const lwd_worker_params_t *params, lwd_worker_t **worker_out,
                                       lw_error_t *error);
/* Closes connections without ceremony. Workers are destroyed in any order after all their threads have ended.
 */
void lwd_worker_destroy(lwd_worker_t *worker);
/* The data address with its real port. Valid while the worker lives. */
const char *lwd_worker_address(const lwd_worker_t *worker);

/* One pass: news, changes, fabric, shard (the owner). Returns the number of things that happened. Own thread.
 */
unsigned lwd_worker_round(lwd_worker_t *worker, uint64_t now_us);
/* Any thread. An answer always finds room. An ending goes to worker 0; ERR_BUSY: too many wait; tell again
 * later. */
LW_CHECK lw_status_t lwd_worker_tell(lwd_worker_t *worker, const lwd_news_t *news);
/* Any thread: the duty has something to do. */
void lwd_worker_nudge(lwd_worker_t *worker);
/* Any thread: runs a task on the owner's thread (worker 0). OK: it will run, unless the worker is destroyed first;
 * ERR_BUSY: too many wait. */
LW_CHECK lw_status_t lwd_worker_submit(lwd_worker_t *owner, lwd_task_t *task);
/* Any thread: stop once nothing is in flight, at the latest at the deadline; round() goes on until stopped().
 */
void lwd_worker_stop(lwd_worker_t *worker, uint64_t deadline_us);
bool lwd_worker_stopped(const lwd_worker_t *worker);
/* Tables and pools agree. For tests and the simulator, between rounds. */
bool lwd_worker_check(const lwd_worker_t *worker);
/* Requests not answered yet, and reply buffers in use; both 0 when idle. */
uint32_t lwd_worker_in_flight(const lwd_worker_t *worker);

/* loop.c: drives one worker on the calling thread until it has stopped. spin_us may change while it runs. */
void lwd_loop_run(lwd_worker_t *worker, const lw_clock_t *clock, const _Atomic uint64_t *spin_us);

#endif /* LWD_NET_H */
