#include "unit/proto/test_support.h"

#include <stdatomic.h>

#include "client/examples/llama/pool.h"

typedef struct tally {
    atomic_uint times[500];
    atomic_uint worker_max;
} tally_t;

static void count_task(void *arg, uint32_t task, uint32_t worker)
{
    tally_t *tally = arg;
    atomic_fetch_add(&tally->times[task], 1);
    unsigned seen = atomic_load(&tally->worker_max);
    while (worker > seen && !atomic_compare_exchange_weak(&tally->worker_max, &seen, worker)) {
    }
}

static void test_too_many_threads_are_refused(void **state)
{
    llama_pool_t *pool;
    lw_error_t error;
    assert_int_equal(llama_pool_create(LLAMA_THREADS_MAX + 1, &pool, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "65 threads"));
}

static void test_every_task_runs_once(void **state)
{
    static const uint32_t threads[] = {0, 1, 2, 3, 8, LLAMA_THREADS_MAX};
    for (size_t i = 0; i < LW_ARRAY_SIZE(threads); i++) {
        llama_pool_t *pool;
        assert_int_equal(llama_pool_create(threads[i], &pool, NULL), LW_OK);
        assert_true(threads[i] == 0 ? llama_pool_threads(pool) >= 1 : llama_pool_threads(pool) == threads[i]);
        for (uint32_t tasks = 0; tasks < 500; tasks = tasks * 2 + 1) {
            tally_t tally = {0};
            llama_pool_run(pool, count_task, &tally, tasks);
            for (uint32_t t = 0; t < 500; t++)
                assert_int_equal(tally.times[t], t < tasks);
            assert_true(tally.worker_max < llama_pool_threads(pool));
        }
        llama_pool_destroy(pool);
    }
}

static void sum_task(void *arg, uint32_t task, uint32_t worker)
{
    ((unsigned *)arg)[task] += task;
}

static void test_a_call_sees_all_writes_of_the_call_before(void **state)
{
    llama_pool_t *pool;
    unsigned sums[7] = {0}; /* not atomic: a later call must not race with an earlier one */
    assert_int_equal(llama_pool_create(4, &pool, NULL), LW_OK);
    for (int round = 0; round < 3000; round++)
        llama_pool_run(pool, sum_task, sums, 7);
    for (unsigned i = 0; i < 7; i++)
        assert_int_equal(sums[i], i * 3000);
    llama_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_too_many_threads_are_refused),
        cmocka_unit_test(test_every_task_runs_once),
        cmocka_unit_test(test_a_call_sees_all_writes_of_the_call_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
