#define _GNU_SOURCE
#include "unit/proto/test_support.h"

#include "client/examples/llama/gguf.h"
#include "tiny_model.h"

static uint8_t *small_file(size_t *bytes_out)
{
    static const char *const texts[] = {"one", "", "three"};
    gguf_writer_t writer = {0};
    float values[64] = {1, 2, 3};
    uint8_t small = 7;
    int64_t negative = -5;
    double wide = 0.25;
    uint64_t huge = 1ull << 40;
    gguf_add_text(&writer, "text", "hello");
    gguf_add_u32(&writer, "u32", 42);
    gguf_add_f32(&writer, "f32", 1.5f);
    gguf_add_raw(&writer, "u8", LLAMA_GGUF_U8, &small, 1);
    gguf_add_raw(&writer, "i64", LLAMA_GGUF_I64, &negative, 8);
    gguf_add_raw(&writer, "f64", LLAMA_GGUF_F64, &wide, 8);
    gguf_add_raw(&writer, "u64", LLAMA_GGUF_U64, &huge, 8);
    gguf_add_raw(&writer, "bool", LLAMA_GGUF_BOOL, &small, 1);
    gguf_add_texts(&writer, "texts", texts, 3);
    gguf_add_tensor(&writer, "a", 2, 32, LLAMA_TENSOR_F32, values, sizeof(values));
    gguf_add_tensor(&writer, "b", 0, 32, LLAMA_TENSOR_Q8_0, values, 34);
    return gguf_finish(&writer, bytes_out);
}

/* Parses a file that must be refused with the status, and with the words in its text. */
static void refuses(uint8_t *file, size_t bytes, lw_status_t status, const char *words)
{
    llama_gguf_t *gguf;
    lw_error_t error = {0};
    assert_int_equal(llama_gguf_parse(file, bytes, &gguf, &error), status);
    if (!strstr(error.text, words))
        fail_msg("\"%s\" does not say \"%s\"", error.text, words);
}

static void put(uint8_t *file, size_t at, uint64_t value, size_t bytes)
{
    memcpy(file + at, &value, bytes);
}

/* Where the text stands in the file. */
static size_t find(const uint8_t *file, size_t bytes, const char *text)
{
    uint8_t *at = memmem(file, bytes, text, strlen(text));
    assert_non_null(at);
    return (size_t)(at - file);
}

static void test_every_truncation_is_refused(void **state)
{
    size_t bytes;
    uint8_t *file = small_file(&bytes);
    /* The last tensor ends 34 bytes into the last 64: cuts in the padding behind it lose nothing. */
    for (size_t cut = 0; cut < bytes - (64 - 34); cut++) {
        llama_gguf_t *gguf;
        uint8_t *exact = malloc(cut ? cut : 1); /* so that a sanitizer sees a read past the end */
        memcpy(exact, file, cut);
        lw_status_t status = llama_gguf_parse(exact, cut, &gguf, NULL);
        free(exact);
        if (status != LW_ERR_INVALID)
            fail_msg("%zu of %zu bytes gave %d", cut, bytes, status);
    }
    free(file);
}

static void test_headers_that_are_not_gguf_are_refused(void **state)
{
    size_t bytes;
    uint8_t *file = small_file(&bytes);
    refuses(file, 0, LW_ERR_INVALID, "GGUF");
    file[0] = 'X';
    refuses(file, bytes, LW_ERR_INVALID, "GGUF");
    file[0] = 'G';
    put(file, 4, 1, 4);
    refuses(file, bytes, LW_ERR_UNSUPPORTED, "version 1");
    put(file, 4, 0x03000000, 4);
    refuses(file, bytes, LW_ERR_UNSUPPORTED, "0x03000000");
    free(file);
}

static void test_absurd_counts_are_refused_without_allocating(void **state)
{
    static const uint64_t counts[] = {UINT64_MAX, UINT64_MAX / 16, 1ull << 40, 1000};
    size_t bytes;
    uint8_t *file = small_file(&bytes);
    for (size_t i = 0; i < LW_ARRAY_SIZE(counts); i++) {
        uint64_t was;
        memcpy(&was, file + 8, 8);
        put(file, 8, counts[i], 8);
        refuses(file, bytes, LW_ERR_INVALID, "tensors do not fit");
        put(file, 8, was, 8);
        memcpy(&was, file + 16, 8);
        put(file, 16, counts[i], 8);
        refuses(file, bytes, LW_ERR_INVALID, "metadata entries do not fit");
        put(file, 16, was, 8);
    }
    size_t texts = find(file, bytes, "texts") + 5 + 4 + 4;
    put(file, texts, UINT64_MAX, 8);
    refuses(file, bytes, LW_ERR_INVALID, "texts: string");
    put(file, texts - 4, LLAMA_GGUF_U64, 4); /* 8 x count overflows */
    refuses(file, bytes, LW_ERR_INVALID, "texts: 18446744073709551615 elements");
    free(file);
}

static void test_wrong_metadata_names_the_key(void **state)
{
    size_t bytes;
    uint8_t *file = small_file(&bytes);
    size_t type = find(file, bytes, "u32") + 3;
    put(file, type, 13, 4);
    refuses(file, bytes, LW_ERR_INVALID, "u32: unknown value type 13");
    put(file, type, LLAMA_GGUF_U32, 4);
    size_t element = find(file, bytes, "texts") + 5 + 4;
    put(file, element, LLAMA_GGUF_ARRAY, 4);
    refuses(file, bytes, LW_ERR_UNSUPPORTED, "texts: an array of arrays");
    put(file, element, LLAMA_GGUF_STRING, 4);
    put(file, element + 12, UINT64_MAX - 3, 8);
    refuses(file, bytes, LW_ERR_INVALID, "texts: string 0 of 3");
    free(file);
}

static void test_wrong_tensors_are_named(void **state)
{
    size_t bytes;
    uint8_t *file = small_file(&bytes);
    /* "a": u32 dimensions, u64 x 2, u32 type, u64 offset; the name follows its length of 1 */
    uint8_t pattern[] = {1, 0, 0, 0, 0, 0, 0, 0, 'a', 2};
    uint8_t *at = memmem(file, bytes, pattern, sizeof(pattern));
    assert_non_null(at);
    size_t dimensions = (size_t)(at - file) + 9, first = dimensions + 4, type = first + 16, offset = type + 4;
    put(file, dimensions, 5, 4);
    refuses(file, bytes, LW_ERR_INVALID, "tensor a: 5 dimensions");
    put(file, dimensions, 0, 4);
    refuses(file, bytes, LW_ERR_INVALID, "tensor a: 0 dimensions");
    put(file, dimensions, 2, 4);
    put(file, first, 0, 8);
    refuses(file, bytes, LW_ERR_INVALID, "tensor a: dimension 0 is 0");
    put(file, first, 1ull << 62, 8);
    put(file, first + 8, 1ull << 62, 8);
    refuses(file, bytes, LW_ERR_INVALID, "tensor a: dimension 0 is 4611686018427387904");
    put(file, first, 1ull << 33, 8);
    put(file, first + 8, 1ull << 33, 8);
    refuses(file, bytes, LW_ERR_INVALID, "tensor a: dimension 1");
    put(file, first, 33, 8);
    put(file, first + 8, 2, 8);
    put(file, type, LLAMA_TENSOR_Q4_0, 4);
    refuses(file, bytes, LW_ERR_INVALID, "tensor a: rows of 33 values");
    put(file, type, 14, 4);
    refuses(file, bytes, LW_ERR_UNSUPPORTED, "tensor a has type Q6_K (14)");
    put(file, type, 4000000000u, 4);
    refuses(file, bytes, LW_ERR_UNSUPPORTED, "type unknown (4000000000)");
    put(file, type, LLAMA_TENSOR_F32, 4);
    put(file, offset, 16, 8);
    refuses(file, bytes, LW_ERR_INVALID, "tensor a: offset 16 is not a multiple of 32");
    put(file, offset, UINT64_MAX - 31, 8);
    refuses(file, bytes, LW_ERR_INVALID, "tensor a: 264 bytes at 18446744073709551584 run past the end");
    put(file, offset, 0, 8);
    put(file, first, 1ull << 40, 8);
    refuses(file, bytes, LW_ERR_INVALID, "run past the end");
    free(file);
}

static void test_alignment_must_be_a_power_of_two(void **state)
{
    static const uint32_t wrong[] = {0, 3, 48};
    for (size_t i = 0; i < LW_ARRAY_SIZE(wrong); i++) {
        gguf_writer_t writer = {0};
        size_t bytes;
        gguf_add_u32(&writer, "general.alignment", wrong[i]);
        uint8_t *file = gguf_finish(&writer, &bytes);
        refuses(file, bytes, LW_ERR_INVALID, "general.alignment is");
        free(file);
    }
}

static void test_random_damage_never_crashes(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    size_t bytes;
    uint8_t *file = small_file(&bytes);
    uint8_t *damaged = malloc(bytes);
    unsigned accepted = 0;
    for (unsigned round = 0; round < 20000; round++) {
        llama_gguf_t *gguf;
        memcpy(damaged, file, bytes);
        for (uint64_t changes = 1 + lw_prng_below(&prng, 4); changes; changes--)
            damaged[lw_prng_below(&prng, bytes)] = (uint8_t)lw_prng_u64(&prng);
        if (llama_gguf_parse(damaged, bytes, &gguf, NULL) != LW_OK)
            continue;
        accepted++;
        for (size_t i = 0; i < llama_gguf_tensor_count(gguf); i++) {
            const llama_gguf_tensor_t *tensor = llama_gguf_tensor_at(gguf, i);
            assert_true(tensor->data >= damaged && tensor->data + tensor->byte_count <= damaged + bytes);
        }
        llama_gguf_close(gguf);
    }
    assert_true(accepted > 0 && accepted < 20000);
    free(damaged);
    free(file);
}

static void test_values_are_read_with_any_type_that_fits(void **state)
{
    size_t bytes;
    uint8_t *file = small_file(&bytes);
    llama_gguf_t *gguf;
    lw_error_t error;
    assert_int_equal(llama_gguf_parse(file, bytes, &gguf, &error), LW_OK);
    uint32_t number = 99;
    float real = 0;
    bool flag = false;
    llama_text_t text;
    assert_int_equal(llama_gguf_u32(gguf, "u32", &number, NULL), LW_OK);
    assert_int_equal(number, 42);
    assert_int_equal(llama_gguf_u32(gguf, "u8", &number, NULL), LW_OK);
    assert_int_equal(number, 7);
    assert_int_equal(llama_gguf_u32(gguf, "none", &number, NULL), LW_ERR_NOT_FOUND);
    assert_int_equal(llama_gguf_u32(gguf, "i64", &number, &error), LW_ERR_INVALID);
    assert_non_null(strstr(error.text, "i64 is -5"));
    assert_int_equal(llama_gguf_u32(gguf, "u64", &number, NULL), LW_ERR_INVALID);
    assert_int_equal(llama_gguf_u32(gguf, "text", &number, NULL), LW_ERR_INVALID);
    assert_int_equal(number, 7);
    assert_int_equal(llama_gguf_f32(gguf, "f32", &real, NULL), LW_OK);
    assert_true(real == 1.5f);
    assert_int_equal(llama_gguf_f32(gguf, "f64", &real, NULL), LW_OK);
    assert_true(real == 0.25f);
    assert_int_equal(llama_gguf_f32(gguf, "u32", &real, NULL), LW_ERR_INVALID);
    assert_int_equal(llama_gguf_bool(gguf, "bool", &flag, NULL), LW_OK);
    assert_true(flag);
    assert_int_equal(llama_gguf_bool(gguf, "u8", &flag, NULL), LW_ERR_INVALID);
    assert_int_equal(llama_gguf_text(gguf, "text", &text, NULL), LW_OK);
    assert_true(llama_text_is(text, "hello"));
    assert_int_equal(llama_gguf_text(gguf, "texts", &text, NULL), LW_ERR_INVALID);
    llama_gguf_close(gguf);
    free(file);
}

static void test_arrays_of_strings_and_tensors_are_found(void **state)
{
    size_t bytes;
    uint8_t *file = small_file(&bytes);
    llama_gguf_t *gguf;
    llama_text_t text;
    assert_int_equal(llama_gguf_parse(file, bytes, &gguf, NULL), LW_OK);
    const llama_gguf_value_t *texts = llama_gguf_find(gguf, "texts");
    const uint8_t *cursor = texts->data;
    const char *expected[] = {"one", "", "three"};
    for (int i = 0; i < 3; i++) {
        assert_true(llama_gguf_next_text(texts, &cursor, &text));
        assert_true(llama_text_is(text, expected[i]));
    }
    assert_false(llama_gguf_next_text(texts, &cursor, &text));
    assert_int_equal(llama_gguf_tensor_count(gguf), 2);
    const llama_gguf_tensor_t *tensor = llama_gguf_tensor(gguf, "b");
    assert_int_equal(tensor->type, LLAMA_TENSOR_Q8_0);
    assert_int_equal(tensor->byte_count, 34);
    assert_null(llama_gguf_tensor(gguf, "c"));
    llama_gguf_close(gguf);
    free(file);
}

static void test_a_file_that_cannot_be_read_says_so(void **state)
{
    llama_gguf_t *gguf;
    lw_error_t error;
    assert_int_equal(llama_gguf_open("no-such-file.gguf", &gguf, &error), LW_ERR_IO);
    assert_non_null(strstr(error.text, "no-such-file.gguf"));
    assert_int_equal(llama_gguf_open(".", &gguf, &error), LW_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_headers_that_are_not_gguf_are_refused),
        cmocka_unit_test(test_absurd_counts_are_refused_without_allocating),
        cmocka_unit_test(test_wrong_metadata_names_the_key),
        cmocka_unit_test(test_wrong_tensors_are_named),
        cmocka_unit_test(test_alignment_must_be_a_power_of_two),
        cmocka_unit_test(test_random_damage_never_crashes),
        cmocka_unit_test(test_values_are_read_with_any_type_that_fits),
        cmocka_unit_test(test_arrays_of_strings_and_tensors_are_found),
        cmocka_unit_test(test_a_file_that_cannot_be_read_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
