#include "unit/proto/test_support.h"

#include "client/examples/llama/tokenizer.h"

/* Pieces joined by '|'. */
static void splits(llama_pre_t pre, const char *text, const char *expected)
{
    char joined[256];
    size_t count = 0, bytes = strlen(text);
    for (size_t at = 0; at < bytes;) {
        size_t piece = llama_pre_next(pre, text + at, bytes - at);
        if (at)
            joined[count++] = '|';
        memcpy(joined + count, text + at, piece);
        count += piece;
        at += piece;
    }
    joined[count] = 0;
    assert_string_equal(joined, expected);
}

static void test_gpt2_splits_as_its_expression_says(void **state)
{
    splits(LLAMA_PRE_GPT2, "Hello world", "Hello| world");
    splits(LLAMA_PRE_GPT2, "it's we'll I'd 'x", "it|'s| we|'ll| I|'d| '|x");
    splits(LLAMA_PRE_GPT2, "a  b", "a| | b");
    splits(LLAMA_PRE_GPT2, "a   ", "a|   ");
    splits(LLAMA_PRE_GPT2, "a\n\n b", "a|\n\n| b");
    splits(LLAMA_PRE_GPT2, "a\tb", "a|\t|b");
    splits(LLAMA_PRE_GPT2, "x 123abc", "x| 123|abc");
    splits(LLAMA_PRE_GPT2, "f(x)!= 2", "f|(|x|)!=| 2");
    splits(LLAMA_PRE_GPT2, " ", " ");
}

static void test_smollm_cuts_digits_out_first(void **state)
{
    splits(LLAMA_PRE_SMOLLM, "in 1984.", "in| |1|9|8|4|.");
    splits(LLAMA_PRE_SMOLLM, "a  5", "a|  |5");
    splits(LLAMA_PRE_SMOLLM, "a  b", "a| | b");
    splits(LLAMA_PRE_SMOLLM, "x2y", "x|2|y");
    splits(LLAMA_PRE_SMOLLM, "(3)", "(|3|)");
    splits(LLAMA_PRE_SMOLLM, "\n 7 up", "\n |7| up");
}

static void test_llama_bpe_splits_as_its_expression_says(void **state)
{
    splits(LLAMA_PRE_LLAMA_BPE, "It'S we'LL", "It|'S| we|'LL");
    splits(LLAMA_PRE_LLAMA_BPE, "in 12345.", "in| |123|45|.");
    splits(LLAMA_PRE_LLAMA_BPE, "(word) !word", "(word|)| !|word");
    splits(LLAMA_PRE_LLAMA_BPE, "x;\n\ny", "x|;\n\n|y");
    splits(LLAMA_PRE_LLAMA_BPE, "a \n \n  b", "a| \n \n| | b");
    splits(LLAMA_PRE_LLAMA_BPE, "\tend  ", "\tend|  ");
    splits(LLAMA_PRE_LLAMA_BPE, "a  5", "a| | |5");
    splits(LLAMA_PRE_LLAMA_BPE, "\nword", "\n|word");
}

static void test_pieces_cover_any_bytes(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    static const char likely[] = "ab 12\n\t'.\xc3\xa9\xe2\x80\x83\xff";
    for (int round = 0; round < 3000; round++) {
        char text[40];
        size_t bytes = 1 + lw_prng_below(&prng, sizeof(text)), at = 0;
        for (size_t i = 0; i < bytes; i++)
            text[i] = likely[lw_prng_below(&prng, sizeof(likely) - 1)];
        while (at < bytes) {
            size_t piece = llama_pre_next((llama_pre_t)(round % 3), text + at, bytes - at);
            assert_true(piece >= 1 && piece <= bytes - at);
            at += piece;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2_splits_as_its_expression_says),
        cmocka_unit_test(test_smollm_cuts_digits_out_first),
        cmocka_unit_test(test_llama_bpe_splits_as_its_expression_says),
        cmocka_unit_test(test_pieces_cover_any_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
