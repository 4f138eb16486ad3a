/* test_forks.c - many forks of one session: the fleet stores nothing again, the parent may go, the accounts agree.
 * Arguments: the storaged program, the transport. The shape is small; for figures LW_FORKS_SHAPE=smollm2 makes it a third of that
 * model's layers, in fp32 and with segments of 2,048 tokens, and LW_FORKS_TOKENS says how long the parent is. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "e2e/client_fleet.h"

#define FORKS 100u

static const char *program, *transports;
static uint64_t seed_value;

/* What a daemon's /metrics says of one figure. */
static uint64_t metric(const process_t *process, const char *name)
{
    char http[64], text[65536], line[128];
    size_t used = 0;
    assert_true(process_ready_text(process, "http", http, sizeof(http)));
    char *colon = strrchr(http, ':');
    assert_non_null(colon);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(colon + 1))};
    *colon = '\0';
    assert_int_equal(inet_pton(AF_INET, http, &address.sin_addr), 1);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    static const char ask[] = "GET /metrics HTTP/1.0\r\n\r\n";
    assert_int_equal(write(fd, ask, sizeof(ask) - 1), sizeof(ask) - 1);
    for (ssize_t got; used < sizeof(text) - 1 && (got = read(fd, text + used, sizeof(text) - 1 - used)) > 0;)
        used += (size_t)got;
    close(fd);
    text[used] = '\0';
    snprintf(line, sizeof(line), "\nstoraged_%s ", name);
    const char *at = strstr(text, line);
    if (at == NULL)
        fail_msg("/metrics has no storaged_%s", name);
    return strtoull(at + strlen(line), NULL, 10);
}

static uint64_t fleet_metric(const client_fleet_t *fleet, const char *name)
{
    uint64_t sum = 0;
    for (uint32_t node = 0; node < FLEET_NODES; node++)
        sum += metric(&fleet->process[node], name);
    return sum;
}

/* The figures of a node are renewed by its data thread, and endings reach it with a heartbeat. */
static void await_metric(const client_fleet_t *fleet, const char *name, uint64_t wanted)
{
    uint64_t seen = 0;
    for (int i = 0; i < 200; i++) {
        seen = fleet_metric(fleet, name);
        if (seen == wanted)
            return;
        usleep(50000);
    }
    fail_msg("%s is %llu, wanted %llu", name, (unsigned long long)seen, (unsigned long long)wanted);
}

static void check_step(harness_t *h, lw_session_t *session, const sequence_t *sequence)
{
    result_t result;
    if (harness_step(h, session, sequence, 1, false, &result) != LW_OK)
        fail_msg("step: %s", lw_last_error(h->kv));
    assert_true(result_out_error(&result) < 1e-4);
    result_fini(&result);
}

static lw_session_attr_t session_attr(lw_session_t *session)
{
    lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_TOKENS | LW_SESSION_ATTR_INDEX};
    assert_int_equal(lw_session_query(session, &attr), LW_OK);
    return attr;
}

static lw_attr_t memory(const harness_t *h)
{
    lw_attr_t attr = {.field_mask = LW_ATTR_MEMORY};
    assert_int_equal(lw_query(h->kv, &attr), LW_OK);
    return attr;
}

static void test_forks_share_what_is_stored_and_outlive_their_parent(void **state)
{
    (void)state;
    const char *shape = getenv("LW_FORKS_SHAPE"), *length = getenv("LW_FORKS_TOKENS");
    bool large = shape != NULL && strcmp(shape, "smollm2") == 0;
    uint32_t tokens = length != NULL ? (uint32_t)strtoul(length, NULL, 0) : 4260;
    harness_params_t params = {.layers = large ? 10 : 2, .heads = large ? 3 : 2, .group = large ? 3 : 2,
                               .head_dim = large ? 64 : 16, .sessions_max = FORKS + 2, .tokens_max = tokens + 4096};
    client_fleet_t fleet;
    harness_t h;
    sequence_t seq;
    lw_session_t *child[FORKS];
    client_fleet_start(&fleet, program, transports, large ? "1g" : "64m");
    client_fleet_open(&fleet, &h, &params, seed_value);
    sequence_init(&seq, &h, tokens + 8);
    sequence_grow(&seq, &h, tokens + 4);
    lw_session_t *parent = harness_session(&h, LW_POLICY_FULL, large ? 2048 : 8192);
    harness_prefill(&h, parent, &seq, 0, tokens, 1000);
    check_step(&h, parent, &seq);
    harness_settle(&h);
    check_step(&h, parent, &seq);
    lw_session_attr_t of_parent = session_attr(parent);
    assert_true(of_parent.committed_tokens >= 2048 && of_parent.stored_bytes > 0);

    uint64_t used = fleet_metric(&fleet, "arena_used_bytes"), segments = fleet_metric(&fleet, "segments");
    lw_attr_t before = memory(&h);
    for (uint32_t i = 0; i < FORKS; i++) {
        lw_session_params_t full = {.size = sizeof(full), .policy = LW_POLICY_FULL};
        if (lw_session_fork(parent, &full, &child[i]) != LW_OK)
            fail_msg("fork %u: %s", i, lw_last_error(h.kv));
    }
    lw_attr_t after = memory(&h);
    check_step(&h, child[0], &seq);
    check_step(&h, child[FORKS - 1], &seq);
    await_metric(&fleet, "segments", segments);
    assert_int_equal(fleet_metric(&fleet, "arena_used_bytes"), used); /* not a byte more */
    assert_int_equal(after.index_bytes, before.index_bytes);
    printf("%u forks of %u tokens: fleet %llu bytes before and after; a fork in the client: steady zone %llu bytes, index 0\n",
           FORKS, tokens, (unsigned long long)used, (unsigned long long)((after.steady_bytes - before.steady_bytes) / FORKS));
    for (uint32_t i = 0; i < FORKS; i++) {
        lw_session_attr_t of_child = session_attr(child[i]);
        assert_int_equal(of_child.stored_bytes, of_parent.stored_bytes);
        assert_int_equal(of_child.committed_tokens, of_parent.committed_tokens);
    }

    /* The parent goes; its children read on, to the last one. */
    assert_int_equal(lw_session_drop(parent), LW_OK);
    lw_session_close(parent);
    check_step(&h, child[1], &seq);
    assert_int_equal(fleet_metric(&fleet, "arena_used_bytes"), used);
    for (uint32_t i = 0; i + 1 < FORKS; i++) {
        assert_int_equal(lw_session_drop(child[i]), LW_OK);
        lw_session_close(child[i]);
    }
    check_step(&h, child[FORKS - 1], &seq);
    await_metric(&fleet, "segments", segments);
    assert_int_equal(lw_session_drop(child[FORKS - 1]), LW_OK);
    lw_session_close(child[FORKS - 1]);
    await_metric(&fleet, "segments", 0);
    await_metric(&fleet, "arena_used_bytes", 0);
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
    const char *seed = getenv("LW_TEST_SEED");
    seed_value = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu (LW_TEST_SEED), %s\n", (unsigned long long)seed_value, transports);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forks_share_what_is_stored_and_outlive_their_parent)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
