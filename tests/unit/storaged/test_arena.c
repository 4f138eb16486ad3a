/* Arenas of every kind of page, on whatever this machine gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "storaged/mem/arena.h"
#include "storaged/mem/numa.h"

static void test_an_arena_below_the_minimum_is_refused_with_both_numbers(void **state)
{
    lwd_arena_params_t params = {.bytes = LWD_ARENA_BYTES_MIN - 1, .numa_node = -1};
    lwd_arena_t arena;
    lw_error_t error = {0};
    (void)state;
    assert_int_equal(lwd_arena_init(&params, &arena, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "16777215"));
    assert_non_null(strstr(error.text, "16777216"));
}

static void test_an_arena_larger_than_the_address_space_is_refused(void **state)
{
    lwd_arena_params_t params = {.bytes = 1ull << 60, .numa_node = -1};
    lwd_arena_t arena;
    lw_error_t error = {0};
    (void)state;
    assert_int_equal(lwd_arena_init(&params, &arena, &error), LW_ERR_NO_MEMORY);
    assert_true(error.text[0] != '\0');
}

static void test_every_kind_of_page_falls_back_to_what_there_is(void **state)
{
    const lwd_pages_t kinds[] = {LWD_PAGES_AUTO, LWD_PAGES_1G, LWD_PAGES_2M, LWD_PAGES_THP, LWD_PAGES_NONE};
    (void)state;
    for (size_t i = 0; i < LW_ARRAY_SIZE(kinds); i++) {
        lwd_arena_params_t params = {.bytes = LWD_ARENA_BYTES_MIN + 1,
                                     .pages = kinds[i],
                                     .numa_node = -1,
                                     .threads = 3,
                                     .prefault = true};
        lwd_arena_t arena;
        lw_error_t error = {0};
        assert_int_equal(lwd_arena_init(&params, &arena, &error), LW_OK);
        assert_int_equal(arena.bytes % LWD_ARENA_UNIT_BYTES, 0);
        assert_true(arena.bytes > LWD_ARENA_BYTES_MIN && arena.mapped_bytes >= arena.bytes);
        assert_true(arena.pages >= kinds[i]); /* never larger pages than asked for */
        assert_int_equal((uintptr_t)arena.base % (2u << 20), 0);
        assert_true(arena.book_bytes >= arena.bytes / LWD_ARENA_BOOK_SHARE);
        memset(arena.base, 0x5a, arena.bytes);
        memset(arena.book, 0xa5, arena.book_bytes);
        assert_int_equal(arena.base[arena.bytes - 1], 0x5a);
        lwd_arena_fini(&arena);
        assert_null(arena.base);
    }
}

static void test_a_memory_node_that_does_not_exist_is_survived(void **state)
{
    lwd_arena_params_t params = {.bytes = LWD_ARENA_BYTES_MIN, .numa_node = 900};
    lwd_arena_t arena;
    lw_error_t error = {0};
    (void)state;
    assert_int_equal(lwd_arena_init(&params, &arena, &error), LW_OK);
    lwd_arena_fini(&arena);
    lwd_numa_run_on(-1);
    assert_true(strlen(lwd_numa_text(-1)) > 0);
}

static void test_page_names_parse_and_show(void **state)
{
    lwd_pages_t pages;
    (void)state;
    assert_int_equal(lwd_pages_parse("4m", &pages), LW_ERR_INVALID);
    assert_int_equal(lwd_pages_parse("", &pages), LW_ERR_INVALID);
    for (lwd_pages_t kind = LWD_PAGES_AUTO; kind <= LWD_PAGES_NONE; kind++) {
        assert_int_equal(lwd_pages_parse(lwd_pages_text(kind), &pages), LW_OK);
        assert_int_equal(pages, kind);
    }
    assert_string_equal(lwd_pages_text((lwd_pages_t)77), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_arena_below_the_minimum_is_refused_with_both_numbers),
        cmocka_unit_test(test_an_arena_larger_than_the_address_space_is_refused),
        cmocka_unit_test(test_every_kind_of_page_falls_back_to_what_there_is),
        cmocka_unit_test(test_a_memory_node_that_does_not_exist_is_survived),
        cmocka_unit_test(test_page_names_parse_and_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
