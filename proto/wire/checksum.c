/* checksum.c - the only file that includes xxHash. Called on the serve path's edges: commit, load, receive.
 * Any thread. */
#include "wire/checksum.h"

#ifdef LW_XXHASH_DISPATCH
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

uint64_t lw_checksum64(uint64_t seed, const void *bytes, size_t byte_count)
{
#ifdef LW_XXHASH_DISPATCH
    return XXH3_64bits_withSeed_dispatch(bytes, byte_count, seed);
#else
    return XXH3_64bits_withSeed(bytes, byte_count, seed);
#endif
}
