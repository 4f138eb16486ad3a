/* score.c - logits of every entry of every tile, and what the vote needs of them: see ref/score.c for the
 * formulas. */
#include "kernels/cpu/cpu_private.h"

/* Logits of `count` rows of one encoding: for coded rows  q.key = q.center + scale (channel q).code. */
static void dot_keys(const lwk_loops_t *loops, const lwk_cpu_work_t *work, const lwk_cpu_queries_t *queries,
                     const lwk_cpu_tile_t *tile, uint32_t encoding, uint32_t keys, uint32_t first,
                     uint32_t count, float *const *logits)
{
    uint32_t d = queries->step->shape.head_dim;
    bool coded = lwk_encoding_is_coded(encoding);
    const float *query[LWK_CPU_QUERIES_MAX];
    float *to[LWK_CPU_QUERIES_MAX];
    if (count == 0)
        return;
    for (uint32_t q = 0; q < queries->count; q++) {
        query[q] = coded ? work->coded_query + (size_t)q * d : queries->query[q];
        to[q] = logits[q] + first;
        if (coded)
            loops->product(lwk_cpu_floats(tile, tile->at.key_channel), queries->query[q], d,
                           work->coded_query + (size_t)q * d);
    }
    lwk_cpu_index_rows(work, tile->tile->index + keys, lwk_encoded_row_bytes(encoding, d), count);
    loops->dot[lwk_encoding_kind(encoding)](work->rows, count, query, queries->count, d, to);
    for (uint32_t q = 0; q < queries->count && coded; q++) {
        const uint8_t *center = tile->tile->index + tile->at.key_center;
        float shared, *shared_out = &shared;
        loops->dot[LWK_ROW_FP32](&center, 1, &queries->query[q], 1, d, &shared_out);
        loops->decode(to[q], tile->columns.scale + first, count, shared);
    }
}

static void score_tile(const lwk_loops_t *loops, const lwk_cpu_work_t *work, const lwk_cpu_queries_t *queries,
                       uint32_t range)
{
    const lwk_scratch_t *scratch = &queries->step->scratch;
    const lwk_shape_t *shape = &queries->step->shape;
    uint32_t parts = lwk_session_parts(shape, queries->session);
    lwk_cpu_tile_t tile;
    lwk_cpu_tile_open(loops, work, queries, range, NULL, &tile);
    float *logits[LWK_CPU_QUERIES_MAX];
    for (uint32_t q = 0; q < queries->count; q++)
        logits[q] = scratch->logit + queries->row[q] * scratch->entry_capacity + tile.base;
    const lwk_tile_t *t = tile.tile;
    dot_keys(loops, work, queries, &tile, t->cluster_encoding, tile.at.cluster_keys, 0, t->cluster_count,
             logits);
    dot_keys(loops, work, queries, &tile, t->outlier_encoding, tile.at.outlier_keys, t->cluster_count,
             t->outlier_count, logits);
    for (uint32_t q = 0; q < queries->count; q++) {
        size_t at = queries->row[q] * scratch->part_capacity + lwk_part_slot(range, 0, parts);
        lwk_lens_t lens = lwk_cpu_lens(queries, q, &tile);
        (void)loops->cap(logits[q], tile.count, shape->scale, shape->soft_cap);
        for (uint32_t i = 0; tile.has_empty && i < t->cluster_count; i++)
            if (t->sizes[i] == 0)
                logits[q][i] = -INFINITY;
        float largest = loops->rank(&tile.columns, &lens, logits[q], tile.count, work->rank);
        scratch->tile_max[at] = largest;
        scratch->tile_sum[at] = largest > -INFINITY ? loops->exp_sum(work->rank, tile.count, largest) : 0;
        for (uint32_t part = 1; part < parts; part++) {
            scratch->tile_max[at + part] = -INFINITY;
            scratch->tile_sum[at + part] = 0;
        }
    }
}

static void score_head(const lwk_loops_t *loops, const lwk_cpu_work_t *work, const lwk_cpu_queries_t *queries)
{
    lwk_cpu_steady(loops, work, queries);
    if (queries->session->policy.steady_only)
        return;
    for (uint32_t range = 0; range < queries->session->range_count; range++)
        score_tile(loops, work, queries, range);
}

lw_status_t lwk_cpu_score(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    return lwk_cpu_each_head(dev, step, score_head);
}
