/* test_session.c - whole sessions over the fake store: what goes in is attended, whatever happened in
 * between. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "quick.h"
#include "unit/client/fake_store.h"
#include "unit/client/harness.h"

static uint64_t seed_value;
static const harness_params_t small = {.layers = 2};

/* Everything retrieved: the answer is exact attention. */
static void check_full(harness_t *h, lw_session_t *session, const sequence_t *sequence, uint32_t tokens)
{
    result_t result;
    lw_status_t status = harness_step(h, session, sequence, tokens, false, &result);
    if (status != LW_OK)
        fail_msg("step at %u: %s: %s", harness_tokens(session), lw_status_string(status),
                 lw_last_error(h->kv));
    double out = result_out_error(&result), lse = result_lse_error(&result);
    if (!(out < 1e-4) || !(lse < 1e-4))
        fail_msg("after token %u (%u sealed): out off by %g, lse by %g", harness_tokens(session),
                 harness_sealed(session), out, lse);
    result_fini(&result);
}

/* q = 0: every token counts once, whatever the policy. The tokens of this step come after those that are
 * checked. */
static void check_zero(harness_t *h, lw_session_t *session, const sequence_t *sequence)
{
    result_t result;
    lw_status_t status = harness_step(h, session, sequence, 1, true, &result);
    if (status != LW_OK)
        fail_msg("step at %u: %s: %s", harness_tokens(session), lw_status_string(status),
                 lw_last_error(h->kv));
    double lse = result_lse_error(&result);
    if (!(lse < 1e-5 * log(harness_tokens(session))))
        fail_msg("zero query after token %u (%u sealed): lse off by %g", harness_tokens(session),
                 harness_sealed(session), lse);
    result_fini(&result);
}

static void test_short_session_is_attended_exactly(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 64);
    sequence_grow(&seq, &h, 40);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    for (int i = 0; i < 3; i++)
        check_full(&h, s, &seq, 1);
    harness_prefill(&h, s, &seq, 3, 20, 7);
    check_full(&h, s, &seq, 8);
    assert_int_equal(harness_tokens(s), 31);
    assert_int_equal(harness_sealed(s), 0);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_sealed_tokens_are_retrieved_exactly(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 5000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 2048);
    harness_prefill(&h, s, &seq, 0, 4500, 300);
    check_full(&h, s, &seq, 1); /* ends the prefill */
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 4096);
    for (int i = 0; i < 4; i++)
        check_full(&h, s, &seq, 1 + (uint32_t)i);
    check_zero(&h, s, &seq);
    lw_attr_t attr = {.field_mask = LW_ATTR_ATTENTION | LW_ATTR_TRAFFIC | LW_ATTR_MEMORY | LW_ATTR_NODES |
                                    LW_ATTR_BACKEND | LW_ATTR_FLEET};
    assert_int_equal(lw_query(h.kv, &attr), LW_OK);
    assert_true(attr.hits > 0 && attr.misses > 0 && attr.bytes_fetched > 0 && attr.bytes_shipped > 0);
    assert_int_equal(attr.node_count, 3);
    assert_string_equal(attr.backend, h.kv->device.backend->name);
    uint64_t on_nodes = 0;
    for (uint32_t n = 0; n < 3; n++)
        on_nodes += attr.nodes[n].bytes_stored;
    assert_true(on_nodes > 0 && on_nodes <= attr.bytes_shipped);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_zero_query_counts_every_token_once_in_every_policy(void **state)
{
    (void)state;
    static const uint32_t policies[] = {LW_POLICY_EXPECTED_MAX, LW_POLICY_FULL, LW_POLICY_NOTHING};
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 3300);
    lw_session_t *parent = harness_session(&h, LW_POLICY_DEFAULT, 1024);
    harness_prefill(&h, parent, &seq, 0, 3200, 500);
    harness_settle(&h);
    for (size_t p = 0; p < LW_ARRAY_SIZE(policies); p++) {
        lw_session_params_t params = {.size = sizeof(params), .policy = policies[p]};
        lw_session_t *child = NULL;
        assert_int_equal(lw_session_fork(parent, &params, &child), LW_OK);
        for (int i = 0; i < 3; i++)
            check_zero(&h, child, &seq);
        lw_session_close(child);
    }
    check_zero(&h, parent, &seq);
    harness_settle(&h);
    check_zero(&h, parent, &seq); /* after the seal at the prefill's end */
    assert_int_equal(harness_sealed(parent), 3072);
    lw_session_close(parent);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_decoding_seals_the_oldest_unit(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 1300);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 1080, 270);
    for (uint32_t i = 0; i < 7; i++)
        check_full(&h, s, &seq, 1);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 0); /* 1,087 */
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 1024); /* at 64 + 1,024 */
    check_full(&h, s, &seq, 8);
    check_zero(&h, s, &seq);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_fork_shares_ranges_and_copies_the_rest(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq, other;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 2500);
    lw_session_t *parent = harness_session(&h, LW_POLICY_FULL, 1024), *child = NULL;
    harness_prefill(&h, parent, &seq, 0, 2200, 400);
    harness_settle(&h);
    uint32_t stored = fake_store_segments();
    assert_int_equal(lw_session_fork(parent, NULL, &child), LW_OK);
    assert_int_equal(harness_tokens(child), 2200);
    assert_int_equal(harness_sealed(child), harness_sealed(parent));
    assert_int_equal(fake_store_segments(), stored);
    /* They go on differently. */
    sequence_init(&other, &h, 8000);
    sequence_grow(&other, &h, 2200);
    size_t bytes =
        2200 * (size_t)h.model.layer_count * h.model.kv_head_count * h.model.head_dim * sizeof(float);
    memcpy(other.keys, seq.keys, bytes);
    memcpy(other.values, seq.values, bytes);
    sequence_grow(&other, &h, 1400);
    check_full(&h, parent, &seq, 2);
    check_full(&h, child, &other, 3);
    harness_prefill(&h, child, &other, 2203, 1200, 300);
    lw_session_close(parent); /* the child keeps what it shares */
    check_full(&h, child, &other, 1);
    harness_settle(&h);
    assert_int_equal(harness_sealed(child), 3072);
    check_full(&h, child, &other, 4);
    check_zero(&h, child, &other);
    lw_session_close(child);
    sequence_fini(&seq);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&other);
}

static lw_session_t *reopen(harness_t *h, uint64_t id, uint32_t policy);
static uint64_t session_id(lw_session_t *session);

static void test_flushed_fork_reopens_without_its_parent(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 6000);
    sequence_grow(&seq, &h, 5000);
    lw_session_t *parent = harness_session(&h, LW_POLICY_FULL, 1024), *child = NULL;
    harness_prefill(&h, parent, &seq, 0, 2200, 400);
    harness_settle(&h);
    assert_int_equal(lw_session_fork(parent, NULL, &child), LW_OK);
    uint64_t id = session_id(child);
    harness_prefill(&h, child, &seq, 2200, 1500, 500);
    assert_int_equal(lw_session_flush(child, NULL), LW_OK);
    lw_session_close(child);
    assert_int_equal(lw_session_drop(parent), LW_OK);
    lw_session_close(parent);
    child = reopen(&h, id, LW_POLICY_FULL);
    assert_int_equal(harness_tokens(child), 3700);
    check_full(&h, child, &seq, 2);
    check_zero(&h, child, &seq);
    lw_session_close(child);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

/* A range that is committed but not yet published belongs to the parent alone. */
static void test_fork_in_mid_seal_copies_what_is_being_sealed(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 3000);
    for (uint32_t rounds = 0; rounds < 24; rounds += quick_count(3, 7)) {
        lw_session_t *parent = harness_session(&h, LW_POLICY_FULL, 1024), *child = NULL;
        harness_prefill(&h, parent, &seq, 0, 1200, 400);
        for (uint32_t i = 0; i < rounds; i++)
            lwc_keeper_round(&h.kv->keeper, lwc_now(h.kv));
        if (lw_session_fork(parent, NULL, &child) != LW_OK)
            fail_msg("fork after %u rounds: %s", rounds, lw_last_error(h.kv));
        check_full(&h, child, &seq, 1);
        harness_settle(&h);
        check_full(&h, child, &seq, 1);
        check_full(&h, parent, &seq, 1);
        assert_int_equal(harness_sealed(child), 1024);
        assert_int_equal(harness_sealed(parent), 1024);
        lw_session_close(child);
        lw_session_close(parent);
    }
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_fork_refuses_another_index(void **state)
{
    (void)state;
    harness_t h;
    harness_open(&h, &small, seed_value);
    lw_session_t *parent = harness_session(&h, LW_POLICY_FULL, 1024), *child = NULL;
    lw_session_params_t params = {.size = sizeof(params), .policy = LW_POLICY_PAPER, .cluster_tokens = 32};
    assert_int_equal(lw_session_fork(parent, &params, &child), LW_ERR_INVALID);
    assert_non_null(strstr(lw_last_error(h.kv), "cluster_tokens is 32"));
    assert_null(child);
    lw_session_close(parent);
    harness_close(&h);
}

static void test_truncate_takes_tokens_back(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 2000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 1300, 325);
    check_full(&h, s, &seq, 8);
    harness_settle(&h);
    assert_int_equal(lw_session_truncate(s, 1023), LW_ERR_INVALID);
    assert_int_equal(lw_session_truncate(s, 1309), LW_ERR_INVALID);
    assert_int_equal(lw_session_truncate(s, 1301), LW_OK);
    assert_int_equal(harness_tokens(s), 1301);
    check_full(&h, s, &seq, 5);
    assert_int_equal(lw_session_truncate(s, 1024), LW_OK);
    check_zero(&h, s, &seq);
    check_full(&h, s, &seq, 3);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_extend_is_exact_over_everything(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 4000);
    lw_session_t *s = harness_session(&h, LW_POLICY_NOTHING, 1024);
    result_t result;
    uint32_t sizes[] = {3, 2, 300, 1, 800, 64, 1000};
    size_t count = quick_count(LW_ARRAY_SIZE(sizes), LW_ARRAY_SIZE(sizes) - 1);
    for (size_t i = 0; i < count; i++) {
        if (harness_extend(&h, s, &seq, sizes[i], &result) != LW_OK)
            fail_msg("extend: %s", lw_last_error(h.kv));
        if (!(result_out_error(&result) < 1e-4))
            fail_msg("extend by %u to %u: off by %g", sizes[i], harness_tokens(s), result_out_error(&result));
        result_fini(&result);
        harness_settle(&h);
    }
    assert_int_equal(harness_sealed(s), quick_count(2048, 1024));
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static lw_session_t *reopen(harness_t *h, uint64_t id, uint32_t policy)
{
    lw_session_params_t params = {.size = sizeof(params), .session_id = id, .policy = policy};
    lw_session_t *session = NULL;
    if (lw_session_open(h->kv, &params, &session) != LW_OK)
        fail_msg("reopen: %s", lw_last_error(h->kv));
    return session;
}

static uint64_t session_id(lw_session_t *session)
{
    lw_session_attr_t attr = {.field_mask = 0};
    return lw_session_query(session, &attr) == LW_OK ? attr.session_id : 0;
}

static void test_flushed_session_reopens_with_the_same_answers(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 6000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 2048);
    uint64_t id = session_id(s);
    uint32_t rounds = quick_count(3, 2);
    harness_prefill(&h, s, &seq, 0, 3500, 350);
    check_full(&h, s, &seq, 1);
    assert_int_equal(lw_session_flush(s, NULL), LW_OK);
    lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_TOKENS};
    assert_int_equal(lw_session_query(s, &attr), LW_OK);
    assert_int_equal(attr.committed_tokens, 3501);
    assert_int_equal(lw_session_flush(s, NULL), LW_OK); /* nothing new: nothing to do */
    lw_session_close(s);
    for (uint32_t round = 0; round < rounds; round++) {
        s = reopen(&h, id, LW_POLICY_FULL);
        assert_int_equal(harness_tokens(s), 3501 + 4 * round);
        check_full(&h, s, &seq, 3);
        check_zero(&h, s, &seq);
        assert_int_equal(lw_session_flush(s, NULL), LW_OK); /* replaces the raw tail */
        lw_session_close(s);
    }
    s = reopen(&h, id, LW_POLICY_FULL);
    harness_prefill(&h, s, &seq, 3501 + 4 * rounds, 2000, 500); /* seals over the raw tail */
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 5120);
    check_full(&h, s, &seq, 2);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_flush_twice_in_one_life_replaces_the_raw_tail(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 2000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    uint64_t id = session_id(s);
    harness_prefill(&h, s, &seq, 0, 100, 50);
    assert_int_equal(lw_session_flush(s, NULL), LW_OK);
    check_full(&h, s, &seq, 5);
    assert_int_equal(lw_session_flush(s, NULL), LW_OK);
    assert_int_equal(lw_session_truncate(s, 102), LW_OK);
    assert_int_equal(lw_session_flush(s, NULL), LW_OK);
    harness_prefill(&h, s, &seq, 102, 1100, 110);
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 1024);
    lw_session_close(s);
    s = reopen(&h, id, LW_POLICY_FULL);
    assert_int_equal(harness_tokens(s), 1024); /* what was not flushed is gone */
    check_full(&h, s, &seq, 1);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_damaged_index_is_corrupt_at_reopen(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 1500);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    uint64_t id = session_id(s);
    harness_prefill(&h, s, &seq, 0, 1200, 300);
    assert_int_equal(lw_session_flush(s, NULL), LW_OK);
    lw_session_close(s);
    assert_true(fake_store_corrupt(1, 0, true));
    lw_session_params_t params = {.size = sizeof(params), .session_id = id};
    assert_int_equal(lw_session_open(h.kv, &params, &s), LW_ERR_CORRUPT);
    assert_non_null(strstr(lw_last_error(h.kv), "index"));
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_damaged_record_fails_the_step_and_never_answers(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    result_t result;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 1500);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 1200, 300);
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    assert_true(fake_store_corrupt(1, 0, false));
    assert_int_equal(harness_step(&h, s, &seq, 1, false, &result), LW_ERR_CORRUPT);
    assert_non_null(strstr(lw_last_error(h.kv), "damaged"));
    result_fini(&result);
    assert_int_equal(harness_tokens(s), 1201); /* the step's token was taken back */
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_lost_node_fails_the_step_in_words_and_its_return_mends_it(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    result_t result;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 4500);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 4300, 430);
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    for (uint16_t n = 0; n < 3; n++)
        fake_store_node_down(n, true);
    assert_int_equal(harness_step(&h, s, &seq, 2, false, &result), LW_ERR_UNREACHABLE);
    assert_non_null(strstr(lw_last_error(h.kv), "is down"));
    result_fini(&result);
    for (uint16_t n = 0; n < 3; n++)
        fake_store_node_down(n, false);
    check_full(&h, s, &seq, 2);
    check_full(&h, s, &seq, 1);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_silent_fleet_times_out(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    result_t result;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 1500);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 1200, 300);
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    fake_store_hold(true);
    h.step_timeout_us = 300000;
    assert_int_equal(harness_step(&h, s, &seq, 1, false, &result), LW_ERR_TIMEOUT);
    h.step_timeout_us = 0;
    result_fini(&result);
    fake_store_hold(false);
    check_full(&h, s, &seq, 1);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_full_fleet_pushes_back_and_then_fails_the_session(void **state)
{
    (void)state;
    static const harness_params_t impatient = {.layers = 2, .impatient = true};
    harness_t h;
    sequence_t seq;
    harness_open(&h, &impatient, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 4000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    fake_store_full(true);
    harness_prefill(&h, s, &seq, 0, 1500, 500);
    for (int i = 0; i < 3000; i++)
        lw_progress(h.kv);
    fake_store_full(false); /* within the deadline: shipped after all */
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 1024);
    fake_store_full(true);
    harness_prefill(&h, s, &seq, 1500, 1500, 500);
    harness_settle(&h);
    result_t result;
    assert_int_equal(harness_step(&h, s, &seq, 1, false, &result), LW_ERR_EXHAUSTED);
    assert_non_null(strstr(lw_last_error(h.kv), "full"));
    result_fini(&result);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_small_cache_and_small_landing_do_not_change_answers(void **state)
{
    (void)state;
    static const harness_params_t tight = {
        .layers = 3,
        .device_bytes = 96 << 10,
        .config = "client.landing_bytes=2m;client.tickets=8192;cache.admit_window=0;client.admit_layers=1"};
    harness_t h;
    sequence_t seq;
    harness_open(&h, &tight, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 3500);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 3300, 330);
    for (int i = 0; i < 6; i++) {
        check_full(&h, s, &seq, 1 + (uint32_t)i);
        harness_settle(&h);
    }
    check_zero(&h, s, &seq);
    /* What one step wants stays; pages are won from what it did not want. */
    lw_session_params_t sparse = {
        .size = sizeof(sparse), .policy = LW_POLICY_EXPECTED_MAX, .retrieve_ppm = 60000};
    lw_session_t *child = NULL;
    assert_int_equal(lw_session_fork(s, &sparse, &child), LW_OK);
    for (int i = 0; i < 12; i++) {
        result_t result;
        assert_int_equal(harness_step(&h, child, &seq, 1, false, &result), LW_OK);
        result_fini(&result);
    }
    check_full(&h, s, &seq, 1);
    check_zero(&h, child, &seq);
    lw_attr_t attr = {.field_mask = LW_ATTR_ATTENTION};
    assert_int_equal(lw_query(h.kv, &attr), LW_OK);
    assert_true(attr.evicted > 0 && attr.hits > 0);
    lw_session_close(child);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_prefetch_brings_records_without_changing_answers(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 1500);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 1300, 325);
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    float query[4 * 16] = {0};
    for (int i = 0; i < 64; i++)
        query[i] = (float)lw_prng_unit(&h.prng) - 0.5f;
    lw_session_t *sessions[1] = {s};
    lw_step_t step = {.size = sizeof(step),
                      .layer = 1,
                      .sessions = sessions,
                      .session_count = 1,
                      .query = {.data = query, .sessions = 1, .tokens = 1, .heads = 4, .head_dim = 16}};
    assert_int_equal(lw_prefetch(h.kv, &step, NULL), LW_OK);
    lw_op_t op;
    step.layer = 0;
    assert_int_equal(lw_prefetch(h.kv, &step, &op), LW_INPROGRESS);
    assert_int_equal(op.status, LW_INPROGRESS);
    assert_int_equal(lw_progress(h.kv), 1);
    assert_int_equal(op.status, LW_OK);
    assert_int_equal(harness_tokens(s), 1301);
    check_full(&h, s, &seq, 2);
    check_zero(&h, s, &seq);
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_drop_ends_the_session(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 2000);
    sequence_grow(&seq, &h, 1300);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    uint64_t id = session_id(s);
    harness_prefill(&h, s, &seq, 0, 1200, 300);
    assert_int_equal(lw_session_pin(s, 1), LW_OK);
    assert_int_equal(lw_session_pin(s, 0), LW_OK);
    assert_int_equal(lw_session_drop(s), LW_OK);
    lw_session_close(s);
    lw_session_params_t params = {.size = sizeof(params), .session_id = id};
    assert_int_equal(lw_session_open(h.kv, &params, &s), LW_ERR_NOT_FOUND);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_close_in_mid_seal_leaves_nothing_behind(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &small, seed_value);
    sequence_init(&seq, &h, 4000);
    sequence_grow(&seq, &h, 3000);
    for (uint32_t i = 0; i < 6; i += quick_count(1, 2)) {
        lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
        harness_prefill(&h, s, &seq, 0, 1400, 350);
        for (uint32_t k = 0; k < 3 * i; k++)
            lw_progress(h.kv);
        lw_session_close(s);
        harness_drain(&h);
        assert_int_equal(lwc_arena_used(&h.kv->arena), 0);
        for (uint32_t row = 0; row < h.kv->directory.row_capacity; row++)
            assert_int_equal(h.kv->directory.rows[row].holders, 0);
    }
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

int main(void)
{
    const char *seed = getenv("LW_TEST_SEED");
    seed_value = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu (LW_TEST_SEED)\n", (unsigned long long)seed_value);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_short_session_is_attended_exactly),
        cmocka_unit_test(test_sealed_tokens_are_retrieved_exactly),
        cmocka_unit_test(test_zero_query_counts_every_token_once_in_every_policy),
        cmocka_unit_test(test_decoding_seals_the_oldest_unit),
        cmocka_unit_test(test_fork_shares_ranges_and_copies_the_rest),
        cmocka_unit_test(test_flushed_fork_reopens_without_its_parent),
        cmocka_unit_test(test_fork_in_mid_seal_copies_what_is_being_sealed),
        cmocka_unit_test(test_fork_refuses_another_index),
        cmocka_unit_test(test_truncate_takes_tokens_back),
        cmocka_unit_test(test_extend_is_exact_over_everything),
        cmocka_unit_test(test_flushed_session_reopens_with_the_same_answers),
        cmocka_unit_test(test_flush_twice_in_one_life_replaces_the_raw_tail),
        cmocka_unit_test(test_damaged_index_is_corrupt_at_reopen),
        cmocka_unit_test(test_damaged_record_fails_the_step_and_never_answers),
        cmocka_unit_test(test_lost_node_fails_the_step_in_words_and_its_return_mends_it),
        cmocka_unit_test(test_silent_fleet_times_out),
        cmocka_unit_test(test_full_fleet_pushes_back_and_then_fails_the_session),
        cmocka_unit_test(test_small_cache_and_small_landing_do_not_change_answers),
        cmocka_unit_test(test_prefetch_brings_records_without_changing_answers),
        cmocka_unit_test(test_drop_ends_the_session),
        cmocka_unit_test(test_close_in_mid_seal_leaves_nothing_behind),
    };
    cmocka_set_test_filter(getenv("LW_TEST_FILTER")); /* a pattern; NULL: all */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
