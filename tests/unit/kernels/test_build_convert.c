/* test_build_convert.c - the conversions of kernels/convert.h against definitions that need no bit tricks. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "unit/kernels/build_fixture.h"

static uint64_t seed;

/* fp16 from its definition. */
static double half_value(uint32_t h)
{
    int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 0x3FF);
    double magnitude = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return h & 0x8000 ? -magnitude : magnitude;
}

static int is_half_number(uint32_t h)
{
    return (h & 0x7C00) != 0x7C00;
}

static void test_every_fp16_number_survives_the_round_trip(void **state)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        float x = lwk_f16_to_f32((uint16_t)h);
        if (is_half_number(h)) {
            assert_true((double)x == half_value(h));
            assert_int_equal(lwk_f32_to_f16(x), h);
        } else if ((h & 0x3FF) == 0) {
            assert_true(isinf(x));
            assert_int_equal(lwk_f32_to_f16(x), h);
        } else {
            assert_true(isnan(x));
            assert_true((lwk_f32_to_f16(x) & 0x3FF) != 0);
        }
    }
}

static void test_every_bf16_number_survives_the_round_trip(void **state)
{
    for (uint32_t h = 0; h < 0x10000; h++) {
        float x = lwk_bf16_to_f32((uint16_t)h);
        if (isnan(x))
            assert_true(isnan(lwk_bf16_to_f32(lwk_f32_to_bf16(x))));
        else
            assert_int_equal(lwk_f32_to_bf16(x), h);
    }
}

/* Between two neighbours: the nearer one, and the even one in the middle. */
static void test_fp16_rounds_to_the_nearest_and_ties_to_even(void **state)
{
    for (uint32_t h = 0; h + 1 < 0x7C00; h++) {
        float low = lwk_f16_to_f32((uint16_t)h), high = lwk_f16_to_f32((uint16_t)(h + 1));
        float middle = (float)(((double)low + high) / 2);
        assert_int_equal(lwk_f32_to_f16(middle), h + (h & 1));
        assert_int_equal(lwk_f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(lwk_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(lwk_f32_to_f16(-middle), 0x8000u + h + (h & 1));
    }
    assert_int_equal(lwk_f32_to_f16(65519.996f), 0x7BFF);
    assert_int_equal(lwk_f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(lwk_f32_to_f16(1e30f), 0x7C00);
}

static void test_bf16_rounds_to_the_nearest_and_ties_to_even(void **state)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (int i = 0; i < 100000; i++) {
        uint32_t h = (uint32_t)lw_prng_below(&prng, 0x7F7F);
        uint32_t middle = h << 16 | 0x8000u;
        assert_int_equal(lwk_f32_to_bf16(lwk_bits_float(middle)), h + (h & 1));
        assert_int_equal(lwk_f32_to_bf16(lwk_bits_float(middle - 1)), h);
        assert_int_equal(lwk_f32_to_bf16(lwk_bits_float(middle + 1)), h + 1);
    }
    assert_true(isnan(lwk_bf16_to_f32(lwk_f32_to_bf16(lwk_bits_float(0x7F800001u)))));
    assert_true(isnan(lwk_bf16_to_f32(lwk_f32_to_bf16(lwk_bits_float(0x7FFFFFFFu)))));
}

static void test_int4_codes_are_read_low_nibble_first_with_sign(void **state)
{
    const uint8_t row[2] = {0x7F, 0x98};
    assert_int_equal(lwk_int4_code(row, 0), -1);
    assert_int_equal(lwk_int4_code(row, 1), 7);
    assert_int_equal(lwk_int4_code(row, 2), -8);
    assert_int_equal(lwk_int4_code(row, 3), -7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_fp16_number_survives_the_round_trip),
        cmocka_unit_test(test_every_bf16_number_survives_the_round_trip),
        cmocka_unit_test(test_fp16_rounds_to_the_nearest_and_ties_to_even),
        cmocka_unit_test(test_bf16_rounds_to_the_nearest_and_ties_to_even),
        cmocka_unit_test(test_int4_codes_are_read_low_nibble_first_with_sign),
    };
    seed = build_seed();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
