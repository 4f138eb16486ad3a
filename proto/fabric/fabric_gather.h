/* fabric_gather.h - copies scattered pieces into one buffer, asking memory for the next piece while it copies this one. */
#ifndef LW_FABRIC_GATHER_H
#define LW_FABRIC_GATHER_H

#include "fabric/fabric.h"

/* `into` holds the sum of the pieces' bytes. Any thread. */
void lw_fabric_gather(void *into, const lw_iov_t *pieces, uint32_t piece_count);

#endif /* LW_FABRIC_GATHER_H */
