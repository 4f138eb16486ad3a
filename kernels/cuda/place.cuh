/* place.cuh - two states of a place that only this backend has, and only in tiles, never in items. */
#ifndef LWK_CUDA_PLACE_CUH
#define LWK_CUDA_PLACE_CUH

#include "kernels/cuda/lang.cuh"

/* REMOTE, while the thread that found it so numbers its ticket: within one launch of select. */
#define PLACE_BEING_ISSUED 1u
/* A bit of a PENDING place: some touch asks to keep the record. It makes the kind 3. */
#define PLACE_ADMIT (2u << 30)

LWK_DEVICE uint32_t place_kind(uint32_t place)
{
    return lwk_place_kind(place) == 3 ? LWK_PLACE_PENDING : lwk_place_kind(place);
}
/* As items show it. */
LWK_DEVICE uint32_t place_plain(uint32_t place)
{
    return lwk_place_kind(place) == 3 ? place & ~PLACE_ADMIT : place;
}

#endif /* LWK_CUDA_PLACE_CUH */
