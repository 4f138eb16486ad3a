/* net_private.h - what the files of this folder share: the worker, its peers and the requests in flight. */
#ifndef LWD_NET_PRIVATE_H
#define LWD_NET_PRIVATE_H

#include "base/log.h"
#include "storaged/net/net.h"
#include "storaged/net/ring.h"
#include "storaged/shard/attach.h"

typedef enum lwd_peer_state {
    LWD_PEER_FREE,
    LWD_PEER_NEW, /* connected, has not said HELLO, or was refused */
    LWD_PEER_READY,
    LWD_PEER_CLOSING, /* told to close, or closed with requests left */
} lwd_peer_state_t;

typedef struct lwd_request lwd_request_t;

/* One for each connection; connection_max of them. */
typedef struct lwd_peer {
    lw_conn_t *conn; /* NULL once the fabric has closed it */
    lwd_peer_state_t state;
    bool rising; /* a proof to write is with the owner */
    bool node;   /* it has shown the node token */
    bool up;     /* it has proved one: the shard counts this connection for the client that it says it is */
    uint64_t since_us; /* of its accept */
    uint32_t index, in_flight;
    uint32_t next_free;
    uint64_t client_id, incarnation;
    lwd_request_t *requests; /* in flight, newest first */
} lwd_peer_t;

typedef enum lwd_change {
    LWD_CHANGE_BYE = 1,
    LWD_CHANGE_ATTACH,
    LWD_CHANGE_RESERVE,
    LWD_CHANGE_COMMIT_BEGIN,
    LWD_CHANGE_COMMIT_END,
    LWD_CHANGE_ABORT,
    LWD_CHANGE_DISTRUST,
    LWD_CHANGE_LOAD, /* may take a while: wait.c */
} lwd_change_t;

/* A request from its message to the end of its reply; request_max of them. */
struct lwd_request {
    lwd_worker_t *worker;
    lwd_peer_t *peer;
    lwd_request_t *next, *prev; /* of the peer; next also chains free ones */
    uint32_t index, turn;       /* together the ticket of a question */
    uint16_t type;              /* lw_msg_type_t of the request */
    bool canceled;
    bool first; /* ATTACH: the connection's first proof to write */
    lwd_change_t change;
    lw_status_t status; /* of the change */
    uint64_t request_id, started_us;
    uint64_t buffer; /* in the reply area, or LWD_EXTENT_NONE */
    lwd_ref_t ref;
    uint32_t borrow_count;
    lwd_segment_t **borrowed; /* [borrow_count]: &one, or in the buffer */
    lwd_segment_t *one;
    uint64_t client_id, incarnation;
    lwd_reserved_t reserved;  /* RESERVE */
    bool done;                /* COMMIT of what was written before */
    lw_segment_name_t *names; /* ATTACH: in the buffer */
    lwd_request_t *wait_next; /* LOAD: at the owner */
    lwd_ref_t *wait_refs;     /* LOAD: in the buffer, or &ref */
    uint32_t wait_count;
    uint64_t wait_until_us; /* 0: it has not waited */
    lwd_ref_t *refs;          /* ATTACH: in the buffer; slot LWD_SLOT_NONE: not found */
    lw_msg_t msg;
};

typedef struct lwd_slice {
    uint8_t *base;
    uint64_t bytes;
    lw_region_t *region; /* NULL: not registered */
} lwd_slice_t;

struct lwd_worker {
    lwd_worker_params_t params;
    lw_fabric_t *fabric;
    char address[LW_ADDRESS_MAX];
    uint64_t now_us;
    lwd_peer_t *peers;
    uint32_t peer_free, peer_count;
    uint32_t byes;      /* closed peers that the owner has not been told of */
    uint32_t strangers; /* peers that have not said HELLO */
    lwd_request_t *requests;
    lwd_request_t *request_free;
    uint32_t request_count; /* in flight */
    uint32_t small_sends;   /* replies without a request that the fabric has not sent yet */
    lwd_attach_t *attach;
    uint8_t *reply; /* reply and landing buffers */
    uint64_t reply_mapped;
    lwd_extents_t *reply_extents;
    uint8_t *lists;   /* aligned copy of a request's lists */
    lw_iov_t *pieces; /* of the reply being built */
    uint32_t *checks;
    int32_t *run_status;
    lwd_segment_t **borrows; /* segments of the reply being built */
    uint64_t contiguous_at;  /* where the next contiguous answer begins */
    uint32_t fetch_count;
    lwd_slice_t *slices;
    uint32_t slice_count;
    lwd_ring_t answers, endings, changes, returned, tasks;
    uint64_t next_space_ask_us, next_show_us, next_stranger_us;
    lwd_request_t *waiting_first, *waiting_last; /* the owner: requests for segments in the log, oldest first */
    uint64_t waits_seen;                         /* lwd_shard_settled when they were looked at */
    _Atomic bool nudged;                         /* the duty has something to do */
    bool orphans_asked;
    lw_segment_name_t suspects[LWD_SUSPECTS_MAX];
    uint32_t suspect_count;
    int wake_fd;
    _Atomic bool asleep;
    _Atomic uint64_t stop_at_us; /* 0: running */
    _Atomic bool stopped;
    lw_log_rate_t malformed_log;
};

static inline lwd_stats_t *lwd_stats(lwd_worker_t *worker)
{
    return worker->params.stats;
}
static inline bool lwd_is_owner(const lwd_worker_t *worker)
{
    return worker->params.owner == NULL;
}

/* worker.c */
void lwd_worker_wake(lwd_worker_t *worker);

/* peer.c */
LW_CHECK lw_status_t lwd_peers_init(lwd_worker_t *worker);
void lwd_peer_accept(lwd_worker_t *worker, lw_conn_t *conn);
void lwd_peer_closed(lwd_worker_t *worker, lwd_peer_t *peer);
void lwd_peer_close(lwd_worker_t *worker, lwd_peer_t *peer); /* our wish */
void lwd_peers_say_bye(lwd_worker_t *worker);                /* those that could not be told of before */
/* NULL: the pool or the peer's share is used up. */
lwd_request_t *lwd_request_acquire(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg);
void lwd_request_release(lwd_request_t *request);
/* Reply memory of `bytes`; NULL: the pool is used up. */
uint8_t *lwd_request_buffer(lwd_request_t *request, uint64_t bytes);

/* reply.c: each of these ends the request, if there is one. */
void lwd_reply_small(lwd_worker_t *worker, lwd_peer_t *peer, lw_msg_t *msg); /* no payload; no request */
void lwd_reply_status(lwd_worker_t *worker, lwd_peer_t *peer, uint16_t type, uint64_t request_id,
                      lw_status_t status);
void lwd_request_answer(lwd_request_t *request, lw_status_t status);
void lwd_request_reply(lwd_request_t *request, lw_msg_t *msg); /* no payload */
/* With a payload: lists (list_bytes at the first piece's start) and bulk; the memory stays until the send is
 * done. */
void lwd_request_send(lwd_request_t *request, lw_msg_t *msg, const void *lists, uint32_t list_bytes,
                      const lw_iov_t *pieces, uint32_t piece_count, lw_send_mode_t mode);

/* change.c */
void lwd_change_submit(lwd_request_t *request, lwd_change_t change);
unsigned lwd_changes_run(lwd_worker_t *worker); /* the owner: what others handed over */
unsigned lwd_changes_returned(lwd_worker_t *worker);
void lwd_change_return(lwd_worker_t *owner, lwd_request_t *request); /* the owner has done its part */

/* wait.c */
/* FETCH: waits until all segments of its runs can be read at once; the request is somebody else's then. False: no room for
 * that, or it has waited for too long. */
bool lwd_wait_for_runs(lwd_request_t *request, const lw_msg_t *msg);
bool lwd_wait_for_one(lwd_request_t *request, lwd_ref_t ref);         /* READ */
bool lwd_wait_begin(lwd_worker_t *owner, lwd_request_t *request);     /* true: nothing to wait for */
unsigned lwd_waits_run(lwd_worker_t *owner);
void lwd_fetch_waited(lwd_request_t *request);
void lwd_read_waited(lwd_request_t *request);

/* am.c */
void lwd_on_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg);
/* Counts, logs at most once a second, and closes the connection. */
void lwd_malformed(lwd_worker_t *worker, lwd_peer_t *peer, const lw_error_t *error);

/* hello.c, claim.c, put.c, fetch.c, read.c: one message each */
void lwd_serve_hello(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg);
void lwd_hello_expire(lwd_worker_t *worker); /* closes those that took too long */
void lwd_serve_attach(lwd_worker_t *worker, lwd_peer_t *peer, lw_msg_t *msg, const lw_fabric_msg_t *arrived);
void lwd_attach_checked(lwd_worker_t *worker, const lwd_news_t *news);
void lwd_attach_done(lwd_request_t *request);
void lwd_serve_reserve(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg);
void lwd_reserve_done(lwd_request_t *request);
void lwd_serve_write(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg,
                     const lw_fabric_msg_t *arrived);
void lwd_serve_commit(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg);
void lwd_commit_begun(lwd_request_t *request);
void lwd_commit_done(lwd_request_t *request);
void lwd_serve_doubt(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg); /* COMMIT of another node */
void lwd_serve_abort(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg);
void lwd_serve_fetch(lwd_worker_t *worker, lwd_peer_t *peer, lw_msg_t *msg, const lw_fabric_msg_t *arrived);
void lwd_serve_read(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg);

/* region.c */
LW_CHECK lw_status_t lwd_slices_register(lwd_worker_t *worker);
void lwd_slices_unregister(lwd_worker_t *worker);
/* The registered memory that holds all of [at, at + bytes); NULL: none. */
lw_region_t *lwd_slice_region(const lwd_worker_t *worker, const uint8_t *at, uint64_t bytes);

#endif /* LWD_NET_PRIVATE_H */
