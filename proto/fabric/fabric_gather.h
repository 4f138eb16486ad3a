/* fabric_gather.h - copies scattered pieces into one buffer, asking memory for the next ones while it copies
 * this one. */
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

#endif /* LW_FABRIC_GATHER_H */
