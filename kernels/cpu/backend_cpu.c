/* backend_cpu.c - the table of the cpu backend, and which loops its device runs.
 *
 * LWK_CPU_LEVEL in the environment (plain, avx2, avx512) chooses slower loops than the processor allows: for
 * tests, and to ask whether an instruction set is to blame. */
#include <pthread.h>
#include <stdlib.h>

#include "kernels/cpu/build.h"
#include "kernels/cpu/cpu_private.h"
#include "kernels/host.h"
#include "kernels/ref/ref.h"
#include "kernels/stubs.h"

/* Best first; plain is always there. */
static const lwk_loops_t *const all_loops[] = {
#if defined(__x86_64__)
    &lwk_loops_avx512,
    &lwk_loops_avx2,
#endif
    &lwk_loops_plain,
};

static bool is_supported(const lwk_loops_t *loops)
{
#if defined(__x86_64__)
    bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (loops == &lwk_loops_avx512)
        return avx2 && __builtin_cpu_supports("avx512f");
    if (loops == &lwk_loops_avx2)
        return avx2;
#endif
    return loops == &lwk_loops_plain;
}

const lwk_loops_t *lwk_cpu_loops(const lwk_dev_t *dev, uint32_t head_dim)
{
    bool reached = false; /* the device's own level */
    for (size_t i = 0; i < LW_ARRAY_SIZE(all_loops); i++) {
        reached |= all_loops[i] == dev->loops;
        if (reached && is_supported(all_loops[i]) && head_dim % all_loops[i]->head_dim_step == 0)
            return all_loops[i];
    }
    return &lwk_loops_plain; /* its step divides every head_dim that lwk_shape_check() lets through */
}

static const lwk_loops_t *choose_loops(void)
{
    const char *level = getenv("LWK_CPU_LEVEL");
    bool reached = level == NULL || level[0] == '\0';
    for (size_t i = 0; i < LW_ARRAY_SIZE(all_loops); i++) {
        reached |= !reached && strcmp(level, all_loops[i]->name) == 0;
        if (reached && is_supported(all_loops[i]))
            return all_loops[i];
    }
    return NULL;
}

static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static lw_status_t cpu_open(unsigned ordinal, lwk_dev_t **dev_out, lw_error_t *error)
{
    if (ordinal != 0)
        return lw_fail(error, LW_ERR_INVALID, "cpu: ordinal is %u; only device 0 exists", ordinal);
    const lwk_loops_t *loops = choose_loops();
    if (loops == NULL)
        return lw_fail(error, LW_ERR_INVALID, "cpu: LWK_CPU_LEVEL is '%s'; it can be plain, avx2 or avx512",
                       getenv("LWK_CPU_LEVEL"));
    lwk_dev_t *dev = malloc(sizeof *dev);
    if (dev == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "cpu: no memory for a device");
    pthread_once(&tables_once, lwk_cpu_fill_log_sizes);
    dev->loops = loops;
    *dev_out = dev;
    return LW_OK;
}

static void cpu_close(lwk_dev_t *dev)
{
    free(dev);
}

static const char *cpu_describe(lwk_dev_t *dev)
{
    return dev->loops->name;
}

static const lwk_backend_t cpu_table = {
    .size = sizeof(lwk_backend_t),
    .version = LWK_BACKEND_VERSION,
    .name = "cpu",
    .caps = 0,
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    LWK_HOST_ROWS,
    .workspace_bytes = lwk_cpu_workspace_bytes,
    .prepare = lwk_cpu_prepare,
    .score = lwk_cpu_score,
    .select = lwk_cpu_select,
    .attend = lwk_cpu_attend,
    .finish = lwk_cpu_finish,
    .admit = lwk_ref_admit,
    .publish = lwk_ref_publish,
    .retire = lwk_ref_retire,
    .append = lwk_ref_append,
    .extend = lwk_cpu_extend,
    .build_workspace_bytes = lwk_cpu_build_workspace_bytes,
    .kmeans = lwk_cpu_kmeans,
    .outliers = lwk_cpu_outliers,
    .moments = lwk_cpu_moments,
    .encode = lwk_cpu_encode,
    .pack = lwk_cpu_pack,
    .unpack = lwk_cpu_unpack,
    .gather = lwk_ref_gather,
};

const lwk_backend_t *lwk_cpu_backend(void)
{
    return &cpu_table;
}
