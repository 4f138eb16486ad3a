/* pool.c - the pool: one mutex, one job at a time. Tasks are large (tens of microseconds and more), so taking
 * the next one under the mutex costs nothing that matters. */
#define _GNU_SOURCE
#include "client/examples/llama/pool.h"

#include <cblas.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

typedef struct worker {
    llama_pool_t *pool;
    uint32_t index;
    pthread_t thread;
} worker_t;

struct llama_pool {
    uint32_t thread_count; /* the caller included */
    uint32_t started;      /* threads to join */
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    /* guarded by mutex */
    llama_task_t task;
    void *arg;
    uint32_t next, task_count, running;
    bool stop;
    worker_t worker[LLAMA_THREADS_MAX]; /* [0] stands for the caller */
};

/* Takes and runs tasks until none is left to take. Called and left with the mutex held. */
static void run_tasks(llama_pool_t *pool, uint32_t worker)
{
    while (pool->next < pool->task_count) {
        uint32_t index = pool->next++;
        llama_task_t task = pool->task;
        void *arg = pool->arg;
        pool->running++;
        pthread_mutex_unlock(&pool->mutex);
        task(arg, index, worker);
        pthread_mutex_lock(&pool->mutex);
        pool->running--;
    }
}

static void *worker_main(void *arg)
{
    const worker_t *self = arg;
    llama_pool_t *pool = self->pool;
    pthread_mutex_lock(&pool->mutex);
    while (!pool->stop) {
        if (pool->next >= pool->task_count) {
            pthread_cond_wait(&pool->work, &pool->mutex);
            continue;
        }
        run_tasks(pool, self->index);
        if (!pool->running)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

void llama_pool_run(llama_pool_t *pool, llama_task_t task, void *arg, uint32_t task_count)
{
    if (pool->thread_count == 1 || task_count == 1) { /* nothing to share: wake nobody */
        for (uint32_t i = 0; i < task_count; i++)
            task(arg, i, 0);
        return;
    }
    pthread_mutex_lock(&pool->mutex);
    LW_ASSERT(pool->next >= pool->task_count && !pool->running);
    pool->task = task;
    pool->arg = arg;
    pool->next = 0;
    pool->task_count = task_count;
    pthread_cond_broadcast(&pool->work);
    run_tasks(pool, 0);
    while (pool->running)
        pthread_cond_wait(&pool->done, &pool->mutex);
    pool->next = pool->task_count = 0;
    pthread_mutex_unlock(&pool->mutex);
}

static uint32_t usable_cores(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    return cores < 1 ? 1 : cores > (int)LLAMA_THREADS_MAX ? LLAMA_THREADS_MAX : (uint32_t)cores;
}

lw_status_t llama_pool_create(uint32_t threads, llama_pool_t **pool_out, lw_error_t *error)
{
    if (threads > LLAMA_THREADS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "pool: %u threads, more than %u", threads, LLAMA_THREADS_MAX);
    llama_pool_t *pool = calloc(1, sizeof(*pool));
    if (!pool)
        return lw_fail(error, LW_ERR_NO_MEMORY, "pool: no memory");
    pool->thread_count = threads ? threads : usable_cores();
    pool->started = 1;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    openblas_set_num_threads(1);
    for (uint32_t i = 1; i < pool->thread_count; i++) {
        pool->worker[i].pool = pool;
        pool->worker[i].index = i;
        if (pthread_create(&pool->worker[i].thread, NULL, worker_main, &pool->worker[i]) != 0) {
            llama_pool_destroy(pool);
            return lw_fail(error, LW_ERR_NO_MEMORY, "pool: cannot start thread %u of %u", i,
                           pool->thread_count);
        }
        pool->started = i + 1;
    }
    *pool_out = pool;
    return LW_OK;
}

void llama_pool_destroy(llama_pool_t *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    for (uint32_t i = 1; i < pool->started; i++)
        pthread_join(pool->worker[i].thread, NULL);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

uint32_t llama_pool_threads(const llama_pool_t *pool)
{
    return pool->thread_count;
}
