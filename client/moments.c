/* moments.c - running sums of residuals to the moments that are stored and published, and back. Pure. */
#include <string.h>

#include "client/seal.h"

void lwc_moments_add(double *total, const double *sums, uint64_t count, uint64_t sums_count)
{
    for (uint64_t i = 0; i < count * sums_count; i++)
        total[i] += sums[i];
}

static void encode_one(const double *total, uint32_t head_dim, uint8_t *out)
{
    uint64_t square = (uint64_t)head_dim * head_dim;
    lwk_moments_header_t header = {.token_count = (uint64_t)total[0]};
    float *matrices = (float *)(void *)(out + sizeof(header));
    double divisor = total[1]; /* n times the mean residual */

    if (header.token_count > 0)
        header.mean_residual = (float)(total[1] / total[0]);
    memcpy(out, &header, sizeof(header));
    for (uint64_t i = 0; i < 2 * square; i++)
        matrices[i] = divisor > 0 ? (float)(total[2 + i] / divisor) : 0.0f;
}

void lwc_moments_encode(const double *total, uint64_t count, uint32_t head_dim, uint8_t *moments_out)
{
    uint64_t sums_count = 2 + 2ull * head_dim * head_dim;

    memset(moments_out, 0, count * lwk_moments_bytes(head_dim));
    for (uint64_t i = 0; i < count; i++)
        encode_one(total + i * sums_count, head_dim, moments_out + i * lwk_moments_bytes(head_dim));
}

void lwc_moments_decode(const uint8_t *moments, uint64_t count, uint32_t head_dim, double *total_out)
{
    uint64_t square = (uint64_t)head_dim * head_dim, sums_count = 2 + 2 * square;

    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *one = moments + i * lwk_moments_bytes(head_dim);
        double *total = total_out + i * sums_count;
        lwk_moments_header_t header;
        memcpy(&header, one, sizeof(header));
        const float *matrices = (const float *)(const void *)(one + sizeof(header));
        total[0] = (double)header.token_count;
        total[1] = total[0] * (double)header.mean_residual;
        for (uint64_t k = 0; k < 2 * square; k++)
            total[2 + k] = (double)matrices[k] * total[1];
    }
}
