/* fuzz_segment_fmt.c - a stored segment that came from elsewhere: an input is the whole extent.
 *
 * Tried as it is, and with the checksums of header and table made right. What passes the check must be safe
 * to index into; what verifies must seal to the same bytes. */
#include <string.h>

#include "fuzz.h"
#include "wire/segment_fmt.h"

static uint32_t offsets[LW_SEGMENT_ENTRIES_MAX + 1];

static void read_as_a_server_would(const uint8_t *extent, size_t byte_count)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    volatile uint64_t sum = 0;

    for (uint32_t i = 0; i < header->head_count; i++) {
        const lw_segment_head_t *head = &lw_segment_heads(extent)[i];
        uint32_t entries = head->cluster_count + head->outlier_count;

        FUZZ_REQUIRE(entries <= LW_SEGMENT_ENTRIES_MAX);
        lw_segment_record_offsets(extent, i, offsets);
        FUZZ_REQUIRE(offsets[0] == head->records_offset);
        FUZZ_REQUIRE(offsets[entries] == head->records_offset + head->records_bytes);
        for (uint32_t entry = 0; entry < entries; entry++) {
            FUZZ_REQUIRE(offsets[entry] < offsets[entry + 1] && offsets[entry + 1] <= byte_count);
            sum += extent[offsets[entry]] + extent[offsets[entry + 1] - 1];
        }
        FUZZ_REQUIRE(head->checks_offset + entries * 4ull <= byte_count);
        FUZZ_REQUIRE(head->index_offset + head->index_bytes <= byte_count);
    }
    FUZZ_REQUIRE(header->moments_offset + header->moments_bytes <= byte_count);
    (void)sum;
}

static void try_one(const uint8_t *extent, size_t byte_count)
{
    lw_error_t error;
    lw_status_t status = lw_segment_check(extent, byte_count, &error);

    FUZZ_REQUIRE(status == LW_OK || error.text[0] != '\0');
    if (status == LW_OK) {
        read_as_a_server_would(extent, byte_count);
    }
    if (lw_segment_verify(extent, byte_count, &error) == LW_OK) {
        FUZZ_REQUIRE(status == LW_OK);
        fuzz_guard_t copy = fuzz_guard_copy(extent, byte_count, 8);
        lw_segment_seal(copy.bytes);
        FUZZ_REQUIRE(memcmp(copy.bytes, extent, byte_count) == 0);
        fuzz_guard_free(&copy);
    }
}

static void repair(uint8_t *extent, size_t byte_count)
{
    lw_segment_header_t *header = (void *)extent;

    if (byte_count < sizeof(*header)) {
        return;
    }
    size_t table = lw_min_u64(header->head_count * sizeof(lw_segment_head_t), byte_count - sizeof(*header));
    header->magic = LW_SEGMENT_MAGIC;
    header->version = LW_SEGMENT_VERSION;
    header->bytes = byte_count;
    header->table_check =
        lw_record_check(lw_record_seed(&header->name, 0, LW_PART_TABLE), extent + sizeof(*header), table);
    header->header_check = 0;
    header->header_check =
        lw_record_check(lw_record_seed(&header->name, 0, LW_PART_HEADER), header, sizeof(*header));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count)
{
    fuzz_guard_t extent = fuzz_guard_copy(bytes, byte_count, 8);

    try_one(extent.bytes, byte_count);
    repair(extent.bytes, byte_count);
    try_one(extent.bytes, byte_count);
    fuzz_guard_free(&extent);
    return 0;
}
