/* The daemon's data plane as a real process, over tcp and shared memory. The control plane allows everything
 * here. Arguments: the program, "tcp" or "shm". */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/prng.h"
#include "e2e/process.h"
#include "unit/storaged/data_client.h"
#include "unit/storaged/segment_make.h"

static const char *program, *transports;
static uint64_t seed;

static bool start(process_t *process, const char *listen, const char *threads)
{
    const char *const argv[] = {program,    "--data.listen",  listen,  "--data.transports",
                                transports, "--data.threads", threads, "--mem.arena_bytes",
                                "64m",      "--log.level",    "warn",  NULL};
    return process_start(process, argv);
}

static void connect_to(data_client_t *client, const char *address)
{
    if (lw_fabric_ucx() == NULL)
        skip();
    data_client_open(client, lw_fabric_ucx(), transports, address, NULL, NULL);
    assert_int_equal(data_hello(client, 5, 1), LW_OK);
    assert_int_equal(data_attach(client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
}

static uint8_t *put(data_client_t *client, uint16_t layer, uint64_t *handle_out)
{
    const segment_shape_t shape = {
        .heads = 4, .clusters = 200, .outliers = 300, .rows_max = 31, .head_dim = 128};
    lw_segment_name_t name = {.origin = 1, .layer = layer, .generation = 1};
    uint64_t bytes;
    uint8_t *segment = segment_make(&name, &shape, seed + layer, &bytes);
    assert_true(bytes > 3 * LW_WRITE_CHUNK_BYTES);
    assert_int_equal(data_put(client, segment, bytes, handle_out), LW_OK);
    return segment;
}

/* Fetches random entries and compares every byte and checksum. */
static void fetch_some(data_client_t *client, const uint8_t *segment, uint64_t handle, lw_prng_t *prng,
                       uint32_t flags)
{
    lw_msg_fetch_run_t runs[4];
    uint16_t entries[4 * 64];
    uint32_t count = 0;
    for (uint32_t head = 0; head < 4; head++) {
        runs[head] = (lw_msg_fetch_run_t){
            .handle = handle, .head = (uint16_t)head, .count = (uint16_t)(1 + lw_prng_below(prng, 64))};
        for (uint32_t i = 0; i < runs[head].count; i++)
            entries[count++] = (uint16_t)lw_prng_below(prng, 500);
    }
    assert_int_equal(data_fetch(client, runs, 4, entries, flags), LW_OK);
    const uint8_t *at = data_fetch_bulk(client);
    uint32_t record = 0;
    for (uint32_t head = 0; head < 4; head++) {
        assert_int_equal(client->reply.run_status[head], LW_OK);
        for (uint32_t i = 0; i < runs[head].count; i++, record++) {
            uint32_t bytes;
            const uint8_t *want = segment_record(segment, head, entries[record], &bytes);
            if (flags == 0)
                assert_memory_equal(at, want, bytes);
            uint64_t record_seed = lw_record_seed(&lw_segment_header(segment)->name, head, entries[record]);
            assert_int_equal(client->reply.checksums[record], lw_record_check(record_seed, want, bytes));
            at += bytes;
        }
    }
    assert_int_equal(client->reply.body.fetch_reply.bulk_bytes, (uint64_t)(at - data_fetch_bulk(client)));
}

static void serve_and_stop(const char *threads)
{
    process_t process;
    data_client_t client;
    char address[128];
    uint64_t handle[2];
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    if (lw_fabric_ucx() == NULL)
        skip();
    assert_true(start(&process, "127.0.0.1:0", threads));
    assert_true(process_ready_text(&process, "data", address, sizeof(address)));
    connect_to(&client, address);
    uint8_t *segment[2] = {put(&client, 0, &handle[0]), put(&client, 1, &handle[1])};
    for (uint32_t i = 0; i < 200; i++)
        fetch_some(&client, segment[i % 2], handle[i % 2], &prng, i % 10 == 9 ? LW_MSG_FETCH_CONTIGUOUS : 0);
    uint64_t bytes = lw_segment_header(segment[0])->bytes;
    assert_int_equal(data_read(&client, handle[0], 0, 0), LW_OK);
    assert_int_equal(client.reply.body.read_reply.bytes, bytes);
    assert_memory_equal(client.payload, segment[0], bytes);
    assert_int_equal(process_end(&process, SIGTERM), 0);
    data_client_close(&client);
    free(segment[0]);
    free(segment[1]);
}

static void test_a_process_serves_what_was_put_and_exits_0_on_sigterm(void **state)
{
    (void)state;
    serve_and_stop("1");
}

static void test_several_data_threads_serve_too(void **state)
{
    (void)state;
    serve_and_stop("3");
}

static void test_after_kill_9_clients_are_told_and_a_restart_serves_on_the_same_port(void **state)
{
    process_t process;
    data_client_t client;
    char address[128];
    uint64_t handle;
    (void)state;
    if (lw_fabric_ucx() == NULL)
        skip();
    assert_true(start(&process, "127.0.0.1:0", "1"));
    assert_true(process_ready_text(&process, "data", address, sizeof(address)));
    connect_to(&client, address);
    free(put(&client, 0, &handle));
    assert_int_equal(process_end(&process, SIGKILL), 1000 + SIGKILL);
    for (unsigned i = 0; i < 50000000 && client.conn != NULL; i++)
        data_client_step(&client, 1);
    assert_null(client.conn);
    data_client_close(&client);

    assert_true(start(&process, address, "1"));
    connect_to(&client, address);
    const lw_msg_fetch_run_t run = {.handle = handle, .head = 0, .count = 1};
    const uint16_t entry = 0;
    assert_int_equal(data_fetch(&client, &run, 1, &entry, 0), LW_OK);
    assert_int_equal(client.reply.run_status[0],
                     LW_ERR_STALE); /* the memory is gone, and so are its handles */
    uint8_t *segment = put(&client, 0, &handle);
    lw_prng_t prng;
    lw_prng_seed(&prng, seed);
    fetch_some(&client, segment, handle, &prng, 0);
    free(segment);
    data_client_close(&client);
    assert_int_equal(process_end(&process, SIGTERM), 0);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    program = argv[1];
    transports = argv[2];
    seed = argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_process_serves_what_was_put_and_exits_0_on_sigterm),
        cmocka_unit_test(test_several_data_threads_serve_too),
        cmocka_unit_test(test_after_kill_9_clients_are_told_and_a_restart_serves_on_the_same_port),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
