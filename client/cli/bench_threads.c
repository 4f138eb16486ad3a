/* bench_threads.c - independent pieces of work on a few threads that live for one call. */
#include <pthread.h>
#include <stdatomic.h>

#include "client/cli/bench.h"

#define THREADS_MAX 64u

typedef struct {
    void (*task)(void *arg, uint32_t i);
    void *arg;
    uint32_t count;
    _Atomic uint32_t next;
} work_t;

static void *run(void *arg)
{
    work_t *work = arg;
    for (uint32_t i; (i = atomic_fetch_add(&work->next, 1)) < work->count;)
        work->task(work->arg, i);
    return NULL;
}

void lwc_bench_parallel(uint32_t threads, uint32_t count, void (*task)(void *arg, uint32_t i), void *arg)
{
    work_t work = {.task = task, .arg = arg, .count = count};
    pthread_t helper[THREADS_MAX];
    uint32_t started = 0, wanted = threads < count ? threads : count;
    while (started + 1 < wanted && started < THREADS_MAX &&
           pthread_create(&helper[started], NULL, run, &work) == 0)
        started++;
    run(&work);
    for (uint32_t i = 0; i < started; i++)
        pthread_join(helper[i], NULL);
}
