/* test_etcd_fleet.c - three real daemons and a real etcd: who is seen by whom and how soon, and a session that is decoded while
 * etcd is stopped, and killed and started again on its data. Argument: the storaged program. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "client/control/control.h"
#include "e2e/client_fleet.h"
#include "unit/storaged/etcd_process.h"

static const char *program;
static uint64_t seed_value;
static lw_error_t error;

static uint64_t now_us(void)
{
    return lw_now_us(lw_clock_real());
}

static void pause_a_little(void) /* between two looks at what other processes do */
{
    const struct timespec pause = {.tv_nsec = 10000000};
    (void)nanosleep(&pause, NULL);
}

#define WAIT_FOR(condition)                                          \
    do {                                                             \
        uint64_t until_us = now_us() + 60000000;                     \
        while (!(condition)) {                                       \
            if (now_us() > until_us)                                 \
                fail_msg("not so within 60 s: " #condition);         \
            pause_a_little();                                        \
        }                                                            \
    } while (0)

static lwc_control_t *control_of(const char *address)
{
    const lwc_control_params_t params = {.size = sizeof(params), .seeds = address, .timeout_us = 5000000};
    lwc_control_t *control = NULL;
    if (lwc_control_open(&params, &control, &error) != LW_OK)
        fail_msg("open %s: %s", address, error.text);
    return control;
}

/* Does this node see its fleet in these states ("UUD": up, up, down)? */
static bool sees(lwc_control_t *control, const char *states, uint64_t *epoch_out)
{
    lw_view_t view;
    if (lwc_control_fleet_get(control, &view, &error) != LW_OK)
        return false;
    bool is = view.node_count == strlen(states);
    for (uint32_t i = 0; i < view.node_count && is; i++)
        is = view.nodes[i].index == i && view.nodes[i].state == (uint32_t)(states[i] == 'U' ? LW_NODE_UP : LW_NODE_DOWN);
    *epoch_out = view.epoch;
    lwc_view_free(&view);
    return is;
}

static bool all_see(lwc_control_t *const *controls, uint32_t count, const char *states)
{
    uint64_t epochs[FLEET_NODES];
    for (uint32_t i = 0; i < count; i++)
        if (!sees(controls[i], states, &epochs[i]) || epochs[i] != epochs[0])
            return false;
    return true;
}

static uint64_t incarnation_of(lwc_control_t *control, uint32_t index)
{
    lw_view_t view;
    assert_int_equal(lwc_control_fleet_get(control, &view, &error), LW_OK);
    uint64_t incarnation = view.nodes[index].incarnation;
    lwc_view_free(&view);
    return incarnation;
}

static void test_a_killed_node_is_down_in_all_views_and_comes_back_with_its_index(void **state)
{
    (void)state;
    client_fleet_t fleet;
    etcd_process_t etcd = {0};
    lwc_control_t *controls[FLEET_NODES];
    etcd_process_start(&etcd);
    client_fleet_start_on(&fleet, program, "tcp", "64m", etcd.endpoint);
    for (uint32_t i = 0; i < FLEET_NODES; i++)
        controls[i] = control_of(fleet.control[i]);
    WAIT_FOR(all_see(controls, FLEET_NODES, "UUU"));
    uint64_t before = incarnation_of(controls[0], 2), start = now_us();
    assert_int_equal(process_end(&fleet.process[2], SIGKILL), 1000 + SIGKILL);
    WAIT_FOR(all_see(controls, 2, "UUD"));
    printf("killed: down in all views after %.1f s\n", (double)(now_us() - start) / 1e6);
    assert_true(now_us() - start < 15000000); /* a lease of 3 s, and a loaded machine */
    start = now_us();
    client_fleet_start_node(&fleet, 2);
    WAIT_FOR(all_see(controls, FLEET_NODES, "UUU"));
    printf("started: up in all views after %.1f s\n", (double)(now_us() - start) / 1e6);
    assert_true(incarnation_of(controls[0], 2) > before);
    before = incarnation_of(controls[0], 1);
    assert_int_equal(process_end(&fleet.process[1], SIGKILL), 1000 + SIGKILL);
    start = now_us();
    client_fleet_start_node(&fleet, 1); /* at once: its lease still runs, and its address is its own */
    WAIT_FOR(all_see(controls, FLEET_NODES, "UUU") && incarnation_of(controls[0], 1) > before);
    printf("killed and started at once: up in all views after %.1f s\n", (double)(now_us() - start) / 1e6);
    for (uint32_t i = 0; i < FLEET_NODES; i++)
        lwc_control_close(controls[i]);
    client_fleet_stop(&fleet);
    etcd_process_remove(&etcd);
}

static void check_step(harness_t *h, lw_session_t *session, const sequence_t *sequence)
{
    result_t result;
    lw_status_t status = harness_step(h, session, sequence, 1, false, &result);
    if (status != LW_OK)
        fail_msg("step at %u: %s: %s", harness_tokens(session), lw_status_string(status), lw_last_error(h->kv));
    double out = result_out_error(&result);
    if (!(out < 1e-4))
        fail_msg("after token %u (%u sealed): out off by %g", harness_tokens(session), harness_sealed(session), out);
    result_fini(&result);
}

/* Steps for `seconds`, each of which fetches from the nodes; the slowest. */
static double step_for(harness_t *h, lw_session_t *session, const sequence_t *sequence, double seconds)
{
    uint64_t until = now_us() + (uint64_t)(seconds * 1e6), slowest = 0;
    uint32_t steps = 0;
    while (now_us() < until && steps < 400) {
        uint64_t start = now_us();
        check_step(h, session, sequence);
        slowest = lw_max_u64(slowest, now_us() - start);
        steps++;
        pause_a_little();
    }
    printf("  %u steps, the slowest %.0f ms\n", steps, (double)slowest / 1e3);
    return (double)slowest;
}

static uint64_t session_id(lw_session_t *session)
{
    lw_session_attr_t attr = {.field_mask = 0};
    return lw_session_query(session, &attr) == LW_OK ? attr.session_id : 0;
}

static bool reopens(harness_t *h, uint64_t id, lw_session_t **out)
{
    const lw_session_params_t again = {.size = sizeof(again), .session_id = id, .policy = LW_POLICY_FULL};
    return lw_session_open(h->kv, &again, out) == LW_OK;
}

static void test_reads_go_on_and_writes_resume_when_etcd_goes_and_comes_back(void **state)
{
    (void)state;
    static const harness_params_t uncached = {.layers = 3, .device_bytes = 64 << 10};
    client_fleet_t fleet;
    etcd_process_t etcd = {0};
    harness_t h, second;
    sequence_t seq;
    etcd_process_start(&etcd);
    client_fleet_start_on(&fleet, program, "tcp", "128m", etcd.endpoint);
    client_fleet_open(&fleet, &h, &uncached, seed_value);
    sequence_init(&seq, &h, 14000);
    sequence_grow(&seq, &h, 12000);
    lw_session_t *s = harness_session(&h, LW_POLICY_FULL, 1024), *again = NULL;
    uint64_t id = session_id(s);
    uint32_t sealed = 4096;
    harness_prefill(&h, s, &seq, 0, 4200, 420);
    harness_settle(&h);
    assert_int_equal(harness_sealed(s), sealed);
    for (int round = 0; round < 2; round++) {
        printf("etcd is %s\n", round ? "killed" : "stopped");
        if (round == 0)
            etcd_process_signal(&etcd, SIGSTOP);
        else
            etcd_process_kill(&etcd);
        (void)step_for(&h, s, &seq, 5); /* longer than the fence and the nodes' leases, less than the session's */
        if (round == 0)
            etcd_process_signal(&etcd, SIGCONT);
        else
            etcd_process_start(&etcd);
        uint64_t start = now_us();
        uint32_t tokens = harness_tokens(s);
        harness_prefill(&h, s, &seq, tokens, sealed + 1300 - tokens, 330); /* another segment is to be sealed */
        harness_settle(&h);
        WAIT_FOR((harness_settle(&h), harness_sealed(s) > sealed));
        printf("  back: sealed again after %.1f s\n", (double)(now_us() - start) / 1e6);
        sealed = harness_sealed(s);
        check_step(&h, s, &seq);
    }
    if (lw_session_flush(s, NULL) != LW_OK)
        fail_msg("flush: %s", lw_last_error(h.kv));
    uint32_t tokens = harness_tokens(s);
    lw_session_close(s);
    client_fleet_open(&fleet, &second, &uncached, seed_value + 1);
    if (!reopens(&second, id, &again)) /* without prefill: nothing was lost */
        fail_msg("reopen: %s", lw_last_error(second.kv));
    assert_int_equal(harness_tokens(again), tokens);
    check_step(&second, again, &seq);
    lw_session_close(again);
    lw_close(second.kv);
    lw_close(h.kv);
    sequence_fini(&seq);
    client_fleet_stop(&fleet);
    etcd_process_remove(&etcd);
}

int main(int argc, char **argv)
{
    if (argc < 2 || !lw_fabric_ucx() || !etcd_process_found())
        return 77;
    program = argv[1];
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    const char *seed = getenv("LW_TEST_SEED");
    seed_value = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu (LW_TEST_SEED)\n", (unsigned long long)seed_value);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_killed_node_is_down_in_all_views_and_comes_back_with_its_index),
        cmocka_unit_test(test_reads_go_on_and_writes_resume_when_etcd_goes_and_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
