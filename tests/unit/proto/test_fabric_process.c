/* test_fabric_process.c - what a client sees when the server is another process that is killed, stopped or
 * refuses to answer. "tcp" or "shm" as first argument; the program runs itself with "serve" for the server.
 */
#define _GNU_SOURCE /* prctl, pipe */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "fabric_rig.h"

#define IN_FLIGHT 16u
#define BYTES (1u << 20)

static const char *transports = "tcp";

/* ---- the server: answers every message with a payload of the same size ---- */

static const lw_fabric_ops_t *ops;
static lw_fabric_t *server;
static uint8_t *answer;

static void serve_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    uint64_t head = 0;
    memcpy(&head, msg->head, sizeof(head));
    lw_iov_t piece = {.data = answer, .bytes = BYTES};
    if (ops->send(conn, &head, sizeof(head), &piece, 1, LW_SEND_AUTO, NULL, NULL) != LW_OK)
        exit(3);
}

static int serve(const char *address)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    ops = lw_fabric_ucx();
    answer = calloc(1, BYTES);
    lw_fabric_params_t params = {.transports = transports, .handler = {.on_message = serve_message}};
    lw_error_t error = {0};
    char bound[128];
    if (answer == NULL || ops->open(&params, &server, &error) != LW_OK ||
        ops->listen(server, address, &error) != LW_OK ||
        ops->address(server, bound, sizeof(bound)) != LW_OK) {
        fprintf(stderr, "server: %s\n", error.text);
        return 2;
    }
    printf("%s\n", bound);
    fflush(stdout);
    for (;;)
        lw_fabric_wait(ops, server, 0, 1000000);
}

/* ---- the client ---- */

typedef struct client {
    lw_fabric_t *fabric;
    lw_conn_t *conn;
    unsigned messages, landed, land_failed, sent, send_failed, closed;
    lw_status_t closed_status;
    bool take;
    uint8_t *memory;
    pid_t pid;
    char address[128];
} client_t;

static void on_landed(void *arg, lw_status_t status)
{
    client_t *client = arg;
    if (status == LW_OK)
        client->landed++;
    else
        client->land_failed++;
}

static void on_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    client_t *client = arg;
    client->messages++;
    if (client->take)
        ops->recv(client->fabric, msg, client->memory, NULL, on_landed, client);
}

static void on_closed(void *arg, lw_conn_t *conn, lw_status_t status)
{
    client_t *client = arg;
    assert_ptr_equal(conn, client->conn);
    client->closed++;
    client->closed_status = status;
    client->conn = NULL;
    /* everything of the connection has been told before */
    assert_int_equal(client->landed + client->land_failed, client->take ? client->messages : 0);
}

static void on_sent(void *arg, lw_status_t status)
{
    client_t *client = arg;
    if (status == LW_OK)
        client->sent++;
    else
        client->send_failed++;
}

static void start_server(client_t *client, const char *address)
{
    int pipe_fd[2];
    assert_int_equal(pipe(pipe_fd), 0);
    client->pid = fork();
    if (client->pid == 0) {
        dup2(pipe_fd[1], 1);
        execl("/proc/self/exe", "test_fabric_process", transports, "serve", address, (char *)NULL);
        _exit(4);
    }
    close(pipe_fd[1]);
    FILE *in = fdopen(pipe_fd[0], "r");
    if (in == NULL || fgets(client->address, sizeof(client->address), in) == NULL)
        fail_msg("the server did not start");
    client->address[strcspn(client->address, "\n")] = '\0';
    fclose(in);
}

static void end_server(client_t *client)
{
    if (client->pid > 0) {
        kill(client->pid, SIGKILL);
        waitpid(client->pid, NULL, 0);
    }
    client->pid = 0;
}

static void connect_client(client_t *client)
{
    lw_error_t error = {0};
    if (ops->connect(client->fabric, client->address, &client->conn, &error) != LW_OK)
        fail_msg("connect: %s", error.text);
}

static int setup(void **state)
{
    client_t *client = calloc(1, sizeof(*client));
    lw_error_t error = {0};
    assert_non_null(client);
    client->memory = malloc(BYTES);
    client->take = true;
    start_server(client, "127.0.0.1:0"); /* before UCX starts here: it does not like forks */
    lw_fabric_params_t params = {
        .transports = transports,
        .handler = {.on_message = on_message, .on_closed = on_closed, .arg = client},
    };
    if (ops->open(&params, &client->fabric, &error) != LW_OK)
        fail_msg("open: %s", error.text);
    connect_client(client);
    *state = client;
    return 0;
}

static int teardown(void **state)
{
    client_t *client = *state;
    end_server(client);
    ops->close(client->fabric);
    assert_int_equal(client->landed + client->land_failed, client->take ? client->messages : 0);
    free(client->memory);
    free(client);
    return 0;
}

#define until(condition)                                          \
    do {                                                          \
        uint64_t end_us = lw_now_us(lw_clock_real()) + 10000000u; \
        while (!(condition)) {                                    \
            lw_fabric_wait(ops, client->fabric, 50, 100000);      \
            if (lw_now_us(lw_clock_real()) > end_us)              \
                fail_msg("waited in vain for: %s", #condition);   \
        }                                                         \
    } while (0)

static void ask(client_t *client, unsigned times, size_t bytes)
{
    static uint8_t question[BYTES];
    uint64_t head = 7;
    lw_iov_t piece = {.data = question, .bytes = bytes};
    for (unsigned i = 0; i < times; i++)
        assert_int_equal(
            ops->send(client->conn, &head, sizeof(head), &piece, 1, LW_SEND_AUTO, on_sent, client), LW_OK);
}

static void test_killed_server_ends_the_connection_and_every_operation(void **state)
{
    client_t *client = *state;
    ask(client, 1, 100);
    until(client->landed == 1);
    ask(client, IN_FLIGHT, 100);
    ask(client, IN_FLIGHT, BYTES);
    for (unsigned i = 0; i < 20; i++)
        ops->progress(client->fabric);
    end_server(client);
    uint64_t killed_us = lw_now_us(lw_clock_real());
    until(client->closed == 1);
    assert_int_equal(client->closed_status, LW_ERR_UNREACHABLE);
    assert_int_equal(client->sent + client->send_failed, 1 + 2 * IN_FLIGHT);
    assert_true(lw_now_us(lw_clock_real()) - killed_us < 5000000);
}

static void test_killed_server_with_nothing_in_flight_is_noticed(void **state)
{
    client_t *client = *state;
    ask(client, 1, 100);
    until(client->landed == 1);
    end_server(client);
    until(client->closed == 1);
    assert_int_equal(client->closed_status, LW_ERR_UNREACHABLE);
}

static void test_stopped_server_can_be_left(void **state)
{
    client_t *client = *state;
    ask(client, 1, 100);
    until(client->landed == 1);
    kill(client->pid, SIGSTOP);
    ask(client, IN_FLIGHT, 100);
    ask(client, IN_FLIGHT, BYTES);
    for (unsigned i = 0; i < 1000; i++)
        ops->progress(client->fabric);
    assert_int_equal(client->closed, 0); /* nobody here can know: callers keep deadlines */
    uint64_t left_us = lw_now_us(lw_clock_real());
    ops->close_conn(client->conn);
    until(client->closed == 1);
    assert_int_equal(client->closed_status, LW_OK);
    assert_int_equal(client->sent + client->send_failed, 1 + 2 * IN_FLIGHT);
    assert_true(lw_now_us(lw_clock_real()) - left_us < 3000000);
}

static void test_stopped_server_that_goes_on_is_served_again(void **state)
{
    client_t *client = *state;
    ask(client, 1, 100);
    until(client->landed == 1);
    kill(client->pid, SIGSTOP);
    ask(client, IN_FLIGHT, BYTES);
    for (unsigned i = 0; i < 1000; i++)
        ops->progress(client->fabric);
    kill(client->pid, SIGCONT);
    until(client->landed == 1 + IN_FLIGHT && client->sent == 1 + IN_FLIGHT);
    assert_int_equal(client->closed, 0);
}

static void test_payloads_are_dropped_without_harm_when_the_server_dies(void **state)
{
    client_t *client = *state;
    client->take = false;
    ask(client, IN_FLIGHT, BYTES);
    until(client->messages >= 1);
    end_server(client);
    until(client->closed == 1);
    assert_int_equal(client->sent + client->send_failed, IN_FLIGHT);
}

static void test_restarted_server_is_reached_at_the_same_address(void **state)
{
    client_t *client = *state;
    char address[128];
    ask(client, 1, 100);
    until(client->landed == 1);
    snprintf(address, sizeof(address), "%s", client->address);
    end_server(client);
    until(client->closed == 1);
    start_server(client, address);
    assert_string_equal(client->address, address);
    connect_client(client);
    ask(client, IN_FLIGHT, BYTES);
    until(client->landed == 1 + IN_FLIGHT);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        transports = argv[1];
    if (argc > 3 && strcmp(argv[2], "serve") == 0)
        return serve(argv[3]);
    ops = lw_fabric_ucx();
    if (ops == NULL)
        return 77;
#define WITH_SERVER(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_SERVER(test_killed_server_ends_the_connection_and_every_operation),
        WITH_SERVER(test_killed_server_with_nothing_in_flight_is_noticed),
        WITH_SERVER(test_stopped_server_can_be_left),
        WITH_SERVER(test_stopped_server_that_goes_on_is_served_again),
        WITH_SERVER(test_payloads_are_dropped_without_harm_when_the_server_dies),
        WITH_SERVER(test_restarted_server_is_reached_at_the_same_address),
    };
    return cmocka_run_group_tests_name(transports, tests, NULL, NULL);
}
