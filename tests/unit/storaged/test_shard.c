/* The whole shard under random use from a seed, against a model of what must be readable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/fault.h"
#include "unit/storaged/shard_place.h"

static uint64_t seed;

#define NAMES 40u

typedef struct held {
    bool written;
    lwd_ref_t ref;
} held_t;

static lw_segment_name_t nth(uint32_t n)
{
    return place_name(1 + n % 5, (uint16_t)(n / 5), 0, 1);
}

static void test_random_puts_and_endings_agree_with_a_model(void **state)
{
    place_t place;
    held_t held[NAMES] = {0};
    lwd_ref_t stale[64];
    uint32_t stale_count = 0;
    lw_prng_t prng;
    (void)state;
    lw_prng_seed(&prng, seed);
    place_init(&place, &(place_params_t){.segment_max = 24});
    for (uint32_t step = 0; step < 4000; step++) {
        uint32_t n = (uint32_t)lw_prng_below(&prng, NAMES);
        lw_segment_name_t name = nth(n);
        lwd_reserved_t reserved;
        switch (lw_prng_below(&prng, 8)) {
        case 0: /* a session ends up to this term, so that it may write again */
            (void)lwd_shard_end(place.shard, name.origin, UINT16_MAX, 0, 1);
            for (uint32_t i = 0; i < NAMES; i++) {
                if (nth(i).origin == name.origin && held[i].written) {
                    stale[stale_count++ % 64] = held[i].ref;
                    held[i].written = false;
                }
            }
            break;
        case 1:
            if (place_reserve(&place, &name, 1000, &reserved) == LW_OK && !reserved.committed)
                assert_int_equal(lwd_shard_abort(place.shard, reserved.ref), LW_OK);
            break;
        case 2: place_round(&place, 500); break;
        default:
            if (!held[n].written && place_reserve(&place, &name, 300, &reserved) == LW_OK) {
                assert_int_equal(lwd_shard_abort(place.shard, reserved.ref), LW_OK);
                place_round(&place, 100);
                place_round(&place, 100);
                held[n] = (held_t){true, place_put(&place, &name)};
            }
            break;
        }
        for (uint32_t i = 0; i < NAMES; i++) {
            lw_segment_name_t other = nth(i);
            lwd_ref_t ref;
            assert_int_equal(lwd_shard_find(place.shard, &other, &ref),
                             held[i].written ? LW_OK : LW_ERR_NOT_FOUND);
            if (held[i].written) {
                const lwd_segment_t *segment = lwd_shard_readable(place.shard, held[i].ref);
                assert_non_null(segment);
                assert_true(lw_segment_name_equal(&lw_segment_header(segment->extent)->name, &other));
            }
        }
        for (uint32_t i = 0; i < stale_count && i < 64; i++)
            assert_null(lwd_shard_readable(place.shard, stale[i]));
        if (step % 16 == 0)
            assert_true(lwd_shard_check(place.shard));
    }
    assert_true(place_count(&place.stats.commits) > 100);
    place_fini(&place);
}

#ifdef LW_FAULTS
static void test_the_planted_generation_reuse_lets_an_old_reference_read_a_new_segment(void **state)
{
    place_t place;
    (void)state;
    place_init(&place, &(place_params_t){.segment_max = 1});
    lw_fault_reset(1);
    lw_fault_enable(LW_FAULT_GENERATION_REUSE, 1.0);
    lw_segment_name_t name = nth(0), other = nth(1);
    lwd_ref_t old = place_put(&place, &name);
    (void)lwd_shard_end(place.shard, name.origin, UINT16_MAX, 0, UINT32_MAX);
    place_round(&place, 2000);
    (void)place_put(&place, &other);
    assert_non_null(lwd_shard_readable(place.shard, old));
    lw_fault_reset(1);
    place_fini(&place);
}
#endif

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_puts_and_endings_agree_with_a_model),
#ifdef LW_FAULTS
        cmocka_unit_test(test_the_planted_generation_reuse_lets_an_old_reference_read_a_new_segment),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
