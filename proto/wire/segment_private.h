/* segment_private.h - the canonical layout, shared by the file that makes segments and the file that checks
 * them. */
#ifndef LW_WIRE_SEGMENT_PRIVATE_H
#define LW_WIRE_SEGMENT_PRIVATE_H

#include "wire/segment_fmt.h"

/* Rows of each head, sinks apart. */
static inline uint64_t lw_segment_rows(const lw_segment_header_t *header)
{
    return header->token_count - ((header->flags & LW_SEGMENT_SINKS) != 0 ? LW_SINK_TOKENS : 0);
}
static inline uint64_t lw_segment_sinks_bytes(const lw_segment_header_t *header)
{
    return (uint64_t)header->head_count * LW_SINK_TOKENS * lw_row_pair_bytes(header->dtype, header->head_dim);
}
static inline uint64_t lw_segment_table_bytes(const lw_segment_header_t *header)
{
    return (uint64_t)header->head_count * sizeof(lw_segment_head_t);
}

/* Every field that is not an offset, a size or a checksum: flags, shape, dtype, encodings, name, reserved
 * bytes. */
LW_CHECK lw_status_t lw_segment_check_fields(const lw_segment_header_t *header, lw_error_t *error);
/* The counts of one head against the header. */
LW_CHECK lw_status_t lw_segment_check_counts(const lw_segment_header_t *header, uint32_t head,
                                             uint32_t clusters, uint32_t outliers, uint32_t index_bytes,
                                             lw_error_t *error);

/* A walk over the parts in file order. Start with lw_segment_walk_begin, then take parts as the file comment
 * lists them. */
typedef struct lw_segment_walk {
    uint64_t end; /* of the part taken last */
} lw_segment_walk_t;

static inline void lw_segment_walk_begin(lw_segment_walk_t *walk, const lw_segment_header_t *header)
{
    walk->end = sizeof(*header) + lw_segment_table_bytes(header);
}
/* Offset of the next part. All sizes are below 2^33 and there are fewer than 300 parts: 64 bits cannot
 * overflow. */
static inline uint64_t lw_segment_walk_take(lw_segment_walk_t *walk, uint64_t bytes)
{
    uint64_t offset = lw_align_up(walk->end, LW_SEGMENT_PART_ALIGN);

    walk->end = offset + bytes;
    return offset;
}

/* Fills offsets and sizes of header and table from the counts in both. ERR_INVALID when the whole is too
 * large. */
LW_CHECK lw_status_t lw_segment_place_parts(lw_segment_header_t *header, lw_segment_head_t *heads,
                                            lw_error_t *error);

#endif /* LW_WIRE_SEGMENT_PRIVATE_H */
