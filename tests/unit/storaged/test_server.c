/* What options without a number of their own stand for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "storaged/server.h"

/* The arena is there when the segments are counted: what is left of memory then must not decide. */
static void test_segments_follow_from_the_arena_and_not_from_memory_left(void **state)
{
    (void)state;
    lwd_options_t options;
    lw_error_t error;
    assert_int_equal(lw_options_default(lwd_option_table(), &options, &error), LW_OK);
    assert_true(options.mem_arena_bytes == UINT64_MAX); /* auto */
    assert_int_equal(lwd_server_segment_max(&options, 1ull << 30), 16384);
    assert_int_equal(lwd_server_segment_max(&options, 16ull << 20), 1024);
    assert_int_equal(lwd_server_segment_max(&options, 1ull << 40), 1u << 20);
    options.store_segments = 7;
    assert_int_equal(lwd_server_segment_max(&options, 1ull << 40), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_segments_follow_from_the_arena_and_not_from_memory_left)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
