/* bench_steps.c - the decode steps: inputs of each step are made and copied between the steps, outside the
 * clock. */
#include "client/cli/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/prng.h"

#define HOLD_STEPS \
    4u /* a head keeps looking for the same while: three of four stay as they are in each step */
#define FRESH_START 0.1
#define FRESH_MIN 0.001

/* ---- the inputs of a step ---- */

typedef struct {
    const lwc_bench_t *bench;
    uint32_t step;
    double
        fresh; /* share of (session, layer, KV head) that look for something new; below 0: drifting queries */
} making_t;

/* What KV head `head` of a layer looks for. With a wanted hit ratio: always the same token, which the cache
 * will hold, or one that was never asked for. */
static uint32_t target_of(const making_t *making, uint32_t session, uint32_t layer, uint32_t head)
{
    const lwc_bench_t *bench = making->bench;
    lw_prng_t prng;
    if (making->fresh < 0) {
        uint32_t since = (bench->tokens + layer * 7 + head) % HOLD_STEPS;
        return lw_synth_target(bench->texts[session], bench->tokens - (since < bench->tokens ? since : 0));
    }
    lw_prng_seed(&prng, bench->options.seed ^
                            ((uint64_t)session << 40 | (uint64_t)layer << 16 | head) * 0x9E3779B97F4A7C15ull);
    uint32_t always = (uint32_t)lw_prng_below(&prng, bench->options.context);
    lw_prng_seed(&prng, lw_prng_u64(&prng) + making->step);
    bool fresh = lw_prng_unit(&prng) < making->fresh;
    return fresh ? (uint32_t)lw_prng_below(&prng, bench->options.context) : always;
}

static void make_layer(void *arg, uint32_t layer)
{
    const making_t *making = arg;
    const lwc_bench_t *bench = making->bench;
    const llama_shape_t *shape = &bench->options.shape;
    uint32_t d = shape->head_dim, group = shape->query_heads / shape->kv_heads;
    uint16_t *query = bench->inputs_staging + layer * lwc_bench_layer_elements(bench);
    uint16_t *key = query + bench->query_elements, *value = key + bench->key_elements;
    float row[LW_SYNTH_HEAD_DIM_MAX];
    for (uint32_t s = 0; s < bench->options.batch; s++) {
        uint64_t kv = (uint64_t)s * shape->kv_heads * d;
        lw_synth_fill(bench->texts[s], layer, 0, shape->kv_heads, bench->tokens, 1, key + kv, value + kv);
        for (uint32_t h = 0; h < shape->query_heads; h++, query += d) {
            lw_synth_query(bench->texts[s], layer, h, bench->tokens, target_of(making, s, layer, h / group),
                           row);
            for (uint32_t i = 0; i < d; i++)
                query[i] = lw_synth_bf16(row[i]);
        }
    }
}

static lw_status_t make_inputs(lwc_bench_t *bench, making_t *making, lw_error_t *error)
{
    uint64_t bytes = bench->options.shape.layers * lwc_bench_layer_elements(bench) * sizeof(uint16_t);
    lwc_bench_parallel(bench->options.threads, bench->options.shape.layers, make_layer, making);
    lw_status_t status = lwc_bench_copy(&bench->device, bench->inputs, bench->inputs_staging, bytes, error);
    return status == LW_OK ? lwc_bench_wait(&bench->device, error) : status;
}

/* ---- a step ---- */

static lw_status_t attend_layer(lwc_bench_t *bench, uint32_t layer, lw_error_t *error)
{
    const llama_shape_t *shape = &bench->options.shape;
    uint16_t *query = bench->inputs + layer * lwc_bench_layer_elements(bench);
    uint16_t *key = query + bench->query_elements, *value = key + bench->key_elements;
    lw_step_t step = {.size = sizeof(step),
                      .layer = layer,
                      .sessions = bench->sessions,
                      .session_count = bench->options.batch,
                      .query = lwc_bench_tensor(bench, query, shape->query_heads),
                      .key = lwc_bench_tensor(bench, key, shape->kv_heads),
                      .value = lwc_bench_tensor(bench, value, shape->kv_heads),
                      .stream = bench->device.stream};
    lw_tensor_t out =
        lwc_bench_tensor(bench, bench->outputs + layer * bench->query_elements, shape->query_heads);
    lw_status_t status = lw_attend(bench->kv, &step, &out, NULL);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "layer %u: %s", layer, lw_last_error(bench->kv));
}

static lw_status_t take_step(lwc_bench_t *bench, double *us_out, lw_error_t *error)
{
    lw_status_t status = LW_OK;
    uint64_t began_ns = lwc_bench_now_ns();
    for (uint32_t layer = 0; layer < bench->options.shape.layers && status == LW_OK; layer++)
        status = attend_layer(bench, layer, error);
    if (status == LW_OK)
        status = lwc_bench_wait(&bench->device, error);
    *us_out = (double)(lwc_bench_now_ns() - began_ns) / 1e3;
    bench->tokens++;
    return status;
}

static lw_status_t traffic(lwc_bench_t *bench, lw_attr_t *attr, lw_error_t *error)
{
    memset(attr, 0, sizeof(*attr));
    attr->field_mask = LW_ATTR_FLEET | LW_ATTR_BACKEND | LW_ATTR_MEMORY | LW_ATTR_TRAFFIC | LW_ATTR_ATTENTION;
    lw_status_t status = lw_query(bench->kv, attr);
    return status == LW_OK ? LW_OK : lw_fail(error, status, "query: %s", lw_last_error(bench->kv));
}

/* While warming up: more new targets when there were too many hits, fewer when there were too few. */
static double steer(double fresh, double wanted, const lw_attr_t *before, const lw_attr_t *after)
{
    double retrieved = (double)(after->entries_retrieved - before->entries_retrieved);
    double missed = (double)(after->misses - before->misses);
    if (retrieved <= 0)
        return fresh;
    double factor = missed > 0 ? (1 - wanted) * retrieved / missed : 2;
    fresh *= fmin(fmax(factor, 0.5), 2);
    return fmin(fmax(fresh, FRESH_MIN), 1);
}

lw_status_t lwc_bench_steps(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    const lwc_bench_options_t *options = &bench->options;
    uint32_t total = options->warm_up + options->steps;
    bool steered = options->hits_ppm != LW_PPM_NONE;
    making_t making = {.bench = bench, .fresh = steered ? FRESH_START : -1};
    lw_attr_t last;
    double us = 0;
    result->times.step_us = calloc(options->steps, sizeof(double));
    lw_status_t status =
        result->times.step_us ? LW_OK : lw_fail(error, LW_ERR_NO_MEMORY, "no memory for times");
    if (status == LW_OK)
        status = traffic(bench, &result->before, error);
    for (uint32_t i = 0; i < total && status == LW_OK; i++) {
        making.step = i;
        status = make_inputs(bench, &making, error);
        last = result->before;
        if (status == LW_OK)
            status = take_step(bench, &us, error);
        if (status == LW_OK && i < options->warm_up) {
            status = traffic(bench, &result->before, error);
            if (steered && i >= options->warm_up / 2) /* what stays the same is in the cache by then */
                making.fresh = steer(making.fresh, options->hits_ppm / 1e6, &last, &result->before);
        } else if (status == LW_OK) {
            result->times.step_us[result->times.count++] = us;
        }
        lwc_bench_show(bench, "steps", i + 1, total);
    }
    if (status == LW_OK)
        status = traffic(bench, &result->after, error);
    if (status == LW_OK && options->samples > 0)
        status = lwc_bench_check(bench, &result->error, error);
    return status;
}

void lwc_bench_result_fini(lwc_bench_result_t *result)
{
    free(result->times.step_us);
    free(result->full.step_us);
    free(result->error.relative);
    memset(result, 0, sizeof(*result));
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double lwc_bench_percentile(const double *values, uint32_t count, double share)
{
    double *sorted = count ? malloc(count * sizeof(*sorted)) : NULL;
    if (!sorted)
        return NAN;
    memcpy(sorted, values, count * sizeof(*sorted));
    qsort(sorted, count, sizeof(*sorted), ascending);
    double value = sorted[(uint32_t)(share * (count - 1) + 0.5)];
    free(sorted);
    return value;
}
