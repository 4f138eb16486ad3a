/* build_args.h - what every backend's build ops ask of an lwk_build_t: its checks, its row addresses, its
 * workspace.
 *
 * Included by the op files under kernels/ only. Host code, no state, any thread.
 */
#ifndef LWK_BUILD_ARGS_H
#define LWK_BUILD_ARGS_H

#include "base/base.h"
#include "kernels/convert.h"
#include "kernels/ops.h"

/* A cluster with more members than this is split. */
LWK_HD uint32_t lwk_build_size_max(const lwk_build_t *args)
{
    return 4 * args->cluster_tokens;
}

/* Clusters that k-means starts from: one for every cluster_tokens tokens, less what the capacity must keep
 * for splits. Cutting k clusters of together n tokens into pieces of at most m makes at most k + n / m of
 * them, so the capacity always suffices. */
static inline uint32_t lwk_build_seed_count(const lwk_build_t *args)
{
    uint32_t wanted = args->token_count / args->cluster_tokens;
    uint32_t splits = args->token_count / lwk_build_size_max(args);
    uint32_t room = args->cluster_capacity > splits ? args->cluster_capacity - splits : 1;
    uint32_t count = wanted < room ? wanted : room;
    return count == 0 ? 1 : count;
}

/* Most tokens that may become outliers. */
static inline uint32_t lwk_build_outlier_max(const lwk_build_t *args)
{
    uint64_t wanted = (uint64_t)args->token_count * args->outlier_ppm / 1000000u;
    return wanted < args->outlier_capacity ? (uint32_t)wanted : args->outlier_capacity;
}

/* Element number of row i of job j in keys and values. */
LWK_HD size_t lwk_build_row(const lwk_build_t *args, uint32_t job, uint32_t i)
{
    uint64_t row = (uint64_t)args->first_row + i; /* below twice ring_rows */
    if (row >= args->ring_rows)
        row -= args->ring_rows;
    return (size_t)(job * args->job_stride + row * args->head_dim);
}

static inline int lwk_head_dim_ok(uint32_t head_dim)
{
    return head_dim >= 8 && head_dim <= LW_HEAD_DIM_MAX && head_dim % 8 == 0;
}

/* Shapes that all build ops share. `needed`: workspace bytes of the op that asks. */
static inline lw_status_t lwk_build_check(const lwk_build_t *args, uint64_t needed)
{
    if (args->token_count == 0 || args->token_count > LW_SEGMENT_TOKENS_MAX ||
        !lwk_head_dim_ok(args->head_dim))
        return LW_ERR_INVALID;
    if (lwk_dtype_bytes(args->dtype) == 0 || args->keys == NULL || args->values == NULL)
        return LW_ERR_INVALID;
    if (args->ring_rows < args->token_count || args->first_row >= args->ring_rows)
        return LW_ERR_INVALID;
    if (args->cluster_tokens == 0 || args->cluster_tokens > LW_SEGMENT_TOKENS_MAX ||
        args->outlier_ppm > 1000000u)
        return LW_ERR_INVALID;
    if (args->cluster_capacity < lw_div_up(args->token_count, lwk_build_size_max(args)) ||
        args->cluster_capacity > UINT16_MAX || args->outlier_capacity > UINT16_MAX)
        return LW_ERR_INVALID;
    if (args->workspace_bytes < needed || (needed > 0 && args->workspace == NULL))
        return LW_ERR_INVALID;
    return LW_OK;
}

/* Takes `bytes` from a workspace; with at->base == NULL it only counts, so that one function both sizes and
 * lays out. */
typedef struct lwk_carve {
    uint8_t *base;
    uint64_t used;
} lwk_carve_t;

static inline void *lwk_carve_take(lwk_carve_t *at, uint64_t bytes)
{
    uint64_t offset = lw_align_up(at->used, 64);
    at->used = offset + bytes;
    return at->base == NULL ? NULL : at->base + offset;
}

/* A workspace need not be aligned: this many bytes more than carved are asked for. */
#define LWK_WORKSPACE_SLACK 64u
static inline uint8_t *lwk_workspace_base(void *workspace)
{
    return (uint8_t *)(uintptr_t)lw_align_up((uintptr_t)workspace, 64);
}

/* ---- an order that does not depend on how it is found ------------------------------------------- */

/* Sorted by key, then by token: a total order, so any sorting method gives the same result. */
typedef struct lwk_ranked {
    double key;
    uint32_t token;
} lwk_ranked_t;

static inline int lwk_ranked_less(const lwk_ranked_t *a, const lwk_ranked_t *b)
{
    return a->key < b->key || (a->key == b->key && a->token < b->token);
}

static inline void lwk_ranked_sink(lwk_ranked_t *heap, uint32_t at, uint32_t count)
{
    lwk_ranked_t moved = heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && lwk_ranked_less(&heap[child], &heap[child + 1]))
            child++;
        if (!lwk_ranked_less(&moved, &heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moved;
}

/* Heap sort: in place (ops allocate nothing) and never quadratic. */
static inline void lwk_ranked_sort(lwk_ranked_t *list, uint32_t count)
{
    for (uint32_t at = count / 2; at-- > 0;)
        lwk_ranked_sink(list, at, count);
    for (uint32_t end = count; end-- > 1;) {
        lwk_ranked_t top = list[0];
        list[0] = list[end];
        list[end] = top;
        lwk_ranked_sink(list, 0, end);
    }
}

#endif /* LWK_BUILD_ARGS_H */
