/* bench_step.c - one decode step through longwave.h: enqueued layer by layer, or replayed from a graph over
 * bound slots. */
#include "client/cli/bench.h"

#include <sched.h>

#define BUSY_FOR_NS 30000000000ull
#define OUTCOME_FOR_NS 5000000000ull

lw_status_t lwc_bench_attend(lwc_bench_t *bench, uint32_t layer, bool bound, lw_error_t *error)
{
    const llama_shape_t *shape = &bench->options.shape;
    uint16_t *query = bench->inputs + layer * lwc_bench_layer_elements(bench);
    uint16_t *key = query + bench->query_elements, *value = key + bench->key_elements;
    lw_step_t step = {.size = sizeof(step),
                      .layer = layer,
                      .sessions = bound ? NULL : bench->sessions,
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

static lw_status_t attend_all(lwc_bench_t *bench, bool bound, lw_error_t *error)
{
    lw_status_t status = LW_OK;
    for (uint32_t layer = 0; layer < bench->options.shape.layers && status == LW_OK; layer++)
        status = lwc_bench_attend(bench, layer, bound, error);
    return status;
}

/* ---- graphs ---- */

static lw_status_t bind_sessions(lwc_bench_t *bench, lw_error_t *error)
{
    for (uint32_t s = 0; s < bench->options.batch; s++) {
        lw_status_t status = lw_bind(bench->kv, s, bench->sessions[s]);
        if (status != LW_OK)
            return lw_fail(error, status, "bind: %s", lw_last_error(bench->kv));
    }
    return LW_OK;
}

lw_status_t lwc_bench_capture(lwc_bench_t *bench, lw_error_t *error)
{
    lwc_bench_device_t *device = &bench->device;
    if (!bench->options.graph)
        return LW_OK;
    if (bench->graph)
        device->backend->graph_destroy(bench->graph);
    bench->graph = NULL;
    if ((device->backend->caps & LWK_CAP_CAPTURE) == 0)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "--graph: backend '%s' captures nothing",
                       device->backend->name);
    lw_status_t status = bind_sessions(bench, error);
    if (status == LW_OK)
        status = device->backend->capture_begin(device->dev, device->stream);
    if (status != LW_OK)
        return lw_fail(error, status, "--graph: capturing does not begin");
    status = attend_all(bench, true, error);
    lw_status_t ended = device->backend->capture_end(device->dev, device->stream, &bench->graph);
    if (status != LW_OK || ended == LW_OK)
        return status;
    return lw_fail(error, ended, "--graph: the step was not captured");
}

lw_status_t lwc_bench_announce(lwc_bench_t *bench, lw_error_t *error)
{
    uint64_t began_ns = lwc_bench_now_ns();
    for (;;) {
        lw_status_t status = lw_replay(bench->kv, bench->options.batch, 1, bench->device.stream);
        if (status == LW_OK)
            return LW_OK;
        if (status != LW_ERR_BUSY || lwc_bench_now_ns() - began_ns > BUSY_FOR_NS)
            return lw_fail(error, status, "replay: %s", lw_last_error(bench->kv));
        (void)lw_progress(bench->kv);
        sched_yield();
    }
}

/* ---- a step ---- */

/* The stream is done; the word of a step's end may be a moment behind it. */
static lw_status_t outcome_of(lwc_bench_t *bench, uint32_t session)
{
    uint64_t began_ns = lwc_bench_now_ns();
    for (;;) {
        lw_status_t ended = LW_OK, status = lw_step_status(bench->kv, bench->sessions[session], &ended);
        if (status != LW_OK)
            return status;
        if (ended != LW_INPROGRESS || lwc_bench_now_ns() - began_ns > OUTCOME_FOR_NS)
            return ended;
        (void)lw_progress(bench->kv);
    }
}

lw_status_t lwc_bench_check_sessions(lwc_bench_t *bench, lw_error_t *error)
{
    for (uint32_t s = 0; s < bench->options.batch && bench->async; s++) {
        lw_status_t status = outcome_of(bench, s);
        if (status != LW_OK)
            return lw_fail(error, status, "session %u: %s: %s", s, lw_status_text(status),
                           lw_last_error(bench->kv));
    }
    return LW_OK;
}

lw_status_t lwc_bench_step(lwc_bench_t *bench, double *us_out, lw_error_t *error)
{
    lw_status_t status = LW_OK;
    uint64_t began_ns = lwc_bench_now_ns();
    if (bench->graph) {
        status = lwc_bench_announce(bench, error);
        if (status == LW_OK &&
            (status = bench->device.backend->graph_launch(bench->graph, bench->device.stream)) != LW_OK)
            lw_fail(error, status, "the graph does not start");
    } else {
        status = attend_all(bench, false, error);
    }
    if (status == LW_OK)
        status = lwc_bench_wait(&bench->device, error);
    *us_out = (double)(lwc_bench_now_ns() - began_ns) / 1e3;
    bench->tokens++;
    return status == LW_OK ? lwc_bench_check_sessions(bench, error) : status;
}
