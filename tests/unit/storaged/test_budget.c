/* What the machine and the cgroups leave, read from a made-up root. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "storaged/mem/arena.h"
#include "storaged/mem/budget.h"

static char root[64];

static void put_file(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof(full), "%s%s", root, path);
    for (char *at = full + strlen(root) + 1; *at != '\0'; at++) {
        if (*at != '/')
            continue;
        *at = '\0';
        (void)mkdir(full, 0700);
        *at = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info, (void)kind, (void)place;
    return remove(path);
}

static int setup(void **state)
{
    (void)state;
    strcpy(root, "/tmp/lw-budget-XXXXXX");
    return mkdtemp(root) == NULL;
}

static int teardown(void **state)
{
    (void)state;
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void test_nothing_known_gives_the_smallest_arena(void **state)
{
    (void)state;
    assert_true(lwd_budget_left(root) == UINT64_MAX);
    assert_int_equal(lwd_budget_arena(root), LWD_ARENA_BYTES_MIN);
}

static void test_the_machine_alone_gives_half_of_what_is_available(void **state)
{
    (void)state;
    put_file("/proc/meminfo", "MemTotal: 9999999 kB\nMemAvailable:    4194304 kB\n");
    assert_int_equal(lwd_budget_left(root), 4ull << 30);
    assert_int_equal(lwd_budget_arena(root), 2ull << 30);
}

static void test_a_v2_limit_of_a_parent_group_counts(void **state)
{
    (void)state;
    put_file("/proc/meminfo", "MemAvailable: 4194304 kB\n");
    put_file("/proc/self/cgroup", "0::/pods/one\n");
    put_file("/sys/fs/cgroup/pods/one/memory.max", "max\n");
    put_file("/sys/fs/cgroup/pods/memory.max", "1073741824\n");
    put_file("/sys/fs/cgroup/pods/memory.current", "536870912\n");
    assert_int_equal(lwd_budget_left(root), 512ull << 20);
    assert_int_equal(lwd_budget_arena(root), 256ull << 20);
}

static void test_a_v1_limit_counts(void **state)
{
    (void)state;
    put_file("/proc/meminfo", "MemAvailable: 4194304 kB\n");
    put_file("/proc/self/cgroup", "12:cpu,cpuacct:/a\n7:memory:/box\n0::/a\n");
    put_file("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "2147483648\n");
    put_file("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1073741824\n");
    assert_int_equal(lwd_budget_left(root), 1ull << 30);
}

static void test_a_group_seen_from_inside_a_container_uses_the_root_files(void **state)
{
    (void)state;
    put_file("/proc/meminfo", "MemAvailable: 4194304 kB\n");
    put_file("/proc/self/cgroup", "0::/kubepods/not/mounted/here\n");
    put_file("/sys/fs/cgroup/memory.max", "268435456\n");
    put_file("/sys/fs/cgroup/memory.current", "0\n");
    assert_int_equal(lwd_budget_left(root), 256ull << 20);
}

static void test_a_group_over_its_limit_leaves_the_smallest_arena(void **state)
{
    (void)state;
    put_file("/proc/self/cgroup", "0::/\n");
    put_file("/sys/fs/cgroup/memory.max", "100\n");
    put_file("/sys/fs/cgroup/memory.current", "200\n");
    assert_int_equal(lwd_budget_left(root), 0);
    assert_int_equal(lwd_budget_arena(root), LWD_ARENA_BYTES_MIN);
}

static void test_broken_lines_are_passed_over(void **state)
{
    (void)state;
    put_file("/proc/meminfo", "nonsense\n");
    put_file("/proc/self/cgroup", "nonsense\n1:memory\n::\n");
    assert_true(lwd_budget_left(root) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nothing_known_gives_the_smallest_arena, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_machine_alone_gives_half_of_what_is_available, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_v2_limit_of_a_parent_group_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_v1_limit_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_group_seen_from_inside_a_container_uses_the_root_files, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_group_over_its_limit_leaves_the_smallest_arena, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_broken_lines_are_passed_over, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
