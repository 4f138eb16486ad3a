/* catalogue_etcd_value.c - the bytes of the catalogue's values on etcd. Pure.
 *
 * Little-endian, without padding, each beginning with its format's number (1):
 *
 *   session   1 format, 1 state, 1 bits (1 pinned, 2 fenced), 1 + n tenant, 1 + n model id, 12 x 4 shape, 4 term,
 *             8 lease client, 8 its incarnation, 8 ttl, 8 created, 8 used, 8 parent, 4 cut, 8 bytes, 16 token, 4 kept, 4 x ranks: ends
 *   client    1 format, 8 incarnation, 8 seen, 4 leases, then of each: 8 session, 4 term, 8 until, 8 used
 *   manifest  4 format, 4 layers, 4 ranges, then of each: 4 first token, 4 tokens, 4 generation, 1 flags, 1 replicas,
 *             8 bytes, 2 x layers x replicas: node indices
 *   endings   1 format, 1 count, then of each: 8 origin, 4 from token, 4 largest generation, 2 rank
 */
#include "storaged/catalogue/catalogue_etcd_private.h"

#include <stdlib.h>

#define ETCD_FORMAT 1u
#define ROW_HEAD 22u
#define LEASE_BYTES 28u
#define ENDED_BYTES 18u

typedef struct cursor {
    const uint8_t *at, *end;
    bool bad;
} cursor_t;

static uint64_t take(cursor_t *cursor, unsigned bytes)
{
    uint64_t value = 0;
    if ((size_t)(cursor->end - cursor->at) < bytes) {
        cursor->bad = true;
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++)
        value |= (uint64_t)cursor->at[i] << 8 * i;
    cursor->at += bytes;
    return value;
}

static void take_text(cursor_t *cursor, char *text, size_t text_bytes)
{
    size_t bytes = take(cursor, 1);
    if (bytes >= text_bytes || (size_t)(cursor->end - cursor->at) < bytes) {
        cursor->bad = true;
        return;
    }
    memcpy(text, cursor->at, bytes);
    text[bytes] = 0;
    cursor->at += bytes;
}

static uint8_t *give(uint8_t *out, uint64_t value, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> 8 * i);
    return out + bytes;
}

static uint8_t *give_text(uint8_t *out, const char *text)
{
    size_t bytes = strlen(text);
    out = give(out, bytes, 1);
    memcpy(out, text, bytes);
    return out + bytes;
}

/* ---- sessions ---- */

size_t lwd_kv_session_pack(const etcd_session_t *session, uint8_t *out)
{
    const lwd_session_row_t *row = &session->row;
    const lwd_session_shape_t *s = &row->shape;
    const uint32_t shape[12] = {s->layer_count, s->kv_head_count, s->query_head_count, s->head_dim, s->dtype, s->rank_count,
                                s->segment_tokens, s->replicas, s->cluster_encoding, s->outlier_encoding, s->outlier_ppm,
                                s->cluster_tokens};
    uint8_t *at = give(out, ETCD_FORMAT, 1);
    at = give(at, row->state, 1);
    at = give(at, (row->pinned ? 1u : 0u) | (session->fenced ? 2u : 0u), 1);
    at = give_text(at, row->tenant);
    at = give_text(at, s->model_id);
    for (unsigned i = 0; i < 12; i++)
        at = give(at, shape[i], 4);
    at = give(at, row->term, 4);
    at = give(at, row->lease_client, 8);
    at = give(at, row->lease_incarnation, 8);
    at = give(at, row->ttl_us, 8);
    at = give(at, row->created_us, 8);
    at = give(at, row->used_us, 8);
    at = give(at, row->parent_id, 8);
    at = give(at, row->cut_tokens, 4);
    at = give(at, row->bytes, 8);
    memcpy(at, row->token, LW_TOKEN_BYTES);
    at = give(at + LW_TOKEN_BYTES, session->kept, 4);
    for (uint32_t rank = 0; rank < s->rank_count; rank++)
        at = give(at, session->ends[rank], 4);
    LW_ASSERT((size_t)(at - out) <= ETCD_SESSION_BYTES_MAX);
    return (size_t)(at - out);
}

bool lwd_kv_session_unpack(const uint8_t *value, size_t bytes, etcd_session_t *out)
{
    cursor_t in = {value, value + bytes, false};
    lwd_session_row_t *row = &out->row;
    lwd_session_shape_t *s = &row->shape;
    uint32_t *const shape[12] = {&s->layer_count, &s->kv_head_count, &s->query_head_count, &s->head_dim, &s->dtype,
                                 &s->rank_count, &s->segment_tokens, &s->replicas, &s->cluster_encoding,
                                 &s->outlier_encoding, &s->outlier_ppm, &s->cluster_tokens};
    memset(out, 0, sizeof(*out));
    if (take(&in, 1) != ETCD_FORMAT)
        return false;
    row->state = (lwd_session_state_t)take(&in, 1);
    uint64_t bits = take(&in, 1);
    row->pinned = bits & 1u;
    out->fenced = bits & 2u;
    take_text(&in, row->tenant, sizeof(row->tenant));
    take_text(&in, s->model_id, sizeof(s->model_id));
    for (unsigned i = 0; i < 12; i++)
        *shape[i] = (uint32_t)take(&in, 4);
    row->term = (uint32_t)take(&in, 4);
    row->lease_client = take(&in, 8);
    row->lease_incarnation = take(&in, 8);
    row->ttl_us = take(&in, 8);
    row->created_us = take(&in, 8);
    row->used_us = take(&in, 8);
    row->parent_id = take(&in, 8);
    row->cut_tokens = (uint32_t)take(&in, 4);
    row->bytes = take(&in, 8);
    for (unsigned i = 0; i < LW_TOKEN_BYTES; i++)
        row->token[i] = (uint8_t)take(&in, 1);
    out->kept = (uint32_t)take(&in, 4);
    if (in.bad || s->rank_count == 0 || s->rank_count > LWD_RANKS_MAX || s->layer_count > LW_LAYERS_MAX)
        return false;
    for (uint32_t rank = 0; rank < s->rank_count; rank++)
        out->ends[rank] = (uint32_t)take(&in, 4);
    lwd_kv_count_tokens(out);
    return !in.bad && in.at == in.end;
}

/* ---- clients ---- */

size_t lwd_kv_client_bytes(const etcd_client_t *client)
{
    return 21 + (size_t)client->count * LEASE_BYTES;
}

void lwd_kv_client_pack(const etcd_client_t *client, uint8_t *out)
{
    out = give(out, ETCD_FORMAT, 1);
    out = give(out, client->incarnation, 8);
    out = give(out, client->seen_us, 8);
    out = give(out, client->count, 4);
    for (uint32_t i = 0; i < client->count; i++) {
        out = give(out, client->leases[i].session_id, 8);
        out = give(out, client->leases[i].term, 4);
        out = give(out, client->leases[i].until_us, 8);
        out = give(out, client->leases[i].used_us, 8);
    }
}

bool lwd_kv_client_unpack(const uint8_t *value, size_t bytes, etcd_client_t *out)
{
    cursor_t in = {value, value + bytes, false};
    if (take(&in, 1) != ETCD_FORMAT)
        return false;
    out->incarnation = take(&in, 8);
    out->seen_us = take(&in, 8);
    out->count = (uint32_t)take(&in, 4);
    if (in.bad || out->count > ETCD_LEASES_MAX || (size_t)(in.end - in.at) != (size_t)out->count * LEASE_BYTES)
        return false;
    out->capacity = out->count + 4;
    out->leases = calloc(out->capacity, sizeof(*out->leases));
    for (uint32_t i = 0; i < out->count && out->leases; i++) {
        out->leases[i].session_id = take(&in, 8);
        out->leases[i].term = (uint32_t)take(&in, 4);
        out->leases[i].until_us = take(&in, 8);
        out->leases[i].used_us = take(&in, 8);
    }
    return out->leases != NULL;
}

/* ---- manifests ---- */

static size_t row_bytes(const etcd_manifest_t *manifest, uint32_t replicas)
{
    return ROW_HEAD + (size_t)manifest->layers * replicas * 2;
}

void lwd_kv_manifest_pack_head(const etcd_manifest_t *manifest, uint8_t out[ETCD_MANIFEST_HEAD])
{
    out = give(out, ETCD_FORMAT, 4);
    out = give(out, manifest->layers, 4);
    (void)give(out, manifest->count, 4);
}

bool lwd_kv_manifest_unpack(const uint8_t *value, size_t bytes, etcd_manifest_t *out)
{
    cursor_t in = {value, value + bytes, false};
    uint32_t format = (uint32_t)take(&in, 4), layers = (uint32_t)take(&in, 4), count = (uint32_t)take(&in, 4), seen = 0;
    if (in.bad || format != ETCD_FORMAT || layers != out->layers || count > LW_RANGES_MAX)
        return false;
    out->bytes = (size_t)(in.end - in.at);
    out->capacity = out->bytes + 1;
    out->rows = malloc(out->capacity);
    if (!out->rows)
        return false;
    memcpy(out->rows, in.at, out->bytes);
    out->count = count;
    etcd_row_t row;
    size_t at = 0;
    while (lwd_kv_row_next(out, &at, &row))
        seen++;
    return seen == count && at == out->bytes;
}

bool lwd_kv_row_next(const etcd_manifest_t *manifest, size_t *at, etcd_row_t *row)
{
    cursor_t in = {manifest->rows + *at, manifest->rows + manifest->bytes, false};
    if (manifest->bytes - *at < ROW_HEAD)
        return false;
    row->at = *at;
    row->first_token = (uint32_t)take(&in, 4);
    row->token_count = (uint32_t)take(&in, 4);
    row->generation = (uint32_t)take(&in, 4);
    row->flags = (uint32_t)take(&in, 1);
    row->replicas = (uint32_t)take(&in, 1);
    row->bytes = take(&in, 8);
    size_t bytes = row_bytes(manifest, row->replicas);
    if (row->replicas == 0 || row->replicas > LW_REPLICAS_MAX || manifest->bytes - *at < bytes)
        return false;
    *at += bytes;
    return true;
}

void lwd_kv_row_full(const etcd_manifest_t *manifest, const etcd_row_t *row, lwd_range_t *out)
{
    const uint8_t *nodes = manifest->rows + row->at + ROW_HEAD;
    *out = (lwd_range_t){.origin = manifest->session_id, .first_token = row->first_token, .token_count = row->token_count,
                         .generation = row->generation, .flags = row->flags, .replicas = row->replicas,
                         .bytes = row->bytes};
    for (size_t i = 0; i < (size_t)manifest->layers * row->replicas; i++)
        out->node_index[i] = (uint16_t)(nodes[2 * i] | nodes[2 * i + 1] << 8);
}

static void row_write(uint8_t *out, const etcd_manifest_t *manifest, const lwd_range_t *range)
{
    out = give(out, range->first_token, 4);
    out = give(out, range->token_count, 4);
    out = give(out, range->generation, 4);
    out = give(out, range->flags, 1);
    out = give(out, range->replicas, 1);
    out = give(out, range->bytes, 8);
    for (size_t i = 0; i < (size_t)manifest->layers * range->replicas; i++)
        out = give(out, range->node_index[i], 2);
}

bool lwd_kv_row_add(etcd_manifest_t *manifest, const lwd_range_t *range)
{
    size_t bytes = row_bytes(manifest, range->replicas);
    if (manifest->bytes + bytes > manifest->capacity) {
        size_t capacity = 2 * manifest->capacity + bytes;
        uint8_t *rows = realloc(manifest->rows, capacity);
        if (!rows)
            return false;
        manifest->rows = rows;
        manifest->capacity = capacity;
    }
    row_write(manifest->rows + manifest->bytes, manifest, range);
    manifest->bytes += bytes;
    manifest->count++;
    return true;
}

void lwd_kv_row_set(etcd_manifest_t *manifest, const etcd_row_t *row, const lwd_range_t *range)
{
    row_write(manifest->rows + row->at, manifest, range);
}

/* ---- endings ---- */

size_t lwd_kv_ended_pack(const lwd_ended_t *rows, uint32_t count, uint8_t *out)
{
    uint8_t *at = give(give(out, ETCD_FORMAT, 1), count, 1);
    for (uint32_t i = 0; i < count; i++) {
        at = give(at, rows[i].origin, 8);
        at = give(at, rows[i].from_token, 4);
        at = give(at, rows[i].generation_max, 4);
        at = give(at, rows[i].rank, 2);
    }
    return (size_t)(at - out);
}

uint32_t lwd_kv_ended_unpack(const uint8_t *value, size_t bytes, uint64_t revision, lwd_ended_t rows[8])
{
    cursor_t in = {value, value + bytes, false};
    uint32_t format = (uint32_t)take(&in, 1), count = (uint32_t)take(&in, 1);
    if (format != ETCD_FORMAT || count > 8 || (size_t)(in.end - in.at) != count * ENDED_BYTES)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        rows[i].serial = revision * 256 + i;
        rows[i].origin = take(&in, 8);
        rows[i].from_token = (uint32_t)take(&in, 4);
        rows[i].generation_max = (uint32_t)take(&in, 4);
        rows[i].rank = (uint16_t)take(&in, 2);
    }
    return count;
}
