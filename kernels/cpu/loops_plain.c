/* loops_plain.c - the loops of loops_body.h on lanes_plain.h. Reached through the device only, which asks the
 * processor. */
#include <math.h>
#include <string.h>

#include "kernels/convert.h"
#include "kernels/cpu/loops.h"
#include "kernels/ops.h"

#define LANES_FN static inline __attribute__((always_inline)) LANES_TARGET
#include "kernels/cpu/lanes_plain.h"
#include "kernels/cpu/loops_body.h"
