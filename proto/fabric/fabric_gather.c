/* fabric_gather.c - the copy that turns scattered records into one payload.
 *
 * The records are cold and far apart, the buffer is warm: what costs is the wait for a record's first lines, before the
 * hardware prefetcher has seen a pattern. So the head of the piece two ahead is asked for before this one is copied. */
#include "fabric/fabric_gather.h"

#include <string.h>

#define LINE_BYTES 64u
#define AHEAD_PIECES 2u
#define AHEAD_BYTES 2048u /* of each piece; the hardware prefetcher follows from there */

static void ask_for(const lw_iov_t *piece)
{
    const char *from = piece->data;
    size_t bytes = piece->bytes < AHEAD_BYTES ? piece->bytes : AHEAD_BYTES;
    for (size_t at = 0; at < bytes; at += LINE_BYTES)
        __builtin_prefetch(from + at, 0, 0);
}

void lw_fabric_gather(void *into, const lw_iov_t *pieces, uint32_t piece_count)
{
    char *to = into;
    for (uint32_t i = 0; i < piece_count; i++) {
        if (i + AHEAD_PIECES < piece_count)
            ask_for(&pieces[i + AHEAD_PIECES]);
        if (pieces[i].bytes > 0)
            memcpy(to, pieces[i].data, pieces[i].bytes);
        to += pieces[i].bytes;
    }
}
