/* fuzz_tokenizer.c - any bytes as text: they come back from their tokens, and the two ways to read special
 * tokens differ only where the text spells one. The vocabulary has all 256 bytes. */
#include <string.h>

#include "client/examples/llama/tokenizer.h"
#include "fuzz.h"
#include "unit/client/llama/tiny_model.h"

static const llama_tokenizer_t *tokenizer(void)
{
    static llama_tokenizer_t *made; /* immutable: no input leaves anything behind */
    if (!made) {
        gguf_writer_t writer = {0};
        llama_gguf_t *gguf;
        size_t bytes;
        tiny_tokenizer(&writer, &(tiny_options_t){0});
        uint8_t *file = gguf_finish(&writer, &bytes);
        FUZZ_REQUIRE(llama_gguf_parse(file, bytes, &gguf, NULL) == LW_OK);
        FUZZ_REQUIRE(llama_tokenizer_create(gguf, &made, NULL) == LW_OK);
        llama_gguf_close(gguf);
        free(file);
    }
    return made;
}

static void round_trip(const char *text, size_t bytes, bool special)
{
    llama_tokens_t tokens = {0};
    char spelled[64];
    size_t at = 0;
    FUZZ_REQUIRE(llama_encode(tokenizer(), text, bytes, special, &tokens) == LW_OK);
    FUZZ_REQUIRE(tokens.count <= bytes);
    for (size_t i = 0; i < tokens.count; i++) {
        size_t count = llama_decode(tokenizer(), tokens.ids[i], spelled, sizeof(spelled));
        FUZZ_REQUIRE(count > 0 && count <= bytes - at && memcmp(spelled, text + at, count) == 0);
        FUZZ_REQUIRE(special || (tokens.ids[i] != TINY_TURN_START && tokens.ids[i] != TINY_TURN_END));
        at += count;
    }
    FUZZ_REQUIRE(at == bytes);
    llama_tokens_free(&tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count)
{
    fuzz_guard_t text = fuzz_guard_copy(bytes, byte_count, 1);
    round_trip((const char *)text.bytes, byte_count, false);
    round_trip((const char *)text.bytes, byte_count, true);
    fuzz_guard_free(&text);
    return 0;
}
