/* append.cu - writes new tokens into a session's sinks and ring. What it computes is kernels/ref/append.c.
 * Bytes: each row read and written once; floor: device memory, or the launch. */
#include "kernels/cuda/build.cuh"

/* Grid (eight (token, KV head) rows): a warp copies a row of K and one of V, 16 bytes a lane at a time, or
 * two where rows are not aligned. */
template <typename T> LWK_KERNEL(256, 4) void append_kernel(LWK_ARGS(lwk_append_t) args)
{
    const uint32_t heads = args.shape.kv_head_count, element = lwk_dtype_bytes(args.shape.dtype);
    const uint32_t pieces = args.shape.head_dim * element / (uint32_t)sizeof(T);
    const uint32_t row = blockIdx.x * BUILD_WARPS + build_warp(), t = row / heads, head = row % heads;
    if (t >= args.token_count)
        return;
    const uint32_t position = args.first + t;
    const bool sink = position < LW_SINK_TOKENS;
    const size_t to = lwk_ring_at(&args.shape, args.steady_rows, args.layer, head, position) * element;
    const T *key =
        (const T *)((const uint8_t *)args.key.data + lwk_tensor_at(&args.key, 0, t, head) * element);
    const T *value =
        (const T *)((const uint8_t *)args.value.data + lwk_tensor_at(&args.value, 0, t, head) * element);
    T *key_to = (T *)((uint8_t *)(sink ? args.sink_keys : args.steady_keys) + to);
    T *value_to = (T *)((uint8_t *)(sink ? args.sink_values : args.steady_values) + to);
    for (uint32_t i = build_lane(); i < pieces; i += 32) {
        key_to[i] = key[i];
        value_to[i] = value[i];
    }
}

/* Whether every row begins at 16 aligned bytes. */
static bool is_aligned(const lwk_tensor_t *tensor, uint32_t element)
{
    int64_t strides = tensor->token_stride | tensor->head_stride;
    return ((uintptr_t)tensor->data & 15) == 0 && strides * element % 16 == 0;
}

lw_status_t lwk_cuda_append(lwk_dev_t *dev, const lwk_append_t *args, void *stream)
{
    (void)dev;
    lw_status_t status = lwk_append_check(args);
    if (status != LW_OK)
        return status;
    const uint32_t element = lwk_dtype_bytes(args->shape.dtype);
    const uintptr_t rings = (uintptr_t)args->sink_keys | (uintptr_t)args->sink_values |
                            (uintptr_t)args->steady_keys | (uintptr_t)args->steady_values;
    const dim3 grid((args->token_count * args->shape.kv_head_count + BUILD_WARPS - 1) / BUILD_WARPS);
    if (is_aligned(&args->key, element) && is_aligned(&args->value, element) && (rings & 15) == 0)
        return lwk_launch("append", append_kernel<uint4>, grid, BUILD_THREADS, 0, (cudaStream_t)stream,
                          *args);
    return lwk_launch("append", append_kernel<uint16_t>, grid, BUILD_THREADS, 0, (cudaStream_t)stream, *args);
}
