/* test_session.c - the library against real daemons: three storaged, one transport (tcp or shm).
 * Arguments: the storaged program, the transport. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "e2e/client_fleet.h"

static const char *program, *transports;
static uint64_t seed_value;
static const harness_params_t small = {.layers = 3};

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

static uint64_t session_id(lw_session_t *session)
{
    lw_session_attr_t attr = {.field_mask = 0};
    return lw_session_query(session, &attr) == LW_OK ? attr.session_id : 0;
}

static void test_life_of_a_session(void **state)
{
    (void)state;
    client_fleet_t fleet;
    harness_t h, second;
    sequence_t seq;
    client_fleet_start(&fleet, program, transports, "128m");
    client_fleet_open(&fleet, &h, &small, seed_value);
    sequence_init(&seq, &h, 12000);
    sequence_grow(&seq, &h, 9000);

    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 2048), *child = NULL;
    uint64_t id = session_id(s);
    harness_prefill(&h, s, &seq, 0, 5500, 500);
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 5120);
    for (uint32_t i = 0; i < 4; i++)
        check_full(&h, s, &seq, 2 * i + 1);
    check_zero(&h, s, &seq);

    /* Segments of one layer step lie on several nodes, and were fetched from them. */
    lw_attr_t attr = {.field_mask = LW_ATTR_NODES | LW_ATTR_TRAFFIC};
    assert_int_equal(lw_query(h.kv, &attr), LW_OK);
    uint32_t used = 0;
    for (uint32_t n = 0; n < attr.node_count; n++)
        used += attr.nodes[n].bytes_fetched > 0;
    assert_true(used >= 2);
    assert_int_equal(attr.checksum_failures, 0);

    assert_int_equal(lw_session_truncate(s, 5510), LW_OK);
    check_zero(&h, s, &seq);
    lw_session_params_t nothing = {.size = sizeof(nothing), .policy = LW_POLICY_NOTHING};
    assert_int_equal(lw_session_fork(s, &nothing, &child), LW_OK);
    check_zero(&h, child, &seq);
    result_t result;
    if (harness_extend(&h, child, &seq, 700, &result) != LW_OK)
        fail_msg("extend: %s", lw_last_error(h.kv));
    assert_true(result_out_error(&result) < 1e-4);
    result_fini(&result);
    check_zero(&h, child, &seq);
    uint64_t child_id = session_id(child);
    assert_int_equal(lw_session_flush(child, NULL), LW_OK);
    lw_session_close(child);
    lw_session_params_t as_child = {
        .size = sizeof(as_child), .session_id = child_id, .policy = LW_POLICY_FULL};
    if (lw_session_open(h.kv, &as_child, &child) !=
        LW_OK) /* its parent's segments are read with its own token */
        fail_msg("reopen of the fork: %s", lw_last_error(h.kv));
    check_full(&h, child, &seq, 2);
    check_zero(&h, child, &seq);
    lw_session_close(child);

    check_full(&h, s, &seq, 3);
    assert_int_equal(lw_session_flush(s, NULL), LW_OK);
    uint32_t tokens = harness_tokens(s);
    lw_session_close(s);

    /* Another handle takes it over, without prefill. */
    client_fleet_open(&fleet, &second, &small, seed_value + 1);
    lw_session_params_t again = {.size = sizeof(again), .session_id = id, .policy = LW_POLICY_FULL};
    if (lw_session_open(second.kv, &again, &s) != LW_OK)
        fail_msg("reopen: %s", lw_last_error(second.kv));
    assert_int_equal(harness_tokens(s), tokens);
    check_full(&second, s, &seq, 4);
    check_zero(&second, s, &seq);
    harness_prefill(&second, s, &seq, harness_tokens(s), 1500, 500); /* seals over the raw tail */
    check_full(&second, s, &seq, 1);
    harness_settle(&second);
    assert_true(harness_sealed(s) > 5120);
    check_full(&second, s, &seq, 1);
    assert_int_equal(lw_session_drop(s), LW_OK);
    lw_session_close(s);
    lw_close(second.kv);
    lw_close(h.kv);
    sequence_fini(&seq);
    client_fleet_stop(&fleet);
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static lw_status_t sealed_steps_until_error(harness_t *h, lw_session_t *s, const sequence_t *seq,
                                            uint64_t *slowest_ms)
{
    lw_status_t status = LW_OK;

    for (int i = 0; i < 20 && status == LW_OK; i++) {
        result_t result;
        uint64_t began = now_ms();
        status = harness_step(h, s, seq, 1, false, &result);
        *slowest_ms = lw_max_u64(*slowest_ms, now_ms() - began);
        if (status == LW_OK && !(result_out_error(&result) < 1e-4))
            fail_msg("a wrong number after the node was lost: off by %g", result_out_error(&result));
        result_fini(&result);
    }
    return status;
}

static void test_killed_node_is_an_error_in_time_and_never_a_wrong_number(void **state)
{
    (void)state;
    client_fleet_t fleet;
    harness_t h;
    sequence_t seq;
    static const harness_params_t uncached = {.layers = 3, .device_bytes = 64 << 10, .replicas = 1};
    client_fleet_start(&fleet, program, transports, "128m");
    client_fleet_open(&fleet, &h, &uncached, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 6000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 4200, 420);
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    check_full(&h, s, &seq, 1);

    assert_int_equal(process_end(&fleet.process[2], SIGKILL), 1000 + SIGKILL);
    uint64_t slowest_ms = 0;
    lw_status_t status = sealed_steps_until_error(&h, s, &seq, &slowest_ms);
    if (status != LW_ERR_UNREACHABLE && status != LW_ERR_TIMEOUT && status != LW_ERR_SESSION_LOST)
        fail_msg("lost node: %s: %s", lw_status_string(status), lw_last_error(h.kv));
    assert_true(strlen(lw_last_error(h.kv)) > 0);
    printf("lost node: %s: %s (slowest step %llu ms)\n", lw_status_string(status), lw_last_error(h.kv),
           (unsigned long long)slowest_ms);
    assert_true(slowest_ms < 8000); /* timeout_us is 5 s */
    lw_session_close(s);

    /* The node comes back, empty: a new session works. */
    client_fleet_start_node(&fleet, 2);
    lw_close(h.kv);
    client_fleet_open(&fleet, &h, &uncached, seed_value + 2);
    s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 2200, 440);
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 2048);
    check_full(&h, s, &seq, 1);
    lw_session_close(s);
    lw_close(h.kv);
    sequence_fini(&seq);
    client_fleet_stop(&fleet);
}

/* What the library does by itself in a fleet of three: two copies, and the other one is asked when a node is late. */
static void test_two_replicas_outlive_a_stop_and_a_kill(void **state)
{
    (void)state;
    client_fleet_t fleet;
    harness_t h;
    sequence_t seq;
    static const harness_params_t uncached = {.layers = 3, .device_bytes = 64 << 10};
    client_fleet_start(&fleet, program, transports, "128m");
    client_fleet_open(&fleet, &h, &uncached, seed_value);
    sequence_init(&seq, &h, 8000);
    sequence_grow(&seq, &h, 6000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024);
    harness_prefill(&h, s, &seq, 0, 4200, 420);
    check_full(&h, s, &seq, 1);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 4096);
    check_full(&h, s, &seq, 1);

    uint64_t stopped_ms = 0, killed_ms = 0;
    assert_int_equal(kill(fleet.process[1].pid, SIGSTOP), 0);
    lw_status_t status = sealed_steps_until_error(&h, s, &seq, &stopped_ms);
    assert_int_equal(kill(fleet.process[1].pid, SIGCONT), 0);
    if (status != LW_OK)
        fail_msg("a node stopped: %s: %s", lw_status_string(status), lw_last_error(h.kv));
    assert_int_equal(process_end(&fleet.process[1], SIGKILL), 1000 + SIGKILL);
    status = sealed_steps_until_error(&h, s, &seq, &killed_ms);
    if (status != LW_OK)
        fail_msg("a node was killed: %s: %s", lw_status_string(status), lw_last_error(h.kv));
    lw_attr_t attr = {.field_mask = LW_ATTR_REPLICAS};
    assert_int_equal(lw_query(h.kv, &attr), LW_OK);
    printf("two replicas: slowest step %llu ms while a node was stopped, %llu ms after it was killed; %llu hedges, %llu won\n",
           (unsigned long long)stopped_ms, (unsigned long long)killed_ms, (unsigned long long)attr.hedges,
           (unsigned long long)attr.hedges_won);
    assert_true(stopped_ms < 1400 && killed_ms < 1400); /* a silent node is given up after 1.5 s */

    uint64_t began_ms = now_ms(); /* what is sealed from now on goes to the two nodes that are left */
    harness_prefill(&h, s, &seq, harness_tokens(s), 1200, 300);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), 5120);
    check_full(&h, s, &seq, 1);
    uint64_t sealed_ms = now_ms() - began_ms;
    printf("two replicas: sealed after the kill within %llu ms\n", (unsigned long long)sealed_ms);
    assert_true(sealed_ms < 8000); /* the view says that the node is down, before an attempt's time of 10 s is over */
    lw_session_close(s);
    lw_close(h.kv);
    client_fleet_start_node(&fleet, 1);
    sequence_fini(&seq);
    client_fleet_stop(&fleet);
}

static void test_full_fleet_evicts_idle_sessions(void **state)
{
    (void)state;
    client_fleet_t fleet;
    harness_t h;
    sequence_t seq;
    uint64_t ids[16];
    uint32_t gone = 0;
    static const harness_params_t single = {.layers = 3, .replicas = 1};
    client_fleet_start(&fleet, program, transports, "16m");
    client_fleet_open(&fleet, &h, &single, seed_value);
    sequence_init(&seq, &h, 9000);
    sequence_grow(&seq, &h, 8300);
    /* 8,192 tokens of 3 layers and 2 heads in fp32: over 6 MiB a session, 48 MiB in the fleet. */
    for (uint32_t i = 0; i < 16; i++) {
        lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 8192);
        ids[i] = session_id(s);
        harness_prefill(&h, s, &seq, 0, 8260, 1180);
        check_full(&h, s, &seq, 1);
        harness_settle(&h);
        if (harness_sealed(s) != 8192) {
            check_full(&h, s, &seq, 1);
            fail_msg("session %u was not sealed", i);
        }
        check_full(&h, s, &seq, 1);
        lw_session_close(s);
    }
    for (uint32_t i = 0; i < 16; i++) {
        lw_session_params_t params = {.size = sizeof(params), .session_id = ids[i], .policy = LW_POLICY_FULL};
        lw_session_t *s = NULL;
        lw_status_t status = lw_session_open(h.kv, &params, &s);
        gone += status != LW_OK;
        if (status != LW_OK)
            continue;
        check_full(&h, s, &seq, 1); /* what is still there is whole */
        lw_session_close(s);
    }
    assert_true(gone >= 8 && gone < 16);
    lw_close(h.kv);
    sequence_fini(&seq);
    client_fleet_stop(&fleet);
}

int main(int argc, char **argv)
{
    if (argc < 3 || !lw_fabric_ucx())
        return 77;
    program = argv[1];
    transports = argv[2];
    if (argc > 3)
        cmocka_set_test_filter(argv[3]);
    const char *seed = getenv("LW_TEST_SEED");
    seed_value = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu (LW_TEST_SEED), %s\n", (unsigned long long)seed_value, transports);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_life_of_a_session),
        cmocka_unit_test(test_killed_node_is_an_error_in_time_and_never_a_wrong_number),
        cmocka_unit_test(test_two_replicas_outlive_a_stop_and_a_kill),
        cmocka_unit_test(test_full_fleet_evicts_idle_sessions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
