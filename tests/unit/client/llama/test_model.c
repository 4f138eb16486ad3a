#define _GNU_SOURCE
#include "unit/proto/test_support.h"

#include "client/examples/llama/gguf.h"
#include "client/examples/llama/llama_private.h"
#include "tiny_model.h"

static llama_pool_t *pool;

/* Opens a file of these bytes, which must be refused with the status and the words. Frees the bytes. */
static void refuses(uint8_t *file, size_t bytes, lw_status_t status, const char *words)
{
    llama_model_t *model;
    lw_error_t error = {0};
    const char *name = gguf_write_file(file, bytes);
    lw_status_t actual = llama_model_open(name, pool, &model, &error);
    unlink(name);
    free(file);
    if (actual != status || !strstr(error.text, words))
        fail_msg("status %d, \"%s\"; expected %d, \"%s\"", actual, error.text, status, words);
}

static void refuses_tiny(tiny_options_t options, lw_status_t status, const char *words)
{
    size_t bytes;
    uint8_t *file = tiny_model(&options, &bytes, NULL);
    refuses(file, bytes, status, words);
}

/* A tiny file with the u32 (or f32) value of one key replaced. */
static void refuses_value(const char *key, uint32_t value, lw_status_t status, const char *words)
{
    size_t bytes;
    uint8_t *file = tiny_model(&(tiny_options_t){.seed = 1}, &bytes, NULL);
    uint8_t *at = memmem(file, bytes, key, strlen(key));
    assert_non_null(at);
    memcpy(at + strlen(key) + 4, &value, sizeof(value));
    refuses(file, bytes, status, words);
}

static void test_what_is_not_a_llama_is_refused_by_name(void **state)
{
    refuses_tiny((tiny_options_t){.rename_architecture = "mamba"}, LW_ERR_UNSUPPORTED,
                 "general.architecture is mamba");
    refuses_tiny((tiny_options_t){.extra = "blk.0.attn_q.bias"}, LW_ERR_UNSUPPORTED,
                 "tensor blk.0.attn_q.bias");
    refuses_tiny((tiny_options_t){.rename_pre = "tekken"}, LW_ERR_UNSUPPORTED,
                 "tokenizer.ggml.pre is tekken");
    refuses_tiny((tiny_options_t){.skip = "blk.1.ffn_up.weight"}, LW_ERR_INVALID,
                 "no tensor blk.1.ffn_up.weight");
    refuses_tiny((tiny_options_t){.skip = "token_embd.weight"}, LW_ERR_INVALID,
                 "no tensor token_embd.weight");
}

static void test_shapes_that_cannot_be_are_refused_with_their_values(void **state)
{
    union {
        float value;
        uint32_t bits;
    } base = {0.5f};
    refuses_value("llama.block_count", 0, LW_ERR_INVALID, "llama.block_count is 0");
    refuses_value("llama.block_count", UINT32_MAX, LW_ERR_INVALID, "llama.block_count is 4294967295");
    refuses_value("llama.block_count", 3, LW_ERR_INVALID, "no tensor blk.2.attn_norm.weight");
    refuses_value("llama.block_count", 1, LW_ERR_UNSUPPORTED, "blk.1."); /* tensors that no layer uses */
    refuses_value("llama.context_length", 0, LW_ERR_INVALID, "llama.context_length is 0");
    refuses_value("llama.embedding_length", 128, LW_ERR_INVALID, "tensor token_embd.weight is 64 x");
    refuses_value("llama.feed_forward_length", 95, LW_ERR_INVALID,
                  "blk.0.ffn_gate.weight is 64 x 96, not 64 x 95");
    refuses_value("llama.attention.head_count", 3, LW_ERR_INVALID, "3 query heads on 2 KV heads");
    refuses_value("llama.attention.head_count", 32, LW_ERR_INVALID, "heads of 2 key");
    refuses_value("llama.attention.head_count_kv", 1, LW_ERR_INVALID,
                  "blk.0.attn_k.weight is 64 x 32, not 64 x 16");
    refuses_value("llama.rope.freq_base", base.bits, LW_ERR_INVALID, "rope of 16 dimensions, base 0.5");
    refuses_value("llama.attention.layer_norm_rms_epsilon", 0x7fc00000, LW_ERR_INVALID,
                  "layer_norm_rms_epsilon is");
}

static void test_weights_that_are_not_numbers_are_refused(void **state)
{
    size_t bytes;
    uint32_t nan = 0x7fc00000;
    uint8_t *file = tiny_model(&(tiny_options_t){.seed = 1}, &bytes, NULL);
    memcpy(file + bytes - 256, &nan, sizeof(nan));
    refuses(file, bytes, LW_ERR_INVALID, "tensor blk.1.ffn_down.weight holds infinities or NaNs");
}

static void test_weights_and_shape_are_the_files(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    static const uint32_t types[] = {LLAMA_TENSOR_F32, LLAMA_TENSOR_F16, LLAMA_TENSOR_Q8_0,
                                     LLAMA_TENSOR_Q4_1};
    for (size_t i = 0; i < LW_ARRAY_SIZE(types); i++) {
        tiny_weights_t weights;
        tiny_options_t options = {.seed = lw_prng_u64(&prng), .matrix_type = types[i], .untied = i & 1};
        llama_model_t *model = tiny_open(&options, pool, &weights);
        const llama_shape_t *shape = llama_model_shape(model);
        assert_int_equal(shape->vocabulary, TINY_VOCABULARY);
        assert_int_equal(shape->head_dim, TINY_HEAD_DIM);
        assert_int_equal(shape->rope_dim, TINY_HEAD_DIM);
        assert_string_equal(llama_model_name(model), "tiny");
        assert_memory_equal(model->token_embedding, weights.embedding,
                            TINY_VOCABULARY * TINY_WIDTH * sizeof(float));
        if (options.untied)
            assert_memory_equal(model->output, weights.output, TINY_VOCABULARY * TINY_WIDTH * sizeof(float));
        else
            assert_ptr_equal(model->output, model->token_embedding);
        for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
            uint32_t q = TINY_QUERY_HEADS * TINY_HEAD_DIM, kv = TINY_KV_HEADS * TINY_HEAD_DIM;
            const float *qkv = model->layer[layer].qkv, *gate_up = model->layer[layer].gate_up;
            size_t row = TINY_WIDTH * sizeof(float);
            assert_memory_equal(qkv, weights.layer[layer].q, q * row);
            assert_memory_equal(qkv + q * TINY_WIDTH, weights.layer[layer].k, kv * row);
            assert_memory_equal(qkv + (q + kv) * TINY_WIDTH, weights.layer[layer].v, kv * row);
            assert_memory_equal(gate_up + TINY_FORWARD * TINY_WIDTH, weights.layer[layer].up,
                                TINY_FORWARD * row);
            assert_memory_equal(model->layer[layer].down, weights.layer[layer].down, TINY_FORWARD * row);
        }
        tiny_weights_free(&weights);
        llama_model_close(model);
    }
}

static int set_up(void **state)
{
    return llama_pool_create(2, &pool, NULL);
}
static int tear_down(void **state)
{
    llama_pool_destroy(pool);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_not_a_llama_is_refused_by_name),
        cmocka_unit_test(test_shapes_that_cannot_be_are_refused_with_their_values),
        cmocka_unit_test(test_weights_that_are_not_numbers_are_refused),
        cmocka_unit_test(test_weights_and_shape_are_the_files),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
