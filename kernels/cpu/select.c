/* select.c - as ref/select.c, without sorting: votes are ordered by the bits of their fp32 numbers (none is
 * negative), and a radix descent over histograms of entries and tokens finds where the budget is filled.
 * Entries of equal votes are taken in slot order. Only the error budget sorts, and only what its cap can
 * take. */
#include <string.h>

#include "kernels/build_args.h"
#include "kernels/cpu/cpu_private.h"
#include "kernels/ref/ref.h"

#define LEVELS 3
#define BINS 2048u
#define SORT_BELOW 32u
static const uint32_t level_shift[LEVELS] = {21, 10, 0}; /* 11, 11 and 10 bits */

typedef struct selection {
    const lwk_loops_t *loops;
    const lwk_cpu_work_t *work;
    const lwk_cpu_queries_t *queries;
    const lwk_policy_t *policy;
    uint64_t n; /* of the budgets */
    uint8_t *mark;
    uint32_t count; /* entries of size > 0: work->list, in slot order */
} selection_t;

/* An entry is taken while this holds for what was taken before it; once it is false it stays so. */
typedef struct limit {
    uint64_t entries_most, entries_least; /* never more; always so many, whatever the tokens */
    uint64_t tokens_ppm;                  /* tokens * 1e6 below this; UINT64_MAX: no such limit */
} limit_t;

static bool wants_more(const limit_t *limit, uint64_t entries, uint64_t tokens)
{
    return entries < limit->entries_most &&
           (entries < limit->entries_least || tokens * 1000000 < limit->tokens_ppm);
}

/* ---- votes
 * -------------------------------------------------------------------------------------------------------- */

static void open_entries(selection_t *sel, const lwk_cpu_tile_t *tile)
{
    const lwk_cpu_work_t *work = sel->work;
    const lwk_tile_t *t = tile->tile;
    memcpy(work->size + tile->base, t->sizes, t->cluster_count * sizeof *t->sizes);
    for (uint32_t i = t->cluster_count; i < tile->count; i++)
        work->size[tile->base + i] = 1;
    for (uint32_t i = 0; i < tile->count; i++)
        if (!tile->has_empty || work->size[tile->base + i] > 0)
            work->list[sel->count++] = tile->base + i;
        else
            sel->mark[tile->base + i] = LWK_MARK_DROP;
}

/* 1 / sum of e^R over all entries, and the largest R, from what score left for each tile. */
static float rank_normaliser(const lwk_cpu_queries_t *queries, uint32_t q, float *largest_out)
{
    const lwk_scratch_t *scratch = &queries->step->scratch;
    const float *tile_max = scratch->tile_max + queries->row[q] * scratch->part_capacity;
    const float *tile_sum = scratch->tile_sum + queries->row[q] * scratch->part_capacity;
    uint32_t slots = queries->session->range_count * lwk_session_parts(&queries->step->shape, queries->session);
    float largest = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < slots; i++)
        largest = fmaxf(largest, tile_max[i]);
    for (uint32_t i = 0; i < slots; i++)
        if (tile_sum[i] > 0)
            sum += tile_sum[i] * expf(tile_max[i] - largest);
    *largest_out = largest;
    return sum > 0 ? 1 / sum : 0;
}

/* Sum of e^(x - reference) over the steady zone, from the partials that score left. */
static float steady_sum(const lwk_cpu_queries_t *queries, uint32_t q, float reference)
{
    const lwk_scratch_t *scratch = &queries->step->scratch;
    const lwk_partial_t *partial =
        scratch->partial + queries->row[q] * scratch->partial_capacity + lwk_slot_steady(scratch, 0);
    uint32_t tiles = (lwk_steady_count(queries->session) + LWK_STEADY_TILE - 1) / LWK_STEADY_TILE;
    float sum = 0;
    for (uint32_t i = 0; i < tiles; i++)
        if (partial[i].z > 0)
            sum += partial[i].z * expf(partial[i].m - reference);
    return sum;
}

static const float *logits_of(const selection_t *sel, uint32_t q, uint32_t base)
{
    const lwk_scratch_t *scratch = &sel->queries->step->scratch;
    return scratch->logit + sel->queries->row[q] * scratch->entry_capacity + base;
}

static void vote_all(selection_t *sel)
{
    const lwk_cpu_queries_t *queries = sel->queries;
    float largest[LWK_CPU_QUERIES_MAX], factor[LWK_CPU_QUERIES_MAX];
    for (uint32_t q = 0; q < queries->count; q++)
        factor[q] = rank_normaliser(queries, q, &largest[q]);
    for (uint32_t range = 0; range < queries->session->range_count; range++) {
        lwk_cpu_tile_t tile;
        lwk_cpu_tile_open(sel->loops, sel->work, queries, range, NULL, &tile);
        open_entries(sel, &tile);
        memset(sel->work->vote + tile.base, 0, tile.count * sizeof(float));
        for (uint32_t q = 0; q < queries->count; q++) {
            lwk_lens_t lens = lwk_cpu_lens(queries, q, &tile);
            if (!(factor[q] > 0))
                continue;
            (void)sel->loops->rank(&tile.columns, &lens, logits_of(sel, q, tile.base), tile.count,
                                   sel->work->rank);
            sel->loops->vote(sel->work->rank, tile.count, largest[q], factor[q], sel->work->vote + tile.base);
        }
    }
}

/* ---- taking in order
 * ---------------------------------------------------------------------------------------------- */

typedef struct histogram {
    uint32_t entries[BINS];
    uint64_t tokens[BINS];
} histogram_t;

static uint32_t bin_of(const selection_t *sel, uint32_t slot, int level)
{
    uint32_t bits = lwk_float_bits(sel->work->vote[slot]) >> level_shift[level];
    return level == 0 ? bits : bits & (level == 1 ? 2047u : 1023u);
}

/* The bin in which the limit is reached, or BINS: all of them are taken. entries and tokens grow by the bins
 * above it. */
static uint32_t find_bin(const histogram_t *histogram, const limit_t *limit, uint64_t *entries,
                         uint64_t *tokens)
{
    for (uint32_t bin = BINS; bin-- > 0;) {
        if (histogram->entries[bin] == 0)
            continue;
        if (!wants_more(limit, *entries + histogram->entries[bin], *tokens + histogram->tokens[bin]))
            return bin;
        *entries += histogram->entries[bin];
        *tokens += histogram->tokens[bin];
    }
    return BINS;
}

/* By insertion: candidates lie in slot order, and equal votes stay in it. */
static void sort_few(const selection_t *sel, uint32_t *slots, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        uint32_t slot = slots[i], at = i;
        for (; at > 0 && sel->work->vote[slots[at - 1]] < sel->work->vote[slot]; at--)
            slots[at] = slots[at - 1];
        slots[at] = slot;
    }
}

/* Marks entries of the list in the order of ops.h while the limit lets it; returns how many. Candidates of
 * the last level have equal votes and lie in slot order; when few are left before that, sorting them is
 * cheaper than another histogram. */
static uint32_t take(const selection_t *sel, const uint32_t *list, uint32_t count, const limit_t *limit,
                     uint8_t mark)
{
    uint32_t *candidates = sel->work->candidates;
    uint64_t entries = 0, tokens = 0;
    for (int level = 0; level < LEVELS && (level == 0 || count > SORT_BELOW); level++) {
        histogram_t histogram;
        memset(&histogram, 0, sizeof histogram);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t bin = bin_of(sel, list[i], level);
            histogram.entries[bin]++;
            histogram.tokens[bin] += sel->work->size[list[i]];
        }
        uint32_t edge = find_bin(&histogram, limit, &entries, &tokens), kept = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t slot = list[i], bin = bin_of(sel, slot, level);
            if (edge == BINS || bin > edge)
                sel->mark[slot] = mark;
            else if (bin == edge)
                candidates[kept++] = slot;
        }
        list = candidates;
        count = kept;
    }
    if (count <= SORT_BELOW)
        sort_few(sel, candidates, count);
    for (uint32_t i = 0; i < count && wants_more(limit, entries, tokens); i++) {
        sel->mark[list[i]] = mark;
        entries++;
        tokens += sel->work->size[list[i]];
    }
    return (uint32_t)entries;
}

/* ---- budgets
 * ------------------------------------------------------------------------------------------------------ */

static limit_t retrieve_limit(const selection_t *sel)
{
    const lwk_policy_t *policy = sel->policy;
    limit_t limit = {.entries_most = sel->queries->step->scratch.item_capacity, .tokens_ppm = UINT64_MAX};
    if (policy->budget == LWK_BUDGET_ERROR) {
        limit.entries_least = policy->floor_entries;
        limit.tokens_ppm = policy->cap_ppm * sel->n;
    } else if (policy->retrieve_ppm >= 1000000) {
        /* everything */
    } else if (policy->budget == LWK_BUDGET_TOKENS) {
        limit.tokens_ppm = policy->retrieve_ppm * sel->n;
    } else {
        limit.entries_most = lw_min_u64(
            limit.entries_most, lwk_budget_clusters(policy->retrieve_ppm, sel->n, policy->cluster_tokens));
    }
    return limit;
}

static limit_t estimate_limit(const selection_t *sel)
{
    const lwk_policy_t *policy = sel->policy;
    if (policy->budget == LWK_BUDGET_CLUSTERS)
        return (limit_t){.entries_most =
                             lwk_budget_clusters(policy->estimate_ppm, sel->n, policy->cluster_tokens),
                         .tokens_ppm = UINT64_MAX};
    return (limit_t){.entries_most = UINT64_MAX, .tokens_ppm = policy->estimate_ppm * sel->n};
}

/* Whether the item capacity, not the budget, ended the selection. */
static bool was_cut(const selection_t *sel, const limit_t *limit, uint32_t taken)
{
    if (taken < sel->queries->step->scratch.item_capacity || taken == sel->count)
        return false;
    if (sel->policy->budget == LWK_BUDGET_CLUSTERS && sel->policy->retrieve_ppm < 1000000)
        return taken < lwk_budget_clusters(sel->policy->retrieve_ppm, sel->n, sel->policy->cluster_tokens);
    uint64_t tokens = 0;
    for (uint32_t i = 0; i < sel->count; i++)
        tokens +=
            sel->mark[sel->work->list[i]] == LWK_MARK_RETRIEVE ? sel->work->size[sel->work->list[i]] : 0;
    limit_t open = *limit;
    open.entries_most = UINT64_MAX;
    return wants_more(&open, taken, tokens);
}

/* ---- the error budget (ALGORITHM.md section 6)
 * -------------------------------------------------------------------- */

static uint64_t fixed_point(float x)
{
    return (uint64_t)((double)x * 0x1p40 + 0.5);
}

static float *shares_of(const selection_t *sel, uint32_t q, uint32_t base)
{
    return sel->work->weight + (size_t)q * sel->queries->step->scratch.entry_capacity + base;
}

/* Leaves each query's contributions in work->weight and the largest of them in work->vote; rest: their sums.
 */
static void contributions(selection_t *sel, uint64_t *rest)
{
    const lwk_cpu_queries_t *queries = sel->queries;
    bool with_variance = (sel->policy->correct & LWK_CORRECT_VARIANCE) != 0;
    float largest[LWK_CPU_QUERIES_MAX], sum[LWK_CPU_QUERIES_MAX];
    lwk_cpu_tile_t tile;
    for (uint32_t q = 0; q < queries->count; q++) {
        largest[q] = -INFINITY;
        sum[q] = 0;
        rest[q] = 0;
    }
    for (uint32_t range = 0; range < queries->session->range_count; range++) {
        lwk_cpu_tile_open(sel->loops, sel->work, queries, range, NULL, &tile);
        open_entries(sel, &tile);
        memset(sel->work->vote + tile.base, 0, tile.count * sizeof(float));
        for (uint32_t q = 0; q < queries->count; q++) {
            lwk_lens_t lens = lwk_cpu_lens(queries, q, &tile);
            largest[q] = fmaxf(largest[q], sel->loops->mass(&tile.columns, &lens, with_variance,
                                                            logits_of(sel, q, tile.base), tile.count,
                                                            shares_of(sel, q, tile.base)));
        }
    }
    for (uint32_t range = 0; range < queries->session->range_count; range++) {
        lwk_cpu_tile_open(sel->loops, sel->work, queries, range, NULL, &tile);
        for (uint32_t q = 0; q < queries->count; q++)
            if (largest[q] > -INFINITY)
                sum[q] += sel->loops->exp_sum(shares_of(sel, q, tile.base), tile.count, largest[q]);
    }
    for (uint32_t q = 0; q < queries->count; q++)
        if (largest[q] > -INFINITY)
            sum[q] += steady_sum(queries, q, largest[q]);
    for (uint32_t range = 0; range < queries->session->range_count; range++) {
        lwk_cpu_tile_open(sel->loops, sel->work, queries, range, NULL, &tile);
        for (uint32_t q = 0; q < queries->count; q++) {
            if (!(sum[q] > 0))
                continue;
            lwk_lens_t lens = lwk_cpu_lens(queries, q, &tile);
            float *share = shares_of(sel, q, tile.base), *vote = sel->work->vote + tile.base;
            sel->loops->contribution(&tile.columns, &lens, logits_of(sel, q, tile.base),
                                     tile.tile->cluster_count, tile.count, 1 / sum[q], share);
            for (uint32_t i = 0; i < tile.count; i++) {
                rest[q] += fixed_point(share[i]);
                vote[i] = fmaxf(vote[i], share[i] / (float)sel->work->size[tile.base + i]);
            }
        }
    }
}

static bool error_is_small(const selection_t *sel, const uint64_t *rest)
{
    double accuracy = sel->policy->accuracy_ppm / 1e6;
    uint64_t target = (uint64_t)(accuracy * accuracy * 0x1p40 + 0.5);
    for (uint32_t q = 0; q < sel->queries->count; q++)
        if (rest[q] >= target)
            return false;
    return true;
}

/* Of the `taken` marked entries, which are all that cap and floor allow, keeps those that the target asks
 * for. */
static uint32_t keep_until_small(const selection_t *sel, uint64_t *rest, uint32_t taken, uint8_t other)
{
    lwk_ranked_t *order = sel->work->ranked;
    uint32_t count = 0, kept = 0;
    for (uint32_t i = 0; i < sel->count && count < taken; i++) {
        uint32_t slot = sel->work->list[i];
        if (sel->mark[slot] == LWK_MARK_RETRIEVE)
            order[count++] = (lwk_ranked_t){.key = -(double)sel->work->vote[slot], .token = slot};
    }
    lwk_ranked_sort(order, count);
    for (; kept < count && (kept < sel->policy->floor_entries || !error_is_small(sel, rest)); kept++)
        for (uint32_t q = 0; q < sel->queries->count; q++)
            rest[q] -= fixed_point(*shares_of(sel, q, order[kept].token));
    for (uint32_t i = kept; i < count; i++)
        sel->mark[order[i].token] = other;
    return kept;
}

/* ---- the op
 * ------------------------------------------------------------------------------------------------------- */

static uint32_t mark_entries(selection_t *sel)
{
    uint64_t rest[LWK_CPU_QUERIES_MAX];
    uint8_t other = sel->policy->estimate_ppm >= 1000000 ? LWK_MARK_ESTIMATE : LWK_MARK_DROP;
    memset(sel->mark, other, sel->queries->session->entry_count);
    bool by_error = sel->policy->budget == LWK_BUDGET_ERROR;
    if (by_error)
        contributions(sel, rest);
    else
        vote_all(sel);
    limit_t limit = retrieve_limit(sel);
    uint32_t taken = take(sel, sel->work->list, sel->count, &limit, LWK_MARK_RETRIEVE);
    bool cut = was_cut(sel, &limit, taken);
    if (by_error) {
        uint32_t kept = keep_until_small(sel, rest, taken, other);
        cut = cut && kept == taken && !error_is_small(sel, rest);
        taken = kept;
    }
    sel->queries->step->store->counters->selections_cut += cut;
    if (other == LWK_MARK_ESTIMATE)
        return sel->count - taken;
    uint32_t left = 0;
    for (uint32_t i = 0; i < sel->count; i++)
        if (sel->mark[sel->work->list[i]] != LWK_MARK_RETRIEVE)
            sel->work->list[left++] = sel->work->list[i];
    limit = estimate_limit(sel);
    return take(sel, sel->work->list, left, &limit, LWK_MARK_ESTIMATE);
}

static void select_head(const lwk_loops_t *loops, const lwk_cpu_work_t *work,
                        const lwk_cpu_queries_t *queries)
{
    const lwk_scratch_t *scratch = &queries->step->scratch;
    selection_t sel = {
        .loops = loops,
        .work = work,
        .queries = queries,
        .policy = &queries->session->policy,
        .n = lwk_indexed_tokens(queries->session),
        .mark =
            scratch->mark + lwk_kv_row(queries->step, queries->s, queries->head) * scratch->entry_capacity,
    };
    uint32_t estimated = 0;
    if (queries->session->policy.steady_only)
        memset(sel.mark, LWK_MARK_DROP, queries->session->entry_count);
    else
        estimated = mark_entries(&sel);
    lwk_ref_lookup(queries->step, queries->s, queries->head, sel.count, estimated);
}

lw_status_t lwk_cpu_select(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    return lwk_cpu_each_head(dev, step, select_head);
}
