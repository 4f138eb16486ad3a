/* refresh.h - the mailbox between a store, which notices that segments are not where it believes them to be, and whoever reads
 * manifests: one cell for each session slot. The store's thread asks and takes answers, another one answers; neither waits
 * for the other, and the store's side allocates nothing.
 *
 *   IDLE (store) --question--> ASKED (reader) --answer--> ANSWERED (store) --applied--> IDLE
 *
 * Whoever is named owns the cell's other fields. The answer's memory is the reader's: it grows while the cell is ASKED and is
 * kept for the next answer. */
#ifndef LWC_STORE_REFRESH_H
#define LWC_STORE_REFRESH_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/error.h"
#include "base/limits.h"

typedef enum lwc_refresh_state { LWC_REFRESH_IDLE, LWC_REFRESH_ASKED, LWC_REFRESH_ANSWERED } lwc_refresh_state_t;

/* A range of the manifest: with a layer, a segment's name. */
typedef struct lwc_place {
    uint64_t origin;
    uint32_t first_token, generation, replicas;
} lwc_place_t;

typedef struct lwc_refresh_cell {
    _Atomic uint32_t state; /* lwc_refresh_state_t */
    uint64_t session_id;
    uint8_t token[LW_TOKEN_BYTES];
    lw_status_t status; /* OK; NOT_FOUND: the session is no more; any other: nothing is known, ask again */
    uint32_t count, capacity;
    lwc_place_t *places; /* [capacity], ascending by first token */
    uint16_t *nodes;     /* [capacity][layers][LW_REPLICAS_MAX] */
} lwc_refresh_cell_t;

typedef struct lwc_refresh {
    uint32_t session_capacity;
    uint32_t layers; /* a segment's key is row * layers + layer; a range's segments have consecutive keys */
    lwc_refresh_cell_t *cells;
    /* the reader's: the cell being read, from which token on; session_capacity: none */
    uint32_t reading, next, from_token;
} lwc_refresh_t;

#endif /* LWC_STORE_REFRESH_H */
