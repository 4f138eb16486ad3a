/* ctl.h - a node's control plane: the gRPC services, the agent that keeps in touch with the catalogue, HTTP health.
 *
 * server.c starts one of these and joins it to the shards through the callbacks. In a static fleet the first node of the
 * list holds the catalogue, and every other node forwards the same calls to it; with etcd every node works on the catalogue
 * itself. Either way a client may talk to any node.
 *
 * Threads: gRPC's completion queue has one thread, the control thread runs the catalogue and the services, the agent
 * thread syncs every 500 ms, HTTP has one thread. No data thread ever blocks here: *_async only queues, under a short lock.
 */
#ifndef LWD_CTL_H
#define LWD_CTL_H

#include <stdbool.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "storaged/catalogue/catalogue.h"
#include "wire/placement.h"
#include "wire/segment_name.h"

typedef struct lwd_ctl lwd_ctl_t;

#define LWD_CTL_SYNC_US 500000ull      /* between two heartbeats of a node */
#define LWD_CTL_DOWN_US (3 * LWD_CTL_SYNC_US) /* a node not heard of for this long is DOWN */
#define LWD_CTL_FENCE_US (4 * LWD_CTL_SYNC_US) /* a node without a catalogue for this long refuses writes */
#define LWD_CTL_ASKS_MAX 4096u         /* check/orphans/expire questions waiting; more: ERR_BUSY */
#define LWD_CTL_FLEET_MAX 64u          /* nodes of a static fleet */
#define LWD_CTL_ORPHANS_MAX 4096u      /* names of one question */
#define LWD_CTL_PLACED_MAX 64u         /* ranges of one answer */

/* What server.c provides. Any of them may be NULL. They must not call back into ctl, except where said, and they may run
 * before lwd_ctl_start has returned. */
typedef struct lwd_ctl_callbacks {
    void *arg;
    /* Agent thread. Segments that are dead: hand them to the shards' threads. rows are borrowed for the call. A row may
     * come again after a restart, so freeing what is not there must be fine. */
    void (*on_ended)(void *arg, const lwd_ended_t *rows, uint32_t count);
    /* Agent thread, after lwd_ctl_epoch() or fleet id has changed. lwd_ctl_view_copy may be called. */
    void (*on_view)(void *arg, uint64_t fleet_id, uint64_t epoch);
    /* Agent thread, before each sync: bytes of the arenas. */
    void (*usage)(void *arg, uint64_t *used_bytes_out, uint64_t *free_bytes_out);
    /* HTTP and control thread: Prometheus text into `text` as snprintf does (returns what the whole text needs). */
    size_t (*metrics_text)(void *arg, char *text, size_t text_bytes);
    /* HTTP and control thread: true when the data plane serves; else writes why, one reason a line. */
    bool (*ready)(void *arg, char *reasons, size_t reasons_bytes);
    /* Control thread: the options in force ("group.name = value" lines), as snprintf does. */
    size_t (*status_text)(void *arg, char *text, size_t text_bytes);
    /* Control thread: the account of copies between nodes ("name value" lines), as snprintf does. */
    size_t (*moves_text)(void *arg, char *text, size_t text_bytes);
} lwd_ctl_callbacks_t;

/* Strings are borrowed for the call. */
typedef struct lwd_ctl_params {
    const char *listen;    /* gRPC "host:port"; port 0: any */
    const char *advertise; /* control address that others use; NULL or "": the bound one (refused for a wildcard) */
    const char *data;      /* data-plane address that clients use, as the view shows it */
    const char *zone;      /* NULL: "" */
    uint32_t weight;       /* 0: 100 */
    uint64_t node_id;      /* 0: lwd_ctl_node_id(advertise) */
    uint64_t incarnation;  /* 0: the time of the start in unix microseconds */
    const char *fleet;     /* "host:port,host:port": control addresses as advertised, the catalogue's holder first; NULL
                              or "": this node alone. `advertise` must be in it */
    const char *etcd;      /* "etcd://host:port/prefix?ca=..." (etcd.h, lwd_etcd_open_where): the fleet is on etcd, every
                              node is a holder, `fleet` must be empty and catalogue_path is not used; NULL or "": static */
    const char *catalogue_path;           /* SQLite file; used by the holder only */
    const lwd_catalogue_ops_t *catalogue; /* NULL: lwd_catalogue_sqlite() */
    const char *ca_pem, *cert_pem, *key_pem; /* PEM texts; all NULL: plaintext. ca: clients and nodes must show a cert */
    const char *http;       /* "host:port" for /metrics, /healthz, /readyz; NULL or "": none */
    const lw_clock_t *clock; /* NULL: the machine's */
    lwd_ctl_callbacks_t callbacks;
} lwd_ctl_params_t;

/* Starts everything; returns once the listeners are bound (a node that is not the holder need not have reached it yet:
 * ready says so). Errors name the parameter and its value. */
LW_CHECK lw_status_t lwd_ctl_start(const lwd_ctl_params_t *params, lwd_ctl_t **ctl_out, lw_error_t *error);
/* Health turns NOT_SERVING and readiness 503 at once, calls in flight get grace_us, questions that wait are answered
 * with ERR_CANCELED, threads end. No callback runs after it returned. */
void lwd_ctl_stop(lwd_ctl_t *ctl, uint64_t grace_us);
/* Before lwd_ctl_stop, when a node begins to leave: readiness 503, health NOT_SERVING, view state DRAINING. Any thread. */
void lwd_ctl_drain(lwd_ctl_t *ctl);

/* The node id of a control address where none is configured. Pure. Never 0. */
uint64_t lwd_ctl_node_id(const char *advertise);
const char *lwd_ctl_address(const lwd_ctl_t *ctl);      /* bound gRPC "host:port" */
const char *lwd_ctl_http_address(const lwd_ctl_t *ctl); /* bound HTTP "host:port"; "" without */
bool lwd_ctl_holds_catalogue(const lwd_ctl_t *ctl);

/* Wait-free, any thread. 0 until the catalogue was reached first. */
uint64_t lwd_ctl_epoch(const lwd_ctl_t *ctl);
uint64_t lwd_ctl_fleet_id(const lwd_ctl_t *ctl);
/* False when the catalogue has not answered for LWD_CTL_FENCE_US: refuse RESERVE and COMMIT with ERR_FLEET. */
bool lwd_ctl_writable(const lwd_ctl_t *ctl);
/* What nodes show each other (catalogue.h, node_token); false before the catalogue was reached. */
bool lwd_ctl_node_token(lwd_ctl_t *ctl, uint8_t token_out[LW_TOKEN_BYTES]);
/* A copy of the view that the caller frees with free(); node_count 0 before the first sync. NULL: out of memory. */
lw_view_t *lwd_ctl_view_copy(lwd_ctl_t *ctl);

/* ---- questions to the catalogue ----
 * They return at once: OK (the callback will run exactly once, on the agent thread; it must be short and may ask again)
 * or ERR_BUSY (too many waiting; no callback). Answers come within about 2 s: ERR_FLEET when the catalogue is away. */
typedef struct lwd_ctl_check {
    uint64_t session_id;
    uint8_t token[LW_TOKEN_BYTES];
    bool write;
    uint32_t term; /* with write */
} lwd_ctl_check_t;
/* May (session, token, term) touch the data plane? status OK, ERR_PERMISSION (also for a session that does not exist),
 * ERR_STALE (old term), ERR_FLEET. `origins` are the sessions whose segments it may read, each below cuts[i] (its own:
 * UINT32_MAX). Read checks may be answered from a cache that is up to 2 s old, and older while the catalogue is away; endings
 * empty it. */
typedef void (*lwd_ctl_checked_fn)(void *arg, lw_status_t status, const uint64_t *origins, const uint32_t *cuts,
                                   uint32_t count);
LW_CHECK lw_status_t lwd_ctl_check_async(lwd_ctl_t *ctl, const lwd_ctl_check_t *check, lwd_ctl_checked_fn done, void *arg);
/* dead[i]: names[i] is in no manifest and has no live writer. names are copied; at most LWD_CTL_ORPHANS_MAX. */
typedef void (*lwd_ctl_orphans_fn)(void *arg, lw_status_t status, const bool *dead, uint32_t count);
LW_CHECK lw_status_t lwd_ctl_orphans_async(lwd_ctl_t *ctl, const lw_segment_name_t *names, uint32_t count,
                                           lwd_ctl_orphans_fn done, void *arg);
/* Asks for about `bytes` of idle sessions to be evicted, fleet-wide. The endings follow through on_ended. */
typedef void (*lwd_ctl_expired_fn)(void *arg, lw_status_t status, uint64_t bytes_freed);
LW_CHECK lw_status_t lwd_ctl_expire_async(lwd_ctl_t *ctl, uint64_t bytes, lwd_ctl_expired_fn done, void *arg);

/* A page of every manifest's ranges, as lwd_catalogue placed(); capacity <= LWD_CTL_PLACED_MAX. rows are borrowed. */
typedef void (*lwd_ctl_placed_fn)(void *arg, lw_status_t status, const lwd_placed_t *rows, uint32_t count);
LW_CHECK lw_status_t lwd_ctl_placed_async(lwd_ctl_t *ctl, const lwd_placed_key_t *after, uint32_t capacity,
                                          lwd_ctl_placed_fn done, void *arg);
/* As lwd_catalogue move(). ERR_FLEET: it may have been done, or not. */
typedef void (*lwd_ctl_moved_fn)(void *arg, lw_status_t status);
LW_CHECK lw_status_t lwd_ctl_move_async(lwd_ctl_t *ctl, const lw_segment_name_t *name, uint16_t from, uint16_t to,
                                        lwd_ctl_moved_fn done, void *arg);

#endif /* LWD_CTL_H */
