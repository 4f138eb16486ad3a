/* fill.cu - numbers without a host: random weights, random K and V, the time. */
#include "client/examples/llama/cuda/runner.cuh"

#define THREADS 256u
#define EACH 8u /* values a thread writes */

LWK_DEVICE float draw(uint64_t seed, uint64_t place, float bound)
{
    uint64_t z = seed + (place + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return ((float)(uint32_t)(z >> 40) * (1.0f / 8388608.0f) - 1.0f) * bound;
}

/* Grid: count / (THREADS x EACH) blocks. Writes count values. */
LWK_KERNEL(THREADS, 1) void draw_kernel(void *out, bool narrow, uint64_t count, float bound, uint64_t seed)
{
    uint64_t first = ((uint64_t)blockIdx.x * THREADS) * EACH + threadIdx.x;
    for (uint32_t i = 0; i < EACH; i++) {
        uint64_t place = first + (uint64_t)i * THREADS;
        if (place >= count)
            return;
        float value = draw(seed, place, bound);
        if (narrow)
            ((uint16_t *)out)[place] = lwk_f32_to_bf16(value);
        else
            ((float *)out)[place] = value;
    }
}

LWK_KERNEL(THREADS, 1) void set_kernel(float *out, uint64_t count, float value)
{
    uint64_t place = (uint64_t)blockIdx.x * THREADS + threadIdx.x;
    if (place < count)
        out[place] = value;
}

lw_status_t llama_draw(cudaStream_t stream, void *out, bool narrow, uint64_t count, float bound,
                       uint64_t seed)
{
    uint64_t each = (uint64_t)THREADS * EACH;
    return lwk_launch("draw", draw_kernel, dim3((unsigned)((count + each - 1) / each)), THREADS, 0, stream,
                      out, narrow, count, bound, seed);
}

lw_status_t llama_set(cudaStream_t stream, float *out, uint64_t count, float value)
{
    return lwk_launch("set", set_kernel, dim3((unsigned)((count + THREADS - 1) / THREADS)), THREADS, 0,
                      stream, out, count, value);
}

LWK_KERNEL(1, 1) void stamp_kernel(uint64_t *ns_out)
{
    *ns_out = lwk_timer_ns();
    __threadfence_system();
}

lw_status_t llama_stamp(void *stream, uint64_t *ns_out)
{
    return lwk_launch("stamp", stamp_kernel, dim3(1), 1, 0, (cudaStream_t)stream, ns_out);
}
