/* segment_state.h - the states of a segment's slot and the moves between them. Drawn in the folder's README.
 */
#ifndef LWD_SHARD_SEGMENT_STATE_H
#define LWD_SHARD_SEGMENT_STATE_H

#include <stdbool.h>
#include <stdint.h>

#define LWD_SEGMENT_STATE_MAP(XX)                                 \
    XX(FREE, "no segment")                                        \
    XX(RESERVED, "room is held, chunks are landing")              \
    XX(VERIFYING, "all has landed; checksums are being compared") \
    XX(WRITTEN, "verified, immutable, can be read")               \
    XX(RESTORED, "of an earlier life; the catalogue has not said yet that it lives") \
    XX(LEAVING, "in the log; a reader or a transfer may still hold the memory") \
    XX(SPILLED, "in the log only")                                \
    XX(LOADING, "on its way back from the log")                   \
    XX(DYING, "freed; a reader or a transfer may still hold the memory")

typedef enum lwd_segment_state {
#define XX(name, text) LWD_SEGMENT_##name,
    LWD_SEGMENT_STATE_MAP(XX)
#undef XX
        LWD_SEGMENT_STATE_COUNT
} lwd_segment_state_t;

/* Is the segment committed here, wherever its bytes are? */
static inline bool lwd_segment_is_committed(lwd_segment_state_t state)
{
    return state == LWD_SEGMENT_WRITTEN || state == LWD_SEGMENT_LEAVING || state == LWD_SEGMENT_SPILLED ||
           state == LWD_SEGMENT_LOADING;
}
bool lwd_segment_may_move(lwd_segment_state_t from, lwd_segment_state_t to);
/* Short name ("RESERVED"). Never NULL. */
const char *lwd_segment_state_name(lwd_segment_state_t state);

#endif /* LWD_SHARD_SEGMENT_STATE_H */
