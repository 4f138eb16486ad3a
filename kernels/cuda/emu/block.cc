/* block.cc - runs the blocks of a launch, their threads in a shuffled order. See block.h. */
#include "kernels/cuda/emu/block.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

lwk_emu_thread_t *lwk_emu_self;

static const unsigned LANES = 32;
static const size_t CANARY_BYTES = 64;
static const unsigned char CANARY = 0xA5;
/* A launch that only waits for so long is taken for one that waits for ever. LWK_EMU_WAIT_S. */
static const unsigned WAIT_S = 120;

/* ---- numbers that shuffle
 * ---------------------------------------------------------------------------------------- */

static uint64_t random_state;
static unsigned char poison = 0xFF; /* NaN as float, -1 as int; 0xCD for odd seeds */

static void seed_once(void)
{
    static bool done;
    if (done)
        return;
    done = true;
    const char *text = getenv("LWK_EMU_SEED");
    uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : 0;
    random_state = seed * 0x9E3779B97F4A7C15ull + 0x1234567u;
    poison = (seed & 1) != 0 ? 0xCD : 0xFF;
}

uint64_t emu_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* ---- what went wrong
 * --------------------------------------------------------------------------------------------- */

static emu_thread_t *running(void)
{
    return (emu_thread_t *)lwk_emu_self;
}

void emu_fail(const char *what, emu_site_t site)
{
    emu_thread_t *t = running();
    if (t != NULL)
        fprintf(stderr, "emulator: kernel %s, block (%u,%u,%u), thread %u: %s at %s:%d\n", t->block->launch->name,
                t->block->index.x, t->block->index.y, t->block->index.z, t->number, what, site.file, site.line);
    else
        fprintf(stderr, "emulator: %s at %s:%d\n", what, site.file, site.line);
    abort();
}

/* Every live thread waits for one that does not come. */
__attribute__((noreturn)) static void fail_stuck(const emu_block_t *b)
{
    fprintf(stderr, "emulator: kernel %s, block (%u,%u,%u): its threads wait for each other:\n", b->launch->name,
            b->index.x, b->index.y, b->index.z);
    unsigned shown = 0;
    for (unsigned i = 0; i < b->launch->threads && shown < 40; i++) {
        const emu_thread_t *t = &b->threads[i];
        const emu_thread_t *last = i > 0 ? &b->threads[i - 1] : NULL;
        if (t->state == EMU_DONE ||
            (last != NULL && last->state == t->state && last->site.line == t->site.line && last->call.mask == t->call.mask))
            continue;
        shown++;
        if (t->state == EMU_AT_BARRIER)
            fprintf(stderr, "  thread %u and following: at the barrier %s:%d\n", i, t->site.file, t->site.line);
        else
            fprintf(stderr, "  thread %u and following: at a warp function %s:%d with mask %08x\n", i, t->site.file,
                    t->site.line, t->call.mask);
    }
    abort();
}

/* ---- threads
 * ----------------------------------------------------------------------------------------------------- */

static void queue_push(emu_block_t *b, unsigned number)
{
    unsigned at = b->queue_first + b->queue_count;
    b->queue[at < b->capacity ? at : at - b->capacity] = number;
    b->queue_count++;
}

static unsigned queue_pop(emu_block_t *b)
{
    unsigned number = b->queue[b->queue_first];
    b->queue_first = b->queue_first + 1 < b->capacity ? b->queue_first + 1 : 0;
    b->queue_count--;
    return number;
}

void emu_make_ready(emu_thread_t *t)
{
    t->state = EMU_READY;
    t->block->paused = 0;
    t->block->work++;
    queue_push(t->block, t->number);
}

static void thread_start(emu_thread_t *t);

void emu_next(emu_thread_t *t)
{
    emu_block_t *b = t->block;
    if (b->queue_count == 0 || b->paused > b->queue_count) { /* the scheduler decides */
        lwk_fiber_suspend(&t->fiber);
        return;
    }
    emu_thread_t *next = &b->threads[queue_pop(b)];
    if (next == t)
        return;
    if (!next->started)
        thread_start(next);
    lwk_emu_self = &next->seen;
    lwk_fiber_change(&t->fiber, &next->fiber);
}

void lwk_emu_pause(void)
{
    emu_thread_t *t = running();
    t->block->paused++;
    queue_push(t->block, t->number); /* still ready, behind the others */
    emu_next(t);
}

static void barrier_release(emu_block_t *b)
{
    unsigned first = (unsigned)(emu_random() % b->launch->threads);
    for (unsigned i = 0; i < b->launch->threads; i++) {
        unsigned number = first + i < b->launch->threads ? first + i : first + i - b->launch->threads;
        emu_thread_t *t = &b->threads[number];
        if (t->state != EMU_AT_BARRIER)
            continue;
        t->result = (uint64_t)b->barrier_or << 32 | b->barrier_count;
        emu_make_ready(t);
    }
    b->arrived = b->barrier_or = b->barrier_count = 0;
}

uint64_t lwk_emu_barrier(int predicate, const char *file, int line)
{
    emu_thread_t *t = running();
    emu_block_t *b = t->block;
    emu_site_t site = {file, line};
    if (b->arrived == 0)
        b->site = site;
    else if (b->site.line != line || strcmp(b->site.file, file) != 0)
        emu_fail("this barrier is not the one that the other threads of the block are at", site);
    t->site = site;
    b->arrived++;
    b->barrier_or |= predicate != 0;
    b->barrier_count += predicate != 0;
    t->state = EMU_AT_BARRIER;
    if (b->arrived == b->live)
        barrier_release(b); /* this thread too: it goes on when its turn comes */
    emu_next(t);
    return t->result;
}

static void thread_main(void *arg)
{
    emu_thread_t *t = (emu_thread_t *)arg;
    t->block->launch->body();
    t->state = EMU_DONE;
    lwk_fiber_leave(&t->fiber);
}

static void thread_ended(emu_thread_t *t)
{
    emu_block_t *b = t->block;
    lwk_fiber_end(&t->fiber);
    b->live--;
    b->warp_live[t->number / LANES] &= ~(1u << t->lane);
    b->work++;
    b->paused = 0;
    if (b->arrived > 0 && b->arrived == b->live)
        barrier_release(b);
    /* Lanes may have waited for everyone who lives. */
    for (unsigned i = 0; i < LANES && b->warp_waiting[t->number / LANES] != 0; i++)
        if ((b->warp_waiting[t->number / LANES] >> i & 1u) != 0)
            emu_warp_try(&b->threads[t->number / LANES * LANES + i]);
}

static void thread_start(emu_thread_t *t)
{
    t->started = true;
    lwk_fiber_start(&t->fiber, thread_main, t);
}

/* Runs threads from this one on, until one ends or nobody can go on. */
static void thread_run(emu_thread_t *t)
{
    if (!t->started)
        thread_start(t);
    lwk_emu_self = &t->seen;
    lwk_fiber_resume(&t->fiber);
    emu_thread_t *last = running();
    lwk_emu_self = NULL;
    if (last->state == EMU_DONE)
        thread_ended(last);
}

/* ---- blocks
 * ------------------------------------------------------------------------------------------------------ */

static emu_block_t *block_create(const emu_launch_t *launch)
{
    emu_block_t *b = (emu_block_t *)calloc(1, sizeof *b);
    b->launch = launch;
    b->threads = (emu_thread_t *)calloc(launch->threads, sizeof *b->threads);
    b->capacity = launch->threads + 1;
    b->queue = (uint32_t *)calloc(b->capacity, sizeof *b->queue);
    b->shared = (unsigned char *)aligned_alloc(128, 128 + (launch->shared_bytes + CANARY_BYTES + 127) / 128 * 128);
    return b;
}

static void block_destroy(emu_block_t *b)
{
    for (unsigned i = 0; i < b->launch->threads; i++)
        free(b->threads[i].copies);
    free(b->threads);
    free(b->queue);
    free(b->shared);
    free(b);
}

/* The shared memory begins behind 128 bytes, of which the last ones are the canary. */
static unsigned char *block_shared(emu_block_t *b) { return b->shared + 128; }

static void block_start(emu_block_t *b, uint64_t number)
{
    const emu_launch_t *launch = b->launch;
    b->index.x = (unsigned)(number % launch->grid.x);
    b->index.y = (unsigned)(number / launch->grid.x % launch->grid.y);
    b->index.z = (unsigned)(number / launch->grid.x / launch->grid.y);
    b->live = launch->threads;
    b->arrived = b->barrier_or = b->barrier_count = b->paused = 0;
    b->queue_first = b->queue_count = 0;
    unsigned char *shared = block_shared(b);
    memset(shared - CANARY_BYTES, CANARY, CANARY_BYTES);
    memset(shared, poison, launch->shared_bytes);
    memset(shared + launch->shared_bytes, CANARY, CANARY_BYTES);
    memset(b->warp_live, 0, sizeof b->warp_live);
    memset(b->warp_waiting, 0, sizeof b->warp_waiting);
    for (unsigned i = 0; i < launch->threads; i++) {
        emu_thread_t *t = &b->threads[i];
        b->warp_live[i / LANES] |= 1u << i % LANES;
        t->seen.thread_index = uint3{i, 0, 0};
        t->seen.block_index = b->index;
        t->seen.block_dim = dim3(launch->threads);
        t->seen.grid_dim = launch->grid;
        t->seen.shared = shared;
        t->block = b;
        t->number = i;
        t->lane = i % LANES;
        t->state = EMU_READY;
        t->started = false;
        t->copy_count = t->copy_group = 0;
        queue_push(b, i);
    }
    for (unsigned i = launch->threads - 1; i > 0; i--) {
        unsigned j = (unsigned)(emu_random() % (i + 1));
        uint32_t swap = b->queue[i];
        b->queue[i] = b->queue[j];
        b->queue[j] = swap;
    }
}

static void block_end(emu_block_t *b)
{
    const unsigned char *shared = block_shared(b);
    for (size_t i = 0; i < CANARY_BYTES; i++) {
        if (shared[-1 - (ptrdiff_t)i] == CANARY && shared[b->launch->shared_bytes + i] == CANARY)
            continue;
        fprintf(stderr, "emulator: kernel %s, block (%u,%u,%u) wrote outside its %zu bytes of shared memory\n",
                b->launch->name, b->index.x, b->index.y, b->index.z, b->launch->shared_bytes);
        abort();
    }
}

/* Runs threads until the block has ended or all that can run only pause. */
static void block_run(emu_block_t *b)
{
    while (b->live > 0 && b->queue_count > 0) {
        if (b->paused > b->queue_count)
            return;
        thread_run(&b->threads[queue_pop(b)]);
    }
    if (b->live > 0 && b->queue_count == 0)
        fail_stuck(b);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Everybody waits for the host or another stream: let them. `since` is 0 or when the wait began. */
static void give_way(const emu_launch_t *launch, uint64_t *since)
{
    const char *text = getenv("LWK_EMU_WAIT_S");
    uint64_t limit_s = text != NULL ? strtoull(text, NULL, 0) : WAIT_S;
    if (*since == 0)
        *since = now_ns();
    else if (now_ns() - *since > limit_s * 1000000000u) {
        fprintf(stderr, "emulator: kernel %s: its threads have waited for %llu s\n", launch->name,
                (unsigned long long)limit_s);
        abort();
    }
    emu_unlock();
    struct timespec moment = {0, 20000};
    nanosleep(&moment, NULL);
    emu_lock();
}

/* One of `count` blocks after the other, in an order of its own. */
static void run_in_turn(const emu_launch_t *launch, uint64_t count)
{
    emu_block_t *b = block_create(launch);
    uint64_t step = emu_random() % count | 1, at = emu_random() % count;
    for (uint64_t x = step, y = count; y != 0;) { /* greatest common divisor of step and count */
        uint64_t rest = x % y;
        x = y;
        y = rest;
        if (y == 0 && x != 1)
            step = 1;
    }
    for (uint64_t i = 0; i < count; i++) {
        block_start(b, at);
        uint64_t since = 0;
        while (block_run(b), b->live > 0) {
            b->paused = 0;
            give_way(launch, &since);
        }
        block_end(b);
        at = (at + step) % count;
    }
    block_destroy(b);
}

/* All blocks live together; each runs until it can only wait. */
static void run_together(const emu_launch_t *launch, uint64_t count)
{
    emu_block_t **blocks = (emu_block_t **)calloc(count, sizeof *blocks);
    for (uint64_t i = 0; i < count; i++) {
        blocks[i] = block_create(launch);
        block_start(blocks[i], i);
    }
    uint64_t live = count, since = 0;
    while (live > 0) {
        uint64_t first = emu_random() % count;
        bool moved = false;
        for (uint64_t i = 0; i < count; i++) {
            emu_block_t *b = blocks[(first + i) % count];
            if (b == NULL)
                continue;
            b->paused = 0;
            uint64_t before = b->work;
            block_run(b);
            moved = moved || b->work != before;
            if (b->live > 0)
                continue;
            block_end(b);
            live--;
            block_destroy(b);
            blocks[(first + i) % count] = NULL;
        }
        if (moved)
            since = 0;
        else
            give_way(launch, &since);
    }
    free(blocks);
}

void emu_run(const emu_launch_t *launch)
{
    seed_once();
    uint64_t count = (uint64_t)launch->grid.x * launch->grid.y * launch->grid.z;
    if (count == 0)
        return;
    if (launch->resident)
        run_together(launch, count);
    else
        run_in_turn(launch, count);
}
