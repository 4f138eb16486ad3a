/* pack.cu - writes a job's rows in record order, to wherever its records go: host memory too, in whole lines
 * of it. What it computes is kernels/ref/pack.c. Bytes: 2 n rows read and written; floor: the host link where
 * that is the target. */
#include "kernels/cuda/record_rows.cuh"

/* Grid (spans of RECORD_SPAN positions, jobs). A warp copies the K row and the V row of four tokens at a
 * time. */
LWK_KERNEL(256, 2) void pack_kernel(LWK_ARGS(lwk_build_t) args)
{
    LWK_SHARED(record_starts_t, s);
    const uint32_t job = blockIdx.y, n = args.token_count, clusters = args.cluster_count[job];
    const uint32_t element = lwk_dtype_bytes(args.dtype), pieces = args.head_dim * element / 16;
    const uint32_t *order = args.order + (size_t)job * n;
    uint8_t *records = args.records[job];
    record_find_starts(s, args.sizes + (size_t)job * args.cluster_capacity, clusters);
    const uint32_t first = blockIdx.x * RECORD_SPAN, end = min(n, first + RECORD_SPAN);
    for (uint32_t position = first + build_warp(); position < end; position += BUILD_WARPS) {
        uint32_t key, value;
        record_rows(s, clusters, position, &key, &value);
        size_t from = lwk_build_row(&args, job, order[position]) * element;
        for (uint32_t i = build_lane(); i < 2 * pieces; i += 32) {
            bool is_value = i >= pieces;
            uint32_t piece = is_value ? i - pieces : i;
            const uint8_t *row = (const uint8_t *)(is_value ? args.values : args.keys) + from;
            lwk_copy16(records + ((size_t)(is_value ? value : key) * pieces + piece) * 16, row + 16 * piece);
        }
    }
}

lw_status_t lwk_cuda_pack(lwk_dev_t *dev, const lwk_build_t *args, void *stream)
{
    (void)dev;
    lw_status_t status = lwk_build_check(args, 0);
    if (status != LW_OK)
        return status;
    size_t shared = sizeof(record_starts_t) +
                    (lw_min_u64(args->cluster_capacity, args->token_count) + 1) * sizeof(uint32_t);
    return lwk_launch("pack", pack_kernel,
                      dim3((args->token_count + RECORD_SPAN - 1) / RECORD_SPAN, args->job_count),
                      BUILD_THREADS, shared, (cudaStream_t)stream, *args);
}
