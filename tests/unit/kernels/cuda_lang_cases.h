/* cuda_lang_cases.h - kernels that use one thing of the dialect each, and what they should have computed. Compiled by nvcc
 * for a GPU and by the C++ compiler over the emulator. */
#ifndef CUDA_LANG_CASES_H
#define CUDA_LANG_CASES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Number of devices: 0 means that nothing can run. */
int lang_devices(void);

/* Each runs one case and returns how many elements were wrong, or -1 when the runtime refused something. */
int lang_barrier(uint64_t seed);
int lang_shuffles(uint64_t seed);
int lang_votes(uint64_t seed);
int lang_partial_warps(uint64_t seed);
int lang_mma_16(uint64_t seed, uint32_t dtype);
int lang_mma_s8(uint64_t seed);
int lang_ldmatrix(uint64_t seed);
int lang_async_copy(uint64_t seed);
int lang_atomics(uint64_t seed);
int lang_convert(uint64_t seed);
int lang_resident(uint64_t seed);
int lang_resident_too_many(void); /* 0: refused, as it should be */
int lang_stream_order(uint64_t seed);
int lang_events(uint64_t seed);
int lang_capture(uint64_t seed);
int lang_handshake(uint64_t seed);

/* Wrong on purpose: what the emulator must notice. Not for a GPU. */
int lang_bad_no_barrier(void);      /* returns how many elements came out wrong */
int lang_bad_unwritten_shared(void); /* how many elements are not NaN */
int lang_bad_copy_without_wait(void);
void lang_bad_divergent_barrier(void); /* end the program */
void lang_bad_divergent_shuffle(void);
void lang_bad_other_barrier(void);
void lang_bad_shared_overrun(void);
void lang_bad_foreign_mask(void);

#ifdef __cplusplus
}
#endif

#endif /* CUDA_LANG_CASES_H */
