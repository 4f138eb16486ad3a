/* store.h - the client's side of the data plane: connections to nodes, attach, put, fetch, read; no attention in it.
 *
 * A store belongs to one thread and has one fabric. The library has two (the step's and the keeper's); perftest and the
 * simulator use it bare. Everything moves inside lwc_store_round(): callbacks run there and may start new work, but not
 * destroy the store nor change its view. All memory is allocated by create; starting work answers ERR_BUSY when a table is full.
 *
 * Every operation ends exactly once, at its deadline at the latest, with a status: OK, TIMEOUT, UNREACHABLE (no node that
 * holds it answers), SESSION_LOST (nodes answer and none has it, nor does
 * the manifest name others), CORRUPT (no copy with valid checksums), EXHAUSTED (fleet
 * full), CANCELED (store destroyed), or what the node said.
 */
#ifndef LWC_STORE_H
#define LWC_STORE_H

#include <stdbool.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/limits.h"
#include "client/store/refresh.h"
#include "fabric/fabric.h"
#include "wire/placement.h"
#include "wire/segment_fmt.h"

typedef struct lwc_store lwc_store_t;

typedef void (*lwc_done_t)(void *arg, lw_status_t status);

#define LWC_HEDGE_AUTO UINT64_MAX /* by what each node's last answers took */

typedef struct lwc_store_params {
    const lw_fabric_ops_t *fabric;
    const char *transports; /* lw_fabric_params_t.transports */
    const lw_clock_t *clock;
    uint64_t client_id, incarnation;
    uint32_t lane;            /* which of the client's stores this is; goes into HELLO */
    uint32_t segment_capacity; /* segment keys are 0..segment_capacity-1 */
    uint32_t session_capacity;
    uint32_t wants_max;       /* records in flight, at most */
    uint32_t puts_max;        /* segments being put or read at once */
    uint8_t *landing;         /* where records land; 64-byte aligned; owned by the caller */
    uint64_t landing_bytes;
    uint64_t spin_us;         /* for lwc_store_wait */
    uint64_t hedge_us;        /* a fetch older than this is asked of another replica, too; 0: never; LWC_HEDGE_AUTO */
    lwc_refresh_t *refresh;   /* asked where segments have moved to; borrowed for the store's life; NULL: they never move */
} lwc_store_params_t;

LW_CHECK lw_status_t lwc_store_create(const lwc_store_params_t *params, lwc_store_t **store_out, lw_error_t *error);
/* Ends everything outstanding with ERR_CANCELED. */
void lwc_store_destroy(lwc_store_t *store);

/* The fleet as last seen; copies it. Connections are made when first used; nodes that left are disconnected. */
LW_CHECK lw_status_t lwc_store_set_view(lwc_store_t *store, const lw_view_t *view, lw_error_t *error);
const lw_view_t *lwc_store_view(const lwc_store_t *store);

/* One pass: fabric progress, deadlines, pings, reconnects. Returns the number of things that happened. */
unsigned lwc_store_round(lwc_store_t *store, uint64_t now_us);
/* round() until something happened, spinning and then sleeping adaptively, at most wait_us. */
unsigned lwc_store_wait(lwc_store_t *store, uint64_t wait_us);

/* ---- sessions and segments ---- */
/* A session's right to the data plane; slot < session_capacity. write: with `term`. */
LW_CHECK lw_status_t lwc_store_session(lwc_store_t *store, uint32_t slot, uint64_t session_id,
                                       const uint8_t token[LW_TOKEN_BYTES], bool write, uint32_t term);
void lwc_store_session_forget(lwc_store_t *store, uint32_t slot);

/* Says where a segment is: node indexes (lw_node_t.index) of its replicas. Reading attaches on demand. Said again of the same
 * segment, it changes the session: what a refresh has found out about its nodes stays. */
LW_CHECK lw_status_t lwc_store_segment(lwc_store_t *store, uint32_t key, uint32_t session_slot,
                                       const lw_segment_name_t *name, uint32_t row_pair_bytes, const uint16_t *node_index,
                                       uint32_t replica_count);
void lwc_store_segment_forget(lwc_store_t *store, uint32_t key);
/* Attaches these segments ahead of their first use. */
LW_CHECK lw_status_t lwc_store_attach(lwc_store_t *store, const uint32_t *keys, uint32_t count, uint64_t deadline_us,
                                      lwc_done_t done, void *arg);

/* ---- fetch ---- */
typedef struct lwc_want {
    uint32_t segment; /* key */
    uint16_t head, entry;
    uint32_t rows;    /* the record's size in rows */
    uint32_t reserved;
    uint64_t tag;     /* ascending over the store's life; told back; names the landing to release */
} lwc_want_t;
/* Once for each want. `record` lies in the landing memory, verified, until released; NULL unless OK. */
typedef void (*lwc_arrived_t)(void *arg, uint64_t tag, lw_status_t status, const uint8_t *record);

/* Fetches records, one request for each node; allocates nothing. Wants are copied. deadline_us is a time of the clock.
 * contiguous: perftest's ceiling. */
LW_CHECK lw_status_t lwc_store_fetch(lwc_store_t *store, const lwc_want_t *wants, uint32_t count, uint64_t deadline_us,
                                     bool contiguous, lwc_arrived_t arrived, void *arg);
/* Wants with tag < until have been used: their landing memory may be written again. */
void lwc_store_release(lwc_store_t *store, uint64_t until);
uint32_t lwc_store_wants_in_flight(const lwc_store_t *store);

/* ---- put and read ---- */
/* Reserves, writes and commits a sealed segment on each of the nodes; `extent` is borrowed until done. */
LW_CHECK lw_status_t lwc_store_put(lwc_store_t *store, uint32_t session_slot, const void *extent, uint64_t bytes,
                                   const uint16_t *node_index, uint32_t replica_count, uint64_t deadline_us,
                                   lwc_done_t done, void *arg);
/* Reads bytes of a stored segment into `into` (bytes 0: the whole segment, at most capacity; its size goes to *bytes_out
 * before done). No checksum is verified here: the caller knows what it asked for (lw_segment_verify). */
LW_CHECK lw_status_t lwc_store_read(lwc_store_t *store, uint32_t key, uint64_t offset, uint64_t bytes, void *into,
                                    uint64_t capacity, uint64_t *bytes_out, uint64_t deadline_us, lwc_done_t done,
                                    void *arg);

/* ---- what happened ---- */
typedef struct lwc_store_stats {
    uint64_t bytes_fetched, records_fetched, fetch_requests, fetch_retries, checksum_failures;
    uint64_t bytes_put, segments_put, bytes_read, reconnects, timeouts, pings;
    uint64_t hedges, hedges_won, hedges_denied; /* requests asked twice; those of them that answered first; over budget */
    uint64_t reroutes; /* records that went on to another replica because their node was not connected, or did not attach */
    uint64_t refreshes, segments_moved; /* manifests asked for again; segments that were found to be elsewhere */
} lwc_store_stats_t;
void lwc_store_stats(const lwc_store_t *store, lwc_store_stats_t *stats_out);
typedef struct lwc_node_stats {
    uint64_t bytes_fetched, fetches;
    bool connected;
    char transport[32];
} lwc_node_stats_t;
/* ERR_NOT_FOUND for an index outside the view. */
LW_CHECK lw_status_t lwc_store_node_stats(const lwc_store_t *store, uint16_t node_index, lwc_node_stats_t *stats_out);
/* Cause of the last failed operation, in words ("node 2 at 127.0.0.1:7000 did not answer within 200 ms"). Never NULL. */
const char *lwc_store_last_error(const lwc_store_t *store);

/* Tools may watch: told by the thread that drives the store when records are asked for and when one has ended. Set before any
 * store is made; NULL: nobody watches. */
typedef enum lwc_store_event { LWC_STORE_ASKED, LWC_STORE_ENDED } lwc_store_event_t;
extern void (*lwc_store_watch)(lwc_store_event_t event, uint32_t records);

#endif /* LWC_STORE_H */
