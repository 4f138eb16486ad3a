/* rig.c - the store, its sessions, and their ranges. Steps and ceilings are in steps.c. */
#include "bench/layer_step/rig_private.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/prng.h"
#include "kernels/view.h"

double bench_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

void bench_must(lw_status_t status, const char *what)
{
    if (status >= 0)
        return;
    fprintf(stderr, "layer_step: %s: %s\n", what, lw_status_name(status));
    exit(1);
}

void *bench_alloc(bench_rig_t *rig, lwk_memory_t kind, size_t bytes)
{
    void *ptr = NULL;
    bench_must(rig->backend->alloc(rig->dev, kind, bytes > 0 ? bytes : 64, &ptr), "alloc");
    if (kind == LWK_MEMORY_DEVICE)
        rig->device_bytes += bytes;
    return ptr;
}

void bench_drop(bench_rig_t *rig, lwk_memory_t kind, void *ptr)
{
    if (ptr != NULL)
        rig->backend->free(rig->dev, kind, ptr);
}

void bench_wait(bench_rig_t *rig)
{
    bench_must(rig->backend->event_record(rig->event, rig->stream), "event_record");
    lw_status_t status;
    while ((status = rig->backend->event_query(rig->event)) == LW_INPROGRESS)
        sched_yield();
    bench_must(status, "the device");
}

void bench_copy(bench_rig_t *rig, void *to, const void *from, size_t bytes)
{
    if (bytes == 0)
        return;
    bench_must(rig->backend->copy(rig->dev, to, from, bytes, rig->stream), "copy");
    bench_wait(rig);
}

static void *host_alloc(size_t bytes)
{
    void *ptr = calloc(1, bytes > 0 ? bytes : 1);
    if (ptr == NULL)
        bench_must(LW_ERR_NO_MEMORY, "host memory");
    return ptr;
}

/* ---- create
 * ------------------------------------------------------------------------------------------------------ */

static uint32_t heads_of(const bench_rig_t *rig)
{
    return rig->config.shape.layer_count * rig->config.shape.kv_head_count;
}

static void create_build(bench_rig_t *rig)
{
    const bench_config_t *c = &rig->config;
    uint32_t jobs = heads_of(rig), n = c->range_tokens, d = c->shape.head_dim,
             units = (n + LW_UNIT_TOKENS - 1) / LW_UNIT_TOKENS;
    uint64_t row = lwk_row_bytes(&c->shape);
    lwk_build_t *b = &rig->build;
    *b = (lwk_build_t){.job_count = jobs,
                       .token_count = n,
                       .head_dim = d,
                       .dtype = c->shape.dtype,
                       .job_stride = (uint64_t)n * d,
                       .ring_rows = n,
                       .cluster_tokens = c->cluster_tokens,
                       .outlier_ppm = c->outlier_ppm,
                       .iterations = 10,
                       .cluster_encoding = c->cluster_encoding,
                       .outlier_encoding = c->outlier_encoding,
                       .cluster_capacity = units * LW_CLUSTERS_PER_UNIT_MAX,
                       .outlier_capacity = units * LW_OUTLIERS_PER_UNIT_MAX};
    uint32_t outliers = (uint32_t)((uint64_t)n * c->outlier_ppm / 1000000);
    if (outliers > b->outlier_capacity)
        outliers = b->outlier_capacity;
    rig->entry_slots = b->cluster_capacity + outliers;
    b->index_stride =
        lwk_index_layout(c->cluster_encoding, c->outlier_encoding, b->cluster_capacity, outliers, d).bytes;
    b->keys = bench_alloc(rig, LWK_MEMORY_DEVICE, jobs * n * row);
    b->values = bench_alloc(rig, LWK_MEMORY_DEVICE, jobs * n * row);
    b->assign = bench_alloc(rig, LWK_MEMORY_DEVICE, (size_t)jobs * n * sizeof *b->assign);
    b->order = bench_alloc(rig, LWK_MEMORY_DEVICE, (size_t)jobs * n * sizeof *b->order);
    b->sizes = bench_alloc(rig, LWK_MEMORY_PINNED, (size_t)jobs * b->cluster_capacity * sizeof *b->sizes);
    b->parents = bench_alloc(rig, LWK_MEMORY_PINNED, (size_t)jobs * b->outlier_capacity * sizeof *b->parents);
    b->cluster_count = bench_alloc(rig, LWK_MEMORY_PINNED, jobs * sizeof(uint32_t));
    b->outlier_count = bench_alloc(rig, LWK_MEMORY_PINNED, jobs * sizeof(uint32_t));
    b->centroids = bench_alloc(rig, LWK_MEMORY_DEVICE, (size_t)jobs * b->cluster_capacity * d * sizeof(float));
    b->value_means = bench_alloc(rig, LWK_MEMORY_DEVICE, (size_t)jobs * b->cluster_capacity * d * sizeof(float));
    b->spreads = bench_alloc(rig, LWK_MEMORY_DEVICE, (size_t)jobs * b->cluster_capacity * sizeof(float));
    b->moment_sums = bench_alloc(rig, LWK_MEMORY_PINNED, jobs * (2 + 2 * (size_t)d * d) * sizeof(double));
    rig->records = bench_alloc(rig, LWK_MEMORY_PINNED, jobs * sizeof *rig->records);
    b->records = rig->records;
    b->workspace_bytes = rig->backend->build_workspace_bytes(b);
    b->workspace = bench_alloc(rig, LWK_MEMORY_DEVICE, b->workspace_bytes);
    rig->key_rows = bench_alloc(rig, LWK_MEMORY_PINNED, jobs * n * row);
    rig->value_rows = bench_alloc(rig, LWK_MEMORY_PINNED, jobs * n * row);
}

static uint32_t power_of_two(uint64_t x)
{
    uint32_t p = 2;
    while (p < x)
        p *= 2;
    return p;
}

static void create_store(bench_rig_t *rig)
{
    const bench_config_t *c = &rig->config;
    lwk_store_t *st = &rig->store_host;
    rig->range_bytes = 2 * (uint64_t)heads_of(rig) * c->range_tokens * lwk_row_bytes(&c->shape);
    st->shape = c->shape;
    st->range_capacity = rig->range_capacity;
    st->tiles = bench_alloc(rig, LWK_MEMORY_DEVICE, (size_t)rig->range_capacity * heads_of(rig) * sizeof(lwk_tile_t));
    st->ticket_capacity = power_of_two(2ull * heads_of(rig) * rig->entry_slots);
    st->pages[0].tokens = LWK_PAGE_TOKENS;
    st->pages[1].tokens = 1;
    /* All tiles are local: nobody but the device looks at the tickets. */
    st->tickets = bench_alloc(rig, LWK_MEMORY_DEVICE, st->ticket_capacity * sizeof(lwk_ticket_t));
    st->arrivals = bench_alloc(rig, LWK_MEMORY_DEVICE, st->ticket_capacity * sizeof(uint64_t));
    st->ticket_head = bench_alloc(rig, LWK_MEMORY_DEVICE, 64);
    st->ticket_tail = bench_alloc(rig, LWK_MEMORY_DEVICE, 64);
    rig->counters = bench_alloc(rig, LWK_MEMORY_PINNED, sizeof *rig->counters);
    st->counters = rig->counters;
    rig->staging = bench_alloc(rig, LWK_MEMORY_PINNED, rig->range_bytes * (c->keep_records ? rig->range_capacity : 1));
    st->landing = rig->staging;
    rig->store = bench_alloc(rig, LWK_MEMORY_DEVICE, sizeof *st);
}

/* How many pages it takes is known once the first range is built. */
static void create_pages(bench_rig_t *rig, uint64_t pages8, uint64_t pages1)
{
    uint64_t wanted[2] = {pages8, pages1};
    for (uint32_t which = 0; which < 2; which++) {
        lwk_page_class_t *pages = &rig->store_host.pages[which];
        uint64_t count = wanted[which] * rig->config.cache_ppm / 1000000 + 64;
        pages->count = pages->free_count = (uint32_t)count;
        pages->bytes = bench_alloc(rig, LWK_MEMORY_DEVICE, count * lwk_page_bytes(&rig->config.shape, pages));
        pages->owner = bench_alloc(rig, LWK_MEMORY_DEVICE, count * sizeof *pages->owner);
        pages->free_list = bench_alloc(rig, LWK_MEMORY_DEVICE, count * sizeof *pages->free_list);
        uint32_t *list = host_alloc(count * sizeof *list);
        lwk_page_owner_t *owner = host_alloc(count * sizeof *owner);
        for (uint32_t i = 0; i < count; i++) {
            list[i] = (uint32_t)count - 1 - i;
            owner[i].tile = UINT32_MAX;
        }
        bench_copy(rig, pages->free_list, list, count * sizeof *list);
        bench_copy(rig, pages->owner, owner, count * sizeof *owner);
        free(list);
        free(owner);
    }
    bench_copy(rig, rig->store, &rig->store_host, sizeof rig->store_host);
    rig->has_pages = true;
}

/* Sinks and ring hold rows like all others; a loader's are never looked at. */
static void create_session(bench_rig_t *rig, uint32_t which)
{
    const bench_config_t *c = &rig->config;
    uint64_t heads = heads_of(rig), row = lwk_row_bytes(&c->shape);
    lwk_session_t *s = &rig->sessions_host[which];
    *s = (lwk_session_t){.steady_rows = rig->steady_rows};
    s->ranges = bench_alloc(rig, LWK_MEMORY_DEVICE, rig->range_capacity * sizeof(lwk_range_ref_t));
    void **parts[] = {&s->sink_keys, &s->sink_values, &s->steady_keys, &s->steady_values};
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t rows = i < 2 ? LW_SINK_TOKENS : rig->steady_rows;
        *parts[i] = bench_alloc(rig, LWK_MEMORY_DEVICE, heads * rows * row);
        void *keys = host_alloc(heads * rows * row), *values = host_alloc(heads * rows * row);
        bench_rows_fill(rig->rows, 1u << 30, rows, c->threads, keys, values);
        bench_copy(rig, *parts[i], (i & 1) == 0 ? keys : values, heads * rows * row);
        free(keys);
        free(values);
    }
    s->moments = bench_alloc(rig, LWK_MEMORY_DEVICE, heads * lwk_moments_bytes(c->shape.head_dim));
}

bench_rig_t *bench_rig_create(const bench_config_t *config)
{
    bench_rig_t *rig = host_alloc(sizeof *rig);
    lw_error_t error = {LW_OK, ""};
    rig->config = *config;
    rig->backend = config->backend;
    rig->range_capacity = config->token_capacity / config->range_tokens;
    rig->steady_rows = LW_STEADY_TOKENS_MIN;
    if (rig->backend->open(0, &rig->dev, &error) != LW_OK) {
        fprintf(stderr, "layer_step: %s\n", error.text);
        exit(77);
    }
    bench_must(rig->backend->stream_create(rig->dev, &rig->stream), "stream_create");
    bench_must(rig->backend->event_create(rig->dev, &rig->event), "event_create");
    rig->rows = bench_rows_create(&config->shape, config->seed);
    if (rig->rows == NULL)
        bench_must(LW_ERR_NO_MEMORY, "rows");
    create_build(rig);
    create_store(rig);
    rig->sessions = bench_alloc(rig, LWK_MEMORY_DEVICE, 2 * sizeof(lwk_session_t));
    create_session(rig, BENCH_MEASURED);
    create_session(rig, BENCH_LOADER);
    bench_copy(rig, rig->sessions, rig->sessions_host, sizeof rig->sessions_host);
    rig->slots = bench_alloc(rig, LWK_MEMORY_DEVICE, 64);
    rig->ranges = host_alloc(rig->range_capacity * sizeof *rig->ranges);
    rig->tiles = bench_alloc(rig, LWK_MEMORY_PINNED, heads_of(rig) * sizeof *rig->tiles);
    rig->moments =
        bench_alloc(rig, LWK_MEMORY_PINNED, heads_of(rig) * lwk_moments_bytes(config->shape.head_dim));
    rig->moment_totals = host_alloc(heads_of(rig) * (2 + 2 * (size_t)config->shape.head_dim * config->shape.head_dim) *
                                    sizeof(double));
    return rig;
}

void bench_rig_destroy(bench_rig_t *rig)
{
    bench_steps_free(rig);
    for (uint32_t r = 0; r < rig->range_count; r++)
        bench_drop(rig, LWK_MEMORY_DEVICE, rig->ranges[r].memory);
    for (uint32_t i = 0; i < 2; i++) {
        lwk_session_t *s = &rig->sessions_host[i];
        void *parts[] = {s->ranges, s->sink_keys, s->sink_values, s->steady_keys, s->steady_values, s->moments};
        for (size_t k = 0; k < LW_ARRAY_SIZE(parts); k++)
            bench_drop(rig, LWK_MEMORY_DEVICE, parts[k]);
        lwk_page_class_t *pages = &rig->store_host.pages[i];
        bench_drop(rig, LWK_MEMORY_DEVICE, pages->bytes);
        bench_drop(rig, LWK_MEMORY_DEVICE, pages->owner);
        bench_drop(rig, LWK_MEMORY_DEVICE, pages->free_list);
    }
    const lwk_build_t *b = &rig->build;
    const lwk_store_t *st = &rig->store_host;
    void *device[] = {(void *)(uintptr_t)b->keys, (void *)(uintptr_t)b->values, b->assign, b->order, b->centroids,
                      b->value_means, b->spreads, b->workspace, st->tiles, st->tickets, st->arrivals, st->ticket_head,
                      st->ticket_tail, rig->store, rig->sessions, rig->slots};
    for (size_t i = 0; i < LW_ARRAY_SIZE(device); i++)
        bench_drop(rig, LWK_MEMORY_DEVICE, device[i]);
    void *pinned[] = {b->sizes, b->parents, b->cluster_count, b->outlier_count, b->moment_sums, rig->records,
                      rig->key_rows, rig->value_rows, rig->counters, rig->staging, rig->tiles, rig->moments};
    for (size_t i = 0; i < LW_ARRAY_SIZE(pinned); i++)
        bench_drop(rig, LWK_MEMORY_PINNED, pinned[i]);
    bench_rows_destroy(rig->rows);
    free(rig->ranges);
    free(rig->moment_totals);
    rig->backend->event_destroy(rig->event);
    rig->backend->stream_destroy(rig->dev, rig->stream);
    rig->backend->close(rig->dev);
    free(rig);
}

/* ---- one range
 * --------------------------------------------------------------------------------------------------- */

static void build_range(bench_rig_t *rig, bench_range_t *range)
{
    const bench_config_t *c = &rig->config;
    const lwk_backend_t *be = rig->backend;
    lwk_build_t *b = &rig->build;
    uint64_t rows = (uint64_t)heads_of(rig) * c->range_tokens * lwk_row_bytes(&c->shape);
    uint64_t at = c->keep_records ? rig->range_count * rig->range_bytes : 0;
    bench_rows_fill(rig->rows, LW_SINK_TOKENS + rig->range_count * c->range_tokens, c->range_tokens, c->threads, rig->key_rows,
                    rig->value_rows);
    bench_copy(rig, (void *)(uintptr_t)b->keys, rig->key_rows, rows);
    bench_copy(rig, (void *)(uintptr_t)b->values, rig->value_rows, rows);
    b->index = range->index;
    for (uint32_t j = 0; j < b->job_count; j++)
        rig->records[j] = rig->staging + at + j * (rig->range_bytes / b->job_count);
    double began = bench_now_us();
    bench_must(be->kmeans(rig->dev, b, rig->stream), "kmeans");
    bench_must(be->outliers(rig->dev, b, rig->stream), "outliers");
    bench_must(be->moments(rig->dev, b, rig->stream), "moments");
    bench_must(be->encode(rig->dev, b, rig->stream), "encode");
    bench_must(be->pack(rig->dev, b, rig->stream), "pack");
    bench_wait(rig);
    if (rig->range_count > 0) { /* the first one loads what is loaded once */
        rig->built.seconds += (bench_now_us() - began) * 1e-6;
        rig->built.head_tokens += (uint64_t)b->job_count * b->token_count;
    }
    bench_copy(rig, range->sizes, b->sizes, (size_t)b->job_count * b->cluster_capacity * sizeof *b->sizes);
}

/* One block of device memory for all that the tiles of a range point to. */
static void alloc_range(bench_rig_t *rig, bench_range_t *range)
{
    const lwk_build_t *b = &rig->build;
    uint64_t jobs = b->job_count, entries = rig->entry_slots, at = 0;
    rig->pages_max = lwk_page_refs_max(b->cluster_capacity, b->token_count);
    uint64_t parts[] = {jobs * b->index_stride,
                        jobs * b->cluster_capacity * sizeof(uint16_t),
                        jobs * entries * sizeof(uint32_t),
                        jobs * entries * sizeof(uint32_t),
                        jobs * b->cluster_capacity * sizeof(uint16_t),
                        jobs * b->cluster_capacity * sizeof(uint16_t),
                        jobs * rig->pages_max * sizeof(uint32_t)};
    uint64_t offsets[LW_ARRAY_SIZE(parts)];
    for (size_t i = 0; i < LW_ARRAY_SIZE(parts); i++) {
        offsets[i] = at;
        at += lw_align_up(parts[i], 256);
    }
    range->memory = bench_alloc(rig, LWK_MEMORY_DEVICE, at);
    range->index = range->memory + offsets[0];
    range->sizes = (uint16_t *)(void *)(range->memory + offsets[1]);
    range->place = (uint32_t *)(void *)(range->memory + offsets[2]);
    range->stamp = (uint32_t *)(void *)(range->memory + offsets[3]);
    range->page_base = (uint16_t *)(void *)(range->memory + offsets[4]);
    range->row_base = (uint16_t *)(void *)(range->memory + offsets[5]);
    range->pages = (uint32_t *)(void *)(range->memory + offsets[6]);
}

static void make_tiles(bench_rig_t *rig, bench_range_t *range)
{
    const lwk_build_t *b = &rig->build;
    const bench_config_t *c = &rig->config;
    for (uint32_t j = 0; j < b->job_count; j++) {
        rig->tiles[j] = (lwk_tile_t){.index = range->index + j * b->index_stride,
                                     .sizes = range->sizes + (size_t)j * b->cluster_capacity,
                                     .place = range->place + (size_t)j * rig->entry_slots,
                                     .stamp = range->stamp + (size_t)j * rig->entry_slots,
                                     .page_base = range->page_base + (size_t)j * b->cluster_capacity,
                                     .pages = range->pages + (size_t)j * rig->pages_max,
                                     .local = 1 + (uint64_t)(rig->records[j] - rig->staging),
                                     .row_base = range->row_base + (size_t)j * b->cluster_capacity,
                                     .cluster_count = (uint16_t)b->cluster_count[j],
                                     .outlier_count = (uint16_t)b->outlier_count[j],
                                     .cluster_encoding = (uint8_t)c->cluster_encoding,
                                     .outlier_encoding = (uint8_t)c->outlier_encoding};
        if (lwk_tile_entries(&rig->tiles[j]) > range->slots)
            range->slots = lwk_tile_entries(&rig->tiles[j]);
        if (j < c->shape.kv_head_count) /* layer 0 stands for all */
            rig->index_bytes += lwk_index_layout(c->cluster_encoding, c->outlier_encoding, b->cluster_count[j],
                                                 b->outlier_count[j], c->shape.head_dim)
                                    .bytes;
    }
}

/* Pages that this range takes. */
static void count_pages(const bench_rig_t *rig, uint64_t pages[2])
{
    const lwk_build_t *b = &rig->build;
    pages[0] = pages[1] = 0;
    for (uint32_t j = 0; j < b->job_count; j++) {
        for (uint32_t e = 0; e < b->cluster_count[j]; e++)
            pages[0] += lwk_cluster_pages(b->sizes[(size_t)j * b->cluster_capacity + e]);
        pages[1] += b->outlier_count[j];
    }
}

/* The corrections' moments, over the first ranges (what comes later would hardly change them). */
static void take_moments(bench_rig_t *rig)
{
    const lwk_build_t *b = &rig->build;
    size_t d = b->head_dim, count = 2 + 2 * d * d;
    for (uint32_t j = 0; j < b->job_count; j++) {
        double *total = rig->moment_totals + j * count;
        const double *sums = b->moment_sums + j * count;
        for (size_t k = 0; k < count; k++)
            total[k] += sums[k];
        lwk_moments_header_t *header = (lwk_moments_header_t *)(void *)(rig->moments + j * lwk_moments_bytes((uint32_t)d));
        float *matrices = (float *)(void *)(header + 1);
        *header = (lwk_moments_header_t){.token_count = (uint64_t)total[0],
                                         .mean_residual = (float)(total[1] / (total[0] > 0 ? total[0] : 1))};
        for (size_t k = 0; k < 2 * d * d && total[1] > 0; k++)
            matrices[k] = (float)(total[2 + k] / total[1]);
    }
}

static void publish(bench_rig_t *rig, uint32_t which, bool fresh)
{
    const bench_config_t *c = &rig->config;
    lwk_publish_t args = {.shape = c->shape,
                          .range_capacity = rig->range_capacity,
                          .store = rig->store,
                          .session = &rig->sessions[which],
                          .row = rig->range_count,
                          .entry_slots = rig->ranges[rig->range_count].slots,
                          .tiles = fresh ? rig->tiles : NULL,
                          .token_count = c->range_tokens,
                          .moments = rig->range_count < BENCH_MOMENT_RANGES ? rig->moments : NULL};
    bench_must(rig->backend->publish(rig->dev, &args, rig->stream), "publish");
    bench_wait(rig);
}

static void set_session(bench_rig_t *rig, uint32_t which, uint32_t range_count, uint32_t tokens, uint32_t recent)
{
    lwk_session_t *s = &rig->sessions_host[which];
    s->range_count = range_count;
    s->entry_count = range_count > 0 ? rig->slot_count : 0;
    s->sealed_count = tokens;
    s->token_count = tokens + recent;
    s->error = 0;
    bench_copy(rig, &rig->sessions[which], s, sizeof *s);
}

void bench_reset_session(bench_rig_t *rig, bool bare)
{
    if (bare)
        set_session(rig, BENCH_MEASURED, 0, 0, LW_SINK_TOKENS + LW_RECENT_TOKENS);
    else
        set_session(rig, BENCH_MEASURED, rig->range_count, rig->range_count * rig->config.range_tokens,
                    rig->config.steady_tokens);
}

void bench_rig_grow(bench_rig_t *rig, uint32_t tokens)
{
    while (bench_rig_tokens(rig) < tokens && rig->range_count < rig->range_capacity) {
        bench_range_t *range = &rig->ranges[rig->range_count];
        alloc_range(rig, range);
        build_range(rig, range);
        make_tiles(rig, range);
        uint64_t pages[2];
        count_pages(rig, pages);
        if (!rig->has_pages) /* a tenth more than the first range times the number of ranges */
            create_pages(rig, pages[0] * rig->range_capacity * 11 / 10, pages[1] * rig->range_capacity * 11 / 10);
        if (rig->range_count < BENCH_MOMENT_RANGES)
            take_moments(rig);
        set_session(rig, BENCH_LOADER, 0, 0, rig->config.range_tokens + LW_RECENT_TOKENS);
        publish(rig, BENCH_LOADER, true);
        if (rig->config.cache_ppm == 1000000)
            bench_load_range(rig);
        set_session(rig, BENCH_MEASURED, rig->range_count, bench_rig_tokens(rig),
                    rig->config.range_tokens + rig->config.steady_tokens);
        publish(rig, BENCH_MEASURED, false);
        rig->slot_count += range->slots;
        rig->range_count++;
    }
    bench_reset_session(rig, false);
}

/* ---- forgetting
 * -------------------------------------------------------------------------------------------------- */

static void give_page(uint32_t page, lwk_page_owner_t *owners, uint32_t *list, uint32_t *free_count)
{
    owners[page].tile = UINT32_MAX;
    list[(*free_count)++] = page;
}

void bench_rig_forget(bench_rig_t *rig, uint32_t ppm)
{
    const lwk_build_t *b = &rig->build;
    lwk_store_t store;
    bench_copy(rig, &store, rig->store, sizeof store);
    lwk_page_owner_t *owners[2];
    uint32_t *lists[2];
    for (uint32_t i = 0; i < 2; i++) {
        owners[i] = host_alloc(store.pages[i].count * sizeof *owners[i]);
        lists[i] = host_alloc(store.pages[i].count * sizeof *lists[i]);
        bench_copy(rig, owners[i], store.pages[i].owner, store.pages[i].count * sizeof *owners[i]);
        bench_copy(rig, lists[i], store.pages[i].free_list, store.pages[i].count * sizeof *lists[i]);
    }
    size_t jobs = b->job_count;
    lwk_tile_t *tiles = host_alloc(jobs * sizeof *tiles);
    uint32_t *place = host_alloc(jobs * rig->entry_slots * sizeof *place),
             *pages = host_alloc(jobs * rig->pages_max * sizeof *pages);
    uint16_t *sizes = host_alloc(jobs * b->cluster_capacity * sizeof *sizes);
    lw_prng_t prng;
    lw_prng_seed(&prng, rig->config.seed + ppm);
    for (uint32_t r = 0; r < rig->range_count; r++) {
        const bench_range_t *range = &rig->ranges[r];
        bench_copy(rig, tiles, store.tiles + r * jobs, jobs * sizeof *tiles);
        bench_copy(rig, place, range->place, jobs * rig->entry_slots * sizeof *place);
        bench_copy(rig, pages, range->pages, jobs * rig->pages_max * sizeof *pages);
        bench_copy(rig, sizes, range->sizes, jobs * b->cluster_capacity * sizeof *sizes);
        for (size_t j = 0; j < jobs; j++) {
            uint32_t base = 0;
            for (uint32_t e = 0; e < lwk_tile_entries(&tiles[j]); e++) {
                bool cluster = e < tiles[j].cluster_count;
                uint32_t count = cluster ? lwk_cluster_pages(sizes[j * b->cluster_capacity + e]) : 1, first = base;
                uint32_t *at = &place[j * rig->entry_slots + e];
                base += cluster ? count : 0;
                if (lwk_place_kind(*at) != LWK_PLACE_CACHED || lw_prng_below(&prng, 1000000) >= ppm)
                    continue;
                for (uint32_t k = 0; k < count; k++)
                    give_page(
                              cluster ? pages[j * rig->pages_max + first + k] : lwk_place_number(*at),
                              owners[cluster ? 0 : 1], lists[cluster ? 0 : 1], &store.pages[cluster ? 0 : 1].free_count);
                *at = lwk_place(LWK_PLACE_REMOTE, 0);
            }
        }
        bench_copy(rig, range->place, place, jobs * rig->entry_slots * sizeof *place);
    }
    for (uint32_t i = 0; i < 2; i++) {
        bench_copy(rig, store.pages[i].owner, owners[i], store.pages[i].count * sizeof *owners[i]);
        bench_copy(rig, store.pages[i].free_list, lists[i], store.pages[i].count * sizeof *lists[i]);
        free(owners[i]);
        free(lists[i]);
    }
    bench_copy(rig, rig->store, &store, sizeof store);
    free(tiles);
    free(place);
    free(pages);
    free(sizes);
}

uint32_t bench_rig_tokens(const bench_rig_t *rig)
{
    return rig->range_count * rig->config.range_tokens;
}
bench_build_t bench_rig_build(const bench_rig_t *rig)
{
    return rig->built;
}
uint64_t bench_rig_index_bytes(const bench_rig_t *rig)
{
    return rig->index_bytes;
}
uint64_t bench_rig_device_bytes(const bench_rig_t *rig)
{
    return rig->device_bytes;
}
