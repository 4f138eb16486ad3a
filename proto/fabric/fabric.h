/* fabric.h - moving bytes between processes: one table, implemented over UCX and, in one process, by the
 * simulator.
 *
 * A fabric belongs to one thread (one UCX worker, single-thread mode). It moves messages that have a small
 * head and an optional payload; it does not read them. Nothing blocks but lw_fabric wait helpers; callbacks
 * run inside progress() and may call send, recv and close_conn, never progress or close.
 *
 * Who notices a dead peer: connection failures end in on_closed exactly once for each connection, with every
 * send and receive of that connection completed before it. A peer that is only silent is noticed by nobody
 * here: callers keep a deadline for each request and ping (the transports' own detection misses hung and
 * unreachable peers).
 *
 * Addresses are "host:port" or "[v6 address]:port". Numeric hosts never block; a name is resolved inside
 * listen and connect by the system's resolver, which may take its time.
 *
 * Memory: `head` bytes given to send are copied; payload memory is borrowed until the send's callback. A
 * received head is valid inside on_message only and may be unaligned; so is an eager payload.
 */
#ifndef LW_FABRIC_H
#define LW_FABRIC_H

#include <stdbool.h>

#include "base/error.h"

typedef struct lw_fabric lw_fabric_t; /* one per thread; defined by each implementation */
typedef struct lw_conn lw_conn_t;     /* one per peer and lane */
typedef struct lw_region lw_region_t; /* registered memory */

typedef struct lw_iov {
    const void *data;
    size_t bytes;
} lw_iov_t;

#define LW_FABRIC_IOV_MAX 8192u /* more pieces than this are sent by copying */
#define LW_FABRIC_PAYLOAD_MAX \
    (80ull << 20) /* bytes of one payload: the largest bulk and the largest lists fit */
#define LW_FABRIC_COPY_BYTES_MAX \
    (512ull << 20) /* bytes of all copies that a fabric's unfinished sends hold */

/* How a payload of several pieces is sent: copied together first, or read in place while it is sent. AUTO
 * chooses from what was measured for the transport in use (docs/decisions/0002-send-modes.md). */
typedef enum lw_send_mode { LW_SEND_AUTO = 0, LW_SEND_COPY, LW_SEND_IOV } lw_send_mode_t;

/* A message that has arrived. `data` is NULL when the payload still lies with the sender (rendezvous). */
typedef struct lw_fabric_msg {
    const void *head;
    size_t head_bytes;
    const void *data;
    size_t data_bytes;
    void *handle; /* for recv(); valid until on_message returns, or until recv's callback once recv was called
                   */
} lw_fabric_msg_t;

typedef void (*lw_fabric_done_t)(void *arg, lw_status_t status);
typedef void (*lw_fabric_landed_t)(void *arg, uint64_t bytes);

typedef struct lw_fabric_handler {
    /* A message. To keep the payload call recv() from inside; otherwise it is dropped. */
    void (*on_message)(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg);
    /* A peer connected to our listener. conn->user may be set with set_user. */
    void (*on_accept)(void *arg, lw_conn_t *conn);
    /* The connection has ended: forget conn. Exactly once each, also when the fabric is closed. Status: OK
     * after close_conn, ERR_CANCELED when the fabric closes, ERR_UNREACHABLE when the peer refused, went away
     * or was lost. Never from inside close_conn, send or recv. */
    void (*on_closed)(void *arg, lw_conn_t *conn, lw_status_t status);
    void *arg;
} lw_fabric_handler_t;

typedef struct lw_fabric_params {
    const char *transports; /* "tcp", "shm" (shm with tcp for connecting), "rdma", "auto" (rdma and tcp);
                               NULL: auto */
    lw_fabric_handler_t handler;
} lw_fabric_params_t;

typedef struct lw_fabric_ops {
    const char *name; /* "ucx", "sim" */

    LW_CHECK lw_status_t (*open)(const lw_fabric_params_t *params, lw_fabric_t **fabric_out,
                                 lw_error_t *error);
    /* Closes connections without ceremony; completes everything outstanding with ERR_CANCELED, then runs
     * on_closed for each connection, before it returns. Never from inside a callback. */
    void (*close)(lw_fabric_t *fabric);

    /* "host:port"; port 0 picks one. A listener address in use is an error that names it. */
    LW_CHECK lw_status_t (*listen)(lw_fabric_t *fabric, const char *address, lw_error_t *error);
    /* The address that peers connect to, with the real port, into text[text_bytes]. */
    LW_CHECK lw_status_t (*address)(lw_fabric_t *fabric, char *text, size_t text_bytes);

    /* Returns at once; a refused or unreachable peer ends in on_closed. Sends may be queued right away. */
    LW_CHECK lw_status_t (*connect)(lw_fabric_t *fabric, const char *address, lw_conn_t **conn_out,
                                    lw_error_t *error);
    /* Begins to end the connection; twice is as good as once. What is outstanding completes (ERR_CANCELED
     * where it was not done), no further message is delivered, and on_closed follows from progress, at most
     * about a second later. Messages that were sent and not yet completed may be lost. */
    void (*close_conn)(lw_conn_t *conn);
    void (*set_user)(lw_conn_t *conn, void *user);
    void *(*user)(const lw_conn_t *conn);

    /* Sends head (copied, at most LW_MSG_HEAD_MAX) and pieces in order as one payload. `done` (may be NULL)
     * runs from progress when the payload memory may be reused, also after an error; never from inside send.
     * Returns OK (done will run), or an error (it will not): ERR_INVALID for a head above the limit or a
     * payload above LW_FABRIC_PAYLOAD_MAX, ERR_BUSY when copies of earlier sends fill
     * LW_FABRIC_COPY_BYTES_MAX (progress and retry), ERR_UNREACHABLE or ERR_CANCELED on a connection that is
     * ending. */
    LW_CHECK lw_status_t (*send)(lw_conn_t *conn, const void *head, size_t head_bytes, const lw_iov_t *pieces,
                                 uint32_t piece_count, lw_send_mode_t mode, lw_fabric_done_t done, void *arg);
    /* From inside on_message: lands the payload (all msg->data_bytes of it) in `into`. `done` runs once,
     * perhaps before recv returns. `region` says in which registered memory `into` lies, or NULL. */
    void (*recv)(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region,
                 lw_fabric_done_t done, void *arg);

    /* As recv, and `landed` (never NULL) may run before done, any number of times, with the number of leading
     * bytes that are in place: a receiver can hash them while they are in the cache. Same argument as done's.
     */
    void (*recv_watched)(lw_fabric_t *fabric, const lw_fabric_msg_t *msg, void *into, lw_region_t *region,
                         lw_fabric_landed_t landed, lw_fabric_done_t done, void *arg);

    /* Gives up the receive that was begun on `conn` with this `arg`. True: nothing writes into its memory any
     * more, and its callback does not run. False: there is none, or it has to run to its end. What still comes
     * of its payload is thrown away. */
    bool (*recv_cancel)(lw_conn_t *conn, const void *arg);

    /* Registers memory for zero-copy transfers; ERR_EXHAUSTED when the memlock limit is too small (callers go
     * on without). */
    LW_CHECK lw_status_t (*register_memory)(lw_fabric_t *fabric, void *memory, size_t bytes,
                                            lw_region_t **region_out, lw_error_t *error);
    void (*unregister)(lw_region_t *region);

    /* Does all the work there is, up to a bound; returns how many events it handled (0: nothing to do now).
     */
    unsigned (*progress)(lw_fabric_t *fabric);
    /* For sleeping: arm() returns true when it is safe to sleep on event_fd() (readable when there is work),
     * false when progress must be called first. event_fd() is -1 where there is none (sim). */
    int (*event_fd)(lw_fabric_t *fabric);
    bool (*arm)(lw_fabric_t *fabric);
    /* What carries the bytes to this peer, in words ("tcp/lo", "posix+cma"), for doctor, status and
     * benchmarks. */
    const char *(*transport_text)(const lw_conn_t *conn);
} lw_fabric_ops_t;

/* NULL where UCX was not built in. */
const lw_fabric_ops_t *lw_fabric_ucx(void);

/* Progress, adaptively: progress until something happens; spin up to spin_us after the last event, then sleep
 * on the event descriptor for at most wait_us. Returns events handled. Clock-free callers pass spin_us = 0.
 */
unsigned lw_fabric_wait(const lw_fabric_ops_t *ops, lw_fabric_t *fabric, uint64_t spin_us, uint64_t wait_us);

#endif /* LW_FABRIC_H */
