/* ctl_private.h - what the files of storaged/ctl share.
 *
 * A *job* is one request: of a gRPC call, or of this node's own agent. Handlers on gRPC's thread only queue jobs; the
 * control thread runs them: on the catalogue where this node holds it, or by sending them on to the node that does. Every
 * job is answered exactly once. */
#ifndef LWD_CTL_PRIVATE_H
#define LWD_CTL_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/stat.h"
#include "rpc/rpc.h"
#include "storaged/ctl/agent.h"
#include "storaged/ctl/ctl.h"
#include "storaged/ctl/members_etcd.h"

#define CTL_JOBS_MAX 4096u              /* jobs waiting for the control thread; more: ERR_BUSY */
#define CTL_WATCHES_MAX 256u            /* streams of views and of health; more: ERR_EXHAUSTED */
#define CTL_TICK_US 100000ull           /* housekeeping of the control thread */
#define CTL_EXPIRE_US 500000ull         /* leases and TTLs are looked at this often */
#define CTL_FORWARD_US 3000000ull       /* a call is sent on for at most this long, retries included */
#define CTL_RETRY_US 100000ull          /* between two tries */
#define CTL_PAGE_MAX 1024u              /* rows of one List or Ranges reply */
#define CTL_ENDED_PAGE 256u             /* endings in one Sync reply */
#define CTL_FORGET_US 3600000000ull     /* a node not heard of for an hour no longer keeps endings in the log */
#define CTL_EXPIRE_ETCD_US 2000000ull   /* the same on etcd, where one node looks for all */
#define CTL_STALL_US 10000000ull        /* a control thread that has not moved for this long is not healthy */

typedef struct lwd_ctl_method ctl_method_t;
typedef struct ctl_job ctl_job_t;

/* Whom a method is for. A client of its tenant only, unless the table says otherwise. */
typedef enum ctl_access {
    CTL_FOR_TENANT, /* the request's field 1 is a Client, whose tenant the caller must be allowed to name */
    CTL_FOR_ANY,    /* says nothing of tenants, or a session's token is the proof */
    CTL_FOR_NODE,
    CTL_FOR_ADMIN,
} ctl_access_t;

struct lwd_ctl_method {
    const char *path;
    ctl_access_t access;
    bool streaming;
    bool local;  /* answered by the node that is asked */
    bool repeat; /* may be sent twice: retried while the catalogue's node cannot be reached */
    void (*run)(lwd_ctl_t *ctl, ctl_job_t *job);
};

struct ctl_job {
    ctl_job_t *next;
    lwd_ctl_t *ctl;
    const ctl_method_t *method;
    lw_rpc_call_t *call; /* NULL: this node's own, answered through done */
    lw_rpc_done_fn done;
    void *done_arg;
    uint64_t not_before_us, give_up_us; /* of the clock's now_us */
    size_t request_bytes;
    uint8_t request[];
};

typedef struct lwd_ctl_watch { /* an open stream */
    lw_rpc_call_t *call;
    bool health;           /* else a stream of views */
    char service[64];
    uint64_t sent;         /* epoch, or serving status + 1, that was sent last; 0: none */
} ctl_watch_t;

typedef struct ctl_member { /* holder: what it knows of one node of the list */
    lw_node_t node;
    uint64_t heard_us; /* now_us of its last heartbeat; 0: never */
    uint64_t ended_serial, used_bytes, free_bytes;
    bool drain; /* to be emptied, as the catalogue keeps it */
} ctl_member_t;

typedef struct ctl_stats {
#define STAT(kind, name, help) lw_counter_t name;
#include "storaged/ctl/ctl_stats.def"
#undef STAT
} ctl_stats_t;

typedef struct ctl_http ctl_http_t;

struct lwd_ctl {
    const lw_clock_t *clock;
    lwd_ctl_callbacks_t callbacks;
    lw_rpc_server_t *server;
    ctl_http_t *http;
    ctl_agent_t *agent;
    char advertise[LW_ADDRESS_MAX], data[LW_ADDRESS_MAX], zone[32];
    char fleet[LWD_CTL_FLEET_MAX][LW_ADDRESS_MAX];
    uint32_t fleet_count, weight;
    _Atomic uint32_t own_index; /* UINT32_MAX: not known yet; the agent's thread reads it, too */
    uint64_t node_id, incarnation, started_us;
    bool holder;
    bool mutual; /* callers show certificates, which say what they may */

    atomic_bool draining, stopping;
    _Atomic uint64_t epoch, fleet_id, synced_us, ticked_us;
    ctl_stats_t stats[2]; /* [0]: control thread, [1]: agent thread */

    struct ctl_bound *bound; /* one a method: what gRPC's handlers are given */
    pthread_mutex_t send_lock; /* channel: to the holder; NULL on the holder and while stopping */
    lw_rpc_channel_t *channel;

    pthread_mutex_t view_lock; /* the view as this node has it */
    lw_view_t view;
    uint8_t node_token[LW_TOKEN_BYTES]; /* zeros: not told yet */
    uint64_t used_bytes, free_bytes; /* as the agent last asked */

    pthread_mutex_t job_lock;
    pthread_cond_t job_changed;
    ctl_job_t *jobs, **jobs_tail;
    unsigned job_count;
    bool jobs_closed;
    pthread_t thread;

    /* Control thread alone. */
    ctl_watch_t watches[CTL_WATCHES_MAX];
    unsigned watch_count;
    const lwd_catalogue_ops_t *ops;
    lwd_catalogue_t *catalogue; /* holder */
    ctl_member_t members[LWD_CTL_FLEET_MAX];
    uint64_t member_epoch, member_fleet_id, expired_us;

    ctl_etcd_t *etcd;       /* NULL: a static fleet */
    /* Control thread: of the list it took; up to where it has trimmed the log; after which serial there was nothing. */
    uint64_t etcd_version, etcd_trimmed, etcd_ended;
};

static inline uint64_t ctl_now(const lwd_ctl_t *ctl) { return lw_now_us(ctl->clock); }
static inline uint64_t ctl_unix(const lwd_ctl_t *ctl) { return ctl->clock->unix_us(ctl->clock->self); }

/* ---- control.c: jobs and the control thread ---- */
lw_status_t lwd_ctl_control_start(lwd_ctl_t *ctl, lw_error_t *error);
void lwd_ctl_control_stop(lwd_ctl_t *ctl); /* what waits is answered ERR_CANCELED */
void lwd_ctl_refuse_jobs(lwd_ctl_t *ctl);  /* the same when the thread never ran */
void lwd_ctl_serve(void *arg, lw_rpc_call_t *call, const void *request, size_t bytes); /* arg: ctl_bound_t */
typedef struct ctl_bound {
    lwd_ctl_t *ctl;
    const ctl_method_t *method;
} ctl_bound_t;
/* Asks the holder on this node's behalf: OK means that done will run once, on the control thread or the channel's. */
LW_CHECK lw_status_t lwd_ctl_ask(lwd_ctl_t *ctl, const ctl_method_t *method, const void *request, size_t bytes,
                             uint64_t timeout_us, lw_rpc_done_fn done, void *arg);
/* Answers a job and frees it. text NULL: the status's own. */
void lwd_ctl_answer(ctl_job_t *job, lw_status_t status, const char *text, const void *reply, size_t reply_bytes);
void lwd_ctl_fail(ctl_job_t *job, const lw_error_t *error);
/* Makes a stream of the job's call; the job is freed. */
void lwd_ctl_watch(ctl_job_t *job, bool health, const char *service);
const ctl_method_t *lwd_ctl_method(const char *path); /* NULL: none */

/* ---- access.c ---- */
/* May the caller of this job make this call? OK for the node's own and wherever certificates are not asked for;
 * ERR_PERMISSION, ERR_INVALID for a request that names no tenant. */
LW_CHECK lw_status_t lwd_ctl_access(lwd_ctl_t *ctl, const ctl_job_t *job, lw_error_t *error);

/* ---- service_*.c ---- */
extern const ctl_method_t ctl_session_methods[12], ctl_fleet_methods[5], ctl_move_methods[3], ctl_admin_methods[3],
    ctl_health_methods[2];

/* ---- service_fleet.c ---- */
LW_CHECK lw_status_t lwd_ctl_fleet_start(lwd_ctl_t *ctl, lw_error_t *error); /* holder: members and epoch from the catalogue */
void lwd_ctl_fleet_tick(lwd_ctl_t *ctl);                                     /* holder: nodes that fell silent; trims the log */
/* Holder: marks a node, or takes the mark back, for good and in the view. */
LW_CHECK lw_status_t lwd_ctl_fleet_drain(lwd_ctl_t *ctl, uint32_t node, bool drain, lw_error_t *error);
/* Sends the view to a stream; false: it is over. */
bool lwd_ctl_fleet_watch(lwd_ctl_t *ctl, ctl_watch_t *watch);
bool lwd_ctl_health_watch(lwd_ctl_t *ctl, ctl_watch_t *watch);

/* ---- fleet_etcd.c: the same on etcd ---- */
LW_CHECK lw_status_t lwd_ctl_fleet_etcd_start(lwd_ctl_t *ctl, const char *where, lw_error_t *error);
void lwd_ctl_fleet_etcd_tick(lwd_ctl_t *ctl);
/* Takes this node's own heartbeat: what it has been told of. ERR_FLEET: there is no list yet. */
LW_CHECK lw_status_t lwd_ctl_fleet_etcd_hear(lwd_ctl_t *ctl, uint64_t ended_serial, lw_error_t *error);
/* ops->ended, asked only when the log has changed. */
LW_CHECK lw_status_t lwd_ctl_fleet_etcd_ended(lwd_ctl_t *ctl, uint64_t after, lwd_ended_t *rows, uint32_t *count_out,
                                              lw_error_t *error);

/* ---- ready.c ---- */
/* Is the node ready? Writes why not, one reason a line. Any thread. */
bool lwd_ctl_ready(lwd_ctl_t *ctl, char *reasons, size_t bytes);
/* The server's figures, then ctl's own; as snprintf. Any thread. */
size_t lwd_ctl_metrics(lwd_ctl_t *ctl, char *text, size_t bytes);
/* malloc'd text of a snprintf-like callback; NULL: out of memory. */
char *lwd_ctl_text(size_t (*write)(void *arg, char *text, size_t bytes), void *arg);
bool lwd_ctl_alive(const lwd_ctl_t *ctl); /* the control thread moves */

/* ---- http.c ---- */
LW_CHECK lw_status_t lwd_ctl_http_start(lwd_ctl_t *ctl, const char *address, ctl_http_t **http_out, lw_error_t *error);
const char *lwd_ctl_http_bound(const ctl_http_t *http);
void lwd_ctl_http_stop(ctl_http_t *http);

#endif /* LWD_CTL_PRIVATE_H */
