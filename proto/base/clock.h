/* clock.h - time as a table, so that the simulator can own it. */
#ifndef LW_CLOCK_H
#define LW_CLOCK_H

#include <stddef.h>
#include <stdint.h>

typedef struct lw_clock {
    uint64_t (*now_us)(void *self); /* monotonic */
    uint64_t (*unix_us)(void *self); /* wall clock */
    void *self;
} lw_clock_t;

/* The machine's clocks. Static, shared, thread-safe. */
const lw_clock_t *lw_clock_real(void);

static inline uint64_t lw_now_us(const lw_clock_t *clock) { return clock->now_us(clock->self); }

#endif /* LW_CLOCK_H */
