/* kmeans_work.cuh - what k-means keeps between its kernels: the workspace, carved. */
#ifndef LWK_KMEANS_WORK_CUH
#define LWK_KMEANS_WORK_CUH

#include "kernels/cuda/build.cuh"

#define KMEANS_MEAN_TILE 256u /* tokens of one partial sum of the mean */
#define KMEANS_ZERO (-32768)  /* exponent of a row of zeros */

/* W: lwk_build_width(). Keys lose the segment's mean and become fp16 with a power of two for each row, which
 * leaves 11 digits of every row whatever its size; the largest inner product does not depend on it. */
typedef struct kmeans_work {
    uint32_t clusters, clusters_padded; /* seeds; rounded up to whole columns of `assign` */
    uint32_t mean_tiles, rounds, width;
    double *mean_parts;    /* [job][mean_tiles][head_dim] */
    uint16_t *rows;        /* [job][n][W] fp16, zero beyond head_dim */
    int16_t *exponents;    /* [job][n] row times 2^exponent is the key without the mean; KMEANS_ZERO: zero */
    uint16_t *directions;  /* [job][clusters_padded][W] fp16 of length 1 */
    uint16_t *assign;      /* [job][n] among the seeds */
    uint32_t *moved;       /* [job][rounds] tokens that changed their cluster */
    uint32_t *first_piece; /* [job][clusters + 1] number of a seed's first cluster after the cuts */
} kmeans_work_t;

#endif /* LWK_KMEANS_WORK_CUH */
