/* FETCH and READ: bytes, checksums, statuses per run, limits, and segments that go while they are read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "storaged/net/net_private.h"
#include "unit/storaged/node_fixture.h"

static lw_msg_fetch_run_t run_of(uint64_t handle, uint16_t head, uint16_t count)
{
    return (lw_msg_fetch_run_t){.handle = handle, .head = head, .count = count};
}

static void end_session(fixture_t *fixture, uint64_t origin)
{
    lwd_news_t ended = {.kind = LWD_NEWS_ENDED};
    ended.ended.origin = origin;
    ended.ended.rank = UINT16_MAX;
    ended.ended.generation_max = UINT32_MAX;
    assert_int_equal(lwd_worker_tell(fixture->node.workers[0], &ended), LW_OK);
}

static void
test_a_freed_segment_is_stale_and_an_unknown_handle_not_found_and_the_other_runs_are_served(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle[2], foreign;
    data_client_t other;
    lw_msg_attached_t attached;
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle[0]);
    /* a second session, whose segments then end */
    const segment_shape_t shape = {.heads = 1, .clusters = 5, .outliers = 0, .rows_max = 9, .head_dim = 16};
    const lw_segment_name_t gone = fixture_name(2, 0, 0, 1), name = fixture_name(1, 0, 0, 1);
    uint64_t gone_bytes;
    uint8_t *gone_segment = segment_make(&gone, &shape, 1, &gone_bytes);
    assert_int_equal(data_attach(&fixture->client, 2, true, 1, 0, NULL, 0, NULL), LW_OK);
    assert_int_equal(data_put(&fixture->client, gone_segment, gone_bytes, &handle[1]), LW_OK);
    end_session(fixture, 2);
    /* a handle that means something on another connection */
    node_client(&fixture->node, &other, 0, 6, 1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(data_attach(&other, 1, false, 0, 0, &name, 1, &attached), LW_OK);
    foreign = attached.handle;
    const lw_msg_fetch_run_t runs[] = {
        run_of(handle[0], 0, 2), run_of(handle[1], 0, 3), run_of(foreign, 0, 1),  run_of(0xdeadbeefull, 0, 1),
        run_of(handle[0], 1, 1), run_of(handle[0], 2, 1), run_of(handle[0], 0, 2)};
    const uint16_t entries[] = {4, 5, 0, 1, 2, 0, 0, 69, 0, 6, FIXTURE_ENTRIES};
    assert_int_equal(data_fetch(&fixture->client, runs, 7, entries, 0), LW_OK);
    const int32_t want[] = {LW_OK, LW_ERR_STALE,   LW_ERR_NOT_FOUND, LW_ERR_NOT_FOUND,
                            LW_OK, LW_ERR_INVALID, LW_ERR_INVALID};
    for (int i = 0; i < 7; i++)
        assert_int_equal(fixture->client.reply.run_status[i], want[i]);
    assert_int_equal(fixture->client.reply.body.fetch_reply.record_count, 3);
    const uint8_t *at = data_fetch_bulk(&fixture->client);
    fixture_check_record(&fixture->client, segment, 0, 4, &at, 0);
    fixture_check_record(&fixture->client, segment, 0, 5, &at, 1);
    fixture_check_record(&fixture->client, segment, 1, 69, &at, 2);
    assert_int_equal(fixture->client.reply.body.fetch_reply.bulk_bytes,
                     at - data_fetch_bulk(&fixture->client));
    const lwd_stats_t *stats = &fixture->node.stats[0];
    assert_int_equal(fixture_count(&stats->fetch_runs_stale), 1);
    assert_int_equal(fixture_count(&stats->fetch_runs_not_found), 2);
    assert_int_equal(fixture_count(&stats->fetch_runs_invalid), 2);
    assert_int_equal(fixture_count(&stats->fetch_records), 3);
    assert_int_equal(data_read(&fixture->client, handle[1], 0, 0), LW_ERR_STALE);
    assert_int_equal(data_read(&fixture->client, foreign ^ 1, 0, 0), LW_ERR_NOT_FOUND);
    data_client_close(&other);
    free(segment);
    free(gone_segment);
}

static void test_a_failed_run_does_not_lengthen_the_record_before_it(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    /* 3 | 4, 5, none | 9: the second run begins where the first ends, so its pieces were merged before it
     * failed */
    const lw_msg_fetch_run_t runs[] = {run_of(handle, 0, 1), run_of(handle, 0, 3), run_of(handle, 0, 1)};
    const uint16_t entries[] = {3, 4, 5, FIXTURE_ENTRIES, 9};
    assert_int_equal(data_fetch(&fixture->client, runs, 3, entries, 0), LW_OK);
    const uint8_t *at = data_fetch_bulk(&fixture->client);
    fixture_check_record(&fixture->client, segment, 0, 3, &at, 0);
    fixture_check_record(&fixture->client, segment, 0, 9, &at, 1);
    assert_int_equal(fixture->client.reply.body.fetch_reply.bulk_bytes,
                     at - data_fetch_bulk(&fixture->client));
    free(segment);
}

static void test_random_fetches_give_every_byte_and_checksum(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle[3];
    uint8_t *segment[3];
    lw_prng_t prng;
    lw_prng_seed(&prng, fixture_seed);
    for (uint16_t i = 0; i < 3; i++)
        segment[i] = fixture_put(fixture, i, &bytes, &handle[i]);
    for (int round = 0; round < 60; round++) {
        lw_msg_fetch_run_t runs[12];
        uint16_t entries[12 * 40];
        uint32_t run_count = (uint32_t)lw_prng_below(&prng, 13), count = 0, which[12];
        for (uint32_t r = 0; r < run_count; r++) {
            which[r] = (uint32_t)lw_prng_below(&prng, 3);
            runs[r] = run_of(handle[which[r]], (uint16_t)lw_prng_below(&prng, FIXTURE_HEADS),
                             (uint16_t)lw_prng_below(&prng, 41));
            for (uint32_t i = 0; i < runs[r].count; i++)
                entries[count++] = (uint16_t)lw_prng_below(&prng, FIXTURE_ENTRIES);
        }
        assert_int_equal(data_fetch(&fixture->client, runs, run_count, entries, 0), LW_OK);
        const uint8_t *at = run_count > 0 ? data_fetch_bulk(&fixture->client) : NULL;
        for (uint32_t r = 0, record = 0; r < run_count; r++) {
            assert_int_equal(fixture->client.reply.run_status[r], LW_OK);
            for (uint32_t i = 0; i < runs[r].count; i++, record++)
                fixture_check_record(&fixture->client, segment[which[r]], runs[r].head, entries[record], &at,
                                     record);
        }
        assert_int_equal(fixture->client.reply.body.fetch_reply.record_count, count);
    }
    assert_true(atomic_load(&fixture->node.stats[0].gather_us.count) > 0);
    for (int i = 0; i < 3; i++)
        free(segment[i]);
}

static void test_a_contiguous_answer_has_the_same_sizes_and_checksums(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    const lw_msg_fetch_run_t run = run_of(handle, 0, 3);
    const uint16_t entries[] = {30, 2, 69};
    uint64_t total = 0;
    for (int i = 0; i < 3; i++) {
        uint32_t one;
        (void)segment_record(segment, 0, entries[i], &one);
        total += one;
    }
    for (int i = 0; i < 100; i++) { /* often enough to come round the segment's end */
        assert_int_equal(data_fetch(&fixture->client, &run, 1, entries, LW_MSG_FETCH_CONTIGUOUS), LW_OK);
        assert_int_equal(fixture->client.reply.body.fetch_reply.bulk_bytes, total);
        assert_int_equal(fixture->client.reply.body.fetch_reply.record_count, 3);
    }
    uint16_t *all = calloc(4000, sizeof(*all));
    const lw_msg_fetch_run_t much = run_of(handle, 0, 4000);
    for (int i = 0; i < 4000; i++)
        all[i] = (uint16_t)(i % FIXTURE_CLUSTERS);
    assert_int_equal(data_fetch(&fixture->client, &much, 1, all, LW_MSG_FETCH_CONTIGUOUS), LW_ERR_INVALID);
    free(all);
    free(segment);
}

static void test_more_bytes_than_the_reply_buffers_hold_are_invalid(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    uint16_t *all = calloc(LW_FETCH_ENTRIES_MAX, sizeof(*all));
    lw_msg_fetch_run_t run[2] = {run_of(handle, 0, 32768), run_of(handle, 0, 32768)};
    assert_int_equal(data_fetch(&fixture->client, run, 2, all, 0), LW_ERR_INVALID);
    assert_int_equal(data_read(&fixture->client, handle, 0, 100), LW_OK);
    free(all);
    free(segment);
}

static void test_when_the_reply_buffers_are_used_up_the_answer_is_busy(void **state)
{
    fixture_t *fixture = *state;
    lwd_extents_t *buffers = fixture->node.workers[0]->reply_extents;
    uint64_t bytes, handle;
    free(fixture_put(fixture, 0, &bytes, &handle));
    const lw_msg_fetch_run_t run = run_of(handle, 0, 1);
    const lw_segment_name_t name = fixture_name(1, 0, 0, 1);
    const uint16_t entry = 0;
    lw_msg_attached_t attached;
    uint64_t all = lwd_extents_alloc(buffers, LWD_REPLY_BYTES_MIN);
    assert_true(all != LWD_EXTENT_NONE);
    assert_int_equal(data_fetch(&fixture->client, &run, 1, &entry, 0), LW_ERR_BUSY);
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, &name, 1, &attached), LW_ERR_BUSY);
    assert_int_equal(fixture_count(&fixture->node.stats[0].requests_refused_busy), 2);
    lwd_extents_free(buffers, all);
    assert_int_equal(data_fetch(&fixture->client, &run, 1, &entry, 0), LW_OK);
}

static void test_reading_gives_any_stretch_of_the_stored_segment(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    assert_int_equal(data_read(&fixture->client, handle, 0, 0), LW_OK);
    assert_int_equal(fixture->client.reply.body.read_reply.bytes, bytes);
    assert_int_equal(fixture->client.reply.body.read_reply.segment_bytes, bytes);
    assert_memory_equal(fixture->client.payload, segment, bytes);
    assert_int_equal(data_read(&fixture->client, handle, bytes - 7, 7), LW_OK);
    assert_memory_equal(fixture->client.payload, segment + bytes - 7, 7);
    assert_int_equal(data_read(&fixture->client, handle, bytes, 0), LW_OK);
    assert_int_equal(fixture->client.reply.body.read_reply.bytes, 0);
    assert_int_equal(data_read(&fixture->client, handle, bytes - 7, 8), LW_OK); /* what lies beyond is not sent */
    assert_int_equal(fixture->client.reply.body.read_reply.bytes, 7);
    assert_memory_equal(fixture->client.payload, segment + bytes - 7, 7);
    assert_int_equal(data_read(&fixture->client, handle, bytes + 1, 0), LW_ERR_INVALID);
    assert_int_equal(fixture_count(&fixture->node.stats[0].read_bytes), bytes + 14);
    free(segment);
}

/* The session ends while the daemon sends: other writers come at once and overwrite whatever is recycled. */
static void end_and_overwrite(fixture_t *fixture, uint64_t bytes)
{
    lwd_shard_usage_t usage;
    end_session(fixture, 1);
    node_pass(&fixture->node, 20000);
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.segments, 0);
    for (uint16_t layer = 0; layer < 8; layer++) {
        lwd_reserved_t reserved;
        uint8_t *into;
        lwd_reserve_t reserve = {
            .client_id = 5, .incarnation = 1, .name = fixture_name(3, layer, 0, 1), .bytes = bytes};
        assert_int_equal(lwd_shard_reserve(fixture->node.shard, &reserve, &reserved), LW_OK);
        assert_int_equal(lwd_shard_write_begin(fixture->node.shard, reserved.ref, 0, bytes, &into), LW_OK);
        memset(into, 0xee, bytes);
        lwd_shard_write_end(fixture->node.shard, reserved.ref);
    }
}

static void memory_came_back(fixture_t *fixture)
{
    lwd_shard_usage_t usage;
    node_pass(&fixture->node, 20000);
    lwd_shard_usage(fixture->node.shard, &usage);
    assert_int_equal(usage.dying, 0);
}

static void test_a_segment_that_ends_while_it_is_read_arrives_whole(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    lw_msg_t msg = {.header.type = LW_MSG_READ};
    msg.body.read = (lw_msg_read_t){handle, 0, 0, 0};
    uint64_t request = data_client_send(&fixture->client, &msg, NULL, 0);
    for (int i = 0; i < 2000 && fixture_count(&fixture->node.stats[0].read_requests) == 0; i++)
        node_pump(&fixture->node); /* the daemon sends; the client does not take it yet */
    assert_int_equal(fixture_count(&fixture->node.stats[0].read_requests), 1);
    end_and_overwrite(fixture, bytes);
    assert_true(data_client_wait(&fixture->client, request));
    assert_int_equal(fixture->client.reply.body.read_reply.status, LW_OK);
    assert_memory_equal(fixture->client.payload, segment, bytes);
    memory_came_back(fixture);
    free(segment);
}

static void test_records_of_a_segment_that_ends_while_they_are_sent_arrive_whole(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    lw_msg_t msg = {.header.type = LW_MSG_FETCH};
    msg.body.fetch = (lw_msg_fetch_t){2, FIXTURE_CLUSTERS, 0, 0};
    struct {
        lw_msg_fetch_run_t run[2];
        uint16_t entry[FIXTURE_CLUSTERS];
    } lists = {.run = {run_of(handle, 0, FIXTURE_CLUSTERS / 2), run_of(handle, 1, FIXTURE_CLUSTERS / 2)}};
    for (uint16_t i = 0; i < FIXTURE_CLUSTERS; i++)
        lists.entry[i] = (uint16_t)((i * 7) % FIXTURE_CLUSTERS); /* large records, few of them neighbours */
    uint64_t request = data_client_send(&fixture->client, &msg, &lists, lw_msg_list_bytes(&msg));
    for (int i = 0; i < 2000 && fixture_count(&fixture->node.stats[0].fetch_requests) == 0; i++)
        node_pump(&fixture->node);
    assert_int_equal(fixture_count(&fixture->node.stats[0].fetch_requests), 1);
    end_and_overwrite(fixture, bytes);
    assert_true(data_client_wait(&fixture->client, request));
    const uint8_t *at = data_fetch_bulk(&fixture->client);
    for (uint32_t i = 0; i < FIXTURE_CLUSTERS; i++)
        fixture_check_record(&fixture->client, segment, i < FIXTURE_CLUSTERS / 2 ? 0 : 1, lists.entry[i], &at,
                             i);
    memory_came_back(fixture);
    free(segment);
}

#ifdef LW_FAULTS
static void test_the_fault_point_flips_a_byte_that_the_checksum_finds(void **state)
{
    fixture_t *fixture = *state;
    uint64_t bytes, handle;
    uint8_t *segment = fixture_put(fixture, 0, &bytes, &handle);
    const lw_msg_fetch_run_t run = run_of(handle, 0, 1);
    const uint16_t entry = 7;
    lw_fault_enable(LW_FAULT_REPLY_CORRUPT, 1.0);
    assert_int_equal(data_fetch(&fixture->client, &run, 1, &entry, 0), LW_OK);
    uint32_t one;
    (void)segment_record(segment, 0, 7, &one);
    uint64_t seed = lw_record_seed(&lw_segment_header(segment)->name, 0, 7);
    assert_int_not_equal(lw_record_check(seed, data_fetch_bulk(&fixture->client), one),
                         fixture->client.reply.checksums[0]);
    free(segment);
}
#endif

#define CASE(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(int argc, char **argv)
{
    fixture_take_seed(argc, argv);
    const struct CMUnitTest tests[] = {
        CASE(test_a_freed_segment_is_stale_and_an_unknown_handle_not_found_and_the_other_runs_are_served),
        CASE(test_a_failed_run_does_not_lengthen_the_record_before_it),
        CASE(test_random_fetches_give_every_byte_and_checksum),
        CASE(test_a_contiguous_answer_has_the_same_sizes_and_checksums),
        CASE(test_more_bytes_than_the_reply_buffers_hold_are_invalid),
        CASE(test_when_the_reply_buffers_are_used_up_the_answer_is_busy),
        CASE(test_reading_gives_any_stretch_of_the_stored_segment),
        CASE(test_a_segment_that_ends_while_it_is_read_arrives_whole),
        CASE(test_records_of_a_segment_that_ends_while_they_are_sent_arrive_whole),
#ifdef LW_FAULTS
        CASE(test_the_fault_point_flips_a_byte_that_the_checksum_finds),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
