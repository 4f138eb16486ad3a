/* view.h - where things lie: the address arithmetic that every host backend and the tests share. Inline, no
 * state. */
#ifndef LWK_VIEW_H
#define LWK_VIEW_H

#include <math.h>

#include "base/base.h"
#include "kernels/convert.h"
#include "kernels/ops.h"

/* ---- checks (check.c)
 * ------------------------------------------------------------------------------------------ */

lw_status_t lwk_shape_check(const lwk_shape_t *shape);
/* Fields of the step and, because host backends may read it, the store's shape. LW_ERR_INVALID or LW_OK. */
lw_status_t lwk_step_check(const lwk_step_t *step);

/* ---- sessions, rows of the scratch arrays
 * ---------------------------------------------------------------------- */

static inline uint32_t lwk_query_heads(const lwk_shape_t *shape)
{
    return shape->kv_head_count * shape->group;
}

/* NULL: the batch slot is empty. */
static inline lwk_session_t *lwk_step_session(const lwk_step_t *step, uint32_t s)
{
    uint32_t slot = step->slots[s];
    return slot == LWK_SLOT_NONE ? NULL : &step->sessions[slot];
}

/* Row of (session, query token, query head) in query, spread, shift, logit, partial, out_fp32, lse_out. */
static inline size_t lwk_query_row(const lwk_step_t *step, uint32_t s, uint32_t token, uint32_t query_head)
{
    return ((size_t)s * step->query_tokens + token) * lwk_query_heads(&step->store->shape) + query_head;
}

/* Row of (session, KV head) in mark, items, item_count. */
static inline size_t lwk_kv_row(const lwk_step_t *step, uint32_t s, uint32_t head)
{
    return (size_t)s * step->store->shape.kv_head_count + head;
}

static inline size_t lwk_tensor_at(const lwk_tensor_t *tensor, uint32_t s, uint32_t token, uint32_t head)
{
    return (size_t)(s * tensor->session_stride + token * tensor->token_stride + head * tensor->head_stride);
}

/* ---- ranges and entries
 * ---------------------------------------------------------------------------------------- */

static inline uint32_t lwk_tile_number(const lwk_store_t *store, uint32_t row, uint32_t layer, uint32_t head)
{
    return (row * store->shape.layer_count + layer) * store->shape.kv_head_count + head;
}

static inline uint32_t lwk_tile_entries(const lwk_tile_t *tile)
{
    return (uint32_t)tile->cluster_count + tile->outlier_count;
}

static inline uint32_t lwk_entry_size(const lwk_tile_t *tile, uint32_t entry)
{
    return entry < tile->cluster_count ? tile->sizes[entry] : 1;
}

static inline lwk_index_layout_t lwk_tile_layout(const lwk_tile_t *tile, uint32_t head_dim)
{
    return lwk_index_layout(tile->cluster_encoding, tile->outlier_encoding, tile->cluster_count,
                            tile->outlier_count, head_dim);
}

static inline uint32_t lwk_cluster_pages(uint32_t size)
{
    return (size + LWK_PAGE_TOKENS - 1) / LWK_PAGE_TOKENS;
}

static inline uint64_t lwk_row_bytes(const lwk_shape_t *shape)
{
    return (uint64_t)shape->head_dim * lwk_dtype_bytes(shape->dtype);
}

static inline uint64_t lwk_page_bytes(const lwk_shape_t *shape, const lwk_page_class_t *pages)
{
    return 2 * pages->tokens * lwk_row_bytes(shape);
}

/* n of the budgets: tokens that lie in ranges, sinks excluded. */
static inline uint32_t lwk_indexed_tokens(const lwk_session_t *session)
{
    return session->sealed_count > LW_SINK_TOKENS ? session->sealed_count - LW_SINK_TOKENS : 0;
}

/* LWK_BUDGET_CLUSTERS: how many entries a share of n tokens is. */
static inline uint64_t lwk_budget_clusters(uint32_t ppm, uint64_t n, uint32_t cluster_tokens)
{
    uint64_t unit = (uint64_t)cluster_tokens * 1000000;
    return (ppm * n + unit / 2) / unit;
}

/* Whether anything asks for the variance of logits (spread), or for the shift of values. */
static inline int lwk_policy_uses_spread(const lwk_policy_t *policy)
{
    return policy->correct != 0 || policy->rank == LWK_RANK_EXPECTED_MAX ||
           policy->budget == LWK_BUDGET_ERROR;
}
static inline int lwk_policy_uses_shift(const lwk_policy_t *policy)
{
    return (policy->correct & LWK_CORRECT_VALUE) != 0;
}

/* ---- the steady zone
 * -------------------------------------------------------------------------------------------- */

static inline uint32_t lwk_sink_count(const lwk_session_t *session)
{
    return session->token_count < LW_SINK_TOKENS ? session->token_count : LW_SINK_TOKENS;
}

/* First position of the ring that belongs to the steady zone. */
static inline uint32_t lwk_steady_first(const lwk_session_t *session)
{
    return session->sealed_count > LW_SINK_TOKENS ? session->sealed_count : LW_SINK_TOKENS;
}

static inline uint32_t lwk_steady_count(const lwk_session_t *session)
{
    uint32_t first = lwk_steady_first(session);
    return lwk_sink_count(session) + (session->token_count > first ? session->token_count - first : 0);
}

/* Steady token i: the sinks, then the ring from its first position on. */
static inline uint32_t lwk_steady_position(const lwk_session_t *session, uint32_t i)
{
    uint32_t sinks = lwk_sink_count(session);
    return i < sinks ? i : lwk_steady_first(session) + (i - sinks);
}

/* Element number of a position's row in sink_keys/values (position < LW_SINK_TOKENS) or steady_keys/values.
 */
static inline size_t lwk_steady_at(const lwk_session_t *session, const lwk_shape_t *shape, uint32_t layer,
                                   uint32_t head, uint32_t position)
{
    size_t row = (size_t)layer * shape->kv_head_count + head;
    row = position < LW_SINK_TOKENS ? row * LW_SINK_TOKENS + position
                                    : row * session->steady_rows + position % session->steady_rows;
    return row * shape->head_dim;
}

/* Whether query token t of the step sees the token at a position: everything older than the step, itself, and
 * of the step's other tokens those that the mask names (without a mask: the earlier ones). */
static inline int lwk_visible(const lwk_step_t *step, const lwk_session_t *session, uint32_t t,
                              uint32_t position)
{
    uint32_t first_new = session->token_count - step->query_tokens;
    if (position < first_new)
        return 1;
    uint32_t u = position - first_new;
    return step->tree_mask != NULL ? (step->tree_mask[t] >> u & 1u) != 0 : u <= t;
}

/* ---- partial slots
 * ---------------------------------------------------------------------------------------------- */

static inline uint32_t lwk_slot_steady(const lwk_scratch_t *scratch, uint32_t tile)
{
    return scratch->range_list_capacity + tile;
}
static inline uint32_t lwk_slot_arrivals(const lwk_scratch_t *scratch, uint32_t tile)
{
    return scratch->partial_capacity - (scratch->item_capacity / LWK_ITEM_TILE + 1) + tile;
}
static inline uint32_t lwk_slot_hits(const lwk_scratch_t *scratch, uint32_t tile)
{
    return scratch->partial_capacity - 2 * (scratch->item_capacity / LWK_ITEM_TILE + 1) + tile;
}

/* ---- tickets
 * ---------------------------------------------------------------------------------------------------- */

/* The full number of a ticket that is not yet released, from the 30 bits that a place holds. */
static inline uint64_t lwk_ticket_number(uint64_t released, uint32_t place_number)
{
    return released + ((place_number - (uint32_t)released) & 0x3FFFFFFFu);
}

static inline int lwk_has_arrived(uint64_t arrival, uint64_t ticket)
{
    return (uint32_t)(arrival >> 32) == (uint32_t)(ticket + 1);
}

/* The first error of a step stays. */
static inline void lwk_session_fail(lwk_session_t *session, lw_status_t status)
{
    if (session->error == 0)
        session->error = status;
}

#endif /* LWK_VIEW_H */
