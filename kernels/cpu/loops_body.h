/* loops_body.h - the loops of loops.h, written once over the lanes that the including file brings: LANES,
 * LANES_QUERIES, LANES_FN, LANES_TARGET, LANES_NAME, vf, vi and the v_*() functions. No include guard: it is
 * a function body.
 *
 * Arguments that an always-inlined function takes as `const int` are literals in every call: each call is a
 * loop of its own. */

#define LANES_LOOP LANES_TARGET static
#define UNROLL _Pragma("GCC unroll 16")
#define ROWS 4        /* rows of one block of dot */
#define VECTORS 4     /* vectors of a row in one block of accumulate */
#define ROW_BLOCK 64u /* rows that stay in the first cache while all queries and chunks pass over them */
#define HEAD_DIM_MAX 256

/* ---- vectors at the end of an array
 * ------------------------------------------------------------------------------ */

LANES_FN vf v_load_n(const float *p, uint32_t left, float fill)
{
    if (left >= LANES)
        return v_load(p);
    float padded[LANES];
    for (uint32_t i = 0; i < LANES; i++)
        padded[i] = i < left ? p[i] : fill;
    return v_load(padded);
}

LANES_FN void v_store_n(float *p, vf x, uint32_t left)
{
    if (left >= LANES) {
        v_store(p, x);
        return;
    }
    float padded[LANES];
    v_store(padded, x);
    for (uint32_t i = 0; i < left; i++)
        p[i] = padded[i];
}

/* e^x for x <= 88; exactly 1 at 0 and exactly 0 below -87.3. Relative error below 2e-7: x = n ln 2 + r, |r|
 * <= ln 2 / 2, a polynomial in r, n added to the exponent. */
LANES_FN vf v_exp(vf x)
{
    const vf magic = v_set(12582912.0f), lowest = v_set(-87.3f);
    vi inside = (vi)(x > lowest);
    vf clamped = v_max(x, lowest);
    vf shifted = v_fma(clamped, v_set(1.44269504088896341f), magic);
    vf n = shifted - magic;
    vf r = v_fma(n, v_set(-0.693359375f), clamped);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    vf p = v_fma(v_set(1.9875691500e-4f), r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(p, r * r, r + v_set(1.0f));
    vi exponent = ((vi)shifted - (vi)magic) << 23;
    return (vf)(((vi)p + exponent) & inside);
}

/* ---- rows
 * -------------------------------------------------------------------------------------------------------- */

/* LANES elements of a row from element j on; not for INT4. */
LANES_FN vf v_load_row(const int kind, const uint8_t *row, uint32_t j)
{
    switch (kind) {
    case LWK_ROW_FP32: return v_load((const float *)(const void *)row + j);
    case LWK_ROW_BF16: return v_load_bf16(row + 2 * (size_t)j);
    case LWK_ROW_FP16: return v_load_fp16(row + 2 * (size_t)j);
    default: return v_load_int8(row + j);
    }
}

/* INT4 rows give even and odd elements of 2 LANES apart, so queries are brought into that order first. */
LANES_FN void split_even_odd(const float *from, uint32_t d, float *to)
{
    for (uint32_t j = 0; j < d; j += 2 * LANES)
        for (uint32_t i = 0; i < LANES; i++) {
            to[j + i] = from[j + 2 * i];
            to[j + LANES + i] = from[j + 2 * i + 1];
        }
}

/* ROWS rows by nq queries: dots to[q][row]. */
LANES_FN void dot_block(const int kind, const int nq, const uint8_t *const *rows, const float *const *query,
                        uint32_t d, float (*to)[ROWS])
{
    vf sum[LANES_QUERIES][ROWS];
    UNROLL
    for (int q = 0; q < nq; q++) {
        UNROLL
        for (int r = 0; r < ROWS; r++)
            sum[q][r] = v_set(0);
    }
    if (kind == LWK_ROW_INT4) {
        for (uint32_t j = 0; j < d; j += 2 * LANES) {
            UNROLL
            for (int r = 0; r < ROWS; r++) {
                vf even, odd;
                v_load_int4(rows[r] + j / 2, &even, &odd);
                UNROLL
                for (int q = 0; q < nq; q++) {
                    sum[q][r] = v_fma(even, v_load(query[q] + j), sum[q][r]);
                    sum[q][r] = v_fma(odd, v_load(query[q] + j + LANES), sum[q][r]);
                }
            }
        }
    } else {
        for (uint32_t j = 0; j < d; j += LANES) {
            vf x[ROWS];
            UNROLL
            for (int r = 0; r < ROWS; r++)
                x[r] = v_load_row(kind, rows[r], j);
            UNROLL
            for (int q = 0; q < nq; q++) {
                vf y = v_load(query[q] + j);
                UNROLL
                for (int r = 0; r < ROWS; r++)
                    sum[q][r] = v_fma(x[r], y, sum[q][r]);
            }
        }
    }
    UNROLL
    for (int q = 0; q < nq; q++)
        v_sum4(sum[q], to[q]);
}

LANES_FN void dot_queries(const int kind, const uint8_t *const *rows, const float *const *query,
                          uint32_t count, uint32_t d, float (*to)[ROWS])
{
    switch (count) {
#if LANES_QUERIES == 4
    case 4: dot_block(kind, 4, rows, query, d, to); break;
    case 3: dot_block(kind, 3, rows, query, d, to); break;
#endif
    case 2: dot_block(kind, 2, rows, query, d, to); break;
    default: dot_block(kind, 1, rows, query, d, to);
    }
}

LANES_FN void dot_rows(const int kind, const uint8_t *const *rows, uint32_t row_count,
                       const float *const *query, uint32_t query_count, uint32_t d, float *const *dots)
{
    for (uint32_t q = 0; q < query_count; q += LANES_QUERIES) {
        uint32_t nq = query_count - q < LANES_QUERIES ? query_count - q : LANES_QUERIES;
        const float *from[LANES_QUERIES];
        float split[kind == LWK_ROW_INT4 ? LANES_QUERIES : 1][kind == LWK_ROW_INT4 ? HEAD_DIM_MAX : 1];
        for (uint32_t i = 0; i < nq; i++) {
            from[i] = query[q + i];
            if (kind == LWK_ROW_INT4) {
                split_even_odd(query[q + i], d, split[i]);
                from[i] = split[i];
            }
        }
        for (uint32_t r = 0; r < row_count; r += ROWS) {
            uint32_t nr = row_count - r < ROWS ? row_count - r : ROWS;
            const uint8_t *block[ROWS];
            float to[LANES_QUERIES][ROWS];
            for (uint32_t i = 0; i < ROWS; i++)
                block[i] = rows[r + (i < nr ? i : 0)];
            dot_queries(kind, block, from, nq, d, to);
            for (uint32_t i = 0; i < nq; i++) {
                if (nr == ROWS) /* a length known at compile time is no call */
                    memcpy(dots[q + i] + r, to[i], ROWS * sizeof(float));
                else
                    memcpy(dots[q + i] + r, to[i], nr * sizeof(float));
            }
        }
    }
}

/* nv vectors of each row from element j on, nq queries. */
LANES_FN void accumulate_block(const int kind, const int nq, const int nv, const uint8_t *const *rows,
                               uint32_t row_count, const float *const *weight, uint32_t j, float *const *out)
{
    vf sum[LANES_QUERIES][VECTORS];
    UNROLL
    for (int q = 0; q < nq; q++) {
        UNROLL
        for (int v = 0; v < nv; v++)
            sum[q][v] = kind == LWK_ROW_INT4 ? v_set(0) : v_load(out[q] + j + v * LANES);
    }
    for (uint32_t r = 0; r < row_count; r++) {
        vf x[VECTORS];
        if (kind == LWK_ROW_INT4) {
            UNROLL
            for (int v = 0; v < nv; v += 2)
                v_load_int4(rows[r] + (j + v * LANES) / 2, &x[v], &x[v + 1]);
        } else {
            UNROLL
            for (int v = 0; v < nv; v++)
                x[v] = v_load_row(kind, rows[r], j + v * LANES);
        }
        UNROLL
        for (int q = 0; q < nq; q++) {
            vf w = v_set(weight[q][r]);
            UNROLL
            for (int v = 0; v < nv; v++)
                sum[q][v] = v_fma(w, x[v], sum[q][v]);
        }
    }
    UNROLL
    for (int q = 0; q < nq; q++) {
        UNROLL
        for (int v = 0; v < nv; v++) {
            if (kind == LWK_ROW_INT4) {
                float half[LANES];
                v_store(half, sum[q][v]);
                for (uint32_t i = 0; i < LANES; i++)
                    out[q][j + (v & ~1) * LANES + 2 * i + (v & 1)] += half[i];
            } else {
                v_store(out[q] + j + v * LANES, sum[q][v]);
            }
        }
    }
}

LANES_FN void accumulate_queries(const int kind, const int nv, const uint8_t *const *rows, uint32_t row_count,
                                 const float *const *weight, uint32_t count, uint32_t j, float *const *out)
{
    switch (count) {
#if LANES_QUERIES == 4
    case 4: accumulate_block(kind, 4, nv, rows, row_count, weight, j, out); break;
    case 3: accumulate_block(kind, 3, nv, rows, row_count, weight, j, out); break;
#endif
    case 2: accumulate_block(kind, 2, nv, rows, row_count, weight, j, out); break;
    default: accumulate_block(kind, 1, nv, rows, row_count, weight, j, out);
    }
}

LANES_FN void accumulate_rows(const int kind, const uint8_t *const *rows, uint32_t row_count,
                              const float *const *weight, uint32_t query_count, uint32_t d, float *const *out)
{
    /* INT4 sums leave the registers in another order, which is dear: its rows are small, so all of them pass
     * at once. */
    uint32_t block = kind == LWK_ROW_INT4 ? row_count : ROW_BLOCK;
    for (uint32_t r = 0; r < row_count; r += block) {
        uint32_t nr = row_count - r < block ? row_count - r : block;
        for (uint32_t q = 0; q < query_count; q += LANES_QUERIES) {
            uint32_t nq = query_count - q < LANES_QUERIES ? query_count - q : LANES_QUERIES, j = 0;
            const float *from[LANES_QUERIES];
            for (uint32_t i = 0; i < nq; i++)
                from[i] = weight[q + i] + r;
            for (; j + 4 * LANES <= d; j += 4 * LANES)
                accumulate_queries(kind, 4, rows + r, nr, from, nq, j, out + q);
            for (; j + 2 * LANES <= d; j += 2 * LANES)
                accumulate_queries(kind, 2, rows + r, nr, from, nq, j, out + q);
            if (kind != LWK_ROW_INT4 && j < d)
                accumulate_queries(kind, 1, rows + r, nr, from, nq, j, out + q);
        }
    }
}

#define ROW_LOOPS(name, kind)                                                                             \
    LANES_LOOP void dot_##name(const uint8_t *const *rows, uint32_t row_count, const float *const *query, \
                               uint32_t query_count, uint32_t d, float *const *dots)                      \
    {                                                                                                     \
        dot_rows(kind, rows, row_count, query, query_count, d, dots);                                     \
    }                                                                                                     \
    LANES_LOOP void accumulate_##name(const uint8_t *const *rows, uint32_t row_count,                     \
                                      const float *const *weight, uint32_t query_count, uint32_t d,       \
                                      float *const *out)                                                  \
    {                                                                                                     \
        accumulate_rows(kind, rows, row_count, weight, query_count, d, out);                              \
    }
ROW_LOOPS(fp32, LWK_ROW_FP32)
ROW_LOOPS(bf16, LWK_ROW_BF16)
ROW_LOOPS(fp16, LWK_ROW_FP16)
ROW_LOOPS(int8, LWK_ROW_INT8)
ROW_LOOPS(int4, LWK_ROW_INT4)

LANES_FN void widen_rows(const int kind, const uint8_t *from, uint32_t count, float *to)
{
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES)
        v_store(to + i, v_load_row(kind, from, i));
    for (; i < count; i++)
        to[i] = kind == LWK_ROW_BF16 ? lwk_bf16_to_f32(((const uint16_t *)(const void *)from)[i])
                                     : lwk_f16_to_f32(((const uint16_t *)(const void *)from)[i]);
}

LANES_LOOP void widen(lwk_row_kind_t kind, const void *from, uint32_t count, float *to)
{
    switch (kind) {
    case LWK_ROW_BF16: widen_rows(LWK_ROW_BF16, from, count, to); break;
    case LWK_ROW_FP16: widen_rows(LWK_ROW_FP16, from, count, to); break;
    default: memcpy(to, from, count * sizeof *to);
    }
}

/* ---- arrays
 * ------------------------------------------------------------------------------------------------------ */

LANES_LOOP float cap(float *x, uint32_t count, float scale, float soft_cap)
{
    vf most = v_set(-INFINITY), one = v_set(1.0f);
    float twice = soft_cap > 0 ? 2 * scale / soft_cap : 0;
    for (uint32_t i = 0; i < count; i += LANES) {
        vf y = v_load_n(x + i, count - i, -INFINITY);
        if (soft_cap > 0) { /* tanh(y) = 1 - 2 / (e^2y + 1), flat beyond 2y = 80 */
            vf e = v_exp(v_min(y * v_set(twice), v_set(80.0f)));
            y = v_set(soft_cap) * (one - v_set(2.0f) / (e + one));
        } else {
            y = y * v_set(scale);
        }
        v_store_n(x + i, y, count - i);
        most = v_max(most, i + LANES <= count ? y : v_load_n(x + i, count - i, -INFINITY));
    }
    return v_largest(most);
}

LANES_LOOP float exp_sum(float *x, uint32_t count, float largest)
{
    vf sum = v_set(0), shift = v_set(largest);
    for (uint32_t i = 0; i < count; i += LANES) {
        vf y = v_exp(v_load_n(x + i, count - i, -INFINITY) - shift);
        v_store_n(x + i, y, count - i);
        sum = sum + y;
    }
    return v_sum(sum);
}

LANES_LOOP float largest_of(const float *x, uint32_t count)
{
    vf most = v_set(-INFINITY);
    for (uint32_t i = 0; i < count; i += LANES)
        most = v_max(most, v_load_n(x + i, count - i, -INFINITY));
    return v_largest(most);
}

LANES_LOOP void multiply(float *x, uint32_t count, float factor)
{
    for (uint32_t i = 0; i < count; i += LANES)
        v_store_n(x + i, v_load_n(x + i, count - i, 0) * v_set(factor), count - i);
}

LANES_LOOP void decode(float *x, const float *scale, uint32_t count, float add)
{
    for (uint32_t i = 0; i < count; i += LANES) {
        vf y = v_fma(v_load_n(x + i, count - i, 0), v_load_n(scale + i, count - i, 0), v_set(add));
        v_store_n(x + i, y, count - i);
    }
}

LANES_LOOP void decode_row(const float *code, const float *center, const float *channel, float weight,
                           uint32_t d, float *out)
{
    for (uint32_t j = 0; j < d; j += LANES) {
        vf y = v_fma(v_load(center + j), v_set(weight), v_load(out + j));
        v_store(out + j, v_fma(v_load(channel + j), v_load(code + j), y));
    }
}

LANES_LOOP void product(const float *x, const float *y, uint32_t count, float *out)
{
    for (uint32_t i = 0; i < count; i += LANES)
        v_store_n(out + i, v_load_n(x + i, count - i, 0) * v_load_n(y + i, count - i, 0), count - i);
}

/* ---- entries
 * ----------------------------------------------------------------------------------------------------- */

/* Slope of the soft cap. The logit of an entry of size 0 is -infinity; its slope only has to be a number. */
LANES_FN vf v_slope(const lwk_lens_t *lens, vf logit)
{
    vf y = v_max(logit, v_set(-1e8f)) * v_set(lens->inverse_cap);
    return v_set(1.0f) - y * y;
}

LANES_FN vf v_spread(const lwk_columns_t *columns, const lwk_lens_t *lens, uint32_t i, uint32_t left)
{
    float limit = lens->spread > 0 ? LWK_VARIANCE_MAX / lens->spread : 0;
    return v_min(v_load_n(columns->spread + i, left, 0), v_set(limit));
}

LANES_FN vf v_variance(const lwk_columns_t *columns, const lwk_lens_t *lens, uint32_t i, uint32_t left,
                       vf slope)
{
    return v_spread(columns, lens, i, left) * v_set(lens->spread) * slope * slope;
}

LANES_LOOP float rank(const lwk_columns_t *columns, const lwk_lens_t *lens, const float *logit,
                      uint32_t count, float *rank_out)
{
    vf most = v_set(-INFINITY);
    for (uint32_t i = 0; i < count; i += LANES) {
        uint32_t left = count - i;
        vf l = v_load_n(logit + i, left, -INFINITY), r = l;
        if (lens->rank_z != 0) {
            vf variance = v_variance(columns, lens, i, left, v_slope(lens, l));
            vf two_log = v_load_n(columns->log_size + i, left, 0) * v_set(2.0f);
            r = v_fma(v_set(lens->rank_z), v_sqrt(variance * two_log), l);
        }
        v_store_n(rank_out + i, r, left);
        most = v_max(most, r);
    }
    return v_largest(most);
}

LANES_LOOP void vote(const float *rank_in, uint32_t count, float largest, float factor, float *votes)
{
    for (uint32_t i = 0; i < count; i += LANES) {
        uint32_t left = count - i;
        vf share = v_exp(v_load_n(rank_in + i, left, -INFINITY) - v_set(largest)) * v_set(factor);
        v_store_n(votes + i, v_load_n(votes + i, left, 0) + share, left);
    }
}

LANES_LOOP float mass(const lwk_columns_t *columns, const lwk_lens_t *lens, int with_variance,
                      const float *logit, uint32_t count, float *mass_out)
{
    vf most = v_set(-INFINITY);
    for (uint32_t i = 0; i < count; i += LANES) {
        uint32_t left = count - i;
        vf l = v_load_n(logit + i, left, -INFINITY), slope = v_slope(lens, l);
        vf a = l + v_load_n(columns->bias + i, left, -INFINITY);
        if (with_variance)
            a = v_fma(v_set(0.5f), v_variance(columns, lens, i, left, slope), a);
        if (columns->scale != NULL) {
            vf step = v_load_n(columns->scale + i, left, 0) * slope;
            a = a - step * step * v_set(lens->noise);
        }
        v_store_n(mass_out + i, a, left);
        most = v_max(most, a);
    }
    return v_largest(most);
}

LANES_LOOP float shift_weight(const lwk_columns_t *columns, const lwk_lens_t *lens, const float *logit,
                              const float *weight, uint32_t count)
{
    vf sum = v_set(0);
    for (uint32_t i = 0; i < count; i += LANES) {
        uint32_t left = count - i;
        vf slope = v_slope(lens, v_load_n(logit + i, left, 0));
        sum = v_fma(v_load_n(weight + i, left, 0), v_spread(columns, lens, i, left) * slope, sum);
    }
    return v_sum(sum);
}

LANES_LOOP void contribution(const lwk_columns_t *columns, const lwk_lens_t *lens, const float *logit,
                             uint32_t clusters, uint32_t count, float factor, float *weight)
{
    for (uint32_t i = 0; i < clusters; i += LANES) {
        uint32_t left = clusters - i;
        vf slope = v_slope(lens, v_load_n(logit + i, left, 0));
        vf variance = v_variance(columns, lens, i, left, slope);
        vf share = v_load_n(weight + i, left, 0) * v_set(factor);
        vf one_of_size = v_exp(v_load_n(columns->log_size + i, left, 0) * v_set(-1.0f));
        v_store_n(weight + i, share * share * (v_exp(variance) - v_set(1.0f)) * one_of_size, left);
    }
    for (uint32_t i = clusters; i < count; i++)
        weight[i] = weight[i] * factor * (weight[i] * factor);
}

#define LANES_PASTE_(a, b) a##b
#define LANES_PASTE(a, b) LANES_PASTE_(a, b)
#define LANES_TEXT_(a) #a
#define LANES_TEXT(a) LANES_TEXT_(a)

const lwk_loops_t LANES_PASTE(lwk_loops_, LANES_NAME) = {
    .name = LANES_TEXT(LANES_NAME),
    .head_dim_step = 2 * LANES,
    .dot = {dot_fp32, dot_bf16, dot_fp16, dot_int8, dot_int4},
    .accumulate = {accumulate_fp32, accumulate_bf16, accumulate_fp16, accumulate_int8, accumulate_int4},
    .widen = widen,
    .cap = cap,
    .exp_sum = exp_sum,
    .largest = largest_of,
    .decode = decode,
    .decode_row = decode_row,
    .product = product,
    .multiply = multiply,
    .rank = rank,
    .vote = vote,
    .mass = mass,
    .shift_weight = shift_weight,
    .contribution = contribution,
};
