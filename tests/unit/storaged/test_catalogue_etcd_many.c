/* test_catalogue_etcd_many.c - several handles on one etcd at once, and answers that get lost.
 *
 * Between the catalogue and etcd stands a proxy that forwards bytes and may be told to drop what comes back. */
#include "test_catalogue_support.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/prng.h"
#include "etcd_process.h"

#define THREADS 4u
#define ROUNDS 60u
#define RANGES_MAX 512u
#define SECOND 1000000ull

static etcd_process_t etcd;
static lw_error_t error;

static unsigned timeout_ms = 20000; /* a loaded machine is no reason to fail */

static lwd_catalogue_t *open_at(const char *endpoint, const char *prefix)
{
    char where[128];
    lwd_catalogue_t *cat = NULL;
    snprintf(where, sizeof(where), "etcd://%s/%s?timeout_ms=%u", endpoint, prefix, timeout_ms);
    if (lwd_catalogue_etcd()->open(where, &cat, &error) != LW_OK)
        fail_msg("%s", error.text);
    return cat;
}

/* ---- many at once ---- */

typedef struct worker {
    pthread_t thread;
    lwd_catalogue_t *cat;
    uint64_t seed, shared;     /* shared: a session that all of them write to, one after another */
    uint64_t own_bytes;        /* what its commits that were answered OK came to, of the shared session */
    uint32_t committed, stale, busy, forks, drops;
    lw_status_t failed;
    lw_error_t error;
} worker_t;

static bool expected(worker_t *worker, lw_status_t status)
{
    worker->stale += status == LW_ERR_STALE;
    worker->busy += status == LW_ERR_BUSY;
    if (status == LW_OK)
        return true;
    if (status != LW_ERR_STALE && status != LW_ERR_BUSY && status != LW_ERR_NOT_FOUND && status != LW_ERR_INVALID)
        worker->failed = status;
    return false;
}

/* Takes the shared session over, commits a range at its end, and lets it go. */
static void write_shared(worker_t *worker, uint64_t client, uint64_t now)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    lwd_session_row_t row;
    if (!expected(worker, ops->open_session(worker->cat, "a", worker->shared, true, client, 1, LEASE, now, &row,
                                            &worker->error)))
        return;
    lwd_range_t range = test_range(row.token_count, 16, row.term, 0);
    if (expected(worker, ops->commit(worker->cat, worker->shared, 0, row.term, &range, 1, now, &worker->error))) {
        worker->own_bytes += range.bytes * range.replicas;
        worker->committed++;
        if (ops->commit(worker->cat, worker->shared, 0, row.term, &range, 1, now, &worker->error) != LW_OK)
            worker->failed = LW_ERR_EXISTS; /* the same again is the same: nobody else holds the term */
    }
    (void)expected(worker, ops->release(worker->cat, worker->shared, client, 1, now, &worker->error));
}

static void fork_shared(worker_t *worker, uint64_t client, uint64_t now, bool drop)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    lwd_session_row_t row;
    if (!expected(worker, ops->fork(worker->cat, "a", worker->shared, 0, client, 1, LEASE, now, &row, &worker->error)))
        return;
    worker->forks++;
    lwd_range_t range = test_range(row.cut_tokens, 32, 1, 0);
    (void)expected(worker, ops->commit(worker->cat, row.session_id, 0, 1, &range, 1, now, &worker->error));
    if (drop)
        worker->drops += expected(worker, ops->drop(worker->cat, "a", row.session_id, now, &worker->error));
}

static void *work(void *arg)
{
    worker_t *worker = arg;
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    lw_prng_t prng;
    uint64_t freed;
    uint32_t renewed;
    lw_prng_seed(&prng, worker->seed);
    for (unsigned i = 0; i < ROUNDS && worker->failed == LW_OK; i++) {
        uint64_t now = T0 + i * 1000, client = 1 + worker->seed % 1000;
        switch (lw_prng_below(&prng, 8)) {
        case 0: fork_shared(worker, client, now, false); break;
        case 1:
        case 2: fork_shared(worker, client, now, true); break;
        case 3: (void)expected(worker, ops->renew(worker->cat, client, 1, LEASE, now, &renewed, &worker->error)); break;
        case 4: (void)expected(worker, ops->expire(worker->cat, 100, now, &freed, &worker->error)); break;
        default: write_shared(worker, client, now); break;
        }
    }
    return NULL;
}

/* Every manifest is without gaps, and every session's count and bytes are those of its manifest. */
static void check_invariants(lwd_catalogue_t *cat, uint64_t shared, uint64_t shared_bytes)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    static lwd_session_row_t rows[1024];
    static lwd_range_t ranges[RANGES_MAX];
    uint32_t count, range_count;
    assert_int_equal(ops->list(cat, NULL, 0, 1024, rows, &count, &error), LW_OK);
    assert_true(count >= 1);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        uint32_t at = 0;
        assert_true(rows[i].state == LWD_SESSION_ACTIVE || rows[i].state == LWD_SESSION_IDLE);
        assert_int_equal(ops->ranges(cat, rows[i].session_id, 0, 0, RANGES_MAX, ranges, &range_count, &error), LW_OK);
        for (uint32_t r = 0; r < range_count; r++) {
            assert_int_equal(ranges[r].first_token, at);
            at += ranges[r].token_count;
            bytes += ranges[r].origin == rows[i].session_id ? ranges[r].bytes * ranges[r].replicas : 0;
        }
        assert_int_equal(at, rows[i].token_count);
        assert_int_equal(bytes, rows[i].bytes);
        if (rows[i].session_id == shared)
            assert_int_equal(bytes, shared_bytes);
    }
}

static void test_four_threads_lose_nothing_and_do_nothing_twice(void **state)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    const char *given = getenv("LW_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : lw_clock_real()->unix_us(NULL), bytes = 0, freed;
    print_message("LW_TEST_SEED=%llu\n", (unsigned long long)seed);
    lwd_catalogue_t *cat = open_at(etcd.endpoint, "many");
    lwd_session_row_t row;
    lwd_create_t create = {.tenant = "a", .shape = test_shape(2, 1), .client_id = 5000, .incarnation = 1, .lease_us = LEASE};
    assert_int_equal(ops->create(cat, &create, T0, &row, &error), LW_OK);
    assert_int_equal(ops->release(cat, row.session_id, 5000, 1, T0, &error), LW_OK);
    assert_int_equal(ops->pin(cat, "a", row.session_id, true, &error), LW_OK); /* the threads evict, too */
    static worker_t workers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (worker_t){.cat = open_at(etcd.endpoint, "many"), .seed = seed + i, .shared = row.session_id};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(workers[i].thread, NULL);
        worker_t *worker = &workers[i];
        print_message("thread %u: %u commits, %u forks, %u drops; %u times stale, %u times busy\n", i, worker->committed,
                      worker->forks, worker->drops, worker->stale, worker->busy);
        if (worker->failed != LW_OK)
            fail_msg("thread %u: %s", i, worker->error.text);
        bytes += worker->own_bytes;
        ops->close(worker->cat);
    }
    assert_true(bytes > 0);
    check_invariants(cat, row.session_id, bytes);
    /* Everything ends: no session, no manifest, no fork is left behind. */
    assert_int_equal(ops->pin(cat, "a", row.session_id, false, &error), LW_OK);
    assert_int_equal(ops->expire(cat, UINT64_MAX, T0 + 100 * LEASE, &freed, &error), LW_OK);
    uint32_t count = 9;
    uint64_t more = 1; /* a call may end before all is freed */
    for (unsigned i = 0; i < 50 && more; i++)
        assert_int_equal(ops->expire(cat, UINT64_MAX, T0 + 100 * LEASE, &more, &error), LW_OK);
    assert_int_equal(ops->list(cat, NULL, 0, 1, &row, &count, &error), LW_OK);
    assert_int_equal(count, 0);
    lwd_placed_t placed;
    const lwd_placed_key_t first = {0};
    assert_int_equal(ops->placed(cat, &first, 1, &placed, &count, &error), LW_OK);
    assert_int_equal(count, 0);
    ops->close(cat);
}

/* ---- answers that get lost ---- */

typedef struct proxy {
    pthread_t thread;
    int listener;
    char endpoint[32];
    atomic_bool stop;
    /* So many pieces later what etcd answers, or is asked, is thrown away and the connection is cut; 0: never. */
    atomic_uint deaf_after, mute_after;
    atomic_uint lost;
} proxy_t;

static int tcp_connect(unsigned port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Passes on what is there; false: that side is closed. */
static bool pass(int from, int to)
{
    char bytes[65536];
    ssize_t got = recv(from, bytes, sizeof(bytes), 0);
    return got > 0 && send(to, bytes, (size_t)got, MSG_NOSIGNAL) == got;
}

/* Counts one piece; true: it is the one. */
static bool proxy_loses(proxy_t *proxy, atomic_uint *after)
{
    unsigned left = atomic_load(after);
    if (left)
        atomic_store(after, left - 1);
    if (left == 1)
        atomic_fetch_add(&proxy->lost, 1);
    return left == 1;
}

static void *proxy_run(void *arg)
{
    proxy_t *proxy = arg;
    int near = -1, far = -1;
    while (!atomic_load(&proxy->stop)) {
        struct pollfd fds[3] = {{proxy->listener, POLLIN, 0}, {near, POLLIN, 0}, {far, POLLIN, 0}};
        (void)poll(fds, 3, 20);
        bool going = true;
        if (fds[0].revents) {
            int fd = accept(proxy->listener, NULL, NULL);
            close(near);
            close(far);
            near = fd;
            far = tcp_connect(etcd.port);
            continue;
        }
        if (near >= 0 && fds[1].revents)
            going = !proxy_loses(proxy, &proxy->mute_after) && pass(near, far);
        if (far >= 0 && fds[2].revents && going) /* etcd has done it; nobody hears of it */
            going = !proxy_loses(proxy, &proxy->deaf_after) && pass(far, near);
        if (!going) {
            close(near);
            close(far);
            near = far = -1;
        }
    }
    close(near);
    close(far);
    return NULL;
}

static void proxy_start(proxy_t *proxy)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(at);
    proxy->listener = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(proxy->listener, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(proxy->listener, 8), 0);
    assert_int_equal(getsockname(proxy->listener, (struct sockaddr *)&at, &bytes), 0);
    snprintf(proxy->endpoint, sizeof(proxy->endpoint), "127.0.0.1:%u", ntohs(at.sin_port));
    assert_int_equal(pthread_create(&proxy->thread, NULL, proxy_run, proxy), 0);
}

static void proxy_stop(proxy_t *proxy)
{
    atomic_store(&proxy->stop, true);
    pthread_join(proxy->thread, NULL);
    close(proxy->listener);
}

static void test_a_call_whose_answer_was_lost_is_done_once(void **state)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    static proxy_t proxy;
    proxy_start(&proxy);
    lwd_catalogue_t *cat = open_at(proxy.endpoint, "lost");
    lwd_create_t create = {.tenant = "a", .shape = test_shape(2, 1), .client_id = 1, .incarnation = 1, .lease_us = LEASE};
    lwd_session_row_t row, rows[64];
    uint32_t made = 0, count = 0, committed = 0;
    assert_int_equal(ops->create(cat, &create, T0, &row, &error), LW_OK);
    made++;
    for (unsigned i = 0; i < 48; i++) {
        atomic_store(i % 3 == 2 ? &proxy.mute_after : &proxy.deaf_after, 1 + i / 2 % 8);
        lw_status_t status;
        if (i % 2) {
            status = ops->create(cat, &create, T0, &rows[0], &error);
            made += status == LW_OK;
        } else {
            lwd_range_t range = test_range(committed * 16, 16, 1, 0);
            status = ops->commit(cat, row.session_id, 0, 1, &range, 1, T0, &error);
            committed += status == LW_OK;
        }
        if (status != LW_OK)
            fail_msg("call %u: %s", i, error.text);
    }
    print_message("%u questions and answers were lost\n", atomic_load(&proxy.lost));
    assert_true(atomic_load(&proxy.lost) >= 10);
    assert_int_equal(ops->list(cat, NULL, 0, 64, rows, &count, &error), LW_OK);
    assert_int_equal(count, made);
    assert_int_equal(rows[0].token_count, 16 * committed);
    ops->close(cat);
    proxy_stop(&proxy);
}

/* ---- etcd is away ---- */

static void test_without_etcd_calls_fail_in_time_and_nothing_is_lost(void **state)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    timeout_ms = 1500;
    lwd_catalogue_t *cat = open_at(etcd.endpoint, "away");
    timeout_ms = 20000;
    lwd_create_t create = {.tenant = "a", .shape = test_shape(2, 1), .client_id = 1, .incarnation = 1, .lease_us = LEASE};
    lwd_session_row_t row, again;
    assert_int_equal(ops->create(cat, &create, T0, &row, &error), LW_OK);
    lwd_range_t range = test_range(0, 16, 1, 0);
    static const int ends[2] = {SIGSTOP, SIGKILL};
    for (unsigned i = 0; i < 2; i++) {
        if (ends[i] == SIGKILL)
            etcd_process_kill(&etcd);
        else
            etcd_process_signal(&etcd, SIGSTOP);
        uint64_t start = lwd_etcd_until(0);
        assert_int_equal(ops->commit(cat, row.session_id, 0, 1, &range, 1, T0, &error), LW_ERR_FLEET);
        assert_in_range(lwd_etcd_until(0) - start, 0, 6 * SECOND);
        assert_non_null(strstr(error.text, etcd.endpoint));
        start = lwd_etcd_until(0);
        assert_int_equal(ops->get(cat, NULL, row.session_id, &again, &error), LW_ERR_FLEET);
        assert_in_range(lwd_etcd_until(0) - start, 0, 3 * SECOND); /* the second one hardly waits */
        if (ends[i] == SIGKILL)
            etcd_process_start(&etcd);
        else
            etcd_process_signal(&etcd, SIGCONT);
        uint64_t until = lwd_etcd_until(20 * SECOND);
        lw_status_t status;
        do
            status = ops->commit(cat, row.session_id, 0, 1, &range, 1, T0, &error);
        while (status == LW_ERR_FLEET && lwd_etcd_until(0) < until);
        assert_int_equal(status, LW_OK);
        assert_int_equal(ops->get(cat, NULL, row.session_id, &again, &error), LW_OK);
        assert_int_equal(again.token_count, 16 * (i + 1));
        range = test_range(16, 16, 1, 0);
    }
    ops->close(cat);
}

/* ---- bounds ---- */

static void test_a_manifest_that_would_be_too_large_is_refused_by_name(void **state)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    lwd_catalogue_t *cat = open_at(etcd.endpoint, "large");
    lwd_create_t create = {.tenant = "a", .shape = test_shape(LW_LAYERS_MAX, 1), .client_id = 1, .incarnation = 1, .lease_us = LEASE};
    lwd_session_row_t row;
    uint32_t fit = (1u << 20) / (22 + LW_LAYERS_MAX * LW_REPLICAS_MAX * 2), done = 0;
    lwd_range_t *ranges = calloc(fit + 1, sizeof(*ranges));
    for (uint32_t i = 0; i <= fit; i++) {
        ranges[i] = test_range(i * 16, 16, 1, 0);
        ranges[i].replicas = LW_REPLICAS_MAX;
    }
    assert_int_equal(ops->create(cat, &create, T0, &row, &error), LW_OK);
    assert_int_equal(ops->commit(cat, row.session_id, 0, 1, ranges, fit + 1, T0, &error), LW_ERR_EXHAUSTED);
    assert_non_null(strstr(error.text, "token"));
    for (done = 0; done < fit; done += 100)
        assert_int_equal(ops->commit(cat, row.session_id, 0, 1, ranges + done, (uint32_t)lw_min_u64(100, fit - done), T0, &error),
                         LW_OK);
    assert_int_equal(ops->commit(cat, row.session_id, 0, 1, ranges + fit, 1, T0, &error), LW_ERR_EXHAUSTED);
    assert_int_equal(ops->get(cat, NULL, row.session_id, &row, &error), LW_OK);
    assert_int_equal(row.token_count, fit * 16);
    free(ranges);
    ops->close(cat);
}

/* A new incarnation of a client with more leases than one transaction takes. */
static void test_more_leases_than_a_transaction_takes_are_ended_all_the_same(void **state)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    lwd_catalogue_t *cat = open_at(etcd.endpoint, "leases");
    lwd_create_t create = {.tenant = "a", .shape = test_shape(2, 1), .client_id = 1, .incarnation = 1, .lease_us = LEASE};
    static lwd_session_row_t rows[128];
    lwd_session_row_t row, first = {0};
    uint32_t renewed = 0, count = 0;
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(ops->create(cat, &create, T0, &row, &error), LW_OK);
        first = i ? first : row;
    }
    for (uint64_t client = 100; client < 200; client++) /* and a session with as many readers */
        assert_int_equal(ops->open_session(cat, "a", first.session_id, false, client, 1, LEASE, T0, &row, &error), LW_OK);
    assert_int_equal(row.readers, 100);
    assert_int_equal(ops->renew(cat, 1, 1, LEASE, T0, &renewed, &error), LW_OK);
    assert_int_equal(renewed, 100);
    assert_int_equal(ops->renew(cat, 1, 2, LEASE, T0, &renewed, &error), LW_OK);
    assert_int_equal(renewed, 0);
    assert_int_equal(ops->list(cat, NULL, 0, 128, rows, &count, &error), LW_OK);
    assert_int_equal(count, 100);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(rows[i].state, LWD_SESSION_IDLE);
    assert_int_equal(ops->drop(cat, "a", first.session_id, T0, &error), LW_OK);
    assert_int_equal(ops->renew(cat, 150, 1, LEASE, T0, &renewed, &error), LW_OK);
    assert_int_equal(renewed, 0);
    ops->close(cat);
}

/* ---- figures ---- */

static int by_value(const void *a, const void *b)
{
    const uint64_t *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

static void print_times(const char *what, uint64_t *us, uint32_t count)
{
    qsort(us, count, sizeof(*us), by_value);
    print_message("%s: p50 %.2f ms, p99 %.2f ms\n", what, (double)us[count / 2] / 1000, (double)us[count * 99 / 100] / 1000);
}

static void test_times_are_told(void **state)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_etcd();
    enum { COUNT = 200 };
    static uint64_t creates[COUNT], commits[COUNT], renews[COUNT], checks[COUNT];
    lwd_catalogue_t *cat = open_at(etcd.endpoint, "times");
    lwd_create_t create = {.tenant = "a", .shape = test_shape(32, 1), .client_id = 1, .incarnation = 1, .lease_us = LEASE};
    lwd_session_row_t first, row;
    uint64_t origin;
    uint32_t cut, count;
    assert_int_equal(ops->create(cat, &create, T0, &first, &error), LW_OK);
    for (unsigned i = 0; i < COUNT; i++) {
        uint64_t at = lwd_etcd_until(0);
        assert_int_equal(ops->create(cat, &create, T0, &row, &error), LW_OK);
        creates[i] = lwd_etcd_until(0) - at;
        lwd_range_t range = test_range(i * 16, 16, 1, 0);
        at = lwd_etcd_until(0);
        assert_int_equal(ops->commit(cat, first.session_id, 0, 1, &range, 1, T0, &error), LW_OK);
        commits[i] = lwd_etcd_until(0) - at;
        at = lwd_etcd_until(0);
        assert_int_equal(ops->renew(cat, 1, 1, LEASE, T0, &count, &error), LW_OK);
        renews[i] = lwd_etcd_until(0) - at;
        at = lwd_etcd_until(0);
        assert_int_equal(ops->check(cat, first.session_id, first.token, false, 0, T0, &origin, &cut, 1, &count, &error), LW_OK);
        checks[i] = lwd_etcd_until(0) - at;
    }
    print_times("create", creates, COUNT);
    print_times("commit", commits, COUNT);
    print_times("renew", renews, COUNT);
    print_times("check", checks, COUNT);
    ops->close(cat);
}

int main(void)
{
    if (!etcd_process_found()) {
        printf("skipped: no etcd command\n");
        return 77;
    }
    etcd_process_start(&etcd);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_four_threads_lose_nothing_and_do_nothing_twice),
        cmocka_unit_test(test_a_call_whose_answer_was_lost_is_done_once),
        cmocka_unit_test(test_without_etcd_calls_fail_in_time_and_nothing_is_lost),
        cmocka_unit_test(test_a_manifest_that_would_be_too_large_is_refused_by_name),
        cmocka_unit_test(test_more_leases_than_a_transaction_takes_are_ended_all_the_same),
        cmocka_unit_test(test_times_are_told),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    etcd_process_remove(&etcd);
    return failed;
}
