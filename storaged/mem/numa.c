/* numa.c - the only file that includes numa.h. */
#include "storaged/mem/numa.h"

#include <stdio.h>

#include "base/log.h"

#ifdef LW_HAVE_NUMA
#include <numa.h>

bool lwd_numa_many(void)
{
    return numa_available() >= 0 && numa_num_configured_nodes() > 1;
}

void lwd_numa_place(void *memory, uint64_t bytes, int node)
{
    if (!lwd_numa_many())
        return;
    if (node < 0)
        numa_interleave_memory(memory, bytes, numa_all_nodes_ptr);
    else if (node <= numa_max_node())
        numa_tonode_memory(memory, bytes, node);
    else
        LW_WARN("mem", "NUMA node %d does not exist (highest is %d): memory is not placed", node,
                numa_max_node());
}

void lwd_numa_run_on(int node)
{
    if (node >= 0 && lwd_numa_many() && numa_run_on_node(node) != 0)
        LW_WARN("mem", "cannot run a data thread on NUMA node %d", node);
}
#else
bool lwd_numa_many(void)
{
    return false;
}

void lwd_numa_place(void *memory, uint64_t bytes, int node)
{
    (void)memory, (void)bytes, (void)node;
}

void lwd_numa_run_on(int node)
{
    (void)node;
}
#endif

const char *lwd_numa_text(int node)
{
    static _Thread_local char text[24];
    if (!lwd_numa_many())
        return "one node";
    if (node < 0)
        return "interleaved";
    (void)snprintf(text, sizeof(text), "node %d", node);
    return text;
}
