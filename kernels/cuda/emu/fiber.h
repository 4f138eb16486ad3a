/* fiber.h - stacks and the switch between them. One fiber is one thread of a block; the one who resumes it is the
 * scheduler. Not thread-safe: the caller holds the device's lock. */
#ifndef LWK_EMU_FIBER_H
#define LWK_EMU_FIBER_H

#include <stddef.h>

typedef struct lwk_fiber {
    void *sp;    /* where it goes on */
    void *stack; /* from the pool, while it lives */
    void (*entry)(void *arg);
    void *arg;
} lwk_fiber_t;

/* Gives the fiber a stack; the first resume calls entry(arg), which must end with lwk_fiber_leave(). Aborts when no
 * memory is left. */
void lwk_fiber_start(lwk_fiber_t *fiber, void (*entry)(void *arg), void *arg);
/* From the scheduler: runs the fiber until it, or one that it changed to, suspends or leaves. */
void lwk_fiber_resume(lwk_fiber_t *fiber);
/* From a fiber: back to the scheduler. */
void lwk_fiber_suspend(lwk_fiber_t *fiber);
/* From a fiber: to another one; the scheduler goes on when one of them suspends or leaves. */
void lwk_fiber_change(lwk_fiber_t *fiber, lwk_fiber_t *to);
/* The same for the last time. */
__attribute__((noreturn)) void lwk_fiber_leave(lwk_fiber_t *fiber);
/* Returns the stack of a fiber that left. */
void lwk_fiber_end(lwk_fiber_t *fiber);

#endif /* LWK_EMU_FIBER_H */
