/* prng.h - the one source of pseudo-random numbers: seeded, so that every run can be repeated.
 * splitmix64 (Steele, Lea, Flood 2014). Not for secrets. */
#ifndef LW_PRNG_H
#define LW_PRNG_H

#include <stdint.h>

typedef struct lw_prng {
    uint64_t state;
} lw_prng_t;

static inline void lw_prng_seed(lw_prng_t *prng, uint64_t seed) { prng->state = seed; }

static inline uint64_t lw_prng_u64(lw_prng_t *prng)
{
    uint64_t z = (prng->state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
/* Uniform in [0, bound); bound > 0. */
static inline uint64_t lw_prng_below(lw_prng_t *prng, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)lw_prng_u64(prng) * bound) >> 64);
}
/* Uniform in [0, 1). */
static inline double lw_prng_unit(lw_prng_t *prng) { return (double)(lw_prng_u64(prng) >> 11) * 0x1p-53; }

#endif /* LW_PRNG_H */
