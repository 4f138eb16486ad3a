/* test_local.c - local mode: the same answers without a fleet, on host and asynchronous backends; the memory is given back,
 * and what needs a fleet is refused by name. Run once for each backend (LW_TEST_BACKEND). */
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
static const harness_params_t local = {.layers = 2, .local = true, .config = "local.bytes=64m"};

static void check(harness_t *h, lw_session_t *session, const sequence_t *sequence, uint32_t tokens, bool zero)
{
    result_t result;
    lw_status_t status = harness_step(h, session, sequence, tokens, zero, &result);
    if (status != LW_OK)
        fail_msg("step at %u: %s: %s", harness_tokens(session), lw_status_string(status), lw_last_error(h->kv));
    double off = zero ? result_lse_error(&result) / 10 : fmax(result_out_error(&result), result_lse_error(&result));
    if (!(off < (zero ? 1e-5 : 1e-4)))
        fail_msg("after token %u (%u sealed): off by %g", harness_tokens(session), harness_sealed(session), off);
    result_fini(&result);
}

static void test_sealed_tokens_are_attended_where_they_lie(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &local, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 5000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 2048);
    harness_prefill(&h, s, &seq, 0, 4500, 300);
    check(&h, s, &seq, 1, false);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 4096);
    for (uint32_t i = 0; i < 4; i++)
        check(&h, s, &seq, 1 + i, false);
    check(&h, s, &seq, 1, true);
    lw_attr_t attr = {.field_mask = LW_ATTR_ATTENTION | LW_ATTR_TRAFFIC | LW_ATTR_MEMORY | LW_ATTR_NODES};
    assert_int_equal(lw_query(h.kv, &attr), LW_OK);
    assert_true(attr.hits > 0 && attr.misses > 0);
    assert_int_equal(attr.bytes_fetched, 0);
    assert_int_equal(attr.node_count, 0);
    assert_true(attr.host_bytes > 4096 * 2 * 2 * 128); /* layers, heads, bytes of a row pair */
    assert_int_equal(fake_store_segments(), 0);
    lw_session_close(s);
    harness_drain(&h);
    assert_int_equal(lwc_arena_used(&h.kv->local.arena), 0);
    assert_int_equal(lwc_arena_used(&h.kv->arena), 0);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_forks_share_records_and_outlive_their_parent(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    harness_open(&h, &local, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 5000);
    lw_session_t *parent = harness_session(&h, LW_POLICY_FULL, 1024), *child = NULL;
    harness_prefill(&h, parent, &seq, 0, 2200, 400);
    harness_settle(&h);
    uint64_t used = lwc_arena_used(&h.kv->local.arena);
    assert_int_equal(lw_session_fork(parent, NULL, &child), LW_OK);
    assert_int_equal(harness_tokens(child), 2200);
    assert_int_equal(lwc_arena_used(&h.kv->local.arena), used);
    check(&h, child, &seq, 3, false);
    check(&h, parent, &seq, 2, false);
    assert_int_equal(lw_session_drop(parent), LW_OK);
    lw_session_close(parent);
    harness_prefill(&h, child, &seq, harness_tokens(child), 1500, 500);
    check(&h, child, &seq, 1, false);
    harness_settle(&h);
    assert_int_equal(harness_sealed(child), 3072);
    check(&h, child, &seq, 4, false);
    check(&h, child, &seq, 1, true);
    assert_int_equal(lw_session_truncate(child, harness_tokens(child) - 5), LW_OK);
    check(&h, child, &seq, 2, false);
    lw_session_close(child);
    harness_drain(&h);
    assert_int_equal(lwc_arena_used(&h.kv->local.arena), 0);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_extend_reads_records_in_place(void **state)
{
    (void)state;
    harness_t h;
    sequence_t seq;
    result_t result;
    harness_open(&h, &local, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 4000);
    lw_session_t *s = harness_session(&h, LW_POLICY_NOTHING, 1024);
    static const uint32_t sizes[] = {900, 300, 64, 1, 1000};
    size_t count = quick_count(LW_ARRAY_SIZE(sizes), LW_ARRAY_SIZE(sizes) - 1);
    for (size_t i = 0; i < count; i++) {
        if (harness_extend(&h, s, &seq, sizes[i], &result) != LW_OK)
            fail_msg("extend: %s", lw_last_error(h.kv));
        if (!(result_out_error(&result) < 1e-4))
            fail_msg("extend by %u to %u: off by %g", sizes[i], harness_tokens(s), result_out_error(&result));
        result_fini(&result);
        harness_settle(&h);
    }
    assert_true(harness_sealed(s) >= 1024);
    assert_int_equal(lw_session_flush(s, NULL), LW_OK); /* there is nowhere to flush to */
    lw_session_close(s);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_full_local_memory_fails_the_session_in_words(void **state)
{
    (void)state;
    static const harness_params_t tight = {
        .layers = 2, .local = true, .impatient = true, .config = "local.bytes=1m"};
    harness_t h;
    sequence_t seq;
    result_t result;
    harness_open(&h, &tight, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 7000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 2200, 300); /* a megabyte has room for one range */
    check(&h, s, &seq, 1, false);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 1024);
    assert_int_equal(harness_step(&h, s, &seq, 1, false, &result), LW_ERR_EXHAUSTED);
    assert_non_null(strstr(lw_last_error(h.kv), "local.bytes"));
    result_fini(&result);
    lw_session_close(s);
    harness_drain(&h);
    assert_int_equal(lwc_arena_used(&h.kv->local.arena), 0);
    harness_close(&h); /* a device may still read the rows */
    sequence_fini(&seq);
}

static void test_what_needs_a_fleet_is_refused(void **state)
{
    (void)state;
    harness_t h;
    harness_open(&h, &local, seed_value);
    lw_session_params_t params = {.size = sizeof(params), .session_id = 77};
    lw_session_t *s = NULL;
    assert_int_equal(lw_session_open(h.kv, &params, &s), LW_ERR_NOT_FOUND);
    assert_non_null(strstr(lw_last_error(h.kv), "local mode"));
    s = harness_session(&h, LW_POLICY_FULL, 1024);
    assert_int_equal(lw_session_pin(s, 1), LW_OK);
    lw_session_close(s);
    harness_close(&h);
}

int main(void)
{
    const char *seed = getenv("LW_TEST_SEED");
    seed_value = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu (LW_TEST_SEED)\n", (unsigned long long)seed_value);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sealed_tokens_are_attended_where_they_lie),
        cmocka_unit_test(test_forks_share_records_and_outlive_their_parent),
        cmocka_unit_test(test_extend_reads_records_in_place),
        cmocka_unit_test(test_full_local_memory_fails_the_session_in_words),
        cmocka_unit_test(test_what_needs_a_fleet_is_refused),
    };
    cmocka_set_test_filter(getenv("LW_TEST_FILTER")); /* a pattern; NULL: all */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
