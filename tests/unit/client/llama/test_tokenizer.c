#include "unit/proto/test_support.h"

#include "client/examples/llama/tokenizer.h"
#include "tiny_model.h"

static lw_status_t create(gguf_writer_t *writer, llama_tokenizer_t **tokenizer_out, lw_error_t *error)
{
    size_t bytes;
    uint8_t *file = gguf_finish(writer, &bytes);
    llama_gguf_t *gguf;
    assert_int_equal(llama_gguf_parse(file, bytes, &gguf, error), LW_OK);
    lw_status_t status = llama_tokenizer_create(gguf, tokenizer_out, error);
    llama_gguf_close(gguf);
    free(file); /* the tokenizer must not need it any more */
    return status;
}

static llama_tokenizer_t *tiny(void)
{
    gguf_writer_t writer = {0};
    llama_tokenizer_t *tokenizer;
    lw_error_t error = {0};
    tiny_tokenizer(&writer, &(tiny_options_t){0});
    if (create(&writer, &tokenizer, &error) != LW_OK)
        fail_msg("%s", error.text);
    return tokenizer;
}

static void refuses(gguf_writer_t *writer, lw_status_t status, const char *words)
{
    llama_tokenizer_t *tokenizer;
    lw_error_t error = {0};
    assert_int_equal(create(writer, &tokenizer, &error), status);
    if (!strstr(error.text, words))
        fail_msg("\"%s\" does not say \"%s\"", error.text, words);
}

static void test_other_tokenizers_are_refused_by_name(void **state)
{
    gguf_writer_t writer = {0};
    tiny_tokenizer(&writer, &(tiny_options_t){.rename_model = "bert"});
    refuses(&writer, LW_ERR_UNSUPPORTED, "tokenizer.ggml.model is bert");
    tiny_tokenizer(&writer, &(tiny_options_t){.rename_pre = "tekken"});
    refuses(&writer, LW_ERR_UNSUPPORTED, "tokenizer.ggml.pre is tekken");
}

static void test_broken_vocabularies_are_refused_with_the_entry(void **state)
{
    static const char *const tokens[] = {"a", "b", "ab"};
    static const char *const good[] = {"a b"}, *const spaceless[] = {"ab"}, *const unknown[] = {"a b", "b b"};
    static const int32_t types[] = {1, 9, 1};
    gguf_writer_t writer = {0};
    gguf_add_text(&writer, "tokenizer.ggml.model", "gpt2");
    refuses(&writer, LW_ERR_INVALID, "tokenizer.ggml.tokens is missing");

    gguf_add_text(&writer, "tokenizer.ggml.model", "gpt2");
    gguf_add_i32s(&writer, "tokenizer.ggml.tokens", types, 3);
    refuses(&writer, LW_ERR_INVALID, "tokenizer.ggml.tokens is not an array of strings");

    gguf_add_text(&writer, "tokenizer.ggml.model", "gpt2");
    gguf_add_texts(&writer, "tokenizer.ggml.tokens", tokens, 3);
    gguf_add_i32s(&writer, "tokenizer.ggml.token_type", types, 2);
    gguf_add_texts(&writer, "tokenizer.ggml.merges", good, 1);
    refuses(&writer, LW_ERR_INVALID, "tokenizer.ggml.token_type is not 3 int32");

    gguf_add_text(&writer, "tokenizer.ggml.model", "gpt2");
    gguf_add_texts(&writer, "tokenizer.ggml.tokens", tokens, 3);
    gguf_add_i32s(&writer, "tokenizer.ggml.token_type", types, 3);
    gguf_add_texts(&writer, "tokenizer.ggml.merges", good, 1);
    refuses(&writer, LW_ERR_INVALID, "tokenizer.ggml.token_type[1] is 9");

    gguf_add_text(&writer, "tokenizer.ggml.model", "gpt2");
    gguf_add_texts(&writer, "tokenizer.ggml.tokens", tokens, 3);
    gguf_add_texts(&writer, "tokenizer.ggml.merges", spaceless, 1);
    refuses(&writer, LW_ERR_INVALID, "tokenizer.ggml.merges[0] is not two tokens");

    gguf_add_text(&writer, "tokenizer.ggml.model", "gpt2");
    gguf_add_texts(&writer, "tokenizer.ggml.tokens", tokens, 3);
    gguf_add_texts(&writer, "tokenizer.ggml.merges", unknown, 2);
    refuses(&writer, LW_ERR_INVALID, "tokenizer.ggml.merges[1] (b b)");
}

static void encodes(const llama_tokenizer_t *tokenizer, const char *text, bool special,
                    const uint32_t *expected, size_t count)
{
    llama_tokens_t tokens = {0};
    assert_int_equal(llama_encode(tokenizer, text, strlen(text), special, &tokens), LW_OK);
    assert_int_equal(tokens.count, count);
    assert_memory_equal(tokens.ids, expected, count * sizeof(*expected));
    llama_tokens_free(&tokens);
}
#define ENCODES(tokenizer, text, special, ...)                         \
    encodes(tokenizer, text, special, (const uint32_t[]){__VA_ARGS__}, \
            sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static void test_known_texts_give_known_tokens(void **state)
{
    llama_tokenizer_t *tokenizer = tiny();
    ENCODES(tokenizer, "the", false, TINY_THE);
    ENCODES(tokenizer, "to the x", false, 't', 'o', TINY_SPACE_THE, ' ', 'x');
    ENCODES(tokenizer, "4 the", false, '4', TINY_SPACE_THE);
    ENCODES(tokenizer, "th e", false, 256, ' ', 'e'); /* BPE never crosses pieces */
    ENCODES(tokenizer, "\xc3\xa9", false, 0xc3, 0xa9);
    llama_tokenizer_destroy(tokenizer);
}

static void test_special_tokens_only_where_they_are_asked_for(void **state)
{
    llama_tokenizer_t *tokenizer = tiny();
    ENCODES(tokenizer, "a<|im_end|>b", true, 'a', TINY_TURN_END, 'b');
    ENCODES(tokenizer, "<|im_start|><|im_end|>", true, TINY_TURN_START, TINY_TURN_END);
    ENCODES(tokenizer, "<|im", true, '<', '|', 'i', 'm');
    ENCODES(tokenizer, "x<user>y", false, 'x', TINY_USER, 'y'); /* user-defined: always */
    llama_tokens_t tokens = {0};
    assert_int_equal(llama_encode(tokenizer, "<|im_end|>", 10, false, &tokens), LW_OK);
    for (size_t i = 0; i < tokens.count; i++)
        assert_true(tokens.ids[i] < TINY_TURN_START);
    llama_tokens_free(&tokens);
    llama_tokenizer_destroy(tokenizer);
}

static void test_any_bytes_come_back(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    llama_tokenizer_t *tokenizer = tiny();
    static const char likely[] = "aaaathe the  \n1'";
    for (int round = 0; round < 2000; round++) {
        char text[200], back[200];
        size_t bytes = lw_prng_below(&prng, sizeof(text)), count = 0;
        for (size_t i = 0; i < bytes; i++)
            text[i] = lw_prng_below(&prng, 2) ? (char)lw_prng_u64(&prng) : likely[lw_prng_below(&prng, 16)];
        llama_tokens_t tokens = {0};
        assert_int_equal(llama_encode(tokenizer, text, bytes, round & 1, &tokens), LW_OK);
        for (size_t i = 0; i < tokens.count; i++)
            count += llama_decode(tokenizer, tokens.ids[i], back + count, sizeof(back) - count);
        assert_int_equal(count, bytes);
        assert_memory_equal(back, text, bytes);
        llama_tokens_free(&tokens);
    }
    llama_tokenizer_destroy(tokenizer);
}

static void test_decoding_is_bounded(void **state)
{
    llama_tokenizer_t *tokenizer = tiny();
    char text[4] = "....";
    assert_int_equal(llama_decode(tokenizer, TINY_SPACE_THE, text, 2), 4);
    assert_memory_equal(text, " t..", 4);
    assert_int_equal(llama_decode(tokenizer, TINY_VOCABULARY, text, 4), 0);
    assert_int_equal(llama_decode(tokenizer, UINT32_MAX, text, 4), 0);
    llama_tokenizer_destroy(tokenizer);
}

static void test_a_turn_has_its_marks(void **state)
{
    llama_tokenizer_t *tokenizer = tiny();
    llama_tokens_t tokens = {0};
    static const uint32_t expected[] = {TINY_TURN_START, 'm', 'e', '\n', TINY_THE, TINY_TURN_END, '\n',
                                        TINY_TURN_START, 'u', '\n'};
    assert_int_equal(llama_encode_turn(tokenizer, "me", "the", 3, &tokens), LW_OK);
    assert_int_equal(llama_encode_turn(tokenizer, "u", NULL, 0, &tokens), LW_OK);
    assert_int_equal(tokens.count, LW_ARRAY_SIZE(expected));
    assert_memory_equal(tokens.ids, expected, sizeof(expected));
    assert_true(llama_is_end(tokenizer, TINY_TURN_END));
    assert_false(llama_is_end(tokenizer, TINY_TURN_START) || llama_is_end(tokenizer, UINT32_MAX));
    llama_tokens_free(&tokens);
    llama_tokenizer_destroy(tokenizer);
}

static void test_llama_bpe_takes_whole_words_before_merging(void **state)
{
    static const char *const tokens[] = {"a", "b", "c", "ab", "abc"}, *const merges[] = {"a b"};
    for (int whole = 0; whole < 2; whole++) {
        gguf_writer_t writer = {0};
        llama_tokenizer_t *tokenizer;
        gguf_add_text(&writer, "tokenizer.ggml.model", "gpt2");
        gguf_add_text(&writer, "tokenizer.ggml.pre", whole ? "llama-bpe" : "gpt-2");
        gguf_add_texts(&writer, "tokenizer.ggml.tokens", tokens, 5);
        gguf_add_texts(&writer, "tokenizer.ggml.merges", merges, 1);
        assert_int_equal(create(&writer, &tokenizer, NULL), LW_OK);
        if (whole)
            ENCODES(tokenizer, "abc", false, 4);
        else
            ENCODES(tokenizer, "abc", false, 3, 2); /* no merge makes "abc" */
        ENCODES(tokenizer, "abca", false, 3, 2, 0);
        llama_tokenizer_destroy(tokenizer);
    }
}

static void test_a_byte_without_a_token_becomes_unknown(void **state)
{
    static const char *const tokens[] = {"<unk>", "a"}, *const merges[] = {"a a"};
    static const int32_t types[] = {2, 1};
    gguf_writer_t writer = {0};
    llama_tokenizer_t *tokenizer;
    gguf_add_text(&writer, "tokenizer.ggml.model", "gpt2");
    gguf_add_texts(&writer, "tokenizer.ggml.tokens", tokens, 2);
    gguf_add_i32s(&writer, "tokenizer.ggml.token_type", types, 2);
    gguf_add_texts(&writer, "tokenizer.ggml.merges", merges, 0);
    gguf_add_u32(&writer, "tokenizer.ggml.unknown_token_id", 0);
    assert_int_equal(create(&writer, &tokenizer, NULL), LW_OK);
    ENCODES(tokenizer, "aba", false, 1, 0, 1);
    llama_tokenizer_destroy(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_tokenizers_are_refused_by_name),
        cmocka_unit_test(test_broken_vocabularies_are_refused_with_the_entry),
        cmocka_unit_test(test_known_texts_give_known_tokens),
        cmocka_unit_test(test_special_tokens_only_where_they_are_asked_for),
        cmocka_unit_test(test_any_bytes_come_back),
        cmocka_unit_test(test_decoding_is_bounded),
        cmocka_unit_test(test_a_turn_has_its_marks),
        cmocka_unit_test(test_llama_bpe_takes_whole_words_before_merging),
        cmocka_unit_test(test_a_byte_without_a_token_becomes_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
