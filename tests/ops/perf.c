/* perf.c - how long each step op takes when everything is cached, beside the time that one core needs to read
 * its bytes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/cpu.h"
#include "kernels/view.h"
#include "ops/harness_private.h"
#include "ops/test_ops.h"

/* Time of this thread on a core: on a shared machine the other processes' turns would drown what is measured.
 * A backend that works elsewhere would need a clock on the wall. */
static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

#define STREAM_BYTES (256u << 20)

/* Bytes a microsecond of a plain read over memory that no cache holds: the best of five. */
static double read_rate(void)
{
    static double rate;
    typedef uint64_t lane_t __attribute__((vector_size(64)));
    if (rate > 0)
        return rate;
    lane_t *memory = NULL, sum = {0};
    ops_must(posix_memalign((void **)&memory, 2u << 20, STREAM_BYTES) == 0, "memory");
    memset(memory, 1, STREAM_BYTES);
    for (int round = 0; round < 5; round++) {
        double begin = now_us();
        lane_t a = {0}, b = {0}, c = {0}, d = {0};
        for (size_t i = 0; i < STREAM_BYTES / sizeof(lane_t); i += 4) {
            a ^= memory[i];
            b ^= memory[i + 1];
            c ^= memory[i + 2];
            d ^= memory[i + 3];
        }
        sum ^= a ^ b ^ c ^ d;
        double rate_now = STREAM_BYTES / (now_us() - begin);
        rate = rate_now > rate ? rate_now : rate;
    }
    volatile uint64_t kept = sum[0];
    (void)kept;
    free(memory);
    return rate;
}

typedef struct perf_row {
    const char *name;
    uint32_t layers, kv_heads, group, head_dim, tokens, sealed, retrieve_ppm;
} perf_row_t;

static const perf_row_t rows[] = {
    {"smollm2-6.5K", 4, 3, 3, 64, 6600, 5536, 18000},
    {"smollm2-6.5K-fresh", 4, 3, 3, 64, 6600, 6500, 18000},
    {"llama8b-16K", 1, 8, 4, 128, 16500, 16384, 18000},
};

enum { PREPARE, SCORE, SELECT, ATTEND, FINISH, OPS };
static const char *const op_names[OPS] = {"prepare", "score", "select", "attend", "finish"};

/* LW_ROUNDS: more of them for a profiler. */
static int perf_rounds(void)
{
    const char *text = getenv("LW_ROUNDS");
    return text != NULL ? atoi(text) : 12;
}

static ops_rig_t *open_perf(const perf_row_t *row, const lwk_backend_t *backend, uint64_t seed)
{
    ops_config_t config = {.backend = backend,
                           .seed = seed,
                           .shape = {.layer_count = row->layers,
                                     .kv_head_count = row->kv_heads,
                                     .group = row->group,
                                     .head_dim = row->head_dim,
                                     .dtype = LW_DTYPE_BF16},
                           .token_count = row->tokens + 64,
                           .cluster_encoding = LW_ENCODING_INT8,
                           .outlier_encoding = LW_ENCODING_INT4,
                           .outlier_ppm = 125000,
                           .clustering = OPS_CLUSTER_KMEANS,
                           .data = OPS_DATA_SYNTH,
                           .policy = ops_policy(),
                           .item_capacity = 4096,
                           .admit_window = 0,
                           .ticket_capacity = 1u << 17};
    config.policy.retrieve_ppm = row->retrieve_ppm;
    ops_rig_t *rig = ops_rig_create(&config);
    ops_fill(rig, 0, row->tokens);
    for (uint32_t done = 0; done < row->sealed;) {
        uint32_t left = row->sealed - done,
                 count = left < LW_SEGMENT_TOKENS_MAX ? left : LW_SEGMENT_TOKENS_MAX;
        (void)ops_seal(rig, 0, count);
        done += count;
    }
    ops_fill(rig, 0, row->tokens);
    return rig;
}

/* Bytes of one layer that must be read: index, steady zone, retrieved rows. */
static double bytes_of(ops_rig_t *rig, uint64_t retrieved_tokens, double *index_out)
{
    const lwk_shape_t *shape = &rig->config.shape;
    double index = 0, pair = 2.0 * (double)lwk_row_bytes(shape);
    lwk_session_t session = ops_session(rig, 0);
    for (uint32_t r = 0; r < rig->range_count; r++)
        for (uint32_t head = 0; head < shape->kv_head_count; head++)
            index += rig->ranges[r].parts[head].index_bytes;
    *index_out = index;
    return index +
           pair * (shape->kv_head_count * (double)lwk_steady_count(&session) + (double)retrieved_tokens);
}

static void time_steps(const ops_variant_t *variant, const perf_row_t *row, ops_rig_t *rig)
{
    const lwk_backend_t *b = rig->backend;
    double best[OPS], total = INFINITY, spent[OPS];
    uint64_t retrieved = 0, hits = 0, entries = 0;
    for (int op = 0; op < OPS; op++)
        best[op] = INFINITY;
    float **queries = ops_host(row->layers * sizeof *queries);
    size_t query_bytes = (size_t)lwk_query_heads(&rig->config.shape) * row->head_dim * sizeof(float);
    for (uint32_t layer = 0; layer < row->layers; layer++) {
        ops_query(rig, layer);
        queries[layer] = ops_host(query_bytes);
        memcpy(queries[layer], rig->query_host, query_bytes);
    }
    for (int round = 0; round < perf_rounds();
         round++) { /* the same questions: after the first round everything is a hit */
        double sum[OPS] = {0}, all = 0;
        lwk_counters_t before = *rig->counters;
        for (uint32_t layer = 0; layer < row->layers; layer++) {
            memcpy(rig->query_host, queries[layer], query_bytes);
            ops_load_step(rig, layer);
            lwk_step_t step = ops_step_args(rig, layer);
            lw_status_t status[OPS];
            double at = now_us(), next;
#define TIMED(op, call)    \
    status[op] = call;     \
    next = now_us();       \
    spent[op] = next - at; \
    at = next
            TIMED(PREPARE, b->prepare(rig->dev, &step, NULL));
            TIMED(SCORE, b->score(rig->dev, &step, NULL));
            TIMED(SELECT, b->select(rig->dev, &step, NULL));
            ops_answer(rig);
            at = now_us();
            TIMED(ATTEND, b->attend(rig->dev, &step, NULL));
            TIMED(FINISH, b->finish(rig->dev, &step, NULL));
            for (int op = 0; op < OPS; op++) {
                ops_must(status[op] == LW_OK, op_names[op]);
                sum[op] += spent[op];
                all += spent[op];
            }
        }
        ops_must(ops_admit(rig) == LW_OK, "admit");
        for (int op = 0; op < OPS; op++)
            best[op] = fmin(best[op], sum[op] / row->layers);
        total = fmin(total, all / row->layers);
        retrieved = (rig->counters->tokens_retrieved - before.tokens_retrieved) / row->layers;
        entries = (rig->counters->entries_retrieved - before.entries_retrieved) / row->layers;
        hits = (rig->counters->hits - before.hits) / row->layers;
    }
    double index, bytes = bytes_of(rig, retrieved, &index);
    printf("%-11s %-20s us/layer:", variant->name, row->name);
    for (int op = 0; op < OPS; op++)
        printf(" %s %.1f", op_names[op], best[op]);
    printf(" | all %.1f; %.0f KB (index %.0f) = %.2f GB/s, floor %.1f us at %.1f GB/s; %llu entries, %llu "
           "tokens, %llu hits\n",
           total, bytes / 1e3, index / 1e3, bytes / total / 1e3, bytes / read_rate(), read_rate() / 1e3,
           (unsigned long long)entries, (unsigned long long)retrieved, (unsigned long long)hits);
    fflush(stdout);
    for (uint32_t layer = 0; layer < row->layers; layer++)
        free(queries[layer]);
    free(queries);
}

/* Attention of one token's query heads over rows that no cache holds. */
static void time_rows(const ops_variant_t *variant, const lwk_backend_t *backend, uint32_t dtype, uint32_t d,
                      uint32_t group, uint32_t tokens, uint32_t queries)
{
    lwk_shape_t shape = {.layer_count = 1,
                         .kv_head_count = 1,
                         .group = group,
                         .head_dim = d,
                         .dtype = dtype,
                         .scale = 1.0f / sqrtf((float)d)};
    size_t e = lwk_dtype_bytes(dtype), bytes = (size_t)tokens * d * e, heads = (size_t)queries * group;
    lwk_dev_t *dev = NULL;
    ops_must(backend->open(0, &dev, NULL) == LW_OK, "open");
    void *memory[7];
    size_t sizes[7] = {
        bytes, bytes, heads * d * e, heads * d * e, heads * sizeof(lwk_partial_t), heads * d * sizeof(float),
        64};
    for (int i = 0; i < 7; i++)
        ops_must(backend->alloc(dev, LWK_MEMORY_DEVICE, sizes[i], &memory[i]) == LW_OK, "alloc");
    uint16_t *half = ops_host(bytes);
    for (size_t i = 0; i < bytes / 2; i++)
        half[i] = (uint16_t)(0x3C00 + i * 7 % 512); /* ordinary numbers in both 16-bit formats, and in fp32 */
    ops_must(backend->copy(dev, memory[0], half, bytes, NULL) == LW_OK, "copy");
    ops_must(backend->copy(dev, memory[1], half, bytes, NULL) == LW_OK, "copy");
    ops_must(backend->copy(dev, memory[2], half, sizes[2], NULL) == LW_OK, "copy");
    double best = INFINITY;
    for (int round = 0; round < (tokens < 5000 && queries == 1 ? 200 : 5); round++) {
        lwk_extend_t args = {.shape = &shape,
                             .query_tokens = queries,
                             .query = {memory[2], 0, (int64_t)group * d, d},
                             .rows = {memory[0], memory[1], 0, d, tokens, 0},
                             .head_count = 1,
                             .first = 1,
                             .partial = memory[4],
                             .partial_out = memory[5],
                             .out = {memory[3], 0, (int64_t)group * d, d}};
        double begin = now_us();
        ops_must(backend->extend(dev, &args, NULL) == LW_OK, "extend");
        best = fmin(best, now_us() - begin);
    }
    printf("%-11s rows-%s d=%u G=%u T=%u n=%u: %.0f us, %.2f GB/s = %.0f%% of one core's read rate, %.1f "
           "GFLOP/s\n",
           variant->name, ops_dtype_name(dtype), d, group, queries, tokens, best,
           2.0 * (double)bytes / best / 1e3, 100 * 2.0 * (double)bytes / best / read_rate(),
           4.0 * (double)tokens * d * (double)heads / best / 1e3);
    for (int i = 0; i < 7; i++)
        backend->free(dev, LWK_MEMORY_DEVICE, memory[i]);
    free(half);
    backend->close(dev);
}

void ops_perf(const ops_variant_t *variant, const lwk_backend_t *backend, uint64_t seed, const char *filter)
{
    for (size_t i = 0; i < LW_ARRAY_SIZE(rows); i++) {
        char name[96];
        snprintf(name, sizeof name, "%s %s", variant->name, rows[i].name);
        if (strstr(name, filter) == NULL || (filter[0] == '\0' && strcmp(variant->name, "ref") == 0))
            continue; /* the reference only when asked for */
        ops_rig_t *rig = open_perf(&rows[i], backend, seed);
        time_steps(variant, &rows[i], rig);
        ops_rig_destroy(rig);
    }
    const struct {
        uint32_t dtype, d, group, tokens, queries;
    } streams[] = {{LW_DTYPE_BF16, 128, 4, 1024, 1},     {LW_DTYPE_BF16, 64, 3, 2048, 1},
                   {LW_DTYPE_BF16, 128, 4, 1u << 18, 1}, {LW_DTYPE_BF16, 64, 3, 1u << 18, 1},
                   {LW_DTYPE_BF16, 128, 1, 1u << 18, 1}, {LW_DTYPE_FP16, 128, 4, 1u << 17, 1},
                   {LW_DTYPE_FP32, 128, 4, 1u << 17, 1}, {LW_DTYPE_BF16, 64, 3, 4096, 512},
                   {LW_DTYPE_BF16, 128, 4, 4096, 256}};
    for (size_t i = 0; i < LW_ARRAY_SIZE(streams); i++) {
        char name[96];
        snprintf(name, sizeof name, "%s rows-%s", variant->name, ops_dtype_name(streams[i].dtype));
        if (strstr(name, filter) == NULL || strcmp(variant->name, "ref") == 0)
            continue;
        time_rows(variant, backend, streams[i].dtype, streams[i].d, streams[i].group, streams[i].tokens,
                  streams[i].queries);
    }
}
