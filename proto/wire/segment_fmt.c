/* segment_fmt.c - lays segments out and seals them: the writer's half. Pure; any thread, one writer an
 * extent. */
#include "wire/segment_fmt.h"

#include <inttypes.h>
#include <string.h>

#include "wire/checksum.h"
#include "wire/segment_private.h"

static_assert(offsetof(lw_segment_header_t, version) == 8, "segment: version");
static_assert(offsetof(lw_segment_header_t, name) == 16, "segment: name");
static_assert(offsetof(lw_segment_header_t, bytes) == 40, "segment: bytes");
static_assert(offsetof(lw_segment_header_t, token_count) == 48, "segment: token_count");
static_assert(offsetof(lw_segment_header_t, head_count) == 52, "segment: head_count");
static_assert(offsetof(lw_segment_header_t, dtype) == 56, "segment: dtype");
static_assert(offsetof(lw_segment_header_t, sinks_offset) == 64, "segment: sinks_offset");
static_assert(offsetof(lw_segment_header_t, moments_bytes) == 80, "segment: moments_bytes");
static_assert(offsetof(lw_segment_header_t, sinks_check) == 88, "segment: sinks_check");
static_assert(offsetof(lw_segment_header_t, header_check) == 100, "segment: header_check");
static_assert(offsetof(lw_segment_header_t, reserved1) == 104, "segment: reserved1");
static_assert(offsetof(lw_segment_head_t, sizes_offset) == 8, "segment head: sizes_offset");
static_assert(offsetof(lw_segment_head_t, records_offset) == 32, "segment head: records_offset");
static_assert(offsetof(lw_segment_head_t, index_bytes) == 40, "segment head: index_bytes");
static_assert(offsetof(lw_segment_head_t, records_bytes) == 56, "segment head: records_bytes");

uint32_t lw_dtype_bytes(uint32_t dtype)
{
    switch (dtype) {
    case LW_DTYPE_BF16:
    case LW_DTYPE_FP16:
        return 2;
    case LW_DTYPE_FP32:
        return 4;
    default:
        return 0;
    }
}

uint64_t lw_record_seed(const lw_segment_name_t *name, uint32_t head, uint32_t entry)
{
    return lw_record_seed_hashed(lw_segment_name_hash(name), head, entry);
}

uint32_t lw_record_check(uint64_t seed, const void *bytes, size_t byte_count)
{
    return (uint32_t)lw_checksum64(seed, bytes, byte_count);
}

static lw_status_t field_range(lw_error_t *error, const char *field, uint64_t value, uint64_t min,
                               uint64_t max)
{
    if (value < min || value > max) {
        return lw_fail(error, LW_ERR_INVALID, "segment %s is %" PRIu64 ", must be %" PRIu64 " to %" PRIu64,
                       field, value, min, max);
    }
    return LW_OK;
}

static lw_status_t check_shape(const lw_segment_header_t *header, lw_error_t *error)
{
    uint64_t tokens_min = (header->flags & LW_SEGMENT_SINKS) != 0 ? LW_SINK_TOKENS + 1 : 1;
    lw_status_t status =
        field_range(error, "token_count", header->token_count, tokens_min, LW_SEGMENT_TOKENS_MAX);

    if (status == LW_OK) {
        status = field_range(error, "head_count", header->head_count, 1, LW_KV_HEADS_MAX);
    }
    if (status == LW_OK) {
        status = field_range(error, "head_dim", header->head_dim, 8, LW_HEAD_DIM_MAX);
    }
    if (status == LW_OK && header->head_dim % 8 != 0) {
        status = lw_fail(error, LW_ERR_INVALID, "segment head_dim is %u, must be a multiple of 8",
                         header->head_dim);
    }
    if (status == LW_OK) {
        status = field_range(error, "dtype", header->dtype, LW_DTYPE_BF16, LW_DTYPE_FP32);
    }
    if (status == LW_OK) {
        status = field_range(error, "name.first_token", header->name.first_token, 0,
                             UINT32_MAX - header->token_count);
    }
    return status;
}

static lw_status_t check_flags(const lw_segment_header_t *header, lw_error_t *error)
{
    uint64_t encoding_min = (header->flags & LW_SEGMENT_RAW) != 0 ? 0 : LW_ENCODING_BF16;
    lw_status_t status =
        field_range(error, "flags", header->flags, 0, LW_SEGMENT_RAW | LW_SEGMENT_SINKS | LW_SEGMENT_MOMENTS);

    if (status == LW_OK && (header->flags & LW_SEGMENT_SINKS) != 0) {
        status = field_range(error, "name.first_token (it has sinks)", header->name.first_token, 0, 0);
    }
    if (status == LW_OK) {
        bool moments = (header->flags & LW_SEGMENT_MOMENTS) != 0;
        status = field_range(error, "moments_bytes", header->moments_bytes, moments ? 1 : 0,
                             moments ? LW_SEGMENT_BYTES_MAX : 0);
    }
    if (status == LW_OK) {
        status =
            field_range(error, "cluster_encoding", header->cluster_encoding, encoding_min, LW_ENCODING_FP32);
    }
    if (status == LW_OK) {
        status =
            field_range(error, "outlier_encoding", header->outlier_encoding, encoding_min, LW_ENCODING_FP32);
    }
    return status;
}

lw_status_t lw_segment_check_fields(const lw_segment_header_t *header, lw_error_t *error)
{
    static const uint8_t zeros[sizeof(header->reserved1)];
    lw_status_t status = check_flags(header, error);

    if (status == LW_OK) {
        status = check_shape(header, error);
    }
    if (status == LW_OK) {
        status = field_range(error, "name.reserved", header->name.reserved, 0, 0);
    }
    if (status == LW_OK) {
        status = field_range(error, "reserved0", header->reserved0, 0, 0);
    }
    if (status == LW_OK && (header->flags & LW_SEGMENT_SINKS) == 0) {
        status = field_range(error, "sinks_check", header->sinks_check, 0, 0);
    }
    if (status == LW_OK && (header->flags & LW_SEGMENT_MOMENTS) == 0) {
        status = field_range(error, "moments_check", header->moments_check, 0, 0);
    }
    if (status == LW_OK && memcmp(header->reserved1, zeros, sizeof(zeros)) != 0) {
        status = lw_fail(error, LW_ERR_INVALID, "segment reserved1 is not zero");
    }
    return status;
}

lw_status_t lw_segment_check_counts(const lw_segment_header_t *header, uint32_t head, uint32_t clusters,
                                    uint32_t outliers, uint32_t index_bytes, lw_error_t *error)
{
    uint64_t rows = lw_segment_rows(header);

    if ((uint64_t)clusters + outliers > LW_SEGMENT_ENTRIES_MAX) {
        return lw_fail(error, LW_ERR_INVALID,
                       "segment head %u: %u clusters and %u outliers, at most %u together", head, clusters,
                       outliers, LW_SEGMENT_ENTRIES_MAX);
    }
    if ((header->flags & LW_SEGMENT_RAW) != 0) {
        uint64_t pieces = lw_div_up(rows, LW_SEGMENT_RAW_ROWS);
        if (clusters != pieces || outliers != 0 || index_bytes != 0) {
            return lw_fail(error, LW_ERR_INVALID,
                           "segment head %u: raw, %u clusters, %u outliers, %u index_bytes, must be %" PRIu64
                           ", 0, 0",
                           head, clusters, outliers, index_bytes, pieces);
        }
    }
    /* No cluster is empty, and without clusters only outliers can hold the rows. */
    if ((uint64_t)clusters + outliers > rows || (clusters == 0 && outliers != rows)) {
        return lw_fail(error, LW_ERR_INVALID,
                       "segment head %u: %u clusters and %u outliers cannot hold %" PRIu64 " rows", head,
                       clusters, outliers, rows);
    }
    return LW_OK;
}

lw_status_t lw_segment_place_parts(lw_segment_header_t *header, lw_segment_head_t *heads, lw_error_t *error)
{
    uint64_t records_bytes = lw_segment_rows(header) * lw_row_pair_bytes(header->dtype, header->head_dim);
    lw_segment_walk_t walk;

    lw_segment_walk_begin(&walk, header);
    for (uint32_t i = 0; i < header->head_count; i++) {
        lw_segment_head_t *head = &heads[i];

        head->sizes_offset = lw_segment_walk_take(&walk, head->cluster_count * 2ull);
        head->checks_offset = lw_segment_walk_take(&walk, (head->cluster_count + head->outlier_count) * 4ull);
        head->index_offset = lw_segment_walk_take(&walk, head->index_bytes);
    }
    header->sinks_offset = 0;
    if ((header->flags & LW_SEGMENT_SINKS) != 0) {
        header->sinks_offset = lw_segment_walk_take(&walk, lw_segment_sinks_bytes(header));
    }
    header->moments_offset = 0;
    if ((header->flags & LW_SEGMENT_MOMENTS) != 0) {
        header->moments_offset = lw_segment_walk_take(&walk, header->moments_bytes);
    }
    for (uint32_t i = 0; i < header->head_count; i++) {
        heads[i].records_bytes = records_bytes;
        heads[i].records_offset = lw_segment_walk_take(&walk, records_bytes);
    }
    if (walk.end > LW_SEGMENT_BYTES_MAX) {
        return lw_fail(error, LW_ERR_INVALID, "segment of %" PRIu64 " bytes, at most %llu", walk.end,
                       LW_SEGMENT_BYTES_MAX);
    }
    header->bytes = walk.end;
    return LW_OK;
}

/* A plan's numbers are wider than the header's: what does not fit is refused before it is cut. */
static lw_status_t header_from_plan(const lw_segment_plan_t *plan, lw_segment_header_t *header,
                                    lw_error_t *error)
{
    const struct {
        const char *field;
        uint32_t value;
    } narrow[] = {{"head_count", plan->head_count},
                  {"head_dim", plan->head_dim},
                  {"dtype", plan->dtype},
                  {"cluster_encoding", plan->cluster_encoding},
                  {"outlier_encoding", plan->outlier_encoding}};

    for (size_t i = 0; i < LW_ARRAY_SIZE(narrow); i++) {
        lw_status_t status = field_range(error, narrow[i].field, narrow[i].value, 0, UINT16_MAX);
        if (status != LW_OK) {
            return status;
        }
    }
    memset(header, 0, sizeof(*header));
    header->magic = LW_SEGMENT_MAGIC;
    header->version = LW_SEGMENT_VERSION;
    header->flags = plan->flags;
    header->name = plan->name;
    header->token_count = plan->token_count;
    header->head_count = (uint16_t)plan->head_count;
    header->head_dim = (uint16_t)plan->head_dim;
    header->dtype = (uint16_t)plan->dtype;
    header->cluster_encoding = (uint16_t)plan->cluster_encoding;
    header->outlier_encoding = (uint16_t)plan->outlier_encoding;
    header->moments_bytes = plan->moments_bytes;
    return lw_segment_check_fields(header, error);
}

lw_status_t lw_segment_layout(const lw_segment_plan_t *plan, void *extent, uint64_t *bytes_out,
                              lw_error_t *error)
{
    lw_segment_head_t heads[LW_KV_HEADS_MAX];
    lw_segment_header_t header;
    lw_status_t status = header_from_plan(plan, &header, error);

    if (status != LW_OK) {
        return status;
    }
    memset(heads, 0, sizeof(heads));
    for (uint32_t i = 0; i < header.head_count; i++) {
        heads[i].cluster_count = plan->head[i].cluster_count;
        heads[i].outlier_count = plan->head[i].outlier_count;
        heads[i].index_bytes = plan->head[i].index_bytes;
        status = lw_segment_check_counts(&header, i, heads[i].cluster_count, heads[i].outlier_count,
                                         heads[i].index_bytes, error);
        if (status != LW_OK) {
            return status;
        }
        if (plan->head[i].row_count != lw_segment_rows(&header)) {
            return lw_fail(error, LW_ERR_INVALID,
                           "segment head %u: row_count is %u, token_count makes %" PRIu64, i,
                           plan->head[i].row_count, lw_segment_rows(&header));
        }
    }
    status = lw_segment_place_parts(&header, heads, error);
    if (status != LW_OK) {
        return status;
    }
    if (extent != NULL) {
        LW_ASSERT((uintptr_t)extent % 8 == 0);
        memcpy(extent, &header, sizeof(header));
        memcpy((uint8_t *)extent + sizeof(header), heads, lw_segment_table_bytes(&header));
    }
    *bytes_out = header.bytes;
    return LW_OK;
}

/* Zeroes from *end to the next part and moves *end behind that part. */
static void zero_gap(uint8_t *base, uint64_t *end, uint64_t offset, uint64_t bytes)
{
    LW_ASSERT(offset >= *end && offset - *end < LW_SEGMENT_PART_ALIGN);
    memset(base + *end, 0, offset - *end);
    *end = offset + bytes;
}

static void zero_gaps(uint8_t *base, const lw_segment_header_t *header, const lw_segment_head_t *heads)
{
    uint64_t end = sizeof(*header) + lw_segment_table_bytes(header);

    for (uint32_t i = 0; i < header->head_count; i++) {
        zero_gap(base, &end, heads[i].sizes_offset, heads[i].cluster_count * 2ull);
        zero_gap(base, &end, heads[i].checks_offset,
                 (heads[i].cluster_count + heads[i].outlier_count) * 4ull);
        zero_gap(base, &end, heads[i].index_offset, heads[i].index_bytes);
    }
    if (header->sinks_offset != 0) {
        zero_gap(base, &end, header->sinks_offset, lw_segment_sinks_bytes(header));
    }
    if (header->moments_offset != 0) {
        zero_gap(base, &end, header->moments_offset, header->moments_bytes);
    }
    for (uint32_t i = 0; i < header->head_count; i++) {
        zero_gap(base, &end, heads[i].records_offset, heads[i].records_bytes);
    }
    LW_ASSERT(end == header->bytes);
}

static void seal_head(uint8_t *base, const lw_segment_header_t *header, uint32_t index,
                      lw_segment_head_t *head)
{
    uint64_t hash = lw_segment_name_hash(&header->name);
    uint64_t row_pair = lw_row_pair_bytes(header->dtype, header->head_dim);
    const uint16_t *sizes = (const void *)(base + head->sizes_offset);
    uint32_t *checks = (void *)(base + head->checks_offset);
    uint64_t at = head->records_offset;

    for (uint32_t entry = 0; entry < head->cluster_count + head->outlier_count; entry++) {
        uint64_t bytes = (entry < head->cluster_count ? sizes[entry] : 1) * row_pair;

        LW_ASSERT(bytes > 0 && at + bytes <= head->records_offset + head->records_bytes);
        checks[entry] = lw_record_check(lw_record_seed_hashed(hash, index, entry), base + at, bytes);
        at += bytes;
    }
    LW_ASSERT(at == head->records_offset + head->records_bytes);
    head->sizes_check =
        lw_record_check(lw_record_seed_hashed(hash, index, LW_PART_SIZES), sizes, head->cluster_count * 2ull);
    head->index_check = lw_record_check(lw_record_seed_hashed(hash, index, LW_PART_INDEX),
                                        base + head->index_offset, head->index_bytes);
}

void lw_segment_seal(void *extent)
{
    uint8_t *base = extent;
    lw_segment_header_t *header = extent;
    lw_segment_head_t *heads = (void *)(base + sizeof(*header));

    LW_ASSERT(header->magic == LW_SEGMENT_MAGIC && header->version == LW_SEGMENT_VERSION);
    zero_gaps(base, header, heads);
    for (uint32_t i = 0; i < header->head_count; i++) {
        seal_head(base, header, i, &heads[i]);
    }
    header->sinks_check = 0;
    if (header->sinks_offset != 0) {
        header->sinks_check = lw_record_check(lw_record_seed(&header->name, 0, LW_PART_SINKS),
                                              base + header->sinks_offset, lw_segment_sinks_bytes(header));
    }
    header->moments_check = 0;
    if (header->moments_offset != 0) {
        header->moments_check = lw_record_check(lw_record_seed(&header->name, 0, LW_PART_MOMENTS),
                                                base + header->moments_offset, header->moments_bytes);
    }
    header->table_check = lw_record_check(lw_record_seed(&header->name, 0, LW_PART_TABLE), heads,
                                          lw_segment_table_bytes(header));
    header->header_check = 0;
    header->header_check =
        lw_record_check(lw_record_seed(&header->name, 0, LW_PART_HEADER), header, sizeof(*header));
}

void lw_segment_record_offsets(const void *extent, uint32_t head, uint32_t *offset_out)
{
    const lw_segment_header_t *header = lw_segment_header(extent);
    const lw_segment_head_t *info = &lw_segment_heads(extent)[head];
    const uint16_t *sizes = (const void *)((const uint8_t *)extent + info->sizes_offset);
    uint32_t row_pair = (uint32_t)lw_row_pair_bytes(header->dtype, header->head_dim);
    uint32_t at = (uint32_t)info->records_offset; /* a segment is at most 1 GiB */

    LW_ASSERT(head < header->head_count);
    for (uint32_t i = 0; i < info->cluster_count; i++) {
        *offset_out++ = at;
        at += sizes[i] * row_pair;
    }
    for (uint32_t i = 0; i < info->outlier_count; i++) {
        *offset_out++ = at;
        at += row_pair;
    }
    *offset_out = at;
}
