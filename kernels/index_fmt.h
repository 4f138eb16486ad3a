/* index_fmt.h - what is inside a segment's index part and moments part: offsets from counts, nothing else.
 *
 * The same bytes lie in the stored segment and in device memory, so that reopening a session copies them as they are.
 * One index part belongs to one (segment, KV head): `clusters` entries with key, value mean and spread, then
 * `outliers` entries with the key only.
 *
 * A key is stored as  key = center + channel * code * scale  (per element: channel[j], code[entry][j]; per entry: scale).
 * FP32 and BF16 entries are plain: no center, channel or scale. INT4 packs two codes a byte, low nibble first, in
 * two's complement, codes -7..7; INT8 codes are -127..127. Value means are stored like cluster keys, with a center and
 * channels of their own; they include the values of the cluster's outliers, whose entries have none.
 * Scales are fp16; mean squared residuals are bf16 (range matters more than digits); parents are the base cluster of
 * each outlier. Outliers lie sorted by parent. All parts begin 64-byte aligned; offsets of absent parts are 0.
 */
#ifndef LWK_INDEX_FMT_H
#define LWK_INDEX_FMT_H

#include <stdint.h>

#include "base/longwave_types.h"
#include "kernels/hd.h"

typedef struct lwk_index_layout {
    uint32_t key_center, key_channel, value_center, value_channel; /* f32[head_dim] each */
    uint32_t cluster_keys;        /* [clusters][head_dim] encoded */
    uint32_t cluster_key_scales;  /* f16[clusters] */
    uint32_t cluster_values;      /* [clusters][head_dim] encoded: means over members and outliers */
    uint32_t cluster_value_scales; /* f16[clusters] */
    uint32_t cluster_spreads;     /* bf16[clusters]: mean over members of |k - c|^2 */
    uint32_t outlier_keys;        /* [outliers][head_dim] encoded */
    uint32_t outlier_key_scales;  /* f16[outliers] */
    uint32_t outlier_parents;     /* u16[outliers] */
    uint32_t bytes;
} lwk_index_layout_t;

/* Bytes of one row of head_dim elements in an encoding. */
LWK_HD uint32_t lwk_encoded_row_bytes(uint32_t encoding, uint32_t head_dim)
{
    switch (encoding) {
    case LW_ENCODING_FP32: return 4 * head_dim;
    case LW_ENCODING_BF16: return 2 * head_dim;
    case LW_ENCODING_INT8: return head_dim;
    case LW_ENCODING_INT4: return head_dim / 2;
    default: return 0;
    }
}

LWK_HD int lwk_encoding_is_coded(uint32_t encoding)
{
    return encoding == LW_ENCODING_INT8 || encoding == LW_ENCODING_INT4;
}

/* Code of element j of an INT4 row. */
LWK_HD int lwk_int4_code(const uint8_t *row, uint32_t j)
{
    int nibble = row[j / 2] >> 4 * (j & 1) & 15;
    return (nibble ^ 8) - 8;
}

LWK_HD uint32_t lwk_index_part(uint32_t *at, uint32_t bytes)
{
    uint32_t offset = (*at + 63u) & ~63u;
    *at = offset + bytes;
    return bytes == 0 ? 0 : offset;
}

LWK_HD lwk_index_layout_t lwk_index_layout(uint32_t cluster_encoding, uint32_t outlier_encoding, uint32_t clusters,
                                                  uint32_t outliers, uint32_t head_dim)
{
    lwk_index_layout_t l;
    uint32_t at = 0;
    int coded_clusters = lwk_encoding_is_coded(cluster_encoding);
    int coded_outliers = lwk_encoding_is_coded(outlier_encoding) && outliers > 0;
    uint32_t per_channel = (coded_clusters || coded_outliers) ? 4 * head_dim : 0;
    /* A leading part keeps offset 0 free to mean "absent". */
    lwk_index_part(&at, 64);
    l.key_center = lwk_index_part(&at, per_channel);
    l.key_channel = lwk_index_part(&at, per_channel);
    l.value_center = lwk_index_part(&at, coded_clusters ? 4 * head_dim : 0);
    l.value_channel = lwk_index_part(&at, coded_clusters ? 4 * head_dim : 0);
    l.cluster_keys = lwk_index_part(&at, clusters * lwk_encoded_row_bytes(cluster_encoding, head_dim));
    l.cluster_key_scales = lwk_index_part(&at, coded_clusters ? 2 * clusters : 0);
    l.cluster_values = lwk_index_part(&at, clusters * lwk_encoded_row_bytes(cluster_encoding, head_dim));
    l.cluster_value_scales = lwk_index_part(&at, coded_clusters ? 2 * clusters : 0);
    l.cluster_spreads = lwk_index_part(&at, 2 * clusters);
    l.outlier_keys = lwk_index_part(&at, outliers * lwk_encoded_row_bytes(outlier_encoding, head_dim));
    l.outlier_key_scales = lwk_index_part(&at, coded_outliers ? 2 * outliers : 0);
    l.outlier_parents = lwk_index_part(&at, 2 * outliers);
    l.bytes = (at + 63u) & ~63u;
    return l;
}

/* Moments of one (layer, KV head), ALGORITHM section 5: what the corrections need besides each entry's own spread.
 *   S    = mean over indexed tokens of (k - c)(k - c)'  / mean_residual
 *   S_vk = mean over indexed tokens of (v - u)(k - c)'  / mean_residual,   u = the cluster's value mean
 * so that an entry's spread (its mean |k - c|^2) times S is its covariance. Outliers have no part in them.
 * Layout: u64 token_count, f32 mean_residual, f32 0, then S and S_vk, row-major f32[head_dim][head_dim] each. */
typedef struct lwk_moments_header {
    uint64_t token_count; /* 0: nothing known, no corrections */
    float mean_residual, reserved;
} lwk_moments_header_t;

LWK_HD uint64_t lwk_moments_bytes(uint32_t head_dim)
{
    return (sizeof(lwk_moments_header_t) + 8ull * head_dim * head_dim + 63u) & ~63ull;
}

#endif /* LWK_INDEX_FMT_H */
