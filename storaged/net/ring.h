/* ring.h - a bounded queue of values between threads: many producers, one consumer (after Vyukov's bounded
 * queue).
 *
 * Nobody waits: a full ring refuses, an empty one has nothing. Memory is allocated at init. */
#ifndef LWD_NET_RING_H
#define LWD_NET_RING_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/base.h"

typedef struct lwd_ring {
    uint8_t *cells; /* capacity cells: a turn counter, then the value */
    uint64_t mask, cell_bytes, value_bytes;
    alignas(64) _Atomic uint64_t head; /* next to push */
    alignas(64) _Atomic uint64_t tail; /* next to pop */
} lwd_ring_t;

/* Room for at least `capacity` values of `value_bytes`. */
LW_CHECK lw_status_t lwd_ring_init(lwd_ring_t *ring, uint32_t capacity, uint32_t value_bytes);
void lwd_ring_fini(lwd_ring_t *ring);
/* Any thread. Copies the value in; false when full. */
bool lwd_ring_push(lwd_ring_t *ring, const void *value);
/* The consumer. Copies the oldest value out; false when empty. */
bool lwd_ring_pop(lwd_ring_t *ring, void *value_out);
/* The consumer: is there nothing to pop? */
bool lwd_ring_empty(const lwd_ring_t *ring);

#endif /* LWD_NET_RING_H */
