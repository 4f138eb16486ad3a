/* perf_build.c - how long an index build and extend take on a backend, in the shape of Llama-3-8B: 128K
 * tokens are 16 segments of 8,192 for each of 32 layers x 8 KV heads.
 *
 *   perf_build [backend] [jobs ...]     default: cuda 8 64
 *
 * Every build is made twice and must give the same bits, every token must lie in one place, clusters must be
 * as tight as those of the cpu backend, records must unpack to the rows; exits 1 otherwise. Times are on the
 * wall, of ROUNDS calls in a row: launches are hidden where the backend is asynchronous, as they are in a
 * keeper's thread. */
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/prng.h"
#include "kernels/view.h"
#include "ops/harness_private.h"

#define TOKENS LW_SEGMENT_TOKENS_MAX
#define HEAD_DIM 128u
#define ROUNDS 5
#define ALL_JOBS 4096.0 /* 16 segments, 32 layers, 8 heads */
#define CLUSTERS_MAX (LW_SEGMENT_UNITS_MAX * LW_CLUSTERS_PER_UNIT_MAX)
#define OUTLIERS_MAX (LW_SEGMENT_UNITS_MAX * LW_OUTLIERS_PER_UNIT_MAX)
#define DISTINCT 8u /* jobs of data that differ; more jobs repeat them */

static const lwk_backend_t *backend;
static lwk_dev_t *dev;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *get(lwk_memory_t kind, size_t bytes)
{
    void *ptr = NULL;
    ops_must(backend->alloc(dev, kind, bytes, &ptr) == LW_OK, "alloc");
    return ptr;
}

/* Topics with noise, a large mean, a loud channel. */
static void fill(uint16_t *rows, uint64_t seed)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    float *topic = ops_host(256 * HEAD_DIM * sizeof *topic);
    for (size_t i = 0; i < 256 * HEAD_DIM; i++)
        topic[i] = ops_gauss(&prng);
    for (size_t t = 0; t < TOKENS; t++) {
        const float *of = topic + lw_prng_below(&prng, 256) * HEAD_DIM;
        for (size_t j = 0; j < HEAD_DIM; j++)
            rows[t * HEAD_DIM + j] =
                lwk_f32_to_bf16(of[j] + 0.8f * ops_gauss(&prng) + (j % 61 == 7 ? 9.0f : 0.5f));
    }
    free(topic);
}

typedef struct build_memory {
    lwk_build_t args;
    uint8_t **records;
    uint8_t *record_bytes;
} build_memory_t;

static build_memory_t make(uint32_t jobs)
{
    build_memory_t m = {.args = {.job_count = jobs,
                                 .token_count = TOKENS,
                                 .head_dim = HEAD_DIM,
                                 .dtype = LW_DTYPE_BF16,
                                 .job_stride = (uint64_t)TOKENS * HEAD_DIM,
                                 .ring_rows = TOKENS,
                                 .cluster_tokens = 16,
                                 .outlier_ppm = 125000,
                                 .iterations = 10,
                                 .cluster_encoding = LW_ENCODING_INT8,
                                 .outlier_encoding = LW_ENCODING_INT4,
                                 .cluster_capacity = CLUSTERS_MAX,
                                 .outlier_capacity = OUTLIERS_MAX}};
    lwk_build_t *args = &m.args;
    size_t bytes = (size_t)TOKENS * HEAD_DIM * 2, clusters = (size_t)jobs * CLUSTERS_MAX;
    uint8_t *keys = get(LWK_MEMORY_DEVICE, jobs * bytes), *values = get(LWK_MEMORY_DEVICE, jobs * bytes);
    uint16_t *host = ops_host(bytes);
    for (uint32_t job = 0; job < jobs; job++)
        for (uint32_t which = 0; which < 2; which++) {
            uint8_t *to = which == 0 ? keys : values;
            if (job < DISTINCT)
                fill(host, 2 * job + which);
            ops_must(backend->copy(dev, to + job * bytes,
                                   job < DISTINCT ? (uint8_t *)host : to + job % DISTINCT * bytes, bytes,
                                   NULL) == LW_OK,
                     "copy");
            ops_wait(backend, dev);
        }
    free(host);
    args->keys = keys;
    args->values = values;
    args->assign = get(LWK_MEMORY_DEVICE, (size_t)jobs * TOKENS * sizeof(uint16_t));
    args->order = get(LWK_MEMORY_DEVICE, (size_t)jobs * TOKENS * sizeof(uint32_t));
    args->centroids = get(LWK_MEMORY_DEVICE, clusters * HEAD_DIM * sizeof(float));
    args->value_means = get(LWK_MEMORY_DEVICE, clusters * HEAD_DIM * sizeof(float));
    args->spreads = get(LWK_MEMORY_DEVICE, clusters * sizeof(float));
    args->index_stride =
        lwk_index_layout(args->cluster_encoding, args->outlier_encoding, CLUSTERS_MAX, OUTLIERS_MAX, HEAD_DIM)
            .bytes;
    args->index = get(LWK_MEMORY_DEVICE, jobs * args->index_stride);
    args->workspace_bytes = backend->build_workspace_bytes(args);
    args->workspace = get(LWK_MEMORY_DEVICE, args->workspace_bytes);
    args->sizes = get(LWK_MEMORY_PINNED, clusters * sizeof(uint16_t));
    args->parents = get(LWK_MEMORY_PINNED, (size_t)jobs * OUTLIERS_MAX * sizeof(uint16_t));
    args->cluster_count = get(LWK_MEMORY_PINNED, jobs * sizeof(uint32_t));
    args->outlier_count = get(LWK_MEMORY_PINNED, jobs * sizeof(uint32_t));
    args->moment_sums = get(LWK_MEMORY_PINNED, jobs * (2 + 2 * (size_t)HEAD_DIM * HEAD_DIM) * sizeof(double));
    m.records = get(LWK_MEMORY_PINNED, jobs * sizeof *m.records);
    m.record_bytes = get(LWK_MEMORY_PINNED, jobs * 2 * bytes);
    for (uint32_t job = 0; job < jobs; job++)
        m.records[job] = m.record_bytes + job * 2 * bytes;
    args->records = m.records;
    return m;
}

static void drop(build_memory_t *m)
{
    lwk_build_t *args = &m->args;
    void *device[] = {(void *)(uintptr_t)args->keys,
                      (void *)(uintptr_t)args->values,
                      args->assign,
                      args->order,
                      args->centroids,
                      args->value_means,
                      args->spreads,
                      args->index,
                      args->workspace};
    void *pinned[] = {args->sizes,       args->parents, args->cluster_count, args->outlier_count,
                      args->moment_sums, m->records,    m->record_bytes};
    for (size_t i = 0; i < LW_ARRAY_SIZE(device); i++)
        backend->free(dev, LWK_MEMORY_DEVICE, device[i]);
    for (size_t i = 0; i < LW_ARRAY_SIZE(pinned); i++)
        backend->free(dev, LWK_MEMORY_PINNED, pinned[i]);
}

/* A sum over everything that a build gives; that bits move shows. */
static uint64_t digest(const build_memory_t *m)
{
    const lwk_build_t *args = &m->args;
    const struct {
        const void *at;
        size_t bytes;
    } parts[] = {
        {args->assign, (size_t)args->job_count * TOKENS * 2},
        {args->order, (size_t)args->job_count * TOKENS * 4},
        {args->index, lwk_index_layout(args->cluster_encoding, args->outlier_encoding, args->cluster_count[0],
                                       args->outlier_count[0], HEAD_DIM)
                          .bytes},
        {args->moment_sums, args->job_count * (2 + 2 * (size_t)HEAD_DIM * HEAD_DIM) * sizeof(double)},
        {m->record_bytes, (size_t)args->job_count * TOKENS * HEAD_DIM * 4}};
    uint64_t sum = 0;
    for (size_t p = 0; p < LW_ARRAY_SIZE(parts); p++) {
        uint8_t *host = ops_host(parts[p].bytes);
        ops_must(backend->copy(dev, host, parts[p].at, parts[p].bytes, NULL) == LW_OK, "copy");
        ops_wait(backend, dev);
        for (size_t i = 0; i + 8 <= parts[p].bytes; i += 8) {
            uint64_t word;
            memcpy(&word, host + i, 8);
            sum = (sum ^ word) * 0x9E3779B97F4A7C15ull;
            sum ^= sum >> 29;
        }
        free(host);
    }
    return sum;
}

static int conserves(const build_memory_t *m)
{
    for (uint32_t job = 0; job < m->args.job_count; job++) {
        uint32_t sum = m->args.outlier_count[job];
        for (uint32_t c = 0; c < m->args.cluster_count[job]; c++)
            sum += m->args.sizes[(size_t)job * CLUSTERS_MAX + c];
        if (sum != TOKENS)
            return 0;
    }
    return 1;
}

static void *host_copy(const void *from, size_t bytes)
{
    void *host = ops_host(bytes);
    ops_must(backend->copy(dev, host, from, bytes, NULL) == LW_OK, "copy");
    ops_wait(backend, dev);
    return host;
}

static double objective(const uint16_t *keys, const uint16_t *assign, const float *centroids)
{
    double sum = 0;
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t j = 0; j < HEAD_DIM; j++) {
            double gap =
                lwk_bf16_to_f32(keys[t * HEAD_DIM + j]) - (double)centroids[assign[t] * HEAD_DIM + j];
            sum += gap * gap;
        }
    return sum;
}

/* k-means of job 0 against the cpu backend's: the sums of squares may differ by one in a thousand. */
static int clusters_as_well(const build_memory_t *m)
{
    const lwk_backend_t *cpu = lwk_backend_find("cpu");
    lwk_build_t args = m->args;
    uint16_t *keys = host_copy(args.keys, (size_t)TOKENS * HEAD_DIM * 2);
    uint16_t *assign = host_copy(args.assign, TOKENS * 2);
    float *centroids = host_copy(args.centroids, (size_t)CLUSTERS_MAX * HEAD_DIM * sizeof(float));
    uint32_t clusters, outliers;
    double ours = objective(keys, assign, centroids);
    args.job_count = 1;
    args.keys = args.values = keys;
    args.assign = assign;
    args.centroids = centroids;
    args.sizes = ops_host(CLUSTERS_MAX * sizeof(uint16_t));
    args.cluster_count = &clusters;
    args.outlier_count = &outliers;
    args.workspace_bytes = cpu->build_workspace_bytes(&args);
    args.workspace = ops_host(args.workspace_bytes);
    ops_must(cpu->kmeans(NULL, &args, NULL) == LW_OK, "kmeans on cpu");
    double theirs = objective(keys, assign, centroids);
    printf("objective %s / cpu - 1: %+.2g\n", backend->name, ours / theirs - 1);
    void *all[] = {keys, assign, centroids, args.sizes, args.workspace};
    for (size_t i = 0; i < LW_ARRAY_SIZE(all); i++)
        free(all[i]);
    return fabs(ours / theirs - 1) < 1e-3;
}

/* The trace of the moments is what the spreads add up to; records of the last job come back as its rows. */
static int agrees(const build_memory_t *m)
{
    const lwk_build_t *args = &m->args;
    const uint32_t job = args->job_count - 1;
    const size_t bytes = (size_t)TOKENS * HEAD_DIM * 2, first = (size_t)job * CLUSTERS_MAX;
    float *spreads = host_copy(args->spreads + first, CLUSTERS_MAX * sizeof(float));
    double sum = 0, trace = args->moment_sums[job * (2 + 2 * (size_t)HEAD_DIM * HEAD_DIM) + 1];
    for (uint32_t c = 0; c < args->cluster_count[job]; c++)
        sum += (double)spreads[c] * args->sizes[first + c];
    free(spreads);
    uint32_t *order = get(LWK_MEMORY_PINNED, TOKENS * sizeof *order);
    uint8_t *rows[2] = {get(LWK_MEMORY_DEVICE, bytes), get(LWK_MEMORY_DEVICE, bytes)};
    ops_must(backend->copy(dev, order, args->order + (size_t)job * TOKENS, TOKENS * sizeof *order, NULL) ==
                 LW_OK,
             "copy");
    ops_wait(backend, dev);
    lwk_unpack_t unpack = {.head_dim = HEAD_DIM,
                           .dtype = LW_DTYPE_BF16,
                           .cluster_count = args->cluster_count[job],
                           .outlier_count = args->outlier_count[job],
                           .token_count = TOKENS,
                           .sizes = args->sizes + first,
                           .order = order,
                           .records = m->records[job],
                           .keys = rows[0],
                           .values = rows[1]};
    ops_must(backend->unpack(dev, &unpack, NULL) == LW_OK, "unpack");
    ops_wait(backend, dev);
    int same = 1;
    for (int which = 0; which < 2; which++) {
        const uint8_t *from = which == 0 ? args->keys : args->values;
        void *got = host_copy(rows[which], bytes), *want = host_copy(from + job * bytes, bytes);
        same &= memcmp(got, want, bytes) == 0;
        free(got);
        free(want);
        backend->free(dev, LWK_MEMORY_DEVICE, rows[which]);
    }
    backend->free(dev, LWK_MEMORY_PINNED, order);
    printf("trace / spreads - 1: %+.2g; unpacked rows %s\n", trace / sum - 1, same ? "equal" : "DIFFER");
    return same && fabs(trace / sum - 1) < 1e-4;
}

typedef lw_status_t (*op_t)(lwk_dev_t *, const lwk_build_t *, void *);

static int time_build(uint32_t jobs)
{
    static const char *const names[] = {"kmeans", "outliers", "moments", "encode", "pack"};
    const op_t ops[] = {backend->kmeans, backend->outliers, backend->moments, backend->encode, backend->pack};
    build_memory_t m = make(jobs);
    uint64_t first = 0;
    double total = 0;
    int failed = 0;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < LW_ARRAY_SIZE(ops); i++) {
            ops_must(ops[i](dev, &m.args, NULL) == LW_OK, names[i]);
            ops_wait(backend, dev);
            if (i == 0 && round == 0 && !clusters_as_well(&m))
                failed = 1, printf("FAIL: the clusters are worse than cpu's\n");
        }
        uint64_t sum = digest(&m);
        if (round == 0)
            first = sum;
        else if (sum != first)
            failed = 1, printf("FAIL: two builds of the same keys differ\n");
    }
    if (!conserves(&m))
        failed = 1, printf("FAIL: tokens are lost or doubled\n");
    if (!agrees(&m))
        failed = 1, printf("FAIL: moments or records are wrong\n");
    printf("build %s jobs=%u clusters=%u outliers=%u, us a call:", backend->name, jobs,
           m.args.cluster_count[0], m.args.outlier_count[0]);
    for (size_t i = 0; i < LW_ARRAY_SIZE(ops); i++) {
        double best = INFINITY;
        for (int again = 0; again < 3; again++) {
            double begin = now_s();
            for (int round = 0; round < ROUNDS; round++)
                ops_must(ops[i](dev, &m.args, NULL) == LW_OK, names[i]);
            ops_wait(backend, dev);
            best = fmin(best, (now_s() - begin) / ROUNDS);
        }
        total += i < 4 ? best : 0;
        printf(" %s %.1f", names[i], best * 1e6);
        if (i == 0)
            printf(" (%.0f TFLOP/s of products)",
                   2.0 * TOKENS * (TOKENS / 16.0) * HEAD_DIM * 10 * jobs / best * 1e-12);
        if (i == 1 ||
            i == 4) /* outliers sees its own result from the second time on: means without outliers */
            continue;
    }
    printf(" | all but pack %.3f ms, at 128K x 32 x 8 %.3f s\n", total * 1e3, total * ALL_JOBS / jobs);
    fflush(stdout);
    drop(&m);
    return failed;
}

/* T query tokens over n rows of 8 KV heads, 32 query heads. */
static void time_extend(uint32_t tokens, uint32_t rows)
{
    lwk_shape_t shape = {.layer_count = 1,
                         .kv_head_count = 8,
                         .group = 4,
                         .head_dim = HEAD_DIM,
                         .dtype = LW_DTYPE_BF16,
                         .scale = 1.0f / sqrtf((float)HEAD_DIM)};
    size_t kv = (size_t)8 * rows * HEAD_DIM, q = (size_t)32 * tokens * HEAD_DIM;
    uint16_t *host = ops_host((kv > q ? kv : q) * 2);
    lw_prng_t prng;
    lw_prng_seed(&prng, 5);
    uint16_t some[4096];
    for (size_t i = 0; i < 4096; i++)
        some[i] = lwk_f32_to_bf16(ops_gauss(&prng));
    for (size_t i = 0; i < (kv > q ? kv : q); i++)
        host[i] = some[lw_prng_below(&prng, 4096)];
    void *query = get(LWK_MEMORY_DEVICE, q * 2), *keys = get(LWK_MEMORY_DEVICE, kv * 2),
         *values = get(LWK_MEMORY_DEVICE, kv * 2), *out = get(LWK_MEMORY_DEVICE, q * 2),
         *partial = get(LWK_MEMORY_DEVICE, (size_t)32 * tokens * sizeof(lwk_partial_t)),
         *partial_out = get(LWK_MEMORY_DEVICE, q * sizeof(float));
    ops_must(backend->copy(dev, query, host, q * 2, NULL) == LW_OK, "copy");
    ops_must(backend->copy(dev, keys, host, kv * 2, NULL) == LW_OK, "copy");
    ops_must(backend->copy(dev, values, host + 1, kv * 2 - 2, NULL) == LW_OK, "copy");
    ops_wait(backend, dev);
    double best = INFINITY;
    for (int round = 0; round < 4; round++) {
        lwk_extend_t args = {.shape = &shape,
                             .query_tokens = tokens,
                             .query = {query, 0, 32 * HEAD_DIM, HEAD_DIM},
                             .rows = {keys, values, (int64_t)rows * HEAD_DIM, HEAD_DIM, rows, 0},
                             .head_count = 8,
                             .first = 1,
                             .partial = partial,
                             .partial_out = partial_out,
                             .out = {out, 0, 32 * HEAD_DIM, HEAD_DIM}};
        double begin = now_s();
        ops_must(backend->extend(dev, &args, NULL) == LW_OK, "extend");
        ops_wait(backend, dev);
        best = fmin(best, now_s() - begin);
    }
    printf("extend %s T=%u rows=%u: %.3f ms, %.0f TFLOP/s of attention (4 flops), %.1f GB/s of rows\n",
           backend->name, tokens, rows, best * 1e3, 4.0 * tokens * rows * 32 * HEAD_DIM / best * 1e-12,
           4.0 * (double)kv / best * 1e-9);
    fflush(stdout);
    void *all[] = {query, keys, values, out, partial, partial_out};
    for (size_t i = 0; i < LW_ARRAY_SIZE(all); i++)
        backend->free(dev, LWK_MEMORY_DEVICE, all[i]);
    free(host);
}

int main(int argc, char **argv)
{
    int failed = 0;
    backend = lwk_backend_find(argc > 1 ? argv[1] : "cuda");
    if (backend == NULL || backend->open(0, &dev, NULL) != LW_OK) {
        printf("%s cannot run here\n", argc > 1 ? argv[1] : "cuda");
        return 77;
    }
    if (argc > 2)
        for (int i = 2; i < argc; i++)
            failed |= time_build((uint32_t)atoi(argv[i]));
    else
        failed = time_build(8) | time_build(64);
    if (strcmp(backend->name, "cuda") == 0 && argc <= 2) {
        time_extend(2048, 8192);
        time_extend(2048, 131072);
        time_extend(128, 131072);
    }
    backend->close(dev);
    return failed;
}
