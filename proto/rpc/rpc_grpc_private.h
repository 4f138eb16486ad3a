/* rpc_grpc_private.h - what the client half and the server half of the gRPC binding share. Only proto/rpc/rpc_grpc*
 * include gRPC's headers: its C core promises no compatibility between releases. */
#ifndef LW_RPC_GRPC_PRIVATE_H
#define LW_RPC_GRPC_PRIVATE_H

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <stdatomic.h>

#include "rpc/rpc.h"

#define LW_RPC_STATUS_KEY "lw-status" /* trailing metadata: the exact lw_status_t in decimal */

/* One batch in flight on a completion queue. Embedded in its owner, which stays until `done` has run. */
typedef struct lw_rpc_tag {
    void (*done)(void *owner, bool ok);
    void *owner;
    atomic_uint handed;
} lw_rpc_tag_t;

/* Before a tag goes into gRPC: what was written until here is seen by `done`. The queue orders that too, but no tool that
 * watches only our code can know. */
static inline lw_rpc_tag_t *lw_rpc_tag_hand(lw_rpc_tag_t *tag)
{
    atomic_store_explicit(&tag->handed, 1, memory_order_release);
    return tag;
}

/* Starts gRPC once a process and sends its log lines to ours. It is never shut down: the C core does that on a thread of
 * its own, which races with exit(). */
void lw_rpc_grpc_init(void);

/* The body of a completion-queue thread: runs tags until the queue is shut down and drained. */
void lw_rpc_grpc_loop(grpc_completion_queue *queue);

lw_status_t lw_rpc_status_of_code(grpc_status_code code);
grpc_status_code lw_rpc_code_of_status(lw_status_t status);

/* Flattens (and decompresses) a byte buffer; the caller frees out with lw_rpc_bytes_free. */
LW_CHECK lw_status_t lw_rpc_flatten(grpc_byte_buffer *buffer, lw_rpc_bytes_t *out);
grpc_byte_buffer *lw_rpc_buffer(const void *data, size_t bytes);
gpr_timespec lw_rpc_deadline(uint64_t timeout_us);

#endif /* LW_RPC_GRPC_PRIVATE_H */
