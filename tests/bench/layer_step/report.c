/* report.c - see report.h. */
#include "bench/layer_step/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const op_names[BENCH_OPS] = {"prepare", "score", "select", "attend", "finish", "admit"};

/* One row a line, fields in the order in which full_attention.py writes them. */
static void read_full(bench_report_t *report, const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        printf("# %s is not there: no full attention beside\n", path);
        return;
    }
    char line[512];
    while (fgets(line, sizeof line, file) != NULL) {
        bench_full_t one;
        if (report->full_count < BENCH_FULL_MAX &&
            sscanf(line, " {\"shape\": \"%31[^\"]\", \"context\": %u, \"batch\": 1, \"us\": %lf", one.shape, &one.context,
                   &one.us) == 3)
            report->full[report->full_count++] = one;
        else if (report->prefill_count < BENCH_FULL_MAX &&
                 sscanf(line, " {\"shape\": \"%31[^\"]\", \"context\": %u, \"prefill_us\": %lf", one.shape, &one.context,
                        &one.us) == 3)
            report->prefill[report->prefill_count++] = one;
    }
    fclose(file);
}

static double look_up(const bench_full_t *list, uint32_t count, const char *shape, uint32_t context)
{
    for (uint32_t i = 0; i < count; i++)
        if (list[i].context == context && strcmp(list[i].shape, shape) == 0)
            return list[i].us;
    return 0;
}

void bench_report_open(bench_report_t *report, const lwk_backend_t *backend, const char *full)
{
    lwk_dev_t *dev = NULL;
    if (backend != NULL && backend->open(0, &dev, NULL) == LW_OK) {
        snprintf(report->device, sizeof report->device, "%s: %s", backend->name, backend->describe(dev));
        backend->close(dev);
    }
    printf("# layer_step on %s\n", report->device);
    if (full != NULL)
        read_full(report, full);
}

static double floor_us(const bench_report_t *report, const bench_row_t *row)
{
    double bytes = row->index_bytes + row->retrieved_bytes + row->steady_bytes - row->miss_bytes;
    return report->copy_rate > 0 ? bytes / report->copy_rate : 0;
}

static void print_head(const bench_report_t *report)
{
    printf("# floors at %.0f GB/s, the copy bandwidth of this run; times in us for one layer step, medians; ops by difference\n",
           report->copy_rate * 1e-3);
    printf("| %-10s | %-9s | ctx K | outl | exact | hits | %8s | %8s | %5s | %8s | %5s | MB   | prep score select attend finish "
           "(admit) | min-max | |\n",
           "shape", "kind", "time", "floor", "x", "full", "gain");
}

void bench_report_row(bench_report_t *report, const bench_row_t *row)
{
    if (report->row_count == 0)
        print_head(report);
    double floor = floor_us(report, row), full = look_up(report->full, report->full_count, row->shape, row->context), bound;
    const char *word = "";
    bool timed = row->index_bytes > 0;
    if (!row->finite) {
        word = "NOT A NUMBER";
        report->failures++;
    } else if (report->judge && timed && row->us < floor) {
        word = "BELOW ITS FLOOR";
        report->failures++;
    } else if (!report->judge) {
        word = "";
    } else if (row->hits_us > 0 && report->gather_rate > 0) {
        double fetch = row->miss_bytes / report->gather_rate;
        bound = 1.2 * (row->hits_us > fetch ? row->hits_us : fetch) + 20;
        word = row->us <= bound ? "within 1.2x + 20" : "over 1.2x + 20";
    } else if (timed) {
        bound = 1.3 * floor + 15;
        word = row->us <= bound ? "within 1.3x + 15" : "over 1.3x + 15";
    }
    printf("| %-10s | %-9s | %5u | %3.0f%% | %4.2f%% | %3.0f%% | %8.1f | %8.1f | %5.2f | %8.1f | %4.1fx | %6.2f |", row->shape,
           row->kind, row->context / 1024, row->outlier_ppm / 1e4, row->retrieved_share * 100, row->hit_ratio * 100, row->us,
           floor, floor > 0 ? row->us / floor : 0, full, row->us > 0 ? full / row->us : 0,
           (row->index_bytes + row->retrieved_bytes + row->steady_bytes) * 1e-6);
    for (uint32_t i = 0; i < BENCH_OPS; i++)
        printf(i == BENCH_ADMIT ? " (%.1f)" : " %.1f", row->op_us[i]);
    printf(" | %.1f-%.1f | %s %s%s |\n", row->us_min, row->us_max, row->policy, word, row->cut > 0 ? ", selections cut" : "");
    if (row->miss_bytes > 0 && report->gather_rate > 0)
        printf("#   missed %.2f MB a layer, %.1f us at the gather rate; all hits: %.1f us\n", row->miss_bytes * 1e-6,
               row->miss_bytes / report->gather_rate, row->hits_us);
    fflush(stdout);
    if (report->row_count < BENCH_ROWS_MAX)
        report->rows[report->row_count++] = *row;
}

void bench_report_build(bench_report_t *report, const char *shape, uint32_t tokens, uint32_t layers, uint32_t outlier_ppm,
                        double seconds)
{
    double prefill = look_up(report->prefill, report->prefill_count, shape, tokens) * 1e-6;
    printf("# build %s: %u tokens, %u layers, outliers %u ppm: %.3f s, %.0f tokens/s", shape, tokens, layers, outlier_ppm, seconds,
           seconds > 0 ? tokens / seconds : 0);
    if (prefill > 0)
        printf(", %.2f%% of a prefill of %.1f s", 100 * seconds / prefill, prefill);
    printf("\n");
    snprintf(report->build, sizeof report->build,
             "{\"shape\": \"%s\", \"tokens\": %u, \"layers\": %u, \"outlier_ppm\": %u, \"seconds\": %.6f, \"prefill_seconds\": %.6f}",
             shape, tokens, layers, outlier_ppm, seconds, prefill);
}

static void write_row(FILE *file, const bench_report_t *report, const bench_row_t *row)
{
    fprintf(file,
            "    {\"kind\": \"%s\", \"shape\": \"%s\", \"policy\": \"%s\", \"context\": %u, \"outlier_ppm\": %u, \"layers\": %u, "
            "\"us\": %.3f, \"us_min\": %.3f, \"us_max\": %.3f, \"floor_us\": %.3f, \"full_us\": %.3f, \"hits_us\": %.3f, ",
            row->kind, row->shape, row->policy, row->context, row->outlier_ppm, row->layers, row->us, row->us_min, row->us_max,
            floor_us(report, row), look_up(report->full, report->full_count, row->shape, row->context), row->hits_us);
    for (uint32_t i = 0; i < BENCH_OPS; i++)
        fprintf(file, "\"%s_us\": %.3f, ", op_names[i], row->op_us[i]);
    fprintf(file,
            "\"index_bytes\": %.0f, \"retrieved_bytes\": %.0f, \"steady_bytes\": %.0f, \"miss_bytes\": %.0f, "
            "\"hit_ratio\": %.5f, \"retrieved_share\": %.6f, \"cut\": %llu, \"finite\": %s}",
            row->index_bytes, row->retrieved_bytes, row->steady_bytes, row->miss_bytes, row->hit_ratio, row->retrieved_share,
            (unsigned long long)row->cut, row->finite ? "true" : "false");
}

int bench_report_close(bench_report_t *report, const char *json)
{
    FILE *file = json != NULL ? fopen(json, "w") : NULL;
    if (json != NULL && file == NULL) {
        fprintf(stderr, "layer_step: cannot write %s\n", json);
        return 1;
    }
    if (file != NULL) {
        fprintf(file, "{\n  \"device\": \"%s\",\n  \"copy_gbs\": %.1f,\n  \"gather_gbs\": %.1f,\n  \"rows\": [\n", report->device,
                report->copy_rate * 1e-3, report->gather_rate * 1e-3);
        for (uint32_t i = 0; i < report->row_count; i++) {
            write_row(file, report, &report->rows[i]);
            fprintf(file, i + 1 < report->row_count ? ",\n" : "\n");
        }
        fprintf(file, "  ],\n  \"build\": [%s]\n}\n", report->build);
        fclose(file);
    }
    if (report->failures > 0)
        printf("# %u rows failed\n", report->failures);
    return report->failures > 0 ? 1 : 0;
}
