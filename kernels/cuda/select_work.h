/* select_work.h - the parts of a step's workspace that belong to select and admit, which lie at its beginning: what the blocks of
 * a launch tell each other. C and CUDA.
 *
 * The first part is zero when the workspace is new, and left so, or counted on, by every launch; the rest holds garbage. */
#ifndef LWK_CUDA_SELECT_WORK_H
#define LWK_CUDA_SELECT_WORK_H

#include "kernels/backend.h"

#define LWK_SELECT_SPLIT_MAX 32u  /* blocks of one (session, KV head) */
#define LWK_SELECT_BLOCKS_MAX 160u /* blocks that wait for each other: one on each processor */
#define LWK_SELECT_JOBS_MAX (LWK_SELECT_BLOCKS_MAX / 2) /* that have more than one block */
#define LWK_SELECT_SUMS 4096u
#define LWK_SELECT_CANDIDATES_MAX 4096u /* entries around a cut that blocks show each other */

typedef struct lwk_select_hist {
    uint32_t entries[2048], tokens[2048];
} lwk_select_hist_t;

/* Of one job; zero at first, and between launches but for the flags. */
typedef struct lwk_select_state {
    uint64_t flag[LWK_SELECT_SPLIT_MAX];
    lwk_select_hist_t first;
} lwk_select_state_t;

/* Of one job; garbage at first. */
typedef struct lwk_select_buffers {
    uint32_t above[2][LWK_SELECT_SPLIT_MAX]; /* entries of each block beyond the candidates of a cut */
    uint32_t candidates[2][LWK_SELECT_SPLIT_MAX];
    uint32_t retrieved[LWK_SELECT_SPLIT_MAX];
    lwk_select_hist_t hist[3]; /* levels behind the first take turns */
    /* error budget: */
    uint64_t sums[4][LWK_SELECT_SUMS]; /* those of the first level, then of those three */
    uint64_t rest[128];                /* by query */
    double mass[LWK_SELECT_SPLIT_MAX][128]; /* by block and query */
} lwk_select_buffers_t;

/* One ticket that admit releases. */
typedef struct lwk_admit_plan {
    uint32_t tile, entry, size, where;
    uint64_t first;  /* pages that the plan wants before it, in its block's part: class 0 high, 1 low */
    uint32_t pages;  /* 0: nothing is to be kept */
    uint32_t block;  /* whose part it is */
} lwk_admit_plan_t;

#define LWK_ADMIT_PLAN_MAX 8192u
#define LWK_ADMIT_VICTIMS_MAX 1024u

typedef struct lwk_admit_victim {
    uint32_t tile, entry, pages, reserved; /* pages 0: nobody */
} lwk_admit_victim_t;

/* Of the whole device. */
typedef struct lwk_select_global {
    uint64_t launches;
    uint32_t issued, done;
    uint64_t head, tail;  /* of the ring of tickets, which is the host's: score has read them */
    lwk_counters_t delta; /* what is to be added to the counters: admit does, once a step */
    uint64_t admit_flag[LWK_SELECT_BLOCKS_MAX]; /* only grow */
    uint64_t admit_epoch;
    uint32_t admit_open;                        /* LWK_ADMIT_PLAN_MAX - the first ticket that is open; 0: none */
    uint32_t admit_used[2];                     /* pages of each class */
    uint32_t admit_kept, admit_refused, admit_failed;
    uint64_t admit_demand[LWK_SELECT_BLOCKS_MAX]; /* pages that a block's part of the plan wants: class 0 high, 1 low */
} lwk_select_global_t;

typedef struct lwk_select_work {
    lwk_select_global_t *global;
    lwk_select_state_t *states;      /* [LWK_SELECT_JOBS_MAX] */
    uint64_t *candidate_rank;        /* [2][LWK_SELECT_BLOCKS_MAX][LWK_SELECT_CANDIDATES_MAX] */
    uint16_t *candidate_size;        /* same */
    lwk_admit_plan_t *plan;          /* [LWK_ADMIT_PLAN_MAX] */
    lwk_admit_victim_t *victims;     /* [LWK_ADMIT_VICTIMS_MAX] */
    lwk_select_buffers_t *buffers;   /* [min(jobs, LWK_SELECT_JOBS_MAX)] */
    uint32_t *key;                   /* [jobs][entry_capacity] */
    uint16_t *size;                  /* same */
} lwk_select_work_t;

#ifdef __cplusplus
extern "C" {
#endif
/* Bytes of these parts for a step of so many sessions and query tokens; `work_out` (may be NULL) gets them, from `workspace` on.
 * They are a multiple of 256 and grow with every argument: other ops have the workspace behind those of the largest step. */
uint64_t lwk_cuda_select_carve(const lwk_shape_t *shape, uint32_t sessions, uint32_t query_tokens, uint32_t entry_capacity,
                               void *workspace, lwk_select_work_t *work_out);
#ifdef __cplusplus
}
#endif

#endif /* LWK_CUDA_SELECT_WORK_H */
