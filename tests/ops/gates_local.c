/* gates_local.c - local mode: ranges whose records lie in this host's pinned memory are attended in place, with the tickets,
 * counters and placement of remote ones, and nobody to answer. */
#include "ops/gates_private.h"

#include <string.h>

#include "kernels/view.h"

static ops_config_t local_config(uint32_t every)
{
    ops_config_t config = gates_config();
    config.admit_window = 4;
    config.outlier_ppm = 80000;
    config.policy.retrieve_ppm = 60000;
    config.local_every = every;
    return config;
}

static void step(ops_rig_t *rig)
{
    for (uint32_t layer = 0; layer < rig->config.shape.layer_count; layer++) {
        ops_query(rig, layer);
        assert_int_equal(ops_step(rig, layer), LW_OK);
        assert_int_equal(ops_session(rig, 0).error, 0);
    }
}

static void test_local_ranges_give_what_remote_ones_give(void **state)
{
    for (uint32_t every = 1; every <= 2; every++) {
        ops_config_t remote_config = local_config(0), config = local_config(every);
        remote_config.shape.dtype = config.shape.dtype = every == 1 ? LW_DTYPE_BF16 : LW_DTYPE_FP32;
        ops_rig_t *remote = gates_rig(&remote_config, 1500, 80), *rig = gates_rig(&config, 1500, 80);
        size_t floats = (size_t)lwk_query_heads(&config.shape) * config.shape.head_dim;
        for (int round = 0; round < 5; round++) { /* misses, then admission, then hits among them */
            step(remote);
            step(rig);
            assert_memory_equal(rig->out_host, remote->out_host, floats * sizeof(float));
            assert_memory_equal(rig->counters, remote->counters, sizeof *rig->counters);
        }
        assert_true(rig->counters->hits > 0);
        ops_rig_destroy(remote);
        ops_rig_destroy(rig);
    }
}

static void test_a_local_miss_waits_for_nobody(void **state)
{
    ops_config_t config = local_config(1);
    config.policy = ops_policy_full();
    ops_rig_t *rig = gates_rig(&config, 700, 80);
    ops_query(rig, 0);
    ops_load_step(rig, 0);
    lwk_step_t args = ops_step_args(rig, 0);
    const lwk_backend_t *b = rig->backend;
    assert_int_equal(b->prepare(rig->dev, &args, NULL), LW_OK);
    assert_int_equal(b->score(rig->dev, &args, NULL), LW_OK);
    assert_int_equal(b->select(rig->dev, &args, NULL), LW_OK);
    assert_int_equal(b->attend(rig->dev, &args, NULL), LW_OK);
    assert_int_equal(b->finish(rig->dev, &args, NULL), LW_OK);
    ops_read_step(rig);
    assert_int_equal(ops_session(rig, 0).error, 0);
    assert_true(*rig->ticket_head > 0);
    assert_true(ops_errors(rig, 0).out < 1e-5);
    assert_int_equal(ops_admit(rig), LW_OK);
    assert_int_equal(*rig->ticket_tail, *rig->ticket_head);
    ops_rig_destroy(rig);
}

static void test_local_and_remote_ranges_mix_in_one_session(void **state)
{
    ops_config_t config = local_config(2);
    config.policy = ops_policy_full();
    ops_rig_t *rig = gates_rig(&config, 2000, 80);
    assert_true(rig->range_count > 1);
    ops_query(rig, 0);
    assert_int_equal(ops_step(rig, 0), LW_OK);
    uint64_t local = 0, head = *rig->ticket_head;
    for (uint64_t t = 0; t < head; t++) {
        bool is_local = (rig->tickets[t].flags & LWK_TICKET_LOCAL) != 0;
        assert_int_equal(is_local, rig->tickets[t].row % 2 == 0);
        local += is_local;
    }
    assert_in_range(local, 1, head - 1);
    gates_truncate(rig, 0, 2080);
    for (int round = 0; round < 3; round++)
        assert_true(ops_gate_exact(rig, 1e-5, 1e-5));
    assert_true(ops_gate_zero_query(rig, false));
    ops_rig_destroy(rig);
}

static void test_local_records_are_admitted_and_evicted(void **state)
{
    ops_config_t config = local_config(1);
    config.admit_window = 0;
    config.page_count[0] = 24;
    config.page_count[1] = 10;
    ops_rig_t *rig = gates_rig(&config, 1500, 80);
    for (int round = 0; round < 8; round++) {
        step(rig);
        assert_true(ops_gate_zero_query(rig, false));
        assert_int_equal(*rig->ticket_head, *rig->ticket_tail);
    }
    assert_true(rig->counters->admitted > rig->counters->evicted);
    assert_true(rig->counters->evicted > 0);
    lwk_policy_t policy = ops_policy_full();
    ops_set_policy(rig, 0, &policy);
    assert_true(ops_gate_exact(rig, 1e-5, 1e-5)); /* pages and records in place, side by side */
    assert_true(rig->counters->hits > 0);
    ops_rig_destroy(rig);
}

static void test_local_records_out_of_line_are_refused(void **state)
{
    ops_config_t config = local_config(1);
    config.shape.layer_count = config.shape.kv_head_count = 1;
    ops_rig_t *rig = gates_rig(&config, 300, 80);
    lwk_tile_t *tile = NULL;
    assert_int_equal(rig->backend->alloc(rig->dev, LWK_MEMORY_PINNED, sizeof *tile, (void **)&tile), LW_OK);
    *tile = rig->ranges[0].parts[0].tile;
    lwk_publish_t args = {.shape = rig->config.shape,
                          .range_capacity = OPS_RANGES_MAX,
                          .store = rig->store,
                          .session = rig->sessions,
                          .row = rig->range_count,
                          .entry_slots = lwk_tile_entries(tile),
                          .tiles = tile,
                          .token_count = 10};
    tile->local += LWK_LANDING_UNIT / 2;
    assert_int_equal(rig->backend->publish(rig->dev, &args, NULL), LW_ERR_INVALID);
    tile->local -= LWK_LANDING_UNIT / 2;
    tile->row_base = NULL;
    assert_int_equal(rig->backend->publish(rig->dev, &args, NULL), LW_ERR_INVALID);
    rig->backend->free(rig->dev, LWK_MEMORY_PINNED, tile);
    ops_rig_destroy(rig);
}

const struct CMUnitTest gates_local_tests[] = {
    cmocka_unit_test(test_local_records_out_of_line_are_refused),
    cmocka_unit_test(test_a_local_miss_waits_for_nobody),
    cmocka_unit_test(test_local_ranges_give_what_remote_ones_give),
    cmocka_unit_test(test_local_and_remote_ranges_mix_in_one_session),
    cmocka_unit_test(test_local_records_are_admitted_and_evicted),
};
const size_t gates_local_count = LW_ARRAY_SIZE(gates_local_tests);
