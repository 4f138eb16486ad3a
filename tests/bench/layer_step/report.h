/* report.h - the rows of layer_step as they are printed, and judged. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "bench/layer_step/rig.h"

#define BENCH_ROWS_MAX 128u
#define BENCH_FULL_MAX 64u

typedef struct bench_row {
    const char *kind, *shape, *policy;
    uint32_t context, outlier_ppm, layers;
    double us, us_min, us_max, op_us[BENCH_OPS]; /* of one layer; admit: of the step, divided by its layers */
    double index_bytes, retrieved_bytes, steady_bytes, miss_bytes;
    double hit_ratio, retrieved_share;
    double hits_us; /* of the same run with everything cached; 0: not such a row */
    uint64_t cut;   /* selections that ended at the capacity for items */
    bool finite;
} bench_row_t;

/* What full_attention.py measured. */
typedef struct bench_full {
    char shape[32];
    unsigned context;
    double us;
} bench_full_t;

typedef struct bench_report {
    bool judge;                    /* whether times are held against floors */
    double copy_rate, gather_rate; /* bytes a microsecond; 0: not measured */
    bench_row_t rows[BENCH_ROWS_MAX];
    uint32_t row_count, failures;
    bench_full_t full[BENCH_FULL_MAX], prefill[BENCH_FULL_MAX]; /* prefill: us of a whole model */
    uint32_t full_count, prefill_count;
    char device[96];
    char build[512]; /* JSON of the build rows */
} bench_report_t;

/* full: NULL or the file to read. */
void bench_report_open(bench_report_t *report, const lwk_backend_t *backend, const char *full);
/* Prints a row as soon as it is there. */
void bench_report_row(bench_report_t *report, const bench_row_t *row);
void bench_report_build(bench_report_t *report, const char *shape, uint32_t tokens, uint32_t layers, uint32_t outlier_ppm,
                        double seconds);
/* Writes the JSON where one is wanted; 1 when a row failed, else 0. */
int bench_report_close(bench_report_t *report, const char *json);

#endif /* BENCH_REPORT_H */
