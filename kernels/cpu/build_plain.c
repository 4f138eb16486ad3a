/* build_plain.c - the build loops in plain C, for processors without AVX2, and the choice between the sets.
 */
#include <math.h>

#include "kernels/cpu/build.h"
#include "kernels/cpu/build_private.h"

static uint32_t nearest(const float *row, uint32_t d, const float *panels, uint32_t panel_count)
{
    float best[LWK_PANEL];
    uint32_t id[LWK_PANEL];
    for (uint32_t l = 0; l < LWK_PANEL; l++) {
        best[l] = -INFINITY;
        id[l] = 0;
    }
    for (uint32_t p = 0; p < panel_count; p++, panels += (size_t)LWK_PANEL * d) {
        float dot[LWK_PANEL] = {0};
        for (uint32_t j = 0; j < d; j++)
            for (uint32_t l = 0; l < LWK_PANEL; l++)
                dot[l] += row[j] * panels[(size_t)j * LWK_PANEL + l];
        for (uint32_t l = 0; l < LWK_PANEL; l++)
            if (dot[l] > best[l]) {
                best[l] = dot[l];
                id[l] = p * LWK_PANEL + l;
            }
    }
    uint32_t at = 0;
    for (uint32_t l = 1; l < LWK_PANEL; l++)
        if (best[l] > best[at] || (best[l] == best[at] && id[l] < id[at]))
            at = l;
    return id[at];
}

static uint32_t assign_plain(const float *rows, uint32_t n, uint32_t d, const float *panels,
                             uint32_t panel_count, uint16_t *assign)
{
    uint32_t moved = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint16_t to = (uint16_t)nearest(rows + (size_t)i * d, d, panels, panel_count);
        moved += assign[i] != to;
        assign[i] = to;
    }
    return moved;
}

static void add_rows_plain(double *sums, const float *rows, const uint16_t *assign, const uint8_t *skip,
                           uint32_t n, uint32_t d)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < d && (skip == NULL || !skip[i]); j++)
            sums[(size_t)assign[i] * d + j] += rows[(size_t)i * d + j];
}

/* Eight running sums, added up in one order by every set. */
static void distances_plain(const float *rows, const float *means, const uint16_t *assign, uint32_t n,
                            uint32_t d, double *distance_out)
{
    for (uint32_t i = 0; i < n; i++) {
        const float *row = rows + (size_t)i * d, *mean = means + (size_t)assign[i] * d;
        double sum[8] = {0};
        for (uint32_t j = 0; j < d; j++) {
            double gap = (double)row[j] - mean[j];
            sum[j % 8] += gap * gap;
        }
        distance_out[i] = ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
    }
}

static void outer_plain(const float *left, const float *right, uint32_t n, uint32_t d, uint32_t stride,
                        double *sums)
{
    for (uint32_t a = 0; a < d; a++)
        for (uint32_t b = 0; b < d; b++) {
            float sum = 0;
            for (uint32_t t = 0; t < n; t++)
                sum += left[(size_t)t * stride + a] * right[(size_t)t * stride + b];
            sums[(size_t)a * d + b] += sum;
        }
}

static void widen_plain(const void *from, uint32_t dtype, size_t count, float *to)
{
    lwk_load_row(from, dtype, 0, (uint32_t)count, to);
}

static void residual_plain(const void *row, uint32_t dtype, const float *mean, uint32_t d,
                           float *residual_out, float largest[8])
{
    lwk_load_row(row, dtype, 0, d, residual_out);
    for (uint32_t j = 0; j < d; j++) {
        residual_out[j] -= mean[j];
        float size = fabsf(residual_out[j]);
        largest[j % 8] = size > largest[j % 8] ? size : largest[j % 8];
    }
}

const lwk_cpu_build_isa_t lwk_cpu_build_plain = {"plain",     assign_plain, add_rows_plain, distances_plain,
                                                 outer_plain, widen_plain,  residual_plain};

#if defined(__x86_64__)
static int has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

const lwk_cpu_build_isa_t *lwk_cpu_build_isa_at(unsigned at)
{
#if defined(__x86_64__)
    if (at == 1 && has_avx2())
        return &lwk_cpu_build_avx2;
    if (at == 2 && has_avx2() && __builtin_cpu_supports("avx512f"))
        return &lwk_cpu_build_avx512;
#endif
    return at == 0 ? &lwk_cpu_build_plain : NULL;
}

const lwk_cpu_build_isa_t *lwk_cpu_build_isa(void)
{
    for (unsigned at = LWK_CPU_BUILD_ISAS; at-- > 1;)
        if (lwk_cpu_build_isa_at(at) != NULL)
            return lwk_cpu_build_isa_at(at);
    return &lwk_cpu_build_plain;
}

void lwk_cpu_build_load(const lwk_build_t *args, const lwk_cpu_build_isa_t *isa, const void *from,
                        uint32_t job, float *rows_out)
{
    const uint8_t *rows = from;
    uint32_t element = lwk_dtype_bytes(args->dtype), before_wrap = args->ring_rows - args->first_row;
    size_t n = args->token_count, d = args->head_dim, head = n < before_wrap ? n : before_wrap;
    isa->widen(rows + lwk_build_row(args, job, 0) * element, args->dtype, head * d, rows_out);
    if (head < n)
        isa->widen(rows + job * args->job_stride * element, args->dtype, (n - head) * d, rows_out + head * d);
}

uint64_t lwk_cpu_build_workspace_bytes(const lwk_build_t *args)
{
    uint64_t most = lwk_cpu_kmeans_bytes(args);
    most = lw_max_u64(most, lwk_cpu_outliers_bytes(args));
    most = lw_max_u64(most, lwk_cpu_moments_bytes(args));
    return lw_max_u64(most, lwk_cpu_encode_bytes(args));
}
