/* launch.cu - how a kernel is started on a GPU, and how the runtime's errors become ours. Any thread. */
#include "kernels/cuda/lang.cuh"

lw_status_t lwk_cuda_check(const char *what, cudaError_t error)
{
    if (error == cudaSuccess)
        return LW_OK;
    LW_ERROR("cuda", "%s: %s", what, cudaGetErrorString(error));
    return error == cudaErrorMemoryAllocation ? LW_ERR_NO_MEMORY : LW_ERR_DEVICE;
}

/* More than this must be asked for, kernel by kernel. */
static const size_t SHARED_BYTES_FREE = 48u << 10;

unsigned lwk_resident_blocks_impl(const void *kernel, unsigned threads, size_t shared_bytes)
{
    int device = 0, processors = 0, each = 0;
    if (shared_bytes > SHARED_BYTES_FREE &&
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes) !=
            cudaSuccess)
        return 0; /* the next check reports it */
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess ||
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, (int)threads, shared_bytes) !=
            cudaSuccess)
        return 0;
    return (unsigned)(each * processors);
}

#if defined(__CUDACC__)

lw_status_t lwk_launch_raw(const char *name, const void *kernel, dim3 grid, unsigned threads,
                           size_t shared_bytes, cudaStream_t stream, unsigned how, void **args)
{
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    if (blocks == 0)
        return LW_OK;
    if ((how & LWK_LAUNCH_RESIDENT) && blocks > lwk_resident_blocks_impl(kernel, threads, shared_bytes)) {
        LW_ERROR("cuda", "%s: %llu blocks of %u threads are not resident at once", name,
                 (unsigned long long)blocks, threads);
        return LW_ERR_INVALID;
    }
    if (shared_bytes > SHARED_BYTES_FREE) {
        cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        if (error != cudaSuccess)
            return lwk_cuda_check(name, error);
    }
    /* Of an early launch residency is known from the occupancy alone: what else is on the device ends without waiting for it. */
    cudaLaunchAttribute attribute;
    if (how & LWK_LAUNCH_EARLY) {
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
    } else {
        attribute.id = cudaLaunchAttributeCooperative;
        attribute.val.cooperative = 1;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = how != 0 ? 1 : 0;
    return lwk_cuda_check(name, cudaLaunchKernelExC(&config, kernel, args));
}

#endif
