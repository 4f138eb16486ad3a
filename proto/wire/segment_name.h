/* segment_name.h - what a segment is called, everywhere and for ever.
 *
 *   offset size field
 *        0    8 origin       session id that wrote it; never reused
 *        8    2 rank         tensor-parallel rank
 *       10    2 layer
 *       12    4 first_token  position of its first token
 *       16    4 generation   the writer's term
 *       20    4 reserved     0
 */
#ifndef LW_WIRE_SEGMENT_NAME_H
#define LW_WIRE_SEGMENT_NAME_H

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "base/base.h"

typedef struct lw_segment_name {
    uint64_t origin;
    uint16_t rank, layer;
    uint32_t first_token;
    uint32_t generation;
    uint32_t reserved;
} lw_segment_name_t;

static_assert(sizeof(lw_segment_name_t) == 24, "wire: segment name is 24 bytes");

static inline bool lw_segment_name_equal(const lw_segment_name_t *a, const lw_segment_name_t *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}
/* XXH3-64 of the 24 bytes: hash tables, placement, checksum seeds. */
uint64_t lw_segment_name_hash(const lw_segment_name_t *name);
#define LW_SEGMENT_NAME_TEXT_BYTES 64
/* "origin/rank/layer@first.generation"; returns text. `text` holds LW_SEGMENT_NAME_TEXT_BYTES (64) bytes. */
const char *lw_segment_name_text(const lw_segment_name_t *name, char *text);

#endif /* LW_WIRE_SEGMENT_NAME_H */
