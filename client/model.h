/* model.h - the checked shape of the model that a handle serves, and the sizes that follow from it. Written
 * at open. */
#ifndef LWC_MODEL_H
#define LWC_MODEL_H

#include "base/error.h"
#include "base/limits.h"
#include "client/include/longwave.h"
#include "client/options.h"
#include "kernels/backend.h"

typedef struct lwc_model {
    lwk_shape_t shape;
    char model_id[LW_MODEL_ID_MAX];
    uint32_t rank, rank_count;
    uint32_t layers, heads, query_heads, head_dim; /* heads: KV heads */
    uint64_t element_bytes, row_bytes,
        pair_bytes;         /* of one K or V element, one row of head_dim, a K row and a V row */
    uint64_t moments_bytes; /* of one layer, all KV heads */
    uint64_t sums_count;    /* doubles of the moment sums of one (layer, KV head) */
} lwc_model_t;

/* What a handle makes room for. */
typedef struct lwc_sizes {
    uint32_t sessions_max, tokens_max;
    uint32_t ranges_max;     /* of one session */
    uint32_t range_capacity; /* of the handle: rows of the tile table */
    uint32_t entry_capacity; /* entries of one session and KV head */
    uint32_t query_rows;     /* sessions times query tokens of the largest step */
    uint32_t steady_rows_max;
    uint32_t ticket_capacity;
    uint64_t index_bytes, cache_bytes, landing_bytes, extent_bytes;
} lwc_sizes_t;

LW_CHECK lw_status_t lwc_model_make(const lw_model_t *from, lwc_model_t *model_out, lw_error_t *error);
LW_CHECK lw_status_t lwc_sizes_make(const lwc_model_t *model, const lw_open_params_t *params,
                                    const lwc_options_t *options, lwc_sizes_t *sizes_out, lw_error_t *error);
/* The same for an asynchronous backend, where landing memory holds the misses of a whole step unless client.admit_layers
 * says otherwise. */
void lwc_sizes_make_async(const lwc_model_t *model, const lwc_options_t *options, lwc_sizes_t *sizes);
/* Bytes of the largest stored segment of `tokens` tokens. */
uint64_t lwc_extent_bytes_max(const lwc_model_t *model, uint32_t tokens);
/* Rows of a session's ring. */
uint32_t lwc_steady_rows(uint32_t segment_tokens);

#endif /* LWC_MODEL_H */
