/* record_rows.cuh - where the rows of a record lie: what pack and unpack share.
 *
 * A head's rows in record order: of a cluster its rows of K, then its rows of V; after the clusters the
 * outliers, one row of K and one of V each. */
#ifndef LWK_RECORD_ROWS_CUH
#define LWK_RECORD_ROWS_CUH

#include "kernels/cuda/build.cuh"

#define RECORD_SPAN 512u /* positions in record order of one block: each reads all sizes */

/* In shared memory; start has room for `clusters` and one more. */
typedef struct record_starts {
    uint32_t thread_sum[BUILD_THREADS];
    uint32_t start[]; /* position of each cluster's first row */
} record_starts_t;

/* The whole block calls. start[clusters] is where the outliers begin. */
LWK_DEVICE void record_find_starts(record_starts_t *s, const uint16_t *sizes, uint32_t clusters)
{
    const uint32_t each = (clusters + BUILD_THREADS - 1) / BUILD_THREADS, first = threadIdx.x * each;
    uint32_t sum = 0;
    for (uint32_t c = first; c < first + each && c < clusters; c++) {
        uint32_t size = sizes[c];
        s->start[c] = size;
        sum += size;
    }
    s->thread_sum[threadIdx.x] = sum;
    __syncthreads();
    uint32_t at = 0;
    for (uint32_t t = 0; t < threadIdx.x; t++)
        at += s->thread_sum[t];
    for (uint32_t c = first; c < first + each && c < clusters; c++) {
        uint32_t size = s->start[c];
        s->start[c] = at;
        at += size;
    }
    if (threadIdx.x == BUILD_THREADS - 1)
        s->start[clusters] = at;
    __syncthreads();
}

/* Row of K and row of V, counted in rows from the head's first record, of the token at `position` in record
 * order. */
LWK_DEVICE void record_rows(const record_starts_t *s, uint32_t clusters, uint32_t position, uint32_t *key,
                            uint32_t *value)
{
    uint32_t start = position, size = 1;
    if (position < s->start[clusters]) {
        uint32_t low = 0, high = clusters; /* start[low] <= position < start[high] */
        while (high - low > 1) {
            uint32_t middle = (low + high) / 2;
            if (s->start[middle] <= position)
                low = middle;
            else
                high = middle;
        }
        start = s->start[low];
        size = s->start[high] - start;
    }
    *key = 2 * start + (position - start);
    *value = *key + size;
}

#endif /* LWK_RECORD_ROWS_CUH */
