/* catalogue_private.h - the rules that every catalogue shares: what input is refused, which states follow which. */
#ifndef LWD_CATALOGUE_PRIVATE_H
#define LWD_CATALOGUE_PRIVATE_H

#include "storaged/catalogue/catalogue.h"

#define LWD_LEASE_MAX_US 3600000000ull        /* an hour */
#define LWD_CLIENT_KEPT_US (24 * 3600000000ull) /* how long the incarnation of a client without leases is remembered */
#define LWD_RANKS_MAX 64u
#define LWD_TOKENS_MAX (1u << 30) /* of one session */

/* All pure; an error names the field and its value. */
LW_CHECK lw_status_t lwd_catalogue_check_create(const lwd_create_t *create, lw_error_t *error);
LW_CHECK lw_status_t lwd_catalogue_check_lease(uint64_t client_id, uint64_t lease_us, lw_error_t *error);
LW_CHECK lw_status_t lwd_catalogue_check_ranges(const lwd_session_shape_t *shape, uint16_t rank, uint32_t term,
                                                const lwd_range_t *ranges, uint32_t count, lw_error_t *error);
LW_CHECK lw_status_t lwd_catalogue_check_members(const char *const *control, uint32_t count, lw_error_t *error);

/* May a session go from one state to the other? The only table of moves. */
bool lwd_session_may_move(lwd_session_state_t from, lwd_session_state_t to);
const char *lwd_session_state_text(lwd_session_state_t state);

static inline bool lwd_session_open(const lwd_session_row_t *row) /* readable, forkable, openable */
{
    return row->state == LWD_SESSION_ACTIVE || row->state == LWD_SESSION_IDLE;
}
static inline bool lwd_session_live(const lwd_session_row_t *row, uint64_t now) /* has a live writer */
{
    return row->state == LWD_SESSION_ACTIVE && row->lease_until_us > now;
}
static inline uint32_t lwd_range_end(const lwd_range_t *range)
{
    return range->first_token + range->token_count;
}
/* Is what a writer sends the range that is stored? Origin apart, and the nodes once a copy has moved. */
static inline bool lwd_range_same(const lwd_range_t *stored, const lwd_range_t *sent, uint32_t layers)
{
    return stored->first_token == sent->first_token && stored->token_count == sent->token_count &&
           stored->generation == sent->generation && (stored->flags & ~LW_RANGE_MOVED) == sent->flags &&
           stored->replicas == sent->replicas && stored->bytes == sent->bytes &&
           (stored->flags & LW_RANGE_MOVED ||
            memcmp(stored->node_index, sent->node_index, (size_t)layers * stored->replicas * sizeof(uint16_t)) == 0);
}
/* Does `node_index` hold a copy of this layer? */
bool lwd_range_holds(const lwd_range_t *range, uint32_t layers, uint32_t layer, uint16_t node_index);
/* Puts `to` in the place of `from`; ERR_STALE, and nothing changed, when that is not so (any more). */
LW_CHECK lw_status_t lwd_range_move(lwd_range_t *range, uint32_t layers, const lw_segment_name_t *name, uint16_t from,
                                    uint16_t to, lw_error_t *error);
LW_CHECK lw_status_t lwd_catalogue_check_node(uint16_t node_index, lw_error_t *error);
/* No early exit: the time must not tell how much of a token was right. */
static inline bool lwd_token_equal(const uint8_t *a, const uint8_t *b)
{
    unsigned differs = 0;
    for (unsigned i = 0; i < LW_TOKEN_BYTES; i++)
        differs |= a[i] ^ b[i];
    return differs == 0;
}

#endif /* LWD_CATALOGUE_PRIVATE_H */
