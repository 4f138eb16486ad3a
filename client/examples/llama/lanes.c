/* lanes.c - instantiates lanes_body.h for each instruction set and chooses one. */
#include "client/examples/llama/lanes.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"
#include "client/examples/llama/dequantise.h"

#define LANES_NAME(x) base_##x
#define LANES_TARGET
#define LANES_TEXT "baseline"
#include "client/examples/llama/lanes_body.h"

#if defined(__x86_64__)
#define LANES_NAME(x) avx2_##x
#define LANES_TARGET __attribute__((target("avx2,fma")))
#define LANES_TEXT "avx2"
#include "client/examples/llama/lanes_body.h"

#define LANES_NAME(x) avx512_##x
#define LANES_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")))
#define LANES_TEXT "avx512"
#include "client/examples/llama/lanes_body.h"
#endif

const llama_lanes_t *llama_lanes_at(unsigned index)
{
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (index == 1 && avx2)
        return &avx2_set;
    if (index == 2 && avx512)
        return &avx512_set;
#endif
    return index == 0 ? &base_set : NULL;
}

const llama_lanes_t *llama_lanes(void)
{
    unsigned best = 0;
    while (llama_lanes_at(best + 1))
        best++;
    return llama_lanes_at(best);
}
