/* test_rpc_grpc_stop.c - a server that stops, a channel that closes, a peer that speaks something else. */
#include "test_rpc_support.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/prng.h"

typedef struct call_end {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned count;
    lw_status_t last;
} call_end_t;

static void call_ended(void *arg, lw_status_t status, const char *text, lw_rpc_bytes_t *reply)
{
    call_end_t *end = arg;
    pthread_mutex_lock(&end->lock);
    end->count++;
    end->last = status;
    pthread_cond_broadcast(&end->changed);
    pthread_mutex_unlock(&end->lock);
}

static void call_wait(call_end_t *end, unsigned count)
{
    pthread_mutex_lock(&end->lock);
    while (end->count < count)
        pthread_cond_wait(&end->changed, &end->lock);
    pthread_mutex_unlock(&end->lock);
}

#define CALL_END_INIT {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}

static void test_stop_cancels_calls_that_outlast_the_grace_and_keeps_ours_valid(void **state)
{
    test_kept_t kept = TEST_KEPT_INIT;
    call_end_t end = CALL_END_INIT;
    lw_rpc_server_t *server = test_server(NULL, &kept);
    lw_rpc_channel_t *channel = test_channel(lw_rpc_server_address(server), NULL);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(lw_rpc_call_async(channel, "/test.Test/Keep", "x", 1, 60 * SECOND, call_ended, &end, NULL), LW_OK);
    test_kept_wait(&kept, 7);
    uint64_t start = lw_now_us(lw_clock_real());
    lw_rpc_server_stop(server, 50000);
    assert_in_range(lw_now_us(lw_clock_real()) - start, 49000, 10 * SECOND);
    call_wait(&end, 8);
    assert_int_not_equal(end.last, LW_OK);
    for (unsigned i = 0; i < 8; i++) {
        assert_true(lw_rpc_canceled(kept.calls[i]));
        lw_rpc_reply(kept.calls[i], LW_OK, NULL, "late", 4); /* does nothing, frees the call */
    }
    lw_rpc_disconnect(channel);
}

static void *stopper(void *arg)
{
    lw_rpc_server_stop(arg, 30 * SECOND);
    return NULL;
}

static void test_stop_lets_a_call_finish_within_the_grace(void **state)
{
    test_kept_t kept = TEST_KEPT_INIT;
    call_end_t end = CALL_END_INIT;
    lw_rpc_server_t *server = test_server(NULL, &kept);
    lw_rpc_channel_t *channel = test_channel(lw_rpc_server_address(server), NULL);
    assert_int_equal(lw_rpc_call_async(channel, "/test.Test/Keep", "x", 1, 60 * SECOND, call_ended, &end, NULL), LW_OK);
    lw_rpc_call_t *call = test_kept_wait(&kept, 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, stopper, server), 0);
    lw_rpc_reply(call, LW_OK, NULL, "in time", 7);
    call_wait(&end, 1);
    assert_int_equal(end.last, LW_OK);
    uint64_t start = lw_now_us(lw_clock_real());
    pthread_join(thread, NULL);
    assert_true(lw_now_us(lw_clock_real()) - start < 20 * SECOND); /* it did not wait for the grace to pass */
    lw_rpc_disconnect(channel);
}

static void test_a_stopped_server_is_unreachable_and_a_new_one_on_its_port_is_found(void **state)
{
    test_kept_t kept = TEST_KEPT_INIT;
    lw_rpc_server_t *server = test_server(NULL, &kept);
    char address[128];
    snprintf(address, sizeof(address), "%s", lw_rpc_server_address(server));
    lw_rpc_channel_t *channel = test_channel(address, NULL);
    lw_rpc_bytes_t reply = {0};
    assert_int_equal(lw_rpc_call(channel, "/test.Test/Echo", "x", 1, 5 * SECOND, &reply, NULL), LW_OK);
    lw_rpc_bytes_free(&reply);
    lw_rpc_server_stop(server, SECOND);
    assert_int_equal(lw_rpc_call(channel, "/test.Test/Echo", "x", 1, 5 * SECOND, &reply, NULL), LW_ERR_UNREACHABLE);
    const lw_rpc_method_t echo = {.path = "/test.Test/Echo", .serve = test_serve_echo};
    assert_int_equal(lw_rpc_serve(address, NULL, &echo, 1, &server, NULL), LW_OK);
    lw_status_t status = LW_ERR_UNREACHABLE;
    uint64_t until = lw_now_us(lw_clock_real()) + 20 * SECOND;
    while (status == LW_ERR_UNREACHABLE && lw_now_us(lw_clock_real()) < until)
        status = lw_rpc_call(channel, "/test.Test/Echo", "x", 1, 5 * SECOND, &reply, NULL);
    assert_int_equal(status, LW_OK);
    lw_rpc_bytes_free(&reply);
    lw_rpc_disconnect(channel);
    lw_rpc_server_stop(server, SECOND);
}

static void test_disconnect_cancels_calls_in_flight(void **state)
{
    test_kept_t kept = TEST_KEPT_INIT;
    call_end_t end = CALL_END_INIT;
    lw_rpc_server_t *server = test_server(NULL, &kept);
    lw_rpc_channel_t *channel = test_channel(lw_rpc_server_address(server), NULL);
    lw_rpc_stream_t *stream = NULL;
    assert_int_equal(lw_rpc_call_async(channel, "/test.Test/Keep", "x", 1, 60 * SECOND, call_ended, &end, NULL), LW_OK);
    assert_int_equal(lw_rpc_stream_open(channel, "/test.Test/KeepStream", "", 0, &stream, NULL), LW_OK);
    test_kept_wait(&kept, 1);
    lw_rpc_disconnect(channel);
    assert_int_equal(end.count, 1);
    assert_int_equal(end.last, LW_ERR_CANCELED);
    lw_rpc_bytes_t message = {0};
    assert_int_equal(lw_rpc_stream_next(stream, 5 * SECOND, &message, NULL), LW_ERR_CANCELED);
    lw_rpc_stream_close(stream);
    for (unsigned i = 0; i < 2; i++)
        lw_rpc_finish(kept.calls[i], LW_OK, NULL);
    lw_rpc_server_stop(server, SECOND);
}

static int connect_raw(const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1))};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static void test_random_bytes_on_the_port_harm_nobody(void **state)
{
    test_kept_t kept = TEST_KEPT_INIT;
    lw_rpc_server_t *server = test_server(NULL, &kept);
    uint64_t seed = lw_now_us(lw_clock_real());
    print_message("seed %llu\n", (unsigned long long)seed);
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    for (unsigned round = 0; round < 20; round++) {
        int fd = connect_raw(lw_rpc_server_address(server));
        uint64_t noise[128];
        for (unsigned i = 0; i < 128; i++)
            noise[i] = lw_prng_u64(&prng);
        if (round % 2) /* half of them begin like HTTP/2 */
            memcpy(noise, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
        ssize_t written = send(fd, noise, 32 + lw_prng_below(&prng, sizeof(noise) - 32), MSG_NOSIGNAL);
        assert_true(written > 0);
        close(fd);
    }
    lw_rpc_channel_t *channel = test_channel(lw_rpc_server_address(server), NULL);
    lw_rpc_bytes_t reply = {0};
    assert_int_equal(lw_rpc_call(channel, "/test.Test/Echo", "still here", 10, 10 * SECOND, &reply, NULL), LW_OK);
    lw_rpc_bytes_free(&reply);
    lw_rpc_disconnect(channel);
    lw_rpc_server_stop(server, SECOND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stop_cancels_calls_that_outlast_the_grace_and_keeps_ours_valid),
        cmocka_unit_test(test_stop_lets_a_call_finish_within_the_grace),
        cmocka_unit_test(test_a_stopped_server_is_unreachable_and_a_new_one_on_its_port_is_found),
        cmocka_unit_test(test_disconnect_cancels_calls_in_flight),
        cmocka_unit_test(test_random_bytes_on_the_port_harm_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
