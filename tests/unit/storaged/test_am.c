/* Messages of the data plane against one node in the simulated network. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/fault.h"
#include "unit/storaged/node.h"

static uint64_t seed;
static const segment_shape_t shape = {.heads = 2, .clusters = 40, .outliers = 30, .rows_max = 20, .head_dim = 64};

static lw_segment_name_t name_of(uint64_t origin, uint16_t layer, uint32_t first, uint32_t generation)
{
    return (lw_segment_name_t){.origin = origin, .layer = layer, .first_token = first, .generation = generation};
}

typedef struct fixture {
    node_t node;
    data_client_t client;
} fixture_t;

static int setup_with(void **state, const node_params_t *params)
{
    fixture_t *fixture = calloc(1, sizeof(*fixture));
    node_params_t seeded = *params;
    seeded.seed = seed;
    node_start(&fixture->node, &seeded);
    node_client(&fixture->node, &fixture->client, 0, 5, 1);
    *state = fixture;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, &(node_params_t){0});
}

static int teardown(void **state)
{
    fixture_t *fixture = *state;
    lw_fault_reset(0);
    data_client_close(&fixture->client);
    node_pass(&fixture->node, 3000000);
    for (uint32_t i = 0; i < fixture->node.worker_count; i++) {
        assert_true(lwd_worker_check(fixture->node.workers[i]));
        assert_int_equal(lwd_worker_in_flight(fixture->node.workers[i]), 0);
    }
    assert_true(lwd_shard_check(fixture->node.shard));
    node_stop(&fixture->node);
    free(fixture);
    return 0;
}

/* A written segment of session 1, term 1; the caller frees it. */
static uint8_t *put_one(fixture_t *fixture, uint16_t layer, uint64_t *bytes_out, uint64_t *handle_out)
{
    lw_segment_name_t name = name_of(1, layer, 0, 1);
    uint8_t *segment = segment_make(&name, &shape, seed + layer, bytes_out);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_put(&fixture->client, segment, *bytes_out, handle_out), LW_OK);
    return segment;
}

static void check_record(const data_client_t *client, const uint8_t *segment, uint32_t head, uint32_t entry,
                         const uint8_t **at, uint32_t record)
{
    uint32_t bytes;
    const uint8_t *want = segment_record(segment, head, entry, &bytes);
    assert_memory_equal(*at, want, bytes);
    uint64_t record_seed = lw_record_seed(&lw_segment_header(segment)->name, head, entry);
    assert_int_equal(client->reply.checksums[record], lw_record_check(record_seed, *at, bytes));
    *at += bytes;
}

static void test_a_put_segment_is_fetched_byte_for_byte(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t *segment = put_one(fixture, 0, &bytes, &handle);
    const uint16_t entries[] = {3, 4, 5, 69, 40, 41, 0, 39, 7};
    const lw_msg_fetch_run_t runs[] = {{.handle = handle, .head = 0, .count = 6}, {.handle = handle, .head = 1, .count = 3}};
    assert_int_equal(data_fetch(&fixture->client, runs, 2, entries, 0), LW_OK);
    assert_int_equal(fixture->client.reply.body.fetch_reply.record_count, 9);
    const uint8_t *at = data_fetch_bulk(&fixture->client);
    for (uint32_t i = 0; i < 9; i++)
        check_record(&fixture->client, segment, i < 6 ? 0 : 1, entries[i], &at, i);
    assert_ptr_equal(at, data_fetch_bulk(&fixture->client) + fixture->client.reply.body.fetch_reply.bulk_bytes);
    free(segment);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test_setup_teardown(test_a_put_segment_is_fetched_byte_for_byte, setup, teardown),
};

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
