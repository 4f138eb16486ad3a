/* clock.c - the machine's clocks behind the clock table. Any thread. */
#include "base/clock.h"

#include <time.h>

static uint64_t read_clock(clockid_t id)
{
    struct timespec now;

    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static uint64_t real_now_us(void *self)
{
    (void)self;
    return read_clock(CLOCK_MONOTONIC);
}

static uint64_t real_unix_us(void *self)
{
    (void)self;
    return read_clock(CLOCK_REALTIME);
}

const lw_clock_t *lw_clock_real(void)
{
    static const lw_clock_t real = {.now_us = real_now_us, .unix_us = real_unix_us, .self = NULL};

    return &real;
}
