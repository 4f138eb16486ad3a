/* The ring between threads: bounded, in order, and right with several producers at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include <pthread.h>
#include <sched.h>

#include "storaged/net/ring.h"

static void test_a_full_ring_refuses_and_an_empty_one_has_nothing(void **state)
{
    lwd_ring_t ring;
    uint64_t value = 0;
    (void)state;
    assert_int_equal(lwd_ring_init(&ring, 4, sizeof(value)), LW_OK);
    assert_true(lwd_ring_empty(&ring));
    assert_false(lwd_ring_pop(&ring, &value));
    for (uint64_t round = 0; round < 5; round++) {
        for (uint64_t i = 0; i < 4; i++) {
            value = round * 10 + i;
            assert_true(lwd_ring_push(&ring, &value));
        }
        assert_false(lwd_ring_push(&ring, &value));
        for (uint64_t i = 0; i < 4; i++) {
            assert_false(lwd_ring_empty(&ring));
            assert_true(lwd_ring_pop(&ring, &value));
            assert_int_equal(value, round * 10 + i);
        }
        assert_true(lwd_ring_empty(&ring));
    }
    lwd_ring_fini(&ring);
}

#define PRODUCERS 3u
#define EACH 20000u

typedef struct item {
    uint32_t producer, number;
    uint64_t check;
} item_t;

typedef struct producer {
    lwd_ring_t *ring;
    uint32_t index;
} producer_t;

static void *produce(void *arg)
{
    const producer_t *producer = arg;
    for (uint32_t i = 0; i < EACH; i++) {
        item_t item = {producer->index, i, ((uint64_t)producer->index << 32 | i) * 0x9E3779B97F4A7C15ull};
        while (!lwd_ring_push(producer->ring, &item))
            sched_yield();
    }
    return NULL;
}

static void test_several_producers_lose_and_mix_nothing(void **state)
{
    lwd_ring_t ring;
    pthread_t thread[PRODUCERS];
    producer_t producer[PRODUCERS];
    uint32_t next[PRODUCERS] = {0};
    (void)state;
    assert_int_equal(lwd_ring_init(&ring, 64, sizeof(item_t)), LW_OK);
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producer[i] = (producer_t){&ring, i};
        assert_int_equal(pthread_create(&thread[i], NULL, produce, &producer[i]), 0);
    }
    for (uint32_t got = 0; got < PRODUCERS * EACH;) {
        item_t item;
        if (!lwd_ring_pop(&ring, &item)) {
            sched_yield();
            continue;
        }
        assert_true(item.producer < PRODUCERS);
        assert_int_equal(item.number, next[item.producer]++); /* each producer's in order */
        assert_true(item.check == ((uint64_t)item.producer << 32 | item.number) * 0x9E3779B97F4A7C15ull);
        got++;
    }
    for (uint32_t i = 0; i < PRODUCERS; i++)
        pthread_join(thread[i], NULL);
    assert_true(lwd_ring_empty(&ring));
    lwd_ring_fini(&ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_full_ring_refuses_and_an_empty_one_has_nothing),
        cmocka_unit_test(test_several_producers_lose_and_mix_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
