/* guard.c - quiet points of the data threads. */
#include "storaged/shard/guard.h"

#include "base/base.h"

void lwd_guards_init(lwd_guards_t *guards, uint32_t count)
{
    LW_ASSERT(count > 0 && count <= LWD_THREADS_MAX);
    atomic_init(&guards->epoch, 1);
    guards->count = count;
    for (uint32_t i = 0; i < LWD_THREADS_MAX; i++)
        atomic_init(&guards->guard[i].quiet, LWD_GUARD_OFFLINE);
}

bool lwd_guard_passed(const lwd_guards_t *guards, uint64_t epoch)
{
    for (uint32_t i = 0; i < guards->count; i++) {
        if (atomic_load_explicit(&guards->guard[i].quiet, memory_order_seq_cst) < epoch)
            return false;
    }
    return true;
}
