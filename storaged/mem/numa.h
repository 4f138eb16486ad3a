/* numa.h - where memory and threads live. Without libnuma (or on one node) every call does nothing. */
#ifndef LWD_MEM_NUMA_H
#define LWD_MEM_NUMA_H

#include <stdbool.h>

#include "base/base.h"

/* True when the machine has more than one memory node that this process may use. */
bool lwd_numa_many(void);
/* Before the first touch: prefers `node` for the range, or interleaves it over all nodes (-1). Failure is
 * logged only. */
void lwd_numa_place(void *memory, uint64_t bytes, int node);
/* Runs the calling thread on the CPUs of `node`; -1: leaves it alone. */
void lwd_numa_run_on(int node);
/* "node 1", "interleaved" or "one node", for the log. Static or thread-local text. */
const char *lwd_numa_text(int node);

#endif /* LWD_MEM_NUMA_H */
