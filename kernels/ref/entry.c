/* entry.c - decodes index entries (index_fmt.h) and evaluates ALGORITHM.md sections 4, 5 and 7 for one of
 * them. */
#include "kernels/ref/entry.h"

ref_tile_t lwk_ref_tile_open(const lwk_tile_t *tile, uint32_t head_dim)
{
    return (ref_tile_t){.tile = tile, .at = lwk_tile_layout(tile, head_dim), .head_dim = head_dim};
}

static const float *floats_at(const ref_tile_t *tile, uint32_t offset)
{
    return (const float *)(const void *)(tile->tile->index + offset);
}

static const uint16_t *halves_at(const ref_tile_t *tile, uint32_t offset)
{
    return (const uint16_t *)(const void *)(tile->tile->index + offset);
}

/* Element j of a row of an encoding: a code for INT8 and INT4, the number itself for the others. */
static real element(const uint8_t *row, uint32_t encoding, uint32_t j)
{
    switch (encoding) {
    case LW_ENCODING_FP32: return ((const float *)(const void *)row)[j];
    case LW_ENCODING_BF16: return lwk_bf16_to_f32(((const uint16_t *)(const void *)row)[j]);
    case LW_ENCODING_INT8: return (int8_t)row[j];
    default: {
        int nibble = j % 2 == 0 ? row[j / 2] & 15 : row[j / 2] >> 4;
        return nibble < 8 ? nibble : nibble - 16;
    }
    }
}

/* x = center + channel * code * scale; plain rows have scale 1 and neither center nor channel. */
static void decode_row(const ref_tile_t *tile, const uint8_t *row, uint32_t encoding, uint32_t center,
                       uint32_t channel, real scale, real *row_out)
{
    for (uint32_t j = 0; j < tile->head_dim; j++) {
        real x = element(row, encoding, j);
        if (lwk_encoding_is_coded(encoding))
            x = floats_at(tile, center)[j] + floats_at(tile, channel)[j] * x * scale;
        row_out[j] = x;
    }
}

static real key_scale(const ref_tile_t *tile, uint32_t entry)
{
    const lwk_tile_t *t = tile->tile;
    if (entry < t->cluster_count)
        return lwk_encoding_is_coded(t->cluster_encoding)
                   ? lwk_f16_to_f32(halves_at(tile, tile->at.cluster_key_scales)[entry])
                   : 0;
    return lwk_encoding_is_coded(t->outlier_encoding)
               ? lwk_f16_to_f32(halves_at(tile, tile->at.outlier_key_scales)[entry - t->cluster_count])
               : 0;
}

void lwk_ref_entry_key(const ref_tile_t *tile, uint32_t entry, real *row_out)
{
    const lwk_tile_t *t = tile->tile;
    bool cluster = entry < t->cluster_count;
    uint32_t encoding = cluster ? t->cluster_encoding : t->outlier_encoding;
    uint32_t first = cluster ? tile->at.cluster_keys : tile->at.outlier_keys;
    uint32_t number = cluster ? entry : entry - t->cluster_count;
    const uint8_t *row = t->index + first + (size_t)number * lwk_encoded_row_bytes(encoding, tile->head_dim);
    decode_row(tile, row, encoding, tile->at.key_center, tile->at.key_channel, key_scale(tile, entry),
               row_out);
}

void lwk_ref_cluster_value(const ref_tile_t *tile, uint32_t cluster, real *row_out)
{
    uint32_t encoding = tile->tile->cluster_encoding;
    const uint8_t *row = tile->tile->index + tile->at.cluster_values +
                         (size_t)cluster * lwk_encoded_row_bytes(encoding, tile->head_dim);
    real scale = lwk_encoding_is_coded(encoding)
                     ? lwk_f16_to_f32(halves_at(tile, tile->at.cluster_value_scales)[cluster])
                     : 1;
    decode_row(tile, row, encoding, tile->at.value_center, tile->at.value_channel, scale, row_out);
}

uint32_t lwk_ref_outlier_parent(const ref_tile_t *tile, uint32_t entry)
{
    return halves_at(tile, tile->at.outlier_parents)[entry - tile->tile->cluster_count];
}

ref_query_t lwk_ref_query_open(const lwk_step_t *step, const lwk_session_t *session, const ref_tile_t *tile,
                           size_t query_row)
{
    const lwk_shape_t *shape = &step->shape;
    ref_query_t q = {
        .policy = &session->policy,
        .query = step->scratch.query + query_row * shape->head_dim,
        .scale = shape->scale,
        .soft_cap = shape->soft_cap,
        .spread = step->scratch.spread[query_row],
    };
    if (tile->at.key_channel != 0) {
        const float *channel = floats_at(tile, tile->at.key_channel);
        for (uint32_t j = 0; j < shape->head_dim; j++)
            q.noise += (real)channel[j] * q.query[j] * channel[j] * q.query[j];
        q.noise *= q.scale * q.scale / 24;
    }
    return q;
}

real lwk_ref_soft_cap(real x, real soft_cap)
{
    return soft_cap > 0 ? soft_cap * tanh(x / soft_cap) : x;
}

ref_terms_t lwk_ref_entry_terms(const ref_tile_t *tile, const ref_query_t *query, uint32_t entry, real logit)
{
    const lwk_policy_t *policy = query->policy;
    ref_terms_t t = {.slope = 1};
    real log_size = log(lwk_entry_size(tile->tile, entry));
    if (query->soft_cap > 0)
        t.slope = 1 - (logit / query->soft_cap) * (logit / query->soft_cap);
    if (entry < tile->tile->cluster_count && query->spread > 0) {
        /* Section 5: tau capped so that the variance of the logit stays below 12. */
        t.spread = fmin(lwk_bf16_to_f32(halves_at(tile, tile->at.cluster_spreads)[entry]),
                        LWK_VARIANCE_MAX / query->spread);
        t.variance = t.spread * query->spread * t.slope * t.slope;
    }
    /* Section 7: what rounding the key adds to the expected mass. */
    real noise = key_scale(tile, entry) * key_scale(tile, entry) * query->noise * t.slope * t.slope;
    /* Section 5: A = log s + l + variance / 2. */
    t.mass = log_size + logit - noise;
    if (policy->correct & LWK_CORRECT_VARIANCE)
        t.mass += t.variance / 2;
    /* Section 4: R = l + z sigma sqrt(2 ln s). */
    t.rank = logit;
    if (policy->rank == LWK_RANK_EXPECTED_MAX)
        t.rank += policy->z * sqrt(t.variance * 2 * log_size);
    return t;
}
