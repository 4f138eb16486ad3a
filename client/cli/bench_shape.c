/* bench_shape.c - shapes that benchmarks know by name. Of a model split over ranks: what one rank holds. */
#include <string.h>

#include "base/base.h"
#include "client/cli/bench.h"

typedef struct {
    const char *name, *what;
    llama_shape_t shape;
} named_t;

#define SHAPE(l, q, kv, d, e, f, v, c, base)                                                          \
    {                                                                                                 \
        .layers = (l), .query_heads = (q), .kv_heads = (kv), .head_dim = (d), .embedding = (e),       \
        .feed_forward = (f), .vocabulary = (v), .context = (c), .rope_dim = (d), .rope_base = (base), \
        .rope_scale = 1, .rms_epsilon = 1e-5f                                                         \
    }

static const named_t named[] = {
    {"llama3-8b", "32 layers, 32 query heads on 8 KV heads of 128",
     SHAPE(32, 32, 8, 128, 4096, 14336, 128256, 1u << 20, 500000)},
    {"llama3-70b-tp8", "one of 8 ranks: 80 layers, 8 query heads on 1 KV head of 128",
     SHAPE(80, 8, 1, 128, 8192, 3584, 128256, 1u << 20, 500000)},
    {"qwen2.5-7b", "28 layers, 28 query heads on 4 KV heads of 128",
     SHAPE(28, 28, 4, 128, 3584, 18944, 152064, 1u << 20, 1000000)},
    {"smollm2", "30 layers, 9 query heads on 3 KV heads of 64",
     SHAPE(30, 9, 3, 64, 576, 1536, 49152, 1u << 20, 100000)},
    {"tiny", "2 layers, 4 query heads on 2 KV heads of 64: to try the command",
     SHAPE(2, 4, 2, 64, 256, 512, 512, 1u << 20, 10000)},
};

bool lwc_bench_shape(const char *name, llama_shape_t *shape_out)
{
    for (size_t i = 0; i < LW_ARRAY_SIZE(named); i++)
        if (strcmp(name, named[i].name) == 0) {
            *shape_out = named[i].shape;
            return true;
        }
    return false;
}

void lwc_bench_shapes(FILE *out)
{
    for (size_t i = 0; i < LW_ARRAY_SIZE(named); i++)
        fprintf(out, "    %-15s %s\n", named[i].name, named[i].what);
}
