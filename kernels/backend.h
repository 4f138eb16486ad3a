/* backend.h - with ops.h, all that client/ includes from kernels/: one table of ops for each kind of device.
 *
 * Ops take one plain struct and a stream, check shapes on the host, allocate nothing, and may return before they have
 * finished (LWK_CAP_ASYNC). A slot that a backend does not serve points to an lwk_no_*() function that answers
 * ERR_UNSUPPORTED, never to NULL. One thread at a time uses a device, except that the build ops, alloc, free and copy may run
 * on a second thread (the one that seals) with a stream of its own.
 */
#ifndef LWK_BACKEND_H
#define LWK_BACKEND_H

#include "base/error.h"
#include "kernels/ops.h"

#define LWK_BACKEND_VERSION 2u
#define LWK_CAP_ASYNC (1u << 0)    /* ops return before they finish */
#define LWK_CAP_PEER_DMA (1u << 1) /* the NIC can write this memory directly */
#define LWK_CAP_CAPTURE (1u << 2)  /* a step can be captured and replayed */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct lwk_dev lwk_dev_t;     /* opaque, defined by each backend */
typedef struct lwk_event lwk_event_t; /* opaque, defined by each backend */
typedef struct lwk_graph lwk_graph_t; /* opaque, defined by each backend */

typedef enum lwk_memory {
    LWK_MEMORY_DEVICE, /* the ops' own */
    LWK_MEMORY_PINNED, /* host memory that the ops can read and write */
    LWK_MEMORY_PEER,   /* device memory that a NIC may write */
} lwk_memory_t;

/* What a scratch must hold; lwk_scratch_bytes() and lwk_scratch_carve() lay it out for every backend alike. */
typedef struct lwk_dims {
    lwk_shape_t shape;
    uint32_t session_count, query_tokens;
    uint32_t entry_capacity;      /* entry slots of one session and KV head */
    uint32_t range_list_capacity; /* ranges of one session */
    uint32_t item_capacity;       /* entries that one selection may retrieve */
    uint32_t steady_rows;
} lwk_dims_t;

uint64_t lwk_scratch_bytes(const lwk_dims_t *dims, uint64_t workspace_bytes);
/* `memory` has lwk_scratch_bytes() bytes, 64-byte aligned. */
lwk_scratch_t lwk_scratch_carve(const lwk_dims_t *dims, void *memory, uint64_t workspace_bytes);

/* `size` lets an old client load a new backend. */
typedef struct lwk_backend {
    uint32_t size, version;
    const char *name; /* "ref", "cpu", "cuda" */
    uint32_t caps;

    /* device and memory */
    lw_status_t (*open)(unsigned ordinal, lwk_dev_t **dev_out, lw_error_t *error);
    void (*close)(lwk_dev_t *dev);
    const char *(*describe)(lwk_dev_t *dev); /* "avx512", "H100 sm_90": for logs and benchmarks */
    lw_status_t (*alloc)(lwk_dev_t *dev, lwk_memory_t kind, size_t bytes, void **ptr_out); /* zeroed, 64-byte aligned */
    void (*free)(lwk_dev_t *dev, lwk_memory_t kind, void *ptr);
    lw_status_t (*register_host)(lwk_dev_t *dev, void *ptr, size_t bytes); /* makes foreign host memory pinned */
    void (*unregister_host)(lwk_dev_t *dev, void *ptr);
    lw_status_t (*copy)(lwk_dev_t *dev, void *to, const void *from, size_t bytes, void *stream); /* any kinds */

    /* ordering */
    lw_status_t (*stream_create)(lwk_dev_t *dev, void **stream_out);
    void (*stream_destroy)(lwk_dev_t *dev, void *stream);
    lw_status_t (*event_create)(lwk_dev_t *dev, lwk_event_t **event_out);
    void (*event_destroy)(lwk_event_t *event);
    lw_status_t (*event_record)(lwk_event_t *event, void *stream);
    lw_status_t (*event_query)(lwk_event_t *event); /* OK or INPROGRESS */
    lw_status_t (*stream_wait)(lwk_dev_t *dev, void *stream, lwk_event_t *event); /* on the device: what comes on `stream` from
                                                        now on runs after the event; nothing waits on the host */
    lw_status_t (*capture_begin)(lwk_dev_t *dev, void *stream);
    lw_status_t (*capture_end)(lwk_dev_t *dev, void *stream, lwk_graph_t **graph_out);
    lw_status_t (*graph_launch)(lwk_graph_t *graph, void *stream);
    void (*graph_destroy)(lwk_graph_t *graph);
    lw_status_t (*warm_up)(lwk_dev_t *dev, const lwk_dims_t *dims); /* loads whatever the first call would load */

    /* the step path */
    uint64_t (*workspace_bytes)(const lwk_dims_t *dims);
    lw_status_t (*prepare)(lwk_dev_t *, const lwk_step_t *, void *stream);
    lw_status_t (*score)(lwk_dev_t *, const lwk_step_t *, void *stream);
    lw_status_t (*select)(lwk_dev_t *, const lwk_step_t *, void *stream);
    lw_status_t (*attend)(lwk_dev_t *, const lwk_step_t *, void *stream);
    lw_status_t (*finish)(lwk_dev_t *, const lwk_step_t *, void *stream);
    lw_status_t (*admit)(lwk_dev_t *, const lwk_step_t *, void *stream);

    /* between steps */
    lw_status_t (*publish)(lwk_dev_t *, const lwk_publish_t *, void *stream);
    lw_status_t (*retire)(lwk_dev_t *, const lwk_retire_t *, void *stream);
    lw_status_t (*append)(lwk_dev_t *, const lwk_append_t *, void *stream);
    lw_status_t (*extend)(lwk_dev_t *, const lwk_extend_t *, void *stream);

    /* off the step path */
    uint64_t (*build_workspace_bytes)(const lwk_build_t *args);
    lw_status_t (*kmeans)(lwk_dev_t *, const lwk_build_t *, void *stream);
    lw_status_t (*outliers)(lwk_dev_t *, const lwk_build_t *, void *stream);
    lw_status_t (*moments)(lwk_dev_t *, const lwk_build_t *, void *stream);
    lw_status_t (*encode)(lwk_dev_t *, const lwk_build_t *, void *stream);
    lw_status_t (*pack)(lwk_dev_t *, const lwk_build_t *, void *stream);
    lw_status_t (*unpack)(lwk_dev_t *, const lwk_unpack_t *, void *stream);
    lw_status_t (*gather)(lwk_dev_t *, const lwk_gather_t *, void *stream);
} lwk_backend_t;

/* By name, or NULL / "" for the best that works here; the environment's LWK_BACKEND wins over NULL. NULL when unknown.
 * "cuda" is the file that LWK_CUDA_LIBRARY names, else liblwk_cuda.so. */
const lwk_backend_t *lwk_backend_find(const char *name);
/* Tools may stand between a client and its backend: lwk_backend_find() answers wrap(what it found), which lives for ever. NULL:
 * nobody does. Before the first handle is opened; one thread. */
void lwk_backend_wrap(const lwk_backend_t *(*wrap)(const lwk_backend_t *found));

#ifdef __cplusplus
}
#endif

#endif /* LWK_BACKEND_H */
