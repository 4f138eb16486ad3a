/* server_private.h - the daemon's parts, shared by server.c (building and ending) and server_ctl.c (the
 * control side). */
#ifndef LWD_SERVER_PRIVATE_H
#define LWD_SERVER_PRIVATE_H

#include <pthread.h>

#include "storaged/ctl/ctl.h"
#include "storaged/io/io.h"
#include "storaged/mem/extent.h"
#include "storaged/net/net.h"
#include "storaged/server.h"

typedef struct lwd_server_ask {
    lwd_server_t *server;
    uint32_t worker;
    uint64_t ticket;
} lwd_server_ask_t;

typedef enum lwd_server_phase {
    LWD_SERVER_STARTING,
    LWD_SERVER_READY,
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
    lwd_io_t *io;
};

/* server_ctl.c */
LW_CHECK lw_status_t lwd_server_ctl_start(lwd_server_t *server, lw_error_t *error);
void lwd_server_ctl_stop(lwd_server_t *server);
/* Copies what the control side knows (fleet, epoch, may write) to where the workers look. */
void lwd_server_ctl_sync(lwd_server_t *server);
/* The workers' way to ask; lwd_ask_fn. */
lw_status_t lwd_server_ask(void *arg, const lwd_ask_t *ask);

#endif /* LWD_SERVER_PRIVATE_H */
