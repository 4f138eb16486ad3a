/* test_etcd.c - the client of etcd against a real one: refusals, transactions, leases, watches, and etcd going away. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "etcd_process.h"
#include "unit/proto/test_tls_certs.h"

#define SECOND 1000000ull

static etcd_process_t server;
static lwd_etcd_t *etcd;
static lw_error_t error;
static unsigned folder_number;
static char prefix[32];

static int setup(void **state)
{
    if (!server.pid)
        etcd_process_start(&server);
    etcd = etcd_process_client(&server);
    snprintf(prefix, sizeof(prefix), "t%u/", folder_number++);
    return 0;
}

static int teardown(void **state)
{
    lwd_etcd_close(etcd);
    return 0;
}

static const char *key(const char *name)
{
    static char keys[8][64];
    static unsigned at;
    char *text = keys[at++ % 8];
    snprintf(text, 64, "%s%s", prefix, name);
    return text;
}

static lwd_etcd_reply_t *txn(const lwd_etcd_compare_t *compare, const lwd_etcd_op_t *ops, uint32_t op_count)
{
    const lwd_etcd_txn_t request = {.compares = compare, .compare_count = compare != NULL, .ops = ops, .op_count = op_count};
    lwd_etcd_reply_t *reply = NULL;
    uint64_t until = lwd_etcd_until(20 * SECOND);
    lw_status_t status;
    do /* while it is away most calls fail at once */
        status = lwd_etcd_txn(etcd, &request, lwd_etcd_until(5 * SECOND), &reply, &error);
    while (status == LW_ERR_FLEET && lwd_etcd_until(0) < until);
    if (status != LW_OK)
        fail_msg("%s", error.text);
    return reply;
}

static int64_t put(const char *name, const char *value, int64_t lease)
{
    const lwd_etcd_op_t op = {.kind = LWD_ETCD_PUT, .key = key(name), .value = value, .value_bytes = strlen(value),
                              .lease = lease};
    lwd_etcd_reply_t *reply = txn(NULL, &op, 1);
    int64_t revision = reply->revision;
    lwd_etcd_reply_free(reply);
    return revision;
}

static lw_status_t read_at(int64_t revision, uint64_t timeout_us, uint32_t *count_out)
{
    char end[LWD_ETCD_KEY_MAX];
    const lwd_etcd_op_t op = {.kind = LWD_ETCD_RANGE, .key = prefix, .end = lwd_etcd_prefix_end(prefix, end),
                              .revision = revision};
    const lwd_etcd_txn_t request = {.ops = &op, .op_count = 1};
    lwd_etcd_reply_t *reply = NULL;
    lw_status_t status = lwd_etcd_txn(etcd, &request, lwd_etcd_until(timeout_us), &reply, &error);
    if (status == LW_OK)
        *count_out = reply->count;
    lwd_etcd_reply_free(reply);
    return status;
}

static lwd_etcd_watch_t *watch_from(int64_t revision)
{
    char end[LWD_ETCD_KEY_MAX];
    lwd_etcd_watch_t *watch = NULL;
    assert_int_equal(lwd_etcd_watch_open(etcd, prefix, lwd_etcd_prefix_end(prefix, end), revision, &watch, &error), LW_OK);
    return watch;
}

/* The next change must be of this key, with this value; NULL: its end. */
static void expect_change(lwd_etcd_watch_t *watch, const char *name, const char *value)
{
    lwd_etcd_events_t events;
    uint64_t until = lwd_etcd_until(20 * SECOND);
    lw_status_t status;
    do
        status = lwd_etcd_watch_next(watch, SECOND, &events, &error);
    while ((status == LW_ERR_TIMEOUT || status == LW_ERR_FLEET) && lwd_etcd_until(0) < until);
    if (status != LW_OK)
        fail_msg("%s", error.text);
    assert_int_equal(events.count, 1);
    assert_string_equal(events.rows[0].kv.key, key(name));
    assert_int_equal(events.rows[0].deleted, value == NULL);
    if (value)
        assert_memory_equal(events.rows[0].kv.value, value, strlen(value));
    assert_int_equal(events.revision, events.rows[0].kv.mod_revision);
    lwd_etcd_events_free(&events);
}

/* ---- what fails ---- */

static void test_endpoints_that_are_none_are_refused(void **state)
{
    static const char *const bad[] = {"", " , ", "localhost", "a:1,b", "a:1,b:1,c:1,d:1,e:1,f:1,g:1,h:1,i:1"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(bad); i++) {
        lwd_etcd_t *none = NULL;
        assert_int_equal(lwd_etcd_open(&(lwd_etcd_params_t){.endpoints = bad[i]}, &none, &error), LW_ERR_INVALID);
        assert_null(none);
    }
}

static void test_nobody_listening_is_an_error_with_endpoint_and_key_before_the_deadline(void **state)
{
    lwd_etcd_t *nobody = NULL;
    const lwd_etcd_op_t op = {.kind = LWD_ETCD_RANGE, .key = "some/key"};
    const lwd_etcd_txn_t request = {.ops = &op, .op_count = 1};
    lwd_etcd_reply_t *reply = NULL;
    int64_t lease;
    uint32_t ttl;
    assert_int_equal(lwd_etcd_open(&(lwd_etcd_params_t){.endpoints = "127.0.0.1:1"}, &nobody, &error), LW_OK);
    uint64_t start = lwd_etcd_until(0);
    assert_int_equal(lwd_etcd_txn(nobody, &request, lwd_etcd_until(SECOND / 2), &reply, &error), LW_ERR_FLEET);
    assert_in_range(lwd_etcd_until(0) - start, 0, 5 * SECOND);
    assert_non_null(strstr(error.text, "127.0.0.1:1"));
    assert_non_null(strstr(error.text, "some/key"));
    assert_int_equal(lwd_etcd_grant(nobody, 5, lwd_etcd_until(SECOND / 2), &lease, &error), LW_ERR_FLEET);
    assert_int_equal(lwd_etcd_keep(nobody, 1, lwd_etcd_until(SECOND / 2), &ttl, &error), LW_ERR_FLEET);
    lwd_etcd_close(nobody);
}

static void test_too_large_a_transaction_is_refused_before_it_is_sent(void **state)
{
    static lwd_etcd_op_t many[LWD_ETCD_OPS_MAX + 1];
    char *large = calloc(1, LWD_ETCD_REQUEST_MAX + 1);
    lwd_etcd_op_t op = {.kind = LWD_ETCD_PUT, .key = key("large"), .value = large, .value_bytes = LWD_ETCD_REQUEST_MAX + 1};
    lwd_etcd_txn_t request = {.ops = &op, .op_count = 1};
    lwd_etcd_reply_t *reply = NULL;
    assert_int_equal(lwd_etcd_txn(etcd, &request, lwd_etcd_until(SECOND), &reply, &error), LW_ERR_EXHAUSTED);
    assert_non_null(strstr(error.text, key("large")));
    request = (lwd_etcd_txn_t){.ops = many, .op_count = LW_ARRAY_SIZE(many)};
    assert_int_equal(lwd_etcd_txn(etcd, &request, lwd_etcd_until(SECOND), &reply, &error), LW_ERR_INVALID);
    op.value_bytes--; /* and etcd takes what is just as large as may be */
    request = (lwd_etcd_txn_t){.ops = &op, .op_count = 1};
    assert_int_equal(lwd_etcd_txn(etcd, &request, lwd_etcd_until(10 * SECOND), &reply, &error), LW_OK);
    lwd_etcd_reply_free(reply);
    free(large);
}

static void test_what_is_compacted_away_is_stale_to_readers_and_watches(void **state)
{
    int64_t first = put("a", "1", 0), last = put("a", "2", 0);
    uint32_t count;
    lwd_etcd_events_t events;
    assert_int_equal(lwd_etcd_compact(etcd, last, lwd_etcd_until(5 * SECOND), &error), LW_OK);
    assert_int_equal(read_at(first, 5 * SECOND, &count), LW_ERR_STALE);
    lwd_etcd_watch_t *watch = watch_from(first);
    lw_status_t status;
    do
        status = lwd_etcd_watch_next(watch, SECOND, &events, &error);
    while (status == LW_ERR_TIMEOUT);
    assert_int_equal(status, LW_ERR_STALE);
    lwd_etcd_watch_close(watch);
    assert_int_equal(read_at(0, 5 * SECOND, &count), LW_OK); /* a snapshot, and on from there */
    watch = watch_from(last + 1);
    put("a", "3", 0);
    expect_change(watch, "a", "3");
    lwd_etcd_watch_close(watch);
}

/* ---- what works ---- */

static void test_a_transaction_happens_when_all_comparisons_hold(void **state)
{
    const lwd_etcd_op_t ops[] = {
        {.kind = LWD_ETCD_PUT, .key = key("b"), .value = "\0\1", .value_bytes = 2},
        {.kind = LWD_ETCD_RANGE, .key = key("b")},
    };
    lwd_etcd_compare_t absent = {.key = key("b"), .mod_revision = 0};
    lwd_etcd_reply_t *reply = txn(&absent, ops, 2);
    assert_true(reply->succeeded);
    assert_int_equal(reply->range_count, 1);
    assert_int_equal(reply->count, 1);
    assert_int_equal(reply->kvs[0].mod_revision, reply->revision);
    assert_int_equal(reply->kvs[0].value_bytes, 2);
    assert_memory_equal(reply->kvs[0].value, "\0\1", 2);
    lwd_etcd_compare_t present = {.key = key("b"), .mod_revision = reply->revision};
    lwd_etcd_reply_free(reply);
    reply = txn(&absent, ops, 2);
    assert_false(reply->succeeded);
    assert_int_equal(reply->count, 0);
    lwd_etcd_reply_free(reply);
    reply = txn(&present, ops, 2);
    assert_true(reply->succeeded);
    lwd_etcd_reply_free(reply);
}

static void test_ranges_have_limits_orders_and_prefixes(void **state)
{
    char end[LWD_ETCD_KEY_MAX];
    put("3", "x", 0);
    put("1", "y", 0);
    int64_t last = put("2", "z", 0);
    lwd_etcd_op_t op = {.kind = LWD_ETCD_RANGE, .key = prefix, .end = lwd_etcd_prefix_end(prefix, end), .limit = 2};
    lwd_etcd_reply_t *reply = txn(NULL, &op, 1);
    assert_int_equal(reply->count, 2);
    assert_true(reply->ranges[0].more);
    assert_string_equal(reply->kvs[0].key, key("1"));
    lwd_etcd_reply_free(reply);
    op = (lwd_etcd_op_t){.kind = LWD_ETCD_RANGE, .key = prefix, .end = end, .by_revision = true, .keys_only = true};
    reply = txn(NULL, &op, 1);
    assert_int_equal(reply->count, 3);
    assert_string_equal(reply->kvs[0].key, key("3"));
    assert_int_equal(reply->kvs[0].value_bytes, 0);
    lwd_etcd_reply_free(reply);
    op.min_mod_revision = last;
    reply = txn(NULL, &op, 1);
    assert_int_equal(reply->count, 1);
    assert_string_equal(reply->kvs[0].key, key("2"));
    lwd_etcd_reply_free(reply);
    op = (lwd_etcd_op_t){.kind = LWD_ETCD_DELETE, .key = prefix, .end = end};
    lwd_etcd_reply_free(txn(NULL, &op, 1));
    uint32_t count = 9;
    assert_int_equal(read_at(0, 5 * SECOND, &count), LW_OK);
    assert_int_equal(count, 0);
    assert_int_equal(read_at(last, 5 * SECOND, &count), LW_OK); /* as it was */
    assert_int_equal(count, 3);
}

static void test_a_lease_that_is_not_kept_takes_its_keys_with_it(void **state)
{
    int64_t lease = 0, kept = 0;
    uint32_t ttl;
    assert_int_equal(lwd_etcd_grant(etcd, 2, lwd_etcd_until(5 * SECOND), &lease, &error), LW_OK);
    assert_int_equal(lwd_etcd_grant(etcd, 2, lwd_etcd_until(5 * SECOND), &kept, &error), LW_OK);
    put("kept", "1", kept);
    lwd_etcd_watch_t *watch = watch_from(put("gone", "1", lease) + 1);
    lwd_etcd_events_t events = {0};
    uint64_t until = lwd_etcd_until(20 * SECOND);
    while (events.count == 0 && lwd_etcd_until(0) < until) {
        assert_int_equal(lwd_etcd_keep(etcd, kept, lwd_etcd_until(5 * SECOND), &ttl, &error), LW_OK);
        assert_in_range(ttl, 1, 2);
        (void)!lwd_etcd_watch_next(watch, SECOND / 5, &events, &error);
    }
    assert_int_equal(events.count, 1);
    assert_true(events.rows[0].deleted);
    assert_string_equal(events.rows[0].kv.key, key("gone"));
    lwd_etcd_events_free(&events);
    assert_int_equal(lwd_etcd_keep(etcd, lease, lwd_etcd_until(5 * SECOND), &ttl, &error), LW_ERR_NOT_FOUND);
    assert_int_equal(lwd_etcd_keep(etcd, kept, lwd_etcd_until(5 * SECOND), &ttl, &error), LW_OK);
    assert_int_equal(lwd_etcd_revoke(etcd, kept, lwd_etcd_until(5 * SECOND), &error), LW_OK);
    expect_change(watch, "kept", NULL);
    assert_int_equal(lwd_etcd_revoke(etcd, kept, lwd_etcd_until(5 * SECOND), &error), LW_ERR_NOT_FOUND);
    lwd_etcd_watch_close(watch);
}

static void test_everything_goes_on_when_etcd_is_killed_and_started_again(void **state)
{
    int64_t lease = 0;
    uint32_t ttl = 0, count = 0;
    assert_int_equal(lwd_etcd_grant(etcd, 60, lwd_etcd_until(5 * SECOND), &lease, &error), LW_OK);
    assert_int_equal(lwd_etcd_keep(etcd, lease, lwd_etcd_until(5 * SECOND), &ttl, &error), LW_OK);
    lwd_etcd_watch_t *watch = watch_from(put("a", "1", lease));
    expect_change(watch, "a", "1");
    etcd_process_kill(&server);
    assert_int_equal(read_at(0, SECOND, &count), LW_ERR_FLEET);
    lwd_etcd_events_t events;
    lw_status_t status = lwd_etcd_watch_next(watch, SECOND / 5, &events, &error);
    assert_true(status == LW_ERR_FLEET || status == LW_ERR_TIMEOUT);
    etcd_process_start(&server);
    put("b", "2", 0);
    expect_change(watch, "b", "2"); /* told although nobody watched when it happened, and "a" is not told again */
    assert_int_equal(lwd_etcd_keep(etcd, lease, lwd_etcd_until(10 * SECOND), &ttl, &error), LW_OK);
    assert_int_equal(read_at(0, 5 * SECOND, &count), LW_OK);
    assert_int_equal(count, 2);
    lwd_etcd_watch_close(watch);
}

static void test_a_stopped_etcd_costs_no_more_than_the_deadline_and_then_little(void **state)
{
    uint32_t count;
    put("a", "1", 0);
    etcd_process_signal(&server, SIGSTOP);
    uint64_t start = lwd_etcd_until(0);
    lw_status_t status = read_at(0, SECOND, &count);
    uint64_t first = lwd_etcd_until(0) - start;
    start = lwd_etcd_until(0);
    lw_status_t again = read_at(0, SECOND, &count);
    uint64_t second = lwd_etcd_until(0) - start;
    etcd_process_signal(&server, SIGCONT);
    assert_int_equal(status, LW_ERR_FLEET);
    assert_int_equal(again, LW_ERR_FLEET);
    assert_in_range(first, SECOND / 2, 5 * SECOND);
    assert_in_range(second, 0, first);
    lwd_etcd_reply_free(txn(NULL, &(lwd_etcd_op_t){.kind = LWD_ETCD_RANGE, .key = key("a")}, 1)); /* it is there again */
    assert_int_equal(read_at(0, 5 * SECOND, &count), LW_OK);
    assert_int_equal(count, 1);
}

static void test_the_next_endpoint_is_asked_when_one_does_not_answer(void **state)
{
    char endpoints[64];
    uint32_t count, ttl;
    int64_t lease = 0;
    lwd_etcd_t *two = NULL, *one = etcd;
    snprintf(endpoints, sizeof(endpoints), "127.0.0.1:1,%s", server.endpoint);
    assert_int_equal(lwd_etcd_open(&(lwd_etcd_params_t){.endpoints = endpoints}, &two, &error), LW_OK);
    put("a", "1", 0);
    etcd = two;
    assert_int_equal(read_at(0, 5 * SECOND, &count), LW_OK);
    assert_int_equal(count, 1);
    assert_string_equal(lwd_etcd_endpoint(two), server.endpoint);
    lwd_etcd_watch_t *watch = watch_from(put("b", "1", 0));
    expect_change(watch, "b", "1");
    assert_int_equal(lwd_etcd_grant(two, 5, lwd_etcd_until(5 * SECOND), &lease, &error), LW_OK);
    assert_int_equal(lwd_etcd_keep(two, lease, lwd_etcd_until(5 * SECOND), &ttl, &error), LW_OK);
    lwd_etcd_watch_close(watch);
    etcd = one;
    lwd_etcd_close(two);
}

/* One of the three leads the others: whichever it is, it is stopped here once, and killed once. */
static void test_two_of_three_members_go_on_whichever_is_stopped_or_killed(void **state)
{
    static etcd_process_t three[3];
    static char endpoints[128], peers[256];
    lwd_etcd_t *one = etcd;
    etcd_process_start_three(three, endpoints, peers);
    assert_int_equal(lwd_etcd_open(&(lwd_etcd_params_t){.endpoints = endpoints}, &etcd, &error), LW_OK);
    lwd_etcd_watch_t *watch = watch_from(put("first", "x", 0) + 1);
    for (unsigned i = 0; i < 6; i++) {
        char name[16];
        etcd_process_t *member = &three[i % 3];
        snprintf(name, sizeof(name), "%u", i);
        uint64_t start = lwd_etcd_until(0);
        if (i < 3)
            etcd_process_signal(member, SIGSTOP);
        else
            etcd_process_kill(member);
        put(name, "x", 0);
        print_message("member %u %s: written after %.1f s\n", i % 3, i < 3 ? "stopped" : "killed",
                      (double)(lwd_etcd_until(0) - start) / 1e6);
        if (i < 3)
            etcd_process_signal(member, SIGCONT);
        else
            etcd_process_start(member);
    }
    lwd_etcd_events_t events;
    unsigned told = 0;
    uint64_t until = lwd_etcd_until(30 * SECOND);
    while (told < 6 && lwd_etcd_until(0) < until) { /* a put whose answer was lost is done again: more than six are fine */
        if (lwd_etcd_watch_next(watch, SECOND, &events, &error) != LW_OK)
            continue;
        for (uint32_t i = 0; i < events.count; i++)
            told += events.rows[i].kv.key[strlen(prefix)] == (char)('0' + told);
        lwd_etcd_events_free(&events);
    }
    assert_int_equal(told, 6);
    lwd_etcd_watch_close(watch);
    lwd_etcd_close(etcd);
    etcd = one;
    for (unsigned i = 0; i < 3; i++)
        etcd_process_remove(&three[i]);
}

static void test_a_client_certificate_is_asked_for_and_shown(void **state)
{
    test_certs_t certs;
    if (!test_certs_make(&certs))
        skip();
    char ca[96], cert[96], private_key[96];
    snprintf(ca, sizeof(ca), "%s/ca.pem", certs.folder);
    snprintf(cert, sizeof(cert), "%s/server.pem", certs.folder);
    snprintf(private_key, sizeof(private_key), "%s/server.key", certs.folder);
    etcd_process_t secure = {.ca_file = ca, .cert_file = cert, .key_file = private_key};
    etcd_process_start(&secure);
    const lwd_etcd_params_t with = {.endpoints = secure.endpoint, .ca_pem = certs.ca, .cert_pem = certs.client_cert,
                                    .key_pem = certs.client_key};
    const lwd_etcd_params_t without = {.endpoints = secure.endpoint, .ca_pem = certs.ca};
    lwd_etcd_t *one = etcd;
    uint32_t count = 9;
    assert_int_equal(lwd_etcd_open(&without, &etcd, &error), LW_OK);
    assert_int_equal(read_at(0, SECOND, &count), LW_ERR_FLEET);
    lwd_etcd_close(etcd);
    assert_int_equal(lwd_etcd_open(&with, &etcd, &error), LW_OK);
    assert_int_equal(read_at(0, 20 * SECOND, &count), LW_OK);
    assert_int_equal(count, 0);
    lwd_etcd_close(etcd);
    etcd = one;
    etcd_process_remove(&secure);
    test_certs_free(&certs);
}

int main(void)
{
    if (!etcd_process_found()) {
        printf("skipped: no etcd command\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        CASE(test_endpoints_that_are_none_are_refused),
        CASE(test_nobody_listening_is_an_error_with_endpoint_and_key_before_the_deadline),
        CASE(test_too_large_a_transaction_is_refused_before_it_is_sent),
        CASE(test_what_is_compacted_away_is_stale_to_readers_and_watches),
        CASE(test_a_transaction_happens_when_all_comparisons_hold),
        CASE(test_ranges_have_limits_orders_and_prefixes),
        CASE(test_a_lease_that_is_not_kept_takes_its_keys_with_it),
        CASE(test_everything_goes_on_when_etcd_is_killed_and_started_again),
        CASE(test_a_stopped_etcd_costs_no_more_than_the_deadline_and_then_little),
        CASE(test_the_next_endpoint_is_asked_when_one_does_not_answer),
        CASE(test_two_of_three_members_go_on_whichever_is_stopped_or_killed),
        CASE(test_a_client_certificate_is_asked_for_and_shown),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    etcd_process_remove(&server);
    return failed;
}
