#include "unit/proto/test_support.h"

#include <math.h>

#include "attend_plain.h"
#include "tiny_model.h"

enum {
    Q = TINY_QUERY_HEADS * TINY_HEAD_DIM,
    KV = TINY_KV_HEADS * TINY_HEAD_DIM,
    TOKENS = 150,
};

static llama_pool_t *pool;

/* ---- the model by its definition, in double precision; only Q, K and V are rounded to bf16 ---- */

static void product(const float *matrix, uint32_t rows, uint32_t columns, const double *in, double *out)
{
    for (uint32_t r = 0; r < rows; r++) {
        out[r] = 0;
        for (uint32_t c = 0; c < columns; c++)
            out[r] += (double)matrix[(size_t)r * columns + c] * in[c];
    }
}

static void norm(const double *x, const float *weight, double *out)
{
    double squares = 0;
    for (uint32_t i = 0; i < TINY_WIDTH; i++)
        squares += x[i] * x[i];
    for (uint32_t i = 0; i < TINY_WIDTH; i++)
        out[i] = x[i] / sqrt(squares / TINY_WIDTH + TINY_EPSILON) * weight[i];
}

static void rope(double *head, uint32_t position)
{
    for (uint32_t i = 0; i < TINY_HEAD_DIM / 2; i++) {
        double angle = position * pow(TINY_BASE, -2.0 * i / TINY_HEAD_DIM), a = head[2 * i],
               b = head[2 * i + 1];
        head[2 * i] = a * cos(angle) - b * sin(angle);
        head[2 * i + 1] = a * sin(angle) + b * cos(angle);
    }
}

static void round_rows(const double *in, uint32_t count, uint16_t *out)
{
    for (uint32_t i = 0; i < count; i++)
        out[i] = llama_float_to_bf16((float)in[i]);
}

static void plain_layer(const tiny_weights_t *weights, uint32_t layer, uint32_t tokens,
                        double (*x)[TINY_WIDTH])
{
    plain_t rows = {
        .shape = {.query_heads = TINY_QUERY_HEADS, .kv_heads = TINY_KV_HEADS, .head_dim = TINY_HEAD_DIM},
        .tokens = tokens,
        .query = malloc(tokens * Q * 2),
        .key = malloc(tokens * KV * 2),
        .value = malloc(tokens * KV * 2)};
    double normed[TINY_WIDTH], row[Q + KV], attended[Q], added[TINY_WIDTH], gate[TINY_FORWARD],
        up[TINY_FORWARD];
    for (uint32_t t = 0; t < tokens; t++) {
        norm(x[t], weights->layer[layer].attention_norm, normed);
        product(weights->layer[layer].q, Q, TINY_WIDTH, normed, row);
        product(weights->layer[layer].k, KV, TINY_WIDTH, normed, row + Q);
        for (uint32_t head = 0; head < TINY_QUERY_HEADS + TINY_KV_HEADS; head++)
            rope(row + head * TINY_HEAD_DIM, t);
        round_rows(row, Q, rows.query + t * Q);
        round_rows(row + Q, KV, rows.key + t * KV);
        product(weights->layer[layer].v, KV, TINY_WIDTH, normed, row);
        round_rows(row, KV, rows.value + t * KV);
    }
    for (uint32_t t = 0; t < tokens; t++) {
        for (uint32_t head = 0; head < TINY_QUERY_HEADS; head++)
            plain_attend(&rows, t, head, attended + head * TINY_HEAD_DIM);
        product(weights->layer[layer].attention_output, TINY_WIDTH, Q, attended, added);
        for (uint32_t i = 0; i < TINY_WIDTH; i++)
            x[t][i] += added[i];
        norm(x[t], weights->layer[layer].forward_norm, normed);
        product(weights->layer[layer].gate, TINY_FORWARD, TINY_WIDTH, normed, gate);
        product(weights->layer[layer].up, TINY_FORWARD, TINY_WIDTH, normed, up);
        for (uint32_t i = 0; i < TINY_FORWARD; i++)
            gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
        product(weights->layer[layer].down, TINY_WIDTH, TINY_FORWARD, gate, added);
        for (uint32_t i = 0; i < TINY_WIDTH; i++)
            x[t][i] += added[i];
    }
    plain_free(&rows);
}

/* logits [tokens][TINY_VOCABULARY] */
static void plain_forward(const tiny_weights_t *weights, const uint32_t *tokens, uint32_t count,
                          double *logits)
{
    double(*x)[TINY_WIDTH] = malloc(count * sizeof(*x)), normed[TINY_WIDTH];
    for (uint32_t t = 0; t < count; t++)
        for (uint32_t i = 0; i < TINY_WIDTH; i++)
            x[t][i] = weights->embedding[(size_t)tokens[t] * TINY_WIDTH + i];
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++)
        plain_layer(weights, layer, count, x);
    for (uint32_t t = 0; t < count; t++) {
        norm(x[t], weights->output_norm, normed);
        product(weights->output ? weights->output : weights->embedding, TINY_VOCABULARY, TINY_WIDTH, normed,
                logits + (size_t)t * TINY_VOCABULARY);
    }
    free(x);
}

/* ---- helpers ---------------------------------------------------------------- */

/* Runs the tokens in chunks of `chunk` and gives all logits. */
static float *run(const llama_model_t *model, const uint32_t *tokens, uint32_t count, uint32_t chunk)
{
    llama_runner_t *runner;
    llama_full_t *full;
    float *logits = malloc((size_t)count * TINY_VOCABULARY * sizeof(*logits));
    assert_int_equal(llama_runner_create(model, pool, chunk, 0, &runner), LW_OK);
    assert_int_equal(llama_full_create(llama_model_shape(model), count, pool, &full), LW_OK);
    llama_attention_t attention = llama_full_attention(full);
    for (uint32_t done = 0; done < count; done += chunk) {
        llama_chunk_t part = {tokens + done, chunk < count - done ? chunk : count - done, done, 0,
                              logits + (size_t)done * TINY_VOCABULARY};
        assert_int_equal(llama_forward(runner, &attention, &part), LW_OK);
    }
    llama_full_destroy(full);
    llama_runner_destroy(runner);
    return logits;
}

static void random_tokens(lw_prng_t *prng, uint32_t *tokens, uint32_t count)
{
    for (uint32_t t = 0; t < count; t++)
        tokens[t] = (uint32_t)lw_prng_below(prng, TINY_VOCABULARY);
}

static double largest_difference(const float *a, const float *b, size_t count)
{
    double largest = 0;
    for (size_t i = 0; i < count; i++)
        largest = fmax(largest, fabs((double)a[i] - b[i]));
    return largest;
}

/* ---- claims ------------------------------------------------------------------ */

static void test_wrong_chunks_are_refused(void **state)
{
    llama_model_t *model = tiny_open(&(tiny_options_t){.seed = 1}, pool, NULL);
    llama_runner_t *runner;
    llama_full_t *full;
    uint32_t tokens[20] = {0}, outside[2] = {0, TINY_VOCABULARY};
    assert_int_equal(llama_runner_create(model, pool, LLAMA_CHUNK_MAX + 1, 0, &runner), LW_ERR_INVALID);
    assert_int_equal(llama_runner_create(model, pool, 16, 100, &runner), LW_OK);
    assert_int_equal(llama_full_create(llama_model_shape(model), 100, pool, &full), LW_OK);
    llama_attention_t attention = llama_full_attention(full);
    const llama_chunk_t wrong[] = {
        {tokens, 0, 0, 0, NULL},   {tokens, 17, 0, 0, NULL},         {tokens, 2, 99, 0, NULL},
        {tokens, 2, 101, 0, NULL}, {tokens, 2, UINT32_MAX, 0, NULL}, {tokens, 2, 0, 3, NULL},
        {outside, 2, 0, 2, NULL},  {tokens, 2, 5, 2, NULL}, /* the last: the cache holds nothing at 0..4 */
    };
    for (size_t i = 0; i < LW_ARRAY_SIZE(wrong); i++)
        assert_int_equal(llama_forward(runner, &attention, &wrong[i]), LW_ERR_INVALID);
    assert_int_equal(llama_full_tokens(full), 0);
    llama_full_destroy(full);
    llama_runner_destroy(runner);
    llama_model_close(model);
}

static lw_status_t failing_attend(void *self, uint32_t layer, uint32_t first_position, uint32_t tokens,
                                  const uint16_t *query, const uint16_t *key, const uint16_t *value,
                                  float *out)
{
    ++*(unsigned *)self;
    memset(out, 0, tokens * Q * sizeof(*out));
    return layer == 1 ? LW_ERR_UNREACHABLE : LW_OK;
}

static void test_a_failing_attention_ends_the_pass_with_its_status(void **state)
{
    llama_model_t *model = tiny_open(&(tiny_options_t){.seed = 1}, pool, NULL);
    llama_runner_t *runner;
    unsigned calls = 0;
    uint32_t token = 3;
    float logits[TINY_VOCABULARY] = {[0] = 77};
    llama_attention_t attention = {failing_attend, &calls};
    assert_int_equal(llama_runner_create(model, pool, 4, 16, &runner), LW_OK);
    llama_chunk_t chunk = {&token, 1, 0, 0, logits};
    assert_int_equal(llama_forward(runner, &attention, &chunk), LW_ERR_UNREACHABLE);
    assert_int_equal(calls, 2);
    assert_true(logits[0] == 77);
    llama_runner_destroy(runner);
    llama_model_close(model);
}

static void test_logits_equal_double_precision(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    for (int untied = 0; untied < 2; untied++) {
        tiny_weights_t weights;
        uint32_t tokens[TOKENS];
        random_tokens(&prng, tokens, TOKENS);
        llama_model_t *model =
            tiny_open(&(tiny_options_t){.seed = lw_prng_u64(&prng), .untied = untied}, pool, &weights);
        float *logits = run(model, tokens, TOKENS, 64);
        double *expected = malloc(TOKENS * TINY_VOCABULARY * sizeof(*expected)), largest = 0, spread = 0;
        plain_forward(&weights, tokens, TOKENS, expected);
        for (size_t i = 0; i < TOKENS * TINY_VOCABULARY; i++) {
            largest = fmax(largest, fabs(expected[i] - logits[i]));
            spread = fmax(spread, fabs(expected[i]));
        }
        /* A value that falls on the other side of a bf16 boundary is the largest difference that may show. */
        if (!(largest < 5e-3 * spread))
            fail_msg("largest difference %g at logits up to %g", largest, spread);
        free(expected);
        free(logits);
        tiny_weights_free(&weights);
        llama_model_close(model);
    }
}

static void test_chunked_prefill_equals_token_by_token(void **state)
{
    static const uint32_t chunks[] = {1, 7, 64, 100};
    lw_prng_t prng = test_prng(__func__);
    uint32_t tokens[TOKENS];
    random_tokens(&prng, tokens, TOKENS);
    llama_model_t *model = tiny_open(&(tiny_options_t){.seed = lw_prng_u64(&prng)}, pool, NULL);
    float *whole = run(model, tokens, TOKENS, TOKENS);
    for (size_t i = 0; i < LW_ARRAY_SIZE(chunks); i++) {
        float *parts = run(model, tokens, TOKENS, chunks[i]);
        double largest = largest_difference(whole, parts, TOKENS * TINY_VOCABULARY);
        if (!(largest < 0.05))
            fail_msg("chunks of %u: largest difference %g", chunks[i], largest);
        free(parts);
    }
    free(whole);
    llama_model_close(model);
}

static void test_a_quantised_file_gives_the_logits_of_its_fp32_twin(void **state)
{
    static const uint32_t types[] = {1, 2, 3, 8, 30}; /* F16, Q4_0, Q4_1, Q8_0, BF16 */
    lw_prng_t prng = test_prng(__func__);
    uint32_t tokens[20];
    random_tokens(&prng, tokens, 20);
    for (size_t i = 0; i < LW_ARRAY_SIZE(types); i++) {
        tiny_options_t options = {.seed = lw_prng_u64(&prng), .matrix_type = types[i]};
        llama_model_t *model = tiny_open(&options, pool, NULL);
        options.as_f32 = true;
        llama_model_t *twin = tiny_open(&options, pool, NULL);
        float *a = run(model, tokens, 20, 20), *b = run(twin, tokens, 20, 20);
        assert_memory_equal(a, b, 20 * TINY_VOCABULARY * sizeof(*a));
        free(a);
        free(b);
        llama_model_close(model);
        llama_model_close(twin);
    }
}

static void count_progress(void *arg, uint32_t done, uint32_t total)
{
    uint32_t *last = arg;
    assert_true(done > *last && done <= total && total == TOKENS);
    *last = done;
}

static void test_prefill_gives_the_last_tokens_logits(void **state)
{
    lw_prng_t prng = test_prng(__func__);
    uint32_t tokens[TOKENS], last = 0;
    random_tokens(&prng, tokens, TOKENS);
    llama_model_t *model = tiny_open(&(tiny_options_t){.seed = lw_prng_u64(&prng)}, pool, NULL);
    float *all = run(model, tokens, TOKENS, 64), logits[TINY_VOCABULARY];
    llama_runner_t *runner;
    llama_full_t *full;
    assert_int_equal(llama_runner_create(model, pool, 64, 0, &runner), LW_OK);
    assert_int_equal(llama_full_create(llama_model_shape(model), TOKENS, pool, &full), LW_OK);
    llama_attention_t attention = llama_full_attention(full);
    assert_int_equal(llama_prefill(runner, &attention, tokens, TOKENS, 0, logits, count_progress, &last),
                     LW_OK);
    assert_int_equal(last, TOKENS);
    double largest = largest_difference(all + (TOKENS - 1) * TINY_VOCABULARY, logits, TINY_VOCABULARY);
    assert_true(largest < 1e-3);
    llama_full_destroy(full);
    llama_runner_destroy(runner);
    free(all);
    llama_model_close(model);
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
        cmocka_unit_test(test_wrong_chunks_are_refused),
        cmocka_unit_test(test_a_failing_attention_ends_the_pass_with_its_status),
        cmocka_unit_test(test_logits_equal_double_precision),
        cmocka_unit_test(test_chunked_prefill_equals_token_by_token),
        cmocka_unit_test(test_a_quantised_file_gives_the_logits_of_its_fp32_twin),
        cmocka_unit_test(test_prefill_gives_the_last_tokens_logits),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
