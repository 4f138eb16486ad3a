/* Workers: full tables, stopping, and several data threads' worth of them on one shard. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "unit/storaged/node_fixture.h"

static int setup_few(void **state)
{
    return fixture_setup_with(state, &(node_params_t){.connection_max = 2, .request_max = 4});
}

static int setup_three(void **state)
{
    return fixture_setup_with(state, &(node_params_t){.workers = 3});
}

static int setup_wide(void **state)
{
    return fixture_setup_with(state, &(node_params_t){.workers = 3, .connection_max = 32});
}

static void test_connections_over_the_table_are_closed_and_a_free_place_is_used_again(void **state)
{
    fixture_t *fixture = *state;
    data_client_t second, third;
    node_client(&fixture->node, &second, 0, 6, 1);
    node_client(&fixture->node, &third, 0, 0, 0);
    data_client_step(&third, 2000);
    assert_null(third.conn);
    data_client_close(&third);
    assert_int_equal(fixture_count(&fixture->node.stats[0].connections_refused), 1);
    assert_int_equal(fixture_count(&fixture->node.stats[0].connections), 2);
    data_client_close(&second);
    node_pass(&fixture->node, 2000000);
    assert_int_equal(fixture_count(&fixture->node.stats[0].connections), 1);
    node_client(&fixture->node, &third, 0, 7, 1);
    assert_int_equal(fixture_count(&fixture->node.stats[0].connections_accepted), 3);
    data_client_close(&third);
}

static void test_requests_over_the_table_are_busy(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_t attach = {.header.type = LW_MSG_ATTACH};
    attach.body.attach = (lw_msg_attach_t){.session_id = 1};
    fixture->node.check_later = true;
    for (int i = 0; i < 4; i++) {
        (void)data_client_send(&fixture->client, &attach, NULL, 0);
        data_client_step(&fixture->client, 300);
    }
    assert_int_equal(lwd_worker_in_flight(fixture->node.workers[0]), 4);
    const lw_msg_fetch_run_t run = {.handle = 1, .count = 1};
    const uint16_t entry = 0;
    assert_int_equal(data_fetch(&fixture->client, &run, 1, &entry, 0), LW_ERR_BUSY);
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, NULL, 0, NULL), LW_ERR_BUSY);
    assert_int_equal(fixture_count(&fixture->node.stats[0].requests_refused_busy), 2);
    node_answer(&fixture->node);
    fixture->node.check_later = false;
    node_pass(&fixture->node, 5000);
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, NULL, 0, NULL), LW_OK);
}

static void test_more_endings_than_the_ring_holds_are_told_again_later(void **state)
{
    fixture_t *fixture = *state;
    lwd_news_t ended = {.kind = LWD_NEWS_ENDED};
    unsigned told = 0;
    ended.ended.origin = 123;
    while (told <= LWD_NEWS_MAX && lwd_worker_tell(fixture->node.workers[0], &ended) == LW_OK)
        told++;
    assert_int_equal(told, LWD_NEWS_MAX);
    node_pump(&fixture->node);
    assert_int_equal(lwd_worker_tell(fixture->node.workers[0], &ended), LW_OK);
}

static void test_stopping_waits_for_what_is_in_flight(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_t attach = {.header.type = LW_MSG_ATTACH};
    attach.body.attach = (lw_msg_attach_t){.session_id = 1};
    fixture->node.check_later = true;
    uint64_t request = data_client_send(&fixture->client, &attach, NULL, 0);
    data_client_step(&fixture->client, 300);
    lwd_worker_stop(fixture->node.workers[0], fixture->node.now_us + 1000000);
    data_client_step(&fixture->client, 300);
    assert_false(lwd_worker_stopped(fixture->node.workers[0]));
    lw_msg_t read = {.header.type = LW_MSG_READ};
    read.body.read = (lw_msg_read_t){1, 0, 10, 0};
    uint64_t refused = data_client_send(&fixture->client, &read, NULL, 0); /* new work is refused */
    assert_true(data_client_wait(&fixture->client, refused));
    assert_int_equal(fixture->client.reply.body.read_reply.status, LW_ERR_UNREACHABLE);
    fixture->client.replied = false;
    fixture->client.waiting_for = request;
    node_answer(&fixture->node);
    assert_true(data_client_wait(&fixture->client, request));
    assert_int_equal(fixture->client.reply.body.attach_reply.status, LW_OK);
    node_pass(&fixture->node, 5000);
    assert_true(lwd_worker_stopped(fixture->node.workers[0]));
}

static void test_stopping_ends_at_its_deadline(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_t attach = {.header.type = LW_MSG_ATTACH};
    attach.body.attach = (lw_msg_attach_t){.session_id = 1};
    fixture->node.check_later = true;
    (void)data_client_send(&fixture->client, &attach, NULL, 0);
    data_client_step(&fixture->client, 300);
    lwd_worker_stop(fixture->node.workers[0], fixture->node.now_us + 100000);
    node_pass(&fixture->node, 90000);
    assert_false(lwd_worker_stopped(fixture->node.workers[0]));
    node_pass(&fixture->node, 20000);
    assert_true(lwd_worker_stopped(fixture->node.workers[0]));
    node_answer(&fixture->node); /* the late answer finds its request and ends it */
    node_pass(&fixture->node, 5000);
}

static void test_every_worker_reads_and_writes_what_the_owner_changes(void **state)
{
    fixture_t *fixture = *state;
    data_client_t lane[2];
    const segment_shape_t shape = {.heads = 1, .clusters = 20, .outliers = 10, .rows_max = 9, .head_dim = 64};
    for (uint32_t i = 0; i < 2; i++) {
        node_client(&fixture->node, &lane[i], i + 1, 5, 1);
        assert_int_equal(data_attach(&lane[i], 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    }
    for (uint16_t layer = 0; layer < 4; layer++) {
        const lw_segment_name_t name = fixture_name(1, layer, 0, 1);
        data_client_t *writer = &lane[layer % 2],
                      *reader = layer < 2 ? &lane[1 - layer % 2] : &fixture->client;
        uint64_t bytes, handle;
        lw_msg_attached_t attached;
        uint8_t *segment = segment_make(&name, &shape, fixture_seed, &bytes);
        assert_int_equal(data_put(writer, segment, bytes, &handle), LW_OK);
        assert_int_equal(data_attach(reader, 1, false, 0, 0, &name, 1, &attached), LW_OK);
        const lw_msg_fetch_run_t run = {.handle = attached.handle, .count = 2};
        const uint16_t entries[] = {29, 3};
        assert_int_equal(data_fetch(reader, &run, 1, entries, 0), LW_OK);
        assert_int_equal(reader->reply.run_status[0], LW_OK);
        const uint8_t *at = data_fetch_bulk(reader);
        fixture_check_record(reader, segment, 0, 29, &at, 0);
        fixture_check_record(reader, segment, 0, 3, &at, 1);
        free(segment);
    }
    const lw_segment_name_t name = fixture_name(1, 9, 0, 1);
    lw_msg_reserve_reply_t reserved;
    assert_int_equal(data_reserve(&lane[1], &name, 1000, &reserved), LW_OK);
    assert_int_equal(data_abort(&lane[1], reserved.handle), LW_OK);
    assert_int_equal(data_abort(&lane[1], reserved.handle), LW_ERR_STALE);
    /* an ending told to the owner is seen by every worker */
    lwd_news_t ended = {.kind = LWD_NEWS_ENDED};
    ended.ended.origin = 1;
    ended.ended.rank = UINT16_MAX;
    ended.ended.generation_max = UINT32_MAX;
    assert_int_equal(lwd_worker_tell(fixture->node.workers[0], &ended), LW_OK);
    node_pass(&fixture->node, 5000);
    lwd_shard_usage_t usage;
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.segments + usage.dying, 0);
    assert_int_equal(usage.arena_used_bytes, 0);
    for (int i = 0; i < 2; i++)
        data_client_close(&lane[i]);
}

static void test_the_owner_counts_connections_of_other_workers(void **state)
{
    fixture_t *fixture = *state;
    data_client_t lane;
    lw_msg_reserve_reply_t reserved;
    lwd_shard_usage_t usage;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    node_client(&fixture->node, &lane, 2, 9, 1);
    assert_int_equal(data_attach(&lane, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&lane, &name, 1000, &reserved), LW_OK);
    node_pass(&fixture->node, 5000000);
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.reservations, 1); /* alive as long as it is connected */
    data_client_close(&lane);
    node_pass(&fixture->node, 4000000);
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.reservations, 0);
}

static void test_a_connection_that_closes_while_the_owner_hears_its_proof_leaves_nothing(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    for (unsigned steps = 0; steps < 80; steps++) {
        data_client_t lane;
        lw_msg_t msg = {.header.type = LW_MSG_ATTACH};
        msg.body.attach = (lw_msg_attach_t){.session_id = 1, .write = 1, .term = 1};
        node_client(&fixture->node, &lane, 1, 200 + steps, 1);
        (void)data_client_send(&lane, &msg, NULL, 0);
        data_client_step(&lane, steps);
        data_client_close(&lane);
        node_pass(&fixture->node, 300000);
        assert_int_equal(fixture_count(&fixture->node.stats[1].connections), 0);
    }
    /* eighty dead clients did not use up the table of sixty-four that the living need */
    data_client_t lane;
    node_client(&fixture->node, &lane, 1, 99, 1);
    assert_int_equal(data_attach(&lane, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&lane, &name, 1000, &reserved), LW_OK);
    data_client_close(&lane);
}

static void test_more_writers_than_the_table_holds_are_exhausted_and_readers_are_not(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    data_client_t *lanes = calloc(65, sizeof(*lanes));
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    for (unsigned i = 0; i < 65; i++) {
        node_client(&fixture->node, &lanes[i], i % 3, 200 + i, 1);
        assert_int_equal(data_attach(&lanes[i], 1, true, 1, 0, NULL, 0, NULL),
                         i < 64 ? LW_OK : LW_ERR_EXHAUSTED);
    }
    assert_int_equal(data_attach(&lanes[64], 1, false, 0, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&lanes[64], &name, 1000, &reserved), LW_ERR_PERMISSION);
    data_client_close(&lanes[0]);
    node_pass(&fixture->node, 10000);
    assert_int_equal(data_attach(&lanes[64], 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&lanes[64], &name, 1000, &reserved), LW_OK);
    for (unsigned i = 1; i < 65; i++)
        data_client_close(&lanes[i]);
    free(lanes);
}

static void test_parameters_without_room_are_refused(void **state)
{
    fixture_t *fixture = *state;
    lwd_worker_t *worker = NULL;
    lw_error_t error = {0};
    lwd_worker_params_t params = {
        .fabric = lw_fabric_sim(), .shard = fixture->node.shard, .reply_bytes = 1000};
    assert_int_equal(lwd_worker_create(&params, &worker, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "1000"));
    params.reply_bytes = LWD_REPLY_BYTES_MIN;
    assert_int_equal(lwd_worker_create(&params, &worker, &error), LW_ERR_INVALID);
    assert_null(worker);
}

#define FEW(name) cmocka_unit_test_setup_teardown(name, setup_few, fixture_teardown)
#define ONE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
#define THREE(name) cmocka_unit_test_setup_teardown(name, setup_three, fixture_teardown)

int main(int argc, char **argv)
{
    fixture_take_seed(argc, argv);
    const struct CMUnitTest tests[] = {
        FEW(test_connections_over_the_table_are_closed_and_a_free_place_is_used_again),
        FEW(test_requests_over_the_table_are_busy),
        ONE(test_more_endings_than_the_ring_holds_are_told_again_later),
        ONE(test_stopping_waits_for_what_is_in_flight),
        ONE(test_stopping_ends_at_its_deadline),
        ONE(test_parameters_without_room_are_refused),
        THREE(test_every_worker_reads_and_writes_what_the_owner_changes),
        THREE(test_the_owner_counts_connections_of_other_workers),
        cmocka_unit_test_setup_teardown(
            test_more_writers_than_the_table_holds_are_exhausted_and_readers_are_not, setup_wide,
            fixture_teardown),
        THREE(test_a_connection_that_closes_while_the_owner_hears_its_proof_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
