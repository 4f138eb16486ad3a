/* gates_alloc.c - no op of the step path allocates. The C library's allocator is wrapped for the whole
 * program and counted. */
#include "ops/gates_private.h"

#include <stdlib.h>
#include <string.h>

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 1
#else
#define COUNTS_ALLOCATIONS 0
#endif

#if COUNTS_ALLOCATIONS
static unsigned long allocations;

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *ptr, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);
int posix_memalign(void **ptr_out, size_t align, size_t bytes);

__attribute__((visibility("default"))) void *malloc(size_t bytes)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_malloc(bytes);
}

__attribute__((visibility("default"))) void *calloc(size_t count, size_t bytes)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_calloc(count, bytes);
}

__attribute__((visibility("default"))) void *realloc(void *ptr, size_t bytes)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    return __libc_realloc(ptr, bytes);
}

__attribute__((visibility("default"))) int posix_memalign(void **ptr_out, size_t align, size_t bytes)
{
    __atomic_fetch_add(&allocations, 1, __ATOMIC_RELAXED);
    *ptr_out = __libc_memalign(align, bytes);
    return *ptr_out == NULL ? 12 : 0; /* ENOMEM */
}
#endif

static void test_the_step_path_allocates_nothing(void **state)
{
#if !COUNTS_ALLOCATIONS
    skip();
#else
    uint32_t budgets[] = {LWK_BUDGET_TOKENS, LWK_BUDGET_ERROR};
    for (size_t i = 0; i < LW_ARRAY_SIZE(budgets); i++) {
        ops_config_t config = gates_config();
        config.shape.layer_count = 1;
        config.outlier_ppm = 100000;
        config.cluster_encoding = LW_ENCODING_INT8;
        config.outlier_encoding = LW_ENCODING_INT4;
        config.policy.budget = budgets[i];
        config.policy.estimate_ppm = 500000;
        config.page_count[0] = 30; /* so that admit evicts */
        ops_rig_t *rig = gates_rig(&config, 1500, 90);
        const lwk_backend_t *b = rig->backend;
        bool async = (b->caps & LWK_CAP_ASYNC) != 0;
        if (strstr(b->describe(rig->dev), "emulated") != NULL) { /* keeps what it is to run in memory of its own */
            ops_rig_destroy(rig);
            skip();
        }
        for (int step = 0; step < 4; step++) {
            ops_query(rig, 0);
            ops_load_step(rig, 0);
            lwk_step_t args = ops_step_args(rig, 0);
            unsigned long before = allocations;
            lw_status_t status[] = {b->prepare(rig->dev, &args, NULL), b->score(rig->dev, &args, NULL),
                                    b->select(rig->dev, &args, NULL)};
            if (!async || step > 0) /* a device's first launches load its kernels */
                assert_int_equal(allocations, before);
            ops_answer(rig);
            before = allocations;
            lw_status_t more[] = {b->attend(rig->dev, &args, NULL), b->finish(rig->dev, &args, NULL),
                                  b->admit(rig->dev, &args, NULL)};
            if (!async || step > 0)
                assert_int_equal(allocations, before);
            for (int k = 0; k < 3; k++)
                assert_int_equal(status[k] | more[k], LW_OK);
        }
        assert_true(allocations > 0); /* the count counts */
        ops_rig_destroy(rig);
    }
#endif
}

const struct CMUnitTest gates_alloc_tests[] = {cmocka_unit_test(test_the_step_path_allocates_nothing)};
const size_t gates_alloc_count = LW_ARRAY_SIZE(gates_alloc_tests);
