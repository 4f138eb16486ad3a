/* fabric_wait.c - waiting for a fabric without burning a core: spin a little, then sleep on the event
 * descriptor. */
#define _GNU_SOURCE /* ppoll */
#include "fabric/fabric.h"

#include <poll.h>
#include <sched.h>
#include <time.h>

#define YIELD_AFTER_US 16u /* of spinning: answers that are on their way come sooner */
#define POLLS_PER_CLOCK 16 /* reading the clock costs about as much as a progress call that finds nothing */

static uint64_t monotonic_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static unsigned spin(const lw_fabric_ops_t *ops, lw_fabric_t *fabric, uint64_t spin_us)
{
    uint64_t now_us = monotonic_us(), end_us = now_us + spin_us, yield_us = now_us + YIELD_AFTER_US;
    do {
        for (int i = 0; i < POLLS_PER_CLOCK; i++) {
            unsigned events = ops->progress(fabric);
            if (events > 0)
                return events;
        }
        now_us = monotonic_us();
        if (now_us >= yield_us)
            (void)sched_yield(); /* whoever shares the core may be the one that is waited for */
    } while (now_us < end_us);
    return 0;
}

unsigned lw_fabric_wait(const lw_fabric_ops_t *ops, lw_fabric_t *fabric, uint64_t spin_us, uint64_t wait_us)
{
    unsigned events = ops->progress(fabric);
    if (events > 0)
        return events;
    if (spin_us > 0) {
        events = spin(ops, fabric, spin_us);
        if (events > 0)
            return events;
    }
    int fd = ops->event_fd(fabric);
    if (fd < 0 || wait_us == 0)
        return 0;
    while (!ops->arm(fabric)) {
        events = ops->progress(fabric);
        if (events > 0)
            return events;
    }
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    struct timespec limit = {.tv_sec = (time_t)(wait_us / 1000000u),
                             .tv_nsec = (long)(wait_us % 1000000u) * 1000};
    (void)ppoll(&wanted, 1, &limit, NULL); /* a signal or the limit: progress finds out */
    return ops->progress(fabric);
}
