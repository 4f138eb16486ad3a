#include "quick.h"
#include "unit/proto/test_support.h"

#include "client/examples/llama/bpe.h"

/* The definition: scan all pairs for the lowest rank, leftmost first, until none has a rule. */
static size_t merge_plainly(const llama_merge_table_t *table, uint32_t *symbols, size_t count)
{
    for (;;) {
        const llama_merge_t *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            const llama_merge_t *rule = llama_merge_table_find(table, symbols[i], symbols[i + 1]);
            if (rule && (!best || rule->rank < best->rank)) {
                best = rule;
                at = i;
            }
        }
        if (!best)
            return count;
        symbols[at] = best->merged;
        memmove(symbols + at + 1, symbols + at + 2, (count - at - 2) * sizeof(*symbols));
        count--;
    }
}

static void test_merges_equal_the_plain_definition(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    for (uint32_t round = 0; round < quick_count(300, 60); round++) {
        llama_merge_table_t table;
        enum { RULES = 30, LENGTH = 60 };
        assert_int_equal(llama_merge_table_init(&table, RULES), LW_OK);
        for (uint32_t rank = 0; rank < RULES; rank++) { /* tokens 0..3 are given, each rule makes a new one */
            llama_merge_t rule = {(uint32_t)lw_prng_below(&prng, 4 + rank),
                                  (uint32_t)lw_prng_below(&prng, 4 + rank), 4 + rank, rank};
            llama_merge_table_add(&table, &rule);
        }
        uint32_t fast[LENGTH], plain[LENGTH];
        size_t count = 1 + lw_prng_below(&prng, LENGTH), fast_count;
        for (size_t i = 0; i < count; i++)
            fast[i] = plain[i] = (uint32_t)lw_prng_below(&prng, 4);
        assert_int_equal(llama_bpe_merge(&table, fast, count, &fast_count), LW_OK);
        assert_int_equal(fast_count, merge_plainly(&table, plain, count));
        assert_memory_equal(fast, plain, fast_count * sizeof(*fast));
        llama_merge_table_fini(&table);
    }
}

static void test_the_first_rule_of_a_pair_stays(void **state)
{
    llama_merge_table_t table;
    assert_int_equal(llama_merge_table_init(&table, 2), LW_OK);
    llama_merge_table_add(&table, &(llama_merge_t){1, 2, 10, 0});
    llama_merge_table_add(&table, &(llama_merge_t){1, 2, 11, 1});
    assert_int_equal(llama_merge_table_find(&table, 1, 2)->merged, 10);
    assert_null(llama_merge_table_find(&table, 2, 1));
    llama_merge_table_fini(&table);
}

static void test_a_long_word_merges_in_time(void **state)
{
    uint32_t length = quick_count(1 << 19, 1 << 17); /* quadratic work would take minutes */
    llama_merge_table_t table;
    uint32_t *symbols = calloc(length, sizeof(*symbols));
    size_t count;
    assert_int_equal(llama_merge_table_init(&table, 4), LW_OK);
    for (uint32_t i = 0; i < 4; i++)
        llama_merge_table_add(&table, &(llama_merge_t){i, i, i + 1, i});
    assert_int_equal(llama_bpe_merge(&table, symbols, length, &count), LW_OK);
    assert_int_equal(count, length / 16);
    assert_int_equal(symbols[count - 1], 4);
    llama_merge_table_fini(&table);
    free(symbols);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges_equal_the_plain_definition),
        cmocka_unit_test(test_the_first_rule_of_a_pair_stays),
        cmocka_unit_test(test_a_long_word_merges_in_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
