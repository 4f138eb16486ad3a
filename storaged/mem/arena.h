/* arena.h - the memory that holds segments: reserved, placed and touched once, at start.
 *
 * One mapping for segments and a smaller one beside it for what the daemon knows about them (record tables).
 * Huge pages where the machine gives them: 1 GiB, then 2 MiB, then transparent ones, then ordinary pages; the
 * log says what was got. Created and destroyed by the main thread; the memory itself may be used by any. */
#ifndef LWD_MEM_ARENA_H
#define LWD_MEM_ARENA_H

#include <stdbool.h>

#include "base/error.h"

#define LWD_ARENA_BYTES_MIN (16ull << 20)
#define LWD_ARENA_UNIT_BYTES (64ull << 10)
#define LWD_ARENA_BOOK_UNIT_BYTES 256ull
#define LWD_ARENA_BOOK_SHARE 64u /* bookkeeping area: arena / 64 */

typedef enum lwd_pages {
    LWD_PAGES_AUTO,
    LWD_PAGES_1G,
    LWD_PAGES_2M,
    LWD_PAGES_THP,
    LWD_PAGES_NONE
} lwd_pages_t;

typedef struct lwd_arena_params {
    uint64_t bytes;    /* rounded up to whole units, and to whole huge pages where they are used */
    lwd_pages_t pages; /* the largest kind to try; AUTO tries 2M, THP (1G only when asked for) */
    int numa_node;     /* preferred node; -1: interleave over all that the process may use */
    uint32_t threads;  /* that touch the pages; 0: one per allowed CPU, at most 16 */
    bool prefault;
} lwd_arena_params_t;

typedef struct lwd_arena {
    uint8_t *base, *book;
    uint64_t bytes, book_bytes;
    uint64_t mapped_bytes, book_mapped_bytes;
    lwd_pages_t pages; /* what was got */
} lwd_arena_t;

/* "auto", "1g", "2m", "thp", "none"; ERR_INVALID otherwise. */
LW_CHECK lw_status_t lwd_pages_parse(const char *text, lwd_pages_t *pages_out);
const char *lwd_pages_text(lwd_pages_t pages);

/* Maps, places and touches. ERR_INVALID below LWD_ARENA_BYTES_MIN, ERR_NO_MEMORY when the machine has no
 * room. */
LW_CHECK lw_status_t lwd_arena_init(const lwd_arena_params_t *params, lwd_arena_t *arena_out,
                                    lw_error_t *error);
void lwd_arena_fini(lwd_arena_t *arena);

#endif /* LWD_MEM_ARENA_H */
