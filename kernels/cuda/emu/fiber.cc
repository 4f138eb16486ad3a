/* fiber.cc - stacks from a pool, each above a guard page, and a switch that keeps what the ABI says a call keeps. */
#include "kernels/cuda/emu/fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBER_ASAN 1
#endif
#endif

#if defined(FIBER_ASAN)
extern "C" void __sanitizer_start_switch_fiber(void **fake_stack_save, const void *bottom, size_t size);
extern "C" void __sanitizer_finish_switch_fiber(void *fake_stack_save, const void **bottom_old, size_t *size_old);
extern "C" void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
static const size_t STACK_BYTES = 256u << 10; /* red zones need room */
#else
static const size_t STACK_BYTES = 64u << 10;
#endif
static const size_t GUARD_BYTES = 4096;

/* Saves the callee's registers on the stack and its top in *save, then goes on at `to`. */
extern "C" void lwk_fiber_switch(void **save, void *to);
asm(".text\n"
    ".globl lwk_fiber_switch\n"
    ".hidden lwk_fiber_switch\n"
    ".type lwk_fiber_switch, @function\n"
    "lwk_fiber_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size lwk_fiber_switch, .-lwk_fiber_switch\n"
    /* A new fiber comes here from the `ret` above. */
    ".globl lwk_fiber_begin\n"
    ".hidden lwk_fiber_begin\n"
    ".type lwk_fiber_begin, @function\n"
    "lwk_fiber_begin:\n"
    "    movq %r12, %rdi\n"
    "    call lwk_fiber_main\n"
    "    ud2\n"
    ".size lwk_fiber_begin, .-lwk_fiber_begin\n");
extern "C" void lwk_fiber_begin(void);
extern "C" __attribute__((visibility("hidden"), noreturn)) void lwk_fiber_main(lwk_fiber_t *fiber);

static void *scheduler_sp; /* of the one resume that runs: the caller holds the device's lock */
#if defined(FIBER_ASAN)
static const void *scheduler_bottom;
static size_t scheduler_bytes;
static bool from_scheduler; /* the switch under way */

/* Behind every switch to a fiber: where we came from is told there, and only the scheduler's stack is unknown. */
static void finish_switch(void *fake)
{
    if (from_scheduler)
        __sanitizer_finish_switch_fiber(fake, &scheduler_bottom, &scheduler_bytes);
    else
        __sanitizer_finish_switch_fiber(fake, NULL, NULL);
    from_scheduler = false;
}
#endif

/* Free stacks, linked through their first word. */
static void *pool;

static void *stack_take(void)
{
    if (pool != NULL) {
        void *stack = pool;
        memcpy(&pool, stack, sizeof pool);
        return stack;
    }
    void *memory = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) {
        fprintf(stderr, "emulator: no memory for one more thread's stack\n");
        abort();
    }
    return (char *)memory + GUARD_BYTES;
}

extern "C" void lwk_fiber_main(lwk_fiber_t *fiber)
{
#if defined(FIBER_ASAN)
    finish_switch(NULL);
#endif
    fiber->entry(fiber->arg);
    fprintf(stderr, "emulator: a fiber returned\n");
    abort();
}

void lwk_fiber_start(lwk_fiber_t *fiber, void (*entry)(void *arg), void *arg)
{
    fiber->entry = entry;
    fiber->arg = arg;
    fiber->stack = stack_take();
#if defined(FIBER_ASAN)
    __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
#endif
    void **top = (void **)((char *)fiber->stack + STACK_BYTES) - 2;
    *--top = (void *)lwk_fiber_begin; /* rsp is a multiple of 16 behind the `ret`, as `call` wants it */
    *--top = NULL;                    /* rbp */
    *--top = NULL;                    /* rbx */
    *--top = fiber;                   /* r12 */
    *--top = NULL;                    /* r13 */
    *--top = NULL;                    /* r14 */
    *--top = NULL;                    /* r15 */
    fiber->sp = top;
}

void lwk_fiber_resume(lwk_fiber_t *fiber)
{
#if defined(FIBER_ASAN)
    void *fake = NULL;
    from_scheduler = true;
    __sanitizer_start_switch_fiber(&fake, fiber->stack, STACK_BYTES);
    lwk_fiber_switch(&scheduler_sp, fiber->sp);
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#else
    lwk_fiber_switch(&scheduler_sp, fiber->sp);
#endif
}

void lwk_fiber_suspend(lwk_fiber_t *fiber)
{
#if defined(FIBER_ASAN)
    void *fake = NULL;
    __sanitizer_start_switch_fiber(&fake, scheduler_bottom, scheduler_bytes);
    lwk_fiber_switch(&fiber->sp, scheduler_sp);
    finish_switch(fake);
#else
    lwk_fiber_switch(&fiber->sp, scheduler_sp);
#endif
}

void lwk_fiber_change(lwk_fiber_t *fiber, lwk_fiber_t *to)
{
#if defined(FIBER_ASAN)
    void *fake = NULL;
    __sanitizer_start_switch_fiber(&fake, to->stack, STACK_BYTES);
    lwk_fiber_switch(&fiber->sp, to->sp);
    finish_switch(fake);
#else
    lwk_fiber_switch(&fiber->sp, to->sp);
#endif
}

void lwk_fiber_leave(lwk_fiber_t *fiber)
{
#if defined(FIBER_ASAN)
    __sanitizer_start_switch_fiber(NULL, scheduler_bottom, scheduler_bytes);
#endif
    lwk_fiber_switch(&fiber->sp, scheduler_sp);
    abort();
}

void lwk_fiber_end(lwk_fiber_t *fiber)
{
    void *stack = fiber->stack;
    fiber->stack = NULL;
    memcpy(stack, &pool, sizeof pool);
    pool = stack;
}
