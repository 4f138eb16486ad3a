/* The table of moves is the drawing in the README, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "storaged/shard/segment_state.h"

static void test_only_the_drawn_moves_are_allowed(void **state)
{
    const lwd_segment_state_t drawn[][2] = {
        {LWD_SEGMENT_FREE, LWD_SEGMENT_RESERVED},     {LWD_SEGMENT_RESERVED, LWD_SEGMENT_VERIFYING},
        {LWD_SEGMENT_RESERVED, LWD_SEGMENT_DYING},    {LWD_SEGMENT_VERIFYING, LWD_SEGMENT_RESERVED},
        {LWD_SEGMENT_VERIFYING, LWD_SEGMENT_WRITTEN}, {LWD_SEGMENT_FREE, LWD_SEGMENT_RESTORED},
        {LWD_SEGMENT_RESTORED, LWD_SEGMENT_WRITTEN},  {LWD_SEGMENT_RESTORED, LWD_SEGMENT_SPILLED},
        {LWD_SEGMENT_RESTORED, LWD_SEGMENT_DYING},    {LWD_SEGMENT_WRITTEN, LWD_SEGMENT_LEAVING},
        {LWD_SEGMENT_LEAVING, LWD_SEGMENT_WRITTEN},   {LWD_SEGMENT_LEAVING, LWD_SEGMENT_SPILLED},
        {LWD_SEGMENT_LEAVING, LWD_SEGMENT_DYING},     {LWD_SEGMENT_SPILLED, LWD_SEGMENT_LOADING},
        {LWD_SEGMENT_SPILLED, LWD_SEGMENT_DYING},     {LWD_SEGMENT_LOADING, LWD_SEGMENT_WRITTEN},
        {LWD_SEGMENT_LOADING, LWD_SEGMENT_SPILLED},   {LWD_SEGMENT_LOADING, LWD_SEGMENT_DYING},
        {LWD_SEGMENT_VERIFYING, LWD_SEGMENT_DYING},
        {LWD_SEGMENT_WRITTEN, LWD_SEGMENT_DYING},     {LWD_SEGMENT_DYING, LWD_SEGMENT_FREE},
    };
    uint32_t allowed = 0;
    (void)state;
    for (int from = 0; from <= LWD_SEGMENT_STATE_COUNT; from++) {
        for (int to = 0; to <= LWD_SEGMENT_STATE_COUNT; to++)
            allowed += lwd_segment_may_move((lwd_segment_state_t)from, (lwd_segment_state_t)to) ? 1 : 0;
    }
    assert_int_equal(allowed, sizeof(drawn) / sizeof(drawn[0]));
    for (size_t i = 0; i < sizeof(drawn) / sizeof(drawn[0]); i++)
        assert_true(lwd_segment_may_move(drawn[i][0], drawn[i][1]));
}

static void test_every_state_has_a_name(void **state)
{
    (void)state;
    for (int i = 0; i < LWD_SEGMENT_STATE_COUNT; i++)
        assert_true(strlen(lwd_segment_state_name((lwd_segment_state_t)i)) > 2);
    assert_string_equal(lwd_segment_state_name(LWD_SEGMENT_STATE_COUNT), "UNKNOWN");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_the_drawn_moves_are_allowed),
        cmocka_unit_test(test_every_state_has_a_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
