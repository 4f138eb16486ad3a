/* warp.h - what lang_emu.h calls for everything in which threads meet. */
#ifndef LWK_EMU_WARP_H
#define LWK_EMU_WARP_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/emu/types.h"

typedef enum emu_warp_kind {
    EMU_SHFL,
    EMU_SHFL_UP,
    EMU_SHFL_DOWN,
    EMU_SHFL_XOR, /* the last of the shuffles */
    EMU_BALLOT,
    EMU_MATCH,
    EMU_SYNC,
    EMU_REDUCE_ADD, /* the first of the sums */
    EMU_REDUCE_OR,
    EMU_REDUCE_AND,
    EMU_REDUCE_MAX,
    EMU_REDUCE_MIN,
    EMU_REDUCE_MAX_INT,
    EMU_REDUCE_MIN_INT, /* the last */
    EMU_MMA_16,
    EMU_MMA_8,
    EMU_LDMATRIX,
    EMU_LDMATRIX_TRANS,
} emu_warp_kind_t;

/* A lane's part of a matrix function. */
typedef struct emu_fragment {
    const uint32_t *a, *b;
    float *d;
    int *d_int;
    uint32_t dtype;
    uint32_t *r;
    const void *address;
} emu_fragment_t;

/* The thread that runs; NULL on the host's side. Valid under the device's lock. */
extern lwk_emu_thread_t *lwk_emu_self;

uint64_t lwk_emu_warp(int kind, unsigned mask, uint64_t in, int select, int width, void *fragment_of_lane, const char *file,
                      int line);
/* High half: whether any predicate was true; low half: how many. */
uint64_t lwk_emu_barrier(int predicate, const char *file, int line);
void lwk_emu_pause(void);
/* 16 bytes; from NULL: zeros. */
void lwk_emu_copy_start(void *to, const void *from);
void lwk_emu_copy_commit(void);
void lwk_emu_copy_wait(unsigned under_way);

#endif /* LWK_EMU_WARP_H */
