/* test_step.c - the layer step's rules: order, batches, masks, operations, refusals. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "unit/client/fake_store.h"
#include "unit/client/harness.h"

static uint64_t seed_value;
static const harness_params_t small = {.layers = 2};

/* A step over zeros: enough for rules that do not look at numbers. */
typedef struct call {
    float query[4 * 8 * 64], key[4 * 8 * 32], value[4 * 8 * 32], out[4 * 8 * 64];
    lw_session_t *sessions[4];
    lw_step_t step;
    lw_tensor_t result;
} call_t;

static call_t *make_call(lw_session_t **sessions, uint32_t count, uint32_t tokens)
{
    call_t *c = calloc(1, sizeof(*c));
    for (uint32_t i = 0; i < count; i++)
        c->sessions[i] = sessions[i];
    for (size_t i = 0; i < LW_ARRAY_SIZE(c->query); i++)
        c->query[i] = (float)(i % 7) - 3;
    c->step = (lw_step_t){
        .size = sizeof(c->step),
        .sessions = c->sessions,
        .session_count = count,
        .query = {.data = c->query, .sessions = count, .tokens = tokens, .heads = 4, .head_dim = 16},
        .key = {.data = c->key, .sessions = count, .tokens = tokens, .heads = 2, .head_dim = 16},
        .value = {.data = c->value, .sessions = count, .tokens = tokens, .heads = 2, .head_dim = 16}};
    c->result =
        (lw_tensor_t){.data = c->out, .sessions = count, .tokens = tokens, .heads = 4, .head_dim = 16};
    return c;
}

static void refused(harness_t *h, call_t *c, lw_status_t wanted, const char *words)
{
    assert_int_equal(lw_attend(h->kv, &c->step, &c->result, NULL), wanted);
    if (!strstr(lw_last_error(h->kv), words))
        fail_msg("'%s' does not say '%s'", lw_last_error(h->kv), words);
}

static void test_wrong_steps_are_refused_by_name_and_value(void **state)
{
    (void)state;
    harness_t h;
    harness_open(&h, &small, seed_value);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    call_t *c = make_call(&s, 1, 1);
    c->step.layer = 1;
    refused(&h, c, LW_ERR_INVALID, "layer is 1, must be 0");
    c->step.layer = 2;
    refused(&h, c, LW_ERR_INVALID, "layer is 2");
    c->step.layer = 0;
    c->step.session_count = 0;
    refused(&h, c, LW_ERR_INVALID, "session_count is 0");
    c->step.session_count = 1;
    c->step.query.heads = 3;
    refused(&h, c, LW_ERR_INVALID, "query.heads is 3, must be 4");
    c->step.query.heads = 4;
    c->step.key.tokens = 2;
    refused(&h, c, LW_ERR_INVALID, "key.tokens is 2, must be 1");
    c->step.key.tokens = 1;
    c->step.value.data = NULL;
    refused(&h, c, LW_ERR_INVALID, "value.data is NULL");
    c->step.value.data = c->value;
    c->step.query.tokens = 9;
    refused(&h, c, LW_ERR_INVALID, "query.tokens is 9");
    c->step.query.tokens = 1;
    c->step.estimate_after_us = 5;
    refused(&h, c, LW_ERR_UNSUPPORTED, "estimate_after_us is 5");
    c->step.estimate_after_us = 0;
    c->result.head_dim = 8;
    refused(&h, c, LW_ERR_INVALID, "attn_out.head_dim is 8");
    c->result.head_dim = 16;
    c->sessions[0] = NULL;
    refused(&h, c, LW_ERR_INVALID, "sessions[0]");
    c->sessions[0] = s;
    c->step.size = 2;
    refused(&h, c, LW_ERR_INVALID, "size is 2");
    c->step.size = sizeof(c->step);
    assert_int_equal(harness_tokens(s), 0); /* none of them left a trace */
    assert_int_equal(harness_attend(&h, &c->step, &c->result), LW_OK);
    refused(&h, c, LW_ERR_INVALID, "layer is 0, must be 1");
    c->step.layer = 1;
    assert_int_equal(harness_attend(&h, &c->step, &c->result), LW_OK);
    assert_int_equal(harness_tokens(s), 1);
    free(c);
    lw_session_close(s);
    harness_close(&h);
}

static void test_a_larger_struct_is_understood_when_the_rest_is_zero(void **state)
{
    (void)state;
    harness_t h;
    harness_open(&h, &small, seed_value);
    struct {
        lw_session_params_t params;
        uint32_t later[4];
    } larger = {.params = {.size = sizeof(larger), .segment_tokens = 1024}};
    lw_session_t *s = NULL;
    assert_int_equal(lw_session_open(h.kv, &larger.params, &s), LW_OK);
    lw_session_close(s);
    larger.later[2] = 1;
    assert_int_equal(lw_session_open(h.kv, &larger.params, &s), LW_ERR_VERSION);
    harness_close(&h);
}

static void test_one_session_cannot_be_twice_in_a_batch(void **state)
{
    (void)state;
    harness_t h;
    harness_open(&h, &small, seed_value);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    lw_session_t *twice[2] = {s, s};
    call_t *c = make_call(twice, 2, 1);
    refused(&h, c, LW_ERR_INVALID, "sessions[0] and sessions[1] are the same");
    free(c);
    lw_session_close(s);
    harness_close(&h);
}

/* A batch of forks at different lengths answers as each of them alone. */
static void test_a_batch_answers_as_its_sessions_alone(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 3000);
    lw_session_t *s[4];
    s[0] = harness_session(&h, LW_POLICY_DEFAULT, 1024);
    harness_prefill(&h, s[0], &seq, 0, 2200, 440);
    harness_settle(&h);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(lw_session_fork(s[0], NULL, &s[i]), LW_OK);
        harness_prefill(&h, s[i], &seq, 2200, (uint32_t)i * 5, 5);
    }
    float alone[2][4][64];
    call_t *one = make_call(s, 1, 1), *all = make_call(s, 4, 1);
    for (size_t i = 0; i < LW_ARRAY_SIZE(all->key); i++)
        all->key[i] = all->value[i] = (float)(i % 11) * 0.1f - 0.5f;
    for (int i = 0; i < 4; i++) {
        one->sessions[0] = s[i];
        memcpy(one->query, all->query + i * 64, sizeof(float) * 64);
        memcpy(one->key, all->key + i * 32, sizeof(float) * 32);
        memcpy(one->value, all->value + i * 32, sizeof(float) * 32);
        for (one->step.layer = 0; one->step.layer < 2; one->step.layer++) {
            assert_int_equal(harness_attend(&h, &one->step, &one->result), LW_OK);
            memcpy(alone[one->step.layer][i], one->out, sizeof(float) * 64);
        }
        assert_int_equal(lw_session_truncate(s[i], harness_tokens(s[i]) - 1), LW_OK);
    }
    for (all->step.layer = 0; all->step.layer < 2; all->step.layer++) {
        assert_int_equal(harness_attend(&h, &all->step, &all->result), LW_OK);
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 64; k++)
                assert_true(fabsf(alone[all->step.layer][i][k] - all->out[i * 64 + k]) < 1e-5f);
    }
    free(one);
    free(all);
    for (int i = 0; i < 4; i++)
        lw_session_close(s[i]);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

/* Two branches of one token after the first: token 2 does not see token 1. */
static void test_tree_mask_hides_the_other_branch(void **state)
{
    (void)state;
    harness_t h;
    harness_open(&h, &small, seed_value);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    call_t *c = make_call(&s, 1, 3), *plain = make_call(&s, 1, 2);
    uint32_t mask[3] = {1, 3, 5};
    for (int i = 0; i < 96; i++)
        c->key[i] = c->value[i] = (float)((i * 37) % 17) * 0.1f;
    c->step.tree_mask = mask;
    assert_int_equal(harness_attend(&h, &c->step, &c->result), LW_OK);
    c->step.layer = 1;
    assert_int_equal(harness_attend(&h, &c->step, &c->result), LW_OK);
    assert_int_equal(lw_session_truncate(s, 0), LW_OK);
    /* The same tokens without the hidden branch. */
    memcpy(plain->query, c->query, sizeof(float) * 64);
    memcpy(plain->query + 64, c->query + 128, sizeof(float) * 64);
    for (int i = 0; i < 32; i++) {
        plain->key[i] = c->key[i], plain->value[i] = c->value[i];
        plain->key[32 + i] = c->key[64 + i], plain->value[32 + i] = c->value[64 + i];
    }
    assert_int_equal(harness_attend(&h, &plain->step, &plain->result), LW_OK);
    plain->step.layer = 1;
    assert_int_equal(harness_attend(&h, &plain->step, &plain->result), LW_OK);
    for (int k = 0; k < 64; k++)
        assert_true(fabsf(plain->out[64 + k] - c->out[128 + k]) < 1e-5f);
    mask[1] = 4;
    c->step.layer = 0;
    refused(&h, c, LW_ERR_INVALID, "tree_mask[1] is 0x4");
    free(c);
    free(plain);
    lw_session_close(s);
    harness_close(&h);
}

static void test_operations_complete_once_in_progress(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 2500);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 1300, 325);
    harness_settle(&h);
    if (h.kv->device.async) { /* test_async.c */
        lw_session_close(s);
        harness_close(&h); /* a device may still read the rows */
        sequence_fini(&seq);
        skip();
    }
    call_t *c = make_call(&s, 1, 1);
    lw_op_t op, flush;
    assert_int_equal(lw_attend(h.kv, &c->step, &c->result, &op), LW_INPROGRESS);
    assert_int_equal(op.status, LW_INPROGRESS);
    refused(&h, c, LW_ERR_BUSY, "in flight");
    unsigned completed = 0;
    for (int i = 0; i < 10 && completed == 0; i++)
        completed += lw_progress(h.kv);
    assert_int_equal(completed, 1);
    assert_int_equal(op.status, LW_OK);
    c->step.layer = 1;
    assert_int_equal(lw_attend(h.kv, &c->step, &c->result, &op), LW_INPROGRESS);
    lw_op_cancel(h.kv, &op);
    for (int i = 0; i < 10 && op.status == LW_INPROGRESS; i++)
        lw_progress(h.kv);
    assert_int_equal(op.status, LW_ERR_CANCELED);
    assert_int_equal(harness_tokens(s), 1300); /* taken back */
    assert_int_equal(lw_session_flush(s, &flush), LW_INPROGRESS);
    for (int i = 0; i < 1000 && flush.status == LW_INPROGRESS; i++)
        lw_progress(h.kv);
    assert_int_equal(flush.status, LW_OK);
    assert_int_equal(lw_session_flush(s, &flush), LW_INPROGRESS);
    lw_op_cancel(h.kv, &flush);
    assert_int_equal(lw_progress(h.kv), 1);
    assert_int_equal(flush.status, LW_ERR_CANCELED);
    assert_int_equal(lw_progress(h.kv), 0);
    free(c);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_prefill_pushes_back_when_the_steady_zone_is_full(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 6000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024); /* 3,072 rows */
    fake_store_hold(true);
    uint32_t at = 0;
    lw_status_t status = LW_INPROGRESS;
    lw_op_t op;
    for (; at < 6000 && status == LW_INPROGRESS; at += status == LW_INPROGRESS ? 500 : 0)
        for (uint32_t layer = 0; layer < 2 && status == LW_INPROGRESS; layer++) {
            lw_tensor_t key = {.data = seq.keys + at * 64 + layer * 32,
                               .sessions = 1,
                               .tokens = 500,
                               .heads = 2,
                               .head_dim = 16,
                               .token_stride = 64,
                               .head_stride = 16};
            lw_tensor_t value = key;
            value.data = seq.values + at * 64 + layer * 32;
            status = lw_prefill(s, layer, &key, &value, NULL, &op);
            if (status == LW_INPROGRESS)
                assert_int_equal(lw_progress(h.kv), 1);
        }
    assert_int_equal(status, LW_ERR_BUSY);
    assert_int_equal(at, 3000);
    fake_store_hold(false);
    harness_settle(&h);
    harness_prefill(&h, s, &seq, 3000, 3000, 500); /* waits by itself */
    assert_int_equal(harness_tokens(s), 6000);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_limits_of_a_handle_are_told(void **state)
{
    (void)state;
    static const harness_params_t tiny = {.sessions_max = 1, .tokens_max = 1100};
    harness_t h;
    sequence_t seq;
    harness_open(&h, &tiny, seed_value);
    sequence_init(&seq, &h, 2000);
    sequence_grow(&seq, &h, 2000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024), *more = NULL;
    assert_int_equal(lw_session_open(h.kv, NULL, &more), LW_ERR_EXHAUSTED);
    assert_non_null(strstr(lw_last_error(h.kv), "sessions_max"));
    harness_prefill(&h, s, &seq, 0, 1100, 100);
    call_t *c = make_call(&s, 1, 1);
    refused(&h, c, LW_ERR_INVALID, "tokens_max 1100");
    free(c);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

int main(void)
{
    const char *seed = getenv("LW_TEST_SEED");
    seed_value = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu (LW_TEST_SEED)\n", (unsigned long long)seed_value);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_steps_are_refused_by_name_and_value),
        cmocka_unit_test(test_a_larger_struct_is_understood_when_the_rest_is_zero),
        cmocka_unit_test(test_one_session_cannot_be_twice_in_a_batch),
        cmocka_unit_test(test_a_batch_answers_as_its_sessions_alone),
        cmocka_unit_test(test_tree_mask_hides_the_other_branch),
        cmocka_unit_test(test_operations_complete_once_in_progress),
        cmocka_unit_test(test_prefill_pushes_back_when_the_steady_zone_is_full),
        cmocka_unit_test(test_limits_of_a_handle_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
