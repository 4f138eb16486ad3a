/* The main loop: timers, signals, stopping. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>

#include "storaged/io/io.h"

typedef struct seen {
    lwd_io_t *io;
    unsigned timers, signals;
} seen_t;

static void on_timer(void *arg)
{
    seen_t *seen = arg;
    if (++seen->timers == 3)
        (void)raise(SIGUSR1);
}

static void on_signal(void *arg)
{
    seen_t *seen = arg;
    seen->signals++;
    lwd_io_uv()->stop(seen->io);
}

static void test_a_timer_repeats_and_a_signal_stops_the_loop(void **state)
{
    seen_t seen = {0};
    lw_error_t error = {0};
    (void)state;
    assert_int_equal(lwd_io_uv()->create(&seen.io, &error), LW_OK);
    assert_int_equal(lwd_io_uv()->timer(seen.io, 1, on_timer, &seen, &error),
                     LW_OK); /* below a millisecond: one */
    assert_int_equal(lwd_io_uv()->signal(seen.io, SIGUSR1, on_signal, &seen, &error), LW_OK);
    lwd_io_uv()->run(seen.io);
    assert_true(seen.timers >= 3);
    assert_int_equal(seen.signals, 1);
    lwd_io_uv()->destroy(seen.io);
}

static void test_a_signal_that_cannot_be_caught_is_refused_and_named(void **state)
{
    lwd_io_t *io;
    lw_error_t error = {0};
    (void)state;
    assert_int_equal(lwd_io_uv()->create(&io, &error), LW_OK);
    assert_int_equal(lwd_io_uv()->signal(io, SIGKILL, on_signal, NULL, &error), LW_ERR_IO);
    assert_true(error.text[0] != '\0');
    lwd_io_uv()->destroy(io);
    lwd_io_uv()->destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_timer_repeats_and_a_signal_stops_the_loop),
        cmocka_unit_test(test_a_signal_that_cannot_be_caught_is_refused_and_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
