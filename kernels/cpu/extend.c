/* extend.c - exact attention of many query tokens: blocks of queries over blocks of rows. With many queries a
 * block of rows is widened to fp32 once and then read by all of them from the first caches. */
#include <string.h>

#include "kernels/cpu/cpu_private.h"

#define EXTEND_ROWS 64u    /* rows of a block: 64 KiB of K or V at head_dim 256 */
#define EXTEND_QUERIES 64u /* queries of a block */
#define WIDEN_FROM 5u      /* queries from which widening pays */

typedef struct block {
    const lwk_extend_t *args;
    lwk_cpu_run_t run;
    uint32_t head;                     /* KV head, counted from head_first */
    uint32_t token_first, token_count; /* query tokens of this block */
    float query[EXTEND_QUERIES][LW_HEAD_DIM_MAX];
    float dots[EXTEND_QUERIES][EXTEND_ROWS];
    float keys[EXTEND_ROWS][LW_HEAD_DIM_MAX], values[EXTEND_ROWS][LW_HEAD_DIM_MAX];
} block_t;

static lw_status_t check(const lwk_extend_t *args)
{
    if (args->shape == NULL || lwk_shape_check(args->shape) != LW_OK)
        return LW_ERR_INVALID;
    if (args->query.data == NULL || args->partial == NULL || args->partial_out == NULL)
        return LW_ERR_INVALID;
    if (args->head_count > args->shape->kv_head_count ||
        args->head_first > args->shape->kv_head_count - args->head_count)
        return LW_ERR_INVALID;
    if (args->rows.row_count > 0 && (args->rows.keys == NULL || args->rows.values == NULL))
        return LW_ERR_INVALID;
    return LW_OK;
}

static size_t row_of(const block_t *block, uint32_t q)
{
    const lwk_shape_t *shape = block->args->shape;
    uint32_t query_head = (block->args->head_first + block->head) * shape->group + q % shape->group;
    return (size_t)(block->token_first + q / shape->group) * lwk_query_heads(shape) + query_head;
}

static void open_block(block_t *block, const lwk_loops_t *loops)
{
    const lwk_extend_t *args = block->args;
    const lwk_shape_t *shape = args->shape;
    uint32_t d = shape->head_dim;
    block->run.loops = loops;
    block->run.shape = shape;
    block->run.query_count = block->token_count * shape->group;
    for (uint32_t q = 0; q < block->run.query_count; q++) {
        size_t row = row_of(block, q);
        size_t from = lwk_tensor_at(&args->query, 0, block->token_first + q / shape->group,
                                    (args->head_first + block->head) * shape->group + q % shape->group);
        loops->widen(lwk_dtype_kind(shape->dtype),
                     (const uint8_t *)args->query.data + from * lwk_dtype_bytes(shape->dtype), d,
                     block->query[q]);
        block->run.query[q] = block->query[q];
        block->run.dots[q] = block->dots[q];
        block->run.partial[q] = &args->partial[row];
        block->run.out[q] = args->partial_out + row * d;
        if (args->first) {
            args->partial[row] = (lwk_partial_t){.m = -INFINITY};
            memset(block->run.out[q], 0, d * sizeof(float));
        }
    }
}

/* How many of the rows from `first` on a query token sees. */
static uint32_t visible(const block_t *block, uint32_t token, uint32_t first, uint32_t count)
{
    const lwk_extend_t *args = block->args;
    if (!args->causal)
        return count;
    uint64_t end = (uint64_t)args->first_position + block->token_first + token + 1;
    uint64_t position = (uint64_t)args->rows.first_row_position + first;
    return end <= position ? 0 : (uint32_t)lw_min_u64(end - position, count);
}

static void attend_rows(block_t *block, uint32_t first, uint32_t count)
{
    const lwk_extend_t *args = block->args;
    const lwk_shape_t *shape = args->shape;
    const lwk_loops_t *loops = block->run.loops;
    size_t element = lwk_dtype_bytes(shape->dtype);
    bool widen = block->run.query_count >= WIDEN_FROM;
    const uint8_t *keys[EXTEND_ROWS], *values[EXTEND_ROWS];
    block->run.kind = widen ? LWK_ROW_FP32 : lwk_dtype_kind(shape->dtype);
    for (uint32_t i = 0; i < count; i++) {
        size_t at =
            (size_t)(block->head * args->rows.head_stride + (int64_t)(first + i) * args->rows.row_stride) *
            element;
        keys[i] = (const uint8_t *)args->rows.keys + at;
        values[i] = (const uint8_t *)args->rows.values + at;
        if (widen) {
            loops->widen(lwk_dtype_kind(shape->dtype), keys[i], shape->head_dim, block->keys[i]);
            loops->widen(lwk_dtype_kind(shape->dtype), values[i], shape->head_dim, block->values[i]);
            keys[i] = (const uint8_t *)block->keys[i];
            values[i] = (const uint8_t *)block->values[i];
        }
    }
    lwk_cpu_run_dots(&block->run, keys, count);
    for (uint32_t q = 0; q < block->run.query_count; q++)
        for (uint32_t i = visible(block, q / shape->group, first, count); i < count; i++)
            block->dots[q][i] = -INFINITY;
    lwk_cpu_run_sum(&block->run, values, count);
}

static void write_out(const block_t *block)
{
    const lwk_extend_t *args = block->args;
    const lwk_shape_t *shape = args->shape;
    for (uint32_t q = 0; q < block->run.query_count; q++) {
        const lwk_partial_t *partial = block->run.partial[q];
        size_t row = row_of(block, q);
        size_t to = lwk_tensor_at(&args->out, 0, block->token_first + q / shape->group,
                                  (args->head_first + block->head) * shape->group + q % shape->group);
        for (uint32_t j = 0; j < shape->head_dim; j++) {
            float x = partial->z > 0 ? block->run.out[q][j] / partial->z : 0;
            lwk_store(args->out.data, shape->dtype, to + j, x);
            if (args->out_fp32 != NULL)
                args->out_fp32[row * shape->head_dim + j] = x;
        }
        if (args->lse_out != NULL)
            args->lse_out[row] = partial->z > 0 ? partial->m + logf(partial->z) : -INFINITY;
    }
}

lw_status_t lwk_cpu_extend(lwk_dev_t *dev, const lwk_extend_t *args, void *stream)
{
    lw_status_t status = check(args);
    if (status != LW_OK)
        return status;
    const lwk_loops_t *loops = lwk_cpu_loops(dev, args->shape->head_dim);
    uint32_t tokens = EXTEND_QUERIES / args->shape->group;
    block_t block;
    block.args = args;
    for (block.head = 0; block.head < args->head_count; block.head++)
        for (uint32_t t = 0; t < args->query_tokens; t += tokens) {
            block.token_first = t;
            block.token_count = args->query_tokens - t < tokens ? args->query_tokens - t : tokens;
            open_block(&block, loops);
            uint32_t end = visible(&block, block.token_count - 1, 0, args->rows.row_count);
            for (uint32_t r = 0; r < end; r += EXTEND_ROWS)
                attend_rows(&block, r, end - r < EXTEND_ROWS ? end - r : EXTEND_ROWS);
            if (args->out.data != NULL)
                write_out(&block);
        }
    return LW_OK;
}
