/* bench_report.c - figures of a run, as a table in Markdown or as JSON. */
#include "client/cli/bench.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

/* What both forms print, worked out once. Times in us, sizes in bytes. */
typedef struct {
    uint32_t layers, steps;
    double layer_p50, layer_p95, token_us, tokens_per_s;
    double full_p50, speedup;
    double hit_ratio, fetched_step, fetched_gbps, retrieved_share, exact_share, entries_share;
    double error_mean, error_p95, error_p99, error_max, error_above;
    double floor_us, ingest_tokens_per_s, ingest_s;
    uint64_t kv_bytes;
} figures_t;

static double over(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

/* Bytes that one layer step must read in the device's memory: its index once, what it attends exactly once.
 */
static double floor_bytes(const lwc_bench_t *bench, const lwc_bench_result_t *result, uint32_t steps)
{
    const lw_attr_t *a = &result->before, *b = &result->after;
    double row_pair = 4.0 * bench->options.shape.head_dim, layers = bench->options.shape.layers;
    double exact = (double)(b->tokens_retrieved - a->tokens_retrieved + b->tokens_steady - a->tokens_steady);
    return (double)bench->ingest.index_bytes / layers + exact * row_pair / layers / steps;
}

static figures_t figures(const lwc_bench_t *bench, const lwc_bench_result_t *result)
{
    const lwc_bench_options_t *options = &bench->options;
    const lwc_bench_times_t *times = &result->times;
    const lw_attr_t *a = &result->before, *b = &result->after;
    figures_t f = {.layers = options->shape.layers, .steps = options->steps};
    double step = options->whole ? result->token_us : lwc_bench_percentile(times->step_us, times->count, 0.5);
    f.layer_p50 = step / f.layers;
    f.layer_p95 = lwc_bench_percentile(times->step_us, times->count, 0.95) / f.layers;
    f.token_us = step;
    f.tokens_per_s = over(1e6 * options->batch, step);
    f.full_p50 = lwc_bench_percentile(result->full.step_us, result->full.count, 0.5);
    f.speedup = over(f.full_p50, f.layer_p50);
    double retrieved = (double)(b->entries_retrieved - a->entries_retrieved);
    f.hit_ratio = 1 - over((double)(b->misses - a->misses), retrieved);
    f.fetched_step = over((double)(b->bytes_fetched - a->bytes_fetched), f.steps);
    f.fetched_gbps = over(f.fetched_step, step * 1e3);
    double tokens = (double)(b->tokens_retrieved - a->tokens_retrieved);
    double steady = (double)(b->tokens_steady - a->tokens_steady);
    double indexed = (double)(b->tokens_indexed - a->tokens_indexed);
    f.retrieved_share = over(tokens, indexed);
    f.exact_share = over(tokens + steady, indexed + steady);
    f.entries_share = over(retrieved, (double)(b->entries_indexed - a->entries_indexed));
    double sum = 0, above = 0;
    for (uint32_t i = 0; i < result->error.count; i++) {
        sum += result->error.relative[i];
        above += result->error.relative[i] > 0.3;
    }
    f.error_mean = over(sum, result->error.count);
    f.error_above = over(above, result->error.count);
    f.error_p95 = lwc_bench_percentile(result->error.relative, result->error.count, 0.95);
    f.error_p99 = lwc_bench_percentile(result->error.relative, result->error.count, 0.99);
    f.error_max = lwc_bench_percentile(result->error.relative, result->error.count, 1);
    f.floor_us = over(floor_bytes(bench, result, f.steps), result->bandwidth_gbps * 1e3);
    f.ingest_s = bench->ingest.appended_s + bench->ingest.flushed_s;
    f.ingest_tokens_per_s = over((double)bench->ingest.tokens, f.ingest_s);
    f.kv_bytes = (uint64_t)options->batch * options->context * options->shape.layers *
                 options->shape.kv_heads * options->shape.head_dim * 4;
    return f;
}

/* ---- the table ---- */

static void text_row(const char *name, const char *format, ...) LW_PRINTF(2, 3);
static void text_row(const char *name, const char *format, ...)
{
    va_list args;
    printf("| %s | ", name);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf(" |\n");
}

static void print_memory(const lwc_bench_result_t *result)
{
    const lw_attr_t *m = &result->after;
    text_row("memory, MiB: index, cache (used), steady, scratch, landing, host",
             "%.1f, %.1f (%.1f), %.1f, %.1f, %.1f, %.1f", (double)m->index_bytes / 0x1p20,
             (double)m->cache_bytes / 0x1p20, (double)m->cache_used_bytes / 0x1p20,
             (double)m->steady_bytes / 0x1p20, (double)m->scratch_bytes / 0x1p20,
             (double)m->landing_bytes / 0x1p20, (double)m->host_bytes / 0x1p20);
}

static void print_phases(const lwc_bench_result_t *result)
{
    if (result->phase_count == 0)
        return;
    printf("| by op, us a layer step (stamped steps: %.1f us a step) |", result->phase_step_us);
    for (uint32_t i = 0; i < result->phase_count; i++)
        printf(" %s %.1f%s", lwc_bench_op_names[i], result->phase_us[i],
               i + 1 < result->phase_count ? "," : " |\n");
}

static void print_tokens(const lwc_bench_t *bench, const lwc_bench_result_t *result)
{
    double batch = bench->options.batch;
    text_row("a token of the whole model, ms; tokens/s of the batch", "%.2f; %.1f", result->token_us / 1e3,
             over(1e6 * batch, result->token_us));
    if (result->full_token_us > 0)
        text_row("with full attention, ms; tokens/s; Longwave's are",
                 "%.2f; %.1f; %.2f times as many (%u of %u layers have K and V of their own)",
                 result->full_token_us / 1e3, over(1e6 * batch, result->full_token_us),
                 over(result->full_token_us, result->token_us), result->full_layers,
                 bench->options.shape.layers);
    text_row("the runner's memory, MiB", "%.1f", (double)result->runner_bytes / 0x1p20);
}

static void print_table(const lwc_bench_t *bench, const lwc_bench_result_t *result, const figures_t *f)
{
    const lwc_bench_options_t *options = &bench->options;
    printf("| longwave bench decode | %s, %u layers, %u tokens, batch %u |\n|---|---|\n", options->shape_name,
           f->layers, options->context, options->batch);
    text_row("backend, transport, policy", "%s (%s), %s, %s%s", result->after.backend, result->after.device,
             options->transport, options->policy_name, options->graph ? ", graph" : "");
    if (options->whole)
        print_tokens(bench, result);
    else
        text_row("layer step, us: median, p95", "%.1f, %.1f", f->layer_p50, f->layer_p95);
    text_row(options->whole ? "floor of attention, us a layer" : "its floor, us (index and exact rows once)",
             "%.1f at %.0f GB/s, which a copy here has", f->floor_us, result->bandwidth_gbps);
    if (result->full.count > 0)
        text_row("full attention, us a layer step", "%.1f (%s); %.2f times Longwave's", f->full_p50,
                 result->full_name, f->speedup);
    print_phases(result);
    if (!options->whole)
        text_row("attention of a token, ms; tokens/s of the batch by attention alone", "%.3f; %.1f",
                 f->token_us / 1e3, f->tokens_per_s);
    text_row("tokens retrieved, exact with the steady zone; entries retrieved, %", "%.2f, %.2f; %.2f",
             100 * f->retrieved_share, 100 * f->exact_share, 100 * f->entries_share);
    text_row("cache hit ratio (cache, share of the KV)", "%.1f%% (%.2f%%)", 100 * f->hit_ratio,
             options->cache_ppm / 1e4);
    text_row("fetched a step, KiB; GB/s over the step", "%.1f; %.3f", f->fetched_step / 1024,
             f->fetched_gbps);
    if (result->ceiling_gbps > 0)
        text_row("the transport's ceiling in this run, GB/s", "%.2f", result->ceiling_gbps);
    if (result->error.count > 0)
        text_row("e_out of sampled heads: mean, p95, p99, max; above 0.3",
                 "%.4f, %.4f, %.4f, %.4f; %.1f%% (steady zone alone: %.3f)", f->error_mean, f->error_p95,
                 f->error_p99, f->error_max, 100 * f->error_above, result->error.alone);
    text_row("index build and shipping of all tokens, s; tokens/s", "%.2f; %.0f", f->ingest_s,
             f->ingest_tokens_per_s);
    text_row("KV, index, stored, MiB", "%.1f, %.1f, %.1f", (double)f->kv_bytes / 0x1p20,
             (double)bench->ingest.index_bytes / 0x1p20, (double)bench->ingest.stored_bytes / 0x1p20);
    print_memory(result);
}

/* ---- JSON ---- */

static void write_setup(lwc_json_t *json, const lwc_bench_t *bench, const lwc_bench_result_t *result,
                        const figures_t *f)
{
    const lwc_bench_options_t *options = &bench->options;
    lwc_json_text(json, "shape", options->shape_name);
    lwc_json_uint(json, "layers", f->layers);
    lwc_json_uint(json, "query_heads", options->shape.query_heads);
    lwc_json_uint(json, "kv_heads", options->shape.kv_heads);
    lwc_json_uint(json, "head_dim", options->shape.head_dim);
    lwc_json_uint(json, "context", options->context);
    lwc_json_uint(json, "batch", options->batch);
    lwc_json_uint(json, "steps", f->steps);
    lwc_json_text(json, "policy", options->policy_name);
    lwc_json_uint(json, "retrieve_ppm", options->policy.retrieve_ppm);
    lwc_json_uint(json, "accuracy_ppm", options->policy.accuracy_ppm);
    lwc_json_text(json, "backend", result->after.backend);
    lwc_json_text(json, "device", result->after.device);
    lwc_json_text(json, "transport", options->transport);
    lwc_json_bool(json, "graph", options->graph);
    lwc_json_number(json, "cache_share", options->cache_ppm / 1e6);
}

static void write_step(lwc_json_t *json, const lwc_bench_result_t *result, const figures_t *f)
{
    lwc_json_number(json, "layer_step_us_p50", f->layer_p50);
    lwc_json_number(json, "layer_step_us_p95", f->layer_p95);
    lwc_json_number(json, "layer_step_floor_us", f->floor_us);
    lwc_json_number(json, "device_copy_gbps", result->bandwidth_gbps);
    lwc_json_number(json, "token_us_p50", f->token_us);
    lwc_json_number(json, "tokens_per_s", f->tokens_per_s);
    lwc_json_number(json, "full_layer_step_us_p50", f->full_p50);
    lwc_json_text(json, "full_kernel", result->full.count > 0 ? result->full_name : NULL);
    lwc_json_number(json, "speedup", f->speedup);
    lwc_json_open(json, "phases_us", '{');
    for (uint32_t i = 0; i < result->phase_count; i++)
        lwc_json_number(json, lwc_bench_op_names[i], result->phase_us[i]);
    lwc_json_close(json);
}

static void write_rest(lwc_json_t *json, const lwc_bench_t *bench, const lwc_bench_result_t *result,
                       const figures_t *f)
{
    const lw_attr_t *m = &result->after;
    lwc_json_number(json, "hit_ratio", f->hit_ratio);
    lwc_json_number(json, "retrieved_token_share", f->retrieved_share);
    lwc_json_number(json, "exact_token_share", f->exact_share);
    lwc_json_number(json, "retrieved_entry_share", f->entries_share);
    lwc_json_number(json, "fetched_bytes_per_step", f->fetched_step);
    lwc_json_number(json, "fetched_gbps", f->fetched_gbps);
    lwc_json_number(json, "ceiling_gbps", result->ceiling_gbps > 0 ? result->ceiling_gbps : NAN);
    lwc_json_open(json, "e_out", '{');
    lwc_json_uint(json, "samples", result->error.count);
    lwc_json_number(json, "mean", f->error_mean);
    lwc_json_number(json, "p95", f->error_p95);
    lwc_json_number(json, "p99", f->error_p99);
    lwc_json_number(json, "max", f->error_max);
    lwc_json_number(json, "above_0.3", f->error_above);
    lwc_json_number(json, "steady_zone_alone", result->error.count > 0 ? result->error.alone : NAN);
    lwc_json_close(json);
    lwc_json_open(json, "ingest", '{');
    lwc_json_uint(json, "tokens", bench->ingest.tokens);
    lwc_json_number(json, "generator_s", bench->ingest.made_s);
    lwc_json_number(json, "append_s", bench->ingest.appended_s);
    lwc_json_number(json, "flush_s", bench->ingest.flushed_s);
    lwc_json_number(json, "tokens_per_s", f->ingest_tokens_per_s);
    lwc_json_uint(json, "clusters", bench->ingest.clusters);
    lwc_json_uint(json, "outliers", bench->ingest.outliers);
    lwc_json_uint(json, "index_bytes", bench->ingest.index_bytes);
    lwc_json_uint(json, "stored_bytes", bench->ingest.stored_bytes);
    lwc_json_uint(json, "kv_bytes", f->kv_bytes);
    lwc_json_close(json);
    lwc_json_open(json, "memory_bytes", '{');
    lwc_json_uint(json, "index", m->index_bytes);
    lwc_json_uint(json, "cache", m->cache_bytes);
    lwc_json_uint(json, "cache_used", m->cache_used_bytes);
    lwc_json_uint(json, "steady", m->steady_bytes);
    lwc_json_uint(json, "scratch", m->scratch_bytes);
    lwc_json_uint(json, "landing", m->landing_bytes);
    lwc_json_uint(json, "host", m->host_bytes);
    lwc_json_close(json);
}

static void write_tokens(lwc_json_t *json, const lwc_bench_t *bench, const lwc_bench_result_t *result)
{
    lwc_json_open(json, "model", '{');
    lwc_json_number(json, "token_us", result->token_us);
    lwc_json_number(json, "tokens_per_s", over(1e6 * bench->options.batch, result->token_us));
    lwc_json_number(json, "full_token_us", result->full_token_us > 0 ? result->full_token_us : NAN);
    lwc_json_number(json, "full_tokens_per_s", over(1e6 * bench->options.batch, result->full_token_us));
    lwc_json_number(json, "speedup", over(result->full_token_us, result->token_us));
    lwc_json_uint(json, "full_layers_of_their_own", result->full_layers);
    lwc_json_uint(json, "runner_bytes", result->runner_bytes);
    lwc_json_close(json);
}

lw_status_t lwc_bench_report(const lwc_bench_t *bench, const lwc_bench_result_t *result, lw_error_t *error)
{
    const char *path = bench->options.json;
    figures_t f = figures(bench, result);
    if (!path || strcmp(path, "-") != 0)
        print_table(bench, result, &f);
    if (!path)
        return LW_OK;
    FILE *out = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");
    if (!out)
        return lw_fail(error, LW_ERR_IO, "--json: '%s' cannot be written", path);
    lwc_json_t json = lwc_json(out);
    lwc_json_open(&json, NULL, '{');
    write_setup(&json, bench, result, &f);
    write_step(&json, result, &f);
    write_rest(&json, bench, result, &f);
    if (bench->options.whole)
        write_tokens(&json, bench, result);
    lwc_json_close(&json);
    bool fine = lwc_json_end(&json);
    if (out != stdout && fclose(out) != 0)
        fine = false;
    return fine ? LW_OK : lw_fail(error, LW_ERR_IO, "--json: '%s' cannot be written", path);
}
