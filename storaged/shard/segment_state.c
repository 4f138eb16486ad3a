/* segment_state.c - the table of moves; whatever is not in it is a bug of ours. */
#include "storaged/shard/segment_state.h"

#define TO(state) (1u << LWD_SEGMENT_##state)

static const uint16_t moves[LWD_SEGMENT_STATE_COUNT] = {
    [LWD_SEGMENT_FREE] = TO(RESERVED) | TO(RESTORED),
    [LWD_SEGMENT_RESERVED] = TO(VERIFYING) | TO(DYING),
    [LWD_SEGMENT_VERIFYING] = TO(RESERVED) | TO(WRITTEN) | TO(DYING),
    [LWD_SEGMENT_WRITTEN] = TO(LEAVING) | TO(DYING),
    [LWD_SEGMENT_RESTORED] = TO(WRITTEN) | TO(SPILLED) | TO(DYING),
    [LWD_SEGMENT_LEAVING] = TO(WRITTEN) | TO(SPILLED) | TO(DYING),
    [LWD_SEGMENT_SPILLED] = TO(LOADING) | TO(DYING),
    [LWD_SEGMENT_LOADING] = TO(WRITTEN) | TO(SPILLED) | TO(DYING),
    [LWD_SEGMENT_DYING] = TO(FREE),
};

bool lwd_segment_may_move(lwd_segment_state_t from, lwd_segment_state_t to)
{
    return from < LWD_SEGMENT_STATE_COUNT && to < LWD_SEGMENT_STATE_COUNT && (moves[from] >> to & 1u) != 0;
}

const char *lwd_segment_state_name(lwd_segment_state_t state)
{
    static const char *const names[] = {
#define XX(name, text) #name,
        LWD_SEGMENT_STATE_MAP(XX)
#undef XX
    };
    return state < LWD_SEGMENT_STATE_COUNT ? names[state] : "UNKNOWN";
}
