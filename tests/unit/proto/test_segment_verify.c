#include "quick.h"
#include "test_segments.h"

#define ALL_FLAGS (LW_SEGMENT_RAW | LW_SEGMENT_SINKS | LW_SEGMENT_MOMENTS)

/* The checksums of header and table as an attacker would set them again, as far as the table is there. */
static void reseal_header(uint8_t *extent, uint64_t bytes)
{
    lw_segment_header_t *header = (void *)extent;
    uint64_t table = lw_min_u64(header->head_count * sizeof(lw_segment_head_t), bytes - sizeof(*header));

    header->table_check =
        lw_record_check(lw_record_seed(&header->name, 0, LW_PART_TABLE), extent + sizeof(*header), table);
    header->header_check = 0;
    header->header_check =
        lw_record_check(lw_record_seed(&header->name, 0, LW_PART_HEADER), header, sizeof(*header));
}

/* Which words the error must have for a byte at `at` that was flipped. */
static void expect_part(const test_segment_t *segment, uint64_t at, char *words, size_t bytes)
{
    static uint32_t offsets[LW_SEGMENT_ENTRIES_MAX + 1];
    const lw_segment_header_t *header = lw_segment_header(segment->extent);
    const lw_segment_head_t *heads = lw_segment_heads(segment->extent);
    uint64_t row_pair = lw_row_pair_bytes(header->dtype, header->head_dim);

    snprintf(words, bytes, "padding byte %llu", (unsigned long long)at);
    if (at < sizeof(*header)) {
        snprintf(words, bytes, "%s", at < 8 ? "magic" : at < 12 ? "version" : "checksum of header");
    } else if (at < sizeof(*header) + header->head_count * sizeof(*heads)) {
        snprintf(words, bytes, "checksum of table");
    } else if (header->sinks_offset != 0 && at >= header->sinks_offset &&
               at < header->sinks_offset + header->head_count * LW_SINK_TOKENS * row_pair) {
        snprintf(words, bytes, "checksum of sinks");
    } else if (header->moments_offset != 0 && at >= header->moments_offset &&
               at < header->moments_offset + header->moments_bytes) {
        snprintf(words, bytes, "checksum of moments");
    }
    for (uint32_t i = 0; i < header->head_count; i++) {
        const lw_segment_head_t *head = &heads[i];
        uint32_t entries = head->cluster_count + head->outlier_count;

        if (at >= head->sizes_offset && at < head->sizes_offset + head->cluster_count * 2ull) {
            snprintf(words, bytes, "checksum of head %u sizes", i);
        } else if (at >= head->checks_offset && at < head->checks_offset + entries * 4ull) {
            snprintf(words, bytes, "head %u entry %llu record", i,
                     (unsigned long long)(at - head->checks_offset) / 4);
        } else if (at >= head->index_offset && at < head->index_offset + head->index_bytes) {
            snprintf(words, bytes, "checksum of head %u index", i);
        } else if (at >= head->records_offset && at < head->records_offset + head->records_bytes) {
            uint32_t entry = 0;
            lw_segment_record_offsets(segment->extent, i, offsets);
            while (offsets[entry + 1] <= at) {
                entry++;
            }
            snprintf(words, bytes, "head %u entry %u record", i, entry);
        }
    }
}

static void test_every_flipped_byte_is_found_and_named(void **state)
{
    lw_prng_t prng = test_prng("segment_verify");

    for (uint32_t flags = 0; flags <= ALL_FLAGS; flags++) {
        test_segment_t segment = test_random_segment(&prng, flags, 40);

        assert_int_equal(lw_segment_verify(segment.extent, segment.bytes, NULL), LW_OK);
        for (uint64_t at = 0; at < segment.bytes; at += 1 + lw_prng_below(&prng, quick_count(1, 6))) {
            lw_error_t error;
            char words[64];

            expect_part(&segment, at, words, sizeof(words));
            segment.extent[at] ^= (uint8_t)(1u << lw_prng_below(&prng, 8));
            lw_status_t status = lw_segment_verify(segment.extent, segment.bytes, &error);
            uint8_t flipped = segment.extent[at];
            assert_int_equal(status, at < 8 ? LW_ERR_INVALID : at < 12 ? LW_ERR_VERSION : LW_ERR_CORRUPT);
            assert_names(error, words);
            for (int bit = 0; bit < 8; bit++) { /* put it back: exactly one bit makes it verify */
                segment.extent[at] = flipped ^ (uint8_t)(1u << bit);
                if (lw_segment_verify(segment.extent, segment.bytes, NULL) == LW_OK) {
                    break;
                }
                assert_int_not_equal(bit, 7);
            }
        }
        free(segment.extent);
    }
}

static void test_a_segment_cut_at_any_byte_is_refused(void **state)
{
    lw_prng_t prng = test_prng("segment_verify");
    test_segment_t segment = test_random_segment(&prng, LW_SEGMENT_SINKS | LW_SEGMENT_MOMENTS, 20);

    for (uint64_t cut = 0; cut < segment.bytes; cut++) {
        uint8_t *exact = aligned_alloc(8, lw_align_up(cut + 1, 8));
        memcpy(exact, segment.extent, cut);
        assert_int_equal(lw_segment_verify(exact, cut, NULL), LW_ERR_INVALID);
        if (cut >= sizeof(lw_segment_header_t)) { /* and when the header agrees with the cut */
            ((lw_segment_header_t *)(void *)exact)->bytes = cut;
            reseal_header(exact, cut);
            assert_int_equal(lw_segment_verify(exact, cut, NULL), LW_ERR_INVALID);
        }
        free(exact);
    }
    free(segment.extent);
}

static void test_offsets_and_counts_that_lie_are_refused_with_good_checksums(void **state)
{
    lw_prng_t prng = test_prng("segment_verify");
    static uint32_t offsets[LW_SEGMENT_ENTRIES_MAX + 1];
    unsigned refused = 0;

    uint32_t rounds = quick_count(5000, 1000);
    for (uint32_t round = 0; round < rounds; round++) {
        static const uint32_t extremes[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 64, 0xffff};
        test_segment_t segment =
            test_random_segment(&prng, (uint32_t)lw_prng_below(&prng, ALL_FLAGS + 1), 30);
        uint32_t words =
            (uint32_t)(sizeof(lw_segment_header_t) + segment.plan.head_count * sizeof(lw_segment_head_t)) / 4;
        uint32_t at = 3 + (uint32_t)lw_prng_below(&prng, words - 3); /* behind magic and version */
        uint32_t value = lw_prng_below(&prng, 3) == 0
                             ? (uint32_t)lw_prng_u64(&prng)
                             : extremes[lw_prng_below(&prng, LW_ARRAY_SIZE(extremes))];

        memcpy(segment.extent + at * 4, &value, 4);
        reseal_header(segment.extent, segment.bytes);
        if (lw_segment_check(segment.extent, segment.bytes, NULL) == LW_OK) {
            for (uint32_t head = 0; head < lw_segment_header(segment.extent)->head_count; head++) {
                const lw_segment_head_t *info = &lw_segment_heads(segment.extent)[head];
                lw_segment_record_offsets(segment.extent, head, offsets);
                assert_true(offsets[info->cluster_count + info->outlier_count] <= segment.bytes);
            }
        } else {
            refused++;
        }
        free(segment.extent);
    }
    assert_true(refused > rounds / 5 * 2);
}

static void test_a_segment_shorter_than_its_extent_is_refused(void **state)
{
    lw_prng_t prng = test_prng("segment_verify");
    test_segment_t segment = test_random_segment(&prng, 0, 20);
    uint8_t *longer = aligned_alloc(64, lw_align_up(segment.bytes + 1, 64));
    lw_error_t error;

    memcpy(longer, segment.extent, segment.bytes);
    longer[segment.bytes] = 0;
    assert_int_equal(lw_segment_check(longer, segment.bytes + 1, &error), LW_ERR_INVALID);
    assert_names(error, "the extent has");
    assert_int_equal(lw_segment_verify(longer, segment.bytes + 1, &error), LW_ERR_INVALID);
    free(longer);
    free(segment.extent);
}

static void test_another_version_or_address_is_told_apart(void **state)
{
    lw_prng_t prng = test_prng("segment_verify");
    test_segment_t segment = test_random_segment(&prng, 0, 20);
    lw_segment_header_t *header = (void *)segment.extent;
    uint8_t *moved = aligned_alloc(64, lw_align_up(segment.bytes + 8, 64));
    lw_error_t error;

    memcpy(moved + 4, segment.extent, segment.bytes);
    assert_int_equal(lw_segment_check(moved + 4, segment.bytes, &error), LW_ERR_INVALID);
    assert_names(error, "8-byte aligned");
    header->version = 2;
    assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_ERR_VERSION);
    assert_names(error, "segment version is 2, this is 1");
    free(moved);
    free(segment.extent);
}

static void test_reserved_words_must_be_zero(void **state)
{
    lw_prng_t prng = test_prng("segment_verify");
    test_segment_t segment = test_random_segment(&prng, 0, 20);
    lw_segment_header_t *header = (void *)segment.extent;
    lw_segment_head_t *heads = (void *)(segment.extent + sizeof(*header));
    lw_error_t error;

    heads[0].reserved = 7;
    reseal_header(segment.extent, segment.bytes);
    assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_ERR_INVALID);
    assert_names(error, "head 0: reserved is 7");
    heads[0].reserved = 0;
    header->reserved0 = 6;
    reseal_header(segment.extent, segment.bytes);
    assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_ERR_INVALID);
    assert_names(error, "reserved0 is 6");
    header->reserved0 = 0;
    header->reserved1[23] = 1;
    reseal_header(segment.extent, segment.bytes);
    assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_ERR_INVALID);
    assert_names(error, "reserved1 is not zero");
    header->reserved1[23] = 0;
    header->moments_check = 5; /* of a part that is not there */
    reseal_header(segment.extent, segment.bytes);
    assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_ERR_INVALID);
    assert_names(error, "moments_check is 5");
    header->moments_check = 0;
    header->sinks_check = 4;
    reseal_header(segment.extent, segment.bytes);
    assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_ERR_INVALID);
    assert_names(error, "sinks_check is 4");
    free(segment.extent);
}

static void test_sizes_are_checked_before_they_are_used(void **state)
{
    lw_prng_t prng = test_prng("segment_verify");
    test_segment_t segment = {.extent = NULL};
    lw_error_t error;

    do {
        free(segment.extent);
        segment = test_random_segment(&prng, 0, 60);
    } while (lw_segment_heads(segment.extent)[0].cluster_count < 2);
    uint16_t *sizes = (void *)(segment.extent + lw_segment_heads(segment.extent)[0].sizes_offset);
    uint16_t first = sizes[0];
    sizes[0] = 0;
    assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_ERR_INVALID);
    assert_names(error, "head 0: size of cluster 0 is 0");
    sizes[0] = 65535;
    assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_ERR_INVALID);
    assert_names(error, "head 0: sizes and outliers add up to");
    sizes[0] = first;
    assert_int_equal(lw_segment_check(segment.extent, segment.bytes, &error), LW_OK);
    free(segment.extent);
}

static void test_a_record_of_another_segment_is_found_out(void **state)
{
    lw_prng_t prng = test_prng("segment_verify");
    test_segment_t segment = test_random_segment(&prng, LW_SEGMENT_RAW, 30);
    lw_segment_header_t *header = (void *)segment.extent;
    lw_error_t error;

    header->name.generation++; /* the same bytes under another name */
    reseal_header(segment.extent, segment.bytes);
    assert_int_equal(lw_segment_verify(segment.extent, segment.bytes, &error), LW_ERR_CORRUPT);
    free(segment.extent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_flipped_byte_is_found_and_named),
        cmocka_unit_test(test_a_segment_cut_at_any_byte_is_refused),
        cmocka_unit_test(test_offsets_and_counts_that_lie_are_refused_with_good_checksums),
        cmocka_unit_test(test_a_segment_shorter_than_its_extent_is_refused),
        cmocka_unit_test(test_another_version_or_address_is_told_apart),
        cmocka_unit_test(test_reserved_words_must_be_zero),
        cmocka_unit_test(test_sizes_are_checked_before_they_are_used),
        cmocka_unit_test(test_a_record_of_another_segment_is_found_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
