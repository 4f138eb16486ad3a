/* forward.c - the forward pass of one chunk: embedding, then per layer
 *
 *   x += W_o attend(rope(W_qkv rms(x)))        x += W_down (silu(W_gate rms(x)) * W_up rms(x))
 *
 * and the output projection for the tokens whose logits are wanted. GGUF files of this architecture hold Q
 * and K with the two halves of a head interleaved, so RoPE turns neighbouring pairs. */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"
#include "client/examples/llama/lanes.h"
#include "client/examples/llama/llama_private.h"
#include "client/examples/llama/pool.h"

#define CHUNK_DEFAULT 256u
#define ROW_ALIGN 16u /* rows of a slice of a product */

struct llama_runner {
    const llama_model_t *model;
    llama_pool_t *pool;
    const llama_lanes_t *lanes;
    uint32_t chunk_max, positions_max;
    float *rope;                   /* [positions_max][rope_dim / 2][2]: cosine, sine */
    float *x, *normed;             /* [chunk_max][embedding] */
    float *qkv;                    /* [chunk_max][(query_heads + 2 kv_heads) head_dim] */
    float *attended;               /* [chunk_max][query_heads head_dim] */
    float *gate_up, *hidden;       /* [chunk_max][2 feed_forward], [chunk_max][feed_forward] */
    uint16_t *query, *key, *value; /* bf16, packed */
};

/* ---- products ---------------------------------------------------------- */

/* out[t][row] = in[t] . matrix[row]; the pool shares the rows. */
typedef struct product {
    const float *matrix, *in;
    float *out;
    uint32_t tokens, rows, columns, slices;
} product_t;

static void product_task(void *arg, uint32_t task, uint32_t worker)
{
    const product_t *p = arg;
    uint32_t per_slice = (uint32_t)lw_align_up(lw_div_up(p->rows, p->slices), ROW_ALIGN);
    uint32_t first = task * per_slice;
    if (first >= p->rows)
        return;
    uint32_t rows = p->rows - first < per_slice ? p->rows - first : per_slice;
    const float *matrix = p->matrix + (size_t)first * p->columns;
    int n = (int)rows, k = (int)p->columns;
    if (p->tokens == 1)
        cblas_sgemv(CblasRowMajor, CblasNoTrans, n, k, 1.0f, matrix, k, p->in, 1, 0.0f, p->out + first, 1);
    else
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)p->tokens, n, k, 1.0f, p->in, k, matrix, k,
                    0.0f, p->out + first, (int)p->rows);
}

static void multiply(const llama_runner_t *runner, const float *matrix, uint32_t rows, uint32_t columns,
                     const float *in, uint32_t tokens, float *out)
{
    product_t product = {matrix, in, out, tokens, rows, columns, llama_pool_threads(runner->pool)};
    llama_pool_run(runner->pool, product_task, &product, product.slices);
}

/* ---- the steps between products ------------------------------------------ */

/* A step over tokens, shared by the pool in slices. */
typedef struct step {
    llama_runner_t *runner;
    const llama_layer_t *layer;
    uint32_t first_position, tokens, slices;
    void (*token)(const struct step *step, uint32_t token);
} step_t;

static void step_task(void *arg, uint32_t task, uint32_t worker)
{
    const step_t *step = arg;
    uint32_t end = (uint32_t)((uint64_t)step->tokens * (task + 1) / step->slices);
    for (uint32_t t = (uint32_t)((uint64_t)step->tokens * task / step->slices); t < end; t++)
        step->token(step, t);
}

static void run_step(step_t *step, void (*token)(const step_t *, uint32_t))
{
    uint32_t threads = llama_pool_threads(step->runner->pool);
    step->token = token;
    step->slices = step->tokens < threads ? 1 : threads;
    llama_pool_run(step->runner->pool, step_task, step, step->slices);
}

static void rotate(const llama_runner_t *runner, uint32_t position, float *head)
{
    uint32_t pairs = runner->model->shape.rope_dim / 2;
    const float *turn = runner->rope + (size_t)position * pairs * 2;
    for (uint32_t i = 0; i < pairs; i++) {
        float a = head[2 * i], b = head[2 * i + 1], cosine = turn[2 * i], sine = turn[2 * i + 1];
        head[2 * i] = a * cosine - b * sine;
        head[2 * i + 1] = a * sine + b * cosine;
    }
}

static void rotate_and_round(const step_t *step, uint32_t t)
{
    llama_runner_t *runner = step->runner;
    const llama_shape_t *shape = &runner->model->shape;
    uint32_t d = shape->head_dim, q = shape->query_heads * d, kv = shape->kv_heads * d;
    float *row = runner->qkv + (size_t)t * (q + 2 * kv);
    for (uint32_t head = 0; head < shape->query_heads + shape->kv_heads; head++)
        rotate(runner, step->first_position + t, row + (size_t)head * d);
    runner->lanes->narrow(row, q, runner->query + (size_t)t * q);
    runner->lanes->narrow(row + q, kv, runner->key + (size_t)t * kv);
    runner->lanes->narrow(row + q + kv, kv, runner->value + (size_t)t * kv);
}

static void norm_for_attention(const step_t *step, uint32_t t)
{
    llama_runner_t *runner = step->runner;
    const llama_shape_t *shape = &runner->model->shape;
    runner->lanes->rms_norm(runner->x + (size_t)t * shape->embedding, step->layer->attention_norm,
                            shape->embedding, shape->rms_epsilon,
                            runner->normed + (size_t)t * shape->embedding);
}

/* Adds what attention gave to x, then normalises it for the feed-forward part. `normed` holds the product. */
static void add_and_norm(const step_t *step, uint32_t t)
{
    llama_runner_t *runner = step->runner;
    const llama_shape_t *shape = &runner->model->shape;
    float *x = runner->x + (size_t)t * shape->embedding,
          *normed = runner->normed + (size_t)t * shape->embedding;
    runner->lanes->add(x, normed, shape->embedding);
    runner->lanes->rms_norm(x, step->layer->feed_forward_norm, shape->embedding, shape->rms_epsilon, normed);
}

static void add_feed_forward(const step_t *step, uint32_t t)
{
    llama_runner_t *runner = step->runner;
    uint32_t width = runner->model->shape.embedding;
    runner->lanes->add(runner->x + (size_t)t * width, runner->normed + (size_t)t * width, width);
}

static void activate(const step_t *step, uint32_t t)
{
    llama_runner_t *runner = step->runner;
    uint32_t forward = runner->model->shape.feed_forward;
    const float *gate = runner->gate_up + (size_t)t * 2 * forward;
    runner->lanes->silu_mul(gate, gate + forward, forward, runner->hidden + (size_t)t * forward);
}

/* ---- the pass ---------------------------------------------------------- */

static lw_status_t run_layer(llama_runner_t *runner, const llama_attention_t *attention, uint32_t index,
                             uint32_t first_position, uint32_t tokens)
{
    const llama_shape_t *shape = &runner->model->shape;
    const llama_layer_t *layer = &runner->model->layer[index];
    uint32_t q = shape->query_heads * shape->head_dim, kv = shape->kv_heads * shape->head_dim;
    step_t step = {.runner = runner, .layer = layer, .first_position = first_position, .tokens = tokens};

    run_step(&step, norm_for_attention);
    multiply(runner, layer->qkv, q + 2 * kv, shape->embedding, runner->normed, tokens, runner->qkv);
    run_step(&step, rotate_and_round);
    lw_status_t status = attention->attend(attention->self, index, first_position, tokens, runner->query,
                                           runner->key, runner->value, runner->attended);
    if (status != LW_OK)
        return status;
    multiply(runner, layer->attention_output, shape->embedding, q, runner->attended, tokens, runner->normed);
    run_step(&step, add_and_norm);
    multiply(runner, layer->gate_up, 2 * shape->feed_forward, shape->embedding, runner->normed, tokens,
             runner->gate_up);
    run_step(&step, activate);
    multiply(runner, layer->down, shape->embedding, shape->feed_forward, runner->hidden, tokens,
             runner->normed);
    run_step(&step, add_feed_forward);
    return LW_OK;
}

static void project(llama_runner_t *runner, uint32_t first_token, uint32_t tokens, float *logits)
{
    const llama_model_t *model = runner->model;
    uint32_t width = model->shape.embedding;
    for (uint32_t t = first_token; t < tokens; t++)
        runner->lanes->rms_norm(runner->x + (size_t)t * width, model->output_norm, width,
                                model->shape.rms_epsilon, runner->normed + (size_t)(t - first_token) * width);
    multiply(runner, model->output, model->shape.vocabulary, width, runner->normed, tokens - first_token,
             logits);
}

static lw_status_t check_chunk(const llama_runner_t *runner, const llama_chunk_t *chunk)
{
    if (chunk->token_count == 0 || chunk->token_count > runner->chunk_max ||
        chunk->first_position > runner->positions_max ||
        chunk->token_count > runner->positions_max - chunk->first_position ||
        chunk->first_logit_token > chunk->token_count)
        return LW_ERR_INVALID;
    for (uint32_t t = 0; t < chunk->token_count; t++)
        if (chunk->tokens[t] >= runner->model->shape.vocabulary)
            return LW_ERR_INVALID;
    return LW_OK;
}

lw_status_t llama_forward(llama_runner_t *runner, const llama_attention_t *attention,
                          const llama_chunk_t *chunk)
{
    const llama_model_t *model = runner->model;
    uint32_t width = model->shape.embedding;
    lw_status_t status = check_chunk(runner, chunk);
    if (status != LW_OK)
        return status;
    for (uint32_t t = 0; t < chunk->token_count; t++)
        memcpy(runner->x + (size_t)t * width, model->token_embedding + (size_t)chunk->tokens[t] * width,
               width * sizeof(*runner->x));
    for (uint32_t layer = 0; layer < model->shape.layers; layer++) {
        status = run_layer(runner, attention, layer, chunk->first_position, chunk->token_count);
        if (status != LW_OK)
            return status;
    }
    if (chunk->logits && chunk->first_logit_token < chunk->token_count)
        project(runner, chunk->first_logit_token, chunk->token_count, chunk->logits);
    return LW_OK;
}

lw_status_t llama_prefill(llama_runner_t *runner, const llama_attention_t *attention, const uint32_t *tokens,
                          uint32_t token_count, uint32_t first_position, float *last_logits,
                          llama_progress_t progress, void *progress_arg)
{
    for (uint32_t done = 0; done < token_count;) {
        uint32_t count = token_count - done < runner->chunk_max ? token_count - done : runner->chunk_max;
        bool last = done + count == token_count;
        llama_chunk_t chunk = {.tokens = tokens + done,
                               .token_count = count,
                               .first_position = first_position + done,
                               .first_logit_token = last ? count - 1 : count,
                               .logits = last ? last_logits : NULL};
        lw_status_t status = llama_forward(runner, attention, &chunk);
        if (status != LW_OK)
            return status;
        done += count;
        if (progress)
            progress(progress_arg, done, token_count);
    }
    return LW_OK;
}

/* ---- the object -------------------------------------------------------- */

static void fill_rope(llama_runner_t *runner)
{
    const llama_shape_t *shape = &runner->model->shape;
    uint32_t pairs = shape->rope_dim / 2;
    for (uint32_t i = 0; i < pairs; i++) {
        double frequency = pow(shape->rope_base, -2.0 * i / shape->rope_dim) / shape->rope_scale;
        if (runner->model->rope_factors)
            frequency /= runner->model->rope_factors[i];
        for (uint32_t position = 0; position < runner->positions_max; position++) {
            float *turn = runner->rope + ((size_t)position * pairs + i) * 2;
            turn[0] = (float)cos(position * frequency);
            turn[1] = (float)sin(position * frequency);
        }
    }
}

static void *room(size_t rows, size_t columns, size_t bytes)
{
    return aligned_alloc(64, lw_align_up(rows * columns * bytes + 1, 64));
}

lw_status_t llama_runner_create(const llama_model_t *model, llama_pool_t *pool, uint32_t chunk_max,
                                uint32_t positions_max, llama_runner_t **runner_out)
{
    const llama_shape_t *shape = &model->shape;
    if (chunk_max > LLAMA_CHUNK_MAX)
        return LW_ERR_INVALID;
    llama_runner_t *runner = calloc(1, sizeof(*runner));
    if (!runner)
        return LW_ERR_NO_MEMORY;
    runner->model = model;
    runner->pool = pool;
    runner->lanes = llama_lanes();
    runner->chunk_max = chunk_max ? chunk_max : CHUNK_DEFAULT;
    runner->positions_max = positions_max ? positions_max : shape->context;
    size_t chunk = runner->chunk_max, q = shape->query_heads * shape->head_dim,
           kv = shape->kv_heads * shape->head_dim;
    runner->rope = room(runner->positions_max, shape->rope_dim, sizeof(float));
    runner->x = room(chunk, shape->embedding, sizeof(float));
    runner->normed = room(chunk, shape->embedding, sizeof(float));
    runner->qkv = room(chunk, q + 2 * kv, sizeof(float));
    runner->attended = room(chunk, q, sizeof(float));
    runner->gate_up = room(chunk, 2 * (size_t)shape->feed_forward, sizeof(float));
    runner->hidden = room(chunk, shape->feed_forward, sizeof(float));
    runner->query = room(chunk, q, sizeof(uint16_t));
    runner->key = room(chunk, kv, sizeof(uint16_t));
    runner->value = room(chunk, kv, sizeof(uint16_t));
    if (!runner->rope || !runner->x || !runner->normed || !runner->qkv || !runner->attended ||
        !runner->gate_up || !runner->hidden || !runner->query || !runner->key || !runner->value) {
        llama_runner_destroy(runner);
        return LW_ERR_NO_MEMORY;
    }
    fill_rope(runner);
    *runner_out = runner;
    return LW_OK;
}

void llama_runner_destroy(llama_runner_t *runner)
{
    if (!runner)
        return;
    free(runner->rope);
    free(runner->x);
    free(runner->normed);
    free(runner->qkv);
    free(runner->attended);
    free(runner->gate_up);
    free(runner->hidden);
    free(runner->query);
    free(runner->key);
    free(runner->value);
    free(runner);
}
