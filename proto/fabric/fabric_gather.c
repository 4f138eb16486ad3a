/* fabric_gather.c - the copy that turns scattered records into one payload.
 *
 * The records are cold and far apart, the buffer is warm: what costs is the wait for a record's first lines,
 * before the hardware prefetcher has seen a pattern. So the heads of the next pieces are asked for before
 * this one is copied: as many pieces as make AHEAD_BYTES. */
#include "fabric/fabric_gather.h"

#include <string.h>

#define LINE_BYTES 64u
#define HEAD_BYTES 512u   /* of each piece; the hardware prefetcher follows from there */
#define AHEAD_BYTES 2048u /* in flight at a time: about what a core's fill buffers take */
#define LAND_AHEAD_BYTES 2048u

static size_t head_bytes(const lw_gather_ahead_t *ahead, uint32_t at)
{
    size_t bytes = ahead->pieces[at].bytes;
    if (ahead->piece_max > 0 && bytes > ahead->piece_max)
        return 0;
    return bytes < HEAD_BYTES ? bytes : HEAD_BYTES;
}

void lw_gather_ahead(lw_gather_ahead_t *ahead, uint32_t at)
{
    if (ahead->next <= at)
        ahead->next = at + 1;
    else
        ahead->asked_bytes -= head_bytes(ahead, at);
    while (ahead->next < ahead->count && ahead->asked_bytes < AHEAD_BYTES) {
        const lw_iov_t *piece = &ahead->pieces[ahead->next];
        size_t bytes = head_bytes(ahead, ahead->next++);
        for (size_t line = 0; line < bytes; line += LINE_BYTES)
            __builtin_prefetch((const char *)piece->data + line, 0, 3);
        ahead->asked_bytes += bytes;
    }
}

void lw_fabric_gather(void *into, const lw_iov_t *pieces, uint32_t piece_count)
{
    lw_gather_ahead_t ahead = {.pieces = pieces, .count = piece_count};
    char *to = into;
    for (uint32_t i = 0; i < piece_count; i++) {
        lw_gather_ahead(&ahead, i);
        if (pieces[i].bytes > 0)
            memcpy(to, pieces[i].data, pieces[i].bytes);
        to += pieces[i].bytes;
    }
}

/* memcpy would use the processor's string copy, which waits for each line of a cold destination in turn. */
void lw_fabric_land(void *into, const void *data, size_t bytes)
{
    char *to = into;
    const char *from = data;
    size_t at = 0;
    for (; bytes - at >= LINE_BYTES; at += LINE_BYTES) {
        __builtin_prefetch((const void *)((uintptr_t)to + at + LAND_AHEAD_BYTES), 1, 3);
        memcpy(to + at, from + at, LINE_BYTES);
    }
    if (at < bytes)
        memcpy(to + at, from + at, bytes - at);
}
