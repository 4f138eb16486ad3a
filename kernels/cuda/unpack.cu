/* unpack.cu - puts the records of one head back into token order. What it computes is kernels/ref/unpack.c;
 * sizes and order may come from a stored segment and are checked before anything is launched, as there. */
#include "kernels/cuda/record_rows.cuh"

/* Grid (spans of RECORD_SPAN positions). */
LWK_KERNEL(256, 2) void unpack_kernel(LWK_ARGS(lwk_unpack_t) args)
{
    LWK_SHARED(record_starts_t, s);
    const uint32_t pieces = args.head_dim * lwk_dtype_bytes(args.dtype) / 16;
    record_find_starts(s, args.sizes, args.cluster_count);
    const uint32_t first = blockIdx.x * RECORD_SPAN, end = min(args.token_count, first + RECORD_SPAN);
    for (uint32_t position = first + build_warp(); position < end; position += BUILD_WARPS) {
        uint32_t key, value;
        record_rows(s, args.cluster_count, position, &key, &value);
        size_t to = (size_t)args.order[position] * pieces;
        for (uint32_t i = build_lane(); i < 2 * pieces; i += 32) {
            bool is_value = i >= pieces;
            uint32_t piece = is_value ? i - pieces : i;
            uint8_t *rows = (uint8_t *)(is_value ? args.values : args.keys);
            lwk_copy16(rows + (to + piece) * 16,
                       args.records + ((size_t)(is_value ? value : key) * pieces + piece) * 16);
        }
    }
}

lw_status_t lwk_cuda_unpack(lwk_dev_t *dev, const lwk_unpack_t *args, void *stream)
{
    (void)dev;
    if (args->cluster_count > args->token_count) /* shared memory has a start for each */
        return LW_ERR_INVALID;
    lw_status_t status = lwk_unpack_check(args);
    if (status != LW_OK)
        return status;
    return lwk_launch("unpack", unpack_kernel, dim3((args->token_count + RECORD_SPAN - 1) / RECORD_SPAN),
                      BUILD_THREADS, sizeof(record_starts_t) + (args->cluster_count + 1) * sizeof(uint32_t),
                      (cudaStream_t)stream, *args);
}
