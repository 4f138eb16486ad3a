/* header.c - the two checksums of a message. Pure. */
#include "wire/header.h"

#include "wire/checksum.h"

static_assert(offsetof(lw_wire_header_t, body_crc) == 4, "wire: body_crc");
static_assert(offsetof(lw_wire_header_t, list_bytes) == 8, "wire: list_bytes");
static_assert(offsetof(lw_wire_header_t, version) == 12, "wire: version");
static_assert(offsetof(lw_wire_header_t, type) == 14, "wire: type");
static_assert(offsetof(lw_wire_header_t, request_id) == 24, "wire: request_id");

uint32_t lw_wire_header_crc(const lw_wire_header_t *header)
{
    const size_t skip = sizeof(header->header_crc);

    return (uint32_t)lw_checksum64(0, (const uint8_t *)header + skip, sizeof(*header) - skip);
}

uint32_t lw_wire_body_crc(const void *body, size_t body_bytes, const void *lists, size_t list_bytes)
{
    uint64_t sum = lw_checksum64(0, body, body_bytes);

    return (uint32_t)(list_bytes == 0 ? sum : lw_checksum64(sum, lists, list_bytes));
}
