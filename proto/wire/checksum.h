/* checksum.h - the one hash of messages and stored segments: XXH3-64 with a seed. Inside proto/wire only. */
#ifndef LW_WIRE_CHECKSUM_H
#define LW_WIRE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* XXH3_64bits_withSeed. `bytes` may be NULL when byte_count is 0. Any thread. */
uint64_t lw_checksum64(uint64_t seed, const void *bytes, size_t byte_count);

#endif /* LW_WIRE_CHECKSUM_H */
