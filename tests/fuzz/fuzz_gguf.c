/* fuzz_gguf.c - a GGUF file: the directory, then the vocabulary inside it. What parses lies inside the file.
 */
#include <string.h>

#include "client/examples/llama/dequantise.h"
#include "client/examples/llama/tokenizer.h"
#include "fuzz.h"

#define DEQUANTISED_MAX 4096u

static void walk_values(const llama_gguf_t *gguf, const fuzz_guard_t *file, size_t byte_count)
{
    static const char *const keys[] = {"general.architecture",
                                       "general.alignment",
                                       "tokenizer.ggml.tokens",
                                       "tokenizer.ggml.merges",
                                       "u32",
                                       "f32",
                                       "text",
                                       "texts",
                                       "bool",
                                       "i64"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(keys); i++) {
        const llama_gguf_value_t *value = llama_gguf_find(gguf, keys[i]);
        uint32_t number;
        float real;
        bool flag;
        llama_text_t text;
        lw_error_t error = {0};
        if (!value)
            continue;
        FUZZ_REQUIRE(value->data >= file->bytes && value->data_end <= file->bytes + byte_count);
        const uint8_t *cursor = value->data;
        uint64_t count = 0;
        while (llama_gguf_next_text(value, &cursor, &text)) {
            FUZZ_REQUIRE((const uint8_t *)text.bytes + text.count <= value->data_end);
            count++;
        }
        FUZZ_REQUIRE(value->element_type != LLAMA_GGUF_STRING || count == value->element_count);
        if (llama_gguf_u32(gguf, keys[i], &number, &error) == LW_ERR_INVALID)
            FUZZ_REQUIRE(strstr(error.text, keys[i]));
        if (llama_gguf_f32(gguf, keys[i], &real, NULL) == LW_OK)
            FUZZ_REQUIRE(real == real);
        (void)!llama_gguf_bool(gguf, keys[i], &flag, NULL);
    }
}

static void read_tensors(const llama_gguf_t *gguf, const fuzz_guard_t *file, size_t byte_count)
{
    float out[DEQUANTISED_MAX];
    for (size_t i = 0; i < llama_gguf_tensor_count(gguf); i++) {
        const llama_gguf_tensor_t *tensor = llama_gguf_tensor_at(gguf, i);
        FUZZ_REQUIRE(tensor->data >= file->bytes && tensor->byte_count <= byte_count);
        FUZZ_REQUIRE(tensor->data + tensor->byte_count <= file->bytes + byte_count);
        uint64_t count = tensor->value_count < DEQUANTISED_MAX ? tensor->value_count : DEQUANTISED_MAX;
        llama_dequantise(tensor, (tensor->value_count - count) / 32 * 32, count / 32 * 32, out);
    }
}

static void read_vocabulary(const llama_gguf_t *gguf)
{
    llama_tokenizer_t *tokenizer;
    llama_tokens_t tokens = {0};
    lw_error_t error = {0};
    lw_status_t status = llama_tokenizer_create(gguf, &tokenizer, &error);
    if (status != LW_OK) {
        FUZZ_REQUIRE(error.status == status && error.text[0]);
        return;
    }
    FUZZ_REQUIRE(llama_encode(tokenizer, "the <|im_end|> 12\n", 18, true, &tokens) == LW_OK);
    for (size_t i = 0; i < tokens.count; i++)
        FUZZ_REQUIRE(tokens.ids[i] < llama_tokenizer_count(tokenizer));
    llama_tokens_free(&tokens);
    llama_tokenizer_destroy(tokenizer);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count)
{
    fuzz_guard_t file = fuzz_guard_copy(bytes, byte_count, 1);
    llama_gguf_t *gguf;
    lw_error_t error = {0};
    lw_status_t status = llama_gguf_parse(file.bytes, byte_count, &gguf, &error);
    if (status == LW_OK) {
        walk_values(gguf, &file, byte_count);
        read_tensors(gguf, &file, byte_count);
        read_vocabulary(gguf);
        llama_gguf_close(gguf);
    } else {
        FUZZ_REQUIRE(status == LW_ERR_INVALID || status == LW_ERR_UNSUPPORTED);
        FUZZ_REQUIRE(error.status == status && strncmp(error.text, "gguf: ", 6) == 0);
    }
    fuzz_guard_free(&file);
    return 0;
}
