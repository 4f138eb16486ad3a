/* gather.cu - copies records from host memory to landing memory, a block for each record, read across the
 * host link in 16-byte pieces where both ends are aligned. The lists lie where the device can read them.
 * Floor: the host link. */
#include "kernels/cuda/build.cuh"

#define GATHER_BLOCKS 1024u

/* Grid (at most GATHER_BLOCKS), each takes every gridDim-th record. */
LWK_KERNEL(128, 8) void gather_kernel(LWK_ARGS(lwk_gather_t) args)
{
    for (uint32_t r = blockIdx.x; r < args.count; r += gridDim.x) {
        const uint8_t *from = args.from[r];
        uint8_t *to = args.into + args.to[r];
        uint32_t bytes = args.bytes[r],
                 whole = (((uintptr_t)from | (uintptr_t)to) & 15) == 0 ? bytes / 16 * 16 : 0;
#pragma unroll 4
        for (uint32_t at = 16 * threadIdx.x; at < whole; at += 16 * blockDim.x)
            lwk_copy16(to + at, from + at);
        for (uint32_t at = whole + threadIdx.x; at < bytes; at += blockDim.x)
            to[at] = from[at];
    }
}

lw_status_t lwk_cuda_gather(lwk_dev_t *dev, const lwk_gather_t *args, void *stream)
{
    (void)dev;
    if (args->count > 0 &&
        (args->from == NULL || args->bytes == NULL || args->to == NULL || args->into == NULL))
        return LW_ERR_INVALID;
    uint32_t blocks = args->count < GATHER_BLOCKS ? args->count : GATHER_BLOCKS;
    return lwk_launch("gather", gather_kernel, dim3(blocks), 128, 0, (cudaStream_t)stream, *args);
}
