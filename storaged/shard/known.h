/* known.h - ids that a shard remembers: (id, part) -> row number. What is kept of an id stands in an array of
 * the owner's, by row. A row is idle until it is taken into use; when all rows are taken, the one that has
 * been idle longest is given to a new id. Owner thread; memory from init alone. */
#ifndef LWD_SHARD_KNOWN_H
#define LWD_SHARD_KNOWN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/base.h"

#define LWD_NIL UINT32_MAX /* no row */

typedef struct lwd_known_link {
    uint64_t id, part;
    uint32_t hash_next;
    uint32_t idle_next, idle_prev; /* oldest first */
} lwd_known_link_t;

typedef struct lwd_known {
    lwd_known_link_t *links; /* [capacity] */
    uint32_t *buckets;       /* [mask + 1] */
    uint32_t capacity, used, mask, idle_first, idle_last;
} lwd_known_t;

/* ERR_NO_MEMORY; fini also after a failed init. */
LW_CHECK lw_status_t lwd_known_init(lwd_known_t *known, uint32_t capacity);
void lwd_known_fini(lwd_known_t *known);
uint32_t lwd_known_find(const lwd_known_t *known, uint64_t id, uint64_t part); /* LWD_NIL: unknown */
/* A row for an id that is unknown, idle; LWD_NIL: none is idle. What stood in the row is forgotten. */
uint32_t lwd_known_add(lwd_known_t *known, uint64_t id, uint64_t part);
void lwd_known_busy(lwd_known_t *known, uint32_t row); /* an idle row */
void lwd_known_idle(lwd_known_t *known, uint32_t row); /* a busy row; becomes the youngest idle one */

#endif /* LWD_SHARD_KNOWN_H */
