/* ATTACH: tokens, terms, forks, and what a connection may not see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "unit/storaged/node_fixture.h"

static void test_a_wrong_token_looks_like_no_session(void **state)
{
    fixture_t *fixture = *state;
    fixture->node.check_status = LW_ERR_PERMISSION;
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 1, NULL, 0, NULL), LW_ERR_NOT_FOUND);
    fixture->node.check_status = LW_ERR_NOT_FOUND;
    assert_int_equal(data_attach(&fixture->client, 2, false, 0, 1, NULL, 0, NULL), LW_ERR_NOT_FOUND);
    assert_int_equal(fixture_count(&fixture->node.stats[0].attach_refused), 2);
}

static void test_an_old_term_and_a_catalogue_that_is_away_are_told(void **state)
{
    fixture_t *fixture = *state;
    fixture->node.check_status = LW_ERR_STALE;
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_ERR_STALE);
    fixture->node.check_status = LW_ERR_FLEET;
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_ERR_FLEET);
}

static void test_a_term_below_one_that_was_granted_here_is_stale_even_if_the_catalogue_allows_it(void **state)
{
    fixture_t *fixture = *state;
    assert_int_equal(data_attach(&fixture->client, 1, true, 5, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_attach(&fixture->client, 1, true, 4, 0, NULL, 0, NULL), LW_ERR_STALE);
}

static lw_status_t attach_as_node(data_client_t *client, uint64_t low, uint64_t high, bool write, const lw_segment_name_t *name,
                                  lw_msg_attached_t *attached_out)
{
    const uint64_t halves[2] = {low, high};
    lw_msg_t msg = {.header.type = LW_MSG_ATTACH, .body.attach = {.write = write, .name_count = 1}};
    memcpy(msg.body.attach.token, halves, sizeof(halves));
    assert_true(data_client_call(client, &msg, name, sizeof(*name)));
    if (client->reply.body.attach_reply.status == LW_OK)
        *attached_out = client->reply.attached[0];
    return (lw_status_t)client->reply.body.attach_reply.status;
}

static void test_a_node_token_reads_every_session_and_writes_none(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    lw_msg_attached_t attached;
    lw_msg_reserve_reply_t reserved;
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1), other = fixture_name(1, 1, 0, 1);
    data_client_t node;
    node_client(&fixture->node, &node, 0, 77, 1);
    assert_int_equal(attach_as_node(&node, 0, 0, false, &name, &attached), LW_ERR_NOT_FOUND); /* none is known yet */
    atomic_store(&fixture->node.node.node_token[0], 11);
    atomic_store(&fixture->node.node.node_token[1], 22);
    assert_int_equal(attach_as_node(&node, 0, 0, false, &name, &attached), LW_ERR_NOT_FOUND);
    assert_int_equal(attach_as_node(&node, 11, 23, false, &name, &attached), LW_ERR_NOT_FOUND);
    assert_int_equal(attach_as_node(&node, 11, 22, true, &name, &attached), LW_ERR_NOT_FOUND);
    assert_int_equal(attach_as_node(&node, 11, 22, false, &name, &attached), LW_OK);
    assert_int_equal(data_read(&node, attached.handle, 0, 0), LW_OK);
    assert_int_equal(node.payload_bytes, bytes);
    assert_memory_equal(node.payload, segment, bytes);
    assert_int_equal(data_reserve(&node, &other, 1000, &reserved), LW_ERR_PERMISSION);
    data_client_close(&node);
    free(segment);
}

static void test_a_copy_that_a_node_doubts_is_given_up_only_if_it_is_wrong(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    lw_msg_attached_t attached;
    free(fixture_put(fixture, 0, &bytes, &handle));
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    lwd_ref_t ref;
    data_client_t node;
    node_client(&fixture->node, &node, 0, 77, 1);
    atomic_store(&fixture->node.node.node_token[0], 11);
    atomic_store(&fixture->node.node.node_token[1], 22);
    assert_int_equal(attach_as_node(&node, 11, 22, false, &name, &attached), LW_OK);
    assert_int_equal(data_commit(&node, attached.handle, bytes), LW_OK);
    assert_int_equal(lwd_shard_find(fixture->node.shard, &name, &ref), LW_OK);
    lwd_shard_slot(fixture->node.shard, ref.slot)->extent[bytes - 5] ^= 4;
    assert_int_equal(data_commit(&node, attached.handle, bytes), LW_ERR_CORRUPT);
    assert_int_equal(lwd_shard_find(fixture->node.shard, &name, &ref), LW_ERR_NOT_FOUND);
    assert_int_equal(data_commit(&node, attached.handle, bytes), LW_ERR_STALE);
    assert_int_equal(fixture_count(&fixture->node.stats[0].copies_distrusted), 1);
    data_client_close(&node);
}

static void test_names_of_other_sessions_and_unknown_names_look_alike(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    lw_msg_attached_t attached[3];
    free(fixture_put(fixture, 0, &bytes, &handle)); /* of session 1 */
    const lw_segment_name_t names[] = {fixture_name(1, 0, 0, 1), fixture_name(2, 9, 0, 1),
                                       fixture_name(1, 9, 0, 1)};
    assert_int_equal(data_attach(&fixture->client, 2, false, 0, 0, names, 3, attached), LW_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(attached[i].status, LW_ERR_NOT_FOUND);
        assert_int_equal(attached[i].handle, 0);
    }
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, names, 3, attached), LW_OK);
    assert_int_equal(attached[0].status, LW_OK);
    assert_int_equal(attached[0].handle, handle);
    assert_int_equal(attached[1].status, LW_ERR_NOT_FOUND);
    assert_int_equal(attached[2].status, LW_ERR_NOT_FOUND);
    assert_int_equal(fixture_count(&fixture->node.stats[0].attach_not_found), 5);
    assert_int_equal(fixture_count(&fixture->node.stats[0].attach_names), 6);
}

static void test_a_fork_reads_its_parents_segments_below_the_cut_only(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_attached_t attached[2];
    const segment_shape_t shape = {.heads = 1, .clusters = 10, .outliers = 0, .rows_max = 9, .head_dim = 16};
    const lw_segment_name_t names[] = {fixture_name(1, 0, 0, 1), fixture_name(1, 0, 4096, 1)};
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    for (int i = 0; i < 2; i++) {
        uint64_t bytes, handle;
        uint8_t *segment = segment_make(&names[i], &shape, 3, &bytes);
        assert_int_equal(data_put(&fixture->client, segment, bytes, &handle), LW_OK);
        free(segment);
    }
    fixture->node.fork_of = 1;
    fixture->node.fork_cut = 4096;
    assert_int_equal(data_attach(&fixture->client, 2, false, 0, 0, names, 2, attached), LW_OK);
    assert_int_equal(attached[0].status, LW_OK);
    assert_int_equal(attached[1].status, LW_ERR_NOT_FOUND);
}

static void test_a_reservation_cannot_be_attached_before_it_is_written(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    lw_msg_attached_t attached;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_OK);
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, &name, 1, &attached), LW_OK);
    assert_int_equal(attached.status, LW_ERR_NOT_FOUND);
}

static void test_the_most_names_one_message_may_have_are_answered(void **state)
{
    fixture_t *fixture = *state;
    lw_segment_name_t *names = calloc(LW_ATTACH_NAMES_MAX, sizeof(*names));
    lw_msg_attached_t *attached = calloc(LW_ATTACH_NAMES_MAX, sizeof(*attached));
    uint64_t bytes, handle;
    free(fixture_put(fixture, 0, &bytes, &handle));
    for (uint32_t i = 0; i < LW_ATTACH_NAMES_MAX; i++)
        names[i] = fixture_name(1, 0, i == 777 ? 0 : i + 1, 1);
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, names, LW_ATTACH_NAMES_MAX, attached),
                     LW_OK);
    for (uint32_t i = 0; i < LW_ATTACH_NAMES_MAX; i++)
        assert_int_equal(attached[i].status, i == 777 ? LW_OK : LW_ERR_NOT_FOUND);
    free(names);
    free(attached);
}

static int setup_few(void **state)
{
    return fixture_setup_with(state,
                              &(node_params_t){.attachment_max = 64, .attachments_per_connection_max = 3});
}

static void test_handles_over_a_connections_share_are_exhausted_one_by_one(void **state)
{
    fixture_t *fixture = *state;
    lw_segment_name_t names[4];
    lw_msg_attached_t attached[4];
    uint64_t bytes, handle;
    data_client_t reader;
    for (uint16_t i = 0; i < 2; i++) /* with the proof of the right to write: the writer's share is full */
        free(fixture_put(fixture, i, &bytes, &handle));
    lw_msg_reserve_reply_t reserved;
    names[0] = fixture_name(1, 2, 0, 1);
    assert_int_equal(data_reserve(&fixture->client, &names[0], 1000, &reserved), LW_ERR_EXHAUSTED);
    node_client(&fixture->node, &reader, 0, 6, 1);
    for (uint16_t i = 0; i < 4; i++)
        names[i] = fixture_name(1, i % 2, 0, 1);
    assert_int_equal(data_attach(&reader, 1, false, 0, 0, names, 4, attached), LW_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(attached[i].status, LW_OK); /* two segments, named twice */
    assert_int_equal(attached[0].handle, attached[2].handle);
    data_client_close(&reader);
}

static void test_an_answer_for_a_connection_that_is_gone_is_dropped(void **state)
{
    fixture_t *fixture = *state;
    data_client_t client;
    lw_msg_t attach = {.header.type = LW_MSG_ATTACH};
    attach.body.attach = (lw_msg_attach_t){.session_id = 1, .write = 1, .term = 9};
    node_client(&fixture->node, &client, 0, 6, 1);
    fixture->node.check_later = true;
    (void)data_client_send(&client, &attach, NULL, 0);
    data_client_step(&client, 300);
    assert_int_equal(fixture->node.kept_count, 1);
    data_client_close(&client);
    node_pass(&fixture->node, 2000000);
    assert_int_equal(lwd_worker_in_flight(fixture->node.workers[0]), 1);
    node_answer(&fixture->node);
    node_pass(&fixture->node, 10000);
    assert_int_equal(lwd_worker_in_flight(fixture->node.workers[0]), 0);
    fixture->node.check_later = false;
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL),
                     LW_OK); /* term 9 was not granted */
}

static void test_an_answer_with_a_made_up_ticket_is_ignored(void **state)
{
    fixture_t *fixture = *state;
    const uint64_t tickets[] = {0, 5, 1ull << 32, UINT64_MAX};
    for (size_t i = 0; i < LW_ARRAY_SIZE(tickets); i++) {
        lwd_news_t news = {.kind = LWD_NEWS_CHECKED, .status = LW_OK, .ticket = tickets[i]};
        assert_int_equal(lwd_worker_tell(fixture->node.workers[0], &news), LW_OK);
    }
    node_pass(&fixture->node, 5000);
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, NULL, 0, NULL), LW_OK);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(int argc, char **argv)
{
    fixture_take_seed(argc, argv);
    const struct CMUnitTest tests[] = {
        CASE(test_a_wrong_token_looks_like_no_session),
        CASE(test_an_old_term_and_a_catalogue_that_is_away_are_told),
        CASE(test_a_term_below_one_that_was_granted_here_is_stale_even_if_the_catalogue_allows_it),
        CASE(test_a_node_token_reads_every_session_and_writes_none),
        CASE(test_a_copy_that_a_node_doubts_is_given_up_only_if_it_is_wrong),
        CASE(test_names_of_other_sessions_and_unknown_names_look_alike),
        CASE(test_a_fork_reads_its_parents_segments_below_the_cut_only),
        CASE(test_a_reservation_cannot_be_attached_before_it_is_written),
        CASE(test_the_most_names_one_message_may_have_are_answered),
        cmocka_unit_test_setup_teardown(test_handles_over_a_connections_share_are_exhausted_one_by_one,
                                        setup_few, fixture_teardown),
        CASE(test_an_answer_for_a_connection_that_is_gone_is_dropped),
        CASE(test_an_answer_with_a_made_up_ticket_is_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
