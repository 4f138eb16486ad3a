/* COMMIT: nothing can be read before all of it was verified. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/fault.h"
#include "unit/storaged/shard_place.h"

static const segment_shape_t shape = {
    .heads = 2, .clusters = 20, .outliers = 10, .rows_max = 12, .head_dim = 32};

typedef struct landed {
    place_t place;
    uint8_t *segment, *extent;
    uint64_t bytes;
    lw_segment_name_t name;
    lwd_reserved_t reserved;
} landed_t;

/* Reserved and written, not committed. */
static int setup(void **state)
{
    landed_t *landed = calloc(1, sizeof(*landed));
    place_init(&landed->place, &(place_params_t){0});
    landed->name = place_name(4, 2, 1024, 6);
    landed->segment = segment_make(&landed->name, &shape, 11, &landed->bytes);
    assert_int_equal(place_reserve(&landed->place, &landed->name, landed->bytes, &landed->reserved), LW_OK);
    assert_int_equal(
        lwd_shard_write_begin(landed->place.shard, landed->reserved.ref, 0, landed->bytes, &landed->extent),
        LW_OK);
    memcpy(landed->extent, landed->segment, landed->bytes);
    lwd_shard_write_end(landed->place.shard, landed->reserved.ref);
    *state = landed;
    return 0;
}

static int teardown(void **state)
{
    landed_t *landed = *state;
#ifdef LW_FAULTS
    lw_fault_reset(0);
#endif
    place_fini(&landed->place);
    free(landed->segment);
    free(landed);
    return 0;
}

static lw_status_t commit(landed_t *landed, lw_error_t *error)
{
    return lwd_shard_commit(landed->place.shard, landed->reserved.ref, landed->bytes, landed->place.now_us,
                            error);
}

static bool readable(const landed_t *landed)
{
    lwd_ref_t ref;
    return lwd_shard_readable(landed->place.shard, landed->reserved.ref) != NULL ||
           lwd_shard_find(landed->place.shard, &landed->name, &ref) == LW_OK;
}

static void test_a_flipped_record_byte_is_corrupt_and_nothing_can_be_read(void **state)
{
    landed_t *landed = *state;
    lw_error_t error = {0};
    uint32_t bytes;
    uint64_t at = (uint64_t)(segment_record(landed->segment, 1, 7, &bytes) - landed->segment);
    landed->extent[at + 3] ^= 0x10;
    assert_int_equal(commit(landed, &error), LW_ERR_CORRUPT);
    assert_true(error.text[0] != '\0');
    assert_false(readable(landed));
    assert_int_equal(place_count(&landed->place.stats.commits_refused), 1);
    landed->extent[at + 3] ^= 0x10; /* the writer sends the chunk again */
    assert_int_equal(commit(landed, &error), LW_OK);
    assert_true(readable(landed));
}

static void test_a_missing_chunk_is_refused(void **state)
{
    landed_t *landed = *state;
    memset(landed->extent + landed->bytes / 2, 0, landed->bytes - landed->bytes / 2);
    assert_true(commit(landed, NULL) < 0);
    assert_false(readable(landed));
}

static void test_a_missing_header_is_refused(void **state)
{
    landed_t *landed = *state;
    memset(landed->extent, 0, 128);
    assert_int_equal(commit(landed, NULL), LW_ERR_INVALID);
    assert_false(readable(landed));
}

static void test_a_size_other_than_the_reserved_one_is_refused(void **state)
{
    landed_t *landed = *state;
    bool done;
    assert_int_equal(
        lwd_shard_commit_begin(landed->place.shard, landed->reserved.ref, landed->bytes - 1, &done),
        LW_ERR_INVALID);
    assert_false(readable(landed));
}

static void test_a_segment_that_calls_itself_otherwise_is_refused(void **state)
{
    landed_t *landed = *state;
    lw_error_t error = {0};
    uint64_t bytes;
    lw_segment_name_t other = place_name(4, 3, 1024, 6);
    uint8_t *segment = segment_make(&other, &shape, 11, &bytes);
    assert_int_equal(bytes, landed->bytes);
    memcpy(landed->extent, segment, bytes);
    assert_int_equal(commit(landed, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "reserved"));
    assert_false(readable(landed));
    free(segment);
}

static void test_a_commit_while_a_chunk_lands_is_busy(void **state)
{
    landed_t *landed = *state;
    uint8_t *into;
    assert_int_equal(lwd_shard_write_begin(landed->place.shard, landed->reserved.ref, 0, 10, &into), LW_OK);
    assert_int_equal(commit(landed, NULL), LW_ERR_BUSY);
    assert_false(readable(landed));
    lwd_shard_write_end(landed->place.shard, landed->reserved.ref);
    assert_int_equal(commit(landed, NULL), LW_OK);
}

static void test_no_chunk_lands_while_it_is_verified_or_after(void **state)
{
    landed_t *landed = *state;
    bool done;
    uint8_t *into;
    assert_int_equal(lwd_shard_commit_begin(landed->place.shard, landed->reserved.ref, landed->bytes, &done),
                     LW_OK);
    assert_int_equal(lwd_shard_write_begin(landed->place.shard, landed->reserved.ref, 0, 10, &into),
                     LW_ERR_EXISTS);
    assert_int_equal(lwd_shard_commit_begin(landed->place.shard, landed->reserved.ref, landed->bytes, &done),
                     LW_ERR_BUSY);
    assert_int_equal(lwd_shard_commit_end(landed->place.shard, landed->reserved.ref, LW_OK, 0), LW_OK);
    assert_int_equal(lwd_shard_write_begin(landed->place.shard, landed->reserved.ref, 0, 10, &into),
                     LW_ERR_EXISTS);
}

static void test_a_segment_that_ends_while_it_is_verified_is_stale(void **state)
{
    landed_t *landed = *state;
    bool done;
    assert_int_equal(lwd_shard_commit_begin(landed->place.shard, landed->reserved.ref, landed->bytes, &done),
                     LW_OK);
    assert_int_equal(lwd_shard_end(landed->place.shard, 4, UINT16_MAX, 0, UINT32_MAX), 1);
    for (int i = 0; i < 3; i++) /* the verifier still reads the extent: it must not be recycled */
        place_round(&landed->place, 2000);
    lwd_shard_usage_t usage;
    lwd_shard_usage(landed->place.shard, &usage);
    assert_int_equal(usage.dying, 1);
    assert_int_equal(lwd_shard_commit_end(landed->place.shard, landed->reserved.ref, LW_OK, 0), LW_ERR_STALE);
    assert_false(readable(landed));
}

static void test_a_second_commit_is_done_already(void **state)
{
    landed_t *landed = *state;
    assert_int_equal(commit(landed, NULL), LW_OK);
    assert_int_equal(commit(landed, NULL), LW_OK);
    assert_int_equal(place_count(&landed->place.stats.commits), 1);
}

static void test_the_record_table_agrees_with_the_sizes_and_checksums_of_the_segment(void **state)
{
    landed_t *landed = *state;
    assert_int_equal(commit(landed, NULL), LW_OK);
    const lwd_segment_t *segment = lwd_shard_readable(landed->place.shard, landed->reserved.ref);
    assert_int_equal(segment->head_count, 2);
    for (uint32_t h = 0; h < 2; h++) {
        assert_int_equal(segment->heads[h].entry_count, 30);
        for (uint32_t e = 0; e < 30; e++) {
            uint32_t bytes;
            const uint8_t *want = segment_record(landed->segment, h, e, &bytes);
            const lwd_record_t *record = &segment->records[segment->heads[h].first + e];
            assert_int_equal(record->offset, want - landed->segment);
            assert_int_equal(record[1].offset - record[0].offset, bytes);
            assert_int_equal(record->check,
                             lw_record_check(lw_record_seed(&landed->name, h, e), want, bytes));
        }
    }
}

static void test_a_full_bookkeeping_area_refuses_the_commit_and_keeps_the_reservation(void **state)
{
    landed_t *landed = *state;
    uint64_t rest = lwd_extents_alloc(landed->place.book_extents, 1u << 20);
    assert_true(rest != LWD_EXTENT_NONE);
    assert_int_equal(commit(landed, NULL), LW_ERR_EXHAUSTED);
    assert_false(readable(landed));
    lwd_extents_free(landed->place.book_extents, rest);
    assert_int_equal(commit(landed, NULL), LW_OK);
}

#ifdef LW_FAULTS
static void test_the_planted_early_acknowledgement_acknowledges_what_is_wrong(void **state)
{
    landed_t *landed = *state;
    uint32_t bytes;
    uint64_t at = (uint64_t)(segment_record(landed->segment, 1, 7, &bytes) - landed->segment);
    lw_fault_reset(1);
    lw_fault_enable(LW_FAULT_COMMIT_ACK_EARLY, 1.0);
    landed->extent[at] ^= 1;
    assert_int_equal(commit(landed, NULL), LW_OK);
    assert_true(readable(landed));
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_flipped_record_byte_is_corrupt_and_nothing_can_be_read, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_missing_chunk_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_missing_header_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_size_other_than_the_reserved_one_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_segment_that_calls_itself_otherwise_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_commit_while_a_chunk_lands_is_busy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_chunk_lands_while_it_is_verified_or_after, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_segment_that_ends_while_it_is_verified_is_stale, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_second_commit_is_done_already, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_the_record_table_agrees_with_the_sizes_and_checksums_of_the_segment, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_a_full_bookkeeping_area_refuses_the_commit_and_keeps_the_reservation, setup, teardown),
#ifdef LW_FAULTS
        cmocka_unit_test_setup_teardown(test_the_planted_early_acknowledgement_acknowledges_what_is_wrong,
                                        setup, teardown),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
