/* steps.c - layer steps of the rig: loading by retrieval, timed runs in a graph, and the ceilings beside which the times stand. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/layer_step/rig_private.h"
#include "base/prng.h"
#include "kernels/view.h"

#define POOL_STEPS 64u /* steps with queries of their own; a longer run begins again */

/* ---- buffers
 * ------------------------------------------------------------------------------------------------------ */

static size_t query_bytes(const bench_rig_t *rig) /* of all layers of a step */
{
    return (size_t)rig->config.shape.layer_count * lwk_query_heads(&rig->config.shape) * lwk_row_bytes(&rig->config.shape);
}

static void take_buffers(bench_rig_t *rig)
{
    const lwk_shape_t *shape = &rig->config.shape;
    size_t bytes = query_bytes(rig);
    if (rig->query != NULL)
        return;
    rig->query = bench_alloc(rig, LWK_MEMORY_DEVICE, bytes);
    rig->pool = bench_alloc(rig, LWK_MEMORY_DEVICE, bytes * POOL_STEPS);
    rig->row_pool = bench_alloc(rig, LWK_MEMORY_DEVICE, bytes); /* K and V of a step's tokens: a few of the queries' bytes */
    rig->out = bench_alloc(rig, LWK_MEMORY_DEVICE, bytes);
    rig->out_fp32 =
        bench_alloc(rig, LWK_MEMORY_DEVICE, (size_t)lwk_query_heads(shape) * shape->head_dim * sizeof(float));
    rig->out_host = malloc((size_t)lwk_query_heads(shape) * shape->head_dim * sizeof(float));
    if (rig->out_host == NULL)
        bench_must(LW_ERR_NO_MEMORY, "host memory");
}

void bench_steps_free(bench_rig_t *rig)
{
    void *device[] = {rig->query, rig->pool, rig->row_pool, rig->out, rig->out_fp32, rig->scratch_memory};
    for (size_t i = 0; i < LW_ARRAY_SIZE(device); i++)
        bench_drop(rig, LWK_MEMORY_DEVICE, device[i]);
    free(rig->out_host);
}

/* One memory for all scratches: a backend may keep something at its beginning. */
static lwk_scratch_t take_scratch(bench_rig_t *rig, uint32_t ranges, uint32_t slots, uint32_t item_capacity)
{
    lwk_dims_t dims = {.shape = rig->config.shape,
                       .session_count = 1,
                       .query_tokens = 1,
                       .entry_capacity = slots,
                       .range_list_capacity = ranges,
                       .item_capacity = item_capacity,
                       .steady_rows = rig->steady_rows};
    uint64_t workspace = rig->backend->workspace_bytes(&dims), bytes = lwk_scratch_bytes(&dims, workspace);
    if (bytes > rig->scratch_bytes) {
        bench_wait(rig);
        bench_drop(rig, LWK_MEMORY_DEVICE, rig->scratch_memory);
        rig->scratch_memory = bench_alloc(rig, LWK_MEMORY_DEVICE, bytes);
        rig->scratch_bytes = bytes;
    }
    bench_must(rig->backend->warm_up(rig->dev, &dims), "warm_up");
    return lwk_scratch_carve(&dims, rig->scratch_memory, workspace);
}

static lwk_step_t step_args(bench_rig_t *rig, uint32_t layer, uint32_t slot, const lwk_scratch_t *scratch)
{
    const lwk_shape_t *shape = &rig->config.shape;
    uint64_t heads = lwk_query_heads(shape), d = shape->head_dim, row = lwk_row_bytes(shape);
    int64_t per_query = (int64_t)(heads * d), per_key = (int64_t)(shape->kv_head_count * d), dim = (int64_t)d;
    return (lwk_step_t){
        .shape = *shape,
        .layer = layer,
        .session_count = 1,
        .query_tokens = 1,
        .store = rig->store,
        .sessions = rig->sessions,
        .slots = rig->slots + slot,
        .scratch = *scratch,
        .query = {(uint8_t *)rig->query + layer * heads * row, per_query, per_query, dim},
        .key = {(uint8_t *)rig->row_pool + layer * shape->kv_head_count * row, per_key, per_key, dim},
        .value = {(uint8_t *)rig->row_pool + layer * shape->kv_head_count * row, per_key, per_key, dim},
        .out = {(uint8_t *)rig->out + layer * heads * row, per_query, per_query, dim},
        .out_fp32 = rig->out_fp32,
        .wait_us = 5000000,
    };
}

static void layer_step(bench_rig_t *rig, const lwk_step_t *step, uint32_t op_count)
{
    const lwk_backend_t *be = rig->backend;
    lw_status_t (*const ops[])(lwk_dev_t *, const lwk_step_t *, void *) = {be->prepare, be->score, be->select, be->attend,
                                                                           be->finish};
    static const char *const names[] = {"prepare", "score", "select", "attend", "finish"};
    for (uint32_t i = 0; i < op_count && i < BENCH_ADMIT; i++)
        bench_must(ops[i](rig->dev, step, rig->stream), names[i]);
}

/* A step of all layers; admit last when all ops are wanted. */
static void whole_step(bench_rig_t *rig, uint32_t slot, const lwk_scratch_t *scratch, uint32_t op_count)
{
    lwk_step_t step;
    for (uint32_t layer = 0; layer < rig->config.shape.layer_count; layer++) {
        step = step_args(rig, layer, slot, scratch);
        layer_step(rig, &step, op_count);
    }
    if (op_count > BENCH_ADMIT)
        bench_must(rig->backend->admit(rig->dev, &step, rig->stream), "admit");
}

static void set_slot(bench_rig_t *rig, uint32_t slot, uint32_t number)
{
    bench_copy(rig, rig->slots + slot, &number, sizeof number);
}

static void set_policy(bench_rig_t *rig, uint32_t which, const lwk_policy_t *policy)
{
    rig->sessions_host[which].policy = *policy;
    bench_copy(rig, &rig->sessions[which].policy, policy, sizeof *policy);
}

static void set_window(bench_rig_t *rig, uint32_t window)
{
    bench_copy(rig, &rig->store->admit_window, &window, sizeof window);
}

static void check_session(bench_rig_t *rig, uint32_t which, const char *what)
{
    lwk_session_t session;
    bench_copy(rig, &session, &rig->sessions[which], sizeof session);
    if (session.error != 0)
        bench_must((lw_status_t)session.error, what);
}

/* ---- loading
 * ------------------------------------------------------------------------------------------------------ */

void bench_load_range(bench_rig_t *rig)
{
    const lwk_policy_t everything = {.rank = LWK_RANK_MEAN,
                                     .budget = LWK_BUDGET_TOKENS,
                                     .cluster_tokens = rig->config.cluster_tokens,
                                     .retrieve_ppm = 1000000};
    lwk_scratch_t scratch = take_scratch(rig, 1, rig->entry_slots, rig->entry_slots);
    take_buffers(rig);
    set_slot(rig, BENCH_LOADER, BENCH_LOADER);
    set_policy(rig, BENCH_LOADER, &everything);
    set_window(rig, 0);
    uint64_t admitted = rig->counters->admitted, entries = 0;
    for (uint32_t j = 0; j < rig->build.job_count; j++)
        entries += rig->build.cluster_count[j] + rig->build.outlier_count[j];
    whole_step(rig, BENCH_LOADER, &scratch, BENCH_OPS);
    bench_wait(rig);
    check_session(rig, BENCH_LOADER, "loading");
    if (rig->counters->admitted - admitted != entries) {
        fprintf(stderr, "layer_step: range %u: %llu of %llu entries were admitted\n", rig->range_count,
                (unsigned long long)(rig->counters->admitted - admitted), (unsigned long long)entries);
        exit(1);
    }
}

/* ---- timed runs
 * --------------------------------------------------------------------------------------------------- */

static void fill_pool(bench_rig_t *rig, uint32_t keep_ppm)
{
    size_t bytes = query_bytes(rig);
    uint8_t *queries = malloc(bytes * POOL_STEPS);
    if (queries == NULL)
        bench_must(LW_ERR_NO_MEMORY, "host memory");
    for (uint32_t i = 0; i < POOL_STEPS; i++)
        bench_rows_query(rig->rows, rig->step_number + i, keep_ppm, queries + i * bytes);
    rig->step_number += POOL_STEPS;
    bench_copy(rig, rig->pool, queries, bytes * POOL_STEPS);
    bench_copy(rig, rig->row_pool, queries, bytes);
    free(queries);
}

typedef struct timed {
    lwk_graph_t *graph; /* NULL: the backend has none */
    lwk_scratch_t scratch;
    const bench_run_t *run;
} timed_t;

static void one_step(bench_rig_t *rig, const timed_t *timed, uint32_t number)
{
    size_t bytes = query_bytes(rig);
    const uint8_t *from = (const uint8_t *)rig->pool + number % POOL_STEPS * bytes;
    bench_must(rig->backend->copy(rig->dev, rig->query, from, bytes, rig->stream), "copy");
    if (timed->graph != NULL)
        bench_must(rig->backend->graph_launch(timed->graph, rig->stream), "graph_launch");
    else
        whole_step(rig, BENCH_MEASURED, &timed->scratch, timed->run->op_count);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static lwk_counters_t counters_since(const lwk_counters_t *now, const lwk_counters_t *before)
{
    lwk_counters_t difference;
    const uint64_t *a = (const uint64_t *)(const void *)now, *b = (const uint64_t *)(const void *)before;
    uint64_t *to = (uint64_t *)(void *)&difference;
    for (size_t i = 0; i < sizeof difference / sizeof *to; i++)
        to[i] = a[i] - b[i];
    return difference;
}

static bool is_finite(bench_rig_t *rig)
{
    size_t count = (size_t)lwk_query_heads(&rig->config.shape) * rig->config.shape.head_dim;
    float *out = rig->out_host;
    bench_copy(rig, out, rig->out_fp32, count * sizeof *out);
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)out[i] * out[i];
    return isfinite(sum) && sum > 0;
}

bench_result_t bench_rig_run(bench_rig_t *rig, const bench_run_t *run)
{
    bench_result_t result = {0};
    timed_t timed = {.run = run, .scratch = take_scratch(rig, rig->range_count, rig->slot_count, run->item_capacity)};
    uint32_t layers = rig->config.shape.layer_count, number = 0;
    double *times = malloc(run->batches * sizeof *times);
    if (times == NULL)
        bench_must(LW_ERR_NO_MEMORY, "host memory");
    take_buffers(rig);
    set_slot(rig, BENCH_MEASURED, run->empty ? LWK_SLOT_NONE : BENCH_MEASURED);
    set_window(rig, run->admit_window);
    bench_reset_session(rig, run->bare);
    set_policy(rig, BENCH_MEASURED, &run->policy);
    if ((rig->backend->caps & LWK_CAP_CAPTURE) != 0) {
        bench_must(rig->backend->capture_begin(rig->dev, rig->stream), "capture_begin");
        whole_step(rig, BENCH_MEASURED, &timed.scratch, run->op_count);
        bench_must(rig->backend->capture_end(rig->dev, rig->stream, &timed.graph), "capture_end");
    }
    fill_pool(rig, run->keep_ppm);
    for (uint32_t i = 0; i < run->warm_steps; i++)
        one_step(rig, &timed, number++);
    bench_wait(rig);
    lwk_counters_t before = *rig->counters;
    for (uint32_t batch = 0; batch < run->batches; batch++) {
        if (number + run->steps > POOL_STEPS) { /* new queries, and the steady zone as it was */
            fill_pool(rig, run->keep_ppm);
            bench_reset_session(rig, run->bare);
            set_policy(rig, BENCH_MEASURED, &run->policy);
            number = 0;
        }
        bench_wait(rig);
        double began = bench_now_us();
        for (uint32_t i = 0; i < run->steps; i++)
            one_step(rig, &timed, number++);
        bench_wait(rig);
        times[batch] = (bench_now_us() - began) / run->steps / layers;
    }
    result.counters = counters_since(rig->counters, &before);
    result.layer_steps = (uint64_t)run->batches * run->steps * layers;
    qsort(times, run->batches, sizeof *times, by_size);
    result.layer_us = times[run->batches / 2];
    result.layer_us_min = times[0];
    result.layer_us_max = times[run->batches - 1];
    result.finite = run->empty || run->op_count < BENCH_ADMIT || is_finite(rig);
    check_session(rig, BENCH_MEASURED, "a step");
    if (timed.graph != NULL)
        rig->backend->graph_destroy(timed.graph);
    free(times);
    return result;
}

/* ---- ceilings
 * ----------------------------------------------------------------------------------------------------- */

double bench_copy_rate(bench_rig_t *rig, size_t bytes)
{
    uint8_t *memory = bench_alloc(rig, LWK_MEMORY_DEVICE, 2 * bytes);
    double best = 0;
    for (int round = 0; round < 8; round++) {
        bench_wait(rig);
        double began = bench_now_us();
        for (int i = 0; i < 4; i++)
            bench_must(rig->backend->copy(rig->dev, memory + bytes, memory, bytes, rig->stream), "copy");
        bench_wait(rig);
        double rate = 8.0 * (double)bytes / (bench_now_us() - began);
        best = rate > best ? rate : best;
    }
    bench_drop(rig, LWK_MEMORY_DEVICE, memory);
    rig->device_bytes -= 2 * bytes;
    return best;
}

double bench_gather_rate(bench_rig_t *rig)
{
    const uint32_t record = 8192;
    uint64_t area = rig->range_bytes * (rig->config.keep_records ? rig->range_count : 1);
    uint32_t count = (uint32_t)lw_min_u64(area / record, 32768);
    if (count == 0)
        return 0;
    const uint8_t **from = bench_alloc(rig, LWK_MEMORY_PINNED, count * sizeof *from);
    uint32_t *bytes = bench_alloc(rig, LWK_MEMORY_PINNED, count * sizeof *bytes);
    uint64_t *to = bench_alloc(rig, LWK_MEMORY_PINNED, count * sizeof *to);
    uint8_t *into = bench_alloc(rig, LWK_MEMORY_DEVICE, (size_t)count * record);
    lw_prng_t prng;
    lw_prng_seed(&prng, rig->config.seed);
    for (uint32_t i = 0; i < count; i++) {
        from[i] = rig->staging + lw_prng_below(&prng, area / record) * record;
        bytes[i] = record;
        to[i] = (uint64_t)i * record;
    }
    const lwk_gather_t args = {.count = count, .from = from, .bytes = bytes, .to = to, .into = into};
    double best = 0;
    for (int round = 0; round < 5; round++) {
        double began = bench_now_us();
        lw_status_t status = rig->backend->gather(rig->dev, &args, rig->stream);
        if (status != LW_OK)
            break;
        bench_wait(rig);
        double rate = (double)count * record / (bench_now_us() - began);
        best = rate > best ? rate : best;
    }
    bench_drop(rig, LWK_MEMORY_PINNED, from);
    bench_drop(rig, LWK_MEMORY_PINNED, bytes);
    bench_drop(rig, LWK_MEMORY_PINNED, to);
    bench_drop(rig, LWK_MEMORY_DEVICE, into);
    rig->device_bytes -= (uint64_t)count * record;
    return best;
}
