/* lanes_body.h - the loops of lanes.h, included once for each instruction set by lanes.c, which defines
 * LANES_NAME(x) and LANES_TARGET. Compiled with -O3 and reassociation allowed, so that plain loops become
 * vector code. */

#define LANES_EXP_MIN (-87.0f) /* below, e^x is as good as 0 */

/* e^x for x in [-87, 88]; relative error under 4e-7 where products and sums are fused, 4e-6 in the baseline.
 * 2^n times a polynomial of the rest in [-ln 2 / 2, ln 2 / 2]. */
LANES_TARGET static inline float LANES_NAME(exp)(float x)
{
    x = x < LANES_EXP_MIN ? LANES_EXP_MIN : x;
    float y = x * 1.44269504f;
    int32_t n = (int32_t)(y + (y < 0 ? -0.5f : 0.5f));
    float r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        int32_t bits;
        float value;
    } power = {(n + 127) << 23};
    return p * power.value;
}

LANES_TARGET static void LANES_NAME(widen)(const uint16_t *bf16, uint32_t count, float *out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = llama_bf16_to_float(bf16[i]);
}

LANES_TARGET static void LANES_NAME(narrow)(const float *in, uint32_t count, uint16_t *bf16_out)
{
    for (uint32_t i = 0; i < count; i++)
        bf16_out[i] = llama_float_to_bf16(in[i]);
}

LANES_TARGET static void LANES_NAME(score)(const float *restrict query, uint32_t rows,
                                           const uint16_t *restrict key, uint32_t keys, uint32_t d,
                                           float *restrict out)
{
    float wide[LW_HEAD_DIM_MAX];
    for (uint32_t j = 0; j < keys; j++) {
        LANES_NAME(widen)(key + (size_t)j * d, d, wide);
        for (uint32_t r = 0; r < rows; r++) {
            float sum = 0;
            for (uint32_t i = 0; i < d; i++)
                sum += query[(size_t)r * d + i] * wide[i];
            out[(size_t)r * keys + j] = sum;
        }
    }
}

LANES_TARGET static void LANES_NAME(mix)(const float *restrict weight, uint32_t rows,
                                         const uint16_t *restrict value, uint32_t keys, uint32_t d,
                                         float *restrict out)
{
    float wide[LW_HEAD_DIM_MAX];
    for (uint32_t j = 0; j < keys; j++) {
        LANES_NAME(widen)(value + (size_t)j * d, d, wide);
        for (uint32_t r = 0; r < rows; r++) {
            float w = weight[(size_t)r * keys + j];
            for (uint32_t i = 0; i < d; i++)
                out[(size_t)r * d + i] += w * wide[i];
        }
    }
}

LANES_TARGET static float LANES_NAME(softmax)(float *restrict score, uint32_t keys, float scale,
                                              float *maximum, float *sum)
{
    float m = score[0];
    for (uint32_t j = 1; j < keys; j++)
        m = score[j] > m ? score[j] : m;
    m *= scale;
    m = *maximum > m ? *maximum : m;
    float total = 0;
    for (uint32_t j = 0; j < keys; j++) {
        score[j] = LANES_NAME(exp)(score[j] * scale - m);
        total += score[j];
    }
    float shrink = *maximum - m < LANES_EXP_MIN ? 0.0f : LANES_NAME(exp)(*maximum - m);
    *sum = *sum * shrink + total;
    *maximum = m;
    return shrink;
}

LANES_TARGET static void LANES_NAME(scale)(float *x, uint32_t count, float by)
{
    for (uint32_t i = 0; i < count; i++)
        x[i] *= by;
}

LANES_TARGET static void LANES_NAME(add)(float *restrict x, const float *restrict y, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        x[i] += y[i];
}

LANES_TARGET static void LANES_NAME(silu_mul)(const float *restrict gate, const float *restrict up,
                                              uint32_t count, float *restrict out)
{
    for (uint32_t i = 0; i < count; i++) {
        float e = -gate[i] > 80.0f ? 80.0f : -gate[i];
        out[i] = gate[i] / (1.0f + LANES_NAME(exp)(e)) * up[i];
    }
}

LANES_TARGET static void LANES_NAME(rms_norm)(const float *restrict x, const float *restrict weight,
                                              uint32_t count, float epsilon, float *restrict out)
{
    float sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += x[i] * x[i];
    float by = 1.0f / sqrtf(sum / (float)count + epsilon);
    for (uint32_t i = 0; i < count; i++)
        out[i] = x[i] * by * weight[i];
}

static const llama_lanes_t LANES_NAME(set) = {
    LANES_TEXT,          LANES_NAME(widen), LANES_NAME(narrow), LANES_NAME(score),    LANES_NAME(mix),
    LANES_NAME(softmax), LANES_NAME(scale), LANES_NAME(add),    LANES_NAME(silu_mul), LANES_NAME(rms_norm),
};

#undef LANES_EXP_MIN
#undef LANES_NAME
#undef LANES_TARGET
#undef LANES_TEXT
