/* gemm_cublas.cu - the products through cuBLAS. Its workspace is ours, so that a captured pass allocates
 * nothing. */
#include <cublas_v2.h>
#include <stdlib.h>

#include "client/examples/llama/cuda/runner.cuh"

#define WORKSPACE_BYTES (32u << 20)

struct llama_gemm {
    cublasHandle_t handle;
    void *workspace;
};

lw_status_t llama_gemm_create(const llama_gpu_t *gpu, llama_gemm_t **gemm_out, lw_error_t *error)
{
    llama_gemm_t *gemm = (llama_gemm_t *)calloc(1, sizeof(*gemm));
    if (gemm == NULL || cudaMalloc(&gemm->workspace, WORKSPACE_BYTES) != cudaSuccess ||
        cublasCreate(&gemm->handle) != CUBLAS_STATUS_SUCCESS ||
        cublasSetStream(gemm->handle, gpu->stream) != CUBLAS_STATUS_SUCCESS ||
        cublasSetWorkspace(gemm->handle, gemm->workspace, WORKSPACE_BYTES) != CUBLAS_STATUS_SUCCESS ||
        cublasSetMathMode(gemm->handle, CUBLAS_DEFAULT_MATH) != CUBLAS_STATUS_SUCCESS) {
        llama_gemm_destroy(gemm);
        return lw_fail(error, LW_ERR_DEVICE, "cuBLAS does not start");
    }
    *gemm_out = gemm;
    return LW_OK;
}

void llama_gemm_destroy(llama_gemm_t *gemm)
{
    if (gemm == NULL)
        return;
    if (gemm->handle != NULL)
        cublasDestroy(gemm->handle);
    cudaFree(gemm->workspace);
    free(gemm);
}

/* In column-major words: out' [outputs][rows] = matrix' transposed x in'. */
lw_status_t llama_gemm(const llama_gpu_t *gpu, const void *matrix, uint32_t outputs, uint32_t inputs,
                       const void *in, uint32_t rows, float *out)
{
    const float one = 1.0f, zero = 0.0f;
    cudaDataType_t type = gpu->narrow ? CUDA_R_16BF : CUDA_R_32F;
    cublasStatus_t status =
        cublasGemmEx(gpu->gemm->handle, CUBLAS_OP_T, CUBLAS_OP_N, (int)outputs, (int)rows, (int)inputs, &one,
                     matrix, type, (int)inputs, in, type, (int)inputs, &zero, out, CUDA_R_32F, (int)outputs,
                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (status == CUBLAS_STATUS_SUCCESS)
        return LW_OK;
    LW_ERROR("llama", "cublasGemmEx of %u x %u, %u rows: status %d", outputs, inputs, rows, (int)status);
    return LW_ERR_DEVICE;
}
