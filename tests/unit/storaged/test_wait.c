/* Requests for segments that are in the log on disk: whichever data thread received them, they are answered with the right
 * bytes when the owner has brought the segments back, and in part when that takes too long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "storaged/io/disk_sim.h"
#include "storaged/keep/keep.h"
#include "storaged/tier/log_fmt.h"
#include "unit/storaged/node_fixture.h"

#define SEGMENTS 60u

typedef struct logged {
    lwd_disk_sim_t sim;
    lwd_tier_t *tier;
    lwd_keep_t *keep;
} logged_t;

static unsigned duty(void *arg, uint64_t now_us)
{
    logged_t *logged = arg;
    return logged->keep != NULL ? lwd_keep_round(logged->keep, now_us) : 0;
}

static void open_log(logged_t *logged, node_t *node)
{
    logged->sim = (lwd_disk_sim_t){.size = 64u << 20, .torn_after = UINT64_MAX};
    logged->sim.bytes = calloc(1, logged->sim.size);
    assert_non_null(logged->sim.bytes);
    lwd_disk_sim_use(&logged->sim);
    lwd_tier_params_t params = {.disk = lwd_disk_sim_ops(), .path = "log", .bytes = logged->sim.size, .record_max = 1024};
    assert_int_equal(lwd_tier_open(&params, &logged->tier, NULL), LW_OK);
    lwd_keep_params_t keep = {node->shard, logged->tier, &node->stats[0]};
    assert_int_equal(lwd_keep_create(&keep, &logged->keep), LW_OK);
}

static void close_log(logged_t *logged, node_t *node)
{
    lwd_shard_set_log(node->shard, NULL, NULL);
    lwd_tier_close(logged->tier);
    lwd_keep_destroy(logged->keep);
    free(logged->sim.bytes);
    logged->keep = NULL;
}

/* Puts more than the arena holds; what came first is in the log then. */
static void put_all(fixture_t *fixture, uint8_t **segments, uint64_t *bytes, uint64_t *handles)
{
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    for (uint16_t i = 0; i < SEGMENTS; i++) {
        const segment_shape_t shape = {.heads = 2, .clusters = 200, .outliers = 200, .rows_max = 20, .head_dim = 32};
        lw_segment_name_t name = fixture_name(1, i, 0, 1);
        segments[i] = segment_make(&name, &shape, i, &bytes[i]);
        lw_status_t status = LW_ERR_EXHAUSTED;
        for (int tries = 0; tries < 1000 && status == LW_ERR_EXHAUSTED; tries++) {
            status = data_put(&fixture->client, segments[i], bytes[i], &handles[i]);
            node_pass(&fixture->node, 3000);
        }
        assert_int_equal(status, LW_OK);
    }
}

/* Two runs of different segments in one request; every byte compared. */
static void fetch_two(data_client_t *client, uint8_t *const *segments, const uint64_t *handles, uint32_t a, uint32_t b)
{
    const lw_msg_fetch_run_t runs[2] = {{.handle = handles[a], .head = 0, .count = 3},
                                        {.handle = handles[b], .head = 1, .count = 2}};
    const uint16_t entries[5] = {7, 8, 300, 0, 399};
    assert_int_equal(data_fetch(client, runs, 2, entries, 0), LW_OK);
    const uint8_t *at = data_fetch_bulk(client);
    for (uint32_t i = 0; i < 5; i++) {
        uint32_t record_bytes;
        assert_int_equal(client->reply.run_status[i < 3 ? 0 : 1], LW_OK);
        const uint8_t *want = segment_record(segments[i < 3 ? a : b], i < 3 ? 0 : 1, entries[i], &record_bytes);
        assert_memory_equal(at, want, record_bytes);
        at += record_bytes;
    }
}

static void serve_from(fixture_t *fixture, logged_t *logged, uint32_t worker)
{
    uint8_t *segments[SEGMENTS];
    uint64_t bytes[SEGMENTS], handles[SEGMENTS];
    lw_segment_name_t names[SEGMENTS];
    lw_msg_attached_t attached[SEGMENTS];
    lwd_shard_usage_t usage;
    data_client_t reader;
    put_all(fixture, segments, bytes, handles);
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_true(usage.spilled > SEGMENTS / 3);
    node_client(&fixture->node, &reader, worker, 8, 1);
    for (uint16_t i = 0; i < SEGMENTS; i++)
        names[i] = fixture_name(1, i, 0, 1);
    assert_int_equal(data_attach(&reader, 1, false, 0, 0, names, SEGMENTS, attached), LW_OK);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        assert_int_equal(attached[i].status, LW_OK); /* wherever it is */
        handles[i] = attached[i].handle;
    }
    for (uint32_t i = 0; i < 3 * SEGMENTS; i++)
        fetch_two(&reader, segments, handles, i % SEGMENTS, i * 17 % SEGMENTS);
    for (uint32_t i = 0; i < SEGMENTS; i++) {
        assert_int_equal(data_read(&reader, handles[i], 64, 1000), LW_OK);
        assert_memory_equal(reader.payload, segments[i] + 64, 1000);
    }
    assert_true(fixture_count(&fixture->node.stats[worker].load_waits) > SEGMENTS / 2);
    assert_int_equal(fixture_count(&fixture->node.stats[0].load_waits_late), 0);
    /* A disk that does not answer: what is in memory is served, the rest is BUSY after a while. */
    logged->sim.hold = true;
    reader.tries_max = 100000; /* longer than the node waits */
    const lw_msg_fetch_run_t runs[2] = {{.handle = handles[0], .count = 1}, {.handle = handles[SEGMENTS - 1], .count = 1}};
    const uint16_t entries[2] = {0, 0};
    assert_int_equal(data_fetch(&reader, runs, 2, entries, 0), LW_OK);
    assert_int_equal(reader.reply.run_status[0], LW_ERR_BUSY);
    assert_int_equal(reader.reply.run_status[1], LW_OK);
    assert_int_equal(data_read(&reader, handles[1], 0, 100), LW_ERR_BUSY);
    assert_true(fixture_count(&fixture->node.stats[0].load_waits_late) >= 2);
    logged->sim.hold = false;
    data_client_close(&reader);
    for (uint32_t i = 0; i < SEGMENTS; i++)
        free(segments[i]);
}

static logged_t logged_now;

static int setup(void **state)
{
    return fixture_setup_with(state, &(node_params_t){.workers = 2, .duty = duty, .duty_arg = &logged_now});
}

static void test_the_owner_serves_what_is_in_the_log(void **state)
{
    fixture_t *fixture = *state;
    open_log(&logged_now, &fixture->node);
    serve_from(fixture, &logged_now, 0);
    close_log(&logged_now, &fixture->node);
}

static void test_another_data_thread_serves_what_is_in_the_log(void **state)
{
    fixture_t *fixture = *state;
    open_log(&logged_now, &fixture->node);
    serve_from(fixture, &logged_now, 1);
    close_log(&logged_now, &fixture->node);
}

int main(int argc, char **argv)
{
    fixture_take_seed(argc, argv);
    lw_log_set_level(LW_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_owner_serves_what_is_in_the_log, setup, fixture_teardown),
        cmocka_unit_test_setup_teardown(test_another_data_thread_serves_what_is_in_the_log, setup, fixture_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
