#include "unit/proto/test_support.h"

#include <float.h>
#include <math.h>

#include "client/examples/llama/dequantise.h"
#include "client/examples/llama/lanes.h"

/* Every claim is checked for every instruction set that this processor runs. */
#define FOR_EACH_SET(lanes) for (unsigned set = 0; (lanes = llama_lanes_at(set)) != NULL; set++)

static float uniform(lw_prng_t *prng, float scale)
{
    return (float)(lw_prng_unit(prng) * 2 - 1) * scale;
}

static void near(const char *what, const llama_lanes_t *lanes, double actual, double expected,
                 double tolerance)
{
    if (!(fabs(actual - expected) <= tolerance * (1 + fabs(expected))))
        fail_msg("%s (%s): %.9g, not %.9g", what, lanes->name, actual, expected);
}

static void test_softmax_terms_are_exact_to_single_precision(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    const llama_lanes_t *lanes;
    FOR_EACH_SET(lanes)
    {
        for (uint32_t keys = 1; keys < 300; keys += 1 + keys / 7) {
            float score[300], terms[300], maximum = -FLT_MAX, sum = 0;
            double expected_maximum = -INFINITY, expected_sum = 0;
            for (uint32_t j = 0; j < keys; j++) {
                terms[j] = score[j] = uniform(&prng, 400);
                expected_maximum = fmax(expected_maximum, (double)score[j] * 0.125f);
            }
            float shrink = lanes->softmax(terms, keys, 0.125f, &maximum, &sum);
            assert_true(shrink == 0.0f);
            near("maximum", lanes, maximum, expected_maximum, 1e-6);
            for (uint32_t j = 0; j < keys; j++) {
                double term = exp((double)score[j] * 0.125f - expected_maximum);
                near("term", lanes, terms[j], term,
                     1e-5 * term + 1e-30); /* the argument is rounded to fp32 */
                expected_sum += term;
            }
            near("sum", lanes, sum, expected_sum, 1e-5);
        }
    }
}

static void test_softmax_in_two_parts_equals_one(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    const llama_lanes_t *lanes;
    FOR_EACH_SET(lanes)
    {
        for (int round = 0; round < 100; round++) {
            float whole[64], parts[64], maximum = -FLT_MAX, sum = 0, part_maximum = -FLT_MAX, part_sum = 0;
            uint32_t cut = 1 + (uint32_t)lw_prng_below(&prng, 63);
            for (int j = 0; j < 64; j++)
                whole[j] = parts[j] = uniform(&prng, round & 1 ? 80 : 2);
            lanes->softmax(whole, 64, 1, &maximum, &sum);
            lanes->softmax(parts, cut, 1, &part_maximum, &part_sum);
            float shrink = lanes->softmax(parts + cut, 64 - cut, 1, &part_maximum, &part_sum);
            lanes->scale(parts, cut, shrink);
            assert_true(part_maximum == maximum);
            near("sum", lanes, part_sum, sum, 1e-5);
            for (int j = 0; j < 64; j++)
                near("term", lanes, parts[j], whole[j], 1e-6);
        }
    }
}

static void test_scores_and_mixes_equal_double_precision(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    const llama_lanes_t *lanes;
    FOR_EACH_SET(lanes)
    {
        for (uint32_t d = 8; d <= 256; d += 56) {
            enum { ROWS = 5, KEYS = 13 };
            float query[ROWS * 256], weight[ROWS * KEYS], score[ROWS * KEYS], out[ROWS * 256] = {0};
            uint16_t key[KEYS * 256];
            for (uint32_t i = 0; i < ROWS * d; i++)
                query[i] = uniform(&prng, 2);
            for (uint32_t i = 0; i < KEYS * d; i++)
                key[i] = llama_float_to_bf16(uniform(&prng, 2));
            for (uint32_t i = 0; i < ROWS * KEYS; i++)
                weight[i] = uniform(&prng, 1);
            lanes->score(query, ROWS, key, KEYS, d, score);
            lanes->mix(weight, ROWS, key, KEYS, d, out);
            for (uint32_t r = 0; r < ROWS; r++) {
                for (uint32_t j = 0; j < KEYS; j++) {
                    double sum = 0;
                    for (uint32_t i = 0; i < d; i++)
                        sum += (double)query[r * d + i] * llama_bf16_to_float(key[j * d + i]);
                    near("score", lanes, score[r * KEYS + j], sum, 1e-4);
                }
                for (uint32_t i = 0; i < d; i++) {
                    double sum = 0;
                    for (uint32_t j = 0; j < KEYS; j++)
                        sum += (double)weight[r * KEYS + j] * llama_bf16_to_float(key[j * d + i]);
                    near("mix", lanes, out[r * d + i], sum, 1e-5);
                }
            }
        }
    }
}

static void test_norm_and_activation_equal_double_precision(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    const llama_lanes_t *lanes;
    FOR_EACH_SET(lanes)
    {
        enum { COUNT = 77 };
        float x[COUNT], y[COUNT], out[COUNT];
        double squares = 0;
        for (int i = 0; i < COUNT; i++) {
            x[i] = i == 0 ? 200 : i == 1 ? -200 : uniform(&prng, 10);
            y[i] = uniform(&prng, 2);
            squares += (double)x[i] * x[i];
        }
        lanes->rms_norm(x, y, COUNT, 1e-5f, out);
        for (int i = 0; i < COUNT; i++)
            near("rms_norm", lanes, out[i], x[i] / sqrt(squares / COUNT + 1e-5f) * y[i], 1e-6);
        lanes->silu_mul(x, y, COUNT, out);
        for (int i = 0; i < COUNT; i++)
            near("silu_mul", lanes, out[i], x[i] / (1 + exp(-(double)x[i])) * y[i], 1e-6);
        lanes->add(x, y, COUNT);
        assert_true(x[0] == 200 + y[0]);
    }
}

static void test_bf16_conversions_equal_the_scalar_ones(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    const llama_lanes_t *lanes;
    FOR_EACH_SET(lanes)
    {
        float in[513], out[513];
        uint16_t bits[513];
        for (int i = 0; i < 513; i++)
            in[i] = uniform(&prng, (float)(1 << (i % 20)));
        lanes->narrow(in, 513, bits);
        lanes->widen(bits, 513, out);
        for (int i = 0; i < 513; i++) {
            assert_int_equal(bits[i], llama_float_to_bf16(in[i]));
            assert_true(out[i] == llama_bf16_to_float(bits[i]));
        }
    }
}

static void test_the_best_set_is_chosen(void **state)
{
    unsigned count = 0;
    while (llama_lanes_at(count))
        count++;
    assert_true(count >= 1);
    assert_ptr_equal(llama_lanes(), llama_lanes_at(count - 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_softmax_terms_are_exact_to_single_precision),
        cmocka_unit_test(test_softmax_in_two_parts_equals_one),
        cmocka_unit_test(test_scores_and_mixes_equal_double_precision),
        cmocka_unit_test(test_norm_and_activation_equal_double_precision),
        cmocka_unit_test(test_bf16_conversions_equal_the_scalar_ones),
        cmocka_unit_test(test_the_best_set_is_chosen),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
