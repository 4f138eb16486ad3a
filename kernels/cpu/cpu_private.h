/* cpu_private.h - what the step ops of the cpu backend share: the device, the workspace, one block of queries
 * that read the same rows, and the running attention over rows. Private to kernels/cpu. */
#ifndef LWK_CPU_PRIVATE_H
#define LWK_CPU_PRIVATE_H

#include <stdbool.h>

#include "kernels/build_args.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/loops.h"
#include "kernels/view.h"

struct lwk_dev {
    const lwk_loops_t *loops; /* the best that the processor and LWK_CPU_LEVEL allow */
};

#define LWK_CPU_QUERIES_MAX (LW_QUERY_TOKENS_MAX * LW_GROUP_MAX)
#define LWK_CPU_BLOCK 256u /* rows that one pass of attention takes */

/* The device's loops, or plainer ones where head_dim is not a multiple of what they need. */
const lwk_loops_t *lwk_cpu_loops(const lwk_dev_t *dev, uint32_t head_dim);

static inline lwk_row_kind_t lwk_dtype_kind(uint32_t dtype)
{
    return dtype == LW_DTYPE_BF16 ? LWK_ROW_BF16 : dtype == LW_DTYPE_FP16 ? LWK_ROW_FP16 : LWK_ROW_FP32;
}

static inline lwk_row_kind_t lwk_encoding_kind(uint32_t encoding)
{
    return encoding == LW_ENCODING_BF16   ? LWK_ROW_BF16
           : encoding == LW_ENCODING_INT8 ? LWK_ROW_INT8
           : encoding == LW_ENCODING_INT4 ? LWK_ROW_INT4
                                          : LWK_ROW_FP32;
}

/* ---- workspace (work.c): n = entry capacity, Q = queries of a block
 * ----------------------------------------------- */

typedef struct lwk_cpu_work {
    float *weight;                                         /* [Q][n] */
    float *vote, *rank;                                    /* [n] */
    uint32_t *list, *candidates;                           /* [n] entry slots */
    uint16_t *size;                                        /* [n] by entry slot */
    lwk_ranked_t *ranked;                                  /* [n] */
    float *spread, *log_size, *scale, *bias, *value_scale; /* [n] columns of one tile */
    const uint8_t **rows;                                  /* [n] */
    float *dots;                                           /* [Q][LWK_CPU_BLOCK] */
    float *coded_query, *coded_out;                        /* [Q][d] */
} lwk_cpu_work_t;

uint64_t lwk_cpu_workspace_bytes(const lwk_dims_t *dims);
/* LW_ERR_INVALID when the step's scratch has too little of it. */
lw_status_t lwk_cpu_work(const lwk_step_t *step, lwk_cpu_work_t *work_out);

/* ---- queries that read the same rows (work.c)
 * --------------------------------------------------------------------- */

/* All query tokens and heads of one (session, KV head), in the order (token, head of the group). */
typedef struct lwk_cpu_queries {
    const lwk_step_t *step;
    lwk_session_t *session;
    uint32_t s, head, count;
    size_t row[LWK_CPU_QUERIES_MAX]; /* of the scratch arrays */
    const float *query[LWK_CPU_QUERIES_MAX];
} lwk_cpu_queries_t;

void lwk_cpu_queries(const lwk_step_t *step, uint32_t s, lwk_session_t *session, uint32_t head,
                     lwk_cpu_queries_t *queries_out);

/* Calls `body` for every (session, KV head) of a step. */
typedef void lwk_cpu_body_t(const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                            const lwk_cpu_queries_t *queries);
lw_status_t lwk_cpu_each_head(lwk_dev_t *dev, const lwk_step_t *step, lwk_cpu_body_t *body);

/* ---- one tile (columns.c)
 * ----------------------------------------------------------------------------------------- */

typedef struct lwk_cpu_tile {
    const lwk_tile_t *tile;
    lwk_index_layout_t at;
    uint32_t count, base;     /* entries; first entry slot */
    bool has_empty;           /* some cluster has size 0 */
    lwk_columns_t columns;    /* in the workspace */
    const float *value_scale; /* [clusters]; NULL: plain values */
} lwk_cpu_tile_t;

/* Fills the columns. mark: of the tile's entries; NULL: bias is ln s of every entry that is not empty. */
void lwk_cpu_tile_open(const lwk_loops_t *loops, const lwk_cpu_work_t *work, const lwk_cpu_queries_t *queries,
                       uint32_t range, const uint8_t *mark, lwk_cpu_tile_t *tile_out);
lwk_lens_t lwk_cpu_lens(const lwk_cpu_queries_t *queries, uint32_t q, const lwk_cpu_tile_t *tile);
static inline const float *lwk_cpu_floats(const lwk_cpu_tile_t *tile, uint32_t offset)
{
    return (const float *)(const void *)(tile->tile->index + offset);
}
/* work->rows = addresses of `count` rows of row_bytes each. */
void lwk_cpu_index_rows(const lwk_cpu_work_t *work, const uint8_t *first, uint32_t row_bytes, uint32_t count);
/* Fills the table of logarithms; once, at open. */
void lwk_cpu_fill_log_sizes(void);

/* ---- attention over rows (run.c)
 * ---------------------------------------------------------------------------------- */

/* A running softmax sum for each query of a block; m, z and o of ops.h. */
typedef struct lwk_cpu_run {
    const lwk_loops_t *loops;
    const lwk_shape_t *shape;
    lwk_row_kind_t kind; /* of the rows */
    uint32_t query_count;
    const float *query[LWK_CPU_QUERIES_MAX];
    float *dots[LWK_CPU_QUERIES_MAX]; /* [LWK_CPU_BLOCK]: logits, then weights of the block */
    lwk_partial_t *partial[LWK_CPU_QUERIES_MAX];
    float *out[LWK_CPU_QUERIES_MAX];
} lwk_cpu_run_t;

/* Points a run at the partial slot `slot` of every query and empties it. */
void lwk_cpu_run_begin(lwk_cpu_run_t *run, const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                       const lwk_cpu_queries_t *queries, uint32_t slot);
/* Up to LWK_CPU_BLOCK rows: first their capped logits go to run->dots, where the caller may set -infinity,
 * then sum. */
void lwk_cpu_run_dots(const lwk_cpu_run_t *run, const uint8_t *const *keys, uint32_t count);
void lwk_cpu_run_sum(const lwk_cpu_run_t *run, const uint8_t *const *values, uint32_t count);

/* Collects rows until a block is full, then attends them. */
typedef struct lwk_cpu_batch {
    const lwk_cpu_run_t *run;
    uint32_t count;
    const uint8_t *keys[LWK_CPU_BLOCK], *values[LWK_CPU_BLOCK];
} lwk_cpu_batch_t;

/* `count` rows of K at `rows`, and `stride` rows further those of V. */
void lwk_cpu_batch_add(lwk_cpu_batch_t *batch, const uint8_t *rows, uint32_t count, uint32_t stride);
void lwk_cpu_batch_flush(lwk_cpu_batch_t *batch);

/* ---- the ops
 * ------------------------------------------------------------------------------------------------------ */

lw_status_t lwk_cpu_prepare(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cpu_score(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cpu_select(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cpu_attend(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cpu_finish(lwk_dev_t *dev, const lwk_step_t *step, void *stream);
lw_status_t lwk_cpu_extend(lwk_dev_t *dev, const lwk_extend_t *args, void *stream);

/* steady.c: the steady zone's partials of one (session, KV head). */
void lwk_cpu_steady(const lwk_loops_t *loops, const lwk_cpu_work_t *work, const lwk_cpu_queries_t *queries);

#endif /* LWK_CPU_PRIVATE_H */
