/* rpc_grpc.c - start-up, logging, statuses and bytes of the gRPC binding. Used by its client and its server half. */
#include "rpc/rpc_grpc_private.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

static pthread_once_t rpc_once = PTHREAD_ONCE_INIT;

static void rpc_log_line(gpr_log_func_args *args)
{
    /* What gRPC calls an error is mostly a peer's doing (a refused handshake, a closed socket), and the call that it
     * spoils reports it anyway. */
    lw_log_level_t level = args->severity == GPR_LOG_SEVERITY_ERROR ? LW_LOG_INFO : LW_LOG_DEBUG;
    if (strncmp(args->message, "assertion failed", 16) == 0)
        level = LW_LOG_ERROR; /* the process ends next */
    lw_log(level, "grpc", "%s", args->message);
}

static void rpc_start(void)
{
    gpr_set_log_function(rpc_log_line);
    grpc_init();
}

void lw_rpc_grpc_init(void)
{
    pthread_once(&rpc_once, rpc_start);
}

void lw_rpc_grpc_loop(grpc_completion_queue *queue)
{
    for (;;) {
        grpc_event event = grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return;
        if (event.type == GRPC_OP_COMPLETE) {
            lw_rpc_tag_t *tag = event.tag;
            (void)atomic_load_explicit(&tag->handed, memory_order_acquire);
            tag->done(tag->owner, event.success != 0);
        }
    }
}

lw_status_t lw_rpc_status_of_code(grpc_status_code code)
{
    switch (code) {
    case GRPC_STATUS_OK: return LW_OK;
    case GRPC_STATUS_DEADLINE_EXCEEDED: return LW_ERR_TIMEOUT;
    case GRPC_STATUS_UNAVAILABLE: return LW_ERR_UNREACHABLE;
    case GRPC_STATUS_NOT_FOUND: return LW_ERR_NOT_FOUND;
    case GRPC_STATUS_PERMISSION_DENIED:
    case GRPC_STATUS_UNAUTHENTICATED: return LW_ERR_PERMISSION;
    case GRPC_STATUS_RESOURCE_EXHAUSTED: return LW_ERR_EXHAUSTED;
    case GRPC_STATUS_INVALID_ARGUMENT:
    case GRPC_STATUS_OUT_OF_RANGE: return LW_ERR_INVALID;
    case GRPC_STATUS_UNIMPLEMENTED: return LW_ERR_UNSUPPORTED;
    case GRPC_STATUS_ABORTED: return LW_ERR_STALE;
    case GRPC_STATUS_ALREADY_EXISTS: return LW_ERR_EXISTS;
    case GRPC_STATUS_CANCELLED: return LW_ERR_CANCELED;
    case GRPC_STATUS_FAILED_PRECONDITION: return LW_ERR_BUSY;
    case GRPC_STATUS_DATA_LOSS: return LW_ERR_CORRUPT;
    default: return LW_ERR_IO;
    }
}

grpc_status_code lw_rpc_code_of_status(lw_status_t status)
{
    switch (status) {
    case LW_OK: return GRPC_STATUS_OK;
    case LW_ERR_INVALID: return GRPC_STATUS_INVALID_ARGUMENT;
    case LW_ERR_BUSY: return GRPC_STATUS_FAILED_PRECONDITION;
    case LW_ERR_TIMEOUT: return GRPC_STATUS_DEADLINE_EXCEEDED;
    case LW_ERR_CANCELED: return GRPC_STATUS_CANCELLED;
    case LW_ERR_UNSUPPORTED:
    case LW_ERR_VERSION: return GRPC_STATUS_UNIMPLEMENTED;
    case LW_ERR_STALE: return GRPC_STATUS_ABORTED;
    case LW_ERR_NOT_FOUND: return GRPC_STATUS_NOT_FOUND;
    case LW_ERR_PERMISSION: return GRPC_STATUS_PERMISSION_DENIED;
    case LW_ERR_NO_MEMORY:
    case LW_ERR_EXHAUSTED:
    case LW_ERR_QUOTA: return GRPC_STATUS_RESOURCE_EXHAUSTED;
    case LW_ERR_UNREACHABLE:
    case LW_ERR_FLEET: return GRPC_STATUS_UNAVAILABLE;
    case LW_ERR_EXISTS: return GRPC_STATUS_ALREADY_EXISTS;
    case LW_ERR_SESSION_LOST:
    case LW_ERR_CORRUPT: return GRPC_STATUS_DATA_LOSS;
    default: return GRPC_STATUS_INTERNAL;
    }
}

lw_status_t lw_rpc_flatten(grpc_byte_buffer *buffer, lw_rpc_bytes_t *out)
{
    grpc_byte_buffer_reader reader;
    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return LW_ERR_INVALID;
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    grpc_byte_buffer_reader_destroy(&reader);
    lw_status_t status = LW_OK;
    size_t bytes = GRPC_SLICE_LENGTH(slice);
    if (bytes > LW_RPC_MESSAGE_MAX) {
        status = LW_ERR_INVALID; /* a compressed message may pass the transport's limit and still be too large */
    } else {
        uint8_t *data = malloc(bytes ? bytes : 1);
        if (data) {
            memcpy(data, GRPC_SLICE_START_PTR(slice), bytes);
            *out = (lw_rpc_bytes_t){.data = data, .bytes = bytes};
        } else {
            status = LW_ERR_NO_MEMORY;
        }
    }
    grpc_slice_unref(slice);
    return status;
}

void lw_rpc_bytes_free(lw_rpc_bytes_t *bytes)
{
    free(bytes->data);
    *bytes = (lw_rpc_bytes_t){0};
}

grpc_byte_buffer *lw_rpc_buffer(const void *data, size_t bytes)
{
    grpc_slice slice = grpc_slice_from_copied_buffer(data ? data : "", data ? bytes : 0);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

gpr_timespec lw_rpc_deadline(uint64_t timeout_us)
{
    if (timeout_us > (uint64_t)INT64_MAX / 1000u)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    return gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_micros((int64_t)timeout_us, GPR_TIMESPAN));
}
