/* segment_fmt.h - the bytes of a stored segment: one contiguous extent, the same in an arena, in a file and on the wire.
 *
 *   header            lw_segment_header_t, 128 bytes
 *   head table        lw_segment_head_t[head_count]
 *   per head, in head order, each part 64-byte aligned:
 *     sizes           u16[clusters]              members of each cluster (an outlier has one)
 *     checksums       u32[clusters + outliers]   of each record
 *     index part      opaque here: lwk_index_layout() in kernels/index_fmt.h says what is inside
 *   sinks             only in a session's first segment: per head, rows of tokens 0..3: K rows, then V rows
 *   moments           only where the header says so: opaque here (kernels/index_fmt.h)
 *   per head records  64-byte aligned; clusters in index order, then outliers: `size` rows of K, then `size` rows of V,
 *                     row-major, no gaps
 *
 * The counts determine every offset: a reader lays the segment out again and compares, so no offset is trusted. Bytes
 * between parts are zero. Every head holds each covered token once (sinks apart), so that sizes and outliers add up to
 * token_count - (sinks: LW_SINK_TOKENS); no cluster is empty; entry numbers fit u16. LW_SEGMENT_SINKS needs first_token 0.
 *
 * A raw tail segment (LW_SEGMENT_RAW) has no index: per head one record of token_count rows in token order is cut into
 * clusters of LW_SEGMENT_RAW_ROWS rows, the last one shorter, so that the same fetch and checksum paths serve it. The writer
 * fills those sizes as any others. Its encodings may be 0.
 *
 * Checksums: XXH3-64 truncated to 32 bits, seeded with lw_record_seed(name, head, entry). Parts use the entry numbers
 * LW_PART_* above 0xFFFF. The header carries a checksum of itself and of the head table.
 */
#ifndef LW_WIRE_SEGMENT_FMT_H
#define LW_WIRE_SEGMENT_FMT_H

#include "base/error.h"
#include "base/limits.h"
#include "base/longwave_types.h"
#include "wire/segment_name.h"

#define LW_SEGMENT_MAGIC 0x3147455347574C31ull
#define LW_SEGMENT_VERSION 1u
#define LW_SEGMENT_RAW 1u     /* flags: token order, no index */
#define LW_SEGMENT_SINKS 2u   /* flags: has the sinks part */
#define LW_SEGMENT_MOMENTS 4u /* flags: has the moments part */
#define LW_SEGMENT_RAW_ROWS 64u
#define LW_SEGMENT_PART_ALIGN 64u

#define LW_PART_SIZES 0x10000u
#define LW_PART_INDEX 0x10001u
#define LW_PART_SINKS 0x10002u
#define LW_PART_MOMENTS 0x10003u
#define LW_PART_TABLE 0x10004u  /* parts of the whole segment are seeded with head 0 */
#define LW_PART_HEADER 0x10005u

typedef struct lw_segment_header {
    uint64_t magic;
    uint32_t version, flags;
    lw_segment_name_t name;
    uint64_t bytes;       /* of the whole segment */
    uint32_t token_count; /* tokens covered, sinks included */
    uint16_t head_count, head_dim;
    uint16_t dtype;            /* lw_dtype_t of the rows */
    uint16_t cluster_encoding, outlier_encoding; /* lw_encoding_t of the index part */
    uint16_t reserved0;
    uint64_t sinks_offset, moments_offset;
    uint64_t moments_bytes;
    uint32_t sinks_check, moments_check; /* 0 without the part */
    uint32_t table_check; /* of the head table */
    uint32_t header_check; /* of this header with header_check = 0 */
    uint8_t reserved1[24];
} lw_segment_header_t;
static_assert(sizeof(lw_segment_header_t) == 128, "segment header is 128 bytes");

typedef struct lw_segment_head {
    uint32_t cluster_count, outlier_count;
    uint64_t sizes_offset, checks_offset, index_offset, records_offset;
    uint32_t index_bytes;
    uint32_t sizes_check, index_check;
    uint32_t reserved;
    uint64_t records_bytes;
} lw_segment_head_t;
static_assert(sizeof(lw_segment_head_t) == 64, "segment head is 64 bytes");

#define LW_SEGMENT_ENTRIES_MAX 65536u /* clusters and outliers of one head: entry numbers are u16 */

/* What the writer knows before it lays a segment out. */
typedef struct lw_segment_plan {
    lw_segment_name_t name;
    uint32_t flags;
    uint32_t token_count, head_count, head_dim;
    uint32_t dtype, cluster_encoding, outlier_encoding;
    uint64_t moments_bytes;
    struct {
        uint32_t cluster_count, outlier_count, index_bytes;
        uint32_t row_count; /* sum of sizes plus outliers */
    } head[LW_KV_HEADS_MAX];
} lw_segment_plan_t;

/* Bytes of one element of dtype; 0 when unknown. */
uint32_t lw_dtype_bytes(uint32_t dtype);
/* Bytes of a K row and a V row together. */
static inline uint64_t lw_row_pair_bytes(uint32_t dtype, uint32_t head_dim)
{
    return 2ull * lw_dtype_bytes(dtype) * head_dim;
}

/* Lays out header and head table (offsets, sizes; checksums zero) into `extent`, which is 8-byte aligned and has room for
 * them; the bytes of the whole segment are in the header's `bytes`. With extent == NULL only bytes_out is written.
 * ERR_INVALID names the plan's field and value. */
LW_CHECK lw_status_t lw_segment_layout(const lw_segment_plan_t *plan, void *extent, uint64_t *bytes_out, lw_error_t *error);
/* After the writer has filled every part and every record: zeroes the bytes between parts and computes all checksums in
 * place, header last. Asserts that the structure is the one lw_segment_layout made and that the sizes add up. */
void lw_segment_seal(void *extent);
/* Checks a whole extent that came from elsewhere: structure first (no offset is trusted), then every checksum.
 * ERR_INVALID for structure, ERR_CORRUPT for a checksum; the error names part, head and entry. */
LW_CHECK lw_status_t lw_segment_verify(const void *extent, uint64_t bytes, lw_error_t *error);
/* Structure alone, with header and table checksums, and the sizes of clusters: enough to index into it safely. Both want an
 * 8-byte aligned extent and answer ERR_VERSION for another format version. */
LW_CHECK lw_status_t lw_segment_check(const void *extent, uint64_t bytes, lw_error_t *error);

static inline const lw_segment_header_t *lw_segment_header(const void *extent) { return (const lw_segment_header_t *)extent; }
static inline const lw_segment_head_t *lw_segment_heads(const void *extent)
{
    return (const lw_segment_head_t *)((const uint8_t *)extent + sizeof(lw_segment_header_t));
}

/* Seed and value of a checksum. A reader of many records takes the name's hash once. Seeds of one name never repeat. */
uint64_t lw_record_seed(const lw_segment_name_t *name, uint32_t head, uint32_t entry);
static inline uint64_t lw_record_seed_hashed(uint64_t name_hash, uint32_t head, uint32_t entry)
{
    uint64_t z = name_hash + ((uint64_t)head << 32 | entry) * 0x9E3779B97F4A7C15ull;

    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
uint32_t lw_record_check(uint64_t seed, const void *bytes, size_t byte_count);

/* Record offsets of one head: fills offset[0 .. clusters + outliers] in bytes from the extent's start; the last is the end.
 * The extent must have passed lw_segment_check (or come from lw_segment_layout with its sizes filled). */
void lw_segment_record_offsets(const void *extent, uint32_t head, uint32_t *offset_out);

#endif /* LW_WIRE_SEGMENT_FMT_H */
