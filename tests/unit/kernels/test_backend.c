/* test_backend.c - finding a backend, and what every table promises: no empty slot, honest errors, zeroed
 * aligned memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/backend.h"

static void test_an_unknown_name_is_no_backend(void **state)
{
    unsetenv("LWK_BACKEND");
    assert_null(lwk_backend_find("tpu"));
    assert_null(lwk_backend_find("REF"));
}

static void test_backends_are_found_by_name(void **state)
{
    unsetenv("LWK_BACKEND");
    assert_string_equal(lwk_backend_find("ref")->name, "ref");
    assert_string_equal(lwk_backend_find("cpu")->name, "cpu");
    assert_non_null(lwk_backend_find(NULL)); /* the best that works here */
    assert_ptr_equal(lwk_backend_find(""), lwk_backend_find(NULL));
}

static void test_the_environment_wins_over_no_name_but_not_over_a_name(void **state)
{
    setenv("LWK_BACKEND", "ref", 1);
    assert_string_equal(lwk_backend_find(NULL)->name, "ref");
    assert_string_equal(lwk_backend_find("")->name, "ref");
    assert_string_equal(lwk_backend_find("cpu")->name, "cpu");
    setenv("LWK_BACKEND", "none such", 1);
    assert_null(lwk_backend_find(NULL));
    setenv("LWK_BACKEND", "", 1);
    assert_non_null(lwk_backend_find(NULL));
    unsetenv("LWK_BACKEND");
}

/* Every slot from open to gather is a function; data fields come before them. */
static void test_no_slot_of_a_table_is_empty(void **state)
{
    const char *names[] = {"ref", "cpu"};
    for (size_t i = 0; i < 2; i++) {
        const lwk_backend_t *backend = lwk_backend_find(names[i]);
        assert_int_equal(backend->size, sizeof *backend);
        assert_int_equal(backend->version, LWK_BACKEND_VERSION);
        const unsigned char *bytes = (const unsigned char *)backend;
        for (size_t at = offsetof(lwk_backend_t, open); at < sizeof *backend; at += sizeof(void (*)(void))) {
            void (*slot)(void);
            memcpy(&slot, bytes + at, sizeof slot);
            assert_true(slot != NULL);
        }
    }
}

static void test_a_second_device_is_refused(void **state)
{
    lwk_dev_t *dev = NULL;
    lw_error_t error;
    assert_int_equal(lwk_backend_find("ref")->open(1, &dev, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "ordinal is 1"));
    assert_int_equal(lwk_backend_find("cpu")->open(7, &dev, NULL), LW_ERR_INVALID);
    assert_null(dev);
}

static void test_an_unknown_cpu_level_is_refused_by_name(void **state)
{
    lwk_dev_t *dev = NULL;
    lw_error_t error;
    setenv("LWK_CPU_LEVEL", "mmx", 1);
    assert_int_equal(lwk_backend_find("cpu")->open(0, &dev, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "mmx"));
    setenv("LWK_CPU_LEVEL", "plain", 1);
    assert_int_equal(lwk_backend_find("cpu")->open(0, &dev, &error), LW_OK);
    assert_string_equal(lwk_backend_find("cpu")->describe(dev), "plain");
    lwk_backend_find("cpu")->close(dev);
    unsetenv("LWK_CPU_LEVEL");
}

static void test_memory_is_zeroed_and_aligned(void **state)
{
    const lwk_backend_t *backend = lwk_backend_find("cpu");
    lwk_dev_t *dev = NULL;
    assert_int_equal(backend->open(0, &dev, NULL), LW_OK);
    size_t sizes[] = {0, 1, 65, 4096, (2u << 20) + 3};
    for (size_t i = 0; i < 5; i++)
        for (lwk_memory_t kind = LWK_MEMORY_DEVICE; kind <= LWK_MEMORY_PEER; kind++) {
            uint8_t *memory = NULL;
            assert_int_equal(backend->alloc(dev, kind, sizes[i], (void **)&memory), LW_OK);
            assert_int_equal((uintptr_t)memory % 64, 0);
            for (size_t k = 0; k < sizes[i]; k++)
                if (memory[k] != 0)
                    fail();
            backend->free(dev, kind, memory);
        }
    void *memory = NULL;
    assert_int_equal(backend->alloc(dev, (lwk_memory_t)9, 64, &memory), LW_ERR_INVALID);
    assert_int_equal(backend->alloc(dev, LWK_MEMORY_DEVICE, SIZE_MAX, &memory), LW_ERR_NO_MEMORY);
    assert_null(memory);
    backend->close(dev);
}

static void test_what_a_host_backend_lacks_says_unsupported(void **state)
{
    const lwk_backend_t *backend = lwk_backend_find("cpu");
    lwk_graph_t *graph = NULL;
    assert_int_equal(backend->caps & LWK_CAP_CAPTURE, 0);
    assert_int_equal(backend->capture_begin(NULL, NULL), LW_ERR_UNSUPPORTED);
    assert_int_equal(backend->capture_end(NULL, NULL, &graph), LW_ERR_UNSUPPORTED);
    assert_int_equal(backend->graph_launch(NULL, NULL), LW_ERR_UNSUPPORTED);
    backend->graph_destroy(NULL);
}

static void test_events_of_a_host_backend_are_past(void **state)
{
    const lwk_backend_t *backend = lwk_backend_find("ref");
    lwk_event_t *event = NULL;
    void *stream = NULL;
    assert_int_equal(backend->stream_create(NULL, &stream), LW_OK);
    assert_int_equal(backend->event_create(NULL, &event), LW_OK);
    assert_int_equal(backend->event_record(event, stream), LW_OK);
    assert_int_equal(backend->event_query(event), LW_OK);
    backend->event_destroy(event);
    backend->stream_destroy(NULL, stream);
}

static void test_gather_copies_each_record_to_its_place(void **state)
{
    const uint8_t a[4] = {1, 2, 3, 4}, b[2] = {5, 6};
    const uint8_t *from[] = {a, b};
    const uint32_t bytes[] = {4, 2};
    const uint64_t to[] = {3, 0};
    uint8_t into[8] = {0};
    lwk_gather_t args = {.count = 2, .from = from, .bytes = bytes, .to = to, .into = into};
    assert_int_equal(lwk_backend_find("ref")->gather(NULL, &args, NULL), LW_OK);
    assert_memory_equal(into, ((uint8_t[]){5, 6, 0, 1, 2, 3, 4, 0}), 8);
    args.from = NULL;
    assert_int_equal(lwk_backend_find("ref")->gather(NULL, &args, NULL), LW_ERR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_unknown_name_is_no_backend),
        cmocka_unit_test(test_a_second_device_is_refused),
        cmocka_unit_test(test_an_unknown_cpu_level_is_refused_by_name),
        cmocka_unit_test(test_what_a_host_backend_lacks_says_unsupported),
        cmocka_unit_test(test_backends_are_found_by_name),
        cmocka_unit_test(test_the_environment_wins_over_no_name_but_not_over_a_name),
        cmocka_unit_test(test_no_slot_of_a_table_is_empty),
        cmocka_unit_test(test_memory_is_zeroed_and_aligned),
        cmocka_unit_test(test_events_of_a_host_backend_are_past),
        cmocka_unit_test(test_gather_copies_each_record_to_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
