/* test_cuda_lang.c - claims about the dialect of kernels/cuda/lang.cuh, on a GPU or, compiled with CUDA_LANG_EMULATED, on the
 * emulator, of which there are more claims: that it notices what is wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/longwave_types.h"
#include "unit/kernels/cuda_lang_cases.h"

static uint64_t seed;

static void test_a_barrier_separates_writes_from_reads(void **state)
{
    assert_int_equal(lang_barrier(seed), 0);
}

static void test_shuffles_bring_the_lane_that_was_named(void **state)
{
    assert_int_equal(lang_shuffles(seed), 0);
}

static void test_votes_and_warp_sums_equal_plain_loops(void **state)
{
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(lang_votes(seed + i), 0);
}

static void test_parts_of_a_warp_meet_in_their_own_masks(void **state)
{
    assert_int_equal(lang_partial_warps(seed), 0);
}

static void test_mma_equals_plain_loops(void **state)
{
    assert_int_equal(lang_mma_16(seed, LW_DTYPE_BF16), 0);
    assert_int_equal(lang_mma_16(seed, LW_DTYPE_FP16), 0);
    assert_int_equal(lang_mma_s8(seed), 0);
}

static void test_ldmatrix_deals_rows_and_columns(void **state)
{
    assert_int_equal(lang_ldmatrix(seed), 0);
}

static void test_asynchronous_copies_land_once_waited_for(void **state)
{
    assert_int_equal(lang_async_copy(seed), 0);
}

static void test_atomics_lose_nothing(void **state)
{
    assert_int_equal(lang_atomics(seed), 0);
}

static void test_every_16_bit_number_converts_as_on_the_host(void **state)
{
    assert_int_equal(lang_convert(seed), 0);
}

static void test_resident_blocks_can_wait_for_each_other(void **state)
{
    assert_int_equal(lang_resident(seed), 0);
}

static void test_more_blocks_than_fit_are_refused(void **state)
{
    assert_int_equal(lang_resident_too_many(), 0);
}

static void test_a_stream_keeps_its_order(void **state)
{
    assert_int_equal(lang_stream_order(seed), 0);
}

static void test_events_order_two_streams(void **state)
{
    assert_int_equal(lang_events(seed), 0);
}

static void test_a_captured_graph_replays(void **state)
{
    assert_int_equal(lang_capture(seed), 0);
}

static void test_a_running_kernel_talks_with_the_host(void **state)
{
    assert_int_equal(lang_handshake(seed), 0);
}

#if defined(CUDA_LANG_EMULATED)

static void test_a_missing_barrier_shows(void **state)
{
    assert_int_not_equal(lang_bad_no_barrier(), 0);
}

static void test_unwritten_shared_memory_shows(void **state)
{
    assert_int_equal(lang_bad_unwritten_shared(), 0);
}

static void test_a_copy_that_nobody_waited_for_shows(void **state)
{
    assert_int_equal(lang_bad_copy_without_wait(), 256);
}

/* Runs `program`, the test itself, for one bad case: it must abort and say `words`. A fresh process, because the
 * emulator's threads do not come along in a fork. */
static const char *program;

static void assert_aborts(const char *which, const char *words)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], 2);
        execl(program, program, which, (char *)NULL);
        _exit(1);
    }
    close(ends[1]);
    char text[4096];
    size_t length = 0;
    for (ssize_t got; (got = read(ends[0], text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)got;
    text[length] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (strstr(text, words) == NULL)
        print_error("said: %s\n", text);
    assert_non_null(strstr(text, words));
}

static void test_divergence_ends_the_program_with_its_place(void **state)
{
    assert_aborts("divergent_barrier", "its threads wait for each other");
    assert_aborts("divergent_shuffle", "its threads wait for each other");
    assert_aborts("other_barrier", "this barrier is not the one");
    assert_aborts("foreign_mask", "the mask does not name the lane that calls");
}

static void test_writes_beyond_shared_memory_end_the_program(void **state)
{
    assert_aborts("overrun", "wrote outside its 128 bytes of shared memory");
}

static int run_bad(const char *which)
{
    if (strcmp(which, "divergent_barrier") == 0)
        lang_bad_divergent_barrier();
    else if (strcmp(which, "divergent_shuffle") == 0)
        lang_bad_divergent_shuffle();
    else if (strcmp(which, "other_barrier") == 0)
        lang_bad_other_barrier();
    else if (strcmp(which, "foreign_mask") == 0)
        lang_bad_foreign_mask();
    else if (strcmp(which, "overrun") == 0)
        lang_bad_shared_overrun();
    return 0;
}

#endif

int main(int argc, char **argv)
{
#if defined(CUDA_LANG_EMULATED)
    program = argv[0];
    if (argc > 1)
        return run_bad(argv[1]);
#endif
    if (lang_devices() == 0) {
        printf("no device\n");
        return 77;
    }
    const char *text = getenv("LW_SEED");
    seed = text != NULL ? strtoull(text, NULL, 0) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    printf("LW_SEED=%llu\n", (unsigned long long)seed);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_barrier_separates_writes_from_reads),
        cmocka_unit_test(test_shuffles_bring_the_lane_that_was_named),
        cmocka_unit_test(test_votes_and_warp_sums_equal_plain_loops),
        cmocka_unit_test(test_parts_of_a_warp_meet_in_their_own_masks),
        cmocka_unit_test(test_mma_equals_plain_loops),
        cmocka_unit_test(test_ldmatrix_deals_rows_and_columns),
        cmocka_unit_test(test_asynchronous_copies_land_once_waited_for),
        cmocka_unit_test(test_atomics_lose_nothing),
        cmocka_unit_test(test_every_16_bit_number_converts_as_on_the_host),
        cmocka_unit_test(test_resident_blocks_can_wait_for_each_other),
        cmocka_unit_test(test_more_blocks_than_fit_are_refused),
        cmocka_unit_test(test_a_stream_keeps_its_order),
        cmocka_unit_test(test_events_order_two_streams),
        cmocka_unit_test(test_a_captured_graph_replays),
        cmocka_unit_test(test_a_running_kernel_talks_with_the_host),
#if defined(CUDA_LANG_EMULATED)
        cmocka_unit_test(test_a_missing_barrier_shows),
        cmocka_unit_test(test_unwritten_shared_memory_shows),
        cmocka_unit_test(test_a_copy_that_nobody_waited_for_shows),
        cmocka_unit_test(test_divergence_ends_the_program_with_its_place),
        cmocka_unit_test(test_writes_beyond_shared_memory_end_the_program),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
