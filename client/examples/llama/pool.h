/* pool.h - a few threads that share the tasks of one call at a time. Waits block; nobody spins. */
#ifndef LLAMA_POOL_H
#define LLAMA_POOL_H

#include "client/examples/llama/llama.h"

/* worker: 0 (the caller) to llama_pool_threads() - 1, to pick scratch space by. */
typedef void (*llama_task_t)(void *arg, uint32_t task, uint32_t worker);

/* Runs tasks 0 .. task_count - 1 and returns when all are done. Not re-entrant: a task must not call it. */
void llama_pool_run(llama_pool_t *pool, llama_task_t task, void *arg, uint32_t task_count);

#endif /* LLAMA_POOL_H */
