/* loop.c - drives one worker on its own thread: rounds while there is work, a while of spinning after it,
 * then sleep on the fabric's descriptor and the worker's own. How long it spins adapts: work that comes soon
 * after falling asleep lengthens it, long sleeps shorten it. */
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <time.h>

#include "storaged/net/net_private.h"

#define SLEEP_US 20000u /* the reaper and the questions run at least this often */
#define CPU_SAMPLE_US 200000u
#define YIELD_AFTER_US 16u /* of spinning: answers that are on their way come sooner */

static uint64_t thread_cpu_us(void)
{
    struct timespec used;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) != 0)
        return 0;
    return (uint64_t)used.tv_sec * 1000000u + (uint64_t)used.tv_nsec / 1000u;
}

static bool nothing_waits(const lwd_worker_t *worker)
{
    return lwd_ring_empty(&worker->answers) && lwd_ring_empty(&worker->endings) &&
           lwd_ring_empty(&worker->changes) && lwd_ring_empty(&worker->returned) &&
           lwd_ring_empty(&worker->tasks) && !atomic_load_explicit(&worker->nudged, memory_order_seq_cst);
}

/* Returns when there may be work, or after SLEEP_US. */
static void worker_sleep(lwd_worker_t *worker)
{
    const lw_fabric_ops_t *ops = worker->params.fabric;
    int fd = ops->event_fd(worker->fabric);
    (void)atomic_exchange_explicit(&worker->asleep, true, memory_order_seq_cst);
    if (!nothing_waits(worker) || fd < 0 || !ops->arm(worker->fabric)) {
        atomic_store_explicit(&worker->asleep, false, memory_order_seq_cst);
        return;
    }
    lwd_guard_offline(worker->params.guards, worker->params.index);
    struct pollfd wanted[2] = {{.fd = fd, .events = POLLIN}, {.fd = worker->wake_fd, .events = POLLIN}};
    (void)poll(wanted, 2, SLEEP_US / 1000);
    lwd_guard_quiet(worker->params.guards, worker->params.index);
    atomic_store_explicit(&worker->asleep, false, memory_order_seq_cst);
    eventfd_t woken;
    if ((wanted[1].revents & POLLIN) != 0)
        (void)eventfd_read(worker->wake_fd, &woken);
    lw_count(&lwd_stats(worker)->sleeps, 1);
}

void lwd_loop_run(lwd_worker_t *worker, const lw_clock_t *clock, const _Atomic uint64_t *spin_us)
{
    uint64_t now = lw_now_us(clock), worked = now, sampled = now;
    uint64_t spin = atomic_load_explicit(spin_us, memory_order_relaxed);
    while (!lwd_worker_stopped(worker)) {
        unsigned events = lwd_worker_round(worker, now);
        now = lw_now_us(clock);
        if (now - sampled >= CPU_SAMPLE_US) {
            sampled = now;
            lw_gauge(&lwd_stats(worker)->cpu_us, thread_cpu_us());
        }
        if (events > 0) {
            worked = now;
            continue;
        }
        uint64_t most = atomic_load_explicit(spin_us, memory_order_relaxed);
        if (now - worked < spin) {
            if (now - worked >= YIELD_AFTER_US)
                (void)sched_yield(); /* whoever shares the core may be the one that is waited for */
            continue;
        }
        worker_sleep(worker);
        uint64_t slept = lw_now_us(clock) - now;
        now += slept;
        /* A sleep shorter than two of the longest spins cost a wake-up that spinning would have saved. */
        spin = slept < 2 * most ? lw_min_u64(most, 2 * spin + 1) : spin / 2;
        spin = lw_min_u64(lw_max_u64(spin, most / 4), most);
    }
    lw_gauge(&lwd_stats(worker)->cpu_us, thread_cpu_us());
    lwd_guard_offline(worker->params.guards, worker->params.index);
}
