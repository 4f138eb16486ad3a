#include "unit/proto/test_support.h"

#include <math.h>

#include "client/examples/llama/dequantise.h"
#include "tiny_model.h"

static void test_each_type_gives_what_its_formula_says(void **state)
{
    static const uint32_t types[] = {LLAMA_TENSOR_F32,  LLAMA_TENSOR_F16,  LLAMA_TENSOR_BF16,
                                     LLAMA_TENSOR_Q8_0, LLAMA_TENSOR_Q4_0, LLAMA_TENSOR_Q4_1};
    enum { COUNT = 32 * 40 };
    lw_prng_t prng = test_prng(__func__);
    for (size_t i = 0; i < LW_ARRAY_SIZE(types); i++) {
        uint8_t blocks[COUNT * 4 + 1];
        float expected[COUNT], actual[COUNT];
        uint64_t seed = lw_prng_u64(&prng);
        tiny_random_blocks(types[i], COUNT, 3.0f, &seed, blocks + 1, expected); /* unaligned on purpose */
        llama_gguf_tensor_t tensor = {.type = types[i],
                                      .dimension_count = 1,
                                      .dimension = {COUNT, 1, 1, 1},
                                      .value_count = COUNT,
                                      .byte_count = tiny_block_bytes(types[i], COUNT),
                                      .data = blocks + 1};
        llama_dequantise(&tensor, 0, COUNT, actual);
        for (int j = 0; j < COUNT; j++)
            if (fabsf(actual[j] - expected[j]) > 1e-6f * (1 + fabsf(expected[j])))
                fail_msg("%s value %d: %g, not %g", llama_tensor_type_name(types[i]), j, actual[j],
                         expected[j]);
        float part[64];
        llama_dequantise(&tensor, 96, 64, part);
        assert_memory_equal(part, actual + 96, sizeof(part));
    }
}

static void test_halves_cover_zero_subnormals_and_the_largest(void **state)
{
    assert_true(llama_half_to_float(0x0000) == 0.0f);
    assert_true(llama_half_to_float(0x8000) == 0.0f && signbit(llama_half_to_float(0x8000)));
    assert_true(llama_half_to_float(0x0001) == 0x1p-24f);
    assert_true(llama_half_to_float(0x83ff) == -1023 * 0x1p-24f);
    assert_true(llama_half_to_float(0x0400) == 0x1p-14f);
    assert_true(llama_half_to_float(0x3c00) == 1.0f);
    assert_true(llama_half_to_float(0xc000) == -2.0f);
    assert_true(llama_half_to_float(0x7bff) == 65504.0f);
    assert_true(isinf(llama_half_to_float(0x7c00)) && isnan(llama_half_to_float(0x7e00)));
}

static void test_bf16_rounds_to_nearest_even(void **state)
{
    assert_int_equal(llama_float_to_bf16(1.0f), 0x3f80);
    assert_int_equal(llama_float_to_bf16(1.0f + 0x1p-8f), 0x3f80);     /* a tie, even below */
    assert_int_equal(llama_float_to_bf16(1.0f + 3 * 0x1p-8f), 0x3f82); /* a tie, even above */
    assert_int_equal(llama_float_to_bf16(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);
    assert_int_equal(llama_float_to_bf16(-0.0f), 0x8000);
    assert_true(isnan(llama_bf16_to_float(llama_float_to_bf16(NAN))));
    for (uint32_t bits = 0; bits < 0x7f80; bits++)
        assert_int_equal(llama_float_to_bf16(llama_bf16_to_float((uint16_t)bits)), bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_type_gives_what_its_formula_says),
        cmocka_unit_test(test_halves_cover_zero_subnormals_and_the_largest),
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
