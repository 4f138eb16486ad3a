/* dev.cuh - the device behind the CUDA table, and what the host half of the step ops shares. */
#ifndef LWK_CUDA_DEV_CUH
#define LWK_CUDA_DEV_CUH

#include "kernels/cuda/lang.cuh"
#include "kernels/cuda/ops_cuda.h"

/* Counters that blocks of one launch hand around: how many of them are done. Zero between launches, because the last block
 * sets them back; in device memory, one row for each op that needs them. */
#define LWK_DEV_COUNTERS (LW_BATCH_MAX * LW_KV_HEADS_MAX)
typedef struct lwk_dev_counters {
    uint32_t prepare_all;
    uint32_t finish[LWK_DEV_COUNTERS]; /* by (session, KV head): blocks done */
} lwk_dev_counters_t;

struct lwk_dev {
    int ordinal;
    unsigned processors;
    cudaStream_t fill; /* zeroes new memory */
    lwk_dev_counters_t *counters; /* device */
    char text[64];
};

/* Kernels are templates over the layout of a row: LANES threads share one, 8 elements each. */
#define LWK_ROW_PART 8u
LWK_HD uint32_t lwk_row_lanes(uint32_t head_dim)
{
    return head_dim <= 64 ? 8 : head_dim <= 128 ? 16 : 32;
}

/* Loads a kernel and grants it its shared memory, so that its first launch waits for nothing. */
template <typename... Params>
static inline lw_status_t lwk_kernel_load(void (*kernel)(Params...), unsigned threads, size_t shared_bytes)
{
    return lwk_resident_blocks(kernel, threads, shared_bytes) > 0 ? LW_OK : LW_ERR_DEVICE;
}

#endif /* LWK_CUDA_DEV_CUH */
