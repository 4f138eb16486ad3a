/* test_synth.c - the generator's rows are functions of their place, and queries find what they look for. */
#include "unit/proto/test_support.h"

#include <math.h>
#include <time.h>

#include "client/synth/synth.h"

enum { D = 64, HEADS = 3, TOKENS = 3000 };

static lw_synth_config_t config_of(uint64_t seed)
{
    printf("seed %llu\n", (unsigned long long)seed);
    return (lw_synth_config_t){.seed = seed,
                               .layer_count = 2,
                               .kv_head_count = HEADS,
                               .group = 2,
                               .head_dim = D,
                               .token_count = TOKENS};
}

static float from_bf16(uint16_t bits)
{
    union {
        uint32_t bits;
        float value;
    } word = {(uint32_t)bits << 16};
    return word.value;
}

static void test_a_block_holds_the_rows_of_its_tokens(void **state)
{
    lw_synth_config_t config = config_of((uint64_t)time(NULL));
    lw_synth_t *synth = lw_synth_create(&config);
    static uint16_t key[100 * 2 * D], value[100 * 2 * D];
    float k[D], v[D];
    lw_synth_fill(synth, 1, 1, 2, 2, 100, key, value); /* sinks and others, more than one block of angles */
    for (uint32_t t = 0; t < 100; t++)
        for (uint32_t h = 0; h < 2; h++) {
            lw_synth_row(synth, 1, 1 + h, 2 + t, k, v);
            for (uint32_t i = 0; i < D; i++) {
                /* Angles of a block come one from the other: a last bit of bf16 may differ. */
                assert_true(fabsf(from_bf16(key[(t * 2 + h) * D + i]) - k[i]) <= fabsf(k[i]) / 128 + 1e-4f);
                assert_int_equal(value[(t * 2 + h) * D + i], lw_synth_bf16(v[i]));
            }
        }
    lw_synth_destroy(synth);
}

static void test_a_row_depends_on_layer_head_token_and_text(void **state)
{
    lw_synth_config_t config = config_of((uint64_t)time(NULL));
    lw_synth_t *synth = lw_synth_create(&config), *text = lw_synth_text(synth, config.seed + 1);
    float key[5][D], value[D];
    lw_synth_row(synth, 0, 0, 100, key[0], value);
    lw_synth_row(synth, 1, 0, 100, key[1], value);
    lw_synth_row(synth, 0, 1, 100, key[2], value);
    lw_synth_row(synth, 0, 0, 101, key[3], value);
    lw_synth_row(text, 0, 0, 100, key[4], value);
    for (uint32_t i = 1; i < 5; i++)
        assert_memory_not_equal(key[0], key[i], sizeof(key[0]));
    lw_synth_row(synth, 0, 0, 100, key[1], value);
    assert_memory_equal(key[0], key[1], sizeof(key[0]));
    lw_synth_destroy(text);
    lw_synth_destroy(synth);
}

/* The target's logit is among the highest percent. */
static void test_a_query_finds_its_target(void **state)
{
    lw_synth_config_t config = config_of((uint64_t)time(NULL));
    lw_synth_t *synth = lw_synth_create(&config);
    uint32_t found = 0;
    for (uint32_t trial = 0; trial < 50; trial++) {
        float query[D], key[D], value[D], wanted = 0;
        uint32_t target = 10 + trial * 50, above = 0;
        lw_synth_query(synth, 1, 3, TOKENS - 1, target, query);
        for (uint32_t pass = 0; pass < 2; pass++)
            for (uint32_t t = pass ? 4 : target; t < (pass ? TOKENS : target + 1); t++) {
                float dot = 0;
                lw_synth_row(synth, 1, 1, t, key, value);
                for (uint32_t i = 0; i < D; i++)
                    dot += query[i] * key[i];
                if (pass)
                    above += dot > wanted;
                else
                    wanted = dot;
            }
        found += above < TOKENS / 20;
    }
    printf("%u of 50 targets among the 5%% with the highest logits\n", found);
    assert_true(found > 30);
    lw_synth_destroy(synth);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_block_holds_the_rows_of_its_tokens),
        cmocka_unit_test(test_a_row_depends_on_layer_head_token_and_text),
        cmocka_unit_test(test_a_query_finds_its_target),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
