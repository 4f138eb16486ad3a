/* A daemon that is killed and started again over the same files: what was committed is served, byte for byte, and
 * what is broken, foreign or dead is not. The control plane allows everything here (unit/storaged/ctl_open.c).
 * Argument: the program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/prng.h"
#include "e2e/process.h"
#include "unit/storaged/data_client.h"
#include "unit/storaged/segment_make.h"

#define DEAD_LAYER 0xF000u /* ctl_open.c calls these dead */
#define SEGMENTS_MAX 512u

static const char *program;
static uint64_t seed;
static char directory[64], arena_file[96], log_file[96];

typedef struct stored {
    lw_segment_name_t name;
    uint8_t *segment;
    uint64_t bytes, handle;
} stored_t;

typedef struct fixture {
    process_t process;
    data_client_t client;
    char address[128];
    const char *arena_bytes, *log_path; /* log_path "": no log */
    const char *arena, *io;             /* arena "": memory that dies with the process */
    stored_t stored[SEGMENTS_MAX];
    uint32_t count;
    lw_prng_t prng;
} fixture_t;

static bool try_start(fixture_t *fixture, const char *listen)
{
    const char *const argv[] = {program,          "--data.listen",  listen,       "--data.transports", "tcp",
                                "--mem.arena_bytes", fixture->arena_bytes, "--mem.arena_file", fixture->arena,
                                "--tier.path", fixture->log_path, "--tier.bytes", "512m", "--tier.io", fixture->io, NULL};
    return process_start(&fixture->process, argv);
}

static void connect_client(fixture_t *fixture)
{
    data_client_open(&fixture->client, lw_fabric_ucx(), "tcp", fixture->address, NULL, NULL);
    assert_int_equal(data_hello(&fixture->client, 5, 1), LW_OK);
    assert_int_equal(data_attach(&fixture->client, 1, true, 1, 0, NULL, 0, NULL), LW_OK);
}

static int setup(void **state)
{
    fixture_t *fixture = calloc(1, sizeof(*fixture));
    *state = fixture;
    snprintf(directory, sizeof(directory), "/dev/shm/longwave-test-XXXXXX");
    if (fixture == NULL || lw_fabric_ucx() == NULL || mkdtemp(directory) == NULL)
        return -1;
    snprintf(arena_file, sizeof(arena_file), "%s/arena", directory);
    fixture->arena_bytes = "64m";
    fixture->arena = arena_file;
    fixture->log_path = "";
    fixture->io = "auto";
    snprintf(log_file, sizeof(log_file), "longwave-test-log-%d", getpid()); /* on whatever disk the build is */
    lw_prng_seed(&fixture->prng, seed);
    return 0;
}

static int teardown(void **state)
{
    fixture_t *fixture = *state;
    for (uint32_t i = 0; i < fixture->count; i++)
        free(fixture->stored[i].segment);
    free(fixture);
    (void)unlink(arena_file);
    (void)unlink(log_file);
    return rmdir(directory);
}

static void begin(fixture_t *fixture)
{
    assert_true(try_start(fixture, fixture->address[0] != '\0' ? fixture->address : "127.0.0.1:0"));
    assert_true(process_ready_text(&fixture->process, "data", fixture->address, sizeof(fixture->address)));
    connect_client(fixture);
}

static void crash(fixture_t *fixture)
{
    assert_int_equal(process_end(&fixture->process, SIGKILL), 1000 + SIGKILL);
    data_client_close(&fixture->client);
}

static void end(fixture_t *fixture)
{
    data_client_close(&fixture->client);
    assert_int_equal(process_end(&fixture->process, SIGTERM), 0);
}

static void put_shape(fixture_t *fixture, uint16_t layer, const segment_shape_t *shape)
{
    stored_t *stored = &fixture->stored[fixture->count++];
    stored->name = (lw_segment_name_t){.origin = 1, .layer = layer, .generation = 1};
    stored->segment = segment_make(&stored->name, shape, seed + layer, &stored->bytes);
    lw_status_t status = LW_ERR_EXHAUSTED;
    for (int tries = 0; tries < 2000 && status == LW_ERR_EXHAUSTED; tries++) { /* as a client does: there is room soon */
        status = data_put(&fixture->client, stored->segment, stored->bytes, &stored->handle);
        if (status == LW_ERR_EXHAUSTED)
            (void)poll(NULL, 0, 5);
    }
    assert_int_equal(status, LW_OK);
}

static void put(fixture_t *fixture, uint16_t layer)
{
    put_shape(fixture, layer,
              &(segment_shape_t){.heads = 2, .clusters = 100, .outliers = 100, .rows_max = 31, .head_dim = 128});
}

static lw_status_t attach(fixture_t *fixture, stored_t *stored)
{
    lw_msg_attached_t attached;
    assert_int_equal(data_attach(&fixture->client, 1, false, 0, 0, &stored->name, 1, &attached), LW_OK);
    stored->handle = attached.handle;
    return (lw_status_t)attached.status;
}

/* Some records and the whole segment, every byte compared. */
static void verify(fixture_t *fixture, const stored_t *stored)
{
    lw_msg_fetch_run_t run = {.handle = stored->handle, .head = 1, .count = 16};
    uint16_t entries[16];
    for (uint32_t i = 0; i < 16; i++)
        entries[i] = (uint16_t)lw_prng_below(&fixture->prng, 200);
    lw_status_t status = LW_ERR_BUSY;
    for (int tries = 0; tries < 40 && status == LW_ERR_BUSY; tries++) { /* a slow disk */
        assert_int_equal(data_fetch(&fixture->client, &run, 1, entries, 0), LW_OK);
        status = (lw_status_t)fixture->client.reply.run_status[0];
    }
    assert_int_equal(status, LW_OK);
    const uint8_t *at = data_fetch_bulk(&fixture->client);
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t bytes;
        const uint8_t *want = segment_record(stored->segment, 1, entries[i], &bytes);
        assert_memory_equal(at, want, bytes);
        at += bytes;
    }
    assert_int_equal(data_read(&fixture->client, stored->handle, 0, 0), LW_OK);
    assert_int_equal(fixture->client.reply.body.read_reply.bytes, stored->bytes);
    assert_memory_equal(fixture->client.payload, stored->segment, stored->bytes);
}

static uint32_t attach_and_verify(fixture_t *fixture)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < fixture->count; i++) {
        lw_status_t status = attach(fixture, &fixture->stored[i]);
        if (status == LW_OK) {
            verify(fixture, &fixture->stored[i]);
            found++;
        } else {
            assert_int_equal(status, LW_ERR_NOT_FOUND);
        }
    }
    return found;
}

static void test_after_kill_9_everything_committed_is_served_again(void **state)
{
    fixture_t *fixture = *state;
    lw_msg_reserve_reply_t reserved;
    begin(fixture);
    for (uint16_t layer = 0; layer < 20; layer++)
        put(fixture, layer);
    const lw_segment_name_t open = {.origin = 1, .layer = 100, .generation = 1};
    assert_int_equal(data_reserve(&fixture->client, &open, 100000, &reserved), LW_OK);
    uint64_t former = fixture->stored[0].handle;
    for (int life = 0; life < 3; life++) {
        crash(fixture);
        begin(fixture);
        lw_msg_fetch_run_t run = {.handle = former, .count = 1};
        const uint16_t entry = 0;
        assert_int_equal(data_fetch(&fixture->client, &run, 1, &entry, 0), LW_OK);
        assert_int_equal(fixture->client.reply.run_status[0], LW_ERR_STALE); /* a handle of a former life */
        assert_int_equal(attach_and_verify(fixture), fixture->count);
        former = fixture->stored[0].handle;
        put(fixture, (uint16_t)(40 + life)); /* and there is room beside them */
    }
    end(fixture);
    begin(fixture); /* an orderly end leaves as much */
    assert_int_equal(attach_and_verify(fixture), fixture->count);
    end(fixture);
}

static void test_what_the_catalogue_calls_dead_does_not_come_back(void **state)
{
    fixture_t *fixture = *state;
    begin(fixture);
    put(fixture, 1);
    put(fixture, DEAD_LAYER);
    crash(fixture);
    begin(fixture);
    assert_int_equal(attach(fixture, &fixture->stored[0]), LW_OK);
    assert_int_equal(attach(fixture, &fixture->stored[1]), LW_ERR_NOT_FOUND);
    crash(fixture);
    begin(fixture);
    assert_int_equal(attach_and_verify(fixture), 1);
    end(fixture);
}

static void flip(const char *path, uint64_t at)
{
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

static void test_a_flipped_bit_costs_one_segment_and_a_log_line(void **state)
{
    fixture_t *fixture = *state;
    begin(fixture);
    for (uint16_t layer = 0; layer < 5; layer++)
        put(fixture, layer);
    crash(fixture);
    flip(arena_file, (2u << 20) + fixture->stored[0].bytes - 100); /* the head is 2 MiB; records come last */
    begin(fixture);
    assert_true(process_wait_error(&fixture->process, "segment 1/0/0@0.1 at 0 of the arena is dropped"));
    assert_int_equal(attach_and_verify(fixture), 4);
    end(fixture);
}

static void test_a_truncated_file_serves_nothing_and_starts(void **state)
{
    fixture_t *fixture = *state;
    begin(fixture);
    put(fixture, 0);
    crash(fixture);
    assert_int_equal(truncate(arena_file, 32 << 20), 0);
    begin(fixture);
    assert_true(process_wait_error(&fixture->process, "what it held is dropped"));
    assert_int_equal(attach_and_verify(fixture), 0);
    put(fixture, 7);
    crash(fixture);
    fixture->arena_bytes = "80m"; /* and so does another size that was asked for */
    begin(fixture);
    assert_int_equal(attach_and_verify(fixture), 0);
    put(fixture, 8);
    crash(fixture);
    fixture->arena_bytes = "auto"; /* the file's size */
    begin(fixture);
    assert_int_equal(attach_and_verify(fixture), 1);
    end(fixture);
}

static void test_a_damaged_head_serves_nothing_and_starts(void **state)
{
    fixture_t *fixture = *state;
    begin(fixture);
    put(fixture, 0);
    crash(fixture);
    flip(arena_file, 20); /* the layout hash */
    begin(fixture);
    assert_true(process_wait_error(&fixture->process, "wrong checksum: what it held is dropped"));
    assert_int_equal(attach_and_verify(fixture), 0);
    end(fixture);
}

static void test_a_file_that_is_no_arena_is_left_alone(void **state)
{
    fixture_t *fixture = *state;
    char text[32] = "";
    FILE *file = fopen(arena_file, "w");
    assert_non_null(file);
    fputs("somebody's thesis", file);
    fclose(file);
    assert_false(try_start(fixture, "127.0.0.1:0"));
    assert_non_null(strstr(process_errors(&fixture->process), "mem.arena_file"));
    assert_non_null(strstr(process_errors(&fixture->process), "it is left alone"));
    file = fopen(arena_file, "r");
    assert_non_null(fgets(text, sizeof(text), file));
    fclose(file);
    assert_string_equal(text, "somebody's thesis");
}

static void test_two_daemons_do_not_share_an_arena(void **state)
{
    fixture_t *fixture = *state;
    process_t first;
    begin(fixture);
    first = fixture->process;
    assert_false(try_start(fixture, "127.0.0.1:0"));
    assert_non_null(strstr(process_errors(&fixture->process), "another daemon's arena"));
    fixture->process = first;
    put(fixture, 0);
    verify(fixture, &fixture->stored[0]);
    end(fixture);
}

/* Four times what the arena holds. */
static void put_much(fixture_t *fixture)
{
    uint64_t bytes = 0;
    begin(fixture);
    for (uint16_t layer = 0; bytes < 256u << 20; layer++) {
        put_shape(fixture, layer,
                  &(segment_shape_t){.heads = 4, .clusters = 200, .outliers = 200, .rows_max = 31, .head_dim = 128});
        bytes += fixture->stored[layer].bytes;
    }
}

static void spill_and_crash(fixture_t *fixture, const char *io)
{
    fixture->log_path = log_file;
    fixture->io = io;
    put_much(fixture);
    assert_int_equal(attach_and_verify(fixture), fixture->count);
    for (int life = 0; life < 2; life++) {
        crash(fixture);
        begin(fixture);
        assert_int_equal(attach_and_verify(fixture), fixture->count);
    }
    end(fixture);
}

static void test_four_times_the_arena_is_served_and_outlives_kill_9(void **state)
{
    spill_and_crash(*state, "auto");
}

static void test_the_same_over_threads(void **state)
{
    spill_and_crash(*state, "threads");
}

static void test_an_orderly_end_writes_everything_to_the_log(void **state)
{
    fixture_t *fixture = *state;
    fixture->log_path = log_file;
    fixture->arena = "";
    put_much(fixture);
    end(fixture);
    begin(fixture);
    assert_true(process_wait_error(&fixture->process, "the log still holds"));
    assert_int_equal(attach_and_verify(fixture), fixture->count);
    crash(fixture); /* what came back is in the log, too */
    begin(fixture);
    assert_int_equal(attach_and_verify(fixture), fixture->count);
    end(fixture);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    program = argv[1];
    seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    if (lw_fabric_ucx() == NULL)
        return 77;
    const struct CMUnitTest tests[] = {
        CASE(test_a_file_that_is_no_arena_is_left_alone),
        CASE(test_two_daemons_do_not_share_an_arena),
        CASE(test_a_damaged_head_serves_nothing_and_starts),
        CASE(test_a_truncated_file_serves_nothing_and_starts),
        CASE(test_a_flipped_bit_costs_one_segment_and_a_log_line),
        CASE(test_what_the_catalogue_calls_dead_does_not_come_back),
        CASE(test_after_kill_9_everything_committed_is_served_again),
        CASE(test_four_times_the_arena_is_served_and_outlives_kill_9),
        CASE(test_the_same_over_threads),
        CASE(test_an_orderly_end_writes_everything_to_the_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
