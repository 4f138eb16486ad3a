/* guard.h - read guards: how the owner of the segments knows that no thread still looks at a freed one.
 *
 * A reader may use what it found in a segment's slot until its next quiet point; each data thread passes one
 * at the start of every round, and is *offline* while it sleeps. The owner retires an extent at an epoch and
 * recycles it once every thread has passed a quiet point of that epoch or is offline. Transfers that outlive
 * a round borrow the slot instead. */
#ifndef LWD_SHARD_GUARD_H
#define LWD_SHARD_GUARD_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define LWD_THREADS_MAX 64u
#define LWD_GUARD_OFFLINE UINT64_MAX

typedef struct lwd_guard {
    alignas(64) _Atomic uint64_t quiet; /* written by its thread, read by the owner */
} lwd_guard_t;

typedef struct lwd_guards {
    alignas(64) _Atomic uint64_t epoch;
    uint32_t count; /* threads */
    lwd_guard_t guard[LWD_THREADS_MAX];
} lwd_guards_t;

/* All threads offline. count <= LWD_THREADS_MAX. */
void lwd_guards_init(lwd_guards_t *guards, uint32_t count);

/* Own thread: nothing read before this call is used after it. Also brings an offline thread back. */
static inline void lwd_guard_quiet(lwd_guards_t *guards, uint32_t thread)
{
    uint64_t epoch = atomic_load_explicit(&guards->epoch, memory_order_seq_cst);
    _Atomic uint64_t *quiet = &guards->guard[thread].quiet;
    if (atomic_load_explicit(quiet, memory_order_relaxed) != epoch)
        atomic_store_explicit(quiet, epoch, memory_order_seq_cst);
}
/* Own thread, before it sleeps. */
static inline void lwd_guard_offline(lwd_guards_t *guards, uint32_t thread)
{
    atomic_store_explicit(&guards->guard[thread].quiet, LWD_GUARD_OFFLINE, memory_order_seq_cst);
}
/* Owner: what was unpublished before this call may be recycled once the returned epoch has passed. */
static inline uint64_t lwd_guard_retire(lwd_guards_t *guards)
{
    return atomic_fetch_add_explicit(&guards->epoch, 1, memory_order_seq_cst) + 1;
}
/* Has every thread passed a quiet point of `epoch` (or is it offline)? */
bool lwd_guard_passed(const lwd_guards_t *guards, uint64_t epoch);

#endif /* LWD_SHARD_GUARD_H */
