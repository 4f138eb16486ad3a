/* arena_private.h - what arena.c does for an arena of either kind. */
#ifndef LWD_MEM_ARENA_PRIVATE_H
#define LWD_MEM_ARENA_PRIVATE_H

#include "storaged/mem/arena.h"

/* With `bytes` and `base` known: maps the bookkeeping area, places both and touches their pages without changing
 * them. On failure `base` stays the caller's. */
LW_CHECK lw_status_t lwd_arena_finish(const lwd_arena_params_t *params, lwd_arena_t *arena, lw_error_t *error);

#endif /* LWD_MEM_ARENA_PRIVATE_H */
