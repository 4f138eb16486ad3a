/* matrix.c - the rows of test_ops: one step op after the other on the variant and on `ref`, from the same
 * input, each result compared before the next op runs. Tolerances are in the rows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/view.h"
#include "ops/harness_private.h"
#include "ops/test_ops.h"

typedef struct row_shape {
    uint32_t head_dim, group, query_tokens, kv_heads;
} row_shape_t;

static const row_shape_t shapes[] = {
    {64, 1, 1, 1},  {64, 3, 1, 3},  {64, 3, 4, 2},  {64, 16, 8, 1}, {128, 1, 8, 2},
    {128, 4, 1, 2}, {128, 8, 4, 1}, {256, 1, 1, 3}, {256, 4, 4, 1}, {256, 16, 1, 1},
    {8, 2, 1, 1},   {72, 3, 2, 1},  {80, 4, 1, 2},  {96, 3, 3, 1},  {128, 16, 1, 1},
};

static const uint32_t dtypes[] = {LW_DTYPE_FP32, LW_DTYPE_BF16, LW_DTYPE_FP16};

typedef struct row_encoding {
    uint32_t cluster, outlier, outlier_ppm;
} row_encoding_t;

static const row_encoding_t encodings[] = {
    {LW_ENCODING_FP32, LW_ENCODING_FP32, 0},      {LW_ENCODING_BF16, LW_ENCODING_BF16, 60000},
    {LW_ENCODING_INT8, LW_ENCODING_INT4, 125000}, {LW_ENCODING_INT4, LW_ENCODING_INT4, 125000},
    {LW_ENCODING_INT8, LW_ENCODING_INT8, 30000},  {LW_ENCODING_BF16, LW_ENCODING_INT4, 125000},
    {LW_ENCODING_INT4, LW_ENCODING_FP32, 60000},
};

/* Encodings take turns over shapes and dtypes: each pair of shape and dtype meets so many of them. */
#define ENCODINGS_A_ROW 2u

/* The policies of a row take turns, so that every shape meets every policy over the dtypes and encodings. */
static lwk_policy_t row_policy(uint32_t number)
{
    lwk_policy_t policy = ops_policy();
    policy.retrieve_ppm = 60000;
    switch (number % 5) {
    case 1:
        policy.rank = LWK_RANK_MEAN;
        policy.budget = LWK_BUDGET_CLUSTERS;
        policy.correct = 0;
        policy.estimate_ppm = 232000;
        break;
    case 2: policy.budget = LWK_BUDGET_ERROR; break;
    case 3: policy.correct = LWK_CORRECT_VARIANCE; break;
    case 4: policy.estimate_ppm = 300000; break;
    default: break;
    }
    return policy;
}

typedef struct compared {
    const char *name;
    int failures;
    uint32_t marks_differ;
} compared_t;

static void fail(compared_t *c, const char *op, const char *what, double error, double tolerance)
{
    printf("FAIL %s: %s: %s differs by %.3g, tolerance %.3g\n", c->name, op, what, error, tolerance);
    c->failures++;
}

/* Largest |x - y| / (scale + |y|); infinities must be equal, NaN never is. */
static void compare_host(compared_t *c, const char *op, const char *what, const float *x, const float *y, size_t count,
                         double scale, double tolerance)
{
    double worst = 0;
    for (size_t i = 0; i < count; i++) {
        double error = x[i] == y[i] ? 0 : fabs((double)x[i] - y[i]) / (scale + fabs(y[i]));
        worst = error <= worst ? worst : error == error ? error : INFINITY;
    }
    if (!(worst <= tolerance))
        fail(c, op, what, worst, tolerance);
}

/* The same of numbers in the rigs' device memory. */
static void compare(compared_t *c, ops_rig_t *rig, ops_rig_t *ref, const char *op, const char *what,
                    const float *a, const float *b, size_t count, double scale, double tolerance)
{
    float *x = ops_host(count * sizeof *x), *y = ops_host(count * sizeof *y);
    ops_get(rig, x, a, count * sizeof *x);
    ops_get(ref, y, b, count * sizeof *y);
    compare_host(c, op, what, x, y, count, scale, tolerance);
    free(x);
    free(y);
}

static size_t rows_of(const ops_rig_t *rig)
{
    return (size_t)rig->config.session_count * rig->config.query_tokens * lwk_query_heads(&rig->config.shape);
}

static void compare_prepare(compared_t *c, ops_rig_t *rig, ops_rig_t *ref)
{
    size_t rows = rows_of(rig), d = rig->config.shape.head_dim;
    compare(c, rig, ref, "prepare", "query", rig->scratch.query, ref->scratch.query, rows * d, 1, 0);
    compare(c, rig, ref, "prepare", "spread", rig->scratch.spread, ref->scratch.spread, rows, 1e-4, 2e-5);
    compare(c, rig, ref, "prepare", "shift", rig->scratch.shift, ref->scratch.shift, rows * d, 0.1, 2e-5);
}

/* Of each range of one row: its parts, into how many a backend may cut it as it likes, put together. */
static void range_sums(ops_rig_t *rig, size_t row, uint32_t ranges, float largest[OPS_RANGES_MAX], float sum[OPS_RANGES_MAX])
{
    uint32_t parts = lwk_parts(ranges, rig->config.shape.kv_head_count), slots = ranges * parts;
    float *maxima = ops_host(slots * sizeof *maxima), *sums = ops_host(slots * sizeof *sums);
    ops_get(rig, maxima, rig->scratch.tile_max + row * rig->scratch.part_capacity, slots * sizeof *maxima);
    ops_get(rig, sums, rig->scratch.tile_sum + row * rig->scratch.part_capacity, slots * sizeof *sums);
    for (uint32_t r = 0; r < ranges; r++) {
        double total = 0;
        largest[r] = -INFINITY;
        for (uint32_t i = r * parts; i < (r + 1) * parts; i++)
            largest[r] = fmaxf(largest[r], maxima[i]);
        for (uint32_t i = r * parts; i < (r + 1) * parts; i++)
            if (sums[i] != 0) /* NaN, too */
                total += sums[i] * exp((double)maxima[i] - largest[r]);
        sum[r] = (float)total;
    }
    free(maxima);
    free(sums);
}

/* Entry slots that no tile uses hold whatever was there before. */
static void compare_score(compared_t *c, ops_rig_t *rig, ops_rig_t *ref)
{
    lwk_session_t session = ops_session(ref, 0);
    lwk_range_ref_t refs[OPS_RANGES_MAX];
    ops_get(ref, refs, session.ranges, session.range_count * sizeof *refs);
    for (size_t row = 0; row < rows_of(rig); row++) {
        size_t first = row * rig->dims.entry_capacity;
        float largest[2][OPS_RANGES_MAX], sum[2][OPS_RANGES_MAX];
        uint32_t head = (uint32_t)(row % lwk_query_heads(&rig->config.shape)) / rig->config.shape.group;
        for (uint32_t r = 0; r < session.range_count; r++) {
            const ops_part_t *part = &ref->ranges[refs[r].row].parts[head];
            compare(c, rig, ref, "score", "logit", rig->scratch.logit + first + refs[r].entry_base,
                    ref->scratch.logit + first + refs[r].entry_base,
                    part->cluster_count + part->outlier_count, 4, 2e-5);
        }
        range_sums(rig, row, session.range_count, largest[0], sum[0]);
        range_sums(ref, row, session.range_count, largest[1], sum[1]);
        compare_host(c, "score", "tile_max", largest[0], largest[1], session.range_count, 4, 2e-5);
        compare_host(c, "score", "tile_sum", sum[0], sum[1], session.range_count, 0, 1e-4);
    }
}

/* Votes that differ in the last place can change places at the edge of the budget: a few marks may differ. */
static void compare_select(compared_t *c, ops_rig_t *rig, ops_rig_t *ref)
{
    lwk_session_t session = ops_session(ref, 0);
    uint8_t *a = ops_host(session.entry_count), *b = ops_host(session.entry_count);
    lwk_range_ref_t refs[OPS_RANGES_MAX];
    ops_get(ref, refs, session.ranges, session.range_count * sizeof *refs);
    for (uint32_t head = 0; head < rig->config.shape.kv_head_count; head++) {
        uint32_t differ = 0;
        ops_get(rig, a, rig->scratch.mark + (size_t)head * rig->dims.entry_capacity, session.entry_count);
        ops_get(ref, b, ref->scratch.mark + (size_t)head * ref->dims.entry_capacity, session.entry_count);
        for (uint32_t r = 0; r < session.range_count; r++) {
            const ops_part_t *part = &ref->ranges[refs[r].row].parts[head];
            for (uint32_t e = 0; e < part->cluster_count + part->outlier_count; e++)
                differ += a[refs[r].entry_base + e] != b[refs[r].entry_base + e];
        }
        if (differ > 4)
            fail(c, "select", "mark", differ, 4);
        c->marks_differ += differ;
        uint32_t count[2];
        ops_get(rig, &count[0], rig->scratch.item_count + head, sizeof count[0]);
        ops_get(ref, &count[1], ref->scratch.item_count + head, sizeof count[1]);
        if (differ == 0 && count[0] != count[1])
            fail(c, "select", "item_count", count[0], count[1]);
    }
    free(a);
    free(b);
}

static void compare_finish(compared_t *c, ops_rig_t *rig, ops_rig_t *ref, uint32_t differed_before)
{
    bool same = c->marks_differ == differed_before;
    size_t rows = rows_of(rig), d = rig->config.shape.head_dim;
    double dtype_step = rig->config.shape.dtype == LW_DTYPE_FP32   ? 0
                        : rig->config.shape.dtype == LW_DTYPE_BF16 ? 8e-3
                                                                   : 1e-3;
    for (size_t row = 0; row < rows; row++) {
        double difference = 0, norm = 0, coarse = 0;
        for (size_t j = row * d; j < (row + 1) * d; j++) {
            double x = (double)rig->out_host[j] - ref->out_host[j];
            double y = (double)lwk_load(rig->out_dtype_host, rig->config.shape.dtype, j) - ref->out_host[j];
            difference += x * x;
            coarse += y * y;
            norm += (double)ref->out_host[j] * ref->out_host[j];
        }
        double error = sqrt(difference / fmax(norm, 1e-30)), tolerance = same ? 3e-5 : 0.1;
        if (!(error <= tolerance))
            fail(c, "finish", "out_fp32", error, tolerance);
        error = sqrt(coarse / fmax(norm, 1e-30));
        if (!(error <= tolerance + dtype_step))
            fail(c, "finish", "out", error, tolerance + dtype_step);
        error = fabs((double)rig->lse_host[row] - ref->lse_host[row]);
        if (!(error <= (same ? 3e-5 : 0.1)))
            fail(c, "finish", "lse", error, same ? 3e-5 : 0.1);
    }
}

static void both(compared_t *c, ops_rig_t *rig, ops_rig_t *ref, const char *op, lw_status_t a, lw_status_t b)
{
    if (a != LW_OK || b != LW_OK)
        fail(c, op, "status", a, b);
}

static void one_step(compared_t *c, ops_rig_t *rig, ops_rig_t *ref)
{
    const lwk_backend_t *x = rig->backend, *y = ref->backend;
    ops_query(ref, 0);
    memcpy(rig->query_host, ref->query_host, rows_of(rig) * rig->config.shape.head_dim * sizeof(float));
    ops_load_step(rig, 0);
    ops_load_step(ref, 0);
    lwk_step_t a = ops_step_args(rig, 0), b = ops_step_args(ref, 0);
    both(c, rig, ref, "prepare", x->prepare(rig->dev, &a, NULL), y->prepare(ref->dev, &b, NULL));
    compare_prepare(c, rig, ref);
    both(c, rig, ref, "score", x->score(rig->dev, &a, NULL), y->score(ref->dev, &b, NULL));
    compare_score(c, rig, ref);
    uint32_t differed = c->marks_differ;
    both(c, rig, ref, "select", x->select(rig->dev, &a, NULL), y->select(ref->dev, &b, NULL));
    compare_select(c, rig, ref);
    ops_answer(rig);
    ops_answer(ref);
    both(c, rig, ref, "attend", x->attend(rig->dev, &a, NULL), y->attend(ref->dev, &b, NULL));
    both(c, rig, ref, "finish", x->finish(rig->dev, &a, NULL), y->finish(ref->dev, &b, NULL));
    ops_read_step(rig);
    ops_read_step(ref);
    compare_finish(c, rig, ref, differed);
    both(c, rig, ref, "admit", ops_admit(rig), ops_admit(ref));
    if (c->marks_differ == 0 && memcmp(rig->counters, ref->counters, sizeof *rig->counters) != 0)
        fail(c, "admit", "counters", 1, 0);
}

static void exact_step(compared_t *c, ops_rig_t *rig)
{
    lwk_policy_t full = rig->config.policy;
    full.budget = LWK_BUDGET_TOKENS;
    full.retrieve_ppm = 1000000;
    ops_set_policy(rig, 0, &full);
    ops_query(rig, 0);
    both(c, rig, rig, "step", ops_step(rig, 0), LW_OK);
    ops_errors_t errors = ops_errors(rig, 0);
    if (!(errors.out <= 2e-5))
        fail(c, "step", "out against exact", errors.out, 2e-5);
    if (!(errors.lse <= 1e-4))
        fail(c, "step", "lse against exact", errors.lse, 1e-4);
}

static ops_rig_t *open_rig(ops_config_t *config, const lwk_backend_t *backend)
{
    config->backend = backend;
    ops_rig_t *rig = ops_rig_create(config);
    ops_fill(rig, 0, 480);
    (void)ops_seal(rig, 0, 230);
    (void)ops_seal(rig, 0, 180);
    return rig;
}

static int step_row(const char *name, ops_config_t *config, const lwk_backend_t *backend)
{
    compared_t c = {.name = name};
    ops_rig_t *rig = open_rig(config, backend);
    if (backend != lwk_backend_find("ref")) {
        ops_rig_t *ref = open_rig(config, lwk_backend_find("ref"));
        for (int step = 0; step < 2; step++) /* misses, then hits among them */
            one_step(&c, rig, ref);
        ops_rig_destroy(ref);
    }
    exact_step(&c, rig);
    ops_rig_destroy(rig);
    return c.failures;
}

/* ---- extend
 * ------------------------------------------------------------------------------------------------------ */

/* T query tokens over n rows in three calls of unequal length, causal or not; against exact attention in
 * double. */
static int extend_row(const char *name, const row_shape_t *row, uint32_t dtype, bool causal,
                      const lwk_backend_t *backend, uint64_t seed)
{
    uint32_t d = row->head_dim, tokens = 13 * row->query_tokens, n = 200, e = lwk_dtype_bytes(dtype);
    lwk_shape_t shape = {.layer_count = 1,
                         .kv_head_count = row->kv_heads,
                         .group = row->group,
                         .head_dim = d,
                         .dtype = dtype,
                         .scale = 1.0f / sqrtf((float)d),
                         .soft_cap = causal ? 0 : 20.0f};
    uint32_t heads = lwk_query_heads(&shape), first_position = n - tokens;
    size_t rows = (size_t)row->kv_heads * n * d, queries = (size_t)tokens * heads * d;
    lwk_dev_t *dev = NULL;
    ops_must(backend->open(0, &dev, NULL) == LW_OK, "open");
    float *values[3];
    uint8_t *device[3], *host = ops_host((rows + queries) * e);
    size_t count[3] = {queries, rows, rows};
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int k = 0; k < 3; k++) {
        values[k] = ops_host(count[k] * sizeof(float));
        for (size_t i = 0; i < count[k]; i++) {
            lwk_store(host, dtype, i, ops_gauss(&prng) * (k == 0 ? 1.5f : 1.0f));
            values[k][i] = lwk_load(host, dtype, i);
        }
        ops_must(backend->alloc(dev, LWK_MEMORY_DEVICE, count[k] * e, (void **)&device[k]) == LW_OK, "alloc");
        ops_must(backend->copy(dev, device[k], host, count[k] * e, NULL) == LW_OK, "copy");
        ops_wait(backend, dev); /* `host` is used again */
    }
    void *out, *partial, *partial_out, *out_fp32, *lse;
    ops_must(backend->alloc(dev, LWK_MEMORY_DEVICE, queries * e, &out) == LW_OK, "alloc");
    ops_must(backend->alloc(dev, LWK_MEMORY_DEVICE, queries * sizeof(float), &partial_out) == LW_OK, "alloc");
    ops_must(backend->alloc(dev, LWK_MEMORY_DEVICE, queries * sizeof(float), &out_fp32) == LW_OK, "alloc");
    ops_must(backend->alloc(dev, LWK_MEMORY_DEVICE, tokens * heads * sizeof(lwk_partial_t), &partial) ==
                 LW_OK,
             "alloc");
    ops_must(backend->alloc(dev, LWK_MEMORY_DEVICE, tokens * heads * sizeof(float), &lse) == LW_OK, "alloc");
    compared_t c = {.name = name};
    uint32_t cuts[] = {0, 37, 38, n};
    for (int call = 0; call < 3; call++) {
        lwk_extend_t args = {.shape = &shape,
                             .query_tokens = tokens,
                             .first_position = first_position,
                             .query = {device[0], 0, (int64_t)heads * d, d},
                             .rows = {device[1] + (size_t)cuts[call] * d * e,
                                      device[2] + (size_t)cuts[call] * d * e, (int64_t)n * d, d,
                                      cuts[call + 1] - cuts[call], cuts[call]},
                             .head_first = 0,
                             .head_count = row->kv_heads,
                             .causal = causal,
                             .first = call == 0,
                             .partial = partial,
                             .partial_out = partial_out,
                             .out = {call == 2 ? out : NULL, 0, (int64_t)heads * d, d},
                             .out_fp32 = out_fp32,
                             .lse_out = lse};
        lw_status_t status = backend->extend(dev, &args, NULL);
        if (status != LW_OK)
            fail(&c, "extend", "status", status, LW_OK);
    }
    float *got = ops_host(queries * sizeof(float)), *got_lse = ops_host(tokens * heads * sizeof(float));
    ops_must(backend->copy(dev, got, out_fp32, queries * sizeof(float), NULL) == LW_OK, "copy");
    ops_must(backend->copy(dev, got_lse, lse, tokens * heads * sizeof(float), NULL) == LW_OK, "copy");
    ops_wait(backend, dev);
    double worst = 0, worst_lse = 0;
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t h = 0; h < heads; h++) {
            const float *query = values[0] + ((size_t)t * heads + h) * d;
            double sum = 0, exact[LW_HEAD_DIM_MAX] = {0}, difference = 0, norm = 0;
            for (uint32_t r = 0; r < n && (!causal || r <= first_position + t); r++) {
                size_t at = ((size_t)(h / row->group) * n + r) * d;
                double dot = 0;
                for (uint32_t j = 0; j < d; j++)
                    dot += (double)query[j] * values[1][at + j];
                dot *= shape.scale;
                double weight = exp(shape.soft_cap > 0 ? shape.soft_cap * tanh(dot / shape.soft_cap) : dot);
                sum += weight;
                for (uint32_t j = 0; j < d; j++)
                    exact[j] += weight * values[2][at + j];
            }
            for (uint32_t j = 0; j < d; j++) {
                double x = got[((size_t)t * heads + h) * d + j] - exact[j] / sum;
                difference += x * x;
                norm += exact[j] / sum * exact[j] / sum;
            }
            double error = sqrt(difference / norm), lse_error = fabs(got_lse[t * heads + h] - log(sum));
            worst = error <= worst ? worst : error == error ? error : INFINITY;
            worst_lse = lse_error <= worst_lse ? worst_lse : lse_error == lse_error ? lse_error : INFINITY;
        }
    if (!(worst <= 2e-5))
        fail(&c, "extend", "out against exact", worst, 2e-5);
    if (!(worst_lse <= 2e-5))
        fail(&c, "extend", "lse against exact", worst_lse, 2e-5);
    void *all[] = {device[0], device[1], device[2], out, partial, partial_out, out_fp32, lse};
    for (size_t i = 0; i < LW_ARRAY_SIZE(all); i++)
        backend->free(dev, LWK_MEMORY_DEVICE, all[i]);
    void *ours[] = {values[0], values[1], values[2], host, got, got_lse};
    for (size_t i = 0; i < LW_ARRAY_SIZE(ours); i++)
        free(ours[i]);
    backend->close(dev);
    return c.failures;
}

/* ---- append
 * ------------------------------------------------------------------------------------------------------ */

#define APPEND_LAYERS 2u
#define APPEND_ROWS 40u

/* Where a position's row lies, written out here: it is what is tested. */
static size_t append_place(const lwk_shape_t *shape, uint32_t layer, uint32_t head, uint32_t position)
{
    size_t stream = (size_t)layer * shape->kv_head_count + head;
    return (position < 4 ? stream * 4 + position : stream * APPEND_ROWS + position % APPEND_ROWS) * shape->head_dim;
}

/* Chunks that begin in the sinks, wrap around the ring and fill all of it, from tensors [T][J][d] and, `apart`, from [J][T][d + 3],
 * whose rows are not aligned; every element of the session's memory is compared, those that must not change too. */
static int append_row(const char *name, const row_shape_t *row, uint32_t dtype, bool apart, const lwk_backend_t *backend,
                      uint64_t seed)
{
    static const uint32_t chunks[] = {1, 7, 33, 11, APPEND_ROWS};
    uint32_t d = row->head_dim, heads = row->kv_heads, e = lwk_dtype_bytes(dtype), first = 0;
    compared_t c = {.name = name};
    lwk_shape_t shape = {.layer_count = APPEND_LAYERS,
                         .kv_head_count = heads,
                         .group = row->group,
                         .head_dim = d,
                         .dtype = dtype,
                         .scale = 1};
    size_t pitch = apart ? d + 3 : d, most = (size_t)heads * APPEND_ROWS * pitch, ring = 0;
    size_t count[2] = {(size_t)APPEND_LAYERS * heads * 4 * d, (size_t)APPEND_LAYERS * heads * APPEND_ROWS * d};
    uint8_t *memory[4], *want[4], *input[2], *host[2];
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    lwk_dev_t *dev = NULL;
    ops_must(backend->open(0, &dev, NULL) == LW_OK, "open");
    for (int k = 0; k < 4; k++) {
        ops_must(backend->alloc(dev, LWK_MEMORY_DEVICE, count[k % 2] * e, (void **)&memory[k]) == LW_OK, "alloc");
        want[k] = ops_host(count[k % 2] * e); /* device memory is zero, too */
        ring = count[k % 2] > ring ? count[k % 2] : ring;
    }
    for (int k = 0; k < 2; k++) {
        ops_must(backend->alloc(dev, LWK_MEMORY_PINNED, most * e, (void **)&input[k]) == LW_OK, "alloc");
        host[k] = input[k];
    }
    for (size_t chunk = 0; chunk < LW_ARRAY_SIZE(chunks); chunk++)
        for (uint32_t layer = 0; layer < APPEND_LAYERS; layer++) {
            uint32_t tokens = chunks[chunk];
            lwk_tensor_t tensor[2];
            for (int k = 0; k < 2; k++) {
                for (size_t i = 0; i < most * e; i++)
                    host[k][i] = (uint8_t)lw_prng_below(&prng, 256);
                tensor[k] = (lwk_tensor_t){.data = input[k],
                                           .token_stride = (int64_t)(apart ? pitch : heads * pitch),
                                           .head_stride = (int64_t)(apart ? tokens * pitch : pitch)};
                for (uint32_t t = 0; t < tokens; t++)
                    for (uint32_t h = 0; h < heads; h++) {
                        size_t to = append_place(&shape, layer, h, first + t);
                        memcpy(want[first + t < 4 ? 2 * k : 2 * k + 1] + to * e,
                               host[k] + lwk_tensor_at(&tensor[k], 0, t, h) * e, (size_t)d * e);
                    }
            }
            lwk_append_t args = {.shape = shape,
                                 .layer = layer,
                                 .first = first,
                                 .token_count = tokens,
                                 .steady_rows = APPEND_ROWS,
                                 .key = tensor[0],
                                 .value = tensor[1],
                                 .sink_keys = memory[0],
                                 .steady_keys = memory[1],
                                 .sink_values = memory[2],
                                 .steady_values = memory[3]};
            lw_status_t status = backend->append(dev, &args, NULL);
            if (status != LW_OK)
                fail(&c, "append", "status", status, LW_OK);
            uint8_t *got = ops_host(ring * e);
            for (int k = 0; k < 4; k++) {
                ops_must(backend->copy(dev, got, memory[k], count[k % 2] * e, NULL) == LW_OK, "copy");
                ops_wait(backend, dev);
                if (memcmp(got, want[k], count[k % 2] * e) != 0)
                    fail(&c, "append", "memory", k, 0);
            }
            free(got);
            first += layer + 1 == APPEND_LAYERS ? tokens : 0;
        }
    lwk_append_t args = {.shape = shape, .token_count = 1, .steady_rows = APPEND_ROWS};
    if (backend->append(dev, &args, NULL) != LW_ERR_INVALID)
        fail(&c, "append", "status without memory", 1, 0);
    for (int k = 0; k < 4; k++) {
        backend->free(dev, LWK_MEMORY_DEVICE, memory[k]);
        free(want[k]);
    }
    for (int k = 0; k < 2; k++)
        backend->free(dev, LWK_MEMORY_PINNED, input[k]);
    backend->close(dev);
    return c.failures;
}

/* ---- all rows
 * ---------------------------------------------------------------------------------------------------- */

int ops_matrix(const ops_variant_t *variant, const lwk_backend_t *backend, uint64_t seed, const char *filter,
               uint32_t every, int *rows_out)
{
    int failures = 0;
    uint32_t number = 0, candidates = 0;
    char name[160];
    for (uint32_t s = 0; s < LW_ARRAY_SIZE(shapes); s++)
        for (uint32_t t = 0; t < LW_ARRAY_SIZE(dtypes); t++) {
            const row_shape_t *row = &shapes[s];
            for (uint32_t k = 0; k < ENCODINGS_A_ROW; k++, number++) {
                uint32_t e =
                    (ENCODINGS_A_ROW * (LW_ARRAY_SIZE(dtypes) * s + t) + k) % LW_ARRAY_SIZE(encodings);
                snprintf(name, sizeof name, "%s step d=%u G=%u T=%u J=%u %s index=%s+%s policy=%u",
                         variant->name, row->head_dim, row->group, row->query_tokens, row->kv_heads,
                         ops_dtype_name(dtypes[t]), ops_encoding_name(encodings[e].cluster),
                         ops_encoding_name(encodings[e].outlier), number % 5);
                if (strstr(name, filter) == NULL || (seed + candidates++) % every != 0)
                    continue;
                ops_config_t config = {.seed = seed + number,
                                       .shape = {.layer_count = 1,
                                                 .kv_head_count = row->kv_heads,
                                                 .group = row->group,
                                                 .head_dim = row->head_dim,
                                                 .dtype = dtypes[t],
                                                 .soft_cap = number % 3 == 0 ? 25.0f : 0.0f},
                                       .query_tokens = row->query_tokens,
                                       .token_count = 480 + 4 * LW_QUERY_TOKENS_MAX,
                                       .cluster_encoding = encodings[e].cluster,
                                       .outlier_encoding = encodings[e].outlier,
                                       .outlier_ppm = encodings[e].outlier_ppm,
                                       .data = OPS_DATA_GAUSS,
                                       .policy = row_policy(number)};
                failures += step_row(name, &config, backend) > 0;
                ++*rows_out;
            }
            for (int causal = 0; causal < 2; causal++) {
                snprintf(name, sizeof name, "%s extend d=%u G=%u T=%u J=%u %s%s", variant->name,
                         row->head_dim, row->group, 13 * row->query_tokens, row->kv_heads,
                         ops_dtype_name(dtypes[t]), causal ? " causal" : "");
                if (strstr(name, filter) == NULL || (seed + candidates++) % every != 0)
                    continue;
                failures += extend_row(name, row, dtypes[t], causal, backend, seed + number) > 0;
                ++*rows_out;
            }
            for (int apart = 0; apart < 2; apart++) {
                snprintf(name, sizeof name, "%s append d=%u J=%u %s%s", variant->name, row->head_dim, row->kv_heads,
                         ops_dtype_name(dtypes[t]), apart ? " apart" : "");
                if (strstr(name, filter) == NULL || (seed + candidates++) % every != 0)
                    continue;
                failures += append_row(name, row, dtypes[t], apart, backend, seed + number) > 0;
                ++*rows_out;
            }
        }
    return failures;
}
