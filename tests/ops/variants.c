/* variants.c - see variants.h. */
#include "ops/variants.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const ops_variant_t ops_variants[OPS_VARIANTS] = {
    {"ref", "ref", NULL},        {"cpu-plain", "cpu", "plain"},
    {"cpu-avx2", "cpu", "avx2"}, {"cpu-avx512", "cpu", "avx512"},
    {"cuda", "cuda", NULL},
};

const lwk_backend_t *ops_variant_use(const ops_variant_t *variant)
{
    const lwk_backend_t *backend = lwk_backend_find(variant->backend);
    if (backend == NULL)
        return NULL;
    if (variant->level != NULL)
        setenv("LWK_CPU_LEVEL", variant->level, 1);
    else
        unsetenv("LWK_CPU_LEVEL");
    lwk_dev_t *dev = NULL;
    if (backend->open(0, &dev, NULL) != LW_OK)
        return NULL;
    /* A level that the processor lacks falls back to a lower one. */
    bool same = variant->level == NULL || strcmp(backend->describe(dev), variant->level) == 0;
    backend->close(dev);
    return same ? backend : NULL;
}

uint64_t ops_seed(void)
{
    const char *text = getenv("LW_SEED");
    uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) * 0x9E3779B97F4A7C15ull;
    printf("LW_SEED=0x%llx\n", (unsigned long long)seed);
    return seed;
}
