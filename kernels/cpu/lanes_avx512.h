/* lanes_avx512.h - sixteen lanes: AVX-512F. bf16 is widened by shifts, which every AVX-512 processor can do.
 * Included by loops_avx512.c only. */
#define LANES 16
#define LANES_QUERIES 4
#define LANES_TARGET __attribute__((target("avx512f,avx2,fma,f16c")))
#define LANES_NAME avx512

typedef __m512 vf;
typedef int32_t vi __attribute__((vector_size(64)));

LANES_FN vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
LANES_FN void v_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}
LANES_FN vf v_set(float x)
{
    return _mm512_set1_ps(x);
}
LANES_FN vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
LANES_FN vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
LANES_FN vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
LANES_FN vf v_sqrt(vf x)
{
    return _mm512_sqrt_ps(x);
}
LANES_FN vf v_load_bf16(const uint8_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
LANES_FN vf v_load_fp16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
LANES_FN vf v_load_int8(const uint8_t *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}
LANES_FN void v_load_int4(const uint8_t *p, vf *even_out, vf *odd_out)
{
    __m512i x = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    *even_out = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 28), 28));
    *odd_out = _mm512_cvtepi32_ps(_mm512_srai_epi32(x, 4));
}
LANES_FN float v_sum(vf x)
{
    return _mm512_reduce_add_ps(x);
}
LANES_FN float v_largest(vf x)
{
    return _mm512_reduce_max_ps(x);
}
/* Folds four vectors into the four quarters of one, then each quarter into its first lane. */
LANES_FN void v_sum4(const vf x[4], float *to)
{
    __m512 low =
        _mm512_add_ps(_mm512_shuffle_f32x4(x[0], x[1], 0x44), _mm512_shuffle_f32x4(x[0], x[1], 0xEE));
    __m512 high =
        _mm512_add_ps(_mm512_shuffle_f32x4(x[2], x[3], 0x44), _mm512_shuffle_f32x4(x[2], x[3], 0xEE));
    __m512 four = _mm512_add_ps(_mm512_shuffle_f32x4(low, high, 0x88), _mm512_shuffle_f32x4(low, high, 0xDD));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4E));
    four = _mm512_add_ps(four, _mm512_permute_ps(four, 0xB1));
    _mm_storeu_ps(to, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, four)));
}
