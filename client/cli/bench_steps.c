/* bench_steps.c - the decode steps: inputs of each step are made and copied between the steps, outside the
 * clock. */
#include "client/cli/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FRESH_START 0.1
#define FRESH_MIN 0.001
#define PHASE_STEPS 16u

lw_status_t lwc_bench_traffic(lwc_bench_t *bench, lw_attr_t *attr, lw_error_t *error)
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
    double us = 0, fresh = !steered ? -1 : options->hits_ppm == 1000000 ? 0 : FRESH_START;
    lw_attr_t last;
    result->times.step_us = calloc(options->steps, sizeof(double));
    lw_status_t status =
        result->times.step_us ? LW_OK : lw_fail(error, LW_ERR_NO_MEMORY, "no memory for times");
    if (status == LW_OK)
        status = lwc_bench_capture(bench, error);
    if (status == LW_OK)
        status = lwc_bench_traffic(bench, &result->before, error);
    for (uint32_t i = 0; i < total && status == LW_OK; i++) {
        status = lwc_bench_inputs(bench, i, fresh, bench->inputs, error);
        last = result->before;
        if (status == LW_OK)
            status = lwc_bench_step(bench, &us, error);
        if (status == LW_OK && i < options->warm_up) {
            status = lwc_bench_traffic(bench, &result->before, error);
            if (fresh > 0 && i >= options->warm_up / 2) /* what stays the same is in the cache by then */
                fresh = steer(fresh, options->hits_ppm / 1e6, &last, &result->before);
        } else if (status == LW_OK) {
            result->times.step_us[result->times.count++] = us;
        }
        lwc_bench_show(bench, "steps", i + 1, total);
    }
    bench->fresh = fresh;
    if (status == LW_OK)
        status = lwc_bench_traffic(bench, &result->after, error);
    if (status == LW_OK && options->samples > 0)
        status = lwc_bench_check(bench, &result->error, error);
    return status;
}

lw_status_t lwc_bench_phases(lwc_bench_t *bench, lwc_bench_result_t *result, lw_error_t *error)
{
    uint32_t layers = bench->options.shape.layers;
    double us = 0;
    lw_error_t none = {0};
    if (lwc_bench_phase_init(bench, &none) != LW_OK) {
        fprintf(stderr, "longwave bench: no time by phase: %s\n", none.text);
        return LW_OK;
    }
    lwc_bench_phase_switch(true);
    lw_status_t status = lwc_bench_capture(bench, error);
    for (uint32_t i = 0; i < PHASE_STEPS && status == LW_OK; i++) {
        status = lwc_bench_inputs(bench, bench->tokens, bench->fresh, bench->inputs, error);
        lwc_bench_trace_clear();
        if (status == LW_OK)
            status = lwc_bench_step(bench, &us, error);
        result->phase_step_us += us / PHASE_STEPS;
        for (uint32_t layer = 0; layer < layers && status == LW_OK; layer++)
            for (uint32_t op = 0; op < LWC_BENCH_OPS; op++)
                result->phase_us[op] +=
                    (double)(lwc_bench_phase_ns(layer, op, 1) - lwc_bench_phase_ns(layer, op, 0)) / 1e3 /
                    layers / PHASE_STEPS;
    }
    lwc_bench_phase_switch(false);
    result->phase_count = LWC_BENCH_OPS;
    if (status == LW_OK && bench->options.trace)
        status = lwc_bench_trace_write(bench, bench->options.trace, error);
    lwc_bench_phase_fini(bench);
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
