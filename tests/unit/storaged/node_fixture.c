#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "unit/storaged/node_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/fault.h"

uint64_t fixture_seed;

void fixture_take_seed(int argc, char **argv)
{
    fixture_seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)fixture_seed);
}

int fixture_setup_with(void **state, const node_params_t *params)
{
    fixture_t *fixture = calloc(1, sizeof(*fixture));
    node_params_t seeded = *params;
    seeded.seed = fixture_seed;
    node_start(&fixture->node, &seeded);
    node_client(&fixture->node, &fixture->client, 0, 5, 1);
    *state = fixture;
    return 0;
}

int fixture_setup(void **state)
{
    return fixture_setup_with(state, &(node_params_t){0});
}

int fixture_teardown(void **state)
{
    fixture_t *fixture = *state;
#ifdef LW_FAULTS
    lw_fault_reset(0);
#endif
    if (fixture->client.fabric != NULL)
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

lw_segment_name_t fixture_name(uint64_t origin, uint16_t layer, uint32_t first, uint32_t generation)
{
    return (lw_segment_name_t){
        .origin = origin, .layer = layer, .first_token = first, .generation = generation};
}

uint8_t *fixture_put(fixture_t *fixture, uint16_t layer, uint64_t *bytes_out, uint64_t *handle_out)
{
    const segment_shape_t shape = {.heads = FIXTURE_HEADS,
                                   .clusters = FIXTURE_CLUSTERS,
                                   .outliers = FIXTURE_OUTLIERS,
                                   .rows_max = 20,
                                   .head_dim = 64};
    lw_segment_name_t name = fixture_name(1, layer, 0, 1);
    uint8_t *segment = segment_make(&name, &shape, fixture_seed + layer, bytes_out);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_put(&fixture->client, segment, *bytes_out, handle_out), LW_OK);
    return segment;
}

void fixture_check_record(const data_client_t *client, const uint8_t *segment, uint32_t head, uint32_t entry,
                          const uint8_t **at, uint32_t record)
{
    uint32_t bytes;
    const uint8_t *want = segment_record(segment, head, entry, &bytes);
    assert_memory_equal(*at, want, bytes);
    uint64_t record_seed = lw_record_seed(&lw_segment_header(segment)->name, head, entry);
    assert_int_equal(client->reply.checksums[record], lw_record_check(record_seed, *at, bytes));
    *at += bytes;
}

uint64_t fixture_count(const lw_counter_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}
