/* tensors.h - the captured keys, values, queries and outputs that needle_eval measures on, as the files hold
 * them. */
#ifndef EVAL_TENSORS_H
#define EVAL_TENSORS_H

#include <stdint.h>

#include "base/error.h"

#define EVAL_LAYERS 3u
#define EVAL_KV_HEADS 2u
#define EVAL_HEADS 8u
#define EVAL_GROUP (EVAL_HEADS / EVAL_KV_HEADS)
#define EVAL_HEAD_DIM 128u
#define EVAL_TOKENS 16384u
#define EVAL_QUERIES 512u /* of the last positions */
#define EVAL_OUTPUTS 64u  /* of the last positions */
#define EVAL_JOBS (EVAL_LAYERS * EVAL_KV_HEADS)

extern const uint32_t eval_layer_numbers[EVAL_LAYERS]; /* as the model and the file names count them */

/* Owned by eval_tensors_open(); all read-only after it. */
typedef struct eval_tensors {
    uint16_t *keys, *values; /* [EVAL_JOBS][EVAL_TOKENS][d] bf16, job = layer * EVAL_KV_HEADS + head */
    uint16_t *queries;       /* [EVAL_LAYERS][EVAL_QUERIES][EVAL_HEADS][d] bf16, not scaled */
    float *outputs;          /* [EVAL_LAYERS][EVAL_OUTPUTS][EVAL_HEADS][d] exact causal attention */
} eval_tensors_t;

/* Reads k-layerL.bin, v-layerL.bin, q-layers.bin and o-layers-last64.bin from a folder; ERR_NOT_FOUND or
 * ERR_INVALID names the file. */
lw_status_t eval_tensors_open(const char *folder, eval_tensors_t *tensors_out, lw_error_t *error);
void eval_tensors_close(eval_tensors_t *tensors);

static inline size_t eval_row(uint32_t layer, uint32_t kv_head, uint32_t token)
{
    return (((size_t)layer * EVAL_KV_HEADS + kv_head) * EVAL_TOKENS + token) * EVAL_HEAD_DIM;
}

static inline size_t eval_query(uint32_t layer, uint32_t query, uint32_t head)
{
    return (((size_t)layer * EVAL_QUERIES + query) * EVAL_HEADS + head) * EVAL_HEAD_DIM;
}

/* Which tokens a query attends to: those before index_end, and then the newest `recent` up to its own
 * position, or all from index_end on when recent is 0. Exact attention and the index see the same tokens. */
typedef struct eval_zone {
    uint32_t index_end, recent;
} eval_zone_t;

static inline uint32_t eval_position(uint32_t query)
{
    return EVAL_TOKENS - EVAL_QUERIES + query;
}
static inline uint32_t eval_recent_first(const eval_zone_t *zone, uint32_t query)
{
    return zone->recent == 0 ? zone->index_end : eval_position(query) + 1 - zone->recent;
}

#endif /* EVAL_TENSORS_H */
