/* test_support.h - what the unit tests of proto/ share: cmocka with its headers, a printed seed, a child that
 * must die. */
#ifndef LW_TEST_SUPPORT_H
#define LW_TEST_SUPPORT_H

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/prng.h"

/* Fresh for each run, or LW_TEST_SEED to repeat one. */
static inline lw_prng_t test_prng(const char *test)
{
    const char *text = getenv("LW_TEST_SEED");
    lw_prng_t prng;
    uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : lw_clock_real()->unix_us(NULL);

    printf("%s: LW_TEST_SEED=%llu\n", test, (unsigned long long)seed);
    lw_prng_seed(&prng, seed);
    return prng;
}

static inline void test_fill(lw_prng_t *prng, void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ((uint8_t *)bytes)[i] = (uint8_t)lw_prng_u64(prng);
    }
}

/* The call must end its process by an assertion. */
static inline bool test_aborts(void (*call)(void *arg), void *arg)
{
    int state = 0;
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        if (freopen("/dev/null", "w", stderr) == NULL) {
            _exit(3);
        }
        signal(SIGABRT, SIG_DFL);
        call(arg);
        _exit(0);
    }
    return child > 0 && waitpid(child, &state, 0) == child && WIFSIGNALED(state) &&
           WTERMSIG(state) == SIGABRT;
}

#define assert_names(error, words)                                                \
    do {                                                                          \
        if (strstr((error).text, (words)) == NULL) {                              \
            fail_msg("the error '%s' does not name '%s'", (error).text, (words)); \
        }                                                                         \
    } while (0)

#endif /* LW_TEST_SUPPORT_H */
