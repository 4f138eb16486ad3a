/* test_landing.c - the ring of landing memory: spans never overlap, come back in order, and never too early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/prng.h"
#include "client/store/store_private.h"

#define RING_BYTES 4096u
#define SPANS 16u

static uint8_t memory[RING_BYTES] __attribute__((aligned(64)));

static lwc_landing_t make(void)
{
    lwc_landing_t landing = {0};
    assert_int_equal(lwc_landing_init(&landing, memory, RING_BYTES, SPANS), LW_OK);
    return landing;
}

static void test_landing_refuses_more_than_the_ring(void **state)
{
    lwc_landing_t landing = make();
    (void)state;
    assert_int_equal(lwc_landing_take(&landing, RING_BYTES + 1, 1), LWC_NO_SLOT);
    assert_int_not_equal(lwc_landing_take(&landing, RING_BYTES, 1), LWC_NO_SLOT);
    assert_int_equal(lwc_landing_take(&landing, 1, 2), LWC_NO_SLOT);
    lwc_landing_fini(&landing);
}

static void test_landing_span_in_flight_is_kept_although_released(void **state)
{
    lwc_landing_t landing = make();
    (void)state;
    uint32_t span = lwc_landing_take(&landing, RING_BYTES, 7);
    lwc_landing_release(&landing, 8);
    assert_int_equal(lwc_landing_take(&landing, 64, 9), LWC_NO_SLOT);
    lwc_landing_settle(&landing, span);
    assert_int_not_equal(lwc_landing_take(&landing, 64, 9), LWC_NO_SLOT);
    lwc_landing_fini(&landing);
}

static void test_landing_settled_span_is_kept_until_its_last_tag_is_released(void **state)
{
    lwc_landing_t landing = make();
    (void)state;
    lwc_landing_settle(&landing, lwc_landing_take(&landing, RING_BYTES, 7));
    lwc_landing_release(&landing, 7);
    assert_int_equal(lwc_landing_take(&landing, 64, 9), LWC_NO_SLOT);
    lwc_landing_release(&landing, 8);
    assert_int_not_equal(lwc_landing_take(&landing, 64, 9), LWC_NO_SLOT);
    lwc_landing_fini(&landing);
}

static void test_landing_table_of_spans_is_bounded(void **state)
{
    lwc_landing_t landing = make();
    (void)state;
    for (uint32_t i = 0; i < SPANS; i++)
        assert_int_not_equal(lwc_landing_take(&landing, 64, i), LWC_NO_SLOT);
    assert_int_equal(lwc_landing_take(&landing, 64, SPANS), LWC_NO_SLOT);
    lwc_landing_fini(&landing);
}

static void test_landing_discarded_span_is_free_without_its_tags(void **state)
{
    lwc_landing_t landing = make();
    (void)state;
    lwc_landing_discard(&landing, lwc_landing_take(&landing, RING_BYTES, 7));
    uint32_t span = lwc_landing_take(&landing, RING_BYTES, 3); /* the slot that was discarded, and is used now */
    assert_int_not_equal(span, LWC_NO_SLOT);
    lwc_landing_settle(&landing, span);
    assert_int_equal(lwc_landing_take(&landing, 64, 9), LWC_NO_SLOT);
    lwc_landing_release(&landing, 4);
    assert_int_not_equal(lwc_landing_take(&landing, 64, 9), LWC_NO_SLOT);
    lwc_landing_fini(&landing);
}

static void test_landing_discarded_span_behind_a_kept_one_is_free(void **state)
{
    lwc_landing_t landing = make();
    (void)state;
    uint32_t kept = lwc_landing_take(&landing, RING_BYTES / 2, 3);
    lwc_landing_settle(&landing, kept);
    for (int i = 0; i < 5; i++) {
        uint32_t span = lwc_landing_take(&landing, RING_BYTES / 2, 7);
        assert_int_not_equal(span, LWC_NO_SLOT);
        assert_ptr_not_equal(lwc_landing_at(&landing, span), lwc_landing_at(&landing, kept));
        lwc_landing_discard(&landing, span);
    }
    lwc_landing_fini(&landing);
}

/* Random sizes, settled in random order, released in tag order: what a live span holds is never overwritten. */
static void test_landing_live_spans_never_overlap(void **state)
{
    lwc_landing_t landing = make();
    uint64_t seed = (uint64_t)time(NULL), tag = 1, released = 0, full = 0;
    struct { uint32_t span; uint64_t bytes, tag; uint8_t *at; int settled; } live[SPANS];
    uint32_t count = 0;
    lw_prng_t prng;
    (void)state;
    lw_prng_seed(&prng, seed);
    for (int round = 0; round < 20000; round++) {
        uint64_t bytes = 1 + lw_prng_below(&prng, 1500);
        uint32_t span = lwc_landing_take(&landing, bytes, tag);
        if (span != LWC_NO_SLOT) {
            live[count].span = span, live[count].bytes = bytes, live[count].tag = tag, live[count].settled = 0;
            live[count].at = lwc_landing_at(&landing, span);
            assert_true(live[count].at >= memory && live[count].at + bytes <= memory + RING_BYTES);
            assert_int_equal((uintptr_t)live[count].at % 64, 0);
            memset(live[count++].at, (int)(tag++ & 0xFF), bytes);
            continue;
        }
        full++;
        for (uint32_t i = 0; i < count; i++) {
            if (live[i].settled || lw_prng_below(&prng, 3) == 0)
                continue;
            lwc_landing_settle(&landing, live[i].span);
            live[i].settled = 1;
        }
        for (uint32_t i = 0; i < count; i++)
            for (uint64_t b = 0; b < live[i].bytes; b++)
                if (live[i].at[b] != (uint8_t)(live[i].tag & 0xFF))
                    fail_msg("seed %llu: span of tag %llu was overwritten", (unsigned long long)seed,
                             (unsigned long long)live[i].tag);
        uint32_t done = 0;
        while (done < count && live[done].settled)
            released = live[done++].tag + 1;
        lwc_landing_release(&landing, released);
        memmove(live, live + done, (count - done) * sizeof(live[0]));
        count -= done;
    }
    assert_true(full > 100);
    lwc_landing_fini(&landing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_landing_refuses_more_than_the_ring),
        cmocka_unit_test(test_landing_span_in_flight_is_kept_although_released),
        cmocka_unit_test(test_landing_settled_span_is_kept_until_its_last_tag_is_released),
        cmocka_unit_test(test_landing_discarded_span_is_free_without_its_tags),
        cmocka_unit_test(test_landing_discarded_span_behind_a_kept_one_is_free),
        cmocka_unit_test(test_landing_table_of_spans_is_bounded),
        cmocka_unit_test(test_landing_live_spans_never_overlap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
