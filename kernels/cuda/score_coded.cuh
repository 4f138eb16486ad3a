/* score_coded.cuh - one part of a tile of int8 or int4 keys with head_dim 64, 128 or 256, on the matrix units.
 *
 * A logit is scale (q . center + key scale * sum_j code_j x_j) with x = channel * q. x becomes three signed digits of base 254,
 * so that the sum is three exact integer products of codes and digits, put together in fp32: rounding x to 2^-22 of its
 * largest element is all that is lost, and nothing depends on an order. Entries are the rows of a product; its 8 columns are two
 * digits of four queries, and a second product takes the third digit, so that a thread gets all digits of one query (lane % 4)
 * for its two entries (lane / 4 and 8 further). Codes go from memory to the matrix unit as they are, nibbles by one shift and one
 * mask (they are 16 times the code).
 *
 * Every thread loads 16 neighbouring bytes of a row. That permutes the dimensions of a row among the places of a fragment,
 * which is as good as any other order, if the digits are permuted alike: word i of a thread t (lane % 4) holds the bytes from
 * byte_of(i, t) on; int8 words 2 m and 2 m + 1 are both halves of product m, and the even and odd nibbles of int4 word m are
 * those. Digits of int4 rows lie with the even dimensions of each 8 first. */
#ifndef LWK_CUDA_SCORE_CODED_CUH
#define LWK_CUDA_SCORE_CODED_CUH

#include "kernels/cuda/terms.cuh"

#define CODED_THREADS 128u /* a warp for each query of a product, and small blocks, so that others work while one waits */
#define CODED_WARPS (CODED_THREADS / 32u)
#define CODED_CHUNK 4u /* queries of one product */
#define CODED_DIGITS 3u
#define CODED_BASE 254
#define CODED_LOG2E 1.44269504f

/* CHUNKS: so many times four queries share every row that is read. */
template <uint32_t D, uint32_t CHUNKS> struct coded_shared {
    static const uint32_t QUERIES = CHUNKS * CODED_CHUNK;
    alignas(16) uint8_t digits[2][CODED_DIGITS][QUERIES][D]; /* [0]: as they come; [1]: even ones first */
    float factor[QUERIES]; /* scale times what the first digit stands for, over BASE^2 */
    float center[QUERIES]; /* scale q . center */
    float spread[QUERIES];
    float largest[CODED_WARPS][QUERIES], sum[CODED_WARPS][QUERIES];
};

/* Running largest R / ln 2 and sum of e^(R - largest) of one thread's entries for one query. */
typedef struct coded_sum {
    float largest, sum;
} coded_sum_t;

LWK_DEVICE void coded_merge(coded_sum_t *to, float largest, float sum)
{
    float most = fmaxf(to->largest, largest), from = most > -INFINITY ? most : 0.0f;
    to->sum = to->sum * lwk_exp2(to->largest - from) + sum * lwk_exp2(largest - from);
    to->largest = most;
}

/* Digits and sums of query number q of the pass, whose scratch row is `row`; by one warp. */
template <uint32_t D, uint32_t CHUNKS>
LWK_DEVICE void coded_query(coded_shared<D, CHUNKS> *sh, const lwk_step_t *step, const tile_view_t *tile, size_t row,
                            uint32_t q)
{
    const uint32_t EACH = D / 32;
    const float *query = step->scratch.query + row * D, *channel = lwk_tile_floats(tile, tile->at.key_channel),
                *center = lwk_tile_floats(tile, tile->at.key_center);
    float x[EACH], largest = 0.0f, dot = 0.0f, scale = step->shape.scale;
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) {
        uint32_t j = lwk_lane() + 32 * i;
        float y = query[j];
        dot = fmaf(y, center[j], dot);
        x[i] = y * channel[j];
        largest = fmaxf(largest, fabsf(x[i]));
    }
    float spread = step->scratch.spread[row];
    largest = lwk_warp_max(largest);
    dot = lwk_warp_sum(dot);
    float times = largest > 0.0f ? 127.0f / largest : 0.0f;
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++) {
        uint32_t j = lwk_lane() + 32 * i, k = j % 8, permuted = j - k + k / 2 + k % 2 * 4;
        float rest = x[i] * times;
#pragma unroll
        for (uint32_t n = 0; n < CODED_DIGITS; n++) {
            float digit = rintf(rest);
            rest = (rest - digit) * (float)CODED_BASE;
            sh->digits[0][n][q][j] = sh->digits[1][n][q][permuted] = (uint8_t)(int8_t)(int)digit;
        }
    }
    if (lwk_lane() == 0) {
        sh->factor[q] = scale * largest / 127.0f / (float)(CODED_BASE * CODED_BASE);
        sh->center[q] = scale * dot;
        sh->spread[q] = spread;
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

/* What a thread multiplies with: its column's digits. Columns 2 k and 2 k + 1 are the first two digits of query k in `high`, and
 * the third one and nothing in `low`. */
template <uint32_t D> struct coded_columns {
    uint2 high[D / 32], low[D / 32];
};

template <uint32_t D, uint32_t CHUNKS, bool INT4>
LWK_DEVICE void coded_columns_load(coded_columns<D> *to, const coded_shared<D, CHUNKS> *sh, uint32_t chunk)
{
    uint32_t column = lwk_lane() / 4, t = lwk_lane() % 4, q = chunk * CODED_CHUNK + column / 2;
#pragma unroll
    for (uint32_t m = 0; m < D / 32; m++) {
        uint32_t at = coded_digits_at<D, INT4>(m, t);
        to->high[m] = *(const uint2 *)(sh->digits[INT4][column % 2][q] + at);
        to->low[m] = column % 2 == 0 ? *(const uint2 *)(sh->digits[INT4][2][q] + at) : make_uint2(0, 0);
    }
}

/* The products of 16 rows (this thread's: lane / 4 and 8 further) with one query: out[0] and out[1]. */
template <uint32_t D, bool INT4>
LWK_DEVICE void coded_multiply(float out[2], const coded_row<D, INT4> rows[2], const coded_columns<D> *columns)
{
    int high[4] = {0, 0, 0, 0}, low[4] = {0, 0, 0, 0};
#pragma unroll
    for (uint32_t m = 0; m < D / 32; m++) {
        uint32_t a[4];
        if (INT4) {
            a[0] = rows[0].word[m] << 4 & 0xF0F0F0F0u;
            a[1] = rows[1].word[m] << 4 & 0xF0F0F0F0u;
            a[2] = rows[0].word[m] & 0xF0F0F0F0u;
            a[3] = rows[1].word[m] & 0xF0F0F0F0u;
        } else {
            a[0] = rows[0].word[2 * m];
            a[1] = rows[1].word[2 * m];
            a[2] = rows[0].word[2 * m + 1];
            a[3] = rows[1].word[2 * m + 1];
        }
        uint32_t b[2] = {columns->high[m].x, columns->high[m].y}, c[2] = {columns->low[m].x, columns->low[m].y};
        lwk_mma_s8_16832(high, a, b);
        lwk_mma_s8_16832(low, a, c);
    }
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) /* at most 254 * 256 * 127 * 128: inside 32 bits */
        out[half] = fmaf((float)(high[2 * half] * CODED_BASE + high[2 * half + 1]), (float)CODED_BASE, (float)low[2 * half]);
}

/* What is the same for all entries of a part. */
typedef struct coded_lens {
    float inverse_cap; /* 0: no soft cap */
    float reach;       /* 2 z^2 ln 2, 0 where R is the logit */
} coded_lens_t;

/* What of a tile is read here: clusters, or outliers. Numbers are the tile's of that kind. */
typedef struct coded_source {
    const uint8_t *rows;
    const uint16_t *scales, *sizes, *spreads; /* sizes, spreads: of clusters */
    uint32_t begin, end;
} coded_source_t;

/* The rows that a warp works on: groups of 16, of which this thread has two each; D / 4 bytes of int8 codes or D / 8 of int4. */
template <uint32_t D, bool INT4, bool CLUSTERS> struct coded_batch {
    static const uint32_t GROUPS = D == 64 ? (INT4 ? 4 : 2) : D == 128 && INT4 ? 2 : 1;
    coded_row<D, INT4> key[GROUPS][2];
    uint16_t scale[GROUPS][2], size[CLUSTERS ? GROUPS : 1][2], spread[CLUSTERS ? GROUPS : 1][2];
};

/* `base`: of the batch's first group. Groups of the warps take turns. */
template <uint32_t D, bool INT4, bool CLUSTERS>
LWK_DEVICE void coded_batch_load(coded_batch<D, INT4, CLUSTERS> *to, const coded_source_t *source, uint32_t base)
{
    const uint32_t BYTES = INT4 ? D / 2 : D;
#pragma unroll
    for (uint32_t i = 0; i < to->GROUPS; i++)
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t e = base + 16 * CODED_WARPS * i + 8 * half + lwk_lane() / 4;
            bool valid = e < source->end;
            coded_load<D, INT4>(&to->key[i][half], source->rows + (size_t)e * BYTES, valid);
            to->scale[i][half] = valid ? __ldg(source->scales + e) : (uint16_t)0;
            if (CLUSTERS) {
                to->size[i][half] = valid ? __ldg(source->sizes + e) : (uint16_t)0;
                to->spread[i][half] = valid ? __ldg(source->spreads + e) : (uint16_t)0;
            }
        }
}

/* This thread's part of the queries. */
template <uint32_t D> struct coded_query_part {
    coded_columns<D> columns;
    float factor, center, spread;
    float *logits; /* of query lane % 4; NULL: there is none */
};

/* Logits of a batch to logits[number], and their R into *sum: R - logit = sqrt(variance * 2 z^2 ln size). */
template <uint32_t D, bool INT4, bool CLUSTERS>
LWK_DEVICE void coded_batch_score(const coded_batch<D, INT4, CLUSTERS> *batch, const coded_query_part<D> *query,
                                  const coded_lens_t *lens, uint32_t base, uint32_t end, coded_sum_t *sum)
{
    const uint32_t GROUPS = coded_batch<D, INT4, CLUSTERS>::GROUPS;
    float logit[GROUPS][2], rank[GROUPS][2], most = sum->largest;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++) {
        coded_multiply<D, INT4>(logit[i], batch->key[i], &query->columns);
#pragma unroll
        for (uint32_t half = 0; half < 2; half++)
            logit[i][half] = fmaf(logit[i][half] * query->factor, lwk_f16_to_f32(batch->scale[i][half]), query->center);
    }
    if (lens->inverse_cap > 0.0f)
#pragma unroll
        for (uint32_t i = 0; i < GROUPS; i++)
#pragma unroll
            for (uint32_t half = 0; half < 2; half++)
                logit[i][half] = tanhf(logit[i][half] * lens->inverse_cap) / lens->inverse_cap;
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t e = base + 16 * CODED_WARPS * i + 8 * half + lwk_lane() / 4;
            float x = logit[i][half], r = x;
            if (CLUSTERS) {
                uint32_t size = batch->size[i][half];
                float capped = x * lens->inverse_cap, slope = 1.0f - capped * capped;
                float variance = fminf(lwk_bf16_to_f32(batch->spread[i][half]) * query->spread, LWK_VARIANCE_MAX);
                float square = variance * slope * slope * (lens->reach * lwk_log2((float)max(size, 1u)));
                r = fmaf(square, lwk_rsqrt(fmaxf(square, 1e-30f)), x);
                x = size > 0 ? x : -INFINITY;
                r = size > 0 ? r : -INFINITY;
            }
            bool some = e < end;
            if (query->logits != NULL && some)
                query->logits[e] = x;
            rank[i][half] = (some ? r : -INFINITY) * CODED_LOG2E;
            most = fmaxf(most, rank[i][half]);
        }
    float from = most > -INFINITY ? most : 0.0f, total = sum->sum * lwk_exp2(sum->largest - from);
#pragma unroll
    for (uint32_t i = 0; i < GROUPS; i++)
        total += lwk_exp2(rank[i][0] - from) + lwk_exp2(rank[i][1] - from);
    sum->largest = most;
    sum->sum = total;
}

/* Logits of the source's entries to logits[chunk][number], and their R into sums[chunk]. A batch is on its way while the one before
 * it is scored. */
template <uint32_t D, uint32_t CHUNKS, bool INT4, bool CLUSTERS>
LWK_DEVICE void coded_entries(const coded_shared<D, CHUNKS> *sh, const coded_lens_t *lens, const coded_source_t *source,
                              float *const logits[CHUNKS], coded_sum_t sums[CHUNKS])
{
    const uint32_t EACH = 16 * CODED_WARPS * coded_batch<D, INT4, CLUSTERS>::GROUPS;
    uint32_t t = lwk_lane() % 4, base = source->begin + 16 * lwk_warp();
    if (base >= source->end)
        return;
    coded_batch<D, INT4, CLUSTERS> batch;
    coded_batch_load<D, INT4, CLUSTERS>(&batch, source, base);
    coded_query_part<D> query[CHUNKS];
#pragma unroll
    for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
        coded_columns_load<D, CHUNKS, INT4>(&query[chunk].columns, sh, chunk);
        query[chunk].factor = sh->factor[chunk * CODED_CHUNK + t] * (INT4 ? 0.0625f : 1.0f);
        query[chunk].center = sh->center[chunk * CODED_CHUNK + t];
        query[chunk].spread = sh->spread[chunk * CODED_CHUNK + t];
        query[chunk].logits = logits[chunk];
    }
#pragma unroll 1
    for (; base < source->end; base += EACH) {
        coded_batch<D, INT4, CLUSTERS> next;
        coded_batch_load<D, INT4, CLUSTERS>(&next, source, base + EACH);
#pragma unroll
        for (uint32_t chunk = 0; chunk < CHUNKS; chunk++)
            coded_batch_score<D, INT4, CLUSTERS>(&batch, &query[chunk], lens, base, source->end, &sums[chunk]);
        batch = next;
    }
}

/* Whether a tile is one of those that this file serves. */
LWK_DEVICE bool coded_serves(const tile_view_t *tile, uint32_t head_dim, uint32_t lanes)
{
    return head_dim == lanes * LWK_ROW_PART && lwk_kind_is_coded(tile->cluster_kind) && tile->clusters > 0 &&
           (tile->entries == tile->clusters || lwk_kind_is_coded(tile->outlier_kind));
}

/* Clusters of the span, and its outliers. */
LWK_DEVICE coded_source_t coded_clusters(const tile_view_t *tile, const lwk_part_t *span)
{
    coded_source_t source = {tile->index + tile->at.cluster_keys, lwk_tile_halves(tile, tile->at.cluster_key_scales),
                             tile->sizes, lwk_tile_halves(tile, tile->at.cluster_spreads), span->cluster_first,
                             span->cluster_end};
    return source;
}
LWK_DEVICE coded_source_t coded_outliers(const tile_view_t *tile, const lwk_part_t *span)
{
    coded_source_t source = {tile->index + tile->at.outlier_keys, lwk_tile_halves(tile, tile->at.outlier_key_scales),
                             NULL, NULL, span->outlier_first, span->outlier_end};
    return source;
}

/* Asks for the first of the part's keys, so that they are on their way while the queries are not there yet. One thread. */
LWK_DEVICE void coded_prefetch_rows(const coded_source_t *source, uint32_t row_bytes)
{
    const uint32_t most = 16u << 10; /* what follows is loaded while this is used */
    if (source->begin >= source->end)
        return;
    uint32_t bytes = (source->end - source->begin) * row_bytes;
    lwk_prefetch(source->rows + (size_t)source->begin * row_bytes, bytes < most ? bytes & ~15u : most);
}

/* The same of all that a part needs. */
LWK_DEVICE void coded_prefetch(const tile_view_t *tile, const lwk_part_t *span, uint32_t head_dim)
{
    coded_source_t clusters = coded_clusters(tile, span), outliers = coded_outliers(tile, span);
    lwk_prefetch(tile->index + tile->at.key_center, tile->at.key_channel - tile->at.key_center + 4 * head_dim);
    coded_prefetch_rows(&clusters, lwk_kind_row_bytes(tile->cluster_kind, head_dim));
    coded_prefetch_rows(&outliers, lwk_kind_row_bytes(tile->outlier_kind, head_dim));
}

/* span: what of the tile; slot: of tile_max and tile_sum. The block calls. */
template <uint32_t D, uint32_t CHUNKS>
LWK_DEVICE void coded_part(coded_shared<D, CHUNKS> *sh, const lwk_step_t *step, const lwk_policy_t *policy,
                           const tile_view_t *tile, const lwk_part_t *span, uint32_t s, uint32_t head, uint32_t slot)
{
    const lwk_scratch_t *scratch = &step->scratch;
    const uint32_t QUERIES = CHUNKS * CODED_CHUNK;
    uint32_t count = lwk_query_count(step), t = lwk_lane() % 4;
    float z = policy->rank == LWK_RANK_EXPECTED_MAX ? policy->z : 0.0f;
    coded_lens_t lens = {step->shape.soft_cap > 0.0f ? 1.0f / step->shape.soft_cap : 0.0f,
                         z > 0.0f ? 2.0f * z * z / CODED_LOG2E : 0.0f};
    for (uint32_t first = 0; first < count; first += QUERIES) {
        __syncthreads();
        for (uint32_t q = lwk_warp(); q < QUERIES; q += CODED_WARPS) /* the last one again where there are fewer */
            coded_query<D, CHUNKS>(sh, step, tile, lwk_group_row(step, s, head, min(first + q, count - 1)), q);
        __syncthreads();
        coded_sum_t sums[CHUNKS];
        float *clusters[CHUNKS], *outliers[CHUNKS];
#pragma unroll
        for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
            uint32_t q = first + chunk * CODED_CHUNK + t;
            sums[chunk].largest = -INFINITY;
            sums[chunk].sum = 0.0f;
            clusters[chunk] = outliers[chunk] = NULL;
            if (q < count) {
                clusters[chunk] = scratch->logit + lwk_group_row(step, s, head, q) * scratch->entry_capacity + tile->base;
                outliers[chunk] = clusters[chunk] + tile->clusters;
            }
        }
        coded_source_t source = coded_clusters(tile, span);
        if (tile->cluster_kind == STEP_INT8)
            coded_entries<D, CHUNKS, false, true>(sh, &lens, &source, clusters, sums);
        else
            coded_entries<D, CHUNKS, true, true>(sh, &lens, &source, clusters, sums);
        source = coded_outliers(tile, span);
        if (tile->outlier_kind == STEP_INT8)
            coded_entries<D, CHUNKS, false, false>(sh, &lens, &source, outliers, sums);
        else
            coded_entries<D, CHUNKS, true, false>(sh, &lens, &source, outliers, sums);
#pragma unroll
        for (uint32_t chunk = 0; chunk < CHUNKS; chunk++) {
#pragma unroll
            for (int with = 4; with < 32; with *= 2) {
                float largest = __shfl_xor_sync(LWK_WARP_ALL, sums[chunk].largest, with);
                float sum = __shfl_xor_sync(LWK_WARP_ALL, sums[chunk].sum, with);
                coded_merge(&sums[chunk], largest, sum);
            }
            if (lwk_lane() < 4) {
                sh->largest[lwk_warp()][chunk * CODED_CHUNK + t] = sums[chunk].largest;
                sh->sum[lwk_warp()][chunk * CODED_CHUNK + t] = sums[chunk].sum;
            }
        }
        __syncthreads();
        if (threadIdx.x < QUERIES && first + threadIdx.x < count) {
            coded_sum_t all = {-INFINITY, 0.0f};
            for (uint32_t w = 0; w < CODED_WARPS; w++)
                coded_merge(&all, sh->largest[w][threadIdx.x], sh->sum[w][threadIdx.x]);
            size_t at = lwk_group_row(step, s, head, first + threadIdx.x) * scratch->part_capacity + slot;
            /* Rounded by the conversion; the sum is relative to what is stored. */
            float stored = all.largest / CODED_LOG2E;
            scratch->tile_max[at] = stored;
            scratch->tile_sum[at] = all.sum > 0.0f ? all.sum * lwk_exp2(all.largest - stored * CODED_LOG2E) : 0.0f;
        }
    }
}

#endif /* LWK_CUDA_SCORE_CODED_CUH */
