/* task.h - a piece of work that another thread has the shard's owner do: it runs once, between two messages, and then says
 * so. The task's memory is the submitter's until done is true. */
#ifndef LWD_SHARD_TASK_H
#define LWD_SHARD_TASK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct lwd_shard;

typedef struct lwd_task {
    /* Owner thread; short, and must not block. */
    void (*run)(struct lwd_task *task, struct lwd_shard *shard, uint64_t now_us);
    _Atomic bool done; /* stored with release after run */
} lwd_task_t;

#endif /* LWD_SHARD_TASK_H */
