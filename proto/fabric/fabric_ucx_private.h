/* fabric_ucx_private.h - what the files of the UCX fabric share. Only they include UCX.
 *
 * Objects: one fabric has one worker, at most one listener, its connections, and its operations (sends and
 * receives). An operation is in one place at a time: the free list, its connection's list (UCX holds it), or
 * the fabric's ready list (finished, its callback has still to run). An operation that UCX still holds when
 * its connection ends is an orphan: its callback has run, and it goes to the free list when UCX lets go of
 * it. */
#ifndef LW_FABRIC_UCX_PRIVATE_H
#define LW_FABRIC_UCX_PRIVATE_H

#include <ucp/api/ucp.h>

#include "base/limits.h"
#include "fabric/fabric.h"

#define LW_UCX_AM_ID 1u
#define LW_UCX_AM_READY_ID 2u /* "messages of yours reach me" */
#define LW_UCX_AM_PART_ID 3u  /* a part of a stream */
#define LW_UCX_TCP_PART_BYTES (96u << 10)
#define LW_UCX_SEGMENT_TEXT "97K"  /* UCX's tcp segment: a part just fits, so that one read is one part */
#define LW_UCX_SHM_PART_BYTES 7680u /* with all heads in one of UCX's shared-memory segments, 8256 B */
#define LW_UCX_PART_PIECES_MAX 12u /* UCX takes 16, its own header among them */
#define LW_UCX_OPS_PER_SLAB 64u
#define LW_UCX_COPY_CLASS_MIN 12u /* buffers for copies: powers of two from 4 KiB */
#define LW_UCX_COPY_CLASSES 16u   /* to 128 MiB */

typedef struct lw_ucx_link {
    struct lw_ucx_link *next, *prev;
} lw_ucx_link_t;

typedef enum lw_ucx_op_state {
    LW_UCX_OP_FREE,
    LW_UCX_OP_HELD, /* a send that waits for its connection to be ready */
    LW_UCX_OP_POSTED,
    LW_UCX_OP_READY,
    LW_UCX_OP_ORPHAN
} lw_ucx_op_state_t;

typedef struct lw_ucx_copy { /* head of a free buffer, inside it */
    struct lw_ucx_copy *next;
} lw_ucx_copy_t;

typedef struct lw_ucx_op { /* one for each send and receive in flight */
    lw_ucx_link_t link;    /* first: links are cast to operations */
    lw_conn_t *conn;       /* NULL for an orphan */
    lw_fabric_t *fabric;
    lw_fabric_done_t done;
    void *arg;
    lw_status_t status;
    lw_ucx_op_state_t state;
    uint32_t copy_class; /* of `copy` */
    uint32_t head_bytes;
    uint32_t parts, parts_left; /* of a stream: how many, and how many UCX still has to send */
    void *copy;                 /* a buffer: the pieces together, their list, or a stream's parts; or NULL */
    const void *payload;        /* what UCX is given: memory in place, or `copy` */
    size_t payload_count;
    ucp_datatype_t payload_type;
    uint8_t head[LW_MSG_HEAD_MAX];
} lw_ucx_op_t;

typedef struct lw_ucx_slab {
    struct lw_ucx_slab *next;
    lw_ucx_op_t op[LW_UCX_OPS_PER_SLAB];
} lw_ucx_slab_t;

typedef enum lw_conn_state {
    LW_CONN_OPEN,
    LW_CONN_ENDING,  /* wants closing: close_conn or an error */
    LW_CONN_CLOSING, /* UCX is closing the endpoint */
    LW_CONN_DRAINING /* the endpoint is gone, UCX has operations left */
} lw_conn_state_t;

typedef enum lw_ucx_kind {
    LW_UCX_KIND_UNKNOWN,
    LW_UCX_KIND_TCP,
    LW_UCX_KIND_SHM,
    LW_UCX_KIND_OTHER
} lw_ucx_kind_t;

typedef struct lw_ucx_inbound { /* the stream that is arriving on a connection; one at a time */
    bool open;                  /* more of it is to come */
    uint32_t id;
    uint64_t total, got;
    uint8_t *into;             /* NULL: nobody wanted it */
    lw_ucx_op_t *op;           /* the receive, while into is set */
    lw_fabric_landed_t landed; /* or NULL */
} lw_ucx_inbound_t;

struct lw_conn {
    lw_ucx_link_t link; /* in the fabric's open or ending list; first */
    lw_ucx_link_t ops;  /* posted and held operations, in order */
    lw_fabric_t *fabric;
    ucp_ep_h ep;
    void *user;
    lw_conn_state_t state;
    lw_status_t status; /* for on_closed */
    bool failed;        /* UCX reported an error */
    bool accepted;
    bool ready; /* messages may be posted */
    void *close_request;
    uint64_t close_deadline_us;
    lw_ucx_kind_t kind; /* of transport */
    uint32_t stream_id; /* of the last stream sent */
    lw_ucx_inbound_t inbound;
    char transport[64];
};

struct lw_region {
    lw_fabric_t *fabric;
    ucp_mem_h memory;
};

typedef struct lw_ucx_context { /* one for each kind of transports in the process */
    ucp_context_h context;
    char transports[32];
    unsigned users;
    bool shm;
} lw_ucx_context_t;

struct lw_fabric {
    lw_fabric_handler_t handler;
    lw_ucx_context_t *shared;
    ucp_worker_h worker;
    ucp_listener_h listener;
    int event_fd; /* an epoll set: UCX's descriptor and timer_fd */
    bool closing;
    bool worker_lost; /* UCX would abort if the worker were destroyed: it stays until the process ends */
    unsigned depth;   /* > 0 while inside send or recv: callbacks wait */
    uint32_t sends;   /* that UCX holds */
    int timer_fd;     /* in event_fd: what UCX's own descriptor does not wake for */
    bool timer_set;
    lw_ucx_link_t open, ending, ready;
    lw_ucx_link_t free_ops;
    lw_ucx_slab_t *slabs;
    lw_ucx_copy_t *copies[LW_UCX_COPY_CLASSES];
    uint64_t copy_bytes; /* held by unfinished sends */
    lw_conn_t **map;     /* endpoint -> connection: open addressing, map_size a power of two */
    uint32_t map_size, map_used;
};

static inline void lw_ucx_list_init(lw_ucx_link_t *list)
{
    list->next = list->prev = list;
}
static inline bool lw_ucx_list_empty(const lw_ucx_link_t *list)
{
    return list->next == list;
}
static inline void lw_ucx_list_add(lw_ucx_link_t *list, lw_ucx_link_t *link) /* at the end */
{
    link->next = list;
    link->prev = list->prev;
    list->prev->next = link;
    list->prev = link;
}
static inline void lw_ucx_list_remove(lw_ucx_link_t *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    lw_ucx_list_init(link);
}

/* fabric_ucx_context.c */
LW_CHECK lw_status_t lw_ucx_context_acquire(const char *transports, lw_ucx_context_t **context_out,
                                            lw_error_t *error);
void lw_ucx_context_release(lw_ucx_context_t *context);
lw_status_t lw_ucx_status(ucs_status_t status); /* UCX's word to ours */

/* fabric_ucx_conn.c */
LW_CHECK lw_status_t lw_ucx_connect(lw_fabric_t *fabric, const char *address, lw_conn_t **conn_out,
                                    lw_error_t *error);
void lw_ucx_accept(ucp_conn_request_h request, void *fabric); /* the listener's callback */
void lw_ucx_conn_end(lw_conn_t *conn, lw_status_t status); /* to the ending list; the rest follows in reap */
unsigned lw_ucx_reap(lw_fabric_t *fabric);       /* moves ending connections on; returns how many ended */
bool lw_ucx_reap_due(const lw_fabric_t *fabric); /* an ending connection can be moved on without waiting */
void lw_ucx_conn_abandon(lw_conn_t *conn);       /* completes, reports and frees it now, whatever UCX says */
lw_conn_t *lw_ucx_conn_find(const lw_fabric_t *fabric, ucp_ep_h ep);
void lw_ucx_conn_classify(lw_conn_t *conn); /* once its lanes are known: transport and kind */
const char *lw_ucx_transport_text(const lw_conn_t *conn);

/* fabric_ucx_transfer.c */
LW_CHECK lw_status_t lw_ucx_send(lw_conn_t *conn, const void *head, size_t head_bytes, const lw_iov_t *pieces,
                                 uint32_t piece_count, lw_send_mode_t mode, lw_fabric_done_t done, void *arg);
void lw_ucx_recv(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region,
                 lw_fabric_done_t done, void *arg);
void lw_ucx_recv_watched(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region,
                         lw_fabric_landed_t landed, lw_fabric_done_t done, void *arg);
ucs_status_t lw_ucx_on_message(void *arg, const void *head, size_t head_bytes, void *data, size_t data_bytes,
                               const ucp_am_recv_param_t *param);
void lw_ucx_send_ready(
    lw_conn_t *conn); /* tells the peer that it may post messages; on_ready is its callback there */
ucs_status_t lw_ucx_on_ready(void *arg, const void *head, size_t head_bytes, void *data, size_t data_bytes,
                             const ucp_am_recv_param_t *param);
void lw_ucx_cancel_early(lw_conn_t *conn, lw_status_t status); /* ends operations that UCX knows nothing of */

/* fabric_ucx_op.c: operations and their buffers */
lw_ucx_op_t *lw_ucx_op_acquire(lw_conn_t *conn, lw_fabric_done_t done,
                               void *arg); /* posted; NULL without memory */
void lw_ucx_op_release(lw_ucx_op_t *op);
void lw_ucx_op_ready(lw_ucx_op_t *op, lw_status_t status);         /* over; its callback runs from progress */
void lw_ucx_op_complete(lw_ucx_op_t *op, ucs_status_t ucs_status); /* UCX has let go of it */
/* Gives op a buffer of at least `bytes`, until it is released. ERR_BUSY at the fabric's limit. */
LW_CHECK lw_status_t lw_ucx_copy_acquire(lw_ucx_op_t *op, size_t bytes);
unsigned lw_ucx_run_ready(lw_fabric_t *fabric);
void lw_ucx_orphan_ops(lw_conn_t *conn,
                       lw_status_t status); /* completes what UCX still holds of a connection */
void lw_ucx_ops_fini(lw_fabric_t *fabric);  /* frees operations and buffers; the worker is gone */

/* fabric_ucx_stream.c: a payload in parts, each landed as it comes */
LW_CHECK lw_status_t lw_ucx_stream_lay_out(lw_ucx_op_t *op, const lw_iov_t *pieces, uint32_t piece_count,
                                           uint64_t bytes);
LW_CHECK lw_status_t lw_ucx_stream_post(lw_ucx_op_t *op);
bool lw_ucx_stream_cancel(lw_conn_t *conn, const void *arg);
ucs_status_t lw_ucx_on_part(void *arg, const void *head, size_t head_bytes, void *data, size_t data_bytes,
                            const ucp_am_recv_param_t *param);

typedef struct lw_ucx_arrival { /* a message inside on_message; what msg->handle points to */
    lw_conn_t *conn;
    void *data;
    size_t bytes;
    bool rendezvous, stream, taken;
} lw_ucx_arrival_t;

#endif /* LW_FABRIC_UCX_PRIVATE_H */
