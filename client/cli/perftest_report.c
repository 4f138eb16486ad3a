/* perftest_report.c - percentiles, medians over rounds, the table and its JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/json.h"
#include "client/cli/perftest.h"

#define GIB 1073741824.0

const char *lwc_perf_mode_text(lwc_perf_mode_t mode)
{
    static const char *const texts[LWC_PERF_MODES] = {"fetch", "ceiling", "stream", "mix", "put"};
    return texts[mode];
}

static int by_latency(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

void lwc_perf_row_latency(lwc_perf_row_t *row, uint32_t *latency_ns100, uint64_t count)
{
    if (count == 0)
        return;
    qsort(latency_ns100, count, sizeof(*latency_ns100), by_latency);
    row->p50_us = latency_ns100[count / 2] / 10.0;
    row->p99_us = latency_ns100[count * 99 / 100] / 10.0;
    row->p999_us = latency_ns100[count * 999 / 1000] / 10.0;
}

typedef struct figures { /* what is printed of a row, or of the median of several */
    double gb_s, requests_s, records_s, p50_us, p99_us, p999_us, client_cpu_gib, server_cpu_gib;
} figures_t;

static figures_t figures_of(const lwc_perf_row_t *row)
{
    double gib = (double)row->bytes / GIB;
    bool some = row->seconds > 0 && gib > 0;
    return (figures_t){
        .gb_s = some ? (double)row->bytes / 1e9 / row->seconds : 0,
        .requests_s = some ? (double)row->requests / row->seconds : 0,
        .records_s = some ? (double)row->records / row->seconds : 0,
        .p50_us = row->p50_us,
        .p99_us = row->p99_us,
        .p999_us = row->p999_us,
        .client_cpu_gib = some ? row->client_cpu_s / gib : 0,
        .server_cpu_gib = some ? row->server_cpu_s / gib : 0,
    };
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Each figure's own median over the rows of one mode and batch; count_out: how many there are. */
static figures_t median_of(const lwc_perf_row_t *rows, uint32_t count, lwc_perf_mode_t mode, uint32_t batch,
                           uint32_t *count_out)
{
    figures_t all[LWC_PERF_ROUNDS_MAX], median = {0};
    double column[LWC_PERF_ROUNDS_MAX];
    uint32_t found = 0;
    for (uint32_t i = 0; i < count && found < LWC_PERF_ROUNDS_MAX; i++)
        if (rows[i].mode == mode && rows[i].batch == batch)
            all[found++] = figures_of(&rows[i]);
    for (size_t field = 0; found > 0 && field < sizeof(figures_t) / sizeof(double); field++) {
        for (uint32_t i = 0; i < found; i++)
            column[i] = ((const double *)&all[i])[field];
        qsort(column, found, sizeof(double), by_value);
        ((double *)&median)[field] = column[found / 2];
    }
    *count_out = found;
    return median;
}

static void write_figures(lwc_json_t *json, lwc_perf_mode_t mode, uint32_t batch, const figures_t *f)
{
    lwc_json_text(json, "mode", lwc_perf_mode_text(mode));
    lwc_json_uint(json, "batch", batch);
    lwc_json_number(json, "gb_s", f->gb_s);
    lwc_json_number(json, "requests_s", f->requests_s);
    lwc_json_number(json, "records_s", f->records_s);
    lwc_json_number(json, "p50_us", f->p50_us);
    lwc_json_number(json, "p99_us", f->p99_us);
    lwc_json_number(json, "p999_us", f->p999_us);
    lwc_json_number(json, "client_cpu_s_gib", f->client_cpu_gib);
    lwc_json_number(json, "server_cpu_s_gib", f->server_cpu_gib);
}

void lwc_perf_print_row_json(const lwc_perf_row_t *row)
{
    figures_t f = figures_of(row);
    printf(
        "{\"mode\":\"%s\",\"batch\":%u,\"gb_s\":%.4f,\"requests_s\":%.1f,\"records_s\":%.1f,\"p50_us\":%.1f,"
        "\"p99_us\":%.1f,\"p999_us\":%.1f,\"client_cpu_s_gib\":%.4f,\"server_cpu_s_gib\":%.4f}\n",
        lwc_perf_mode_text(row->mode), row->batch, f.gb_s, f.requests_s, f.records_s, f.p50_us, f.p99_us,
        f.p999_us, f.client_cpu_gib, f.server_cpu_gib);
    fflush(stdout);
}

typedef struct group {
    lwc_perf_mode_t mode;
    uint32_t batch, rounds;
    figures_t median;
} group_t;

static uint32_t make_groups(const lwc_perf_options_t *options, const lwc_perf_row_t *rows, uint32_t count,
                            group_t groups[LWC_PERF_MODES * LWC_PERF_BATCHES_MAX])
{
    uint32_t made = 0;
    for (lwc_perf_mode_t mode = 0; mode < LWC_PERF_MODES; mode++) {
        for (uint32_t b = 0; b < (mode == LWC_PERF_PUT ? 1 : options->batch_count); b++) {
            group_t group = {.mode = mode, .batch = mode == LWC_PERF_PUT ? 0 : options->batches[b]};
            group.median = median_of(rows, count, mode, group.batch, &group.rounds);
            if (group.rounds > 0)
                groups[made++] = group;
        }
    }
    return made;
}

/* GB/s of another mode at the same batch; 0 where it was not measured. */
static double speed_of(const group_t *groups, uint32_t count, lwc_perf_mode_t mode, uint32_t batch)
{
    for (uint32_t i = 0; i < count; i++)
        if (groups[i].mode == mode && groups[i].batch == batch)
            return groups[i].median.gb_s;
    return 0;
}

/* What a row is measured by: fetch by the ceiling, the ceiling by the stream. 0: by nothing. */
static double ratio_of(const group_t *groups, uint32_t count, const group_t *group)
{
    double base = 0;
    if (group->mode == LWC_PERF_FETCH)
        base = speed_of(groups, count, LWC_PERF_CEILING, group->batch);
    else if (group->mode == LWC_PERF_CEILING)
        base = speed_of(groups, count, LWC_PERF_STREAM, group->batch);
    return base > 0 ? group->median.gb_s / base : 0;
}

static void print_table(const lwc_perf_options_t *options, const group_t *groups, uint32_t count)
{
    printf("%s, records of %u B, %llu MiB stored, depth %u, medians of %u rounds of %.1f s\n",
           options->transport, options->record_bytes, (unsigned long long)(options->store_bytes >> 20),
           options->depth, options->rounds, options->seconds);
    printf("%-8s %5s %7s %7s %9s %9s %8s %8s %8s  %s\n", "mode", "batch", "GB/s", "ratio", "reqs/s",
           "records/s", "p50 us", "p99 us", "p99.9", "CPU s/GiB client+daemon");
    for (uint32_t i = 0; i < count; i++) {
        const figures_t *f = &groups[i].median;
        double ratio = ratio_of(groups, count, &groups[i]);
        char text[16] = "";
        if (ratio > 0)
            snprintf(text, sizeof(text), "%.2f", ratio);
        printf("%-8s %5u %7.2f %7s %9.0f %9.0f %8.1f %8.1f %8.1f  %.2f+%.2f\n",
               lwc_perf_mode_text(groups[i].mode), groups[i].batch, f->gb_s, text, f->requests_s,
               f->records_s, f->p50_us, f->p99_us, f->p999_us, f->client_cpu_gib, f->server_cpu_gib);
    }
    printf("ratio: fetch to the ceiling, the ceiling to the stream\n");
}

static bool write_json(const lwc_perf_options_t *options, const group_t *groups, uint32_t count)
{
    bool to_file = strcmp(options->json, "-") != 0;
    FILE *out = to_file ? fopen(options->json, "w") : stdout;
    if (out == NULL)
        return false;
    lwc_json_t json = lwc_json(out);
    lwc_json_open(&json, NULL, '{');
    lwc_json_text(&json, "transport", options->transport);
    lwc_json_uint(&json, "record_bytes", options->record_bytes);
    lwc_json_uint(&json, "store_bytes", options->store_bytes);
    lwc_json_uint(&json, "depth", options->depth);
    lwc_json_open(&json, "rows", '[');
    for (uint32_t i = 0; i < count; i++) {
        lwc_json_open(&json, NULL, '{');
        write_figures(&json, groups[i].mode, groups[i].batch, &groups[i].median);
        lwc_json_uint(&json, "rounds", groups[i].rounds);
        lwc_json_number(&json, "ratio", ratio_of(groups, count, &groups[i]));
        lwc_json_close(&json);
    }
    lwc_json_close(&json);
    lwc_json_close(&json);
    bool fine = lwc_json_end(&json);
    return (!to_file || fclose(out) == 0) && fine;
}

bool lwc_perf_report(const lwc_perf_options_t *options, const lwc_perf_row_t *rows, uint32_t count)
{
    group_t groups[LWC_PERF_MODES * LWC_PERF_BATCHES_MAX];
    uint32_t made = make_groups(options, rows, count, groups);
    if (options->json == NULL || strcmp(options->json, "-") != 0)
        print_table(options, groups, made);
    return options->json == NULL || write_json(options, groups, made);
}
