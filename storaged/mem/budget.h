/* budget.h - how much memory this process may still take, by the machine and by its cgroups (v1 and v2). */
#ifndef LWD_MEM_BUDGET_H
#define LWD_MEM_BUDGET_H

#include "base/base.h"

/* Bytes left: the smallest of what the machine has available and of limit minus use of every cgroup from the
 * process's own up to the root. `root` stands for "/" in tests; NULL: "/". UINT64_MAX when nothing is known.
 */
uint64_t lwd_budget_left(const char *root);
/* What an arena of size "auto" gets: half of what is left, in whole MiB, at least the smallest arena. */
uint64_t lwd_budget_arena(const char *root);

#endif /* LWD_MEM_BUDGET_H */
