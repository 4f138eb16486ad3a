/* fault.c - fault points: which are on, and whether this draw fires. Any thread.
 *
 * The n-th draw of a point depends on the seed, the point and n alone, so that what one point does is not
 * changed by how often another is passed, and one seed repeats a single-threaded run exactly. */
#include "base/fault.h"

#ifdef LW_FAULTS

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/prng.h"

typedef struct point {
    _Atomic uint64_t threshold; /* fires when the draw is below; 0: off, UINT64_MAX: always */
    _Atomic uint64_t draws;
} point_t;

static point_t points[LW_FAULT_COUNT];
static _Atomic uint64_t run_seed;

static const char *const names[LW_FAULT_COUNT] = {
#define XX(name, text) #name,
    LW_FAULT_MAP(XX)
#undef XX
};

bool lw_fault_fires(lw_fault_t fault)
{
    LW_ASSERT((unsigned)fault < LW_FAULT_COUNT);
    uint64_t threshold = atomic_load_explicit(&points[fault].threshold, memory_order_relaxed);
    lw_prng_t prng;

    if (threshold == 0) {
        return false;
    }
    uint64_t draw = atomic_fetch_add_explicit(&points[fault].draws, 1, memory_order_relaxed);
    lw_prng_seed(&prng, atomic_load_explicit(&run_seed, memory_order_relaxed) + fault);
    lw_prng_seed(&prng, lw_prng_u64(&prng) + draw);
    return threshold == UINT64_MAX || lw_prng_u64(&prng) < threshold;
}

void lw_fault_reset(uint64_t seed)
{
    for (unsigned i = 0; i < LW_FAULT_COUNT; i++) {
        atomic_store(&points[i].threshold, 0);
        atomic_store(&points[i].draws, 0);
    }
    atomic_store(&run_seed, seed);
}

void lw_fault_enable(lw_fault_t fault, double chance)
{
    LW_ASSERT((unsigned)fault < LW_FAULT_COUNT);
    LW_ASSERT(chance >= 0.0 && chance <= 1.0);
    atomic_store(&points[fault].threshold, chance >= 1.0 ? UINT64_MAX : (uint64_t)(chance * 0x1p64));
}

static bool find_point(const char *name, size_t bytes, lw_fault_t *fault_out)
{
    for (unsigned i = 0; i < LW_FAULT_COUNT; i++) {
        if (strlen(names[i]) == bytes && memcmp(names[i], name, bytes) == 0) {
            *fault_out = (lw_fault_t)i;
            return true;
        }
    }
    return false;
}

lw_status_t lw_fault_enable_text(const char *text)
{
    double chances[LW_FAULT_COUNT];

    for (unsigned i = 0; i < LW_FAULT_COUNT; i++) {
        chances[i] = -1.0; /* not named: stays as it is */
    }
    while (*text != '\0') {
        size_t bytes = strcspn(text, ";");
        const char *equals = memchr(text, '=', bytes);
        lw_fault_t fault;
        char *end;

        if (equals == NULL || equals + 1 == text + bytes ||
            !find_point(text, (size_t)(equals - text), &fault)) {
            return LW_ERR_INVALID;
        }
        chances[fault] = strtod(equals + 1, &end);
        if (end != text + bytes || !(chances[fault] >= 0.0 && chances[fault] <= 1.0)) {
            return LW_ERR_INVALID;
        }
        text += bytes;
        text += *text == ';';
    }
    for (unsigned i = 0; i < LW_FAULT_COUNT; i++) {
        if (chances[i] >= 0.0) {
            lw_fault_enable((lw_fault_t)i, chances[i]);
        }
    }
    return LW_OK;
}

#endif /* LW_FAULTS */
