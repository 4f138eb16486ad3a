/* fabric_gather.h - the copies of the fabric: scattered pieces into one buffer, and bytes that have just arrived
 * into memory that has not been used lately. Each asks memory ahead for what it will wait for. */
#ifndef LW_FABRIC_GATHER_H
#define LW_FABRIC_GATHER_H

#include "fabric/fabric.h"

/* Walks ahead of a copy and asks memory for what comes next. */
typedef struct lw_gather_ahead {
    const lw_iov_t *pieces;
    uint32_t count, next; /* `next` is the first piece not asked for */
    size_t asked_bytes;   /* of pieces asked for and not yet copied */
    size_t piece_max;     /* larger pieces are left alone; 0: none is */
} lw_gather_ahead_t;

/* Call before piece `at` is copied, for each piece in turn. */
void lw_gather_ahead(lw_gather_ahead_t *ahead, uint32_t at);

/* `into` holds the sum of the pieces' bytes. Any thread. */
void lw_fabric_gather(void *into, const lw_iov_t *pieces, uint32_t piece_count);

/* Copies `bytes` that are in the cache to memory that is not: the destination's lines are asked for ahead, which
 * is twice as fast as memcpy there and no slower elsewhere. Any thread; the two do not overlap. */
void lw_fabric_land(void *into, const void *data, size_t bytes);

#endif /* LW_FABRIC_GATHER_H */
