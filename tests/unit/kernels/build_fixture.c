/* build_fixture.c - see build_fixture.h. */
#include "unit/kernels/build_fixture.h"

#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

/* ---- the CUDA backend's ops, called and waited for ---- */

static struct {
    bool asked;
    const lwk_backend_t *backend; /* NULL: none here */
    lwk_dev_t *dev;
} cuda;

int build_count(void)
{
    if (!cuda.asked) {
        cuda.asked = true;
        cuda.backend = lwk_backend_find("cuda");
        if (cuda.backend != NULL && cuda.backend->open(0, &cuda.dev, NULL) != LW_OK)
            cuda.backend = NULL;
    }
    return cuda.backend != NULL ? 3 : 2;
}

static lw_status_t waited(lw_status_t status)
{
    lwk_event_t *event = NULL;
    if (status != LW_OK)
        return status;
    assert_int_equal(cuda.backend->event_create(cuda.dev, &event), LW_OK);
    assert_int_equal(cuda.backend->event_record(event, NULL), LW_OK);
    while ((status = cuda.backend->event_query(event)) == LW_INPROGRESS)
        (void)sched_yield();
    cuda.backend->event_destroy(event);
    return status;
}

static uint64_t cuda_workspace_bytes(const lwk_build_t *args)
{
    return cuda.backend->build_workspace_bytes(args);
}

#define CUDA_OP(op, type)                                                            \
    static lw_status_t cuda_##op(lwk_dev_t *dev, const type *args, void *stream)     \
    {                                                                                \
        return waited(cuda.backend->op(dev == NULL ? cuda.dev : dev, args, stream)); \
    }
CUDA_OP(kmeans, lwk_build_t)
CUDA_OP(outliers, lwk_build_t)
CUDA_OP(moments, lwk_build_t)
CUDA_OP(encode, lwk_build_t)
CUDA_OP(pack, lwk_build_t)
CUDA_OP(unpack, lwk_unpack_t)
CUDA_OP(gather, lwk_gather_t)

const build_ops_t build_backends[3] = {
    {"ref", lwk_ref_build_workspace_bytes, lwk_ref_kmeans, lwk_ref_outliers, lwk_ref_moments, lwk_ref_encode,
     lwk_ref_pack, lwk_ref_unpack, lwk_ref_gather},
    {"cpu", lwk_cpu_build_workspace_bytes, lwk_cpu_kmeans, lwk_cpu_outliers, lwk_cpu_moments, lwk_cpu_encode,
     lwk_cpu_pack, lwk_cpu_unpack, lwk_ref_gather},
    {"cuda", cuda_workspace_bytes, cuda_kmeans, cuda_outliers, cuda_moments, cuda_encode, cuda_pack,
     cuda_unpack, cuda_gather},
};

/* ---- memory ---- */

void *build_alloc(size_t bytes)
{
    void *memory = NULL;
    if (build_count() == 3)
        assert_int_equal(cuda.backend->alloc(cuda.dev, LWK_MEMORY_PINNED, bytes + 64, &memory), LW_OK);
    else
        memory = aligned_alloc(64, lw_align_up(bytes + 64, 64));
    assert_non_null(memory);
    return memset(memory, 0, bytes + 64);
}

void build_free(void *memory)
{
    if (build_count() < 3)
        free(memory);
    else if (memory != NULL)
        cuda.backend->free(cuda.dev, LWK_MEMORY_PINNED, memory);
}

static void *filled(size_t bytes)
{
    return memset(build_alloc(bytes), 0xA5, bytes + 64);
}

void build_use(build_fixture_t *fixture, const build_ops_t *ops)
{
    build_free(fixture->args.workspace);
    fixture->args.workspace_bytes = ops->workspace_bytes(&fixture->args);
    fixture->args.workspace = filled(fixture->args.workspace_bytes);
}

build_fixture_t build_open(const build_spec_t *spec, const build_ops_t *ops)
{
    build_fixture_t fixture;
    uint32_t units = (uint32_t)lw_div_up(spec->tokens, LW_UNIT_TOKENS), d = spec->head_dim, n = spec->tokens;
    size_t jobs = spec->jobs, row_bytes = (size_t)lwk_dtype_bytes(spec->dtype) * d;
    memset(&fixture, 0, sizeof fixture);
    lwk_build_t *args = &fixture.args;
    args->job_count = spec->jobs;
    args->token_count = n;
    args->head_dim = d;
    args->dtype = spec->dtype;
    args->ring_rows = spec->ring_rows == 0 ? n : spec->ring_rows;
    args->first_row = spec->first_row;
    args->job_stride = (uint64_t)args->ring_rows * d;
    args->cluster_tokens = 16;
    args->outlier_ppm = spec->outlier_ppm;
    args->iterations = 10;
    args->cluster_encoding = spec->cluster_encoding == 0 ? LW_ENCODING_BF16 : spec->cluster_encoding;
    args->outlier_encoding = spec->outlier_encoding == 0 ? LW_ENCODING_BF16 : spec->outlier_encoding;
    args->cluster_capacity =
        spec->cluster_capacity == 0 ? units * LW_CLUSTERS_PER_UNIT_MAX : spec->cluster_capacity;
    args->outlier_capacity = units * LW_OUTLIERS_PER_UNIT_MAX;
    size_t clusters = jobs * args->cluster_capacity;
    args->keys = fixture.keys = build_alloc(jobs * args->ring_rows * row_bytes);
    args->values = fixture.values = build_alloc(jobs * args->ring_rows * row_bytes);
    args->assign = filled(jobs * n * sizeof *args->assign);
    args->order = filled(jobs * n * sizeof *args->order);
    args->sizes = filled(clusters * sizeof *args->sizes);
    args->parents = filled(jobs * args->outlier_capacity * sizeof *args->parents);
    args->cluster_count = filled(jobs * sizeof *args->cluster_count);
    args->outlier_count = filled(jobs * sizeof *args->outlier_count);
    args->centroids = filled(clusters * d * sizeof *args->centroids);
    args->value_means = filled(clusters * d * sizeof *args->value_means);
    args->spreads = filled(clusters * sizeof *args->spreads);
    args->moment_sums = filled(jobs * (2 + 2 * (size_t)d * d) * sizeof *args->moment_sums);
    args->index_stride = lwk_index_layout(args->cluster_encoding, args->outlier_encoding,
                                          args->cluster_capacity, args->outlier_capacity, d)
                             .bytes;
    args->index = filled(jobs * args->index_stride);
    fixture.records = filled(jobs * sizeof *fixture.records);
    fixture.record_bytes = filled(jobs * n * 2 * row_bytes);
    for (size_t j = 0; j < jobs; j++)
        fixture.records[j] = fixture.record_bytes + j * n * 2 * row_bytes;
    args->records = fixture.records;
    build_use(&fixture, ops);
    return fixture;
}

void build_close(build_fixture_t *fixture)
{
    lwk_build_t *args = &fixture->args;
    void *owned[] = {fixture->keys,   fixture->values,   args->assign,          args->order,
                     args->sizes,     args->parents,     args->cluster_count,   args->outlier_count,
                     args->centroids, args->value_means, args->spreads,         args->moment_sums,
                     args->index,     fixture->records,  fixture->record_bytes, args->workspace};
    for (size_t i = 0; i < LW_ARRAY_SIZE(owned); i++)
        build_free(owned[i]);
}

void build_run(build_fixture_t *fixture, const build_ops_t *ops)
{
    assert_int_equal(ops->kmeans(NULL, &fixture->args, NULL), LW_OK);
    assert_int_equal(ops->outliers(NULL, &fixture->args, NULL), LW_OK);
    assert_int_equal(ops->moments(NULL, &fixture->args, NULL), LW_OK);
    assert_int_equal(ops->encode(NULL, &fixture->args, NULL), LW_OK);
    assert_int_equal(ops->pack(NULL, &fixture->args, NULL), LW_OK);
}

/* Written out here and not taken from build_args.h: the address of a row is part of what is tested. */
static size_t element(const build_fixture_t *fixture, uint32_t job, uint32_t token, uint32_t channel)
{
    const lwk_build_t *args = &fixture->args;
    return (size_t)(job * args->job_stride) +
           (size_t)((args->first_row + token) % args->ring_rows) * args->head_dim + channel;
}

void build_set(build_fixture_t *fixture, uint32_t job, uint32_t token, uint32_t channel, float key,
               float value)
{
    lwk_store(fixture->keys, fixture->args.dtype, element(fixture, job, token, channel), key);
    lwk_store(fixture->values, fixture->args.dtype, element(fixture, job, token, channel), value);
}

float build_key(const build_fixture_t *fixture, uint32_t job, uint32_t token, uint32_t channel)
{
    return lwk_load(fixture->keys, fixture->args.dtype, element(fixture, job, token, channel));
}

float build_value(const build_fixture_t *fixture, uint32_t job, uint32_t token, uint32_t channel)
{
    return lwk_load(fixture->values, fixture->args.dtype, element(fixture, job, token, channel));
}

double build_normal(lw_prng_t *prng)
{
    double u = lw_prng_unit(prng), v = lw_prng_unit(prng);
    return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
}

void build_fill_noise(build_fixture_t *fixture, lw_prng_t *prng, double scale)
{
    const lwk_build_t *args = &fixture->args;
    for (uint32_t job = 0; job < args->job_count; job++)
        for (uint32_t t = 0; t < args->token_count; t++)
            for (uint32_t j = 0; j < args->head_dim; j++)
                build_set(fixture, job, t, j, (float)(scale * (build_normal(prng) + (j % 7 == 3 ? 4 : 0))),
                          (float)(scale * build_normal(prng)));
}

void build_fill_groups(build_fixture_t *fixture, lw_prng_t *prng, uint32_t groups)
{
    const lwk_build_t *args = &fixture->args;
    uint32_t d = args->head_dim;
    double *base = malloc((size_t)groups * d * sizeof *base);
    assert_non_null(base);
    for (uint32_t job = 0; job < args->job_count; job++) {
        for (size_t at = 0; at < (size_t)groups * d; at++)
            base[at] = 8 * build_normal(prng);
        for (uint32_t t = 0; t < args->token_count; t++)
            for (uint32_t j = 0; j < d; j++)
                build_set(fixture, job, t, j,
                          (float)(base[(size_t)((uint64_t)t * groups / args->token_count) * d + j] +
                                  0.1 * build_normal(prng)),
                          (float)build_normal(prng));
    }
    free(base);
}

uint64_t build_seed(void)
{
    const char *wanted = getenv("LW_TEST_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seed =
        wanted != NULL ? strtoull(wanted, NULL, 0) : (uint64_t)now.tv_sec * 1000003u + (uint64_t)now.tv_nsec;
    printf("seed: LW_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}
