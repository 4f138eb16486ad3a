/* test_fabric_vanish.c - a tcp peer that goes in the instant of connecting: UCX has connected to it, what it
 * says first is reset, and connecting again is refused. The system calls are this program's own, so the
 * instant is met each time. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/limits.h"
#include "fabric/fabric.h"

#define GREETING_MAGIC 0xCAFEBABE12345678ull /* what UCX's tcp transport sends first */
#define ROUNDS 20u

static atomic_bool armed;
static atomic_uint vanished;
static _Thread_local bool refuse;

#define SEEN_BY_UCX __attribute__((visibility("default")))
SEEN_BY_UCX int connect(int fd, const struct sockaddr *address, socklen_t bytes);
SEEN_BY_UCX ssize_t send(int fd, const void *data, size_t bytes, int flags);

int connect(int fd, const struct sockaddr *address, socklen_t bytes)
{
    int (*next)(int, const struct sockaddr *, socklen_t) =
        (int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect");
    if (refuse && address->sa_family == AF_INET) {
        refuse = false;
        errno = ECONNREFUSED;
        return -1;
    }
    return next(fd, address, bytes);
}

ssize_t send(int fd, const void *data, size_t bytes, int flags)
{
    ssize_t (*next)(int, const void *, size_t, int) =
        (ssize_t(*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send");
    uint64_t magic = 0;
    if (bytes >= sizeof(magic))
        memcpy(&magic, data, sizeof(magic));
    if (magic == GREETING_MAGIC && atomic_exchange(&armed, false)) {
        atomic_fetch_add(&vanished, 1);
        refuse = true;
        errno = ECONNRESET;
        return -1;
    }
    return next(fd, data, bytes, flags);
}

typedef struct end {
    lw_fabric_t *fabric;
    lw_conn_t *conn;
    unsigned closed, messages;
} end_t;

static void on_accept(void *arg, lw_conn_t *conn)
{
    ((end_t *)arg)->conn = conn;
}

static void on_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    (void)conn, (void)msg;
    ((end_t *)arg)->messages++;
}

static void on_closed(void *arg, lw_conn_t *conn, lw_status_t status)
{
    end_t *end = arg;
    (void)conn, (void)status;
    end->conn = NULL;
    end->closed++;
}

static void open_end(end_t *end)
{
    lw_error_t error = {0};
    lw_fabric_params_t params = {
        .transports = "tcp",
        .handler = {.on_message = on_message, .on_accept = on_accept, .on_closed = on_closed, .arg = end}};
    if (lw_fabric_ucx()->open(&params, &end->fabric, &error) != LW_OK)
        fail_msg("open: %s", error.text);
}

/* Drives both ends until one of the counts has moved; false after `us`. */
static bool drive(end_t *client, end_t *server, uint64_t us)
{
    uint64_t until = lw_now_us(lw_clock_real()) + us;
    unsigned closed = client->closed, messages = server->messages;
    while (lw_now_us(lw_clock_real()) < until) {
        lw_fabric_ucx()->progress(client->fabric);
        lw_fabric_ucx()->progress(server->fabric);
        if (client->closed != closed || server->messages != messages)
            return true;
    }
    return false;
}

static void test_a_peer_that_vanishes_while_connecting_ends_a_connection_and_not_the_process(void **state)
{
    const lw_fabric_ops_t *ops = lw_fabric_ucx();
    end_t client = {0}, server = {0};
    char address[LW_ADDRESS_MAX];
    lw_error_t error = {0};
    (void)state;
    open_end(&server);
    open_end(&client);
    assert_int_equal(ops->listen(server.fabric, "127.0.0.1:0", &error), LW_OK);
    assert_int_equal(ops->address(server.fabric, address, sizeof(address)), LW_OK);
    for (unsigned round = 0; round < ROUNDS; round++) {
        bool faulty = round % 2 == 0; /* and a sound one after each, on the same fabrics */
        unsigned before = server.messages, closed = client.closed;
        atomic_store(&armed, faulty);
        if (ops->connect(client.fabric, address, &client.conn, &error) != LW_OK)
            fail_msg("connect: %s", error.text);
        assert_int_equal(ops->send(client.conn, "hello", 5, NULL, 0, LW_SEND_AUTO, NULL, NULL), LW_OK);
        bool moved = drive(&client, &server, faulty ? 2000000 : 10000000);
        if (!faulty) {
            assert_true(moved);
            assert_int_equal(server.messages, before + 1);
        }
        if (client.conn != NULL)
            ops->close_conn(client.conn);
        while (client.closed == closed)
            assert_true(drive(&client, &server, 10000000));
        if (server.conn != NULL)
            ops->close_conn(server.conn);
    }
    assert_int_equal(atomic_load(&vanished), ROUNDS / 2);
    ops->close(client.fabric);
    ops->close(server.fabric);
}

int main(void)
{
    if (lw_fabric_ucx() == NULL)
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_peer_that_vanishes_while_connecting_ends_a_connection_and_not_the_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
