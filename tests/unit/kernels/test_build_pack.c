/* test_build_pack.c - records hold the rows as they were, and unpack brings them back. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/kernels/build_fixture.h"

static uint64_t seed;

static lwk_unpack_t unpack_of(const build_fixture_t *f, uint32_t job, void *keys, void *values)
{
    const lwk_build_t *args = &f->args;
    return (lwk_unpack_t){
        .head_dim = args->head_dim,
        .dtype = args->dtype,
        .cluster_count = args->cluster_count[job],
        .outlier_count = args->outlier_count[job],
        .token_count = args->token_count,
        .sizes = args->sizes + (size_t)job * args->cluster_capacity,
        .order = args->order + (size_t)job * args->token_count,
        .records = f->records[job],
        .keys = keys,
        .values = values,
    };
}

static void test_unpack_refuses_sizes_and_orders_that_do_not_add_up(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        build_spec_t spec = {
            .jobs = 1, .tokens = 90, .head_dim = 16, .dtype = LW_DTYPE_BF16, .outlier_ppm = 125000};
        build_fixture_t f = build_open(&spec, &build_backends[b]);
        build_fill_noise(&f, &prng, 1);
        build_run(&f, &build_backends[b]);
        void *rows = build_alloc(90 * 64);
        lwk_unpack_t args = unpack_of(&f, 0, rows, rows);
        f.args.sizes[0]++;
        assert_int_equal(build_backends[b].unpack(NULL, &args, NULL), LW_ERR_INVALID);
        f.args.sizes[0]--;
        f.args.order[3] += 90;
        assert_int_equal(build_backends[b].unpack(NULL, &args, NULL), LW_ERR_INVALID);
        f.args.order[3] -= 90;
        args.dtype = 0;
        assert_int_equal(build_backends[b].unpack(NULL, &args, NULL), LW_ERR_INVALID);
        args.dtype = LW_DTYPE_BF16;
        args.head_dim = 3;
        assert_int_equal(build_backends[b].unpack(NULL, &args, NULL), LW_ERR_INVALID);
        build_free(rows);
        build_close(&f);
    }
}

static void test_a_record_is_its_rows_of_k_then_its_rows_of_v(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++) {
        build_spec_t spec = {.jobs = 2,
                             .tokens = 200,
                             .head_dim = 8,
                             .dtype = LW_DTYPE_FP32,
                             .outlier_ppm = 100000,
                             .ring_rows = 256,
                             .first_row = 100};
        build_fixture_t f = build_open(&spec, &build_backends[b]);
        build_fill_noise(&f, &prng, 1);
        build_run(&f, &build_backends[b]);
        const float *record = (const float *)f.records[1];
        const uint32_t *order = f.args.order + 200;
        uint32_t clusters = f.args.cluster_count[1];
        for (uint32_t e = 0; e < clusters + f.args.outlier_count[1]; e++) {
            uint32_t size = e < clusters ? f.args.sizes[f.args.cluster_capacity + e] : 1;
            for (uint32_t i = 0; i < size; i++)
                for (uint32_t j = 0; j < 8; j++) {
                    assert_true(record[i * 8 + j] == build_key(&f, 1, order[i], j));
                    assert_true(record[(size + i) * 8 + j] == build_value(&f, 1, order[i], j));
                }
            record += 2 * size * 8;
            order += size;
        }
        build_close(&f);
    }
}

static void test_pack_and_unpack_give_every_bit_back(void **state)
{
    static const uint32_t dtypes[] = {LW_DTYPE_BF16, LW_DTYPE_FP16, LW_DTYPE_FP32};
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int b = 0; b < build_count(); b++)
        for (size_t i = 0; i < LW_ARRAY_SIZE(dtypes); i++) {
            build_spec_t spec = {.jobs = 2,
                                 .tokens = 1020,
                                 .head_dim = 64,
                                 .dtype = dtypes[i],
                                 .outlier_ppm = 125000,
                                 .ring_rows = 1100,
                                 .first_row = 900};
            build_fixture_t f = build_open(&spec, &build_backends[b]);
            build_fill_noise(&f, &prng, 1);
            build_run(&f, &build_backends[b]);
            size_t row = (size_t)lwk_dtype_bytes(dtypes[i]) * 64;
            uint8_t *keys = build_alloc(1020 * row), *values = build_alloc(1020 * row);
            for (uint32_t job = 0; job < 2; job++) {
                lwk_unpack_t args = unpack_of(&f, job, keys, values);
                assert_int_equal(build_backends[b].unpack(NULL, &args, NULL), LW_OK);
                for (uint32_t t = 0; t < 1020; t++) {
                    size_t from = (job * 1100 + (900 + t) % 1100) * row;
                    assert_memory_equal(keys + t * row, (uint8_t *)f.keys + from, row);
                    assert_memory_equal(values + t * row, (uint8_t *)f.values + from, row);
                }
            }
            build_free(keys);
            build_free(values);
            build_close(&f);
        }
}

/* Records of odd sizes and places beside aligned ones, some of no bytes: each lands whole, and nothing else
 * changes. */
static void test_gather_copies_every_record_and_nothing_else(void **state)
{
    enum { RECORDS = 70, BYTES = 1 << 20 };
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    uint8_t *store = build_alloc(BYTES), *into = build_alloc(BYTES), *want = calloc(1, BYTES);
    const uint8_t **from = build_alloc(RECORDS * sizeof *from);
    uint32_t *bytes = build_alloc(RECORDS * sizeof *bytes);
    uint64_t *to = build_alloc(RECORDS * sizeof *to);
    for (size_t i = 0; i < BYTES; i++)
        store[i] = (uint8_t)lw_prng_below(&prng, 256);
    for (int b = 0; b < build_count(); b++) {
        uint64_t at = 0;
        memset(into, 0, BYTES);
        memset(want, 0, BYTES);
        for (uint32_t r = 0; r < RECORDS; r++) {
            uint32_t unit = r % 3 == 0 ? 1 : 16;
            bytes[r] = r % 7 == 5 ? 0 : (uint32_t)lw_prng_below(&prng, 8192 / unit) * unit;
            from[r] = store + lw_prng_below(&prng, (BYTES - 8192) / unit) * unit;
            at = (at + unit - 1) / unit * unit;
            to[r] = at;
            memcpy(want + at, from[r], bytes[r]);
            at += bytes[r] + lw_prng_below(&prng, 40);
        }
        lwk_gather_t args = {.count = RECORDS, .from = from, .bytes = bytes, .to = to, .into = into};
        assert_int_equal(build_backends[b].gather(NULL, &args, NULL), LW_OK);
        assert_memory_equal(into, want, BYTES);
        args.from = NULL;
        assert_int_equal(build_backends[b].gather(NULL, &args, NULL), LW_ERR_INVALID);
        args.count = 0;
        assert_int_equal(build_backends[b].gather(NULL, &args, NULL), LW_OK);
    }
    build_free(store);
    build_free(into);
    build_free((void *)from);
    build_free(bytes);
    build_free(to);
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpack_refuses_sizes_and_orders_that_do_not_add_up),
        cmocka_unit_test(test_a_record_is_its_rows_of_k_then_its_rows_of_v),
        cmocka_unit_test(test_pack_and_unpack_give_every_bit_back),
        cmocka_unit_test(test_gather_copies_every_record_and_nothing_else),
    };
    seed = build_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
