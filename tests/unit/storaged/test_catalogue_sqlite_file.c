/* test_catalogue_sqlite_file.c - the catalogue as a file: closed and opened again, damaged, foreign, held by another. */
#include "test_catalogue_support.h"

#include <unistd.h>

#include "base/log.h"

static char path[64];

static void quiet(void *arg, lw_log_level_t level, const char *component, const char *line)
{
    (void)arg, (void)level, (void)component, (void)line; /* the errors here are asked for */
}

static int setup(void **state)
{
    snprintf(path, sizeof(path), "/tmp/lw-catalogue-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0)
        return -1;
    close(fd);
    lw_log_set_sink(quiet, NULL);
    return 0;
}

static int teardown(void **state)
{
    static const char *const tails[] = {"", "-wal", "-shm", "-journal"};
    lw_log_set_sink(NULL, NULL);
    for (size_t i = 0; i < LW_ARRAY_SIZE(tails); i++) {
        char name[96];
        snprintf(name, sizeof(name), "%s%s", path, tails[i]);
        unlink(name);
    }
    return 0;
}

static void test_a_path_that_cannot_be_opened_is_named(void **state)
{
    lwd_catalogue_t *cat = NULL;
    lw_error_t error;
    assert_int_equal(lwd_catalogue_sqlite()->open("/nowhere/at/all.db", &cat, &error), LW_ERR_IO);
    assert_non_null(strstr(error.text, "/nowhere/at/all.db"));
    assert_int_equal(lwd_catalogue_sqlite()->open("", &cat, &error), LW_ERR_INVALID);
    assert_null(cat);
}

static void test_a_file_that_is_no_database_is_refused_and_left_alone(void **state)
{
    char text[4096], after[4096];
    memset(text, 'x', sizeof(text));
    FILE *file = fopen(path, "w");
    assert_int_equal(fwrite(text, 1, sizeof(text), file), sizeof(text));
    fclose(file);
    lwd_catalogue_t *cat = NULL;
    lw_error_t error;
    assert_int_equal(lwd_catalogue_sqlite()->open(path, &cat, &error), LW_ERR_IO);
    assert_null(cat);
    file = fopen(path, "r");
    assert_int_equal(fread(after, 1, sizeof(after), file), sizeof(after));
    fclose(file);
    assert_memory_equal(text, after, sizeof(text));
}

static void test_a_schema_of_the_future_is_refused_by_number(void **state)
{
    lwd_catalogue_t *cat = NULL;
    lw_error_t error;
    assert_int_equal(lwd_catalogue_sqlite()->open(path, &cat, &error), LW_OK);
    lwd_catalogue_sqlite()->close(cat);
    cat = NULL;
    FILE *file = fopen(path, "r+"); /* user_version sits at byte 60, big-endian */
    static const uint8_t version[4] = {0, 0, 0, 99};
    assert_int_equal(fseek(file, 60, SEEK_SET), 0);
    assert_int_equal(fwrite(version, 1, 4, file), 4);
    fclose(file);
    assert_int_equal(lwd_catalogue_sqlite()->open(path, &cat, &error), LW_ERR_VERSION);
    assert_non_null(strstr(error.text, "99"));
    assert_null(cat);
}

static void test_a_file_held_by_another_is_refused(void **state)
{
    lwd_catalogue_t *cat = NULL, *second = NULL;
    lw_error_t error;
    assert_int_equal(lwd_catalogue_sqlite()->open(path, &cat, &error), LW_OK);
    assert_int_equal(lwd_catalogue_sqlite()->open(path, &second, &error), LW_ERR_IO);
    assert_null(second);
    lwd_catalogue_sqlite()->close(cat);
    assert_int_equal(lwd_catalogue_sqlite()->open(path, &second, &error), LW_OK);
    lwd_catalogue_sqlite()->close(second);
}

static void test_everything_is_there_after_a_close_and_an_open(void **state)
{
    const lwd_catalogue_ops_t *ops = lwd_catalogue_sqlite();
    lwd_catalogue_t *cat = NULL;
    lw_error_t error;
    lwd_create_t request = {.tenant = "a", .shape = test_shape(2, 1), .client_id = UINT64_MAX - 3, .incarnation = 7,
                            .lease_us = LEASE};
    lwd_session_row_t row, child, gone, after;
    uint64_t fleet_id, epoch, same;
    assert_int_equal(ops->open(path, &cat, &error), LW_OK);
    assert_int_equal(ops->fleet(cat, &fleet_id, &epoch, &error), LW_OK);
    assert_int_equal(ops->set_epoch(cat, 42, &error), LW_OK);
    assert_int_equal(ops->create(cat, &request, T0, &row, &error), LW_OK);
    lwd_range_t range = test_range(0, 1024, 1, LW_RANGE_MOMENTS), back[2];
    assert_int_equal(ops->commit(cat, row.session_id, 0, 1, &range, 1, T0, &error), LW_OK);
    assert_int_equal(ops->fork(cat, "a", row.session_id, 0, 1, 1, LEASE, T0, &child, &error), LW_OK);
    assert_int_equal(ops->create(cat, &request, T0, &gone, &error), LW_OK);
    assert_int_equal(ops->drop(cat, "a", gone.session_id, T0, &error), LW_OK);
    ops->close(cat);

    assert_int_equal(ops->open(path, &cat, &error), LW_OK);
    assert_int_equal(ops->fleet(cat, &same, &epoch, &error), LW_OK);
    assert_int_equal(same, fleet_id);
    assert_int_equal(epoch, 42);
    assert_int_equal(ops->get(cat, "a", row.session_id, &after, &error), LW_OK);
    assert_memory_equal(after.token, row.token, LW_TOKEN_BYTES);
    assert_int_equal(after.lease_client, UINT64_MAX - 3);
    assert_int_equal(after.token_count, 1024);
    assert_memory_equal(&after.shape, &row.shape, sizeof(row.shape));
    uint32_t count;
    assert_int_equal(ops->ranges(cat, child.session_id, 0, 0, 2, back, &count, &error), LW_OK);
    assert_int_equal(count, 1);
    assert_int_equal(back[0].flags, LW_RANGE_MOMENTS);
    assert_memory_equal(back[0].node_index, range.node_index, 4);
    lwd_ended_t ended[4];
    assert_int_equal(ops->ended(cat, 0, 4, ended, &count, &error), LW_OK);
    assert_int_equal(count, 1);
    assert_int_equal(ops->trim(cat, ended[0].serial, &error), LW_OK);
    uint32_t renewed;
    assert_int_equal(ops->renew(cat, UINT64_MAX - 3, 6, LEASE, T0, &renewed, &error), LW_ERR_STALE);
    ops->close(cat);

    assert_int_equal(ops->open(path, &cat, &error), LW_OK);
    assert_int_equal(ops->create(cat, &request, T0, &after, &error), LW_OK);
    assert_true(after.session_id > gone.session_id); /* ids are not used again, not even a forgotten one's */
    ops->close(cat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_path_that_cannot_be_opened_is_named, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_file_that_is_no_database_is_refused_and_left_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_schema_of_the_future_is_refused_by_number, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_file_held_by_another_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_everything_is_there_after_a_close_and_an_open, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
