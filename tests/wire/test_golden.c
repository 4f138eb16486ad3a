/* test_golden.c DIRECTORY              compares today's codec with the files there, both ways
 * test_golden.c DIRECTORY --write      writes the files that are missing
 * test_golden.c DIRECTORY --write F    writes F; refuses when it exists: a golden file is never edited */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "golden_items.h"

#define ITEMS (LW_MSG_TYPE_END - 1 + 2) /* every message type, two segments */

static const char *directory;
static _Alignas(64) uint8_t made[GOLDEN_BYTES_MAX], found[GOLDEN_BYTES_MAX];

/* Item 0.. : messages by type, then the segments. Returns its bytes. */
static uint32_t make_item(int item, char *file, size_t file_bytes)
{
    golden_message_t message;

    if (item < LW_MSG_TYPE_END - 1) {
        golden_message_file((uint16_t)(item + 1), file, file_bytes);
        golden_message((uint16_t)(item + 1), &message);
        return golden_message_bytes(&message, made);
    }
    snprintf(file, file_bytes, "segment%s_v1.bin", item == LW_MSG_TYPE_END ? "_raw" : "");
    return golden_segment_bytes(item == LW_MSG_TYPE_END, made);
}

static size_t read_file(const char *file)
{
    char path[512];
    size_t bytes;

    snprintf(path, sizeof(path), "%s/%s", directory, file);
    FILE *in = fopen(path, "rb");
    if (in == NULL) {
        fail_msg("%s: %s", path, strerror(errno));
    }
    bytes = fread(found, 1, sizeof(found), in);
    fclose(in);
    return bytes;
}

/* 0, or an errno: EEXIST for a file that is there. */
static int write_file(const char *file, uint32_t bytes)
{
    char path[512];

    snprintf(path, sizeof(path), "%s/%s", directory, file);
    int out = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (out < 0) {
        return errno;
    }
    ssize_t written = write(out, made, bytes);
    close(out);
    return written == (ssize_t)bytes ? 0 : EIO;
}

static int write_items(const char *only)
{
    char file[64];
    int failed = 0, known = 0;

    for (int item = 0; item < ITEMS; item++) {
        uint32_t bytes = make_item(item, file, sizeof(file));
        if (only != NULL && strcmp(only, file) != 0) {
            continue;
        }
        known = 1;
        int error = write_file(file, bytes);
        if (error != 0 && (only != NULL || error != EEXIST)) {
            fprintf(stderr, "%s: %s\n", file,
                    error == EEXIST ? "exists: golden files are never edited" : strerror(error));
            failed = 1;
        }
    }
    if (!known) {
        fprintf(stderr, "%s: no such item\n", only);
    }
    return failed || !known;
}

static void test_every_file_belongs_to_an_item(void **state)
{
    DIR *dir = opendir(directory);
    struct dirent *entry;
    unsigned files = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        int known = 0;
        char file[64];
        if (entry->d_name[0] == '.') {
            continue;
        }
        for (int item = 0; item < ITEMS; item++) {
            make_item(item, file, sizeof(file));
            known |= strcmp(file, entry->d_name) == 0;
        }
        if (!known) {
            fail_msg("%s/%s belongs to no item", directory, entry->d_name);
        }
        files++;
    }
    closedir(dir);
    assert_int_equal(files, ITEMS);
}

static void test_encoding_gives_the_golden_bytes(void **state)
{
    char file[64];

    for (int item = 0; item < ITEMS; item++) {
        uint32_t bytes = make_item(item, file, sizeof(file));
        size_t found_bytes = read_file(file);

        if (found_bytes != bytes || memcmp(made, found, bytes) != 0) {
            uint32_t at = 0;
            while (at < bytes && at < found_bytes && made[at] == found[at]) {
                at++;
            }
            fail_msg("%s: %zu bytes, today's codec makes %u; they differ at byte %u", file, found_bytes,
                     bytes, at);
        }
    }
}

static void test_decoding_the_golden_bytes_gives_the_message(void **state)
{
    static _Alignas(64) uint8_t payload[GOLDEN_BYTES_MAX];
    char file[64];

    for (uint16_t type = 1; type < LW_MSG_TYPE_END; type++) {
        golden_message_t wanted;
        lw_error_t error;
        lw_msg_t msg;

        golden_message(type, &wanted);
        golden_message_file(type, file, sizeof(file));
        size_t bytes = read_file(file), head = sizeof(lw_wire_header_t) + lw_msg_body_bytes(type);
        assert_true(bytes >= head);
        memcpy(payload, found + head, bytes - head);
        if (lw_msg_decode_head(found, head, bytes - head, &msg, &error) != LW_OK ||
            lw_msg_decode_lists(&msg, payload, bytes - head, &error) != LW_OK) {
            fail_msg("%s: %s", file, error.text);
        }
        assert_int_equal(msg.header.version, 1);
        assert_int_equal(msg.header.type, type);
        assert_true(msg.header.fleet_id == wanted.msg.header.fleet_id);
        assert_true(msg.header.request_id == wanted.msg.header.request_id);
        assert_memory_equal(&msg.body, &wanted.msg.body, lw_msg_body_bytes(type));
        assert_int_equal(bytes - head, golden_payload_bytes(&wanted));
        assert_memory_equal(payload, wanted.payload, bytes - head);
    }
}

static void test_the_golden_segments_verify(void **state)
{
    static const char *const files[] = {"segment_v1.bin", "segment_raw_v1.bin"};

    for (int raw = 0; raw < 2; raw++) {
        size_t bytes = read_file(files[raw]);
        lw_error_t error;

        if (lw_segment_verify(found, bytes, &error) != LW_OK) {
            fail_msg("%s: %s", files[raw], error.text);
        }
        assert_int_equal(lw_segment_header(found)->token_count, raw ? 70 : 16);
        assert_int_equal(lw_segment_heads(found)[0].cluster_count, raw ? 2 : 3);
    }
}

static void test_writing_never_overwrites(void **state)
{
    const char *golden = directory;
    char temporary[] = "/tmp/lw_test_golden_XXXXXX", path[600];

    assert_non_null(mkdtemp(temporary));
    directory = temporary;
    assert_int_equal(write_items("ping_v1.bin"), 0);
    int refused = write_items("ping_v1.bin"), unknown = write_items("ping_v2.bin"), rest = write_items(NULL);
    size_t bytes = read_file("ping_v1.bin");
    for (int item = 0; item < ITEMS; item++) {
        char file[64];
        make_item(item, file, sizeof(file));
        snprintf(path, sizeof(path), "%s/%s", temporary, file);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(temporary), 0);
    directory = golden;
    assert_int_equal(refused, 1);
    assert_int_equal(unknown, 1);
    assert_int_equal(rest, 0);
    assert_int_equal(bytes, 40);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_file_belongs_to_an_item),
        cmocka_unit_test(test_encoding_gives_the_golden_bytes),
        cmocka_unit_test(test_decoding_the_golden_bytes_gives_the_message),
        cmocka_unit_test(test_the_golden_segments_verify),
        cmocka_unit_test(test_writing_never_overwrites),
    };

    if (argc < 2) {
        fprintf(stderr, "usage: %s DIRECTORY [--write [FILE]]\n", argv[0]);
        return 2;
    }
    directory = argv[1];
    if (argc > 2 && strcmp(argv[2], "--write") == 0) {
        return write_items(argc > 3 ? argv[3] : NULL);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
