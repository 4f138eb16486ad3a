/* route.h - the caller's way to where stored segments are: its own store (host backends), the courier's (asynchronous
 * backends), or this process (local mode). Caller's thread. */
#ifndef LWC_ROUTE_H
#define LWC_ROUTE_H

#include "client/courier.h"

struct lw;

LW_CHECK lw_status_t lwc_route_session(struct lw *kv, uint32_t slot, uint64_t session_id,
                                       const uint8_t token[LW_TOKEN_BYTES], uint32_t term, lw_error_t *error);
void lwc_route_session_forget(struct lw *kv, uint32_t slot);
LW_CHECK lw_status_t lwc_route_segment(struct lw *kv, uint32_t key, uint32_t slot, const lw_segment_name_t *name,
                                       const uint16_t *node_index, uint32_t replicas, lw_error_t *error);
void lwc_route_segment_forget(struct lw *kv, uint32_t key);
/* Attaches `count` segments from `key` on before they are needed. */
void lwc_route_attach(struct lw *kv, uint32_t key, uint32_t count, uint64_t deadline_us);
/* Statistics and the fleet. ERR_TIMEOUT when the progress thread does not answer. */
LW_CHECK lw_status_t lwc_route_ask(struct lw *kv, lwc_store_answer_t *answer_out, lw_error_t *error);
/* Why records did not come, on asynchronous backends; status OK: nothing to tell. */
void lwc_route_cause(struct lw *kv, lw_error_t *cause_out);

/* A read on its way; `into` is borrowed until it has ended. */
typedef struct lwc_reading {
    bool flying;
    lw_status_t status;
    uint32_t slot; /* asynchronous: of the courier's reads */
    uint64_t until_us;
} lwc_reading_t;
/* Starts to read bytes of a registered segment. */
LW_CHECK lw_status_t lwc_read_start(struct lw *kv, lwc_reading_t *reading, uint32_t key, uint64_t offset,
                                    uint64_t bytes, uint8_t *into, uint64_t deadline_us, lw_error_t *error);
/* Waits until it has ended, a little after the deadline at the latest. */
LW_CHECK lw_status_t lwc_read_wait(struct lw *kv, lwc_reading_t *reading, lw_error_t *error);
/* The same for a read, if there is one, whose result nobody wants any more. */
void lwc_read_drop(struct lw *kv, lwc_reading_t *reading);

#endif /* LWC_ROUTE_H */
