/* server_private.h - the daemon's parts, shared by server.c (building and ending) and server_ctl.c (the
 * control side). */
#ifndef LWD_SERVER_PRIVATE_H
#define LWD_SERVER_PRIVATE_H

#include <pthread.h>

#include "storaged/ctl/ctl.h"
#include "storaged/io/io.h"
#include "storaged/keep/keep.h"
#include "storaged/mem/arena_file.h"
#include "storaged/mem/extent.h"
#include "storaged/move/move.h"
#include "storaged/net/net.h"
#include "storaged/server.h"

typedef struct lwd_server_ask {
    lwd_server_t *server;
    uint32_t worker;
    uint64_t ticket;
} lwd_server_ask_t;

typedef struct lwd_server_change { /* a question of the mover; it has no more than this many at once */
    struct lwd_server *server;
    uint64_t ticket;
    _Atomic bool used; /* the mover's thread sets, the agent's clears */
} lwd_server_change_t;

typedef enum lwd_server_phase {
    LWD_SERVER_STARTING,
    LWD_SERVER_READY,
    LWD_SERVER_DRAINING, /* SIGTERM came; others copy what is placed here */
    LWD_SERVER_STOPPING
} lwd_server_phase_t;

struct lwd_server {
    lwd_server_params_t params;
    lwd_options_t options;
    lwd_choices_t choices;
    pthread_mutex_t options_lock; /* options, between SIGHUP and the status page */
    lwd_server_phase_t phase;
    bool owner_told; /* to stop, after the other workers */
    uint64_t stop_at_us;
    lwd_arena_t arena;
    lwd_arena_file_t arena_file; /* head NULL: the arena has none */
    lwd_journal_t journal;       /* in the file's head */
    lwd_tier_t *tier;            /* NULL: no log on disk */
    lwd_keep_t *keep;
    lwd_extents_t *extents, *book_extents;
    lwd_guards_t *guards;
    lwd_shard_t *shard;
    lwd_node_t node;
    lwd_stats_t *stats; /* [threads] */
    uint32_t thread_count, threads_started;
    lwd_worker_t *workers[LWD_THREADS_MAX];
    const char *data_address[LWD_THREADS_MAX];
    char data_listen[LWD_THREADS_MAX][LW_ADDRESS_MAX];
    pthread_t threads[LWD_THREADS_MAX];
    _Atomic uint64_t spin_us;
    _Atomic bool stopping;
    lwd_ctl_t *ctl;
    char *pem[3];           /* ca, cert, key */
    lwd_server_ask_t *asks; /* one for each request of each worker: a request asks one question at a time */
    lwd_server_ask_t orphans_ask;
    lwd_move_t *move; /* NULL until the node's id is known */
    lwd_stats_t *move_stats;
    pthread_t move_thread;
    bool move_started;
    _Atomic(lwd_move_t *) move_told; /* the same, for the agent's thread */
    uint64_t requests_seen;
    _Atomic uint64_t busy_until_us; /* the node counts as serving until then */
    uint8_t node_token[LW_TOKEN_BYTES]; /* zeros: not known yet */
    lwd_server_change_t changes[2 * LWD_MOVE_IN_FLIGHT_MAX];
    uint64_t drain_until_us; /* DRAINING */
    lwd_io_t *io;
};

/* server_keep.c */
/* The arena, in its file if it has one, with a journal that can be read. */
LW_CHECK lw_status_t lwd_server_arena(lwd_server_t *server, const lwd_arena_params_t *params, lw_error_t *error);
/* What an earlier life left, into the new shard. */
LW_CHECK lw_status_t lwd_server_restore(lwd_server_t *server, lw_error_t *error);
unsigned lwd_server_duty(void *arg, uint64_t now_us); /* the owner's thread: the log's traffic */
/* All data threads have ended: writes to the log what is in memory alone. */
void lwd_server_flush(lwd_server_t *server);
void lwd_server_tier_close(lwd_server_t *server);
void lwd_server_keep_fini(lwd_server_t *server);

/* server_ctl.c */
LW_CHECK lw_status_t lwd_server_ctl_start(lwd_server_t *server, lw_error_t *error);
void lwd_server_ctl_stop(lwd_server_t *server);
/* Copies what the control side knows (fleet, epoch, may write) to where the workers look. */
void lwd_server_ctl_sync(lwd_server_t *server);
/* server_move.c. prepare: before the control plane starts, whose threads show the mover's figures. start: after it, and
 * after the data threads; then the reverse. */
LW_CHECK lw_status_t lwd_server_move_prepare(lwd_server_t *server, lw_error_t *error);
LW_CHECK lw_status_t lwd_server_move_start(lwd_server_t *server, lw_error_t *error);
void lwd_server_move_stop(lwd_server_t *server);    /* ends the thread; questions may still be answered */
void lwd_server_move_destroy(lwd_server_t *server); /* once the control plane has ended */
void lwd_server_move_limits(lwd_server_t *server);  /* the options have changed */
/* Main thread, at each timer: token and how busy the node is. */
void lwd_server_move_sync(lwd_server_t *server);
/* Agent thread: there is a new view. */
void lwd_server_move_view(lwd_server_t *server);
/* Is there another node that could take over what is placed here? */
bool lwd_server_move_others(lwd_server_t *server);
/* The fleet knows that this node is being emptied, and no manifest places anything here. */
bool lwd_server_move_empty(lwd_server_t *server);
size_t lwd_server_moves_text(void *arg, char *text, size_t text_bytes);

/* The workers' way to ask; lwd_ask_fn. */
lw_status_t lwd_server_ask(void *arg, const lwd_ask_t *ask);

#endif /* LWD_SERVER_PRIVATE_H */
