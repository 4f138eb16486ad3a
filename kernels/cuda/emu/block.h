/* block.h - the threads of a launch, and who runs next. All of it under the device's lock.
 *
 * A thread runs until it waits (barrier, warp function, lwk_pause) or ends. Ready threads stand in a queue for each block;
 * the first order, and the order in which a barrier lets threads go, are shuffled by LWK_EMU_SEED. */
#ifndef LWK_EMU_BLOCK_H
#define LWK_EMU_BLOCK_H

#include <stddef.h>
#include <stdint.h>

#include <functional>

#include "kernels/cuda/emu/fiber.h"
#include "kernels/cuda/emu/types.h"
#include "kernels/cuda/emu/warp.h"

typedef enum emu_state { EMU_READY, EMU_AT_BARRIER, EMU_AT_WARP, EMU_DONE } emu_state_t;

/* A place in the source. */
typedef struct emu_site {
    const char *file;
    int line;
} emu_site_t;

/* What a lane brings to a warp function. */
typedef struct emu_warp_call {
    int kind; /* emu_warp_kind */
    unsigned mask;
    emu_site_t site;
    uint64_t in;
    int select, width; /* source lane, delta or xor mask */
    void *fragment;    /* matrix functions: emu_fragment_t on the lane's stack */
} emu_warp_call_t;

/* One asynchronous copy that has not landed. */
typedef struct emu_copy {
    void *to;
    const void *from; /* NULL: zeros */
    unsigned group;
} emu_copy_t;

struct emu_block;

typedef struct emu_thread {
    lwk_emu_thread_t seen; /* first: what lwk_emu_self points to */
    lwk_fiber_t fiber;
    struct emu_block *block;
    unsigned number, lane;
    emu_state_t state;
    bool started;
    emu_site_t site; /* where it waits */
    emu_warp_call_t call;
    uint64_t result;
    emu_copy_t *copies; /* in the order they were started; kept for the next thread that stands here */
    unsigned copy_count, copy_capacity, copy_group; /* group: number of the one being filled */
} emu_thread_t;

typedef struct emu_block {
    const struct emu_launch *launch;
    uint3 index;
    unsigned live;     /* threads that have not ended */
    unsigned arrived;  /* at the barrier */
    emu_site_t site;   /* of the barrier */
    unsigned barrier_or, barrier_count;
    unsigned paused;   /* threads that ran since the last one that did more than pause */
    uint64_t work;     /* times that a thread got on: grows while the block does something */
    uint32_t *queue;   /* ring of ready threads, [capacity] */
    unsigned queue_first, queue_count, capacity;
    emu_thread_t *threads;
    uint32_t warp_live[32], warp_waiting[32]; /* lanes of each warp that have not ended; that are in a warp function */
    unsigned char *shared; /* with a canary on both sides */
} emu_block_t;

/* One launch, as it was asked for. */
typedef struct emu_launch {
    const char *name;
    dim3 grid;
    unsigned threads;
    size_t shared_bytes;
    bool resident;
    std::function<void()> body; /* the kernel with its arguments, for one thread */
} emu_launch_t;

/* Runs a whole launch. The caller holds the device's lock; it is given up while every thread only pauses. */
void emu_run(const emu_launch_t *launch);

/* Ends the program with what, the kernel, the block and the thread that runs. */
__attribute__((noreturn)) void emu_fail(const char *what, emu_site_t site);

/* From a thread that waits, or stands in the queue: lets the next one run, and comes back when it is its turn. */
void emu_next(emu_thread_t *thread);
/* Puts a waiting thread into its block's queue. */
void emu_make_ready(emu_thread_t *thread);
/* warp.cc: lets a warp's lanes go if all that one call names have come. `any` is one of them. */
void emu_warp_try(emu_thread_t *any);

uint64_t emu_random(void);

/* runtime.cc: the device's lock. */
void emu_lock(void);
void emu_unlock(void);

#endif /* LWK_EMU_BLOCK_H */
