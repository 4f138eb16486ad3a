/* quick.h - fewer rounds where each of them costs twenty times as much: under sanitizers. `tests/dev san` sets LW_QUICK=1; a
 * test that repeats asks here how often. What is left must still reach every case that the test is there for, and be able
 * to fail. */
#ifndef TESTS_QUICK_H
#define TESTS_QUICK_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* LW_QUICK is set, and not to 0. */
static inline bool quick_run(void)
{
    const char *value = getenv("LW_QUICK");
    return value && *value && strcmp(value, "0") != 0;
}

/* `full`, or `reduced` in a quick run: rounds, mutations, tokens. */
static inline uint32_t quick_count(uint32_t full, uint32_t reduced)
{
    return quick_run() ? reduced : full;
}

#endif /* TESTS_QUICK_H */
