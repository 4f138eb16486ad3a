/* select.c - which entries are attended exactly: ranks them, fills the budget, marks every entry, then looks
 * the chosen ones up (ALGORITHM.md sections 4 and 6; the exact order is in ops.h). The ranking is a full
 * sort: slow and easy to believe. */
#include <string.h>

#include "kernels/build_args.h"
#include "kernels/ref/entry.h"
#include "kernels/ref/ref.h"

#define QUERIES_MAX (LW_QUERY_TOKENS_MAX * LW_GROUP_MAX)

/* One (session, KV head) under selection. */
typedef struct selection {
    const lwk_step_t *step;
    lwk_session_t *session;
    uint32_t s, head;
    uint32_t query_count;       /* T * G, in the order (token, head of the group) */
    size_t row[QUERIES_MAX];    /* scratch row of each */
    real largest[QUERIES_MAX];  /* of R, or of A under LWK_BUDGET_ERROR */
    real sum[QUERIES_MAX];      /* of e^(R - largest) or e^(A - largest) over all entries */
    uint64_t rest[QUERIES_MAX]; /* LWK_BUDGET_ERROR: contributions not yet taken, in units of 2^-40 */
    lwk_ranked_t *order;        /* key: minus the vote or contribution; token: entry slot */
    uint32_t count, estimated;  /* entries of size > 0; of those, marked LWK_MARK_ESTIMATE */
    uint8_t *mark;
} selection_t;

uint64_t lwk_ref_workspace_bytes(const lwk_dims_t *dims)
{
    return (uint64_t)dims->entry_capacity * sizeof(lwk_ranked_t);
}

static ref_tile_t tile_of(const selection_t *sel, uint32_t range)
{
    const lwk_store_t *store = sel->step->store;
    const lwk_shape_t *shape = &sel->step->shape;
    uint32_t number = lwk_tile_number(shape, sel->session->ranges[range].row, sel->step->layer, sel->head);
    return lwk_ref_tile_open(&store->tiles[number], shape->head_dim);
}

/* Range that an entry slot lies in: the last one that begins at or before it. */
static uint32_t range_of(const selection_t *sel, uint32_t slot)
{
    uint32_t low = 0, high = sel->session->range_count;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (sel->session->ranges[middle].entry_base <= slot)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static ref_terms_t terms_of(const selection_t *sel, const ref_tile_t *tile, uint32_t entry, uint32_t slot,
                            uint32_t q)
{
    const lwk_scratch_t *scratch = &sel->step->scratch;
    ref_query_t query = lwk_ref_query_open(sel->step, sel->session, tile, sel->row[q]);
    return lwk_ref_entry_terms(tile, &query, entry, scratch->logit[sel->row[q] * scratch->entry_capacity + slot]);
}

/* The normaliser of each query head's vote: from the tile sums, in the order of the slots. */
static void sum_ranks(selection_t *sel)
{
    const lwk_scratch_t *scratch = &sel->step->scratch;
    uint32_t slots = sel->session->range_count * lwk_session_parts(&sel->step->shape, sel->session);
    for (uint32_t q = 0; q < sel->query_count; q++) {
        const float *tile_max = scratch->tile_max + sel->row[q] * scratch->part_capacity;
        const float *tile_sum = scratch->tile_sum + sel->row[q] * scratch->part_capacity;
        sel->largest[q] = -INFINITY;
        sel->sum[q] = 0;
        for (uint32_t i = 0; i < slots; i++)
            sel->largest[q] = fmax(sel->largest[q], tile_max[i]);
        for (uint32_t i = 0; i < slots; i++)
            if (tile_sum[i] > 0)
                sel->sum[q] += tile_sum[i] * exp(tile_max[i] - sel->largest[q]);
    }
}

/* Calls `visit` for every entry of size > 0, in slot order. */
static void each_entry(selection_t *sel,
                       void (*visit)(selection_t *, const ref_tile_t *, uint32_t entry, uint32_t slot))
{
    for (uint32_t range = 0; range < sel->session->range_count; range++) {
        ref_tile_t tile = tile_of(sel, range);
        for (uint32_t e = 0; e < lwk_tile_entries(tile.tile); e++)
            if (lwk_entry_size(tile.tile, e) > 0)
                visit(sel, &tile, e, sel->session->ranges[range].entry_base + e);
    }
}

static void rank_by_vote(selection_t *sel, const ref_tile_t *tile, uint32_t entry, uint32_t slot)
{
    float vote = 0;
    for (uint32_t q = 0; q < sel->query_count; q++)
        vote += (float)(exp(terms_of(sel, tile, entry, slot, q).rank - sel->largest[q]) / sel->sum[q]);
    sel->order[sel->count++] = (lwk_ranked_t){.key = -(double)vote, .token = slot};
}

static void largest_mass(selection_t *sel, const ref_tile_t *tile, uint32_t entry, uint32_t slot)
{
    for (uint32_t q = 0; q < sel->query_count; q++)
        sel->largest[q] = fmax(sel->largest[q], terms_of(sel, tile, entry, slot, q).mass);
}

static void sum_mass(selection_t *sel, const ref_tile_t *tile, uint32_t entry, uint32_t slot)
{
    for (uint32_t q = 0; q < sel->query_count; q++)
        sel->sum[q] += exp(terms_of(sel, tile, entry, slot, q).mass - sel->largest[q]);
}

/* The steady zone's weight belongs to the whole that shares are taken of: score has left its partials. */
static void sum_steady(selection_t *sel)
{
    const lwk_scratch_t *scratch = &sel->step->scratch;
    uint32_t tiles = (lwk_steady_count(sel->session) + LWK_STEADY_TILE - 1) / LWK_STEADY_TILE;
    for (uint32_t q = 0; q < sel->query_count; q++) {
        const lwk_partial_t *partial =
            scratch->partial + sel->row[q] * scratch->partial_capacity + lwk_slot_steady(scratch, 0);
        for (uint32_t i = 0; i < tiles; i++)
            if (partial[i].z > 0)
                sel->sum[q] += partial[i].z * exp(partial[i].m - sel->largest[q]);
    }
}

/* Expected squared error of estimating an entry (ops.h, LWK_BUDGET_ERROR): share^2 (e^variance - 1) / s of a
 * cluster, share^2 of an outlier, whose value is its parent's. */
static real contribution(const selection_t *sel, const ref_tile_t *tile, uint32_t entry, uint32_t slot,
                         uint32_t q)
{
    ref_terms_t t = terms_of(sel, tile, entry, slot, q);
    real share = exp(t.mass - sel->largest[q]) / sel->sum[q];
    real size = lwk_entry_size(tile->tile, entry);
    return entry < tile->tile->cluster_count ? share * share * expm1(t.variance) / size : share * share;
}

static uint64_t fixed_point(real x)
{
    return (uint64_t)(x * 0x1p40 + 0.5);
}

static void rank_by_contribution(selection_t *sel, const ref_tile_t *tile, uint32_t entry, uint32_t slot)
{
    float largest = 0;
    for (uint32_t q = 0; q < sel->query_count; q++) {
        real x = contribution(sel, tile, entry, slot, q);
        sel->rest[q] += fixed_point(x);
        largest = fmaxf(largest, (float)x);
    }
    largest /= (float)lwk_entry_size(tile->tile, entry); /* what a token of the budget buys */
    sel->order[sel->count++] = (lwk_ranked_t){.key = -(double)largest, .token = slot};
}

static void rank_entries(selection_t *sel)
{
    if (sel->session->policy.budget == LWK_BUDGET_ERROR) {
        for (uint32_t q = 0; q < sel->query_count; q++)
            sel->largest[q] = -INFINITY;
        each_entry(sel, largest_mass);
        each_entry(sel, sum_mass);
        sum_steady(sel);
        each_entry(sel, rank_by_contribution);
    } else {
        sum_ranks(sel);
        each_entry(sel, rank_by_vote);
    }
    lwk_ranked_sort(sel->order, sel->count);
}

static uint32_t size_of(const selection_t *sel, uint32_t slot)
{
    uint32_t range = range_of(sel, slot);
    ref_tile_t tile = tile_of(sel, range);
    return lwk_entry_size(tile.tile, slot - sel->session->ranges[range].entry_base);
}

static bool error_is_small(const selection_t *sel)
{
    real accuracy = sel->session->policy.accuracy_ppm / 1e6;
    for (uint32_t q = 0; q < sel->query_count; q++)
        if (sel->rest[q] >= fixed_point(accuracy * accuracy))
            return false;
    return true;
}

static void take_from_rest(selection_t *sel, uint32_t slot)
{
    uint32_t range = range_of(sel, slot);
    ref_tile_t tile = tile_of(sel, range);
    for (uint32_t q = 0; q < sel->query_count; q++)
        sel->rest[q] -=
            fixed_point(contribution(sel, &tile, slot - sel->session->ranges[range].entry_base, slot, q));
}

/* Whether one more entry belongs to the retrieval zone, `taken` entries with `tokens` tokens being in it. */
static bool wants_more(const selection_t *sel, uint32_t taken, uint64_t tokens)
{
    const lwk_policy_t *policy = &sel->session->policy;
    uint64_t n = lwk_indexed_tokens(sel->session);
    switch (policy->budget) {
    case LWK_BUDGET_TOKENS:
        return policy->retrieve_ppm >= 1000000 || tokens * 1000000 < policy->retrieve_ppm * n;
    case LWK_BUDGET_CLUSTERS:
        return policy->retrieve_ppm >= 1000000 ||
               taken < lwk_budget_clusters(policy->retrieve_ppm, n, policy->cluster_tokens);
    default:
        if (taken < policy->floor_entries)
            return true;
        return tokens * 1000000 < policy->cap_ppm * n && !error_is_small(sel);
    }
}

/* Whether one more entry is estimated, after the retrieval zone. */
static bool wants_estimate(const selection_t *sel, uint32_t estimated, uint64_t tokens)
{
    const lwk_policy_t *policy = &sel->session->policy;
    uint64_t n = lwk_indexed_tokens(sel->session);
    if (policy->estimate_ppm >= 1000000)
        return true;
    if (policy->budget == LWK_BUDGET_CLUSTERS)
        return estimated < lwk_budget_clusters(policy->estimate_ppm, n, policy->cluster_tokens);
    return tokens * 1000000 < policy->estimate_ppm * n;
}

static void mark_entries(selection_t *sel)
{
    uint32_t i = 0;
    uint64_t tokens = 0;
    for (; i < sel->count && wants_more(sel, i, tokens); i++) {
        if (i == sel->step->scratch.item_capacity) {
            sel->step->store->counters->selections_cut++;
            break;
        }
        uint32_t slot = sel->order[i].token;
        sel->mark[slot] = LWK_MARK_RETRIEVE;
        tokens += size_of(sel, slot);
        if (sel->session->policy.budget == LWK_BUDGET_ERROR)
            take_from_rest(sel, slot);
    }
    for (tokens = 0; i < sel->count && wants_estimate(sel, sel->estimated, tokens); i++, sel->estimated++) {
        uint32_t slot = sel->order[i].token;
        sel->mark[slot] = LWK_MARK_ESTIMATE;
        tokens += size_of(sel, slot);
    }
}

static void select_head(const lwk_step_t *step, uint32_t s, lwk_session_t *session, uint32_t head)
{
    const lwk_scratch_t *scratch = &step->scratch;
    uint32_t group = step->shape.group;
    selection_t sel = {
        .step = step,
        .session = session,
        .s = s,
        .head = head,
        .query_count = step->query_tokens * group,
        .order = scratch->workspace,
        .mark = scratch->mark + lwk_kv_row(step, s, head) * scratch->entry_capacity,
    };
    for (uint32_t q = 0; q < sel.query_count; q++)
        sel.row[q] = lwk_query_row(step, s, q / group, head * group + q % group);
    memset(sel.mark, LWK_MARK_DROP, session->entry_count);
    if (!session->policy.steady_only) {
        rank_entries(&sel);
        mark_entries(&sel);
    }
    lwk_ref_lookup(step, s, head, sel.count, sel.estimated);
}

lw_status_t lwk_ref_select(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    lw_status_t status = lwk_step_check(step);
    if (status != LW_OK)
        return status;
    if (step->scratch.workspace_bytes < (uint64_t)step->scratch.entry_capacity * sizeof(lwk_ranked_t))
        return LW_ERR_INVALID;
    for (uint32_t s = 0; s < step->session_count; s++) {
        lwk_session_t *session = lwk_step_session(step, s);
        for (uint32_t head = 0; session != NULL && head < step->shape.kv_head_count; head++)
            select_head(step, s, session, head);
    }
    return LW_OK;
}
