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

#ifdef __cplusplus
extern "C" {
#endif
lw_status_t lwk_shape_check(const lwk_shape_t *shape);
/* Fields of the step; reads nothing of the device's. LW_ERR_INVALID or LW_OK. */
lw_status_t lwk_step_check(const lwk_step_t *step);
/* Sizes and order may come from a stored segment: they are input, and are read on the host. */
lw_status_t lwk_unpack_check(const lwk_unpack_t *args);
lw_status_t lwk_append_check(const lwk_append_t *args);
#ifdef __cplusplus
}
#endif

/* ---- sessions, rows of the scratch arrays
 * ---------------------------------------------------------------------- */

LWK_HD uint32_t lwk_query_heads(const lwk_shape_t *shape)
{
    return shape->kv_head_count * shape->group;
}

/* NULL: the batch slot is empty. */
LWK_HD lwk_session_t *lwk_step_session(const lwk_step_t *step, uint32_t s)
{
    uint32_t slot = step->slots[s];
    return slot == LWK_SLOT_NONE ? NULL : &step->sessions[slot];
}

/* Row of (session, query token, query head) in query, spread, shift, logit, partial, out_fp32, lse_out. */
LWK_HD size_t lwk_query_row(const lwk_step_t *step, uint32_t s, uint32_t token, uint32_t query_head)
{
    return ((size_t)s * step->query_tokens + token) * lwk_query_heads(&step->shape) + query_head;
}

/* Row of (session, KV head) in mark, items, item_count. */
LWK_HD size_t lwk_kv_row(const lwk_step_t *step, uint32_t s, uint32_t head)
{
    return (size_t)s * step->shape.kv_head_count + head;
}

LWK_HD size_t lwk_tensor_at(const lwk_tensor_t *tensor, uint32_t s, uint32_t token, uint32_t head)
{
    return (size_t)(s * tensor->session_stride + token * tensor->token_stride + head * tensor->head_stride);
}

/* ---- ranges and entries
 * ---------------------------------------------------------------------------------------- */

LWK_HD uint32_t lwk_tile_number(const lwk_shape_t *shape, uint32_t row, uint32_t layer, uint32_t head)
{
    return (row * shape->layer_count + layer) * shape->kv_head_count + head;
}

LWK_HD uint32_t lwk_tile_entries(const lwk_tile_t *tile)
{
    return (uint32_t)tile->cluster_count + tile->outlier_count;
}

LWK_HD uint32_t lwk_entry_size(const lwk_tile_t *tile, uint32_t entry)
{
    return entry < tile->cluster_count ? tile->sizes[entry] : 1;
}

LWK_HD lwk_index_layout_t lwk_tile_layout(const lwk_tile_t *tile, uint32_t head_dim)
{
    return lwk_index_layout(tile->cluster_encoding, tile->outlier_encoding, tile->cluster_count,
                            tile->outlier_count, head_dim);
}

LWK_HD lwk_part_t lwk_tile_part(const lwk_tile_t *tile, uint32_t part, uint32_t parts)
{
    return lwk_part(tile->cluster_count, tile->outlier_count, tile->outlier_eighths, part, parts);
}

/* Parts of each range of a session. */
LWK_HD uint32_t lwk_session_parts(const lwk_shape_t *shape, const lwk_session_t *session)
{
    return lwk_parts(session->range_count, shape->kv_head_count);
}

LWK_HD uint32_t lwk_cluster_pages(uint32_t size)
{
    return (size + LWK_PAGE_TOKENS - 1) / LWK_PAGE_TOKENS;
}

LWK_HD uint64_t lwk_row_bytes(const lwk_shape_t *shape)
{
    return (uint64_t)shape->head_dim * lwk_dtype_bytes(shape->dtype);
}

/* Of a local tile: where an entry's record lies, in units of LWK_LANDING_UNIT from `landing`. */
LWK_HD uint32_t lwk_local_record(const lwk_shape_t *shape, const lwk_tile_t *tile, uint32_t entry)
{
    uint32_t clusters = tile->cluster_count, row = 0;
    if (entry < clusters)
        row = tile->row_base[entry];
    else if (clusters > 0)
        row = (uint32_t)tile->row_base[clusters - 1] + tile->sizes[clusters - 1] + (entry - clusters);
    else
        row = entry;
    return (uint32_t)((tile->local - 1 + row * 2 * lwk_row_bytes(shape)) / LWK_LANDING_UNIT);
}

LWK_HD uint64_t lwk_page_bytes(const lwk_shape_t *shape, const lwk_page_class_t *pages)
{
    return 2 * pages->tokens * lwk_row_bytes(shape);
}

/* n of the budgets: tokens that lie in ranges, sinks excluded. */
LWK_HD uint32_t lwk_indexed_tokens(const lwk_session_t *session)
{
    return session->sealed_count > LW_SINK_TOKENS ? session->sealed_count - LW_SINK_TOKENS : 0;
}

/* LWK_BUDGET_CLUSTERS: how many entries a share of n tokens is. */
LWK_HD uint64_t lwk_budget_clusters(uint32_t ppm, uint64_t n, uint32_t cluster_tokens)
{
    uint64_t unit = (uint64_t)cluster_tokens * 1000000;
    return (ppm * n + unit / 2) / unit;
}

/* Whether anything asks for the variance of logits (spread), or for the shift of values. */
LWK_HD int lwk_policy_uses_spread(const lwk_policy_t *policy)
{
    return policy->correct != 0 || policy->rank == LWK_RANK_EXPECTED_MAX ||
           policy->budget == LWK_BUDGET_ERROR;
}
LWK_HD int lwk_policy_uses_shift(const lwk_policy_t *policy)
{
    return (policy->correct & LWK_CORRECT_VALUE) != 0;
}

/* ---- the steady zone
 * -------------------------------------------------------------------------------------------- */

LWK_HD uint32_t lwk_sink_count(const lwk_session_t *session)
{
    return session->token_count < LW_SINK_TOKENS ? session->token_count : LW_SINK_TOKENS;
}

/* First position of the ring that belongs to the steady zone. */
LWK_HD uint32_t lwk_steady_first(const lwk_session_t *session)
{
    return session->sealed_count > LW_SINK_TOKENS ? session->sealed_count : LW_SINK_TOKENS;
}

LWK_HD uint32_t lwk_steady_count(const lwk_session_t *session)
{
    uint32_t first = lwk_steady_first(session);
    return lwk_sink_count(session) + (session->token_count > first ? session->token_count - first : 0);
}

/* Steady token i: the sinks, then the ring from its first position on. */
LWK_HD uint32_t lwk_steady_position(const lwk_session_t *session, uint32_t i)
{
    uint32_t sinks = lwk_sink_count(session);
    return i < sinks ? i : lwk_steady_first(session) + (i - sinks);
}

/* Element number of a position's row in sink_keys/values (position < LW_SINK_TOKENS) or steady_keys/values.
 */
LWK_HD size_t lwk_ring_at(const lwk_shape_t *shape, uint32_t steady_rows, uint32_t layer, uint32_t head,
                          uint32_t position)
{
    size_t row = (size_t)layer * shape->kv_head_count + head;
    row = position < LW_SINK_TOKENS ? row * LW_SINK_TOKENS + position : row * steady_rows + position % steady_rows;
    return row * shape->head_dim;
}
LWK_HD size_t lwk_steady_at(const lwk_session_t *session, const lwk_shape_t *shape, uint32_t layer,
                                   uint32_t head, uint32_t position)
{
    return lwk_ring_at(shape, session->steady_rows, layer, head, position);
}

/* Whether query token t of the step sees the token at a position: everything older than the step, itself, and
 * of the step's other tokens those that the mask names (without a mask: the earlier ones). */
LWK_HD int lwk_visible(const lwk_step_t *step, const lwk_session_t *session, uint32_t t,
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

LWK_HD uint32_t lwk_slot_steady(const lwk_scratch_t *scratch, uint32_t tile)
{
    return scratch->part_capacity + tile;
}
LWK_HD uint32_t lwk_slot_arrivals(const lwk_scratch_t *scratch, uint32_t tile)
{
    return scratch->partial_capacity - lwk_item_slots(scratch->item_capacity) + tile;
}
LWK_HD uint32_t lwk_slot_hits(const lwk_scratch_t *scratch, uint32_t tile)
{
    return scratch->partial_capacity - 2 * lwk_item_slots(scratch->item_capacity) + tile;
}

/* ---- tickets
 * ---------------------------------------------------------------------------------------------------- */

/* The full number of a ticket that is not yet released, from the 30 bits that a place holds. */
LWK_HD uint64_t lwk_ticket_number(uint64_t released, uint32_t place_number)
{
    return released + ((place_number - (uint32_t)released) & 0x3FFFFFFFu);
}

LWK_HD int lwk_has_arrived(uint64_t arrival, uint64_t ticket)
{
    return (uint32_t)(arrival >> 32) == (uint32_t)(ticket + 1);
}

/* The first error of a step stays. */
LWK_HD void lwk_session_fail(lwk_session_t *session, lw_status_t status)
{
    if (session->error == 0)
        session->error = status;
}

#endif /* LWK_VIEW_H */
