/* host.c - see host.h. */
#include "bench/eval/host.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/convert.h"

#define STEADY_ROWS 4096u
#define ROW_BYTES (EVAL_HEAD_DIM * sizeof(uint16_t))
#define PAIR_BYTES (2 * ROW_BYTES)
#define TICKETS 32768u
#define MOMENT_SUMS (2 + 2 * (size_t)EVAL_HEAD_DIM * EVAL_HEAD_DIM)

typedef struct range {
    uint32_t first, count;       /* indexed tokens, sinks excluded */
    lwk_build_t build;           /* its outputs */
    uint64_t *record[EVAL_JOBS]; /* [entries] offset of each record in host->records */
} range_t;

struct eval_host {
    const lwk_backend_t *backend;
    const eval_tensors_t *tensors;
    eval_index_spec_t spec;
    lwk_dev_t *dev;
    lwk_store_t store;
    lwk_session_t session;
    void *scratch_memory;
    lwk_scratch_t scratch;
    range_t ranges[EVAL_RANGES_MAX];
    uint32_t range_count;
    uint8_t *records;  /* [EVAL_JOBS][EVAL_TOKENS] row pairs: the landing */
    lwk_tile_t *tiles; /* [EVAL_JOBS] of the range being published */
    uint64_t *head, *tail, *arrivals;
    uint32_t slot, layer;
    float *out, *lse;
    double build_seconds;
    uint64_t index_bytes;
};

static void must(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "needle_eval: %s failed\n", what);
    exit(1);
}

static void *take(eval_host_t *host, lwk_memory_t kind, size_t bytes)
{
    void *memory = NULL;
    must(host->backend->alloc(host->dev, kind, bytes, &memory) == LW_OK, "allocation");
    return memory;
}

static void *device(eval_host_t *host, size_t bytes)
{
    return take(host, LWK_MEMORY_DEVICE, bytes);
}

static void give(eval_host_t *host, const void *memory)
{
    host->backend->free(host->dev, LWK_MEMORY_DEVICE, (void *)(uintptr_t)memory);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static uint32_t cluster_capacity(const eval_index_spec_t *spec)
{
    uint32_t units = (spec->segment_tokens + LW_UNIT_TOKENS - 1) / LW_UNIT_TOKENS;
    return units * LW_CLUSTERS_PER_UNIT_MAX;
}

static uint32_t outlier_capacity(const eval_index_spec_t *spec)
{
    return (spec->segment_tokens + LW_UNIT_TOKENS - 1) / LW_UNIT_TOKENS * LW_OUTLIERS_PER_UNIT_MAX;
}

/* ---- building ----------------------------------------------------------------------------------- */

static lwk_build_t build_args(eval_host_t *host, const range_t *range)
{
    const eval_index_spec_t *spec = &host->spec;
    lwk_build_t b = {
        .job_count = EVAL_JOBS,
        .token_count = range->count,
        .head_dim = EVAL_HEAD_DIM,
        .dtype = LW_DTYPE_BF16,
        .keys = host->tensors->keys,
        .values = host->tensors->values,
        .job_stride = (uint64_t)EVAL_TOKENS * EVAL_HEAD_DIM,
        .first_row = range->first,
        .ring_rows = EVAL_TOKENS,
        .cluster_tokens = spec->cluster_tokens,
        .outlier_ppm = spec->outlier_ppm,
        .iterations = 10,
        .cluster_encoding = spec->cluster_encoding,
        .outlier_encoding = spec->outlier_encoding,
        .cluster_capacity = cluster_capacity(spec),
        .outlier_capacity = outlier_capacity(spec),
    };
    size_t clusters = (size_t)EVAL_JOBS * b.cluster_capacity;
    b.assign = device(host, (size_t)EVAL_JOBS * b.token_count * sizeof *b.assign);
    b.order = device(host, (size_t)EVAL_JOBS * b.token_count * sizeof *b.order);
    b.sizes = device(host, clusters * sizeof *b.sizes);
    b.parents = device(host, (size_t)EVAL_JOBS * b.outlier_capacity * sizeof *b.parents);
    b.cluster_count = device(host, EVAL_JOBS * sizeof *b.cluster_count);
    b.outlier_count = device(host, EVAL_JOBS * sizeof *b.outlier_count);
    b.centroids = device(host, clusters * EVAL_HEAD_DIM * sizeof *b.centroids);
    b.value_means = device(host, clusters * EVAL_HEAD_DIM * sizeof *b.value_means);
    b.spreads = device(host, clusters * sizeof *b.spreads);
    b.moment_sums = device(host, EVAL_JOBS * MOMENT_SUMS * sizeof *b.moment_sums);
    b.index_stride = lwk_index_layout(b.cluster_encoding, b.outlier_encoding, b.cluster_capacity,
                                      b.outlier_capacity, EVAL_HEAD_DIM)
                         .bytes;
    b.index = device(host, EVAL_JOBS * b.index_stride);
    b.workspace_bytes = host->backend->build_workspace_bytes(&b);
    b.workspace = device(host, b.workspace_bytes);
    return b;
}

static void build_range(eval_host_t *host, range_t *range)
{
    const lwk_backend_t *backend = host->backend;
    uint8_t *records[EVAL_JOBS];
    range->build = build_args(host, range);
    lwk_build_t *b = &range->build;
    for (uint32_t job = 0; job < EVAL_JOBS; job++)
        records[job] = host->records + ((uint64_t)job * EVAL_TOKENS + range->first) * PAIR_BYTES;
    b->records = records;
    double start = seconds();
    must(backend->kmeans(host->dev, b, NULL) == LW_OK, "kmeans");
    must(backend->outliers(host->dev, b, NULL) == LW_OK, "outliers");
    must(backend->moments(host->dev, b, NULL) == LW_OK, "moments");
    must(backend->encode(host->dev, b, NULL) == LW_OK, "encode");
    must(backend->pack(host->dev, b, NULL) == LW_OK, "pack");
    host->build_seconds += seconds() - start;
    b->records = NULL;
    for (uint32_t job = 0; job < EVAL_JOBS; job++) {
        uint32_t clusters = b->cluster_count[job], entries = clusters + b->outlier_count[job];
        uint64_t at = ((uint64_t)job * EVAL_TOKENS + range->first) * PAIR_BYTES;
        range->record[job] = device(host, entries * sizeof(uint64_t));
        for (uint32_t e = 0; e < entries; e++) {
            range->record[job][e] = at;
            at += PAIR_BYTES * (e < clusters ? b->sizes[(size_t)job * b->cluster_capacity + e] : 1);
        }
        host->index_bytes += lwk_index_layout(b->cluster_encoding, b->outlier_encoding, clusters,
                                              entries - clusters, EVAL_HEAD_DIM)
                                 .bytes;
    }
}

static lwk_tile_t make_tile(eval_host_t *host, const range_t *range, uint32_t job)
{
    const lwk_build_t *b = &range->build;
    uint32_t clusters = b->cluster_count[job], entries = clusters + b->outlier_count[job];
    return (lwk_tile_t){
        .index = b->index + job * b->index_stride,
        .sizes = b->sizes + (size_t)job * b->cluster_capacity,
        .place = device(host, entries * sizeof(uint32_t)),
        .stamp = device(host, entries * sizeof(uint32_t)),
        .page_base = device(host, clusters * sizeof(uint16_t)),
        .pages = device(host, lwk_page_refs_max(clusters, b->token_count) * sizeof(uint32_t)),
        .cluster_count = (uint16_t)clusters,
        .outlier_count = (uint16_t)(entries - clusters),
        .cluster_encoding = (uint8_t)b->cluster_encoding,
        .outlier_encoding = (uint8_t)b->outlier_encoding,
    };
}

/* Moments over all ranges built so far. */
static uint8_t *sum_moments(eval_host_t *host)
{
    uint64_t stride = lwk_moments_bytes(EVAL_HEAD_DIM);
    uint8_t *moments = device(host, EVAL_JOBS * stride);
    for (uint32_t job = 0; job < EVAL_JOBS; job++) {
        lwk_moments_header_t *header = (void *)(moments + job * stride);
        float *matrices = (float *)(void *)(header + 1);
        double tokens = 0, squares = 0;
        for (uint32_t r = 0; r < host->range_count; r++) {
            tokens += host->ranges[r].build.moment_sums[job * MOMENT_SUMS];
            squares += host->ranges[r].build.moment_sums[job * MOMENT_SUMS + 1];
        }
        if (!(squares > 0))
            continue;
        header->token_count = (uint64_t)tokens;
        header->mean_residual = (float)(squares / tokens);
        for (size_t k = 0; k < MOMENT_SUMS - 2; k++) {
            double sum = 0;
            for (uint32_t r = 0; r < host->range_count; r++)
                sum += host->ranges[r].build.moment_sums[job * MOMENT_SUMS + 2 + k];
            matrices[k] = (float)(sum / squares);
        }
    }
    return moments;
}

static void publish_range(eval_host_t *host, uint32_t row, uint32_t end)
{
    range_t *range = &host->ranges[row];
    uint8_t *moments = sum_moments(host);
    lwk_publish_t args = {.shape = host->store.shape,
                          .range_capacity = host->store.range_capacity,
                          .store = &host->store,
                          .session = &host->session,
                          .row = row,
                          .tiles = host->tiles,
                          .token_count = end - host->session.sealed_count,
                          .moments = moments};
    for (uint32_t job = 0; job < EVAL_JOBS; job++) {
        host->tiles[job] = make_tile(host, range, job);
        uint32_t entries = (uint32_t)host->tiles[job].cluster_count + host->tiles[job].outlier_count;
        args.entry_slots = entries > args.entry_slots ? entries : args.entry_slots;
    }
    must(host->backend->publish(host->dev, &args, NULL) == LW_OK, "publish");
    give(host, moments);
}

/* ---- a handle ----------------------------------------------------------------------------------- */

static void create_store(eval_host_t *host)
{
    lwk_store_t *store = &host->store;
    store->shape = (lwk_shape_t){.layer_count = EVAL_LAYERS,
                                 .kv_head_count = EVAL_KV_HEADS,
                                 .group = EVAL_GROUP,
                                 .head_dim = EVAL_HEAD_DIM,
                                 .dtype = LW_DTYPE_BF16,
                                 .scale = (float)(1 / sqrt(EVAL_HEAD_DIM))};
    store->tiles = device(host, EVAL_RANGES_MAX * EVAL_JOBS * sizeof(lwk_tile_t));
    store->range_capacity = EVAL_RANGES_MAX;
    store->admit_window = 1;
    store->ticket_capacity = TICKETS;
    store->pages[0].tokens = LWK_PAGE_TOKENS;
    store->pages[1].tokens = 1;
    store->tickets = take(host, LWK_MEMORY_PINNED, TICKETS * sizeof(lwk_ticket_t));
    store->ticket_head = host->head = take(host, LWK_MEMORY_PINNED, 64);
    store->ticket_tail = host->tail = take(host, LWK_MEMORY_PINNED, 64);
    store->arrivals = host->arrivals = take(host, LWK_MEMORY_PINNED, TICKETS * sizeof(uint64_t));
    store->landing = host->records;
    store->counters = take(host, LWK_MEMORY_PINNED, sizeof(lwk_counters_t));
}

static void create_session(eval_host_t *host)
{
    lwk_session_t *session = &host->session;
    session->token_count = host->spec.index_end;
    session->steady_rows = STEADY_ROWS;
    session->ranges = device(host, EVAL_RANGES_MAX * sizeof(lwk_range_ref_t));
    session->sink_keys = device(host, EVAL_JOBS * LW_SINK_TOKENS * ROW_BYTES);
    session->sink_values = device(host, EVAL_JOBS * LW_SINK_TOKENS * ROW_BYTES);
    session->steady_keys = device(host, (size_t)EVAL_JOBS * STEADY_ROWS * ROW_BYTES);
    session->steady_values = device(host, (size_t)EVAL_JOBS * STEADY_ROWS * ROW_BYTES);
    session->moments = device(host, EVAL_JOBS * lwk_moments_bytes(EVAL_HEAD_DIM));
    for (uint32_t job = 0; job < EVAL_JOBS; job++) {
        size_t to = (size_t)job * LW_SINK_TOKENS * EVAL_HEAD_DIM,
               from = (size_t)job * EVAL_TOKENS * EVAL_HEAD_DIM;
        memcpy((uint16_t *)session->sink_keys + to, host->tensors->keys + from, LW_SINK_TOKENS * ROW_BYTES);
        memcpy((uint16_t *)session->sink_values + to, host->tensors->values + from,
               LW_SINK_TOKENS * ROW_BYTES);
    }
}

static void create_scratch(eval_host_t *host)
{
    const eval_index_spec_t *spec = &host->spec;
    uint32_t entries = EVAL_RANGES_MAX * (cluster_capacity(spec) + outlier_capacity(spec));
    lwk_dims_t dims = {.shape = host->store.shape,
                       .session_count = 1,
                       .query_tokens = 1,
                       .entry_capacity = entries,
                       .range_list_capacity = EVAL_RANGES_MAX,
                       .item_capacity = entries,
                       .steady_rows = STEADY_ROWS};
    uint64_t workspace = host->backend->workspace_bytes(&dims);
    must(host->backend->warm_up(host->dev, &dims) == LW_OK, "warm-up");
    host->scratch_memory = device(host, lwk_scratch_bytes(&dims, workspace));
    host->scratch = lwk_scratch_carve(&dims, host->scratch_memory, workspace);
    host->out = device(host, EVAL_HEADS * EVAL_HEAD_DIM * sizeof *host->out);
    host->lse = device(host, EVAL_HEADS * sizeof *host->lse);
}

eval_host_t *eval_host_create(const lwk_backend_t *backend, const eval_tensors_t *tensors,
                              const eval_index_spec_t *spec)
{
    eval_host_t *host = calloc(1, sizeof *host);
    must(host != NULL, "allocation");
    host->backend = backend;
    host->tensors = tensors;
    host->spec = *spec;
    must(backend->open(0, &host->dev, NULL) == LW_OK, "open");
    host->records = device(host, (size_t)EVAL_JOBS * EVAL_TOKENS * PAIR_BYTES);
    host->tiles = device(host, EVAL_JOBS * sizeof *host->tiles);
    create_store(host);
    create_session(host);
    create_scratch(host);
    for (uint32_t first = 0; first < spec->index_end; first += spec->segment_tokens) {
        uint32_t end =
            first + spec->segment_tokens < spec->index_end ? first + spec->segment_tokens : spec->index_end;
        uint32_t row = host->range_count++;
        must(row < EVAL_RANGES_MAX, "number of segments");
        host->ranges[row].first = first == 0 ? LW_SINK_TOKENS : first;
        host->ranges[row].count = end - host->ranges[row].first;
        build_range(host, &host->ranges[row]);
        publish_range(host, row, end);
    }
    return host;
}

static void destroy_range(eval_host_t *host, uint32_t row)
{
    const lwk_build_t *b = &host->ranges[row].build;
    const void *parts[] = {b->assign,        b->order,         b->sizes,     b->parents,
                           b->cluster_count, b->outlier_count, b->centroids, b->value_means,
                           b->spreads,       b->moment_sums,   b->index,     b->workspace};
    for (size_t i = 0; i < LW_ARRAY_SIZE(parts); i++)
        give(host, parts[i]);
    for (uint32_t job = 0; job < EVAL_JOBS; job++) {
        const lwk_tile_t *tile = &host->store.tiles[row * EVAL_JOBS + job];
        give(host, host->ranges[row].record[job]);
        give(host, tile->place);
        give(host, tile->stamp);
        give(host, tile->page_base);
        give(host, tile->pages);
    }
}

void eval_host_destroy(eval_host_t *host)
{
    const lwk_session_t *session = &host->session;
    const lwk_store_t *store = &host->store;
    for (uint32_t row = 0; row < host->range_count; row++)
        destroy_range(host, row);
    const void *parts[] = {session->ranges,
                           session->sink_keys,
                           session->sink_values,
                           session->steady_keys,
                           session->steady_values,
                           session->moments,
                           host->scratch_memory,
                           host->out,
                           host->lse,
                           host->records,
                           host->tiles,
                           store->tiles};
    const void *pinned[] = {store->tickets, host->head, host->tail, host->arrivals, store->counters};
    for (size_t i = 0; i < LW_ARRAY_SIZE(parts); i++)
        give(host, parts[i]);
    for (size_t i = 0; i < LW_ARRAY_SIZE(pinned); i++)
        host->backend->free(host->dev, LWK_MEMORY_PINNED, (void *)(uintptr_t)pinned[i]);
    host->backend->close(host->dev);
    free(host);
}

double eval_host_index_bytes(const eval_host_t *host)
{
    return (double)host->index_bytes / ((double)EVAL_JOBS * (host->spec.index_end - LW_SINK_TOKENS));
}

double eval_host_build_seconds(const eval_host_t *host)
{
    return host->build_seconds;
}

uint32_t eval_host_entries(const eval_host_t *host)
{
    uint32_t sum = 0;
    for (uint32_t r = 0; r < host->range_count; r++)
        for (uint32_t job = 0; job < EVAL_JOBS; job++)
            sum += host->ranges[r].build.cluster_count[job] + host->ranges[r].build.outlier_count[job];
    return sum / EVAL_JOBS;
}

/* ---- steps -------------------------------------------------------------------------------------- */

void eval_host_begin(eval_host_t *host, const eval_zone_t *zone, const lwk_policy_t *policy, uint32_t query)
{
    lwk_session_t *session = &host->session;
    uint32_t first = eval_recent_first(zone, query),
             count = eval_position(query) - first; /* the step brings the last one */
    session->policy = *policy;
    session->token_count = session->sealed_count + count;
    for (uint32_t job = 0; job < EVAL_JOBS; job++)
        for (uint32_t i = 0; i < count; i++) {
            size_t to =
                ((size_t)job * STEADY_ROWS + (session->sealed_count + i) % STEADY_ROWS) * EVAL_HEAD_DIM;
            size_t from = ((size_t)job * EVAL_TOKENS + first + i) * EVAL_HEAD_DIM;
            memcpy((uint16_t *)session->steady_keys + to, host->tensors->keys + from, ROW_BYTES);
            memcpy((uint16_t *)session->steady_values + to, host->tensors->values + from, ROW_BYTES);
        }
}

/* Where the ticket's record already lies is where it "landed". */
static void answer_tickets(eval_host_t *host)
{
    for (uint64_t t = *host->tail; t < *host->head; t++) {
        const lwk_ticket_t *ticket = &host->store.tickets[t % TICKETS];
        uint64_t at =
            host->ranges[ticket->row].record[ticket->layer * EVAL_KV_HEADS + ticket->head][ticket->entry];
        host->arrivals[t % TICKETS] = lwk_arrival(t, (uint32_t)(at / LWK_LANDING_UNIT));
    }
}

eval_step_t eval_host_layer(eval_host_t *host, uint32_t query, uint32_t layer)
{
    const lwk_backend_t *backend = host->backend;
    const eval_tensors_t *tensors = host->tensors;
    size_t row = eval_row(layer, 0, eval_position(query));
    int64_t head = (int64_t)EVAL_TOKENS * EVAL_HEAD_DIM;
    lwk_step_t step = {
        .shape = host->store.shape,
        .layer = layer,
        .session_count = 1,
        .query_tokens = 1,
        .store = &host->store,
        .sessions = &host->session,
        .slots = &host->slot,
        .scratch = host->scratch,
        .query = {tensors->queries + eval_query(layer, query, 0), 0, 0, EVAL_HEAD_DIM},
        .key = {tensors->keys + row, 0, 0, head},
        .value = {tensors->values + row, 0, 0, head},
        .out_fp32 = host->out,
        .lse_out = host->lse,
        .wait_us = 1000,
    };
    must(backend->prepare(host->dev, &step, NULL) == LW_OK, "prepare");
    must(backend->score(host->dev, &step, NULL) == LW_OK, "score");
    must(backend->select(host->dev, &step, NULL) == LW_OK, "select");
    answer_tickets(host);
    must(backend->attend(host->dev, &step, NULL) == LW_OK, "attend");
    must(backend->finish(host->dev, &step, NULL) == LW_OK, "finish");
    if (layer + 1 == EVAL_LAYERS)
        must(backend->admit(host->dev, &step, NULL) == LW_OK, "admit");
    must(host->session.error == LW_OK, "step");
    host->layer = layer;
    return (eval_step_t){host->out, host->lse};
}

uint32_t eval_host_retrieved(const eval_host_t *host, uint32_t kv_head, uint32_t *tokens_out,
                             uint32_t *entries_out)
{
    const lwk_item_t *items = host->scratch.items + (size_t)kv_head * host->scratch.item_capacity;
    uint32_t job = host->layer * EVAL_KV_HEADS + kv_head, count = 0;
    for (uint32_t i = 0; i < host->scratch.item_count[kv_head]; i++) {
        const range_t *range = &host->ranges[items[i].range];
        uint64_t first =
            range->record[job][items[i].entry] / PAIR_BYTES - (uint64_t)job * EVAL_TOKENS - range->first;
        const uint32_t *order = range->build.order + (size_t)job * range->count + first;
        for (uint32_t k = 0; k < items[i].size; k++)
            tokens_out[count++] = range->first + order[k];
    }
    *entries_out = host->scratch.item_count[kv_head];
    return count;
}
