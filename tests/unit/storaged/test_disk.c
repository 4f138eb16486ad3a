/* Real disks: every implementation that this machine allows moves the same bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "storaged/io/disk.h"

#define BYTES (8u << 20)
#define PIECE (64u << 10)

static char path[64];

static void notify(void *arg)
{
    atomic_fetch_add((_Atomic unsigned *)arg, 1);
}

/* Collects `count` finished operations. */
static void collect(const lwd_disk_ops_t *ops, lwd_disk_t *disk, unsigned count)
{
    for (int tries = 0; tries < 20000 && count > 0; tries++) {
        for (lwd_disk_op_t *op = ops->reap(disk); op != NULL; op = op->next, count--)
            assert_int_equal(op->status, LW_OK);
        if (count > 0)
            (void)poll(NULL, 0, 1);
    }
    assert_int_equal(count, 0);
}

static void use(const lwd_disk_ops_t *ops)
{
    _Atomic unsigned notified = 0;
    lwd_disk_t *disk, *second;
    lw_error_t error = {0};
    lwd_disk_params_t params = {.path = path, .bytes = BYTES, .notify = notify, .arg = (void *)&notified};
    lwd_disk_op_t op[LWD_DISK_OPS_MAX];
    lw_status_t status = ops->open(&params, &disk, &error);
    if (status == LW_ERR_UNSUPPORTED) {
        printf("%s: %s\n", ops->name, error.text);
        skip();
    }
    assert_int_equal(status, LW_OK);
    assert_int_equal(ops->open(&params, &second, &error), LW_ERR_BUSY);
    uint8_t *data = aligned_alloc(LWD_DISK_BLOCK_BYTES, LWD_DISK_OPS_MAX * PIECE);
    assert_non_null(data);
    for (uint32_t i = 0; i < LWD_DISK_OPS_MAX * PIECE; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 24);
    for (uint32_t i = 0; i < LWD_DISK_OPS_MAX; i++) {
        op[i] = (lwd_disk_op_t){.kind = LWD_DISK_WRITE, .offset = i * PIECE, .bytes = PIECE, .data = data + i * PIECE};
        ops->submit(disk, &op[i]);
    }
    collect(ops, disk, LWD_DISK_OPS_MAX);
    ops->close(disk);
    assert_int_equal(ops->open(&params, &disk, &error), LW_OK);
    uint8_t *back = aligned_alloc(LWD_DISK_BLOCK_BYTES, LWD_DISK_OPS_MAX * PIECE);
    assert_non_null(back);
    for (uint32_t i = 0; i < LWD_DISK_OPS_MAX; i++) {
        op[i] = (lwd_disk_op_t){.kind = LWD_DISK_READ, .offset = i * PIECE, .bytes = PIECE, .data = back + i * PIECE};
        ops->submit(disk, &op[i]);
    }
    collect(ops, disk, LWD_DISK_OPS_MAX);
    assert_memory_equal(data, back, LWD_DISK_OPS_MAX * PIECE);
    assert_int_equal(atomic_load(&notified), 2 * LWD_DISK_OPS_MAX);
    op[0] = (lwd_disk_op_t){.kind = LWD_DISK_READ, .offset = BYTES, .bytes = PIECE, .data = back};
    assert_int_equal(ops->now(disk, &op[0]), LW_ERR_IO); /* behind the end */
    ops->submit(disk, &op[0]);
    ops->close(disk); /* waits */
    free(data);
    free(back);
}

static void test_threads_write_and_read(void **state)
{
    (void)state;
    use(lwd_disk_threads());
}

static void test_io_uring_writes_and_reads_where_it_is_allowed(void **state)
{
    (void)state;
    if (lwd_disk_uring() == NULL)
        skip();
    use(lwd_disk_uring());
}

static void test_a_disk_without_room_and_a_folder_are_refused_by_name(void **state)
{
    lwd_disk_t *disk;
    lw_error_t error = {0};
    lwd_disk_params_t params = {.path = path, .bytes = 1ull << 60};
    (void)state;
    assert_true(lwd_disk_threads()->open(&params, &disk, &error) != LW_OK);
    assert_non_null(strstr(error.text, path));
    params = (lwd_disk_params_t){.path = "/nowhere/at/all", .bytes = BYTES};
    assert_int_equal(lwd_disk_threads()->open(&params, &disk, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "/nowhere/at/all"));
}

int main(void)
{
    snprintf(path, sizeof(path), "longwave-disk-%d", getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_disk_without_room_and_a_folder_are_refused_by_name),
        cmocka_unit_test(test_threads_write_and_read),
        cmocka_unit_test(test_io_uring_writes_and_reads_where_it_is_allowed),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)unlink(path);
    return failed;
}
