/* RESERVE, WRITE, COMMIT, ABORT over the wire. */
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

static const segment_shape_t shape = {
    .heads = 1, .clusters = 30, .outliers = 10, .rows_max = 15, .head_dim = 64};

static void test_reserving_without_a_proof_is_refused(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1), newer = fixture_name(1, 0, 0, 3),
                            other = fixture_name(2, 0, 0, 2);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_ERR_PERMISSION);
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, NULL, 0, NULL), LW_OK); /* to read */
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_ERR_PERMISSION);
    assert_int_equal(data_attach(&fixture->client, 1, true, 2, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved),
                     LW_ERR_STALE); /* an older term */
    assert_int_equal(data_reserve(&fixture->client, &newer, 1000, &reserved),
                     LW_ERR_PERMISSION); /* not granted */
    assert_int_equal(data_reserve(&fixture->client, &other, 1000, &reserved), LW_ERR_PERMISSION);
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_refused_permission), 4);
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_refused_stale), 1);
}

static void test_without_a_catalogue_writes_are_refused(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_OK);
    atomic_store(&fixture->node.node.writable, false);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_ERR_FLEET);
    assert_int_equal(data_commit(&fixture->client, reserved.handle, 1000), LW_ERR_FLEET);
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_refused_fleet), 2);
}

static void test_a_full_arena_asks_the_catalogue_for_room_and_an_ending_makes_it(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    const lw_segment_name_t first = fixture_name(1, 0, 0, 1), second = fixture_name(2, 0, 0, 1);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_attach(&fixture->client, 2, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &first, 15u << 20, &reserved), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &second, 4u << 20, &reserved), LW_ERR_EXHAUSTED);
    assert_true(reserved.retry_after_ms > 0);
    node_pass(&fixture->node, 1000);
    assert_int_equal(fixture->node.space_asked, 4u << 20);
    assert_int_equal(data_reserve(&fixture->client, &second, 4u << 20, &reserved), LW_ERR_EXHAUSTED);
    assert_int_equal(fixture->node.space_asked, 4u << 20); /* not for every refusal */
    node_pass(&fixture->node, 2 * LWD_SPACE_ASK_US);
    assert_int_equal(fixture->node.space_asked, 8u << 20);
    lwd_news_t ended = {.kind = LWD_NEWS_ENDED};
    ended.ended.origin = 1;
    ended.ended.rank = UINT16_MAX;
    ended.ended.generation_max = UINT32_MAX;
    assert_int_equal(lwd_worker_tell(fixture->node.workers[0], &ended), LW_OK);
    node_pass(&fixture->node, 5000);
    assert_int_equal(data_reserve(&fixture->client, &second, 4u << 20, &reserved), LW_OK);
    assert_int_equal(fixture_count(&fixture->node.stats[0].evictions), 1);
    assert_int_equal(fixture_count(&fixture->node.stats[0].space_wanted), 2);
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_refused_full), 2);
}

static void test_handles_to_write_are_checked(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    lw_msg_attached_t attached;
    data_client_t reader;
    const uint8_t chunk[16] = {0};
    free(fixture_put(fixture, 0, &bytes, &handle));
    assert_int_equal(data_write(&fixture->client, handle, 0, chunk, 16), LW_ERR_EXISTS); /* written already */
    assert_int_equal(data_write(&fixture->client, handle + 9, 0, chunk, 16), LW_ERR_NOT_FOUND);
    assert_int_equal(data_abort(&fixture->client, handle), LW_ERR_EXISTS);
    node_client(&fixture->node, &reader, 0, 6, 1);
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    assert_int_equal(data_attach(&reader, 1, false, 0, 0, &name, 1, &attached), LW_OK);
    assert_int_equal(data_write(&reader, attached.handle, 0, chunk, 16), LW_ERR_PERMISSION);
    assert_int_equal(data_commit(&reader, attached.handle, bytes), LW_ERR_PERMISSION);
    assert_int_equal(data_abort(&reader, attached.handle), LW_ERR_PERMISSION);
    assert_int_equal(data_write(&reader, handle + (1ull << 40), 0, chunk, 16), LW_ERR_NOT_FOUND);
    data_client_close(&reader);
}

static void test_chunks_outside_the_reservation_are_refused(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    const uint8_t chunk[64] = {0};
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_OK);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 990, chunk, 11), LW_ERR_INVALID);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 1u << 29, chunk, 11), LW_ERR_INVALID);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 990, chunk, 10), LW_OK);
    assert_int_equal(fixture_count(&fixture->node.stats[0].writes_failed), 2);
    assert_int_equal(fixture_count(&fixture->node.stats[0].write_bytes), 10);
}

static void
test_a_commit_with_a_wrong_checksum_size_or_missing_chunk_is_refused_and_can_be_mended(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    uint64_t bytes;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    uint8_t *segment = segment_make(&name, &shape, fixture_seed, &bytes);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, bytes, &reserved), LW_OK);
    assert_true(data_commit(&fixture->client, reserved.handle, bytes) < 0); /* nothing was written */
    assert_int_equal(data_write(&fixture->client, reserved.handle, 0, segment, (uint32_t)bytes - 100), LW_OK);
    assert_true(data_commit(&fixture->client, reserved.handle, bytes) < 0); /* the end is missing */
    assert_int_equal(data_commit(&fixture->client, reserved.handle, bytes - 1), LW_ERR_INVALID);
    const uint8_t wrong[100] = {1, 2, 3};
    assert_int_equal(data_write(&fixture->client, reserved.handle, bytes - 100, wrong, 100), LW_OK);
    assert_int_equal(data_commit(&fixture->client, reserved.handle, bytes), LW_ERR_CORRUPT);
    const lw_msg_fetch_run_t run = {.handle = reserved.handle, .count = 1};
    const uint16_t entry = 0;
    assert_int_equal(data_fetch(&fixture->client, &run, 1, &entry, 0), LW_OK);
    assert_int_equal(fixture->client.reply.run_status[0], LW_ERR_STALE); /* not readable */
    assert_int_equal(data_write(&fixture->client, reserved.handle, bytes - 100, segment + bytes - 100, 100),
                     LW_OK);
    assert_int_equal(data_commit(&fixture->client, reserved.handle, bytes), LW_OK);
    assert_int_equal(data_commit(&fixture->client, reserved.handle, bytes), LW_OK);
    assert_int_equal(data_fetch(&fixture->client, &run, 1, &entry, 0), LW_OK);
    assert_int_equal(fixture->client.reply.run_status[0], LW_OK);
    assert_int_equal(fixture_count(&fixture->node.stats[0].commits), 1);
    assert_int_equal(fixture_count(&fixture->node.stats[0].commits_refused), 4);
    free(segment);
}

static void test_two_connections_write_one_name_together(void **state)
{
    fixture_t *fixture = *state;
    data_client_t lane;
    lw_msg_reserve_reply_t first, second;
    uint64_t bytes;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    uint8_t *segment = segment_make(&name, &shape, fixture_seed, &bytes);
    node_client(&fixture->node, &lane, 0, 5, 1);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_attach(&lane, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, bytes, &first), LW_OK);
    assert_int_equal(data_reserve(&lane, &name, bytes, &second), LW_OK);
    assert_int_equal(data_reserve(&lane, &name, bytes + 1, &second), LW_ERR_EXISTS);
    assert_int_equal(data_reserve(&lane, &name, bytes, &second), LW_OK);
    uint32_t half = (uint32_t)bytes / 2;
    assert_int_equal(data_write(&fixture->client, first.handle, 0, segment, half), LW_OK);
    assert_int_equal(data_write(&lane, second.handle, half, segment + half, (uint32_t)bytes - half), LW_OK);
    assert_int_equal(data_commit(&lane, second.handle, bytes), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, bytes, &first), LW_OK);
    assert_int_equal(first.committed, 1);
    free(segment);
    data_client_close(&lane);
}

static void test_an_aborted_reservation_is_stale(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    const uint8_t chunk[16] = {0};
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_OK);
    assert_int_equal(data_abort(&fixture->client, reserved.handle), LW_OK);
    assert_int_equal(data_abort(&fixture->client, reserved.handle), LW_ERR_STALE);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 0, chunk, 16), LW_ERR_STALE);
    assert_int_equal(data_commit(&fixture->client, reserved.handle, 1000), LW_ERR_STALE);
    assert_int_equal(fixture_count(&fixture->node.stats[0].aborts), 1);
}

static void test_a_vanished_writers_reservation_goes_with_its_lease(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    lwd_shard_usage_t usage;
    data_client_t writer;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    node_client(&fixture->node, &writer, 0, 8, 1);
    assert_int_equal(data_attach(&writer, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&writer, &name, 1u << 20, &reserved), LW_OK);
    data_client_close(&writer);
    node_pass(&fixture->node, 500000);
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.reservations, 1);
    node_pass(&fixture->node, 2500000);
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.reservations, 0);
    assert_int_equal(usage.arena_used_bytes, 0);
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_reclaimed), 1);
}

/* The attack: a stranger names the writer's client id with an incarnation that beats any other, first without
 * any proof and then with the proof for a session of its own. */
static void test_a_stranger_that_names_a_writers_client_takes_nothing_from_it(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved, theirs;
    data_client_t stranger, lane;
    const uint8_t chunk[16] = {0};
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1), next = fixture_name(1, 1, 0, 1),
                            foreign = fixture_name(2, 0, 0, 1);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_OK);
    node_client(&fixture->node, &stranger, 0, 5, UINT64_MAX);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 0, chunk, 16), LW_OK);
    fixture->node.check_status = LW_ERR_PERMISSION;
    assert_int_equal(data_attach(&stranger, 1, true, 2, 0, NULL, 0, NULL), LW_ERR_NOT_FOUND);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 0, chunk, 16), LW_OK);
    fixture->node.check_status = LW_OK;
    assert_int_equal(data_attach(&stranger, 2, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&stranger, &foreign, 1000, &theirs), LW_OK);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 0, chunk, 16), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &next, 1000, &reserved), LW_OK);
    node_client(&fixture->node, &lane, 0, 5, 1); /* and the writer can still come with another lane */
    assert_int_equal(data_attach(&lane, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    data_client_close(&stranger);
    node_pass(&fixture->node, 3000000); /* what goes with the stranger's lease is its own */
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_reclaimed), 1);
    assert_int_equal(data_write(&lane, reserved.handle, 0, chunk, 16), LW_ERR_NOT_FOUND);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 0, chunk, 16), LW_OK);
    data_client_close(&lane);
}

/* Neither does it keep alive what is not its own. */
static void test_a_stranger_without_a_proof_keeps_no_dead_writers_reservation(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    data_client_t stranger;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_OK);
    node_client(&fixture->node, &stranger, 0, 5, 1);
    assert_int_equal(data_attach(&stranger, 2, false, 0, 0, NULL, 0, NULL),
                     LW_OK); /* reading proves no writer */
    data_client_close(&fixture->client);
    node_pass(&fixture->node, 2500000);
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_reclaimed), 1);
    data_client_close(&stranger);
}

static void test_a_restarted_client_takes_over_with_the_next_term(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved, again;
    data_client_t reborn;
    const uint8_t chunk[16] = {0};
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1), next = fixture_name(1, 1, 0, 1),
                            later = fixture_name(1, 1, 0, 2);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_OK);
    node_client(&fixture->node, &reborn, 0, 5, 2);
    assert_int_equal(data_attach(&reborn, 1, true, 2, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&reborn, &later, 1000, &again), LW_OK);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 0, chunk, 16), LW_ERR_STALE);
    assert_int_equal(data_reserve(&fixture->client, &next, 1000, &reserved), LW_ERR_STALE);
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_reclaimed), 1);
    data_client_close(&reborn);
}

/* Its connection stays open (its host lost power, say), but the catalogue knows that its lease ran out. */
static void test_a_silent_writers_reservation_goes_when_the_catalogue_says_so(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    lwd_shard_usage_t usage;
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_reserve(&fixture->client, &name, 1000, &reserved), LW_OK);
    node_pass(&fixture->node, LWD_ORPHAN_ASK_US - 1000000);
    assert_int_equal(fixture->node.orphans_asked, 0);
    node_pass(&fixture->node, 2000000);
    assert_int_equal(fixture->node.orphans_asked, 1);
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_reclaimed), 0); /* it lives */
    fixture->node.orphans_dead = true;
    node_pass(&fixture->node, LWD_ORPHAN_ASK_US + 1000000);
    assert_int_equal(fixture->node.orphans_asked, 2);
    assert_int_equal(fixture_count(&fixture->node.stats[0].reserves_reclaimed), 1);
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.arena_used_bytes, 0);
    assert_int_equal(data_write(&fixture->client, reserved.handle, 0, "x", 1), LW_ERR_STALE);
}

static void test_a_dead_writers_written_segments_are_asked_about_and_freed(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    lwd_shard_usage_t usage;
    free(fixture_put(fixture, 0, &bytes, &handle));
    node_pass(&fixture->node, 5000000);
    assert_int_equal(fixture->node.orphans_asked, 0); /* its writer lives */
    fixture->node.orphans_dead = true;
    data_client_close(&fixture->client);
    node_pass(&fixture->node, 5000000);
    assert_int_equal(fixture->node.orphans_asked, 1);
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.segments, 0);
    assert_int_equal(usage.arena_used_bytes, 0);
    assert_int_equal(fixture_count(&fixture->node.stats[0].orphans_freed), 1);
}

static void test_a_connection_that_breaks_in_mid_write_leaves_nothing_behind(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    data_client_t writer;
    uint8_t *chunk = calloc(1, LW_WRITE_CHUNK_BYTES);
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    for (unsigned round = 0; round < 20; round++) {
        node_client(&fixture->node, &writer, 0, 8, 1 + round);
        assert_int_equal(data_attach(&writer, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
        assert_int_equal(data_reserve(&writer, &name, 4u << 20, &reserved), LW_OK);
        lw_msg_t msg = {.header.type = LW_MSG_WRITE};
        msg.body.write = (lw_msg_write_t){reserved.handle, 0, LW_WRITE_CHUNK_BYTES, 0};
        (void)data_client_send(&writer, &msg, chunk, LW_WRITE_CHUNK_BYTES);
        data_client_step(&writer, round * 3);
        data_client_close(&writer);
        node_pass(&fixture->node, 2000);
    }
    node_pass(&fixture->node, 4000000);
    lwd_shard_usage_t usage;
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.reservations, 0);
    assert_int_equal(usage.arena_used_bytes, 0);
    free(chunk);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(int argc, char **argv)
{
    fixture_take_seed(argc, argv);
    lw_log_set_level(LW_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        CASE(test_reserving_without_a_proof_is_refused),
        CASE(test_without_a_catalogue_writes_are_refused),
        CASE(test_a_full_arena_asks_the_catalogue_for_room_and_an_ending_makes_it),
        CASE(test_handles_to_write_are_checked),
        CASE(test_chunks_outside_the_reservation_are_refused),
        CASE(test_a_commit_with_a_wrong_checksum_size_or_missing_chunk_is_refused_and_can_be_mended),
        CASE(test_two_connections_write_one_name_together),
        CASE(test_an_aborted_reservation_is_stale),
        CASE(test_a_vanished_writers_reservation_goes_with_its_lease),
        CASE(test_a_stranger_that_names_a_writers_client_takes_nothing_from_it),
        CASE(test_a_stranger_without_a_proof_keeps_no_dead_writers_reservation),
        CASE(test_a_restarted_client_takes_over_with_the_next_term),
        CASE(test_a_silent_writers_reservation_goes_when_the_catalogue_says_so),
        CASE(test_a_dead_writers_written_segments_are_asked_about_and_freed),
        CASE(test_a_connection_that_breaks_in_mid_write_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
