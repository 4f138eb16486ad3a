/* estimate.cuh - the estimate of a part of a tile: what the entries that were not chosen weigh, and the value means of their clusters.
 *
 * An outlier that is estimated brings its own weight and its parent's value mean. A block takes ESTIMATE_CHUNK clusters at a
 * time, a thread each, and the outliers that belong to them, which lie together because outliers are sorted by parent; it begins to
 * copy the rows of values before it knows a weight. The maximum runs along: from chunk to chunk the sums are brought to the new one.
 *
 * Coded rows meet their weights on the matrix units: weight times the row's scale becomes three signed digits of base 254, so that
 * a sum over a chunk is three exact integer products and only rounding to 2^-22 of the chunk's largest is lost. Rows lie in
 * shared memory as they come; reading them transposed, two bytes at a time, and one permutation a word give the first operand:
 * dimensions as rows, clusters along the sum. Rows that are not coded take a plain loop: a thread for each dimension. */
#ifndef LWK_CUDA_ESTIMATE_CUH
#define LWK_CUDA_ESTIMATE_CUH

#include "kernels/cuda/terms.cuh"

#define ESTIMATE_CHUNK 128u    /* clusters at a time */
#define ESTIMATE_OUTLIERS 384u /* outliers of a chunk whose weights are kept; those of further ones are taken again */
#define ESTIMATE_QUERIES 8u    /* columns of a product */
#define ESTIMATE_DIGITS 3u
#define ESTIMATE_BASE 254.0f
#define ESTIMATE_NOTHING (-1.0e30f) /* below every exponent; differences of two are no NaN */

/* D 0: no rows are kept. Row strides are chosen so that what a warp reads together lies in different banks. */
template <uint32_t D, uint32_t QC, uint32_t THREADS> struct estimate_shared {
    alignas(16) uint8_t value[D > 0 ? ESTIMATE_CHUNK * (D + 16) : 16];
    union {
        uint8_t digit[ESTIMATE_DIGITS][QC][ESTIMATE_CHUNK + 16]; /* in the order of estimate_digit_at() */
        float weight[QC][ESTIMATE_CHUNK];
    };
    float outlier[QC][ESTIMATE_OUTLIERS]; /* A, then e^(A - largest) */
    float reduce[2][THREADS / 32][QC];
    float factor[QC], rescale[QC], z[QC];
    const float *logit[QC]; /* of the tile's first entry; NULL: no such query */
    float *to[QC];          /* where the part's values go; NULL: nowhere */
    tile_query_t query[QC];
    uint32_t start[ESTIMATE_CHUNK + 1]; /* first outlier of each cluster of the chunk, and of the one behind it */
};

/* What is summed up of a part; the same maxima in all threads, each its own entries' z and shift. */
template <uint32_t QC> struct estimate_sum {
    float largest[QC], z[QC], shift[QC];
};

/* A thread's cluster. */
template <uint32_t QC> struct estimate_cluster {
    tile_entry_t entry;
    bool estimated;
    float value_scale;
    float mass[QC], tau[QC];
};

/* ---- weights ---- */

template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_queries(estimate_shared<D, QC, THREADS> *sh, const lwk_step_t *step, const tile_view_t *tile, uint32_t s,
                                 uint32_t head, uint32_t first)
{
    uint32_t d = step->shape.head_dim, count = lwk_query_count(step);
    for (uint32_t q = lwk_warp(); q < QC; q += THREADS / 32) {
        float norm = 0.0f, spread = 0.0f;
        const float *logit = NULL;
        if (first + q < count) {
            size_t row = lwk_group_row(step, s, head, first + q);
            spread = step->scratch.spread[row];
            if (tile->at.key_channel != 0)
                norm = lwk_channel_norm(lwk_tile_floats(tile, tile->at.key_channel), step->scratch.query + row * d, d);
            logit = step->scratch.logit + row * step->scratch.entry_capacity + tile->base;
        }
        if (lwk_lane() == 0) {
            sh->query[q].spread = spread;
            sh->query[q].noise = norm * step->shape.scale * step->shape.scale / 24.0f;
            sh->logit[q] = logit;
        }
    }
}

/* Finds the outliers of clusters first .. first + count - 1 among outliers begin .. end - 1, whose parents are `from` or later. */
template <uint32_t THREADS>
LWK_DEVICE void estimate_starts(uint32_t *start, const uint16_t *parents, uint32_t begin, uint32_t end, uint32_t from,
                                uint32_t first, uint32_t count)
{
    uint32_t last = first + count;
    for (uint32_t o = begin / 8 * 8 + 8 * threadIdx.x; o < end; o += 8 * THREADS) {
        uint4 eight = *(const uint4 *)(parents + o); /* what lies behind the end belongs to the index, too */
        uint32_t next = o > begin ? parents[o - 1] + 1u : from;
        if (next > last || (o + 8 <= end && eight.w >> 16 < first))
            continue;
        uint32_t word[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
        for (uint32_t k = 0; k < 8; k++) {
            uint32_t parent = word[k / 2] >> 16 * (k % 2) & 0xFFFFu;
            if (o + k < begin || o + k >= end)
                continue;
            for (uint32_t c = max(next, first); c <= min(parent, last); c++)
                start[c - first] = o + k;
            next = parent + 1;
        }
    }
    uint32_t rest = end > begin ? parents[end - 1] + 1u : from;
    for (uint32_t c = max(rest, first) + threadIdx.x; c <= last; c += THREADS)
        start[c - first] = end;
}

/* A of an entry that is to be estimated, for all queries, and tau; else -infinity. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_entry(const estimate_shared<D, QC, THREADS> *sh, const lwk_policy_t *policy, float soft_cap,
                               const tile_entry_t *entry, uint32_t e, bool estimated, float mass[QC], float tau[QC])
{
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        mass[q] = -INFINITY;
        tau[q] = 0.0f;
        if (!estimated || sh->logit[q] == NULL)
            continue;
        float logit = sh->logit[q][e];
        tile_terms_t t = lwk_entry_terms(entry, &sh->query[q], logit, soft_cap);
        mass[q] = lwk_entry_mass(entry, &sh->query[q], &t, policy, logit);
        tau[q] = t.spread * t.slope;
    }
}

/* Outlier number o of the tile. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_outlier(const estimate_shared<D, QC, THREADS> *sh, const lwk_policy_t *policy, float soft_cap,
                                 const tile_view_t *tile, const uint8_t *mark, uint32_t o, float mass[QC])
{
    tile_entry_t entry = {0.0f, 0.0f, 0.0f, 1};
    float tau[QC];
    if (tile->at.outlier_key_scales != 0)
        entry.key_scale = lwk_f16_to_f32(lwk_tile_halves(tile, tile->at.outlier_key_scales)[o]);
    uint32_t e = tile->clusters + o;
    estimate_entry<D, QC, THREADS>(sh, policy, soft_cap, &entry, e, mark[e] == LWK_MARK_ESTIMATE, mass, tau);
}

/* All but its masses, which need logits. */
template <uint32_t QC>
LWK_DEVICE void estimate_own(estimate_cluster<QC> *own, const tile_view_t *tile, const uint8_t *mark, uint32_t c, bool valid)
{
    tile_entry_t entry = {0.0f, 0.0f, 0.0f, 0};
    own->value_scale = 1.0f;
    own->estimated = false;
    if (valid) {
        entry.size = tile->sizes[c];
        entry.spread = lwk_bf16_to_f32(lwk_tile_halves(tile, tile->at.cluster_spreads)[c]);
        if (tile->at.cluster_key_scales != 0) {
            entry.key_scale = lwk_f16_to_f32(lwk_tile_halves(tile, tile->at.cluster_key_scales)[c]);
            own->value_scale = lwk_f16_to_f32(lwk_tile_halves(tile, tile->at.cluster_value_scales)[c]);
        }
        own->estimated = mark[c] == LWK_MARK_ESTIMATE && entry.size > 0;
        entry.log_size = __logf((float)entry.size);
    }
    own->entry = entry;
}

/* Largest of each query over the block, into `out` of every thread. The whole block calls; one barrier. */
template <uint32_t QC, uint32_t THREADS> LWK_DEVICE void estimate_largest(float (*reduce)[QC], const float x[QC], float out[QC])
{
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        float y = lwk_warp_max(x[q]);
        if (lwk_lane() == 0)
            reduce[lwk_warp()][q] = y;
    }
    __syncthreads();
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        float y = reduce[0][q];
#pragma unroll
        for (uint32_t w = 1; w < THREADS / 32; w++)
            y = fmaxf(y, reduce[w][q]);
        out[q] = y;
    }
}

/* Weights of the chunk's outliers, and the new maxima. The chunk's starts lie behind a barrier; ends with one. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_outliers(estimate_shared<D, QC, THREADS> *sh, estimate_sum<QC> *sum, const lwk_policy_t *policy,
                                  float soft_cap, const tile_view_t *tile, const uint8_t *mark, uint32_t count,
                                  const estimate_cluster<QC> *own)
{
    uint32_t begin = sh->start[0], end = sh->start[count];
    float most[QC], mass[QC];
#pragma unroll
    for (uint32_t q = 0; q < QC; q++)
        most[q] = fmaxf(own->mass[q], sum->largest[q]);
    for (uint32_t o = begin + threadIdx.x; o < end; o += THREADS) {
        estimate_outlier<D, QC, THREADS>(sh, policy, soft_cap, tile, mark, o, mass);
#pragma unroll
        for (uint32_t q = 0; q < QC; q++) {
            most[q] = fmaxf(most[q], mass[q]);
            if (o - begin < ESTIMATE_OUTLIERS)
                sh->outlier[q][o - begin] = mass[q];
        }
    }
    float largest[QC];
    estimate_largest<QC, THREADS>(sh->reduce[0], most, largest);
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        float factor = __expf(sum->largest[q] - largest[q]);
        sum->z[q] *= factor;
        sum->shift[q] *= factor;
        sum->largest[q] = largest[q];
        if (threadIdx.x == 0)
            sh->rescale[q] = factor;
    }
    for (uint32_t i = threadIdx.x; i < min(end - begin, ESTIMATE_OUTLIERS); i += THREADS)
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            sh->outlier[q][i] = __expf(sh->outlier[q][i] - largest[q]);
    __syncthreads();
}

/* What rests on a thread's cluster: its own weight and its outliers'. Their sum goes to z. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_gather(const estimate_shared<D, QC, THREADS> *sh, estimate_sum<QC> *sum, const lwk_policy_t *policy,
                                float soft_cap, const tile_view_t *tile, const uint8_t *mark, uint32_t c,
                                const estimate_cluster<QC> *own, float weight[QC])
{
    uint32_t begin = sh->start[0];
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        weight[q] = __expf(own->mass[q] - sum->largest[q]);
        sum->shift[q] = fmaf(weight[q], own->tau[q], sum->shift[q]);
    }
    for (uint32_t o = sh->start[c]; o < sh->start[c + 1]; o++) {
        if (o - begin < ESTIMATE_OUTLIERS) {
#pragma unroll
            for (uint32_t q = 0; q < QC; q++)
                weight[q] += sh->outlier[q][o - begin];
            continue;
        }
        float mass[QC];
        estimate_outlier<D, QC, THREADS>(sh, policy, soft_cap, tile, mark, o, mass);
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            weight[q] += __expf(mass[q] - sum->largest[q]);
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

/* Starts the copy of rows first .. first + count - 1, zeros up to a full chunk. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_fetch(estimate_shared<D, QC, THREADS> *sh, const estimate_coded<D> *, const tile_view_t *tile,
                               uint32_t first, uint32_t count)
{
    uint32_t bytes = tile->cluster_kind == STEP_INT8 ? D : D / 2, units = bytes / 16;
    const uint8_t *from = tile->index + tile->at.cluster_values + (size_t)first * bytes;
    for (uint32_t i = threadIdx.x; i < ESTIMATE_CHUNK * units; i += THREADS) {
        uint32_t row = i / units, unit = i % units;
        lwk_copy16_async(sh->value + row * (bytes + 16) + 16 * unit, from + 16 * (size_t)i, row < count);
    }
    lwk_copy_commit();
}

/* One unit of all rows of the chunk, times the digits; even and odd bytes of nibbles' halves where INT4. */
template <uint32_t D, uint32_t QC, uint32_t THREADS, bool INT4>
LWK_DEVICE void estimate_unit(const estimate_shared<D, QC, THREADS> *sh, uint32_t unit, float (*o)[4])
{
    const uint32_t SETS = INT4 ? 2 : 1, STRIDE = (INT4 ? D / 2 : D) + 16;
    uint32_t g = lwk_lane() / 4, t = lwk_lane() % 4;
    int dot[SETS][ESTIMATE_DIGITS][4] = {{{0}}};
#pragma unroll
    for (uint32_t base = 0; base < ESTIMATE_CHUNK; base += 32) {
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
            o[set][k] = fmaf(o[set][k], sh->rescale[q], y * sh->factor[q] * (INT4 ? 0.0625f : 1.0f));
        }
}

/* Adds the chunk: weight[] is this thread's cluster's, scaled. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void estimate_add(estimate_shared<D, QC, THREADS> *sh, estimate_coded<D> *to, const tile_view_t *tile,
                             const float weight[QC], uint32_t, uint32_t, uint32_t)
{
    float largest[QC];
    estimate_largest<QC, THREADS>(sh->reduce[1], weight, largest);
    if (threadIdx.x < ESTIMATE_CHUNK) {
        uint32_t at = estimate_digit_at(threadIdx.x);
#pragma unroll
        for (uint32_t q = 0; q < QC; q++) {
            float rest = largest[q] > 0.0f ? weight[q] * (127.0f / largest[q]) : 0.0f;
#pragma unroll
            for (uint32_t n = 0; n < ESTIMATE_DIGITS; n++) {
                float digit = rintf(rest);
                rest = (rest - digit) * ESTIMATE_BASE;
                sh->digit[n][q][at] = (uint8_t)(int8_t)(int)digit;
            }
            if (threadIdx.x == 0)
                sh->factor[q] = largest[q] / (127.0f * ESTIMATE_BASE * ESTIMATE_BASE);
        }
    }
    lwk_copy_wait<0>();
    __syncthreads();
    if (tile->cluster_kind == STEP_INT8) {
#pragma unroll
        for (uint32_t i = 0; i < (D / 16 + THREADS / 32 - 1) / (THREADS / 32); i++)
            if (lwk_warp() + i * (THREADS / 32) < D / 16)
                estimate_unit<D, QC, THREADS, false>(sh, lwk_warp() + i * (THREADS / 32), to->o + i);
    } else {
#pragma unroll
        for (uint32_t i = 0; i < (D / 32 + THREADS / 32 - 1) / (THREADS / 32); i++)
            if (lwk_warp() + i * (THREADS / 32) < D / 32)
                estimate_unit<D, QC, THREADS, true>(sh, lwk_warp() + i * (THREADS / 32), to->o + 2 * i);
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
    static const uint32_t EACH = LW_HEAD_DIM_MAX / THREADS;
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
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            to->o[i][q] *= sh->rescale[q];
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
LWK_DEVICE void estimate_headers(estimate_shared<D, QC, THREADS> *sh, const estimate_sum<QC> *sum, const lwk_step_t *step, uint32_t s,
                                 uint32_t head, uint32_t first, uint32_t slot)
{
    const lwk_scratch_t *scratch = &step->scratch;
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        float z = lwk_warp_sum(sum->z[q]), shift = lwk_warp_sum(sum->shift[q]);
        if (lwk_lane() == 0) {
            sh->reduce[0][lwk_warp()][q] = z;
            sh->reduce[1][lwk_warp()][q] = shift;
        }
        if (threadIdx.x == 0)
            sh->factor[q] = sum->largest[q];
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
        if (first + q < lwk_query_count(step)) {
            size_t at = lwk_group_row(step, s, head, first + q) * scratch->partial_capacity + slot;
            lwk_partial_t partial = {z > 0.0f ? sh->factor[q] : -INFINITY, z, shift, 0.0f};
            scratch->partial[at] = partial;
            if (z > 0.0f)
                sh->to[q] = scratch->partial_out + at * step->shape.head_dim;
        }
    }
    __syncthreads();
}

/* One part, for queries first .. first + QC - 1, into `slot`. The whole block calls. */
template <uint32_t D, uint32_t QC, uint32_t THREADS, typename VALUES>
LWK_DEVICE void estimate_part(estimate_shared<D, QC, THREADS> *sh, const lwk_step_t *step, const lwk_policy_t *policy,
                              const tile_view_t *tile, const lwk_part_t *part, uint32_t s, uint32_t head, uint32_t first,
                              uint32_t slot)
{
    const uint16_t *parents = lwk_tile_halves(tile, tile->at.outlier_parents);
    const uint8_t *mark = step->scratch.mark + lwk_kv_row(step, s, head) * step->scratch.entry_capacity + tile->base;
    float soft_cap = step->shape.soft_cap;
    VALUES values;
    estimate_clear(&values);
    estimate_sum<QC> sum;
#pragma unroll
    for (uint32_t q = 0; q < QC; q++) {
        sum.largest[q] = ESTIMATE_NOTHING;
        sum.z[q] = sum.shift[q] = 0.0f;
    }
    for (uint32_t chunk = part->cluster_first; chunk < part->cluster_end; chunk += ESTIMATE_CHUNK) {
        uint32_t count = min(part->cluster_end - chunk, ESTIMATE_CHUNK), c = chunk + threadIdx.x;
        estimate_cluster<QC> own;
        estimate_fetch(sh, &values, tile, chunk, count);
        estimate_starts<THREADS>(sh->start, parents, part->outlier_first, part->outlier_end, part->cluster_first, chunk, count);
        estimate_own<QC>(&own, tile, mark, c, threadIdx.x < count);
        if (chunk == part->cluster_first)
            estimate_queries(sh, step, tile, s, head, first);
        __syncthreads();
        estimate_entry(sh, policy, soft_cap, &own.entry, c, own.estimated, own.mass, own.tau);
        estimate_outliers(sh, &sum, policy, soft_cap, tile, mark, count, &own);
        float weight[QC];
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            weight[q] = 0.0f;
        if (threadIdx.x < count)
            estimate_gather(sh, &sum, policy, soft_cap, tile, mark, threadIdx.x, &own, weight);
#pragma unroll
        for (uint32_t q = 0; q < QC; q++)
            weight[q] *= own.value_scale;
        estimate_add(sh, &values, tile, weight, chunk, count, step->shape.head_dim);
        __syncthreads();
    }
    estimate_headers(sh, &sum, step, s, head, first, slot);
    estimate_store(sh, &values, tile, step->shape.head_dim);
}

/* An empty partial for every query of the head. */
LWK_DEVICE void estimate_nothing(const lwk_step_t *step, uint32_t s, uint32_t head, uint32_t slot)
{
    lwk_partial_t nothing = {-INFINITY, 0.0f, 0.0f, 0.0f};
    if (threadIdx.x < lwk_query_count(step))
        step->scratch.partial[lwk_group_row(step, s, head, threadIdx.x) * step->scratch.partial_capacity + slot] = nothing;
}

/* Part `part` of a tile, all queries of the head. */
template <uint32_t D, uint32_t QC, uint32_t THREADS>
LWK_DEVICE void lwk_estimate_part(estimate_shared<D, QC, THREADS> *sh, const lwk_step_t *step, const lwk_session_t *session,
                                  uint32_t s, uint32_t head, uint32_t range, uint32_t number, uint32_t parts)
{
    lwk_range_ref_t ref = session->ranges[range];
    lwk_part_t part =
        lwk_tile_part(&step->store->tiles[lwk_tile_number(&step->shape, ref.row, step->layer, head)], number, parts);
    tile_view_t tile = lwk_tile_open(step, session, range, head);
    lwk_policy_t policy = session->policy;
    uint32_t slot = lwk_part_slot(range, number, parts);
    if (part.cluster_first >= part.cluster_end || policy.steady_only) {
        estimate_nothing(step, s, head, slot);
        return;
    }
    for (uint32_t first = 0; first < lwk_query_count(step); first += QC) {
        if constexpr (D > 0)
            if (lwk_kind_is_coded(tile.cluster_kind)) {
                estimate_part<D, QC, THREADS, estimate_coded<D>>(sh, step, &policy, &tile, &part, s, head, first, slot);
                continue;
            }
        estimate_part<D, QC, THREADS, estimate_plain<QC, THREADS>>(sh, step, &policy, &tile, &part, s, head, first, slot);
    }
}

#endif /* LWK_CUDA_ESTIMATE_CUH */
