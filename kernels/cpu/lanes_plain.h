/* lanes_plain.h - four lanes in the compiler's own vectors: any processor. Included by loops_plain.c only. */
#define LANES 4
#define LANES_QUERIES 2 /* queries and vectors that the registers hold in one block of accumulate */
#define LANES_TARGET
#define LANES_NAME plain

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

LANES_FN vf v_load(const float *p)
{
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
LANES_FN void v_store(float *p, vf x)
{
    memcpy(p, &x, sizeof x);
}
LANES_FN vf v_set(float x)
{
    return (vf){x, x, x, x};
}
LANES_FN vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}
LANES_FN vf v_max(vf a, vf b)
{
    vi more = a > b;
    return (vf)(((vi)a & more) | ((vi)b & ~more));
}
LANES_FN vf v_min(vf a, vf b)
{
    vi less = a < b;
    return (vf)(((vi)a & less) | ((vi)b & ~less));
}
LANES_FN vf v_sqrt(vf x)
{
    return (vf){sqrtf(x[0]), sqrtf(x[1]), sqrtf(x[2]), sqrtf(x[3])};
}
LANES_FN vf v_load_bf16(const uint8_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return (vf)((vi){h[0], h[1], h[2], h[3]} << 16);
}
LANES_FN vf v_load_fp16(const uint8_t *p)
{
    uint16_t h[4];
    memcpy(h, p, sizeof h);
    return (vf){lwk_f16_to_f32(h[0]), lwk_f16_to_f32(h[1]), lwk_f16_to_f32(h[2]), lwk_f16_to_f32(h[3])};
}
LANES_FN vf v_load_int8(const uint8_t *p)
{
    return (vf){(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]};
}
LANES_FN void v_load_int4(const uint8_t *p, vf *even_out, vf *odd_out)
{
    vi x = {(int8_t)p[0], (int8_t)p[1], (int8_t)p[2], (int8_t)p[3]};
    vi even = (x << 28) >> 28, odd = x >> 4;
    *even_out = __builtin_convertvector(even, vf);
    *odd_out = __builtin_convertvector(odd, vf);
}
LANES_FN float v_sum(vf x)
{
    return (x[0] + x[2]) + (x[1] + x[3]);
}
LANES_FN float v_largest(vf x)
{
    return fmaxf(fmaxf(x[0], x[2]), fmaxf(x[1], x[3]));
}
/* to[i] = sum of lanes of x[i] */
LANES_FN void v_sum4(const vf x[4], float *to)
{
    for (int i = 0; i < 4; i++)
        to[i] = v_sum(x[i]);
}
