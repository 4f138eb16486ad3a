/* bench_trace.c - the last stamped step as a timeline for chrome://tracing: the device's ops, and fetches
 * from when the progress thread asked until the last of their records had come. */
#include <inttypes.h>
#include <stdatomic.h>

#include "client/cli/bench.h"
#include "client/store/store.h"

#define EVENTS_MAX (1u << 16)

typedef struct {
    uint64_t ns;
    lwc_store_event_t event;
    uint32_t records;
} event_t;

static event_t events[EVENTS_MAX];
static _Atomic uint32_t event_count; /* written by whoever drives the store, read when nothing is in flight */

static void watch(lwc_store_event_t event, uint32_t records)
{
    uint32_t at = atomic_load_explicit(&event_count, memory_order_relaxed);
    if (at == EVENTS_MAX)
        return;
    events[at] = (event_t){lwc_bench_now_ns(), event, records};
    atomic_store_explicit(&event_count, at + 1, memory_order_release);
}

void lwc_bench_trace_watch(void)
{
    lwc_store_watch = watch;
}

void lwc_bench_trace_clear(void)
{
    atomic_store_explicit(&event_count, 0, memory_order_release);
}

typedef struct {
    lwc_json_t json;
    uint64_t origin_ns;
} trace_t;

static void span(trace_t *trace, const char *name, uint32_t thread, uint64_t begin_ns, uint64_t end_ns,
                 const char *arg, uint64_t value)
{
    lwc_json_t *json = &trace->json;
    lwc_json_open(json, NULL, '{');
    lwc_json_text(json, "name", name);
    lwc_json_text(json, "ph", "X");
    lwc_json_uint(json, "pid", 1);
    lwc_json_uint(json, "tid", thread);
    lwc_json_number(json, "ts", ((double)begin_ns - (double)trace->origin_ns) / 1e3);
    lwc_json_number(json, "dur", (double)(end_ns - begin_ns) / 1e3);
    lwc_json_open(json, "args", '{');
    lwc_json_uint(json, arg, value);
    lwc_json_close(json);
    lwc_json_close(json);
}

static void name_thread(trace_t *trace, uint32_t thread, const char *name)
{
    lwc_json_t *json = &trace->json;
    lwc_json_open(json, NULL, '{');
    lwc_json_text(json, "name", "thread_name");
    lwc_json_text(json, "ph", "M");
    lwc_json_uint(json, "pid", 1);
    lwc_json_uint(json, "tid", thread);
    lwc_json_open(json, "args", '{');
    lwc_json_text(json, "name", name);
    lwc_json_close(json);
    lwc_json_close(json);
}

/* Records end in about the order in which they were asked for: an ask ends when as many records have ended as
 * were asked for up to it. */
static void write_fetches(trace_t *trace)
{
    uint32_t count = atomic_load_explicit(&event_count, memory_order_acquire);
    uint64_t asked = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t ended = 0;
        if (events[i].event != LWC_STORE_ASKED)
            continue;
        asked += events[i].records;
        for (uint32_t k = 0; k < count; k++) {
            ended += events[k].event == LWC_STORE_ENDED ? events[k].records : 0;
            if (ended >= asked) {
                span(trace, "fetch", 2, events[i].ns, events[k].ns, "records", events[i].records);
                break;
            }
        }
    }
}

lw_status_t lwc_bench_trace_write(const lwc_bench_t *bench, const char *path, lw_error_t *error)
{
    FILE *out = fopen(path, "w");
    if (!out)
        return lw_fail(error, LW_ERR_IO, "--trace: '%s' cannot be written", path);
    trace_t trace = {.json = lwc_json(out), .origin_ns = lwc_bench_phase_ns(0, 0, 0)};
    lwc_json_open(&trace.json, NULL, '{');
    lwc_json_open(&trace.json, "traceEvents", '[');
    name_thread(&trace, 1, bench->async ? "device" : "ops");
    name_thread(&trace, 2, "fetches");
    for (uint32_t layer = 0; layer < bench->options.shape.layers; layer++)
        for (uint32_t op = 0; op < LWC_BENCH_OPS; op++)
            if (lwc_bench_phase_ns(layer, op, 1) > 0)
                span(&trace, lwc_bench_op_names[op], 1, lwc_bench_phase_ns(layer, op, 0),
                     lwc_bench_phase_ns(layer, op, 1), "layer", layer);
    write_fetches(&trace);
    lwc_json_close(&trace.json);
    lwc_json_close(&trace.json);
    bool fine = lwc_json_end(&trace.json);
    if (fclose(out) != 0 || !fine)
        return lw_fail(error, LW_ERR_IO, "--trace: '%s' cannot be written", path);
    return LW_OK;
}
