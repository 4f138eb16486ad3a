/* estimate.cuh - the estimate of a part of a tile: what the entries that were not chosen weigh, and the value means of their clusters.
 *
 * An outlier that is estimated brings its own weight and its parent's value mean. A block takes ESTIMATE_CHUNK clusters at a
 * time, a thread each, and the outliers that belong to them, which lie together because outliers are sorted by parent; it begins to
 * copy the rows of values before it knows a weight. Nobody looks for the largest A: weights are relative to the part's largest R, which
 * score has found and which A exceeds by ln of a size and half a variance at most; what is too small for that is nothing beside
 * the entry whose R it is, estimated or not.
 *
 * Coded rows meet their weights on the matrix units: weight times the row's scale becomes three signed digits of base 254, so that
 * a sum over a chunk is three exact integer products and only rounding to 2^-21 of the chunk's largest is lost. Rows lie in
 * shared memory as they come; reading them transposed, two bytes at a time, and one permutation a word give the first operand:
 * dimensions as rows, clusters along the sum. Rows that are not coded take a plain loop: a thread for each dimension. */
#ifndef LWK_CUDA_ESTIMATE_CUH
#define LWK_CUDA_ESTIMATE_CUH

#include "kernels/cuda/terms.cuh"

#define ESTIMATE_CHUNK 160u    /* clusters at a time */
#define ESTIMATE_EACH 3u       /* outliers of a chunk that a thread keeps; the weights of further ones are taken again */
#define ESTIMATE_QUERIES 8u    /* columns of a product */
#define ESTIMATE_DIGITS 3u
#define ESTIMATE_BASE 254.0f

/* What a query brings, whatever the entry. */
typedef struct estimate_query {
    float spread, limit; /* variance of the logit for spread 1; the largest spread that counts */
    float noise;         /* scale^2 |channel * q|^2 / 24 */
} estimate_query_t;

/* D 0: no rows are kept. Row strides are chosen so that what a warp reads together lies in different banks. */
template <uint32_t D, uint32_t QC, uint32_t THREADS> struct estimate_shared {
    alignas(16) uint8_t value[D > 0 ? ESTIMATE_CHUNK * (D + 16) : 16];
    union {
        uint8_t digit[ESTIMATE_DIGITS][QC][ESTIMATE_CHUNK + 16]; /* in the order of estimate_digit_at() */
        float weight[QC][ESTIMATE_CHUNK];
    };
    alignas(16) float outlier[ESTIMATE_EACH * THREADS][QC]; /* weights */
    float reduce[2][THREADS / 32][QC];
    alignas(16) uint32_t most[THREADS / 32][QC]; /* bits of the largest weight of each warp's clusters, scaled */
    float factor[QC], z[QC];
    float *to[QC]; /* where the part's values go; NULL: nowhere */
    estimate_query_t query[QC];
    uint32_t start[ESTIMATE_CHUNK + 1]; /* first outlier of each cluster of the chunk, and of the one behind it */
};

/* What a thread sums up of a part. */
template <uint32_t QC> struct estimate_sum {
    float z[QC], shift[QC];
};

/* What all entries of a part share. Queries beyond the last one are the last one again, and are written nowhere. */
template <uint32_t QC> struct estimate_job {
    const lwk_step_t *step;
    const tile_view_t *tile;
    const uint8_t *mark;    /* of the tile's first entry, and logits, too */
    const float *logit[QC];
    float from[QC];         /* weights are e^(A - from) */
    float half_variance;    /* 0.5 with LWK_CORRECT_VARIANCE, else 0 */
    float per_cap;          /* 1 / soft_cap, or 0 */
    uint32_t s, head, first; /* query number first of the head is query 0 here */
};

/* One entry as it is loaded: everything at once, so that latency is paid once. */
template <uint32_t QC> struct estimate_entry {
    float logit[QC];
    uint16_t size, spread, key_scale, value_scale;
    bool there;
    uint8_t mark;
};

/* ---- weights ---- */

template <uint32_t QC>
LWK_DEVICE void estimate_open(estimate_job<QC> *job, const lwk_step_t *step, const lwk_policy_t *policy, const tile_view_t *tile,
                              uint32_t s, uint32_t head, uint32_t first, uint32_t slot)
{
    job->step = step;
    job->tile = tile;
    job->s = s;
    job->head = head;
    job->first = first;
    job->mark = step->scratch.mark + lwk_kv_row(step, s, head) * step->scratch.entry_capacity + tile->base;
    uint32_t group = step->shape.group, token = first / group, member = first % group;
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        size_t row = lwk_query_row(step, s, token, head * group + member);
        job->logit[q] = step->scratch.logit + row * step->scratch.entry_capacity + tile->base;
        float from = __ldg(step->scratch.tile_max + row * step->scratch.part_capacity + slot);
        job->from[q] = from > -INFINITY ? from : 0.0f;
        if (first + q + 1 >= step->query_tokens * group)
            continue;
        member = member + 1 < group ? member + 1 : 0;
        token += member == 0;
    }
    job->half_variance = (policy->correct & LWK_CORRECT_VARIANCE) != 0 ? 0.5f : 0.0f;
    job->per_cap = step->shape.soft_cap > 0.0f ? 1.0f / step->shape.soft_cap : 0.0f;
}

template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_queries(estimate_shared<D, QC, THREADS> *sh, const estimate_job<QC> *job)
{
    const lwk_step_t *step = job->step;
    const tile_view_t *tile = job->tile;
    uint32_t d = step->shape.head_dim, last = lwk_query_count(step) - 1;
    for (uint32_t q = lwk_warp(); q < QC; q += THREADS / 32) {
        size_t row = lwk_group_row(step, job->s, job->head, min(job->first + q, last));
        float spread = step->scratch.spread[row], norm = 0.0f;
        if (tile->at.key_channel != 0)
            norm = lwk_channel_norm(lwk_tile_floats(tile, tile->at.key_channel), step->scratch.query + row * d, d);
        if (lwk_lane() == 0) {
            sh->query[q].spread = spread;
            sh->query[q].limit = spread > 0.0f ? LWK_VARIANCE_MAX / spread : 0.0f;
            sh->query[q].noise = norm * step->shape.scale * step->shape.scale / 24.0f;
        }
    }
}

/* Finds the first outlier of each of `count` clusters from `first` on among outliers begin .. end - 1, which are all of theirs. */
template <uint32_t THREADS>
LWK_DEVICE void estimate_starts(uint32_t *start, const uint16_t *parents, uint32_t begin, uint32_t end, uint32_t first,
                                uint32_t count)
{
    for (uint32_t o = begin + threadIdx.x; o < end; o += THREADS) {
        uint32_t parent = __ldg(parents + o), before = first;
        if (o > begin)
            before = __ldg(parents + o - 1) + 1u;
        for (uint32_t c = before; c <= parent; c++)
            start[c - first] = o;
    }
    uint32_t rest = end > begin ? __ldg(parents + end - 1) + 1u : first;
    for (uint32_t c = rest + threadIdx.x; c <= first + count; c += THREADS)
        start[c - first] = end;
}

template <uint32_t QC> LWK_DEVICE void estimate_load_logits(estimate_entry<QC> *to, const estimate_job<QC> *job, uint32_t e)
{
    to->mark = __ldg(job->mark + e);
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        to->logit[q] = __ldg(job->logit[q] + e);
}

template <uint32_t QC>
LWK_DEVICE void estimate_load_cluster(estimate_entry<QC> *to, const estimate_job<QC> *job, uint32_t c, bool there)
{
    const tile_view_t *tile = job->tile;
    to->there = there;
    to->size = 0;
    to->spread = to->key_scale = 0;
    to->value_scale = 0x3C00u; /* 1 */
    to->mark = LWK_MARK_DROP;
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        to->logit[q] = 0.0f;
    if (there) {
        estimate_load_logits(to, job, c);
        to->size = __ldg(tile->sizes + c);
        to->spread = __ldg(lwk_tile_halves(tile, tile->at.cluster_spreads) + c);
        if (tile->at.cluster_key_scales != 0) {
            to->key_scale = __ldg(lwk_tile_halves(tile, tile->at.cluster_key_scales) + c);
            to->value_scale = __ldg(lwk_tile_halves(tile, tile->at.cluster_value_scales) + c);
        }
    }
}

template <uint32_t QC>
LWK_DEVICE void estimate_load_outlier(estimate_entry<QC> *to, const estimate_job<QC> *job, uint32_t o, bool there)
{
    const tile_view_t *tile = job->tile;
    to->there = there;
    to->size = 1;
    to->spread = to->key_scale = 0;
    to->mark = LWK_MARK_DROP;
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        to->logit[q] = 0.0f;
    if (there) {
        estimate_load_logits(to, job, tile->clusters + o);
        if (tile->at.outlier_key_scales != 0)
            to->key_scale = __ldg(lwk_tile_halves(tile, tile->at.outlier_key_scales) + o);
    }
}

/* Weight of an entry for every query, and tau; 0 where it is not to be estimated. */
template <uint32_t QC, bool CLUSTER>
LWK_DEVICE void estimate_weights(const estimate_query_t *query, const estimate_job<QC> *job, const estimate_entry<QC> *x,
                                 float weight[QC], float tau[QC])
{
    bool estimated = x->there && x->mark == LWK_MARK_ESTIMATE && x->size > 0;
    float scale = lwk_f16_to_f32(x->key_scale), spread = CLUSTER ? lwk_bf16_to_f32(x->spread) : 0.0f;
    float log_size = CLUSTER ? __logf((float)x->size) : 0.0f;
    scale *= scale;
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        float capped = x->logit[q] * job->per_cap, slope = fmaf(-capped, capped, 1.0f), square = slope * slope;
        float a = x->logit[q] - job->from[q] - scale * query[q].noise * square;
        if (CLUSTER) {
            float counts = fminf(spread, query[q].limit);
            a += log_size + job->half_variance * (counts * query[q].spread * square);
            tau[q] = estimated ? counts * slope : 0.0f;
        }
        weight[q] = estimated ? __expf(a) : 0.0f;
    }
}

/* Weights of a chunk's clusters with their outliers begin .. end - 1, a cluster a thread. Starts are found, and everything is loaded. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_weigh(estimate_shared<D, QC, THREADS> *sh, const estimate_job<QC> *job, estimate_sum<QC> *sum,
                               const estimate_entry<QC> *cluster, const estimate_entry<QC> *outlier, uint32_t begin,
                               float weight[QC])
{
    const uint32_t KEPT = ESTIMATE_EACH * THREADS;
    float tau[QC], other[QC];
    estimate_weights<QC, true>(sh->query, job, cluster, weight, tau);
#pragma unroll
    for (uint32_t k = 0; k < ESTIMATE_EACH; k++) {
        estimate_weights<QC, false>(sh->query, job, &outlier[k], other, NULL);
#pragma unroll
        for (uint32_t q = 0; q < QC; q += 4)
            *(float4 *)&sh->outlier[k * THREADS + threadIdx.x][q] =
                make_float4(other[q], other[q + 1], other[q + 2], other[q + 3]);
    }
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        sum->shift[q] = fmaf(weight[q], tau[q], sum->shift[q]);
    __syncthreads();
    if (cluster->there) {
        uint32_t from = sh->start[threadIdx.x] - begin, to = sh->start[threadIdx.x + 1] - begin;
        for (uint32_t i = from; i < min(to, KEPT); i++)
#pragma unroll
            for (uint32_t q = 0; q < QC; q += 4) {
                float4 x = *(const float4 *)&sh->outlier[i][q];
                weight[q] += x.x;
                weight[q + 1] += x.y;
                weight[q + 2] += x.z;
                weight[q + 3] += x.w;
            }
        for (uint32_t i = max(from, KEPT); i < to; i++) { /* more than are kept: seldom */
            estimate_entry<QC> x;
            estimate_load_outlier(&x, job, begin + i, true);
            estimate_weights<QC, false>(sh->query, job, &x, other, NULL);
#pragma unroll
            for (uint32_t q = 0; q < QC; q++)
                weight[q] += other[q];
        }
    }
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        sum->z[q] += weight[q];
}

/* ---- coded values: head_dim 64, 128 or 256 ---- */

/* Units are 16 bytes of a row: 16 dimensions of int8, 32 of int4. A warp owns every so many-th one. o: of a thread (g, t), even and
 * odd bytes of the pair g of its unit, each for queries 2 t and 2 t + 1; of int4 low nibbles, then high ones. */
template <uint32_t D> struct estimate_coded {
    static const uint32_t SETS = D == 256 ? 4 : 2;
    float o[SETS][4];
};

/* Where the digit of a chunk's cluster lies, so that a thread's four of a product are one word. */
LWK_DEVICE uint32_t estimate_digit_at(uint32_t c)
{
    uint32_t in = c % 32, block = in / 8, pair = in % 8 / 2;
    return c - in + block / 2 * 16 + pair * 4 + block % 2 * 2 + in % 2;
}

template <uint32_t D> LWK_DEVICE void estimate_clear(estimate_coded<D> *to)
{
#pragma unroll
    for (uint32_t i = 0; i < estimate_coded<D>::SETS; i++)
#pragma unroll
        for (uint32_t k = 0; k < 4; k++)
            to->o[i][k] = 0.0f;
}

/* Starts the copy of rows first .. first + count - 1, zeros up to a multiple of 32. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_fetch(estimate_shared<D, QC, THREADS> *sh, const estimate_coded<D> *, const tile_view_t *tile,
                               uint32_t first, uint32_t count)
{
    uint32_t bytes = tile->cluster_kind == STEP_INT8 ? D : D / 2, units = bytes / 16;
    const uint8_t *from = tile->index + tile->at.cluster_values + (size_t)first * bytes;
    uint32_t shift = (uint32_t)__ffs((int)units) - 1, rows = (count + 31) / 32 * 32;
    for (uint32_t i = threadIdx.x; i < rows << shift; i += THREADS) {
        uint32_t row = i >> shift, unit = i & (units - 1);
        lwk_copy16_async(sh->value + row * (bytes + 16) + 16 * unit, from + 16 * (size_t)i, row < count);
    }
    lwk_copy_commit();
}

/* One unit of all rows of the chunk, times the digits; even and odd bytes of nibbles' halves where INT4. */
template <uint32_t D, uint32_t QC, uint32_t THREADS, bool INT4>
LWK_DEVICE void estimate_unit(const estimate_shared<D, QC, THREADS> *sh, uint32_t unit, uint32_t count, float (*o)[4])
{
    const uint32_t SETS = INT4 ? 2 : 1, STRIDE = (INT4 ? D / 2 : D) + 16;
    uint32_t g = lwk_lane() / 4, t = lwk_lane() % 4;
    int dot[SETS][ESTIMATE_DIGITS][4] = {{{0}}};
#pragma unroll
    for (uint32_t base = 0; base < ESTIMATE_CHUNK; base += 32) {
        if (base >= count)
            break;
        uint32_t r[4], word[4];
        lwk_ldmatrix_x4_trans(r, sh->value + (base + lwk_lane()) * STRIDE + 16 * unit);
#pragma unroll
        for (uint32_t half = 0; half < 2; half++) {
            word[2 * half] = __byte_perm(r[2 * half], r[2 * half + 1], 0x6420);
            word[2 * half + 1] = __byte_perm(r[2 * half], r[2 * half + 1], 0x7531);
        }
#pragma unroll
        for (uint32_t n = 0; n < ESTIMATE_DIGITS; n++) {
            uint32_t b[2] = {0, 0};
            if (g < QC) {
                b[0] = *(const uint32_t *)&sh->digit[n][g][base + 4 * t];
                b[1] = *(const uint32_t *)&sh->digit[n][g][base + 16 + 4 * t];
            }
#pragma unroll
            for (uint32_t set = 0; set < SETS; set++) {
                uint32_t a[4];
#pragma unroll
                for (uint32_t k = 0; k < 4; k++)
                    a[k] = !INT4 ? word[k] : (set == 0 ? word[k] << 4 : word[k]) & 0xF0F0F0F0u;
                lwk_mma_s8_16832(dot[set][n], a, b);
            }
        }
    }
#pragma unroll
    for (uint32_t set = 0; set < SETS; set++)
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t q = min(2 * t + k % 2, QC - 1);
            float y = fmaf(fmaf((float)dot[set][0][k], ESTIMATE_BASE, (float)dot[set][1][k]), ESTIMATE_BASE,
                           (float)dot[set][2][k]);
            o[set][k] = fmaf(y, sh->factor[q] * (INT4 ? 0.0625f : 1.0f), o[set][k]);
        }
}

/* Adds the chunk: weight[] is this thread's cluster's, scaled. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_add(estimate_shared<D, QC, THREADS> *sh, estimate_coded<D> *to, const tile_view_t *tile,
                             const float weight[QC], uint32_t, uint32_t count, uint32_t)
{
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        uint32_t most = __reduce_max_sync(LWK_WARP_ALL, __float_as_uint(fabsf(weight[q])));
        if (lwk_lane() == 0)
            sh->most[lwk_warp()][q] = most;
    }
    __syncthreads();
    uint32_t most[QC];
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        most[q] = 0;
#pragma unroll
    for (uint32_t w = 0; w < THREADS / 32; w++)
#pragma unroll
        for (uint32_t q = 0; q < QC; q += 4) {
            uint4 x = *(const uint4 *)&sh->most[w][q];
            most[q] = max(most[q], x.x);
            most[q + 1] = max(most[q + 1], x.y);
            most[q + 2] = max(most[q + 2], x.z);
            most[q + 3] = max(most[q + 3], x.w);
        }
    if (threadIdx.x < ESTIMATE_CHUNK) {
        uint32_t at = estimate_digit_at(threadIdx.x);
#pragma unroll
        for (uint32_t q = 0; q < QC; q++) {
            /* By a power of two above the largest: exact. */
            uint32_t above = (most[q] & 0x7F800000u) + 0x00800000u;
            float rest = weight[q] * __uint_as_float(0x7F000000u - above) * 127.0f;
#pragma unroll
            for (uint32_t n = 0; n < ESTIMATE_DIGITS; n++) {
                float digit = rintf(rest);
                rest = (rest - digit) * ESTIMATE_BASE;
                sh->digit[n][q][at] = (uint8_t)(int8_t)(int)digit;
            }
            if (threadIdx.x == 0)
                sh->factor[q] = __uint_as_float(above) * (1.0f / (127.0f * ESTIMATE_BASE * ESTIMATE_BASE));
        }
    }
    lwk_copy_wait<0>();
    __syncthreads();
    if (tile->cluster_kind == STEP_INT8) {
#pragma unroll
        for (uint32_t i = 0; i < (D / 16 + THREADS / 32 - 1) / (THREADS / 32); i++)
            if (lwk_warp() + i * (THREADS / 32) < D / 16)
                estimate_unit<D, QC, THREADS, false>(sh, lwk_warp() + i * (THREADS / 32), count, to->o + i);
    } else {
#pragma unroll
        for (uint32_t i = 0; i < (D / 32 + THREADS / 32 - 1) / (THREADS / 32); i++)
            if (lwk_warp() + i * (THREADS / 32) < D / 32)
                estimate_unit<D, QC, THREADS, true>(sh, lwk_warp() + i * (THREADS / 32), count, to->o + 2 * i);
    }
}

/* Decodes and writes to sh->to; sh->z holds the weights' sums. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_store(const estimate_shared<D, QC, THREADS> *sh, const estimate_coded<D> *from, const tile_view_t *tile,
                               uint32_t)
{
    const float *center = lwk_tile_floats(tile, tile->at.value_center),
                *channel = lwk_tile_floats(tile, tile->at.value_channel);
    uint32_t g = lwk_lane() / 4, t = lwk_lane() % 4;
    bool int4 = tile->cluster_kind == STEP_INT4;
#pragma unroll
    for (uint32_t i = 0; i < estimate_coded<D>::SETS; i++)
#pragma unroll
        for (uint32_t k = 0; k < 4; k++) {
            uint32_t unit = lwk_warp() + (int4 ? i / 2 : i) * (THREADS / 32), q = 2 * t + k % 2;
            uint32_t j = int4 ? 32 * unit + 4 * g + 2 * (k / 2) + i % 2 : 16 * unit + 2 * g + k / 2;
            if (j < D && q < QC && sh->to[q] != NULL)
                sh->to[q][j] = fmaf(channel[j], from->o[i][k], center[j] * sh->z[q]);
        }
}

/* ---- all other values ---- */

/* Of dimensions threadIdx.x and, where a block is small, THREADS further. */
template <uint32_t QC, uint32_t THREADS> struct estimate_plain {
    static const uint32_t EACH = (LW_HEAD_DIM_MAX + THREADS - 1) / THREADS;
    float o[EACH][QC];
};

template <uint32_t QC, uint32_t THREADS> LWK_DEVICE void estimate_clear(estimate_plain<QC, THREADS> *to)
{
#pragma unroll
    for (uint32_t i = 0; i < estimate_plain<QC, THREADS>::EACH; i++)
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            to->o[i][q] = 0.0f;
}

template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_fetch(estimate_shared<D, QC, THREADS> *, const estimate_plain<QC, THREADS> *, const tile_view_t *, uint32_t,
                               uint32_t)
{
}

template <uint32_t KIND> LWK_DEVICE float estimate_element(const uint8_t *row, uint32_t j)
{
    return KIND == STEP_INT8   ? (float)((const int8_t *)row)[j]
           : KIND == STEP_INT4 ? (float)lwk_int4_code(row, j)
           : KIND == STEP_HALF ? lwk_bf16_to_f32(((const uint16_t *)row)[j])
                               : ((const float *)row)[j];
}

template <uint32_t KIND, uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_rows(const estimate_shared<D, QC, THREADS> *sh, estimate_plain<QC, THREADS> *to, const uint8_t *rows,
                              uint32_t count, uint32_t head_dim)
{
    uint32_t bytes = lwk_kind_row_bytes<KIND>(head_dim);
#pragma unroll
    for (uint32_t i = 0; i < estimate_plain<QC, THREADS>::EACH; i++) {
        uint32_t j = threadIdx.x + i * THREADS;
        if (j >= head_dim)
            break;
#pragma unroll 8
        for (uint32_t c = 0; c < count; c++) {
            float x = estimate_element<KIND>(rows + (size_t)c * bytes, j);
#pragma unroll
            for (uint32_t q = 0; q < QC; q++)
                to->o[i][q] = fmaf(sh->weight[q][c], x, to->o[i][q]);
        }
    }
}

template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_add(estimate_shared<D, QC, THREADS> *sh, estimate_plain<QC, THREADS> *to, const tile_view_t *tile,
                             const float weight[QC], uint32_t first, uint32_t count, uint32_t head_dim)
{
    if (threadIdx.x < count)
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            sh->weight[q][threadIdx.x] = weight[q];
    __syncthreads();
    const uint8_t *rows = tile->index + tile->at.cluster_values;
    switch (tile->cluster_kind) {
    case STEP_INT8: estimate_rows<STEP_INT8>(sh, to, rows + (size_t)first * head_dim, count, head_dim); break;
    case STEP_INT4: estimate_rows<STEP_INT4>(sh, to, rows + (size_t)first * (head_dim / 2), count, head_dim); break;
    case STEP_HALF: estimate_rows<STEP_HALF>(sh, to, rows + (size_t)first * 2 * head_dim, count, head_dim); break;
    default: estimate_rows<STEP_FP32>(sh, to, rows + (size_t)first * 4 * head_dim, count, head_dim); break;
    }
}

template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_store(const estimate_shared<D, QC, THREADS> *sh, const estimate_plain<QC, THREADS> *from,
                               const tile_view_t *tile, uint32_t head_dim)
{
    bool coded = tile->at.value_channel != 0;
#pragma unroll
    for (uint32_t i = 0; i < estimate_plain<QC, THREADS>::EACH; i++) {
        uint32_t j = threadIdx.x + i * THREADS;
        if (j >= head_dim)
            break;
        float center = coded ? lwk_tile_floats(tile, tile->at.value_center)[j] : 0.0f;
        float channel = coded ? lwk_tile_floats(tile, tile->at.value_channel)[j] : 1.0f;
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            if (sh->to[q] != NULL)
                sh->to[q][j] = fmaf(channel, from->o[i][q], center * sh->z[q]);
    }
}

/* ---- a part ---- */

/* Sums of z and shift over the block, in one order; the headers of the partials, and where their values go. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_headers(estimate_shared<D, QC, THREADS> *sh, const estimate_job<QC> *job, const estimate_sum<QC> *sum,
                                 uint32_t slot)
{
    const lwk_step_t *step = job->step;
    const lwk_scratch_t *scratch = &step->scratch;
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        float z = lwk_warp_sum(sum->z[q]), shift = lwk_warp_sum(sum->shift[q]);
        if (lwk_lane() == 0) {
            sh->reduce[0][lwk_warp()][q] = z;
            sh->reduce[1][lwk_warp()][q] = shift;
        }
        if (threadIdx.x == 0)
            sh->factor[q] = job->from[q];
    }
    __syncthreads();
    uint32_t q = threadIdx.x;
    if (q < QC) {
        float z = 0.0f, shift = 0.0f;
        for (uint32_t w = 0; w < THREADS / 32; w++) {
            z += sh->reduce[0][w][q];
            shift += sh->reduce[1][w][q];
        }
        sh->z[q] = z;
        sh->to[q] = NULL;
        if (job->first + q < lwk_query_count(step)) {
            size_t at = lwk_group_row(step, job->s, job->head, job->first + q) * scratch->partial_capacity + slot;
            lwk_partial_t partial = {z > 0.0f ? sh->factor[q] : -INFINITY, z, shift, 0.0f};
            scratch->partial[at] = partial;
            if (z > 0.0f)
                sh->to[q] = scratch->partial_out + at * step->shape.head_dim;
        }
    }
    __syncthreads();
}

/* Where the outliers of clusters from `cluster` on begin; the descriptor knows for eighths, chunks of a larger part must search. */
LWK_DEVICE uint32_t estimate_outliers_from(const lwk_tile_t *tile, const uint16_t *parents, uint32_t cluster)
{
    uint32_t each = lwk_eighth(tile->cluster_count, 1), outliers = tile->outlier_count;
    if (cluster == 0)
        return 0;
    if (cluster >= tile->cluster_count)
        return outliers;
    return cluster % each == 0 ? tile->outlier_eighths[cluster / each - 1] : lwk_outliers_below(parents, outliers, cluster);
}

/* Clusters of a chunk: as many whole eighths as fit. */
LWK_DEVICE uint32_t estimate_chunk_of(uint32_t clusters)
{
    uint32_t each = lwk_eighth(clusters, 1);
    return each == 0 || each > ESTIMATE_CHUNK ? ESTIMATE_CHUNK : ESTIMATE_CHUNK / each * each;
}

/* Clusters begin .. end - 1 of a tile, for queries first .. first + QC - 1, into `slot`. The whole block calls. */
template <uint32_t D, uint32_t QC, uint32_t THREADS, typename VALUES>
LWK_DEVICE void estimate_part(estimate_shared<D, QC, THREADS> *sh, const estimate_job<QC> *job, const lwk_tile_t *descriptor,
                              uint32_t begin, uint32_t end, uint32_t slot)
{
    const tile_view_t *tile = job->tile;
    const uint16_t *parents = lwk_tile_halves(tile, tile->at.outlier_parents);
    uint32_t head_dim = job->step->shape.head_dim, each = estimate_chunk_of(tile->clusters), end_of_outliers = 0;
    VALUES values;
    estimate_clear(&values);
    estimate_sum<QC> sum;
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        sum.z[q] = sum.shift[q] = 0.0f;
    for (uint32_t chunk = begin; chunk < end; chunk += each) {
        uint32_t count = min(end - chunk, each);
        uint32_t from = chunk == begin ? estimate_outliers_from(descriptor, parents, chunk) : end_of_outliers;
        uint32_t to = end_of_outliers = estimate_outliers_from(descriptor, parents, chunk + count);
        estimate_fetch(sh, &values, tile, chunk, count);
        estimate_entry<QC> cluster, outlier[ESTIMATE_EACH];
        estimate_load_cluster(&cluster, job, chunk + threadIdx.x, threadIdx.x < count);
#pragma unroll
        for (uint32_t k = 0; k < ESTIMATE_EACH; k++)
            estimate_load_outlier(&outlier[k], job, from + k * THREADS + threadIdx.x, from + k * THREADS + threadIdx.x < to);
        estimate_starts<THREADS>(sh->start, parents, from, to, chunk, count);
        if (chunk == begin)
            estimate_queries(sh, job);
        __syncthreads();
        float weight[QC], scale = lwk_f16_to_f32(cluster.value_scale);
        estimate_weigh(sh, job, &sum, &cluster, outlier, from, weight);
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            weight[q] *= scale;
        estimate_add(sh, &values, tile, weight, chunk, count, head_dim);
        __syncthreads();
    }
    estimate_headers(sh, job, &sum, slot);
    estimate_store(sh, &values, tile, head_dim);
}

/* An empty partial for every query of the head. */
LWK_DEVICE void estimate_nothing(const lwk_step_t *step, uint32_t s, uint32_t head, uint32_t slot)
{
    lwk_partial_t nothing = {-INFINITY, 0.0f, 0.0f, 0.0f};
    if (threadIdx.x < lwk_query_count(step))
        step->scratch.partial[lwk_group_row(step, s, head, threadIdx.x) * step->scratch.partial_capacity + slot] = nothing;
}

/* Part `number` of `parts` of a tile, all queries of the head. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void lwk_estimate_part(estimate_shared<D, QC, THREADS> *sh, const lwk_step_t *step, const lwk_session_t *session,
                                  uint32_t s, uint32_t head, uint32_t range, uint32_t number, uint32_t parts)
{
    const lwk_tile_t *descriptor =
        &step->store->tiles[lwk_tile_number(&step->shape, session->ranges[range].row, step->layer, head)];
    tile_view_t tile = lwk_tile_open(step, session, range, head);
    lwk_policy_t policy = session->policy;
    uint32_t slot = lwk_part_slot(range, number, parts), eighths = LWK_PARTS_MAX / parts;
    uint32_t begin = lwk_eighth(tile.clusters, number * eighths), end = lwk_eighth(tile.clusters, (number + 1) * eighths);
    if (begin >= end || policy.steady_only) {
        estimate_nothing(step, s, head, slot);
        return;
    }
    for (uint32_t first = 0; first < lwk_query_count(step); first += QC) {
        estimate_job<QC> job;
        estimate_open(&job, step, &policy, &tile, s, head, first, slot);
        if constexpr (D > 0)
            if (lwk_kind_is_coded(tile.cluster_kind)) {
                estimate_part<D, QC, THREADS, estimate_coded<D>>(sh, &job, descriptor, begin, end, slot);
                continue;
            }
        estimate_part<D, QC, THREADS, estimate_plain<QC, THREADS>>(sh, &job, descriptor, begin, end, slot);
    }
}

#endif /* LWK_CUDA_ESTIMATE_CUH */
