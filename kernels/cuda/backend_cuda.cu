/* backend_cuda.cu - the table of the CUDA backend, and its device half: memory, streams, events, graphs. Thin over the
 * runtime: a stream is a cudaStream_t (NULL: the default one), an event a cudaEvent_t, a graph a cudaGraphExec_t. Every
 * call leaves the caller's current device as it found it. alloc, free and copy: any thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/dev.cuh"
#include "kernels/cuda/select_work.h"
#include "kernels/cuda/step.cuh"
#include "kernels/stubs.h"

/* ---- the current device ---- */

typedef struct guard {
    int before, now;
} guard_t;

static guard_t enter(const lwk_dev_t *dev)
{
    guard_t guard = {dev->ordinal, dev->ordinal};
    if (cudaGetDevice(&guard.before) == cudaSuccess && guard.before != guard.now)
        (void)cudaSetDevice(guard.now);
    return guard;
}

static void leave(guard_t guard)
{
    if (guard.before != guard.now)
        (void)cudaSetDevice(guard.before);
}

/* ---- open, close ---- */

static lw_status_t cuda_open(unsigned ordinal, lwk_dev_t **dev_out, lw_error_t *error)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || ordinal >= (unsigned)count)
        return lw_fail(error, LW_ERR_INVALID, "device is %u, must be below %d", ordinal, count);
    lwk_dev_t *dev = (lwk_dev_t *)calloc(1, sizeof *dev);
    if (dev == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a device");
    dev->ordinal = (int)ordinal;
    guard_t guard = enter(dev);
    cudaDeviceProp properties;
    cudaError_t what = cudaGetDeviceProperties(&properties, dev->ordinal);
    if (what == cudaSuccess)
        what = cudaStreamCreateWithFlags(&dev->fill, cudaStreamNonBlocking);
    if (what == cudaSuccess)
        what = cudaMalloc((void **)&dev->counters, sizeof *dev->counters);
    if (what == cudaSuccess)
        what = cudaMemsetAsync(dev->counters, 0, sizeof *dev->counters, dev->fill);
    if (what == cudaSuccess)
        what = cudaStreamSynchronize(dev->fill);
    if (what == cudaSuccess) {
        dev->processors = (unsigned)properties.multiProcessorCount;
        snprintf(dev->text, sizeof dev->text, "%.40s sm_%d%d", properties.name, properties.major,
                 properties.minor);
        leave(guard);
        *dev_out = dev;
        return LW_OK;
    }
    lw_status_t status = lw_fail(error, what == cudaErrorMemoryAllocation ? LW_ERR_NO_MEMORY : LW_ERR_DEVICE,
                                 "device %u does not open: %s", ordinal, cudaGetErrorString(what));
    if (dev->counters != NULL)
        (void)cudaFree(dev->counters);
    if (dev->fill != NULL)
        (void)cudaStreamDestroy(dev->fill);
    leave(guard);
    free(dev);
    return status;
}

static void cuda_close(lwk_dev_t *dev)
{
    guard_t guard = enter(dev);
    (void)cudaFree(dev->counters);
    (void)cudaStreamDestroy(dev->fill);
    leave(guard);
    free(dev);
}

static const char *cuda_describe(lwk_dev_t *dev)
{
    return dev->text;
}

/* ---- memory ---- */

static lw_status_t cuda_alloc(lwk_dev_t *dev, lwk_memory_t kind, size_t bytes, void **ptr_out)
{
    if (kind != LWK_MEMORY_DEVICE && kind != LWK_MEMORY_PINNED && kind != LWK_MEMORY_PEER)
        return LW_ERR_INVALID;
    if (bytes > SIZE_MAX / 2)
        return LW_ERR_NO_MEMORY;
    size_t rounded = lw_align_up(bytes > 0 ? bytes : 1, 64);
    guard_t guard = enter(dev);
    void *ptr = NULL;
    lw_status_t status;
    if (kind == LWK_MEMORY_PINNED) {
        status = lwk_cuda_check("pinned memory",
                                cudaHostAlloc(&ptr, rounded, cudaHostAllocMapped | cudaHostAllocPortable));
        if (status == LW_OK)
            memset(ptr, 0, rounded);
    } else {
        status = lwk_cuda_check("device memory", cudaMalloc(&ptr, rounded));
        if (status == LW_OK)
            status = lwk_cuda_check("device memory", cudaMemsetAsync(ptr, 0, rounded, dev->fill));
        if (status == LW_OK)
            status = lwk_cuda_check("device memory", cudaStreamSynchronize(dev->fill));
        if (status != LW_OK && ptr != NULL)
            (void)cudaFree(ptr);
    }
    leave(guard);
    if (status == LW_OK)
        *ptr_out = ptr;
    return status;
}

static void cuda_free(lwk_dev_t *dev, lwk_memory_t kind, void *ptr)
{
    if (ptr == NULL)
        return;
    guard_t guard = enter(dev);
    (void)lwk_cuda_check("free", kind == LWK_MEMORY_PINNED ? cudaFreeHost(ptr) : cudaFree(ptr));
    leave(guard);
}

/* Ops get host addresses, so memory that the device sees elsewhere is of no use. */
static lw_status_t cuda_register_host(lwk_dev_t *dev, void *ptr, size_t bytes)
{
    if (ptr == NULL || bytes == 0)
        return LW_ERR_INVALID;
    guard_t guard = enter(dev);
    void *seen = NULL;
    lw_status_t status =
        lwk_cuda_check("register", cudaHostRegister(ptr, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable));
    if (status == LW_OK && (cudaHostGetDevicePointer(&seen, ptr, 0) != cudaSuccess || seen != ptr)) {
        (void)cudaHostUnregister(ptr);
        status = LW_ERR_UNSUPPORTED;
    }
    leave(guard);
    return status;
}

static void cuda_unregister_host(lwk_dev_t *dev, void *ptr)
{
    guard_t guard = enter(dev);
    (void)lwk_cuda_check("unregister", cudaHostUnregister(ptr));
    leave(guard);
}

static lw_status_t cuda_copy(lwk_dev_t *dev, void *to, const void *from, size_t bytes, void *stream)
{
    if (bytes == 0)
        return LW_OK;
    guard_t guard = enter(dev);
    lw_status_t status =
        lwk_cuda_check("copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, (cudaStream_t)stream));
    leave(guard);
    return status;
}

/* ---- ordering ---- */

static lw_status_t cuda_stream_create(lwk_dev_t *dev, void **stream_out)
{
    guard_t guard = enter(dev);
    cudaStream_t stream = NULL;
    lw_status_t status = lwk_cuda_check("stream", cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    leave(guard);
    if (status == LW_OK)
        *stream_out = stream;
    return status;
}

static void cuda_stream_destroy(lwk_dev_t *dev, void *stream)
{
    guard_t guard = enter(dev);
    (void)lwk_cuda_check("stream", cudaStreamDestroy((cudaStream_t)stream));
    leave(guard);
}

static lw_status_t cuda_event_create(lwk_dev_t *dev, lwk_event_t **event_out)
{
    guard_t guard = enter(dev);
    cudaEvent_t event = NULL;
    lw_status_t status = lwk_cuda_check("event", cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    leave(guard);
    if (status == LW_OK)
        *event_out = (lwk_event_t *)event;
    return status;
}

static void cuda_event_destroy(lwk_event_t *event)
{
    (void)lwk_cuda_check("event", cudaEventDestroy((cudaEvent_t)event));
}

static lw_status_t cuda_event_record(lwk_event_t *event, void *stream)
{
    return lwk_cuda_check("event", cudaEventRecord((cudaEvent_t)event, (cudaStream_t)stream));
}

static lw_status_t cuda_event_query(lwk_event_t *event)
{
    cudaError_t error = cudaEventQuery((cudaEvent_t)event);
    return error == cudaErrorNotReady ? LW_INPROGRESS : lwk_cuda_check("event", error);
}

static lw_status_t cuda_stream_wait(lwk_dev_t *dev, void *stream, lwk_event_t *event)
{
    guard_t guard = enter(dev);
    lw_status_t status =
        lwk_cuda_check("event", cudaStreamWaitEvent((cudaStream_t)stream, (cudaEvent_t)event, 0));
    leave(guard);
    return status;
}

/* Thread local: what other threads allocate meanwhile is no part of it. */
static lw_status_t cuda_capture_begin(lwk_dev_t *dev, void *stream)
{
    if (stream == NULL) /* the default stream cannot be captured */
        return LW_ERR_INVALID;
    guard_t guard = enter(dev);
    lw_status_t status = lwk_cuda_check(
        "capture", cudaStreamBeginCapture((cudaStream_t)stream, cudaStreamCaptureModeThreadLocal));
    leave(guard);
    return status;
}

static lw_status_t cuda_capture_end(lwk_dev_t *dev, void *stream, lwk_graph_t **graph_out)
{
    guard_t guard = enter(dev);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready = NULL;
    lw_status_t status = lwk_cuda_check("capture", cudaStreamEndCapture((cudaStream_t)stream, &graph));
    if (status == LW_OK)
        status = lwk_cuda_check("graph", cudaGraphInstantiate(&ready, graph, 0));
    if (graph != NULL)
        (void)cudaGraphDestroy(graph);
    leave(guard);
    if (status == LW_OK)
        *graph_out = (lwk_graph_t *)ready;
    return status;
}

static lw_status_t cuda_graph_launch(lwk_graph_t *graph, void *stream)
{
    return lwk_cuda_check("graph", cudaGraphLaunch((cudaGraphExec_t)graph, (cudaStream_t)stream));
}

static void cuda_graph_destroy(lwk_graph_t *graph)
{
    (void)lwk_cuda_check("graph", cudaGraphExecDestroy((cudaGraphExec_t)graph));
}

lw_status_t lwk_cuda_load_step(const lwk_shape_t *shape)
{
    lw_status_t status = lwk_cuda_prepare_load(shape);
    if (status != LW_OK || shape == NULL)
        return status;
    status = lwk_cuda_score_load(shape);
    if (status == LW_OK)
        status = lwk_cuda_attend_load(shape);
    return status == LW_OK ? lwk_cuda_finish_load(shape) : status;
}

static lw_status_t cuda_warm_up(lwk_dev_t *dev, const lwk_dims_t *dims)
{
    guard_t guard = enter(dev);
    lw_status_t status = lwk_cuda_load_step(&dims->shape);
    leave(guard);
    return status;
}

/* ---- ops ---- */

uint64_t lwk_cuda_workspace_bytes(const lwk_dims_t *dims)
{
    return lwk_cuda_select_carve(&dims->shape, dims->session_count, dims->query_tokens, dims->entry_capacity, NULL,
                                 NULL) +
           lwk_cuda_finish_bytes(dims);
}

/* Each op on its own device. */
#define GUARDED(op, args_type)                                                                  \
    static lw_status_t guarded_##op(lwk_dev_t *dev, const args_type *args, void *stream)        \
    {                                                                                           \
        guard_t guard = enter(dev);                                                             \
        lw_status_t status = lwk_cuda_##op(dev, args, stream);                                  \
        leave(guard);                                                                           \
        return status;                                                                          \
    }

GUARDED(prepare, lwk_step_t)
GUARDED(score, lwk_step_t)
GUARDED(attend, lwk_step_t)
GUARDED(finish, lwk_step_t)
GUARDED(select, lwk_step_t)
GUARDED(admit, lwk_step_t)
GUARDED(publish, lwk_publish_t)
GUARDED(retire, lwk_retire_t)

/* C++17 has no designated initializers, and a table in the wrong order would still compile. */
static lwk_backend_t make_table(void)
{
    lwk_backend_t t;
    memset(&t, 0, sizeof t);
    t.size = sizeof t;
    t.version = LWK_BACKEND_VERSION;
    t.name = "cuda";
    t.caps = LWK_CAP_ASYNC | LWK_CAP_CAPTURE;
    t.open = cuda_open;
    t.close = cuda_close;
    t.describe = cuda_describe;
    t.alloc = cuda_alloc;
    t.free = cuda_free;
    t.register_host = cuda_register_host;
    t.unregister_host = cuda_unregister_host;
    t.copy = cuda_copy;
    t.stream_create = cuda_stream_create;
    t.stream_destroy = cuda_stream_destroy;
    t.event_create = cuda_event_create;
    t.event_destroy = cuda_event_destroy;
    t.event_record = cuda_event_record;
    t.event_query = cuda_event_query;
    t.stream_wait = cuda_stream_wait;
    t.capture_begin = cuda_capture_begin;
    t.capture_end = cuda_capture_end;
    t.graph_launch = cuda_graph_launch;
    t.graph_destroy = cuda_graph_destroy;
    t.warm_up = cuda_warm_up;
    t.workspace_bytes = lwk_cuda_workspace_bytes;
    t.prepare = guarded_prepare;
    t.score = guarded_score;
    t.select = guarded_select;
    t.attend = guarded_attend;
    t.finish = guarded_finish;
    t.admit = guarded_admit;
    t.publish = guarded_publish;
    t.retire = guarded_retire;
    t.append = lwk_cuda_append;
    t.extend = lwk_cuda_extend;
    t.build_workspace_bytes = lwk_cuda_build_workspace_bytes;
    t.kmeans = lwk_cuda_kmeans;
    t.outliers = lwk_cuda_outliers;
    t.moments = lwk_cuda_moments;
    t.encode = lwk_cuda_encode;
    t.pack = lwk_cuda_pack;
    t.unpack = lwk_cuda_unpack;
    t.gather = lwk_cuda_gather;
    return t;
}

extern "C" const lwk_backend_t *lwk_backend_cuda(void)
{
    static const lwk_backend_t table = make_table();
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0)
        return NULL;
    /* Where the library holds no code for the device, no kernel loads. */
    return lwk_cuda_load_step(NULL) == LW_OK ? &table : NULL;
}
