/* rig.h - a handle in miniature on any backend, big enough for a million tokens: a session of `layers` distinct layers whose
 * records are all cached on the device, built and admitted by the backend's own ops.
 *
 * Ranges come one at a time: rows are generated and copied to the device, the build ops make the index and pack the records into
 * pinned staging memory, a second session that has only this range retrieves everything once, so that admit keeps it, and then
 * the range joins the session that is measured. The staging memory is used again for the next range, unless records are kept
 * for local mode. One thread; a failed op ends the process with its name. */
#ifndef BENCH_RIG_H
#define BENCH_RIG_H

#include <stdbool.h>

#include "bench/layer_step/rows.h"
#include "kernels/backend.h"

typedef struct bench_config {
    const lwk_backend_t *backend;
    lwk_shape_t shape;          /* layer_count: how many layers of distinct data a step rotates over */
    uint64_t seed;
    uint32_t token_capacity;    /* tokens in ranges that the session may get */
    uint32_t range_tokens;      /* 8,192 */
    uint32_t steady_tokens;     /* recent tokens behind the ranges */
    uint32_t cluster_encoding, outlier_encoding, outlier_ppm, cluster_tokens;
    uint32_t cache_ppm;         /* pages for this share of the records; 1,000,000: all are cached */
    bool keep_records;          /* in pinned memory, for misses */
    unsigned threads;           /* that generate rows */
} bench_config_t;

typedef struct bench_rig bench_rig_t;

typedef struct bench_build {
    double seconds;       /* in the build ops alone */
    uint64_t head_tokens; /* tokens times (layer, KV head) that they clustered */
} bench_build_t;

bench_rig_t *bench_rig_create(const bench_config_t *config);
void bench_rig_destroy(bench_rig_t *rig);
/* Adds ranges until the session has `tokens` of them (a multiple of range_tokens). */
void bench_rig_grow(bench_rig_t *rig, uint32_t tokens);
uint32_t bench_rig_tokens(const bench_rig_t *rig);
bench_build_t bench_rig_build(const bench_rig_t *rig);
uint64_t bench_rig_index_bytes(const bench_rig_t *rig); /* of one layer, what a step reads */
uint64_t bench_rig_device_bytes(const bench_rig_t *rig);
/* Makes a random share of the session's entries remote (their pages become free). Needs keep_records. */
void bench_rig_forget(bench_rig_t *rig, uint32_t ppm);

/* ---- steps of the measured session */

typedef enum bench_op { BENCH_PREPARE, BENCH_SCORE, BENCH_SELECT, BENCH_ATTEND, BENCH_FINISH, BENCH_ADMIT, BENCH_OPS } bench_op_t;

typedef struct bench_run {
    lwk_policy_t policy;
    uint32_t item_capacity;
    uint32_t op_count;     /* the first so many ops of each layer; BENCH_OPS: all, admit once a step */
    bool empty;            /* an empty batch slot: what the launches cost by themselves */
    bool bare;             /* without ranges and with the smallest steady zone */
    uint32_t keep_ppm;     /* topics that queries keep from step to step */
    uint32_t admit_window;
    uint32_t warm_steps, steps, batches; /* a batch of `steps` steps is timed as a whole */
} bench_run_t;

typedef struct bench_result {
    double layer_us, layer_us_min, layer_us_max; /* median over batches, of one layer step */
    lwk_counters_t counters;                     /* of the timed steps */
    uint64_t layer_steps;
    bool finite;                                 /* the last step's output */
} bench_result_t;

bench_result_t bench_rig_run(bench_rig_t *rig, const bench_run_t *run);

/* ---- ceilings, measured with the same table */

double bench_copy_rate(bench_rig_t *rig, size_t bytes); /* device to device, bytes read + written a microsecond */
double bench_gather_rate(bench_rig_t *rig); /* 8 KiB records from pinned memory to the device, bytes a microsecond; 0: cannot */

double bench_now_us(void);

#endif /* BENCH_RIG_H */
