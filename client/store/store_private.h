/* store_private.h - what the files of client/store share. See store.h for what a store is.
 *
 *   peer.c     one connection for each node: hello, heartbeats, reconnecting, whose requests end when it does
 *   request.c  the table of requests in flight: ids, deadlines, replies, freeing
 *   segment.c  the directory: where segments are, attaching
 *   choose.c   which replica a want asks: load, latency, how long to wait before a second one is asked
 *   fetch.c    wants -> one request for each node -> records, verified
 *   hedge.c    late requests are asked elsewhere too; what waits for a node that does not answer goes on
 *   refresh.c  asks where segments have moved to, and takes the answers
 *   landing.c  the ring of landing memory that fetch replies fall into
 *   put.c read.c  moving whole segments
 */
#ifndef LWC_STORE_PRIVATE_H
#define LWC_STORE_PRIVATE_H

#include "client/store/store.h"
#include "wire/msg.h"

#define LWC_NO_SLOT UINT32_MAX

/* Wants of one fetch request, names of one attach request: more are split. */
#define LWC_BATCH_WANTS 2048u
#define LWC_BATCH_COUNT 64u
#define LWC_ATTACH_WAITERS 32u

#define LWC_CONNECT_TIMEOUT_US 2000000ull
#define LWC_RETRY_FIRST_US 20000ull
#define LWC_RETRY_MAX_US 500000ull
#define LWC_PING_EVERY_US 200000ull
#define LWC_SILENT_US 1500000ull /* a peer with requests outstanding that says nothing for so long is disconnected */
#define LWC_SCAN_EVERY_US 1000ull
#define LWC_ABSENT_US 1000000ull /* a node that had no copy is asked again after so long: it may have been given one */

#define LWC_LOAD_SLACK_BYTES (256ull << 10) /* a node with so much more to answer is passed over for a replica */
#define LWC_LATENCY_SAMPLES 128u            /* of a peer; its second longest is about the 99th percentile */
#define LWC_LATENCY_FEW 16u                 /* with fewer nothing is known */
#define LWC_HEDGE_FIRST_US 20000ull         /* until something is known */
#define LWC_HEDGE_MIN_US 1000ull
#define LWC_HEDGE_MAX_US 100000ull
#define LWC_HEDGE_COST 20u                  /* a hedge is paid for by so many fetches: 5% more of them, at most */
#define LWC_HEDGE_CREDIT_MAX (64u * LWC_HEDGE_COST)
#define LWC_HEDGE_CREDIT_FIRST (8u * LWC_HEDGE_COST)
#define LWC_HEDGE_BATCHES_LEFT 16u          /* stay for fetches */

typedef enum lwc_peer_state {
    LWC_PEER_IDLE,       /* not connected, nobody asked */
    LWC_PEER_CONNECTING, /* HELLO sent */
    LWC_PEER_READY,
    LWC_PEER_CLOSING,    /* close_conn called, on_closed to come */
    LWC_PEER_WAITING,    /* to reconnect at retry_at_us */
} lwc_peer_state_t;

/* How long the last fetches of a peer took, from the question to the landed answer. */
typedef struct lwc_latency {
    uint32_t us[LWC_LATENCY_SAMPLES]; /* ring */
    uint32_t count, next;
    uint32_t late_us; /* the second longest of them */
} lwc_latency_t;

/* One for each node of the view. */
typedef struct lwc_peer {
    lwc_store_t *store;
    lw_node_t node;
    bool in_view;
    lwc_peer_state_t state;
    lw_conn_t *conn;
    uint32_t serial; /* of the connection; attached handles and rights belong to one */
    uint32_t requests; /* in flight on this peer */
    uint64_t load_bytes; /* of records that were asked of it, or will be, and have not come */
    lwc_latency_t latency;
    bool late; /* a request is late, and nothing has been heard since that was noticed */
    uint64_t retry_at_us, retry_us, heard_us, pinged_us, connect_by_us;
    struct lwc_request *building; /* the request that wants are being added to, inside one call */
    uint32_t *session_serial; /* [session_capacity] serial of the connection that has the session's write right; 0: none */
    lwc_node_stats_t stats;
    char cause[160]; /* why it was last disconnected */
} lwc_peer_t;

typedef enum lwc_request_kind {
    LWC_REQUEST_FREE,
    LWC_REQUEST_HELLO,
    LWC_REQUEST_PING,
    LWC_REQUEST_ATTACH,
    LWC_REQUEST_FETCH,
    LWC_REQUEST_PUT,
    LWC_REQUEST_READ,
} lwc_request_kind_t;

/* WAITING: for the peer, for handles or for landing room. ZOMBIE: its user has been answered; the reply, or the end of
 * the connection, is awaited only to know that nobody writes into its memory any more. */
typedef enum lwc_request_state {
    LWC_WAITING,
    LWC_SENT,
    LWC_LANDING,
    LWC_ZOMBIE,
} lwc_request_state_t;

/* The lists of a fetch or attach request, and what it is about. */
typedef struct lwc_batch {
    bool used;
    uint32_t count;
    lwc_want_t wants[LWC_BATCH_WANTS]; /* FETCH */
    uint32_t keys[LWC_BATCH_WANTS];    /* ATTACH: key << 3 | replica; FETCH: checksums of records that have landed */
    uint32_t versions[LWC_BATCH_WANTS]; /* ATTACH: of the segment, when it was asked; hedge: the want's index in its origin */
    uint64_t ended[LWC_BATCH_WANTS / 64]; /* FETCH: bits of wants that a hedge, or the request itself, has answered */
    uint64_t lists[(LWC_BATCH_WANTS * sizeof(lw_segment_name_t)) / 8]; /* ATTACH: names; FETCH: runs, then entries */
} lwc_batch_t;

/* Requests in the order in which they came into the list. */
typedef struct lwc_request_list {
    struct lwc_request *first, *last;
    struct lwc_request *cursor; /* what a walk visits next; removing moves it on, so callbacks may change the list */
} lwc_request_list_t;

typedef struct lwc_request {
    lwc_request_list_t *list;             /* the one that it is in; NULL: free */
    struct lwc_request *before, *after;
    lwc_request_kind_t kind;
    lwc_request_state_t state;
    uint32_t slot, generation;
    lwc_store_t *store;
    lwc_peer_t *peer;
    uint32_t serial;       /* of the connection it was sent on */
    bool send_pending;     /* the fabric still borrows its payload */
    bool contiguous;       /* FETCH */
    uint64_t deadline_us, sent_us, retry_at_us;
    lwc_batch_t *batch;    /* ATTACH, FETCH */
    uint32_t replica;      /* PUT: which replica */
    uint32_t span;         /* FETCH: its landing span, LWC_NO_SLOT: none */
    lw_msg_t reply;        /* FETCH, READ: head of the reply while the payload lands */
    uint64_t payload_bytes;
    uint64_t made_us, load_bytes; /* FETCH: its part of the peer's load */
    struct lwc_request *origin;   /* of a hedge: the request whose wants it asks for as well; that one owns them */
    uint32_t hedges;       /* of this request, in flight */
    uint32_t ended_count;  /* bits in batch->ended */
    bool hedged, hedge_denied;
    bool parked;           /* FETCH: every replica of its wants has failed; they wait for their manifest to be read again */
    uint64_t parked_us, moves; /* moves: of the store, when its wants were last compared with their segments */
    bool delivered;        /* FETCH: somebody was shown a record in its landing memory */
    uint32_t hashed;       /* FETCH: wants whose record's checksum is in keys, if no run failed */
    uint64_t hashed_bytes; /* FETCH: of the payload */
    uint32_t session_slot; /* ATTACH, parked FETCH */
    lwc_arrived_t arrived; /* FETCH */
    void *arg;
    void *owner;           /* PUT, READ: the lwc_put_t or lwc_read_t */
    uint16_t sent_type;    /* PUT: which message */
    uint32_t write_bytes;  /* PUT: of a WRITE */
} lwc_request_t;

typedef struct lwc_store_session {
    bool used, write;
    uint64_t session_id;
    uint8_t token[LW_TOKEN_BYTES];
    uint32_t term;
} lwc_store_session_t;

/* QUEUED: waits for lwc_attach_flush. ABSENT: the node said so lately, on this connection. */
typedef enum lwc_attach_state {
    LWC_DETACHED,
    LWC_QUEUED,
    LWC_ATTACHING,
    LWC_ATTACHED,
    LWC_ABSENT,
} lwc_attach_state_t;

typedef struct lwc_replica {
    uint16_t node_index;
    uint8_t state;   /* lwc_attach_state_t */
    uint32_t serial; /* of the connection that the handle belongs to */
    uint64_t handle; /* ABSENT: when that was said */
} lwc_replica_t;

/* A segment that this client knows. */
typedef struct lwc_segment {
    bool used;
    uint8_t replica_count, waiter; /* waiter: 1 + index of the attach waiter that counts it, 0: none */
    uint8_t moves; /* grows when its nodes change, or it is gone; wants keep what they saw */
    bool gone;     /* the manifest does not have it any more */
    uint32_t session_slot, row_pair_bytes;
    uint32_t version; /* grows when the key is given to another segment */
    lw_segment_name_t name;
    uint64_t name_hash; /* for the seeds of its records' checksums */
    uint64_t known_us, confirmed_us; /* since when; when the question was asked whose answer last named it */
    lwc_replica_t replica[LW_REPLICAS_MAX];
} lwc_segment_t;

typedef struct lwc_waiter {
    bool used;
    uint32_t left;
    lw_status_t status;
    uint64_t deadline_us;
    lwc_done_t done;
    void *arg;
} lwc_waiter_t;

/* A stretch of landing memory, in ring order. */
typedef struct lwc_span {
    uint64_t offset, bytes;
    uint64_t tag_max;
    bool in_flight; /* a transfer may still write into it */
    bool unused;    /* nobody was shown anything in it: its tags need no release */
} lwc_span_t;

typedef struct lwc_landing {
    uint8_t *memory;
    uint64_t bytes, head, tail; /* bytes used: [head, tail) modulo the ring; both only grow */
    lwc_span_t *spans;          /* ring */
    uint32_t span_capacity, first, count;
    uint64_t released;          /* tags below have been used */
} lwc_landing_t;

/* One replica of a put. */
typedef enum lwc_put_step {
    LWC_PUT_WAIT,    /* for the peer, or until retry_at_us */
    LWC_PUT_RIGHT,   /* proving the session's token */
    LWC_PUT_RESERVE,
    LWC_PUT_WRITE,
    LWC_PUT_COMMIT,
    LWC_PUT_DONE,
} lwc_put_step_t;

#define LWC_PUT_WINDOW 4u

typedef struct lwc_put_replica {
    uint16_t node_index;
    lwc_put_step_t step;
    uint32_t serial, in_flight; /* writes */
    uint64_t handle, offset, retry_at_us;
} lwc_put_replica_t;

typedef struct lwc_put {
    bool used, ending;
    lw_status_t status;
    uint32_t session_slot, replica_count, requests;
    const uint8_t *extent;
    uint64_t bytes, deadline_us;
    lwc_put_replica_t replica[LW_REPLICAS_MAX];
    lwc_done_t done;
    void *arg;
} lwc_put_t;

typedef struct lwc_read {
    bool used, ending;
    lw_status_t status;
    uint32_t key, replica, requests;
    uint32_t failed; /* bits of replicas */
    bool parked;     /* all have failed; waits for its manifest to be read again */
    uint8_t moves;   /* of the segment, as last seen */
    lw_status_t cause;
    uint64_t parked_us;
    uint64_t offset, bytes, got, capacity, deadline_us;
    uint8_t *into;
    uint64_t *bytes_out;
    lwc_done_t done;
    void *arg;
} lwc_read_t;

/* What a session's slot knows of its manifest. */
typedef struct lwc_refresh_slot {
    bool wanted, urgent, asking, changed;
    uint32_t applied, hint; /* of the answer; the row where the search goes on */
    uint64_t asked_us, wanted_at_us, urgent_at_us; /* of the last question; not before */
    uint64_t follow_us, follow_at_us;              /* after a change of the fleet: next pause, 0: none; when */
} lwc_refresh_slot_t;

struct lwc_store {
    lwc_store_params_t params;
    const lw_fabric_ops_t *ops;
    lw_fabric_t *fabric;
    lw_view_t view;
    lwc_peer_t *peer[LW_NODES_MAX]; /* by node index, created when the view first names it */
    uint32_t peer_count;            /* highest index + 1 */
    uint32_t copies[LW_NODES_MAX];  /* of known segments on each node: connections are kept to where there are any */

    lwc_request_t *requests;
    uint32_t request_capacity, request_count, request_next;
    lwc_request_list_t waiting, away; /* fetches that could not be sent yet; all other requests in use */
    lwc_batch_t *batches;
    lwc_batch_t **batch_free; /* stack */
    uint32_t batch_free_count;

    lwc_store_session_t *sessions;
    lwc_segment_t *segments;
    lwc_refresh_slot_t *refreshes; /* [session_capacity] */
    uint64_t moves;                /* grows when any segment's nodes change, or it is gone */
    lwc_request_t *parking;        /* the request that wants are parked in, inside one call */
    lwc_waiter_t waiters[LWC_ATTACH_WAITERS];
    uint64_t *attach_queue; /* key << 8 | replica; ring of attach_capacity */
    uint32_t attach_capacity, attach_first, attach_count;
    uint32_t wants_in_flight;
    uint32_t hedge_credit;  /* LWC_HEDGE_COST for each hedge; a fetch gives 1 */
    uint64_t hedge_due_us;  /* when the next request will be late */
    bool kicking; /* inside lwc_fetches_kick: what a callback adds is tried by the kick that is running */
    lwc_landing_t landing;
    lwc_put_t *puts;
    lwc_read_t *reads;

    uint64_t now_us, scanned_us;
    unsigned events; /* of the running round */
    bool closing;
    lwc_store_stats_t stats;
    lw_error_t error;
};

/* ---- peer.c ---- */
LW_CHECK lw_status_t lwc_peer_update(lwc_store_t *store, const lw_node_t *node);
lwc_peer_t *lwc_peer(const lwc_store_t *store, uint16_t node_index); /* NULL: not in the view */
bool lwc_peer_ready(lwc_peer_t *peer); /* starts connecting when it is not */
void lwc_peer_scan(lwc_peer_t *peer);
void lwc_peer_heard(lwc_peer_t *peer);
void lwc_peer_disconnect(lwc_peer_t *peer, const char *cause);
void lwc_peer_closed(lwc_peer_t *peer, lw_status_t status);
void lwc_peer_hello_reply(lwc_request_t *request, const lw_msg_t *msg);
void lwc_peer_destroy(lwc_peer_t *peer);

/* ---- request.c ---- */
lwc_request_t *lwc_request_new(lwc_store_t *store, lwc_request_kind_t kind, lwc_peer_t *peer, uint64_t deadline_us);
/* Sends it; on failure the peer is disconnected and the request is left to lwc_request_lost. */
void lwc_request_send(lwc_request_t *request, lw_msg_t *msg, const void *lists, uint32_t list_bytes, const void *bulk,
                      uint64_t bulk_bytes);
uint64_t lwc_request_id(const lwc_request_t *request); /* on the wire */
/* Its user has been answered: the reply, when it comes, is only noted. Memory that no reply has begun to land in is free
 * at once, and where the fabric can give a landing up, the request is over, too. */
void lwc_request_zombie(lwc_request_t *request);
/* Into another list, at its end. */
void lwc_request_move(lwc_request_t *request, lwc_request_list_t *list);
lwc_request_t *lwc_requests_first(lwc_request_list_t *list); /* begins the list's one walk */
lwc_request_t *lwc_requests_next(lwc_request_list_t *list);  /* NULL: the walk is over */
/* No reply will come (any more): frees it as soon as the fabric has let go of its memory. */
void lwc_request_end(lwc_request_t *request);
lwc_batch_t *lwc_batch_new(lwc_store_t *store);
void lwc_on_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg);
/* The connection is gone: what becomes of each of its requests. */
void lwc_requests_lost(lwc_peer_t *peer);
void lwc_requests_scan(lwc_store_t *store);
/* The owner of these requests (a put or read) wants to end: those that only await a reply are let go; where memory of the
 * owner's is still in use, the connection is ended, and the rest follows from that. Returns how many were let go. */
uint32_t lwc_requests_let_go(lwc_store_t *store, const void *owner);

/* ---- segment.c ---- */
lwc_segment_t *lwc_segment(const lwc_store_t *store, uint32_t key);
/* Handle of replica r, when its connection is ready and it is attached; else starts what is missing and returns false.
 * *absent_out: the node answered that it has no such segment. */
bool lwc_segment_handle(lwc_store_t *store, uint32_t key, uint32_t r, uint64_t *handle_out, bool *absent_out);
void lwc_segment_stale(lwc_store_t *store, uint32_t key, uint32_t r);
/* Its replicas are on these nodes. Those that stay keep their place and handle. Returns whether anything has changed. */
bool lwc_segment_move(lwc_store_t *store, uint32_t key, const uint16_t *node_index, uint32_t replica_count);
void lwc_attach_flush(lwc_store_t *store); /* sends one ATTACH for each peer and session that wants one */
void lwc_attach_reply(lwc_request_t *request, const lw_msg_t *msg);
void lwc_attach_lost(lwc_request_t *request, lw_status_t status);
void lwc_waiters_scan(lwc_store_t *store);

/* ---- choose.c ---- */
/* want.reserved: bits 0-2 replica in use, 4-7 replicas that failed, 8-15 attempts, 16-23 negated status of the last
 * failure, 24-31 the segment's moves when it was last looked at. */
static inline uint32_t lwc_want_replica(const lwc_want_t *want) { return want->reserved & 7; }
static inline bool lwc_want_failed(const lwc_want_t *want, uint32_t r) { return want->reserved >> (4 + r) & 1; }
static inline uint32_t lwc_want_attempts(const lwc_want_t *want) { return want->reserved >> 8 & 0xFF; }
static inline uint64_t lwc_want_bytes(const lwc_store_t *store, const lwc_want_t *want)
{
    return (uint64_t)want->rows * store->segments[want->segment].row_pair_bytes;
}
/* The replica that a request asks for one of its wants; LW_REPLICAS_MAX: the segment has left that node. */
static inline uint32_t lwc_want_asked(const lwc_request_t *request, const lwc_want_t *want)
{
    const lwc_segment_t *segment = &request->store->segments[want->segment];
    uint32_t r = lwc_want_replica(want);
    return segment->replica[r].node_index == request->peer->node.index ? r : LW_REPLICAS_MAX;
}
/* The replica to ask, `except` apart: of those whose node is connected and owes no late answer the least loaded, the
 * manifest's order where they are alike; else one that is connected, or whose node may be up. LW_REPLICAS_MAX: none is
 * left. */
uint32_t lwc_choose(const lwc_store_t *store, const lwc_want_t *want, uint32_t except);
/* The same, connected ones only. */
uint32_t lwc_choose_ready(const lwc_store_t *store, const lwc_want_t *want, uint32_t except);
void lwc_latency_add(lwc_latency_t *latency, uint64_t us);
/* After how long a request to this peer is late; UINT64_MAX: never, hedging is off. */
uint64_t lwc_late_after_us(const lwc_peer_t *peer);

/* ---- fetch.c ---- */
/* Adds a want to the request that is being built for its replica's node; a new one is like `like`. False when the tables
 * are full. */
bool lwc_fetch_build(lwc_store_t *store, const lwc_want_t *want, uint32_t r, const lwc_request_t *like);
void lwc_fetch_build_done(lwc_store_t *store);
void lwc_request_add(lwc_request_t *request, const lwc_want_t *want, uint32_t r); /* a want, for this replica */
void lwc_fetch_message(lwc_request_t *request, const lw_msg_t *reply, const lw_fabric_msg_t *msg);
void lwc_fetch_lost(lwc_request_t *request);
void lwc_fetch_expire(lwc_request_t *request, lw_status_t status);
void lwc_fetches_kick(lwc_store_t *store); /* tries what waits; ends what has waited too long */

/* The manifest of the session in this slot, as of asked_us, is known: what was parked for it before goes on, or ends. */
void lwc_parked_try(lwc_store_t *store, uint32_t session_slot, uint64_t asked_us);

/* ---- refresh.c ---- */
bool lwc_refresh_can(const lwc_store_t *store, const lwc_segment_t *segment);
/* The segment's session's manifest is worth reading again; urgent: somebody waits for that. */
void lwc_refresh_want(lwc_store_t *store, const lwc_segment_t *segment, bool urgent);
void lwc_refresh_fleet_changed(lwc_store_t *store);
void lwc_refreshes_scan(lwc_store_t *store);

/* ---- hedge.c ---- */
/* Whoever answers a want of a request with hedges claims it first: true once. */
bool lwc_want_claim(lwc_request_t *request, uint32_t i);
bool lwc_want_ended(const lwc_request_t *request, uint32_t i);
/* Takes wants that hedges have answered out of the batch. */
void lwc_wants_drop_ended(lwc_request_t *request);
/* Asks for the wants of a late request elsewhere, within the budget. */
void lwc_hedge_if_late(lwc_request_t *request);
void lwc_hedges_drop(lwc_request_t *request); /* its hedges are needed no more */
void lwc_hedge_over(lwc_request_t *hedge);    /* it has given what it could; its origin ends if nothing is left of it */
/* The request's node is not connected, or has kept us waiting: wants go to replicas whose nodes are. */
void lwc_fetch_leave(lwc_request_t *request);

/* ---- landing.c ---- */
LW_CHECK lw_status_t lwc_landing_init(lwc_landing_t *landing, uint8_t *memory, uint64_t bytes, uint32_t span_capacity);
void lwc_landing_fini(lwc_landing_t *landing);
uint32_t lwc_landing_take(lwc_landing_t *landing, uint64_t bytes, uint64_t tag_max); /* LWC_NO_SLOT: no room now */
void lwc_landing_settle(lwc_landing_t *landing, uint32_t span);  /* no transfer writes into it any more */
void lwc_landing_discard(lwc_landing_t *landing, uint32_t span); /* the same, and nobody was shown anything in it */
void lwc_landing_release(lwc_landing_t *landing, uint64_t until);
uint8_t *lwc_landing_at(const lwc_landing_t *landing, uint32_t span);

/* ---- put.c, read.c ---- */
void lwc_put_advance(lwc_put_t *put, lwc_store_t *store);
void lwc_put_reply(lwc_request_t *request, const lw_msg_t *msg);
void lwc_put_lost(lwc_request_t *request);
void lwc_puts_scan(lwc_store_t *store);
void lwc_read_advance(lwc_read_t *read, lwc_store_t *store);
void lwc_read_message(lwc_request_t *request, const lw_msg_t *reply, const lw_fabric_msg_t *msg);
void lwc_read_lost(lwc_request_t *request);
void lwc_reads_scan(lwc_store_t *store);
void lwc_reads_unpark(lwc_store_t *store, uint32_t session_slot, uint64_t asked_us);

/* Keeps the words of the latest failure; returns the status. */
lw_status_t lwc_store_fail(lwc_store_t *store, lw_status_t status, const char *format, ...) LW_PRINTF(3, 4);

#endif /* LWC_STORE_PRIVATE_H */
