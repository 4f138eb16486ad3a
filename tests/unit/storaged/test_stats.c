/* Every figure of stats.def moves: a scenario with everything in it, after which no row may still be zero. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "unit/storaged/node_fixture.h"

#define ROWS 128u

typedef struct row {
    const char *name;
    size_t offset;
    bool histogram, moved;
} row_t;

static row_t rows[ROWS];
static uint32_t row_count;

static void list_rows(void)
{
    enum { COUNTER, GAUGE, HISTOGRAM };
#define STAT(kind, stat, help) \
    rows[row_count++] = (row_t){#stat, offsetof(lwd_stats_t, stat), kind == HISTOGRAM, false};
#include "storaged/stats.def"
#undef STAT
}

static void look(const node_t *node)
{
    for (uint32_t i = 0; i < row_count; i++) {
        const char *at = (const char *)&node->stats[0] + rows[i].offset;
        const lw_counter_t *value = rows[i].histogram ? &((const lw_histogram_t *)(const void *)at)->count
                                                      : (const lw_counter_t *)(const void *)at;
        rows[i].moved |= atomic_load(value) != 0;
    }
}

static void end_session(fixture_t *fixture, uint64_t origin)
{
    lwd_news_t ended = {.kind = LWD_NEWS_ENDED};
    ended.ended.origin = origin;
    ended.ended.rank = UINT16_MAX;
    ended.ended.generation_max = UINT32_MAX;
    assert_int_equal(lwd_worker_tell(fixture->node.workers[0], &ended), LW_OK);
}

static void puts_and_refusals(fixture_t *fixture)
{
    lw_msg_reserve_reply_t reserved;
    const lw_segment_name_t small = fixture_name(1, 100, 0, 1), huge = fixture_name(1, 101, 0, 1);
    const lw_segment_name_t old = fixture_name(1, 102, 0, 0), foreign = fixture_name(9, 0, 0, 1);
    const uint8_t chunk[16] = {0};
    assert_int_equal(data_reserve(&fixture->client, &small, 1000, &reserved), LW_OK);
    node_pass(&fixture->node, 3000);
    look(&fixture->node);
    assert_int_equal(data_reserve(&fixture->client, &small, 1000, &reserved), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &small, 1001, &(lw_msg_reserve_reply_t){0}),
                     LW_ERR_EXISTS);
    assert_int_equal(data_reserve(&fixture->client, &huge, 16u << 20, &(lw_msg_reserve_reply_t){0}),
                     LW_ERR_EXHAUSTED);
    assert_int_equal(data_reserve(&fixture->client, &old, 1000, &(lw_msg_reserve_reply_t){0}), LW_ERR_STALE);
    assert_int_equal(data_reserve(&fixture->client, &foreign, 1000, &(lw_msg_reserve_reply_t){0}),
                     LW_ERR_PERMISSION);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 2000, chunk, 16), LW_ERR_INVALID);
    assert_true(data_commit(&fixture->client, reserved.handle, 1000) < 0);
    atomic_store(&fixture->node.node.writable, false);
    assert_int_equal(data_commit(&fixture->client, reserved.handle, 1000), LW_ERR_FLEET);
    atomic_store(&fixture->node.node.writable, true);
    assert_int_equal(data_abort(&fixture->client, reserved.handle), LW_OK);
}

static void fetches_and_reads(fixture_t *fixture, uint64_t handle, uint64_t stale)
{
    const lw_msg_fetch_run_t runs[] = {{.handle = handle, .count = 2},
                                       {.handle = stale, .count = 1},
                                       {.handle = 12345, .count = 1},
                                       {.handle = handle, .head = 9, .count = 1}};
    const uint16_t entries[5] = {1, 2};
    for (int i = 0; i < 20; i++)
        assert_int_equal(data_fetch(&fixture->client, runs, 4, entries, 0), LW_OK);
    assert_int_equal(data_read(&fixture->client, handle, 0, 100), LW_OK);
}

/* Lists that come by rendezvous, later than the request's deadline. */
static void late_fetch(fixture_t *fixture, uint64_t handle)
{
    lw_msg_t msg = {.header.type = LW_MSG_FETCH};
    msg.body.fetch = (lw_msg_fetch_t){1, 8000, 1, 0};
    uint8_t *lists = calloc(1, lw_msg_list_bytes(&msg));
    const lw_msg_fetch_run_t run = {.handle = handle, .count = 8000};
    memcpy(lists, &run, sizeof(run));
    for (int i = 0; i < 100 && fixture_count(&fixture->node.stats[0].fetch_late) == 0; i++)
        assert_true(data_client_call(&fixture->client, &msg, lists, lw_msg_list_bytes(&msg)));
    assert_int_equal(fixture->client.reply.body.fetch_reply.status, LW_ERR_TIMEOUT);
    look(&fixture->node);
    free(lists);
}

static void connections_and_bad_messages(fixture_t *fixture)
{
    data_client_t other, refused;
    const uint8_t junk[40] = {1};
    node_client(&fixture->node, &other, 0, 6, 1);
    node_client(&fixture->node, &refused, 0, 0, 0); /* the table holds two */
    data_client_step(&refused, 1000);
    data_client_close(&refused);
    lw_msg_reserve_reply_t reserved;
    const lw_segment_name_t name = fixture_name(3, 0, 0, 1);
    assert_int_equal(data_attach(&other, 3, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&other, &name, 1000, &reserved), LW_OK);
    data_client_raw(&other, junk, sizeof(junk), NULL, 0);
    data_client_step(&other, 1000);
    data_client_close(&other);
    node_pass(&fixture->node, 3000000); /* its reservation is reclaimed */
    node_client(&fixture->node, &other, 0, 0, 0);
    other.fleet_id = fixture->node.node.fleet_id + 1;
    assert_int_equal(data_hello(&other, 5, 0), LW_ERR_PERMISSION);
    node_pass(&fixture->node, LWD_HELLO_US + LWD_HELLO_LOOK_US); /* it says no other one */
    data_client_step(&other, 1000);
    data_client_close(&other);
    node_pass(&fixture->node, 3000000);
}

/* Requests up to the table's end, a name that is not there, a refused token. */
static void busy_and_attach(fixture_t *fixture)
{
    lw_msg_t attach = {.header.type = LW_MSG_ATTACH};
    lw_msg_attached_t attached;
    const lw_segment_name_t name = fixture_name(1, 77, 0, 1);
    attach.body.attach = (lw_msg_attach_t){.session_id = 1, .name_count = 1};
    fixture->node.check_later = true;
    for (int i = 0; i < 4; i++) {
        (void)data_client_send(&fixture->client, &attach, &name, sizeof(name));
        data_client_step(&fixture->client, 500);
    }
    look(&fixture->node);
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, NULL, 0, NULL), LW_ERR_BUSY);
    fixture->node.check_later = false;
    node_answer(&fixture->node);
    node_pass(&fixture->node, 5000);
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, &name, 1, &attached), LW_OK);
    fixture->node.check_status = LW_ERR_PERMISSION;
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, NULL, 0, NULL), LW_ERR_NOT_FOUND);
    fixture->node.check_status = LW_OK;
}

/* Figures of the log and of a restart, which test_keep.c and test_restore.c move, and of copies between nodes: test_move.c. */
static bool of_another_life(const char *name)
{
    static const char *const words[] = {"restore", "spill", "load", "log_", "moves_", "scans", "copies_",
                                        "segments_placed", "segments_degraded", "segments_lost"};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strstr(name, words[i]) != NULL)
            return true;
    }
    return false;
}

static int setup_few(void **state)
{
    return fixture_setup_with(state, &(node_params_t){.connection_max = 2, .request_max = 4});
}

static void test_every_figure_moves(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle, stale;
    const segment_shape_t shape = {.heads = 1, .clusters = 5, .outliers = 0, .rows_max = 9, .head_dim = 16};
    const lw_segment_name_t gone = fixture_name(2, 0, 0, 1);
    free(fixture_put(fixture, 0, &bytes, &handle));
    uint8_t *segment = segment_make(&gone, &shape, 1, &bytes);
    assert_int_equal(data_attach(&fixture->client, 2, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_put(&fixture->client, segment, bytes, &stale), LW_OK);
    lwd_ref_t ref;
    assert_int_equal(lwd_shard_find(fixture->node.shard, &gone, &ref), LW_OK);
    lwd_segment_t *held = lwd_shard_slot(fixture->node.shard, ref.slot);
    lwd_segment_borrow(held);
    end_session(fixture, 2);
    node_pass(&fixture->node, 5000);
    look(&fixture->node); /* segments_dying */
    lwd_segment_release(held);
    puts_and_refusals(fixture);
    fetches_and_reads(fixture, handle, stale);
    late_fetch(fixture, handle);
    busy_and_attach(fixture);
    connections_and_bad_messages(fixture);
    look(&fixture->node);
    fixture->node.orphans_dead = true;
    data_client_close(&fixture->client);
    node_pass(&fixture->node, 100000000);
    look(&fixture->node);
    for (uint32_t i = 0; i < row_count; i++) {
        bool needs_a_thread = strcmp(rows[i].name, "sleeps") == 0 || strcmp(rows[i].name, "cpu_us") == 0;
        if (!rows[i].moved && !needs_a_thread && !of_another_life(rows[i].name))
            fail_msg("%s never moved", rows[i].name);
    }
    free(segment);
}

int main(int argc, char **argv)
{
    fixture_take_seed(argc, argv);
    lw_log_set_level(LW_LOG_ERROR);
    list_rows();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_figure_moves, setup_few, fixture_teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
