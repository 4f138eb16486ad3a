/* header.h - the 32 bytes in front of every data-plane message.
 *
 * A message travels as a *head* (this header, then the type's fixed body; at most LW_MSG_HEAD_MAX bytes) and a
 * *payload* (the type's lists, padded to 64 bytes, then bulk bytes). Everything is little-endian.
 *
 *   offset size field
 *        0    4 header_crc   XXH3-64 truncated, over bytes 4..31
 *        4    4 body_crc     XXH3-64 truncated, over the fixed body; with lists, XXH3-64 truncated over the
 *                           lists, seeded with the body's whole XXH3-64 (not padding, not bulk)
 *        8    4 list_bytes   bytes of the lists at the start of the payload, before padding
 *       12    2 version      LW_WIRE_VERSION
 *       14    2 type         lw_msg_type_t
 *       16    8 fleet_id     both sides must agree; 0 in HELLO from a client that does not know it yet
 *       24    8 request_id   chosen by the requester, repeated in the reply
 */
#ifndef LW_WIRE_HEADER_H
#define LW_WIRE_HEADER_H

#include <assert.h>

#include "base/error.h"

#define LW_WIRE_VERSION 1u
#define LW_WIRE_BULK_ALIGN 64u

typedef struct lw_wire_header {
    uint32_t header_crc, body_crc, list_bytes;
    uint16_t version, type;
    uint64_t fleet_id, request_id;
} lw_wire_header_t;

static_assert(sizeof(lw_wire_header_t) == 32, "wire: header is 32 bytes");
static_assert(offsetof(lw_wire_header_t, fleet_id) == 16, "wire: fleet_id");

/* What header_crc must be for the other 28 bytes. */
uint32_t lw_wire_header_crc(const lw_wire_header_t *header);
/* What body_crc must be; list_bytes may be 0. */
uint32_t lw_wire_body_crc(const void *body, size_t body_bytes, const void *lists, size_t list_bytes);

/* Where bulk begins in a payload whose lists take list_bytes. */
static inline uint32_t lw_wire_bulk_offset(uint32_t list_bytes)
{
    return (list_bytes + LW_WIRE_BULK_ALIGN - 1) & ~(LW_WIRE_BULK_ALIGN - 1);
}

#endif /* LW_WIRE_HEADER_H */
