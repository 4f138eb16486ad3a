/* lanes_avx2.h - eight lanes: AVX2, FMA and F16C. Included by loops_avx2.c only. */
#define LANES 8
#define LANES_QUERIES 2
#define LANES_TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES_NAME avx2

typedef __m256 vf;
typedef int32_t vi __attribute__((vector_size(32)));

LANES_FN vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
LANES_FN void v_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x);
}
LANES_FN vf v_set(float x)
{
    return _mm256_set1_ps(x);
}
LANES_FN vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
LANES_FN vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
LANES_FN vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
LANES_FN vf v_sqrt(vf x)
{
    return _mm256_sqrt_ps(x);
}
LANES_FN vf v_load_bf16(const uint8_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
LANES_FN vf v_load_fp16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
LANES_FN vf v_load_int8(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}
LANES_FN void v_load_int4(const uint8_t *p, vf *even_out, vf *odd_out)
{
    __m256i x = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    *even_out = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 28), 28));
    *odd_out = _mm256_cvtepi32_ps(_mm256_srai_epi32(x, 4));
}
LANES_FN __m128 v_fold(vf x)
{
    return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
}
LANES_FN float v_sum(vf x)
{
    __m128 s = v_fold(x);
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
LANES_FN float v_largest(vf x)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
LANES_FN void v_sum4(const vf x[4], float *to)
{
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    _mm_storeu_ps(to, v_fold(pairs));
}
