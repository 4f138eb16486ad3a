/* segment_verify.c - checks an extent that came from elsewhere: the reader's half. Pure; any thread.
 *
 * Called at commit, load and move, never while serving. Order: what can be known without trusting anything,
 * then checksums of header and table, then the layout those imply, then contents. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "wire/segment_fmt.h"
#include "wire/segment_private.h"

static lw_status_t corrupt(lw_error_t *error, const lw_segment_header_t *header, const char *part,
                           uint32_t found, uint32_t wanted)
{
    char name[LW_SEGMENT_NAME_TEXT_BYTES];

    return lw_fail(error, LW_ERR_CORRUPT, "segment %s: checksum of %s is %08x, its bytes make %08x",
                   lw_segment_name_text(&header->name, name), part, found, wanted);
}

static lw_status_t check_part(const void *extent, const char *part, uint32_t head, uint32_t part_number,
                              uint64_t offset, uint64_t bytes, uint32_t found, lw_error_t *error)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    uint32_t wanted = lw_record_check(lw_record_seed(&header->name, head, part_number),
                                      (const uint8_t *)extent + offset, bytes);

    return found == wanted ? LW_OK : corrupt(error, header, part, found, wanted);
}

/* The header's own checksum, with the field itself as zero. */
static lw_status_t check_header(const void *extent, uint64_t bytes, lw_error_t *error)
{
    const lw_segment_header_t *header = lw_segment_header(extent);

    if (bytes < sizeof(*header)) {
        return lw_fail(error, LW_ERR_INVALID, "segment of %" PRIu64 " bytes is shorter than its header",
                       bytes);
    }
    if ((uintptr_t)extent % 8 != 0) {
        return lw_fail(error, LW_ERR_INVALID, "segment at an address that is not 8-byte aligned");
    }
    if (header->magic != LW_SEGMENT_MAGIC) {
        return lw_fail(error, LW_ERR_INVALID, "segment magic is %016" PRIx64, header->magic);
    }
    if (header->version != LW_SEGMENT_VERSION) {
        return lw_fail(error, LW_ERR_VERSION, "segment version is %u, this is %u", header->version,
                       LW_SEGMENT_VERSION);
    }
    lw_segment_header_t copy = *header;
    copy.header_check = 0;
    uint32_t wanted = lw_record_check(lw_record_seed(&copy.name, 0, LW_PART_HEADER), &copy, sizeof(copy));
    if (header->header_check != wanted) {
        return corrupt(error, header, "header", header->header_check, wanted);
    }
    return lw_segment_check_fields(header, error);
}

static lw_status_t check_table(const void *extent, uint64_t bytes, lw_error_t *error)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    const lw_segment_head_t *heads = lw_segment_heads(extent);

    if (header->bytes != bytes) {
        return lw_fail(error, LW_ERR_INVALID, "segment bytes is %" PRIu64 ", the extent has %" PRIu64,
                       header->bytes, bytes);
    }
    if (bytes < sizeof(*header) + lw_segment_table_bytes(header)) {
        return lw_fail(error, LW_ERR_INVALID,
                       "segment of %" PRIu64 " bytes is shorter than its table of %u heads", bytes,
                       header->head_count);
    }
    lw_status_t status = check_part(extent, "table", 0, LW_PART_TABLE, sizeof(*header),
                                    lw_segment_table_bytes(header), header->table_check, error);
    for (uint32_t i = 0; status == LW_OK && i < header->head_count; i++) {
        status = lw_segment_check_counts(header, i, heads[i].cluster_count, heads[i].outlier_count,
                                         heads[i].index_bytes, error);
        if (status == LW_OK && heads[i].reserved != 0) {
            status = lw_fail(error, LW_ERR_INVALID, "segment head %u: reserved is %u, must be 0", i,
                             heads[i].reserved);
        }
    }
    return status;
}

/* Lays the segment out again from its counts; what it says must be what comes out. */
static lw_status_t check_layout(const void *extent, lw_error_t *error)
{
    lw_segment_header_t header = *lw_segment_header(extent);
    lw_segment_head_t heads[LW_KV_HEADS_MAX];

    memset(heads, 0, sizeof(heads));
    memcpy(heads, lw_segment_heads(extent), lw_segment_table_bytes(&header));
    lw_status_t status = lw_segment_place_parts(&header, heads, error);
    if (status != LW_OK) {
        return status;
    }
    if (memcmp(&header, extent, sizeof(header)) != 0) {
        const lw_segment_header_t *found = lw_segment_header(extent);
        return lw_fail(error, LW_ERR_INVALID,
                       "segment bytes, sinks_offset, moments_offset are %" PRIu64 ", %" PRIu64 ", %" PRIu64
                       ", the counts make %" PRIu64 ", %" PRIu64 ", %" PRIu64,
                       found->bytes, found->sinks_offset, found->moments_offset, header.bytes,
                       header.sinks_offset, header.moments_offset);
    }
    for (uint32_t i = 0; i < header.head_count; i++) {
        const lw_segment_head_t *found = &lw_segment_heads(extent)[i];
        if (memcmp(&heads[i], found, sizeof(heads[i])) != 0) {
            return lw_fail(error, LW_ERR_INVALID,
                           "segment head %u: offsets of sizes, checks, index, records are %" PRIu64
                           ", %" PRIu64 ", %" PRIu64 ", %" PRIu64 ", the counts make others, or %" PRIu64
                           " bytes of records",
                           i, found->sizes_offset, found->checks_offset, found->index_offset,
                           found->records_offset, heads[i].records_bytes);
        }
    }
    return LW_OK;
}

static lw_status_t check_sizes(const void *extent, uint32_t index, lw_error_t *error)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    const lw_segment_head_t *head = &lw_segment_heads(extent)[index];
    const uint16_t *sizes = (const void *)((const uint8_t *)extent + head->sizes_offset);
    bool raw = (header->flags & LW_SEGMENT_RAW) != 0;
    uint64_t rows = head->outlier_count;

    for (uint32_t i = 0; i < head->cluster_count; i++) {
        rows += sizes[i];
        if (sizes[i] == 0 || (raw && i + 1 < head->cluster_count && sizes[i] != LW_SEGMENT_RAW_ROWS)) {
            return lw_fail(error, LW_ERR_INVALID, "segment head %u: size of cluster %u is %u", index, i,
                           sizes[i]);
        }
    }
    if (rows != lw_segment_rows(header)) {
        return lw_fail(error, LW_ERR_INVALID,
                       "segment head %u: sizes and outliers add up to %" PRIu64
                       " rows, token_count makes %" PRIu64,
                       index, rows, lw_segment_rows(header));
    }
    return LW_OK;
}

lw_status_t lw_segment_check(const void *extent, uint64_t bytes, lw_error_t *error)
{
    lw_status_t status = check_header(extent, bytes, error);

    if (status == LW_OK) {
        status = check_table(extent, bytes, error);
    }
    if (status == LW_OK) {
        status = check_layout(extent, error);
    }
    for (uint32_t i = 0; status == LW_OK && i < lw_segment_header(extent)->head_count; i++) {
        status = check_sizes(extent, i, error);
    }
    return status;
}

static lw_status_t verify_sizes(const void *extent, uint32_t index, lw_error_t *error)
{
    const lw_segment_head_t *head = &lw_segment_heads(extent)[index];
    char part[32];

    snprintf(part, sizeof(part), "head %u sizes", index);
    return check_part(extent, part, index, LW_PART_SIZES, head->sizes_offset, head->cluster_count * 2ull,
                      head->sizes_check, error);
}

static lw_status_t verify_index(const void *extent, uint32_t index, lw_error_t *error)
{
    const lw_segment_head_t *head = &lw_segment_heads(extent)[index];
    char part[32];

    snprintf(part, sizeof(part), "head %u index", index);
    return check_part(extent, part, index, LW_PART_INDEX, head->index_offset, head->index_bytes,
                      head->index_check, error);
}

static lw_status_t verify_records(const void *extent, uint32_t index, lw_error_t *error)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    const lw_segment_head_t *head = &lw_segment_heads(extent)[index];
    const uint8_t *base = extent;
    const uint16_t *sizes = (const void *)(base + head->sizes_offset);
    const uint32_t *checks = (const void *)(base + head->checks_offset);
    uint64_t hash = lw_segment_name_hash(&header->name), at = head->records_offset;
    uint64_t row_pair = lw_row_pair_bytes(header->dtype, header->head_dim);

    for (uint32_t entry = 0; entry < head->cluster_count + head->outlier_count; entry++) {
        uint64_t bytes = (entry < head->cluster_count ? sizes[entry] : 1) * row_pair;
        uint32_t wanted = lw_record_check(lw_record_seed_hashed(hash, index, entry), base + at, bytes);

        if (checks[entry] != wanted) {
            char part[48];
            snprintf(part, sizeof(part), "head %u entry %u record", index, entry);
            return corrupt(error, header, part, checks[entry], wanted);
        }
        at += bytes;
    }
    return LW_OK;
}

/* Bytes from *end to `offset` must be zero; *end moves behind the part. */
static lw_status_t verify_gap(const void *extent, uint64_t *end, uint64_t offset, uint64_t bytes,
                              lw_error_t *error)
{
    const uint8_t *base = extent;

    for (uint64_t i = *end; i < offset; i++) {
        if (base[i] != 0) {
            char name[LW_SEGMENT_NAME_TEXT_BYTES];
            return lw_fail(error, LW_ERR_CORRUPT, "segment %s: padding byte %" PRIu64 " is %u, must be 0",
                           lw_segment_name_text(&lw_segment_header(extent)->name, name), i, base[i]);
        }
    }
    *end = offset + bytes;
    return LW_OK;
}

static lw_status_t verify_gaps(const void *extent, lw_error_t *error)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    const lw_segment_head_t *heads = lw_segment_heads(extent);
    uint64_t end = sizeof(*header) + lw_segment_table_bytes(header);
    lw_status_t status = LW_OK;

    for (uint32_t i = 0; status == LW_OK && i < header->head_count; i++) {
        const lw_segment_head_t *head = &heads[i];

        status = verify_gap(extent, &end, head->sizes_offset, head->cluster_count * 2ull, error);
        if (status == LW_OK) {
            status = verify_gap(extent, &end, head->checks_offset,
                                (head->cluster_count + head->outlier_count) * 4ull, error);
        }
        if (status == LW_OK) {
            status = verify_gap(extent, &end, head->index_offset, head->index_bytes, error);
        }
    }
    if (status == LW_OK && header->sinks_offset != 0) {
        status = verify_gap(extent, &end, header->sinks_offset, lw_segment_sinks_bytes(header), error);
    }
    if (status == LW_OK && header->moments_offset != 0) {
        status = verify_gap(extent, &end, header->moments_offset, header->moments_bytes, error);
    }
    for (uint32_t i = 0; status == LW_OK && i < header->head_count; i++) {
        status = verify_gap(extent, &end, heads[i].records_offset, heads[i].records_bytes, error);
    }
    return status;
}

static lw_status_t verify_whole_parts(const void *extent, lw_error_t *error)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    lw_status_t status = LW_OK;

    if (header->sinks_offset != 0) {
        status = check_part(extent, "sinks", 0, LW_PART_SINKS, header->sinks_offset,
                            lw_segment_sinks_bytes(header), header->sinks_check, error);
    }
    if (status == LW_OK && header->moments_offset != 0) {
        status = check_part(extent, "moments", 0, LW_PART_MOMENTS, header->moments_offset,
                            header->moments_bytes, header->moments_check, error);
    }
    return status;
}

lw_status_t lw_segment_verify(const void *extent, uint64_t bytes, lw_error_t *error)
{
    lw_status_t status = check_header(extent, bytes, error);

    if (status == LW_OK) {
        status = check_table(extent, bytes, error);
    }
    if (status == LW_OK) {
        status = check_layout(extent, error);
    }
    for (uint32_t i = 0; status == LW_OK && i < lw_segment_header(extent)->head_count; i++) {
        status = verify_sizes(extent, i, error); /* a flipped size is named as damage, not as a wrong sum */
        if (status == LW_OK) {
            status = check_sizes(extent, i, error);
        }
        if (status == LW_OK) {
            status = verify_index(extent, i, error);
        }
        if (status == LW_OK) {
            status = verify_records(extent, i, error);
        }
    }
    if (status == LW_OK) {
        status = verify_whole_parts(extent, error);
    }
    if (status == LW_OK) {
        status = verify_gaps(extent, error);
    }
    return status;
}
