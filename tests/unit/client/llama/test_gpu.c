/* test_gpu.c - the forward pass on a GPU against the one on the CPU: the same tiny random model, the same
 * tokens. Over the emulator where the library that LW_LLAMA_CUDA_LIBRARY names is that one. */
#include "unit/proto/test_support.h"

#include <math.h>
#include <time.h>

#include "client/examples/llama/gpu.h"
#include "tiny_model.h"

/* TOKENS: several slices of the context for attention; READ: as many go through the GPU token by token. */
enum { TOKENS = 600, READ = 70, CHUNK = 32, DECODE = 12 };

typedef struct {
    llama_pool_t *pool;
    llama_model_t *model;
    llama_runner_t *runner;
    llama_full_t *full;
    uint32_t tokens[TOKENS];
    float expected[TOKENS][TINY_VOCABULARY];
} world_t;

static const llama_gpu_api_t *api;
static world_t world;

static int set_up(void **state)
{
    lw_error_t error = {0};
    uint64_t seed = (uint64_t)time(NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    tiny_options_t options = {.seed = seed};
    assert_int_equal(llama_pool_create(2, &world.pool, &error), LW_OK);
    world.model = tiny_open(&options, world.pool, NULL);
    assert_int_equal(llama_runner_create(world.model, world.pool, TOKENS, TOKENS + DECODE, &world.runner),
                     LW_OK);
    assert_int_equal(
        llama_full_create(llama_model_shape(world.model), TOKENS + DECODE, world.pool, &world.full), LW_OK);
    for (uint32_t i = 0; i < TOKENS; i++)
        world.tokens[i] = (uint32_t)((seed >> (i % 7)) * 31 + i * i) % 256;
    llama_attention_t attention = llama_full_attention(world.full);
    llama_chunk_t chunk = {world.tokens, TOKENS, 0, 0, &world.expected[0][0]};
    assert_int_equal(llama_forward(world.runner, &attention, &chunk), LW_OK);
    return 0;
}

static int tear_down(void **state)
{
    llama_full_destroy(world.full);
    llama_runner_destroy(world.runner);
    llama_model_close(world.model);
    llama_pool_destroy(world.pool);
    return 0;
}

static llama_gpu_t *create(llama_gpu_precision_t precision, uint32_t rows)
{
    lw_error_t error = {0};
    llama_gpu_t *gpu = NULL;
    llama_gpu_params_t params = {
        .model = world.model, .precision = precision, .rows_max = rows, .positions_max = TOKENS + DECODE};
    if (api->create(&params, &gpu, &error) != LW_OK)
        fail_msg("%s", error.text);
    return gpu;
}

static llama_gpu_full_t *create_full(llama_gpu_t *gpu, uint32_t sequences, bool chunk)
{
    lw_error_t error = {0};
    llama_gpu_full_t *full = NULL;
    llama_gpu_full_params_t params = {.sequences = sequences, .capacity = TOKENS + DECODE, .chunk = chunk};
    if (api->full_create(gpu, &params, &full, &error) != LW_OK)
        fail_msg("%s", error.text);
    return full;
}

/* The first tokens of the text as chunks of one sequence; mean KL against the CPU. */
static double read_text(llama_gpu_t *gpu, const llama_gpu_attention_t *attention, uint32_t *agree_out)
{
    double kl = 0;
    uint32_t position[CHUNK];
    float logits[TINY_VOCABULARY];
    *agree_out = 0;
    for (uint32_t first = 0; first < READ; first += CHUNK) {
        uint32_t count = READ - first < CHUNK ? READ - first : CHUNK;
        for (uint32_t i = 0; i < count; i++)
            position[i] = first + i;
        llama_gpu_pass_t pass = {.rows = count, .project = true};
        assert_int_equal(api->set_rows(gpu, world.tokens + first, position, count), LW_OK);
        assert_int_equal(api->forward(gpu, attention, &pass), LW_OK);
        for (uint32_t i = 0; i < count; i++) {
            assert_int_equal(api->logits(gpu, i, logits), LW_OK);
            kl += llama_kl(world.expected[first + i], logits, TINY_VOCABULARY) / READ;
            *agree_out += llama_greedy(world.expected[first + i], TINY_VOCABULARY) ==
                          llama_greedy(logits, TINY_VOCABULARY);
        }
    }
    return kl;
}

static void check_precision(llama_gpu_precision_t precision, double kl_max, uint32_t agree_min)
{
    uint32_t agree;
    llama_gpu_t *gpu = create(precision, CHUNK);
    llama_gpu_full_t *full = create_full(gpu, 1, true);
    llama_gpu_attention_t attention = api->full_attention(full);
    double kl = read_text(gpu, &attention, &agree);
    printf("mean KL %.2e, %u of %d best tokens equal\n", kl, agree, READ);
    assert_true(kl < kl_max);
    assert_true(agree >= agree_min);
    api->full_destroy(full);
    api->destroy(gpu);
}

static void test_fp32_weights_give_the_cpus_logits(void **state)
{
    check_precision(LLAMA_GPU_F32, 1e-4, READ - 2);
}

static void test_bf16_weights_come_close(void **state)
{
    check_precision(LLAMA_GPU_BF16, 1e-2, READ * 8 / 10);
}

/* The CPU's greedy continuation. */
static void continue_on_cpu(uint32_t *tokens_out)
{
    float logits[TINY_VOCABULARY];
    llama_attention_t attention = llama_full_attention(world.full);
    assert_int_equal(llama_full_truncate(world.full, TOKENS), LW_OK);
    memcpy(logits, world.expected[TOKENS - 1], sizeof(logits));
    for (uint32_t i = 0; i < DECODE; i++) {
        tokens_out[i] = llama_greedy(logits, TINY_VOCABULARY);
        llama_chunk_t chunk = {&tokens_out[i], 1, TOKENS + i, 0, logits};
        assert_int_equal(llama_forward(world.runner, &attention, &chunk), LW_OK);
    }
}

/* Two sequences hold the same text; one graph of a decode step is replayed, and both say what the CPU says.
 */
static void test_a_captured_step_decodes_what_the_cpu_decodes(void **state)
{
    uint32_t expected[DECODE], tokens[2], positions[2];
    llama_gpu_t *gpu = create(LLAMA_GPU_F32, 2);
    llama_gpu_full_t *full = create_full(gpu, 2, false);
    llama_gpu_attention_t attention = api->full_attention(full);
    const llama_shape_t *shape = llama_model_shape(world.model);
    uint32_t d = shape->head_dim, heads = shape->kv_heads;
    continue_on_cpu(expected);
    uint16_t key[TOKENS * TINY_KV_HEADS * TINY_HEAD_DIM], value[TOKENS * TINY_KV_HEADS * TINY_HEAD_DIM];
    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        for (uint32_t t = 0; t < TOKENS - 1; t++)
            for (uint32_t h = 0; h < heads; h++) {
                memcpy(key + (t * heads + h) * d, llama_full_keys(world.full, layer, h) + t * d, d * 2);
                memcpy(value + (t * heads + h) * d, llama_full_values(world.full, layer, h) + t * d, d * 2);
            }
        for (uint32_t s = 0; s < 2; s++)
            assert_int_equal(api->full_load(full, layer, s, 0, TOKENS - 1, key, value), LW_OK);
    }
    tokens[0] = tokens[1] = world.tokens[TOKENS - 1];
    positions[0] = positions[1] = TOKENS - 1;
    assert_int_equal(api->set_rows(gpu, tokens, positions, 2), LW_OK);
    llama_gpu_pass_t pass = {.rows = 2, .project = true, .advance = true};
    llama_gpu_graph_t *graph = NULL;
    assert_int_equal(api->capture_begin(gpu), LW_OK);
    assert_int_equal(api->forward(gpu, &attention, &pass), LW_OK);
    assert_int_equal(api->capture_end(gpu, &graph), LW_OK);
    for (uint32_t i = 0; i < DECODE; i++) {
        assert_int_equal(api->launch(gpu, graph), LW_OK);
        assert_int_equal(api->rows(gpu, 2, tokens, positions), LW_OK);
        assert_int_equal(tokens[0], expected[i]);
        assert_int_equal(tokens[1], expected[i]);
        assert_int_equal(positions[1], TOKENS + i);
    }
    api->graph_destroy(graph);
    api->full_destroy(full);
    api->destroy(gpu);
}

static void test_rows_outside_the_model_are_refused(void **state)
{
    llama_gpu_t *gpu = create(LLAMA_GPU_BF16, 2);
    uint32_t token = TINY_VOCABULARY, zero = 0, far = TOKENS + DECODE;
    llama_gpu_pass_t pass = {.rows = 3};
    llama_gpu_full_t *full = create_full(gpu, 1, true);
    llama_gpu_attention_t attention = api->full_attention(full);
    assert_int_equal(api->set_rows(gpu, &token, &zero, 1), LW_ERR_INVALID);
    assert_int_equal(api->set_rows(gpu, &zero, &far, 1), LW_ERR_INVALID);
    assert_int_equal(api->set_rows(gpu, &zero, &zero, 0), LW_ERR_INVALID);
    assert_int_equal(api->forward(gpu, &attention, &pass), LW_ERR_INVALID);
    api->full_destroy(full);
    api->destroy(gpu);
}

static void test_random_weights_give_finite_logits(void **state)
{
    lw_error_t error = {0};
    llama_gpu_t *gpu = NULL;
    llama_gpu_params_t params = {
        .shape = *llama_model_shape(world.model), .seed = 7, .rows_max = 1, .positions_max = 40};
    assert_int_equal(api->create(&params, &gpu, &error), LW_OK);
    llama_gpu_full_params_t full_params = {.sequences = 1, .capacity = 40, .layers = 1};
    llama_gpu_full_t *full = NULL;
    assert_int_equal(api->full_create(gpu, &full_params, &full, &error), LW_OK);
    assert_int_equal(api->full_fill(full, 3), LW_OK);
    llama_gpu_attention_t attention = api->full_attention(full);
    uint32_t token = 5, position = 30;
    llama_gpu_pass_t pass = {.rows = 1, .project = true};
    float logits[TINY_VOCABULARY], least = INFINITY, most = -INFINITY;
    assert_int_equal(api->set_rows(gpu, &token, &position, 1), LW_OK);
    assert_int_equal(api->forward(gpu, &attention, &pass), LW_OK);
    assert_int_equal(api->logits(gpu, 0, logits), LW_OK);
    for (uint32_t i = 0; i < TINY_VOCABULARY; i++) {
        assert_true(isfinite(logits[i]));
        least = fminf(least, logits[i]);
        most = fmaxf(most, logits[i]);
    }
    assert_true(most - least > 0.5f && most - least < 100);
    api->full_destroy(full);
    api->destroy(gpu);
}

int main(void)
{
    lw_error_t error = {0};
    api = llama_gpu_find(&error);
    if (!api) {
        printf("skipped: %s\n", error.text);
        return 77;
    }
    llama_gpu_t *gpu = NULL;
    llama_gpu_params_t params = {.shape = {.layers = 1,
                                           .query_heads = 1,
                                           .kv_heads = 1,
                                           .head_dim = 16,
                                           .embedding = 16,
                                           .feed_forward = 16,
                                           .vocabulary = 16,
                                           .rope_dim = 16,
                                           .rope_base = 100,
                                           .rope_scale = 1},
                                 .rows_max = 1,
                                 .positions_max = 1};
    if (api->create(&params, &gpu, &error) != LW_OK) {
        printf("skipped: %s\n", error.text);
        return 77;
    }
    api->destroy(gpu);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_outside_the_model_are_refused),
        cmocka_unit_test(test_fp32_weights_give_the_cpus_logits),
        cmocka_unit_test(test_bf16_weights_come_close),
        cmocka_unit_test(test_a_captured_step_decodes_what_the_cpu_decodes),
        cmocka_unit_test(test_random_weights_give_finite_logits),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
