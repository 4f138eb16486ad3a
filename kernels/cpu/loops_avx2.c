/* loops_avx2.c - the loops of loops_body.h on lanes_avx2.h. Reached through the device only, which asks the
 * processor. */
#include <math.h>
#include <string.h>

#include "kernels/convert.h"
#include "kernels/cpu/loops.h"
#include "kernels/ops.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define LANES_FN static inline __attribute__((always_inline)) LANES_TARGET
#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/loops_body.h"

#endif /* __x86_64__ */
