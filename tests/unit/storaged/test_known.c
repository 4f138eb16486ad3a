/* test_known.c - ids that a shard remembers: found while they are kept, given up oldest first, never while
 * busy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/prng.h"
#include "storaged/shard/known.h"

#define ROWS 13u
#define IDS 40u

static uint64_t seed_value;

static void test_a_full_table_of_busy_rows_takes_no_new_id(void **state)
{
    lwd_known_t known;
    assert_int_equal(lwd_known_init(&known, 2), LW_OK);
    for (uint64_t id = 1; id <= 2; id++)
        lwd_known_busy(&known, lwd_known_add(&known, id / 2, id % 2));
    assert_int_equal(lwd_known_add(&known, 3 / 2, 3 % 2), LWD_NIL);
    assert_int_equal(lwd_known_find(&known, 3 / 2, 3 % 2), LWD_NIL);
    lwd_known_idle(&known, lwd_known_find(&known, 2 / 2, 2 % 2));
    assert_int_not_equal(lwd_known_add(&known, 3 / 2, 3 % 2), LWD_NIL);
    assert_int_equal(lwd_known_find(&known, 2 / 2, 2 % 2), LWD_NIL);
    assert_int_not_equal(lwd_known_find(&known, 1 / 2, 1 % 2), LWD_NIL);
    lwd_known_fini(&known);
}

/* The model: for each id whether it is kept, busy, and since when it is idle. */
static void test_random_use_agrees_with_a_model(void **state)
{
    struct {
        bool kept, busy;
        uint64_t since;
    } model[IDS] = {{false, false, 0}};
    lwd_known_t known;
    lw_prng_t prng;
    lw_prng_seed(&prng, seed_value);
    assert_int_equal(lwd_known_init(&known, ROWS), LW_OK);
    for (uint64_t now = 1; now < 20000; now++) {
        uint32_t id = (uint32_t)lw_prng_below(&prng, IDS), row = lwd_known_find(&known, id / 2, id % 2),
                 count = 0, oldest = IDS;
        assert_int_equal(row != LWD_NIL, model[id].kept);
        for (uint32_t i = 0; i < IDS; i++) {
            count += model[i].kept;
            if (model[i].kept && !model[i].busy && (oldest == IDS || model[i].since < model[oldest].since))
                oldest = i;
        }
        if (!model[id].kept) {
            row = lwd_known_add(&known, id / 2, id % 2);
            assert_int_equal(row == LWD_NIL, count == ROWS && oldest == IDS);
            if (row == LWD_NIL)
                continue;
            if (count == ROWS)
                model[oldest].kept = false;
            model[id].kept = true;
            model[id].busy = false;
        } else if (model[id].busy) {
            lwd_known_idle(&known, row);
            model[id].busy = false;
        } else {
            lwd_known_busy(&known, row);
            model[id].busy = true;
        }
        model[id].since = now;
    }
    lwd_known_fini(&known);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_full_table_of_busy_rows_takes_no_new_id),
        cmocka_unit_test(test_random_use_agrees_with_a_model),
    };
    const char *seed = getenv("LW_SEED");
    seed_value = seed != NULL ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
    printf("LW_SEED=%llu\n", (unsigned long long)seed_value);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
