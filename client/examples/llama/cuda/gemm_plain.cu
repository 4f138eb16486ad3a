/* gemm_plain.cu - the products without a library: one thread an output. For the emulator, whose models are
 * small. */
#include "client/examples/llama/cuda/runner.cuh"

#define THREADS 64u

lw_status_t llama_gemm_create(const llama_gpu_t *gpu, llama_gemm_t **gemm_out, lw_error_t *error)
{
    *gemm_out = NULL;
    return LW_OK;
}

void llama_gemm_destroy(llama_gemm_t *gemm) {}

/* Grid: (outputs / THREADS, rows). */
LWK_KERNEL(THREADS, 1)
void gemm_kernel(const void *matrix, const void *in, bool narrow, uint32_t outputs, uint32_t inputs,
                 float *out)
{
    uint32_t i = blockIdx.x * THREADS + threadIdx.x, row = blockIdx.y;
    float sum = 0;
    if (i >= outputs)
        return;
    if (narrow) {
        const uint16_t *a = (const uint16_t *)matrix + (uint64_t)i * inputs,
                       *b = (const uint16_t *)in + (uint64_t)row * inputs;
        for (uint32_t k = 0; k < inputs; k++)
            sum += lwk_bf16_to_f32(a[k]) * lwk_bf16_to_f32(b[k]);
    } else {
        const float *a = (const float *)matrix + (uint64_t)i * inputs,
                    *b = (const float *)in + (uint64_t)row * inputs;
        for (uint32_t k = 0; k < inputs; k++)
            sum += a[k] * b[k];
    }
    out[(uint64_t)row * outputs + i] = sum;
}

lw_status_t llama_gemm(const llama_gpu_t *gpu, const void *matrix, uint32_t outputs, uint32_t inputs,
                       const void *in, uint32_t rows, float *out)
{
    return lwk_launch("gemm", gemm_kernel, dim3((outputs + THREADS - 1) / THREADS, rows), THREADS, 0,
                      gpu->stream, matrix, in, gpu->narrow, outputs, inputs, out);
}
