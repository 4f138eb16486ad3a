/* segment_name.c - hash and text of a segment's name. Pure. */
#include "wire/segment_name.h"

#include <inttypes.h>
#include <stdio.h>

#include "wire/checksum.h"

static_assert(offsetof(lw_segment_name_t, rank) == 8, "wire: name.rank");
static_assert(offsetof(lw_segment_name_t, layer) == 10, "wire: name.layer");
static_assert(offsetof(lw_segment_name_t, first_token) == 12, "wire: name.first_token");
static_assert(offsetof(lw_segment_name_t, generation) == 16, "wire: name.generation");
static_assert(offsetof(lw_segment_name_t, reserved) == 20, "wire: name.reserved");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "wire: structs are copied as they are, so little-endian only");

uint64_t lw_segment_name_hash(const lw_segment_name_t *name) { return lw_checksum64(0, name, sizeof(*name)); }

const char *lw_segment_name_text(const lw_segment_name_t *name, char *text)
{
    snprintf(text, LW_SEGMENT_NAME_TEXT_BYTES, "%" PRIu64 "/%u/%u@%" PRIu32 ".%" PRIu32, name->origin,
             name->rank, name->layer, name->first_token, name->generation);
    return text;
}
