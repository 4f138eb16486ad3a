/* fuzz.h - what every fuzz target uses. A target defines LLVMFuzzerTestOneInput and nothing else that others
 * see. */
#ifndef LW_FUZZ_H
#define LW_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count);

/* A property that does not hold ends the process: libFuzzer keeps the input, the replay prints its place. */
#define FUZZ_REQUIRE(cond)                                                              \
    do {                                                                                \
        if (!(cond)) {                                                                  \
            fprintf(stderr, "%s:%d: property broken: %s\n", __FILE__, __LINE__, #cond); \
            abort();                                                                    \
        }                                                                               \
    } while (0)

/* A copy whose last byte lies before a page that cannot be touched, so that a read behind the end stops the
 * process with any compiler. `align` (a power of two) aligns its first byte; up to align - 1 bytes of slack
 * then follow the end. */
typedef struct fuzz_guard {
    uint8_t *bytes;
    void *map;
    size_t map_bytes;
} fuzz_guard_t;

fuzz_guard_t fuzz_guard_copy(const void *bytes, size_t byte_count, size_t align);
void fuzz_guard_free(fuzz_guard_t *guard);

#endif /* LW_FUZZ_H */
