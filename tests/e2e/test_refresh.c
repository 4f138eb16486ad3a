/* test_refresh.c - a session that goes on decoding while the nodes that hold it leave, one after the other, and come back:
 * four real daemons, two copies, every copy moved at least once. Arguments: the storaged program, the transport. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "e2e/client_fleet.h"

#define NODES 4u
#define STEPS_MAX 4000u

static const char *program, *transports;
static uint64_t seed_value;
static const char *const options[] = {"--lease.us", "500ms", "--move.repair_after_us", "300ms", "--move.scan_us", "1s",
                                      "--stop.drain_us", "30s", NULL};

typedef struct run {
    client_fleet_t fleet;
    harness_t h;
    sequence_t seq;
    lw_session_t *session;
    char seeds[NODES * 64];
    uint32_t steps;
    uint64_t slowest_us;
} run_t;

static uint64_t now_us(void)
{
    return lw_now_us(lw_clock_real());
}

static void step(run_t *run)
{
    result_t result;
    uint64_t attended_us = run->h.attend_us;
    if (harness_tokens(run->session) == run->seq.count)
        assert_int_equal(lw_session_truncate(run->session, run->seq.count - 64), LW_OK);
    lw_status_t status = harness_step(&run->h, run->session, &run->seq, 1, false, &result);
    if (status != LW_OK)
        fail_msg("step %u: %s: %s", run->steps, lw_status_string(status), lw_last_error(run->h.kv));
    run->slowest_us = lw_max_u64(run->slowest_us, run->h.attend_us - attended_us);
    if (!(result_out_error(&result) < 1e-4))
        fail_msg("step %u: a wrong number: off by %g", run->steps, result_out_error(&result));
    result_fini(&result);
    run->steps++;
    (void)lw_progress(run->h.kv);
}

/* The session decodes until the node has given its copies away and ended. */
static void decode_through_drain(run_t *run, uint32_t node)
{
    process_t *process = &run->fleet.process[node];
    uint32_t first = run->steps;
    uint64_t began_us = now_us();
    int status = 0;
    assert_int_equal(kill(process->pid, SIGTERM), 0);
    while (waitpid(process->pid, &status, WNOHANG) == 0) {
        if (run->steps - first > STEPS_MAX || now_us() - began_us > 60000000u)
            fail_msg("node %u was not drained: %s", node, process_errors(process));
        step(run);
    }
    process->pid = 0;
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    printf("node %u drained in %.2f s, %u steps meanwhile\n", node, (double)(now_us() - began_us) * 1e-6, run->steps - first);
    for (uint32_t i = 0; i < 20; i++)
        step(run);
}

static void start(run_t *run)
{
    static const harness_params_t uncached = {.layers = 2, .device_bytes = 64 << 10};
    memset(run, 0, sizeof(*run));
    client_fleet_start_with(&run->fleet, program, transports, "128m", NODES, options);
    for (uint32_t i = NODES; i-- > 0;) { /* the node that leaves first is the one that calls go to */
        strcat(run->seeds, run->fleet.control[i]);
        strcat(run->seeds, i > 0 ? "," : "");
    }
    run->fleet.seeds = run->seeds;
    client_fleet_open(&run->fleet, &run->h, &uncached, seed_value);
    run->h.replicas = 2;
    sequence_init(&run->seq, &run->h, 9000);
    sequence_grow(&run->seq, &run->h, 9000);
    run->session = harness_session(&run->h, LW_POLICY_FULL, 1024);
    harness_prefill(&run->h, run->session, &run->seq, 0, 4200, 420);
    step(run);
    harness_settle(&run->h);
    assert_int_equal(harness_sealed(run->session), 4096);
    step(run);
}

static void stop(run_t *run)
{
    assert_int_equal(lw_session_drop(run->session), LW_OK);
    lw_session_close(run->session);
    lw_close(run->h.kv);
    sequence_fini(&run->seq);
    client_fleet_stop(&run->fleet);
}

static void test_decoding_goes_on_while_the_nodes_leave_and_come_back(void **state)
{
    run_t run;
    lw_error_t error;
    (void)state;
    start(&run);
    decode_through_drain(&run, 3);
    decode_through_drain(&run, 2);
    uint32_t sealed = harness_sealed(run.session); /* writing goes on, too, with the nodes that are left */
    harness_prefill(&run.h, run.session, &run.seq, harness_tokens(run.session), 1200, 300);
    harness_settle(&run.h);
    assert_true(harness_sealed(run.session) > sealed);
    client_fleet_start_node(&run.fleet, 2);
    client_fleet_start_node(&run.fleet, 3);
    for (uint64_t until_us = now_us() + 4000000; now_us() < until_us;) /* copies go back to where they belong */
        step(&run);
    decode_through_drain(&run, 1); /* what is left of the first placement */
    lw_attr_t attr = {.field_mask = LW_ATTR_TRAFFIC};
    assert_int_equal(lw_query(run.h.kv, &attr), LW_OK);
    printf("%u steps, the slowest %.1f ms\n", run.steps, (double)run.slowest_us * 1e-3);
    assert_int_equal(attr.checksum_failures, 0);
    lwc_store_answer_t answer;
    assert_int_equal(lwc_route_ask(run.h.kv, &answer, &error), LW_OK);
    printf("%llu manifests read again, %llu segments found elsewhere\n", (unsigned long long)answer.stats.refreshes,
           (unsigned long long)answer.stats.segments_moved);
    assert_true(answer.stats.segments_moved > 0);
    client_fleet_start_node(&run.fleet, 1);
    for (uint32_t i = 0; i < 20; i++)
        step(&run);
    stop(&run);
}

/* Another client drops the session: an answer, not a wait. */
static void test_a_session_that_another_client_drops_is_lost_clearly(void **state)
{
    run_t run;
    result_t result;
    lw_error_t error;
    lw_session_attr_t attr = {.field_mask = 0};
    lwc_control_t *other;
    (void)state;
    start(&run);
    const lwc_control_params_t params = {.size = sizeof(params), .seeds = run.fleet.addresses};
    assert_int_equal(lw_session_query(run.session, &attr), LW_OK);
    assert_int_equal(lwc_control_open(&params, &other, &error), LW_OK);
    if (lwc_control_drop(other, attr.session_id, &error) != LW_OK)
        fail_msg("drop: %s", error.text);
    lwc_control_close(other);
    lw_status_t status = LW_OK;
    for (uint64_t until_us = now_us() + 20000000; status == LW_OK && now_us() < until_us;) {
        if (harness_tokens(run.session) == run.seq.count)
            assert_int_equal(lw_session_truncate(run.session, run.seq.count - 64), LW_OK);
        status = harness_step(&run.h, run.session, &run.seq, 1, false, &result);
        result_fini(&result);
    }
    printf("dropped: %s: %s\n", lw_status_string(status), lw_last_error(run.h.kv));
    assert_int_equal(status, LW_ERR_SESSION_LOST);
    lw_session_close(run.session);
    lw_close(run.h.kv);
    sequence_fini(&run.seq);
    client_fleet_stop(&run.fleet);
}

int main(int argc, char **argv)
{
    if (argc != 3 || !lw_fabric_ucx())
        return 77;
    program = argv[1];
    transports = argv[2];
    const char *given = getenv("LW_TEST_SEED");
    seed_value = given ? strtoull(given, NULL, 0) : lw_clock_real()->unix_us(NULL);
    printf("LW_TEST_SEED=%llu\n", (unsigned long long)seed_value);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_session_that_another_client_drops_is_lost_clearly),
        cmocka_unit_test(test_decoding_goes_on_while_the_nodes_leave_and_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
