/* gpu.h - the runner of llama.h on a GPU: the same forward pass with every tensor in the device's memory and
 * attention as a call on a stream. It lives in a library of its own (liblw_llama_cuda.so), which is opened on
 * first use, so that a program that includes this needs no GPU library. The same sources over the emulator of
 * kernels/cuda/ are liblw_llama_cuda_emu.so, for tests.
 *
 * Objects: a runner (weights and activations) and a full attention (its own K and V). The caller owns both
 * and destroys the attention and graphs first. One thread at a time. Calls enqueue on the runner's stream and
 * do not wait, unless it says so; after the first pass nothing is allocated and everything that enqueues may
 * be captured in a graph. */
#ifndef LLAMA_GPU_H
#define LLAMA_GPU_H

#include "client/examples/llama/llama.h"

#ifdef __cplusplus
extern "C" {
#endif

#define LLAMA_GPU_VERSION 1u

typedef struct llama_gpu llama_gpu_t;
typedef struct llama_gpu_full llama_gpu_full_t;
typedef struct llama_gpu_graph llama_gpu_graph_t;

/* What weights are kept and multiplied in. Activations are as wide; sums are always fp32. */
typedef enum llama_gpu_precision { LLAMA_GPU_BF16, LLAMA_GPU_F32 } llama_gpu_precision_t;

typedef struct llama_gpu_params {
    uint32_t ordinal;
    void *stream;               /* cudaStream_t, borrowed; NULL: one of its own */
    const llama_model_t *model; /* whose weights are copied; NULL: random ones, in `shape` */
    llama_shape_t shape;        /* when model is NULL; frequencies of the rotation have no factors */
    uint64_t seed;
    llama_gpu_precision_t precision;
    uint32_t rows_max;      /* most rows of a pass */
    uint32_t positions_max; /* most tokens of a sequence */
} llama_gpu_params_t;

/* One layer of one pass: `rows` rows, each the next token of a sequence of its own or one of neighbours in
 * one sequence, as the two sides have agreed. bf16 in the device's memory, packed: query and out
 * [rows][query_heads][head_dim], key and value [rows][kv_heads][head_dim]; Q and K are rotated. Enqueues on
 * the runner's stream; may be called while capturing. */
typedef struct llama_gpu_attention {
    lw_status_t (*attend)(void *self, uint32_t layer, uint32_t rows, const uint16_t *query,
                          const uint16_t *key, const uint16_t *value, uint16_t *out);
    void *self;
} llama_gpu_attention_t;

typedef struct llama_gpu_pass {
    uint32_t rows;
    bool project; /* logits for every row */
    bool advance; /* and then each row's best token becomes its token, at the next position: a decode loop
                     needs no host */
} llama_gpu_pass_t;

/* Full attention over K and V that it keeps: [layer][sequence][kv head][capacity][head_dim]. */
typedef struct llama_gpu_full_params {
    uint32_t layers; /* 0: the runner's; fewer: layer % layers is used, to time more layers than fit */
    uint32_t sequences, capacity;
    bool chunk; /* rows are neighbours in sequence 0; otherwise row r is the next token of sequence r */
} llama_gpu_full_params_t;

typedef struct llama_gpu_api {
    uint32_t size, version;

    /* Copies or draws the weights; waits. ERR_UNSUPPORTED: no device; ERR_NO_MEMORY names what did not fit.
     */
    lw_status_t (*create)(const llama_gpu_params_t *params, llama_gpu_t **gpu_out, lw_error_t *error);
    void (*destroy)(llama_gpu_t *gpu);
    const char *(*describe)(const llama_gpu_t *gpu);
    uint64_t (*bytes)(const llama_gpu_t *gpu); /* of device memory */
    void *(*stream)(const llama_gpu_t *gpu);   /* borrowed */
    lw_status_t (*wait)(llama_gpu_t *gpu);     /* until everything enqueued is done */

    /* Tokens and positions of the next pass's rows, from the host; waits. ERR_INVALID outside vocabulary or
     * positions_max. */
    lw_status_t (*set_rows)(llama_gpu_t *gpu, const uint32_t *tokens, const uint32_t *positions,
                            uint32_t rows);
    lw_status_t (*forward)(llama_gpu_t *gpu, const llama_gpu_attention_t *attention,
                           const llama_gpu_pass_t *pass);
    /* Everything enqueued between begin and end becomes a graph instead of running; launches enqueue it. */
    lw_status_t (*capture_begin)(llama_gpu_t *gpu);
    lw_status_t (*capture_end)(llama_gpu_t *gpu, llama_gpu_graph_t **graph_out);
    lw_status_t (*launch)(llama_gpu_t *gpu, llama_gpu_graph_t *graph);
    void (*graph_destroy)(llama_gpu_graph_t *graph);
    /* To the host; wait. logits [vocabulary] of a row of the last pass that projected; tokens [rows]: what
     * the rows hold. */
    lw_status_t (*logits)(llama_gpu_t *gpu, uint32_t row, float *logits_out);
    lw_status_t (*rows)(llama_gpu_t *gpu, uint32_t rows, uint32_t *tokens_out, uint32_t *positions_out);

    lw_status_t (*full_create)(llama_gpu_t *gpu, const llama_gpu_full_params_t *params,
                               llama_gpu_full_t **full_out, lw_error_t *error);
    void (*full_destroy)(llama_gpu_full_t *full);
    llama_gpu_attention_t (*full_attention)(llama_gpu_full_t *full);
    /* Random K and V at all positions, to time attention without a prefill. */
    lw_status_t (*full_fill)(llama_gpu_full_t *full, uint64_t seed);
    /* Writes the device's clock, in ns, to pinned memory once everything before it on `stream` is done. */
    lw_status_t (*stamp)(void *stream, uint64_t *ns_out);
    /* Rows from the host or the device, [tokens][kv_heads][head_dim] bf16; waits. */
    lw_status_t (*full_load)(llama_gpu_full_t *full, uint32_t layer, uint32_t sequence, uint32_t first,
                             uint32_t tokens, const uint16_t *key, const uint16_t *value);
} llama_gpu_api_t;

/* Opens liblw_llama_cuda.so, or the file that the environment's LW_LLAMA_CUDA_LIBRARY names. NULL, with the
 * cause: it is not there, or is of another version. Any thread; the library stays open. */
const llama_gpu_api_t *llama_gpu_find(lw_error_t *error);

#ifdef __cplusplus
}
#endif

#endif /* LLAMA_GPU_H */
