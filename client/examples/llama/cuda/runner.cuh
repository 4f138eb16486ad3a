/* runner.cuh - what the files of this folder share: the runner's memory, and the launchers of its kernels. */
#ifndef LLAMA_RUNNER_CUH
#define LLAMA_RUNNER_CUH

#include "client/examples/llama/gpu.h"
#include "kernels/cuda/lang.cuh"

/* One layer's weights in the runner's precision; shapes as in llama_private.h. */
typedef struct llama_gpu_layer {
    const float *attention_norm, *feed_forward_norm; /* fp32 */
    const void *qkv, *attention_output, *gate_up, *down;
} llama_gpu_layer_t;

typedef struct llama_gemm llama_gemm_t; /* the library that multiplies; one file defines it */

struct llama_gpu {
    llama_shape_t shape;
    uint32_t ordinal, rows_max, positions_max;
    bool narrow; /* weights and activations are bf16 */
    cudaStream_t stream;
    bool own_stream;
    llama_gemm_t *gemm;
    char text[128];
    uint64_t bytes;

    void *weights;            /* everything below up to `layer` */
    void *embedding, *output; /* [vocabulary][embedding]; the same when tied */
    float *output_norm;
    llama_gpu_layer_t *layer;

    float *rope;                /* [positions_max][rope_dim / 2][2]: cosine, sine */
    uint32_t *token, *position; /* [rows_max] */
    float *x;                   /* [rows_max][embedding] */
    void *normed;               /* [rows_max][embedding] */
    float *product;             /* [rows_max][the widest of Q, K and V; gate and up; embedding] */
    void *hidden;               /* [rows_max][feed_forward] */
    uint16_t *query, *key, *value, *attended;
    void *attended_wide; /* `attended` in the runner's precision; the same memory when narrow */
    float *logits;       /* [rows_max][vocabulary] */
};

/* ---- gemm_*.cu: out[row][i] = in[row] . matrix[i], fp32 out. matrix [outputs][inputs] and in [rows][inputs]
 * are bf16 or fp32 alike. Enqueues. ---- */
lw_status_t llama_gemm_create(const llama_gpu_t *gpu, llama_gemm_t **gemm_out, lw_error_t *error);
void llama_gemm_destroy(llama_gemm_t *gemm);
lw_status_t llama_gemm(const llama_gpu_t *gpu, const void *matrix, uint32_t outputs, uint32_t inputs,
                       const void *in, uint32_t rows, float *out);

/* ---- layers.cu: everything between two products ---- */
lw_status_t llama_embed(const llama_gpu_t *gpu, uint32_t rows);
/* x += product where `add`; normed = x / rms(x) * weight */
lw_status_t llama_norm(const llama_gpu_t *gpu, uint32_t rows, bool add, const float *weight);
/* product [rows][Q, K, V] to rotated, rounded query, key and value */
lw_status_t llama_rotate(const llama_gpu_t *gpu, uint32_t rows);
lw_status_t llama_widen(const llama_gpu_t *gpu, uint32_t rows);    /* attended to attended_wide */
lw_status_t llama_activate(const llama_gpu_t *gpu, uint32_t rows); /* hidden = silu(gate) * up */
/* Each row's best token becomes its token, its position the next one. */
lw_status_t llama_advance(const llama_gpu_t *gpu, uint32_t rows);

/* ---- graph.cu: see gpu.h ---- */
lw_status_t llama_graph_begin(llama_gpu_t *gpu);
lw_status_t llama_graph_end(llama_gpu_t *gpu, llama_gpu_graph_t **graph_out);
lw_status_t llama_graph_launch(llama_gpu_t *gpu, llama_gpu_graph_t *graph);
void llama_graph_destroy(llama_gpu_graph_t *graph);

/* ---- fill.cu ---- */
/* count values, uniform in [-bound, bound), each a function of seed and its place. bf16 or fp32. */
lw_status_t llama_draw(cudaStream_t stream, void *out, bool narrow, uint64_t count, float bound,
                       uint64_t seed);
/* The same number in all places, fp32. */
lw_status_t llama_set(cudaStream_t stream, float *out, uint64_t count, float value);

/* The device's clock to pinned memory. */
lw_status_t llama_stamp(void *stream, uint64_t *ns_out);

/* ---- full.cu ---- */
lw_status_t llama_full_gpu_create(llama_gpu_t *gpu, const llama_gpu_full_params_t *params,
                                  llama_gpu_full_t **full_out, lw_error_t *error);
void llama_full_gpu_destroy(llama_gpu_full_t *full);
llama_gpu_attention_t llama_full_gpu_attention(llama_gpu_full_t *full);
lw_status_t llama_full_gpu_fill(llama_gpu_full_t *full, uint64_t seed);
lw_status_t llama_full_gpu_load(llama_gpu_full_t *full, uint32_t layer, uint32_t sequence, uint32_t first,
                                uint32_t tokens, const uint16_t *key, const uint16_t *value);

#endif /* LLAMA_RUNNER_CUH */
