/* score_coded.cuh - one tile of int8 or int4 keys with head_dim 64, 128 or 256, on the matrix units.
 *
 * A logit is scale (q . center + key scale * sum_j code_j x_j) with x = channel * q. x becomes three signed digits of base 254,
 * so that the sum is three exact integer products of codes and digits, put together in fp32: rounding x to 2^-22 of its
 * largest element is all that is lost, and nothing depends on an order. Entries are the rows of a product and queries its 8
 * columns; codes go from memory to the matrix unit as they are, nibbles by one shift and one mask (they are 16 times the code).
 *
 * Every thread loads 16 neighbouring bytes of a row. That permutes the dimensions of a row among the places of a fragment,
 * which is as good as any other order, if the digits are permuted alike: word i of a thread t (lane % 4) holds the bytes from
 * byte_of(i, t) on; int8 words 2 m and 2 m + 1 are both halves of product m, and the even and odd nibbles of int4 word m are
 * those. Digits of int4 rows lie with the even dimensions of each 8 first. */
#ifndef LWK_CUDA_SCORE_CODED_CUH
#define LWK_CUDA_SCORE_CODED_CUH

#include "kernels/cuda/terms.cuh"

#define CODED_QUERIES 8u /* columns of a product */
#define CODED_DIGITS 3u
#define CODED_BASE 254.0f

template <uint32_t D> struct coded_shared {
    alignas(16) uint8_t digits[2][CODED_DIGITS][CODED_QUERIES][D]; /* [0]: as they come; [1]: even ones first */
    float factor[CODED_QUERIES];                                   /* of the first digit, over BASE^2 */
    float center[CODED_QUERIES];                                   /* q . center */
    tile_query_t query[CODED_QUERIES];
    float largest[STEP_WARPS][CODED_QUERIES], sum[STEP_WARPS][CODED_QUERIES];
};

/* Running largest R and sum of e^(R - largest) of one thread's entries for one query. */
typedef struct coded_sum {
    float largest, sum;
} coded_sum_t;

LWK_DEVICE void coded_merge(coded_sum_t *to, float largest, float sum)
{
    float most = fmaxf(to->largest, largest), from = most > -INFINITY ? most : 0.0f;
    to->sum = to->sum * __expf(to->largest - from) + sum * __expf(largest - from);
    to->largest = most;
}

/* Digits and sums of one query, by one warp; q < query count. */
template <uint32_t D>
LWK_DEVICE void coded_query(coded_shared<D> *sh, const lwk_step_t *step, const tile_view_t *tile, size_t row, uint32_t q)
{
    const uint32_t EACH = D / 32;
    const float *query = step->scratch.query + row * D, *channel = lwk_tile_floats(tile, tile->at.key_channel),
                *center = lwk_tile_floats(tile, tile->at.key_center);
    float x[EACH], largest = 0.0f, norm = 0.0f, dot = 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) {
        uint32_t j = lwk_lane() + 32 * i;
        float y = query[j];
        dot = fmaf(y, center[j], dot);
        x[i] = y * channel[j];
        norm = fmaf(x[i], x[i], norm);
        largest = fmaxf(largest, fabsf(x[i]));
    }
    largest = lwk_warp_max(largest);
    norm = lwk_warp_sum(norm);
    dot = lwk_warp_sum(dot);
    float times = largest > 0.0f ? 127.0f / largest : 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) {
        uint32_t j = lwk_lane() + 32 * i, k = j % 8, permuted = j - k + k / 2 + k % 2 * 4;
        float rest = x[i] * times;
#pragma unroll
        for (uint32_t n = 0; n < CODED_DIGITS; n++) {
            float digit = rintf(rest);
            rest = (rest - digit) * CODED_BASE;
            sh->digits[0][n][q][j] = sh->digits[1][n][q][permuted] = (uint8_t)(int8_t)(int)digit;
        }
    }
    if (lwk_lane() == 0) {
        sh->factor[q] = largest / 127.0f / (CODED_BASE * CODED_BASE);
        sh->center[q] = dot;
        sh->query[q].spread = step->scratch.spread[row];
        sh->query[q].noise = norm * step->shape.scale * step->shape.scale / 24.0f;
    }
}

/* Parts of a row in one thread: D / 16 words of an int8 row, D / 32 of an int4 row. */
template <uint32_t D, bool INT4> struct coded_row {
    static const uint32_t WORDS = INT4 ? D / 32 : D / 16;
    uint32_t word[WORDS];
};

template <uint32_t D, bool INT4> LWK_DEVICE void coded_load(coded_row<D, INT4> *to, const uint8_t *row, bool valid)
{
    const uint32_t WORDS = coded_row<D, INT4>::WORDS;
    uint32_t t = threadIdx.x % 4;
    if constexpr (WORDS == 2) { /* int4 with head_dim 64 */
        uint2 x = make_uint2(0, 0);
        if (valid)
            x = __ldg((const uint2 *)row + t);
        to->word[0] = x.x;
        to->word[1] = x.y;
    } else {
#pragma unroll
        for (uint32_t i = 0; i < WORDS; i += 4) {
            uint4 x = make_uint4(0, 0, 0, 0);
            if (valid)
                x = __ldg((const uint4 *)row + i + t);
            to->word[i] = x.x;
            to->word[i + 1] = x.y;
            to->word[i + 2] = x.z;
            to->word[i + 3] = x.w;
        }
    }
}

/* Where a thread's digits of product m begin: 8 bytes. */
template <uint32_t D, bool INT4> LWK_DEVICE uint32_t coded_digits_at(uint32_t m, uint32_t t)
{
    if (INT4)
        return D == 64 ? 16 * t + 8 * m : m / 4 * 128 + 32 * t + m % 4 * 8;
    return m / 2 * 64 + 16 * t + m % 2 * 8;
}

/* The product of 16 rows (this thread's: lane / 4 and 8 further) with all digits. */
template <uint32_t D, bool INT4>
LWK_DEVICE void coded_multiply(int dot[CODED_DIGITS][4], const coded_row<D, INT4> *low, const coded_row<D, INT4> *high,
                               const uint2 digits[CODED_DIGITS][D / 32])
{
#pragma unroll
    for (uint32_t m = 0; m < D / 32; m++) {
        uint32_t a[4];
        if (INT4) {
            a[0] = low->word[m] << 4 & 0xF0F0F0F0u;
            a[1] = high->word[m] << 4 & 0xF0F0F0F0u;
            a[2] = low->word[m] & 0xF0F0F0F0u;
            a[3] = high->word[m] & 0xF0F0F0F0u;
        } else {
            a[0] = low->word[2 * m];
            a[1] = high->word[2 * m];
            a[2] = low->word[2 * m + 1];
            a[3] = high->word[2 * m + 1];
        }
#pragma unroll
        for (uint32_t n = 0; n < CODED_DIGITS; n++) {
            uint32_t b[2] = {digits[n][m].x, digits[n][m].y};
            lwk_mma_s8_16832(dot[n], a, b);
        }
    }
}

/* What a thread needs of the entries in its two rows. */
typedef struct coded_entry {
    uint16_t size, key_scale, spread;
} coded_entry_t;

/* Entries begin .. end - 1 of the tile, all clusters or all outliers, of which the rows of number `first` begin at `rows`. A warp takes
 * 16 at a time. */
template <uint32_t D, bool INT4, uint32_t UNROLL>
LWK_DEVICE void coded_entries(const coded_shared<D> *sh, const lwk_step_t *step, const lwk_policy_t *policy,
                              const tile_view_t *tile, const uint8_t *rows, uint32_t first, uint32_t begin,
                              uint32_t end, float *const logits[2], coded_sum_t sums[2])
{
    const lwk_shape_t *shape = &step->shape;
    const uint32_t BYTES = INT4 ? D / 2 : D;
    uint32_t g = lwk_lane() / 4, t = lwk_lane() % 4;
    bool clusters = first == 0;
    const uint16_t *scales = lwk_tile_halves(tile, clusters ? tile->at.cluster_key_scales : tile->at.outlier_key_scales);
    const uint16_t *spreads = lwk_tile_halves(tile, tile->at.cluster_spreads);
    float factor[2], center[2];
    tile_query_t query[2];
#pragma unroll
    for (uint32_t column = 0; column < 2; column++) {
        factor[column] = sh->factor[2 * t + column] * (INT4 ? 0.0625f : 1.0f);
        center[column] = sh->center[2 * t + column];
        query[column] = sh->query[2 * t + column];
    }
    uint2 digits[CODED_DIGITS][D / 32];
#pragma unroll
    for (uint32_t n = 0; n < CODED_DIGITS; n++)
#pragma unroll
        for (uint32_t m = 0; m < D / 32; m++)
            digits[n][m] = *(const uint2 *)(sh->digits[INT4][n][g] + coded_digits_at<D, INT4>(m, t));
    for (uint32_t base = begin + 16 * UNROLL * lwk_warp(); base < end; base += 16 * UNROLL * STEP_WARPS) {
        coded_row<D, INT4> key[UNROLL][2];
        coded_entry_t entry[UNROLL][2];
#pragma unroll
        for (uint32_t i = 0; i < UNROLL; i++)
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t e = base + 16 * i + 8 * half + g;
                coded_load<D, INT4>(&key[i][half], rows + (size_t)(e - first) * BYTES, e < end);
            }
#pragma unroll
        for (uint32_t i = 0; i < UNROLL; i++)
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t e = base + 16 * i + 8 * half + g;
                coded_entry_t x = {0, 0, 0};
                if (e < end) {
                    x.size = clusters ? __ldg(tile->sizes + e) : (uint16_t)1;
                    x.key_scale = __ldg(scales + (e - first));
                    x.spread = clusters ? __ldg(spreads + e) : (uint16_t)0;
                }
                entry[i][half] = x;
            }
#pragma unroll
        for (uint32_t i = 0; i < UNROLL; i++) {
            int dot[CODED_DIGITS][4] = {{0}};
            coded_multiply<D, INT4>(dot, &key[i][0], &key[i][1], digits);
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                uint32_t e = base + 16 * i + 8 * half + g;
                tile_entry_t x;
                x.size = entry[i][half].size;
                x.key_scale = lwk_f16_to_f32(entry[i][half].key_scale);
                x.spread = lwk_bf16_to_f32(entry[i][half].spread);
                x.log_size = clusters ? __logf((float)x.size) : 0.0f;
#pragma unroll
                for (uint32_t column = 0; column < 2; column++) {
                    uint32_t k = 2 * half + column;
                    if (logits[column] == NULL || e >= end)
                        continue;
                    float y = fmaf(fmaf((float)dot[0][k], CODED_BASE, (float)dot[1][k]), CODED_BASE, (float)dot[2][k]);
                    y = fmaf(y * factor[column], x.key_scale, center[column]);
                    float logit = lwk_soft_cap(shape->scale * y, shape->soft_cap);
                    logits[column][e] = x.size > 0 ? logit : -INFINITY;
                    if (x.size > 0) {
                        tile_terms_t terms = lwk_entry_terms(&x, &query[column], logit, shape->soft_cap);
                        coded_merge(&sums[column], lwk_entry_rank(&x, &terms, policy, logit), 1.0f);
                    }
                }
            }
        }
    }
}

template <uint32_t D>
LWK_DEVICE void coded_part(const coded_shared<D> *sh, const lwk_step_t *step, const lwk_policy_t *policy,
                           const tile_view_t *tile, uint32_t kind, uint32_t rows, uint32_t first, uint32_t begin,
                           uint32_t end, float *const logits[2], coded_sum_t sums[2])
{
    const uint8_t *at = tile->index + rows;
    /* As many rows at a time as fill about 64 registers. */
    const uint32_t FEW = D == 64 ? 4 : D == 128 ? 2 : 1;
    if (kind == STEP_INT8)
        coded_entries<D, false, FEW>(sh, step, policy, tile, at, first, begin, end, logits, sums);
    else
        coded_entries<D, true, 2 * FEW>(sh, step, policy, tile, at, first, begin, end, logits, sums);
}

/* Whether a tile is one of those that this file serves. */
LWK_DEVICE bool coded_serves(const tile_view_t *tile, uint32_t head_dim, uint32_t lanes)
{
    return head_dim == lanes * LWK_ROW_PART && lwk_kind_is_coded(tile->cluster_kind) && tile->clusters > 0 &&
           (tile->entries == tile->clusters || lwk_kind_is_coded(tile->outlier_kind));
}

/* span: what of the tile; slot: of tile_max and tile_sum. */
template <uint32_t D>
LWK_DEVICE void coded_tile(coded_shared<D> *sh, const lwk_step_t *step, const lwk_session_t *session,
                           const tile_view_t *tile, const lwk_part_t *span, uint32_t s, uint32_t head, uint32_t slot)
{
    const lwk_scratch_t *scratch = &step->scratch;
    lwk_policy_t policy = session->policy;
    uint32_t count = lwk_query_count(step), t = lwk_lane() % 4;
    for (uint32_t first = 0; first < count; first += CODED_QUERIES) {
        __syncthreads();
        for (uint32_t q = lwk_warp(); q < CODED_QUERIES && first + q < count; q += STEP_WARPS)
            coded_query<D>(sh, step, tile, lwk_group_row(step, s, head, first + q), q);
        __syncthreads();
        coded_sum_t sums[2] = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}};
        float *logits[2];
#pragma unroll
        for (uint32_t column = 0; column < 2; column++) {
            uint32_t q = first + 2 * t + column;
            logits[column] = q < count ? scratch->logit + lwk_group_row(step, s, head, q) * scratch->entry_capacity +
                                             tile->base
                                       : NULL;
        }
        coded_part<D>(sh, step, &policy, tile, tile->cluster_kind, tile->at.cluster_keys, 0, span->cluster_first, span->cluster_end,
                      logits, sums);
        if (span->outlier_end > span->outlier_first)
            coded_part<D>(sh, step, &policy, tile, tile->outlier_kind, tile->at.outlier_keys, tile->clusters,
                          tile->clusters + span->outlier_first, tile->clusters + span->outlier_end, logits, sums);
#pragma unroll
        for (uint32_t column = 0; column < 2; column++) {
#pragma unroll
            for (int with = 4; with < 32; with *= 2) {
                float largest = __shfl_xor_sync(LWK_WARP_ALL, sums[column].largest, with);
                float sum = __shfl_xor_sync(LWK_WARP_ALL, sums[column].sum, with);
                coded_merge(&sums[column], largest, sum);
            }
            if (lwk_lane() < 4) {
                sh->largest[lwk_warp()][2 * t + column] = sums[column].largest;
                sh->sum[lwk_warp()][2 * t + column] = sums[column].sum;
            }
        }
        __syncthreads();
        if (threadIdx.x < CODED_QUERIES && first + threadIdx.x < count) {
            coded_sum_t all = {-INFINITY, 0.0f};
            for (uint32_t w = 0; w < STEP_WARPS; w++)
                coded_merge(&all, sh->largest[w][threadIdx.x], sh->sum[w][threadIdx.x]);
            size_t at = lwk_group_row(step, s, head, first + threadIdx.x) * scratch->part_capacity + slot;
            scratch->tile_max[at] = all.largest;
            scratch->tile_sum[at] = all.sum;
        }
    }
}

#endif /* LWK_CUDA_SCORE_CODED_CUH */
