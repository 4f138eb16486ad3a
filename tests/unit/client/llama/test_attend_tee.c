#include "unit/proto/test_support.h"

#include "client/examples/llama/llama.h"

typedef struct record {
    unsigned taken, attended;
    lw_status_t take_status;
    uint32_t layer, first_position, tokens;
    const uint16_t *key, *value;
    float *out;
} record_t;

static lw_status_t take(void *self, uint32_t layer, uint32_t first_position, uint32_t tokens,
                        const uint16_t *key, const uint16_t *value)
{
    record_t *record = self;
    *record = (record_t){record->taken + 1,
                         record->attended,
                         record->take_status,
                         layer,
                         first_position,
                         tokens,
                         key,
                         value,
                         NULL};
    return record->take_status;
}

static lw_status_t attend(void *self, uint32_t layer, uint32_t first_position, uint32_t tokens,
                          const uint16_t *query, const uint16_t *key, const uint16_t *value, float *out)
{
    record_t *record = self;
    assert_int_equal(record->layer, layer);
    assert_int_equal(record->first_position, first_position);
    assert_int_equal(record->tokens, tokens);
    assert_ptr_equal(record->key, key);
    assert_ptr_equal(record->value, value);
    record->attended++;
    record->out = out;
    return LW_ERR_TIMEOUT; /* to see that it comes through */
}

static void test_the_sink_takes_what_attention_sees(void **state)
{
    record_t record = {0};
    uint16_t query[4], key[4], value[4];
    float out[4];
    llama_tee_t tee = {{attend, &record}, {take, &record}};
    llama_attention_t attention = llama_tee_attention(&tee);
    assert_int_equal(attention.attend(attention.self, 3, 17, 2, query, key, value, out), LW_ERR_TIMEOUT);
    assert_int_equal(record.taken, 1);
    assert_int_equal(record.attended, 1);
    assert_ptr_equal(record.out, out);
}

static void test_a_failing_sink_ends_the_call(void **state)
{
    record_t record = {.take_status = LW_ERR_EXHAUSTED};
    uint16_t rows[4];
    float out[4];
    llama_tee_t tee = {{attend, &record}, {take, &record}};
    llama_attention_t attention = llama_tee_attention(&tee);
    assert_int_equal(attention.attend(attention.self, 0, 0, 1, rows, rows, rows, out), LW_ERR_EXHAUSTED);
    assert_int_equal(record.attended, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_sink_takes_what_attention_sees),
        cmocka_unit_test(test_a_failing_sink_ends_the_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
