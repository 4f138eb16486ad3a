/* harness_range.c - cuts tokens into a range: any clustering that a test asks for, exact means, encoded by
 * the build ops of `ref`, published to a session. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/ref/ref.h"
#include "kernels/view.h"
#include "ops/harness_private.h"
#include "quick.h"

/* ---- who belongs where
 * ------------------------------------------------------------------------------------------ */

/* assign[i]: cluster of token i; returns how many clusters there are. */
static uint32_t assign_contiguous(const ops_rig_t *rig, uint32_t n, uint16_t *assign)
{
    for (uint32_t i = 0; i < n; i++)
        assign[i] = (uint16_t)(i / rig->config.cluster_tokens);
    return (n + rig->config.cluster_tokens - 1) / rig->config.cluster_tokens;
}

static uint32_t assign_random(ops_rig_t *rig, uint32_t n, uint16_t *assign)
{
    uint32_t count = 0, *shuffled = ops_host(n * sizeof *shuffled);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = (uint32_t)lw_prng_below(&rig->prng, i + 1);
        shuffled[i] = shuffled[j];
        shuffled[j] = i;
    }
    for (uint32_t at = 0; at < n; count++) {
        uint32_t size = 1 + (uint32_t)lw_prng_below(&rig->prng, 3 * rig->config.cluster_tokens);
        for (uint32_t i = 0; i < size && at < n; i++)
            assign[shuffled[at++]] = (uint16_t)count;
    }
    free(shuffled);
    return count;
}

/* Cluster 0: every other token; cluster 1: nobody; then runs. */
static uint32_t assign_half(const ops_rig_t *rig, uint32_t n, uint16_t *assign)
{
    for (uint32_t i = 0; i < n; i++)
        assign[i] = (uint16_t)(i % 2 == 0 ? 0 : 2 + i / (2 * rig->config.cluster_tokens));
    return n == 0 ? 2 : 3 + (n - 1) / (2 * rig->config.cluster_tokens);
}

/* ---- from there to a finished build
 * ----------------------------------------------------------------------------- */

static void choose_outliers(ops_rig_t *rig, lwk_build_t *build, uint8_t *outlier)
{
    uint32_t n = build->token_count, *size = ops_host(build->cluster_capacity * sizeof *size);
    uint32_t wanted = (uint32_t)((uint64_t)n * build->outlier_ppm / 1000000);
    for (uint32_t i = 0; i < n; i++)
        size[build->assign[i]]++;
    for (uint32_t tries = 0; wanted > 0 && tries < 20 * n; tries++) {
        uint32_t i = (uint32_t)lw_prng_below(&rig->prng, n);
        if (outlier[i] || size[build->assign[i]] < 2)
            continue;
        outlier[i] = 1;
        size[build->assign[i]]--;
        wanted--;
    }
    free(size);
}

static void order_tokens(lwk_build_t *build, const uint8_t *outlier)
{
    uint32_t n = build->token_count, at = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t c = 0; c < build->cluster_count[0]; c++)
            for (uint32_t i = 0; i < n; i++) {
                if (build->assign[i] != c || outlier[i] != pass)
                    continue;
                build->order[at++] = i;
                if (pass == 0)
                    build->sizes[c]++;
                else
                    build->parents[build->outlier_count[0]++] = (uint16_t)c;
            }
}

static void take_means(lwk_build_t *build)
{
    uint32_t d = build->head_dim;
    const uint32_t *token = build->order;
    for (uint32_t c = 0; c < build->cluster_count[0]; token += build->sizes[c++]) {
        float *center = build->centroids + (size_t)c * d, *value = build->value_means + (size_t)c * d;
        double spread = 0;
        for (uint32_t j = 0; j < d && build->sizes[c] > 0; j++) {
            double key_sum = 0, value_sum = 0;
            for (uint32_t i = 0; i < build->sizes[c]; i++) {
                key_sum += lwk_load(build->keys, build->dtype, (size_t)token[i] * d + j);
                value_sum += lwk_load(build->values, build->dtype, (size_t)token[i] * d + j);
            }
            center[j] = (float)(key_sum / build->sizes[c]);
            value[j] = (float)(value_sum / build->sizes[c]);
            for (uint32_t i = 0; i < build->sizes[c]; i++) {
                double x = lwk_load(build->keys, build->dtype, (size_t)token[i] * d + j) - center[j];
                spread += x * x;
            }
        }
        build->spreads[c] = build->sizes[c] > 0 ? (float)(spread / build->sizes[c]) : 0;
    }
}

static void cluster_by_hand(ops_rig_t *rig, lwk_build_t *build)
{
    uint8_t *outlier = ops_host(build->token_count);
    switch (rig->config.clustering) {
    case OPS_CLUSTER_RANDOM:
        *build->cluster_count = assign_random(rig, build->token_count, build->assign);
        break;
    case OPS_CLUSTER_HALF: *build->cluster_count = assign_half(rig, build->token_count, build->assign); break;
    default: *build->cluster_count = assign_contiguous(rig, build->token_count, build->assign);
    }
    choose_outliers(rig, build, outlier);
    order_tokens(build, outlier);
    take_means(build);
    free(outlier);
}

static void cluster(ops_rig_t *rig, lwk_build_t *build)
{
    if (rig->config.clustering != OPS_CLUSTER_KMEANS) {
        cluster_by_hand(rig, build);
        return;
    }
    const lwk_backend_t *cpu = lwk_backend_find("cpu");
    ops_must(cpu->kmeans(NULL, build, NULL) == LW_OK, "kmeans");
    ops_must(cpu->outliers(NULL, build, NULL) == LW_OK, "outliers");
}

/* ---- one (layer, head)
 * ------------------------------------------------------------------------------------------ */

static void make_build(ops_rig_t *rig, lwk_build_t *build, const float *keys, const float *values, uint32_t n)
{
    const ops_config_t *c = &rig->config;
    size_t d = c->shape.head_dim, e = lwk_dtype_bytes(c->shape.dtype);
    uint32_t units = (n + LW_UNIT_TOKENS - 1) / LW_UNIT_TOKENS;
    bool kmeans = c->clustering == OPS_CLUSTER_KMEANS;
    *build = (lwk_build_t){.job_count = 1,
                           .token_count = n,
                           .head_dim = c->shape.head_dim,
                           .dtype = c->shape.dtype,
                           .ring_rows = n,
                           .cluster_tokens = c->cluster_tokens,
                           .outlier_ppm = c->outlier_ppm,
                           .iterations = quick_count(5, 2),
                           .cluster_encoding = c->cluster_encoding,
                           .outlier_encoding = c->outlier_encoding,
                           .cluster_capacity = kmeans ? units * LW_CLUSTERS_PER_UNIT_MAX : n + 4,
                           .outlier_capacity = kmeans ? units * LW_OUTLIERS_PER_UNIT_MAX : n};
    void *key_rows = ops_host(n * d * e), *value_rows = ops_host(n * d * e);
    ops_to_dtype(rig, keys, key_rows, 0, (uint32_t)(n * d));
    ops_to_dtype(rig, values, value_rows, 0, (uint32_t)(n * d));
    build->keys = key_rows;
    build->values = value_rows;
    build->job_stride = n * d;
    build->assign = ops_host(n * sizeof *build->assign);
    build->order = ops_host(n * sizeof *build->order);
    build->sizes = ops_host(build->cluster_capacity * sizeof *build->sizes);
    build->parents = ops_host(build->outlier_capacity * sizeof *build->parents);
    build->cluster_count = ops_host(sizeof(uint32_t));
    build->outlier_count = ops_host(sizeof(uint32_t));
    build->centroids = ops_host(build->cluster_capacity * d * sizeof(float));
    build->value_means = ops_host(build->cluster_capacity * d * sizeof(float));
    build->spreads = ops_host(build->cluster_capacity * sizeof(float));
    build->moment_sums = ops_host((2 + 2 * d * d) * sizeof(double));
    const lwk_backend_t *ref = lwk_ref_backend(), *cpu = lwk_backend_find("cpu");
    build->workspace_bytes = lw_max_u64(ref->build_workspace_bytes(build), cpu->build_workspace_bytes(build));
    build->workspace = ops_host(build->workspace_bytes);
}

static void free_build(lwk_build_t *build)
{
    void *parts[] = {(void *)(uintptr_t)build->keys,
                     (void *)(uintptr_t)build->values,
                     build->assign,
                     build->parents,
                     build->cluster_count,
                     build->outlier_count,
                     build->centroids,
                     build->value_means,
                     build->spreads,
                     build->workspace};
    for (size_t i = 0; i < LW_ARRAY_SIZE(parts); i++)
        free(parts[i]);
}

static void place_records(const ops_rig_t *rig, ops_part_t *part)
{
    uint64_t at = 0, pair = 2 * lwk_row_bytes(&rig->config.shape);
    part->offsets = ops_host((part->cluster_count + part->outlier_count) * sizeof *part->offsets);
    for (uint32_t i = 0; i < part->cluster_count + part->outlier_count; i++) {
        part->offsets[i] = at;
        at += pair * (i < part->cluster_count ? part->sizes[i] : 1);
    }
}

static void *to_device(ops_rig_t *rig, const void *from, size_t bytes)
{
    void *ptr = ops_device(rig, LWK_MEMORY_DEVICE, bytes);
    if (from != NULL && bytes > 0)
        ops_put(rig, ptr, from, bytes);
    return ptr;
}

/* What a tile says about local records: 1 + where they lie behind the landing memory. */
static uint64_t keep_local(ops_rig_t *rig, const ops_part_t *part)
{
    uint64_t bytes = 2 * (uint64_t)part->row_count * lwk_row_bytes(&rig->config.shape);
    uint64_t at = rig->landing_bytes + rig->local_at;
    ops_must(rig->local_at + bytes <= rig->local_bytes, "local records");
    memcpy(rig->landing + at, part->records, bytes);
    rig->local_at += lw_align_up(bytes, LWK_LANDING_UNIT);
    return 1 + at;
}

static void make_tile(ops_rig_t *rig, const ops_range_t *range, ops_part_t *part)
{
    uint32_t entries = part->cluster_count + part->outlier_count, every = rig->config.local_every;
    part->tile = (lwk_tile_t){
        .index = to_device(rig, part->index, part->index_bytes),
        .sizes = to_device(rig, part->sizes, part->cluster_count * sizeof *part->sizes),
        .place = to_device(rig, NULL, entries * sizeof(uint32_t)),
        .stamp = to_device(rig, NULL, entries * sizeof(uint32_t)),
        .page_base = to_device(rig, NULL, part->cluster_count * sizeof(uint16_t)),
        .pages =
            to_device(rig, NULL, lwk_page_refs_max(part->cluster_count, part->row_count) * sizeof(uint32_t)),
        .local = every > 0 && range->row % every == 0 ? keep_local(rig, part) : 0,
        .row_base = every > 0 ? to_device(rig, NULL, part->cluster_count * sizeof(uint16_t)) : NULL,
        .cluster_count = (uint16_t)part->cluster_count,
        .outlier_count = (uint16_t)part->outlier_count,
        .cluster_encoding = (uint8_t)rig->config.cluster_encoding,
        .outlier_encoding = (uint8_t)rig->config.outlier_encoding,
    };
}

static void make_part(ops_rig_t *rig, const ops_range_t *range, uint32_t layer, uint32_t head,
                      ops_part_t *part)
{
    const lwk_backend_t *ref = lwk_ref_backend();
    uint32_t n = range->token_first + range->token_count - range->stored_first;
    size_t at = ops_row_at(rig, layer, head, range->stored_first);
    lwk_build_t build;
    make_build(rig, &build, rig->keys[range->stream] + at, rig->values[range->stream] + at, n);
    cluster(rig, &build);
    part->cluster_count = *build.cluster_count;
    part->outlier_count = *build.outlier_count;
    part->row_count = n;
    part->sizes = build.sizes;
    part->order = build.order;
    part->moment_sums = build.moment_sums;
    part->index_bytes = lwk_index_layout(build.cluster_encoding, build.outlier_encoding, part->cluster_count,
                                         part->outlier_count, build.head_dim)
                            .bytes;
    part->index = ops_host(part->index_bytes);
    build.index = part->index;
    build.index_stride = part->index_bytes;
    part->records = ops_host(2 * n * lwk_row_bytes(&rig->config.shape));
    uint8_t *records[1] = {part->records};
    build.records = records;
    const lwk_backend_t *builder =
        rig->config.clustering == OPS_CLUSTER_KMEANS ? lwk_backend_find("cpu") : ref;
    ops_must(builder->moments(NULL, &build, NULL) == LW_OK, "moments");
    ops_must(ref->encode(NULL, &build, NULL) == LW_OK, "encode");
    ops_must(ref->pack(NULL, &build, NULL) == LW_OK, "pack");
    free_build(&build);
    place_records(rig, part);
    make_tile(rig, range, part);
}

void ops_range_free(ops_rig_t *rig, ops_range_t *range)
{
    uint32_t per_row = rig->config.shape.layer_count * rig->config.shape.kv_head_count;
    for (uint32_t i = 0; i < per_row; i++) {
        ops_part_t *part = &range->parts[i];
        void *device[] = {(void *)(uintptr_t)part->tile.index,
                          (void *)(uintptr_t)part->tile.sizes,
                          part->tile.place,
                          part->tile.stamp,
                          part->tile.page_base,
                          part->tile.pages,
                          part->tile.row_base};
        for (size_t k = 0; k < LW_ARRAY_SIZE(device); k++)
            rig->backend->free(rig->dev, LWK_MEMORY_DEVICE, device[k]);
        void *host[] = {part->sizes,   part->order, part->offsets,
                        part->records, part->index, part->moment_sums};
        for (size_t k = 0; k < LW_ARRAY_SIZE(host); k++)
            free(host[k]);
    }
    free(range->parts);
}

/* ---- publish
 * ---------------------------------------------------------------------------------------------------- */

/* Moments over all ranges that the session has, the new one included. */
static uint8_t *sum_moments(ops_rig_t *rig, const lwk_session_t *session, const ops_range_t *added)
{
    uint32_t d = rig->config.shape.head_dim;
    uint32_t per_row = rig->config.shape.layer_count * rig->config.shape.kv_head_count;
    size_t count = 2 + 2 * (size_t)d * d;
    uint8_t *moments = ops_host(per_row * lwk_moments_bytes(d));
    double *sums = ops_host(count * sizeof *sums);
    lwk_range_ref_t *refs = ops_host((session->range_count + 1) * sizeof *refs);
    ops_get(rig, refs, session->ranges, session->range_count * sizeof *refs);
    refs[session->range_count].row = added->row;
    for (uint32_t i = 0; i < per_row; i++) {
        memset(sums, 0, count * sizeof *sums);
        for (uint32_t r = 0; r <= session->range_count; r++)
            for (size_t k = 0; k < count; k++)
                sums[k] += rig->ranges[refs[r].row].parts[i].moment_sums[k];
        lwk_moments_header_t *header = (void *)(moments + i * lwk_moments_bytes(d));
        float *matrices = (float *)(void *)(header + 1);
        if (!(sums[1] > 0))
            continue; /* nothing but single tokens: no corrections */
        header->token_count = (uint64_t)sums[0];
        header->mean_residual = (float)(sums[1] / sums[0]);
        for (size_t k = 0; k < 2 * (size_t)d * d; k++)
            matrices[k] = (float)(sums[2 + k] / sums[1]); /* (sum / n) / (residual sum / n) */
    }
    free(sums);
    free(refs);
    return moments;
}

static void publish(ops_rig_t *rig, uint32_t s, const ops_range_t *range, bool fresh)
{
    uint32_t per_row = rig->config.shape.layer_count * rig->config.shape.kv_head_count;
    lwk_session_t session = ops_session(rig, s);
    lwk_tile_t *tiles = ops_device(rig, LWK_MEMORY_PINNED, per_row * sizeof *tiles);
    size_t moments_bytes = per_row * lwk_moments_bytes(rig->config.shape.head_dim);
    uint8_t *pinned = ops_device(rig, LWK_MEMORY_PINNED, moments_bytes),
            *moments = sum_moments(rig, &session, range);
    memcpy(pinned, moments, moments_bytes);
    lwk_publish_t args = {.shape = rig->config.shape,
                          .range_capacity = OPS_RANGES_MAX,
                          .store = rig->store,
                          .session = &rig->sessions[s],
                          .row = range->row,
                          .tiles = fresh ? tiles : NULL,
                          .token_count = range->token_count,
                          .moments = pinned};
    for (uint32_t i = 0; i < per_row; i++) {
        tiles[i] = range->parts[i].tile;
        if (lwk_tile_entries(&tiles[i]) > args.entry_slots)
            args.entry_slots = lwk_tile_entries(&tiles[i]);
    }
    ops_must(session.entry_count + args.entry_slots <= rig->dims.entry_capacity, "entry capacity");
    ops_must(rig->backend->publish(rig->dev, &args, NULL) == LW_OK, "publish");
    session = ops_session(rig, s); /* a copy waits for the op */
    rig->backend->free(rig->dev, LWK_MEMORY_PINNED, tiles);
    rig->backend->free(rig->dev, LWK_MEMORY_PINNED, pinned);
    free(moments);
}

uint32_t ops_seal(ops_rig_t *rig, uint32_t s, uint32_t count)
{
    uint32_t per_row = rig->config.shape.layer_count * rig->config.shape.kv_head_count,
             number = rig->range_count++;
    ops_must(number < OPS_RANGES_MAX, "range");
    ops_range_t *range = &rig->ranges[number];
    uint32_t first = ops_session(rig, s).sealed_count;
    *range = (ops_range_t){.row = number,
                           .stream = rig->session_stream[s],
                           .token_first = first,
                           .token_count = count,
                           .stored_first = first < LW_SINK_TOKENS ? LW_SINK_TOKENS : first};
    range->parts = ops_host(per_row * sizeof *range->parts);
    for (uint32_t i = 0; i < per_row; i++)
        make_part(rig, range, i / rig->config.shape.kv_head_count, i % rig->config.shape.kv_head_count,
                  &range->parts[i]);
    publish(rig, s, range, true);
    return number;
}

void ops_share(ops_rig_t *rig, uint32_t s, uint32_t range)
{
    publish(rig, s, &rig->ranges[range], false);
}
