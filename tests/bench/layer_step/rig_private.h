/* rig_private.h - what rig.c and steps.c share. */
#ifndef BENCH_RIG_PRIVATE_H
#define BENCH_RIG_PRIVATE_H

#include "bench/layer_step/rig.h"

#define BENCH_MEASURED 0u
#define BENCH_LOADER 1u
#define BENCH_MOMENT_RANGES 4u /* ranges that the moments are taken over */

/* Everything that the tiles of one range point to, in one block; each array is [job] of the build's capacities. */
typedef struct bench_range {
    uint8_t *memory, *index;
    uint16_t *sizes, *page_base, *row_base;
    uint32_t *place, *stamp, *pages;
    uint32_t slots; /* entries of its largest tile */
} bench_range_t;

struct bench_rig {
    bench_config_t config;
    const lwk_backend_t *backend;
    lwk_dev_t *dev;
    void *stream;
    lwk_event_t *event;
    bench_rows_t *rows;
    uint64_t device_bytes;
    /* device: the store, the two sessions, the numbers of two batch slots */
    lwk_store_t store_host, *store;
    lwk_session_t sessions_host[2], *sessions;
    uint32_t *slots;
    uint32_t range_capacity, steady_rows, entry_slots, pages_max;
    bool has_pages;
    lwk_counters_t *counters; /* pinned */
    /* ranges */
    bench_range_t *ranges;
    uint32_t range_count, slot_count; /* slots: of all ranges of the measured session */
    uint64_t index_bytes;
    /* building the next one */
    lwk_build_t build;
    bench_build_t built;
    uint8_t *key_rows, *value_rows, *staging, *moments; /* pinned */
    uint64_t range_bytes;                               /* of the records of one range */
    uint8_t **records;                                  /* pinned */
    lwk_tile_t *tiles;                                  /* pinned */
    double *moment_totals;
    /* steps.c: buffers of a run; memory is taken anew when a run needs more */
    void *scratch_memory, *pool, *query, *row_pool, *out, *out_host;
    float *out_fp32;
    uint64_t scratch_bytes;
    uint32_t step_number;
};

void bench_must(lw_status_t status, const char *what);
void *bench_alloc(bench_rig_t *rig, lwk_memory_t kind, size_t bytes);
void bench_drop(bench_rig_t *rig, lwk_memory_t kind, void *ptr);
/* Until all that was enqueued is done. */
void bench_wait(bench_rig_t *rig);
void bench_copy(bench_rig_t *rig, void *to, const void *from, size_t bytes);
/* The measured session as it is before a step; bare: without ranges, and 68 tokens. */
void bench_reset_session(bench_rig_t *rig, bool bare);
/* Retrieves everything of the loader session's only range in every layer, and keeps it. */
void bench_load_range(bench_rig_t *rig);
void bench_steps_free(bench_rig_t *rig);

#endif /* BENCH_RIG_PRIVATE_H */
