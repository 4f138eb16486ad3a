/* reopen.c - brings a stored session back: its manifest, index parts, sinks, moments, and the raw tail, each
 * verified before it is used. No record is read but the raw tail's. Caller's thread, blocking. */
#include "client/ctx.h"

#include <stdlib.h>
#include <string.h>

#define MANIFEST_ROWS 32u

typedef struct restore {
    struct lw *kv;
    struct lw_session *session;
    uint64_t deadline_us;
    uint8_t *extent; /* the segment at hand, or its beginning */
    lw_error_t *error;
} restore_t;

static lw_status_t damaged(restore_t *r, uint32_t layer, uint32_t head, const char *part)
{
    const lw_segment_header_t *header = lw_segment_header(r->extent);
    char name[LW_SEGMENT_NAME_TEXT_BYTES];

    return lw_fail(r->error, LW_ERR_CORRUPT, "segment %s: layer %u, head %u: the checksum of its %s is wrong",
                   lw_segment_name_text(&header->name, name), layer, head, part);
}

static bool part_ok(const uint8_t *extent, uint32_t head, uint32_t part, uint64_t offset, uint64_t bytes,
                    uint32_t check)
{
    return lw_record_check(lw_record_seed(&lw_segment_header(extent)->name, head, part), extent + offset,
                           bytes) == check;
}

static lw_status_t read_bytes(restore_t *r, uint32_t key, uint64_t offset, uint64_t bytes)
{
    lwc_reading_t reading;
    lw_status_t status =
        lwc_read_start(r->kv, &reading, key, offset, bytes, r->extent + offset, r->deadline_us, r->error);

    return status == LW_OK ? lwc_read_wait(r->kv, &reading, r->error) : status;
}

/* What a segment must be for this handle and range. */
static lw_status_t check_segment(restore_t *r, uint32_t row, uint32_t layer)
{
    const lwc_range_row_t *range = &r->kv->directory.rows[row];
    const lw_segment_header_t *header = lw_segment_header(r->extent);
    lw_segment_name_t name = range->name;

    name.layer = (uint16_t)layer;
    if (!lw_segment_name_equal(&name, &header->name) || header->token_count != range->token_count ||
        header->head_count != r->kv->model.heads || header->head_dim != r->kv->model.head_dim ||
        header->dtype != r->kv->model.shape.dtype) {
        char wanted[LW_SEGMENT_NAME_TEXT_BYTES], found[LW_SEGMENT_NAME_TEXT_BYTES];
        return lw_fail(r->error, LW_ERR_CORRUPT, "segment %s of %u tokens was asked for, %s of %u came",
                       lw_segment_name_text(&name, wanted), range->token_count,
                       lw_segment_name_text(&header->name, found), header->token_count);
    }
    return LW_OK;
}

/* Reads everything of a segment that lies before its records. */
static lw_status_t read_index(restore_t *r, uint32_t row, uint32_t layer)
{
    uint32_t key = row * r->kv->model.layers + layer;
    uint64_t table_end = sizeof(lw_segment_header_t) + r->kv->model.heads * sizeof(lw_segment_head_t);
    const lw_segment_header_t *header = lw_segment_header(r->extent);
    const lw_segment_head_t *heads = lw_segment_heads(r->extent);

    lw_status_t status = read_bytes(r, key, 0, table_end);
    if (status != LW_OK)
        return status;
    uint64_t records = heads[0].records_offset;
    if (header->magic != LW_SEGMENT_MAGIC || records < table_end || records > r->kv->sizes.extent_bytes)
        return lw_fail(r->error, LW_ERR_CORRUPT, "the segment of layer %u, token %u does not begin like one",
                       layer, r->kv->directory.rows[row].first_token);
    status = read_bytes(r, key, table_end, records - table_end);
    if (status == LW_OK)
        status = lw_segment_check(r->extent, header->bytes, r->error);
    return status == LW_OK ? check_segment(r, row, layer) : status;
}

static lw_status_t verify_index(restore_t *r, uint32_t layer)
{
    const lw_segment_header_t *header = lw_segment_header(r->extent);
    uint64_t sinks_bytes = r->kv->model.heads * LW_SINK_TOKENS * r->kv->model.pair_bytes;

    for (uint32_t j = 0; j < header->head_count; j++) {
        const lw_segment_head_t *head = &lw_segment_heads(r->extent)[j];
        if (!part_ok(r->extent, j, LW_PART_SIZES, head->sizes_offset, 2ull * head->cluster_count,
                     head->sizes_check))
            return damaged(r, layer, j, "sizes");
        if (!part_ok(r->extent, j, LW_PART_INDEX, head->index_offset, head->index_bytes, head->index_check))
            return damaged(r, layer, j, "index");
        if (head->index_bytes != lwk_index_layout(header->cluster_encoding, header->outlier_encoding,
                                                  head->cluster_count, head->outlier_count, header->head_dim)
                                     .bytes)
            return damaged(r, layer, j, "index size");
    }
    if (header->sinks_offset &&
        !part_ok(r->extent, 0, LW_PART_SINKS, header->sinks_offset, sinks_bytes, header->sinks_check))
        return damaged(r, layer, 0, "sinks");
    if (header->moments_offset && (header->moments_bytes != r->kv->model.moments_bytes ||
                                   !part_ok(r->extent, 0, LW_PART_MOMENTS, header->moments_offset,
                                            header->moments_bytes, header->moments_check)))
        return damaged(r, layer, 0, "moments");
    return LW_OK;
}

static lw_status_t place_layer(restore_t *r, uint32_t row, uint32_t layer)
{
    struct lw *kv = r->kv;
    lwc_range_row_t *range = &kv->directory.rows[row];
    const lw_segment_header_t *header = lw_segment_header(r->extent);
    lwc_tile_source_t heads[LW_KV_HEADS_MAX];
    lwc_run_t *run = &lwc_directory_runs(&kv->directory, row)[layer];

    lwc_directory_bytes(&kv->directory, row)[layer] = header->bytes;

    for (uint32_t j = 0; j < kv->model.heads; j++) {
        const lw_segment_head_t *head = &lw_segment_heads(r->extent)[j];
        heads[j] = (lwc_tile_source_t){
            .cluster_count = head->cluster_count,
            .outlier_count = head->outlier_count,
            .index_bytes = head->index_bytes,
            .rows = range->token_count - ((header->flags & LW_SEGMENT_SINKS) ? LW_SINK_TOKENS : 0),
            .index = r->extent + head->index_offset,
            .sizes = (const uint16_t *)(const void *)(r->extent + head->sizes_offset)};
        range->entry_slots =
            (uint32_t)lw_max_u64(range->entry_slots, head->cluster_count + head->outlier_count);
        range->clusters += head->cluster_count;
        range->outliers += head->outlier_count;
    }
    lw_status_t status = lwc_tiles_place(&kv->device, &kv->arena, heads, kv->model.heads,
                                         header->cluster_encoding, header->outlier_encoding, false, kv->stream,
                                         kv->tiles_staging + (size_t)layer * kv->model.heads, run, r->error);
    range->index_bytes += run->bytes;
    return status;
}

static lw_status_t take_sinks(restore_t *r, uint32_t layer)
{
    const lw_segment_header_t *header = lw_segment_header(r->extent);
    uint64_t half = LW_SINK_TOKENS * r->kv->model.row_bytes;
    lw_status_t status = LW_OK;

    if (!header->sinks_offset)
        return LW_OK;
    const uint8_t *sinks = r->extent + header->sinks_offset;
    for (uint32_t j = 0; j < r->kv->model.heads && status == LW_OK; j++, sinks += 2 * half)
        status = lwc_steady_write(&r->session->steady, layer, j, 0, LW_SINK_TOKENS, sinks, sinks + half,
                                  r->kv->stream, r->error);
    return status;
}

static lw_status_t restore_layer(restore_t *r, uint32_t row, uint32_t layer)
{
    const lw_segment_header_t *header = lw_segment_header(r->extent);
    lw_status_t status = read_index(r, row, layer);

    if (status == LW_OK)
        status = verify_index(r, layer);
    if (status == LW_OK)
        status = place_layer(r, row, layer);
    if (status == LW_OK)
        status = take_sinks(r, layer);
    if (status == LW_OK)
        status = lwc_stream_settle(r->kv, r->error); /* the extent is used again */
    if (status == LW_OK && header->moments_offset) {
        memcpy(r->kv->moments_staging + layer * r->kv->model.moments_bytes,
               r->extent + header->moments_offset, r->kv->model.moments_bytes);
    }
    return status;
}

/* A directory row for a range of the manifest, known to the store. */
static lw_status_t take_row(restore_t *r, const lwc_range_t *range, uint32_t *row_out)
{
    struct lw *kv = r->kv;
    uint32_t row = 0;

    if (range->replicas == 0 || range->replicas > LW_REPLICAS_MAX || range->token_count == 0 ||
        range->token_count > LW_SEGMENT_TOKENS_MAX)
        return lw_fail(r->error, LW_ERR_CORRUPT,
                       "the manifest's range at token %u has %u tokens and %u replicas", range->first_token,
                       range->token_count, range->replicas);
    lw_status_t status = lwc_directory_take(&kv->directory, &row, r->error);
    if (status != LW_OK)
        return status;
    lwc_range_row_t *entry = &kv->directory.rows[row];
    entry->name = (lw_segment_name_t){.origin = range->origin,
                                      .rank = (uint16_t)kv->model.rank,
                                      .first_token = range->first_token,
                                      .generation = range->generation};
    entry->first_token = range->first_token;
    entry->token_count = range->token_count;
    entry->replicas = range->replicas;
    entry->stored_bytes = range->bytes;
    for (uint32_t layer = 0; layer < kv->model.layers; layer++)
        for (uint32_t n = 0; n < range->replicas; n++)
            lwc_directory_nodes(&kv->directory, row)[layer * LW_REPLICAS_MAX + n] =
                range->node_index[layer * range->replicas + n];
    status = lwc_directory_register(kv, row, r->session->slot, r->error);
    if (status != LW_OK) {
        lwc_publish_release(r->session, row);
        return status;
    }
    *row_out = row;
    return LW_OK;
}

static lw_status_t restore_range(restore_t *r, const lwc_range_t *range)
{
    struct lw *kv = r->kv;
    lwc_keep_t *keep = &r->session->keep;
    bool moments = (range->flags & LWC_RANGE_MOMENTS) != 0;
    uint32_t row = 0;

    if (range->first_token != r->session->sealed)
        return lw_fail(r->error, LW_ERR_CORRUPT, "the manifest has a range at token %u after %u tokens",
                       range->first_token, r->session->sealed);
    lw_status_t status = take_row(r, range, &row);
    if (status != LW_OK)
        return status;
    for (uint32_t layer = 0; layer < kv->model.layers && status == LW_OK; layer++)
        status = restore_layer(r, row, layer);
    if (status == LW_OK) /* a range holds tokens that exist */
        status = lwc_session_write_tokens(r->session, r->session->sealed + range->token_count, r->error);
    if (status == LW_OK)
        status = lwc_publish_range(r->session, row, kv->tiles_staging, moments ? kv->moments_staging : NULL,
                                   r->error);
    if (status == LW_OK) {
        status = lwc_stream_settle(kv, r->error);
        if (status != LW_OK)
            return status; /* it is in the session's list and goes with it */
    }
    if (status != LW_OK) {
        lwc_publish_release(r->session, row);
        return status;
    }
    if (moments) {
        lwc_moments_decode(kv->moments_staging, (uint64_t)kv->model.layers * kv->model.heads,
                           kv->model.head_dim, keep->sums);
        keep->moments_stored = true;
        keep->moments_tokens = 0;
    } else {
        keep->moments_tokens += range->token_count;
    }
    return LW_OK;
}

static lw_status_t restore_raw_layer(restore_t *r, uint32_t row, uint32_t layer)
{
    struct lw *kv = r->kv;
    uint32_t key = row * kv->model.layers + layer;
    const lw_segment_header_t *header = lw_segment_header(r->extent);
    lw_status_t status = read_bytes(r, key, 0, sizeof(*header));

    if (status == LW_OK && (header->magic != LW_SEGMENT_MAGIC || header->bytes <= sizeof(*header) ||
                            header->bytes > kv->sizes.extent_bytes))
        status = lw_fail(r->error, LW_ERR_CORRUPT, "the raw tail of layer %u does not begin like a segment",
                         layer);
    uint64_t bytes = header->bytes;
    if (status == LW_OK)
        status = read_bytes(r, key, sizeof(*header), bytes - sizeof(*header));
    if (status == LW_OK)
        status = lw_segment_verify(r->extent, bytes, r->error);
    if (status == LW_OK)
        status = check_segment(r, row, layer);
    if (status == LW_OK && !(lw_segment_header(r->extent)->flags & LW_SEGMENT_RAW))
        status =
            lw_fail(r->error, LW_ERR_CORRUPT, "the manifest calls the segment at token %u raw, it is not",
                    kv->directory.rows[row].first_token);
    for (uint32_t j = 0; j < kv->model.heads && status == LW_OK; j++) {
        const lw_segment_head_t *head = &lw_segment_heads(r->extent)[j];
        const uint16_t *sizes = (const uint16_t *)(const void *)(r->extent + head->sizes_offset);
        const uint8_t *record = r->extent + head->records_offset;
        uint32_t at = kv->directory.rows[row].first_token;
        for (uint32_t c = 0; c < head->cluster_count && status == LW_OK; c++) {
            status = lwc_steady_write(&r->session->steady, layer, j, at, sizes[c], record,
                                      record + sizes[c] * kv->model.row_bytes, kv->stream, r->error);
            at += sizes[c];
            record += sizes[c] * kv->model.pair_bytes;
        }
    }
    if (status == LW_OK)
        status = lwc_stream_settle(kv, r->error);
    return status;
}

static lw_status_t restore_raw(restore_t *r, const lwc_range_t *range)
{
    struct lw_session *session = r->session;
    uint32_t row = 0;

    if (range->first_token != session->sealed || range->token_count > session->steady.rows)
        return lw_fail(r->error, LW_ERR_CORRUPT,
                       "the manifest has a raw tail of %u tokens at %u after %u tokens", range->token_count,
                       range->first_token, session->sealed);
    lw_status_t status = take_row(r, range, &row);
    if (status != LW_OK)
        return status;
    for (uint32_t layer = 0; layer < r->kv->model.layers && status == LW_OK; layer++)
        status = restore_raw_layer(r, row, layer);
    lwc_publish_release(session, row);
    if (status != LW_OK)
        return status;
    session->raw_first = range->first_token;
    session->raw_end = range->first_token + range->token_count;
    session->keep.raw_term = range->generation;
    return LW_OK;
}

static lw_status_t restore_manifest(restore_t *r, lwc_range_t *ranges)
{
    struct lw_session *session = r->session;
    uint32_t from = 0, count = 0;

    for (;;) {
        lw_status_t status = lwc_control_ranges(r->kv->control, &session->info, (uint16_t)r->kv->model.rank,
                                                from, MANIFEST_ROWS, ranges, &count, r->error);
        for (uint32_t i = 0; i < count && status == LW_OK; i++) {
            bool raw = (ranges[i].flags & LWC_RANGE_RAW) != 0;
            status = raw ? restore_raw(r, &ranges[i]) : restore_range(r, &ranges[i]);
            from = ranges[i].first_token + ranges[i].token_count;
        }
        if (status != LW_OK || count == 0)
            return status;
    }
}

lw_status_t lwc_session_restore(struct lw_session *session, lw_error_t *error)
{
    struct lw *kv = session->kv;
    restore_t r = {.kv = kv,
                   .session = session,
                   .deadline_us = lwc_now(kv) + kv->options.client_ship_timeout,
                   .extent = kv->extend.extents[0],
                   .error = error};
    lwc_range_t *ranges = calloc(MANIFEST_ROWS, sizeof(*ranges));

    if (!ranges)
        return lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for a manifest");
    lw_status_t status = restore_manifest(&r, ranges);
    free(ranges);
    session->cut = session->sealed;
    session->token_count = (uint32_t)lw_max_u64(session->sealed, session->raw_end);
    if (status == LW_OK && session->token_count > kv->sizes.tokens_max)
        status = lw_fail(error, LW_ERR_INVALID, "the session has %u tokens, above tokens_max %u",
                         session->token_count, kv->sizes.tokens_max);
    if (status == LW_OK)
        status = lwc_session_write_tokens(session, session->token_count, error);
    return status;
}
