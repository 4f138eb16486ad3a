/* llama.h - runs a Llama-architecture GGUF on the CPU with attention as a pluggable call. The harness of
 * `longwave demo` and of throughput runs; not part of the client library.
 *
 * Objects: a pool (threads), a model (weights and tokenizer, immutable), a runner (activations of one
 * sequence at a time), an attention (who keeps K and V, and how it attends). The caller owns what it creates
 * and destroys users before what they use. One thread at a time calls a runner, an attention, or the pool
 * below them; two sides that run at the same time need a pool each. */
#ifndef LLAMA_H
#define LLAMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* ---- pool -------------------------------------------------------------- */

#define LLAMA_THREADS_MAX 64u

typedef struct llama_pool llama_pool_t;
/* threads: 1 to LLAMA_THREADS_MAX, the caller included; 0 takes one a core that this process may use. Idle
 * threads sleep. Sets OpenBLAS to one thread for the whole process: the pool is what splits the work. */
LW_CHECK lw_status_t llama_pool_create(uint32_t threads, llama_pool_t **pool_out, lw_error_t *error);
void llama_pool_destroy(llama_pool_t *pool);
uint32_t llama_pool_threads(const llama_pool_t *pool);

/* ---- model ------------------------------------------------------------- */

typedef struct llama_shape {
    uint32_t layers, query_heads, kv_heads, head_dim;
    uint32_t embedding, feed_forward, vocabulary;
    uint32_t context;  /* tokens the model was trained for */
    uint32_t rope_dim; /* leading dimensions of a head that are rotated */
    float rope_base, rope_scale, rms_epsilon;
} llama_shape_t;

typedef struct llama_model llama_model_t;
/* Maps the file, checks it, dequantises the weights to fp32 (4 bytes a parameter stay resident).
 * ERR_UNSUPPORTED names the architecture, tensor or tensor type that is refused; ERR_INVALID the field and
 * value that is wrong. */
LW_CHECK lw_status_t llama_model_open(const char *path, llama_pool_t *pool, llama_model_t **model_out,
                                      lw_error_t *error);
void llama_model_close(llama_model_t *model);
const llama_shape_t *llama_model_shape(const llama_model_t *model);
const char *llama_model_name(const llama_model_t *model); /* general.name, or "llama" */
uint64_t llama_model_parameters(const llama_model_t *model);

/* ---- tokenizer: tokenizer.h has the details ----------------------------- */

typedef struct llama_tokenizer llama_tokenizer_t;
const llama_tokenizer_t *llama_model_tokenizer(const llama_model_t *model);

typedef struct llama_tokens {
    uint32_t *ids; /* malloc'ed; llama_tokens_free() */
    size_t count, capacity;
} llama_tokens_t; /* all zeros is empty */
void llama_tokens_free(llama_tokens_t *tokens);

/* Appends the tokens of `text` (any bytes). With `special`, the literal spelling of a special token
 * ("<|im_end|>") becomes that token; without, it is plain text: use it for text that a user or a document
 * supplies. A byte that the vocabulary cannot spell becomes the unknown token. */
LW_CHECK lw_status_t llama_encode(const llama_tokenizer_t *tokenizer, const char *text, size_t bytes,
                                  bool special, llama_tokens_t *tokens);
/* Writes the bytes of a token to text (not terminated, at most text_bytes) and returns how many the token
 * has. Special tokens read as their spelling; an id outside the vocabulary has none. */
size_t llama_decode(const llama_tokenizer_t *tokenizer, uint32_t token, char *text, size_t text_bytes);
/* Appends "<|im_start|>role\ntext<|im_end|>\n", or with text NULL the opening that the role's text is to
 * follow. ERR_UNSUPPORTED when the vocabulary has no <|im_start|> and <|im_end|>. */
LW_CHECK lw_status_t llama_encode_turn(const llama_tokenizer_t *tokenizer, const char *role, const char *text,
                                       size_t bytes, llama_tokens_t *tokens);
bool llama_is_end(const llama_tokenizer_t *tokenizer, uint32_t token); /* end of turn or of text */

/* ---- attention --------------------------------------------------------- */

/* One layer of one chunk. K and V are new at positions first_position .. first_position + tokens - 1; query t
 * attends positions 0 .. first_position + t with weights softmax(q.k / sqrt(head_dim)). Q and K are rotated,
 * and all three rounded to bf16 once by the runner, so that every attention sees the same bytes. Layouts are
 * packed: query_bf16 [tokens][query_heads][head_dim], key_bf16 and value_bf16 [tokens][kv_heads][head_dim],
 *   out [tokens][query_heads][head_dim]. Query head h reads KV head h / (query_heads / kv_heads).
 * Called by the runner's thread, layer 0 first. A failure ends the forward pass with that status. */
typedef struct llama_attention {
    lw_status_t (*attend)(void *self, uint32_t layer, uint32_t first_position, uint32_t tokens,
                          const uint16_t *query_bf16, const uint16_t *key_bf16, const uint16_t *value_bf16,
                          float *out);
    void *self;
} llama_attention_t;

/* Full attention: its own bf16 cache [layer][kv head][capacity][head_dim], exact causal softmax in fp32. */
typedef struct llama_full llama_full_t;
/* ERR_NO_MEMORY when layers x kv_heads x capacity x head_dim x 4 bytes are not to be had. */
LW_CHECK lw_status_t llama_full_create(const llama_shape_t *shape, uint32_t capacity, llama_pool_t *pool,
                                       llama_full_t **full_out);
/* A copy of the first `tokens` tokens of `parent` with room for `capacity`. */
LW_CHECK lw_status_t llama_full_fork(const llama_full_t *parent, uint32_t tokens, uint32_t capacity,
                                     llama_pool_t *pool, llama_full_t **full_out);
void llama_full_destroy(llama_full_t *full);
/* Forgets the tokens from `tokens` on. ERR_INVALID when it holds fewer. */
LW_CHECK lw_status_t llama_full_truncate(llama_full_t *full, uint32_t tokens);
uint32_t llama_full_tokens(const llama_full_t *full); /* that every layer holds */
/* Appends rows of one layer without attending; layouts as of a chunk. ERR_EXHAUSTED beyond capacity. */
LW_CHECK lw_status_t llama_full_append(llama_full_t *full, uint32_t layer, uint32_t tokens,
                                       const uint16_t *key_bf16, const uint16_t *value_bf16);
/* Rows [tokens][head_dim] of one head, valid until the cache is destroyed. */
const uint16_t *llama_full_keys(const llama_full_t *full, uint32_t layer, uint32_t kv_head);
const uint16_t *llama_full_values(const llama_full_t *full, uint32_t layer, uint32_t kv_head);
/* The call for a runner. ERR_INVALID when first_position is not what the layer holds, ERR_EXHAUSTED beyond
 * capacity. */
llama_attention_t llama_full_attention(llama_full_t *full);

/* Who else wants K and V of every chunk: layouts as above, borrowed for the call. */
typedef struct llama_kv_sink {
    lw_status_t (*take)(void *self, uint32_t layer, uint32_t first_position, uint32_t tokens,
                        const uint16_t *key_bf16, const uint16_t *value_bf16);
    void *self;
} llama_kv_sink_t;

/* Hands K and V to `sink`, then attends through `inner`. The tee lives in the caller's struct. */
typedef struct llama_tee {
    llama_attention_t inner;
    llama_kv_sink_t sink;
} llama_tee_t;
llama_attention_t llama_tee_attention(llama_tee_t *tee);

/* ---- forward pass ------------------------------------------------------ */

#define LLAMA_CHUNK_MAX 1024u

typedef struct llama_runner llama_runner_t;
/* chunk_max: most tokens of one chunk, 1 to LLAMA_CHUNK_MAX (256 is a good prefill chunk); positions_max:
 * most tokens of a sequence; both 0 take 256 and the model's context. Borrows model and pool. Everything is
 * allocated here. */
LW_CHECK lw_status_t llama_runner_create(const llama_model_t *model, llama_pool_t *pool, uint32_t chunk_max,
                                         uint32_t positions_max, llama_runner_t **runner_out);
void llama_runner_destroy(llama_runner_t *runner);

typedef struct llama_chunk {
    const uint32_t *tokens;
    uint32_t token_count;       /* 1 to chunk_max */
    uint32_t first_position;    /* of tokens[0] */
    uint32_t first_logit_token; /* logits are for tokens[first_logit_token ...]; token_count: for none */
    float *logits; /* [token_count - first_logit_token][vocabulary]; the caller's, NULL for none */
} llama_chunk_t;
/* Takes a chunk through all layers. ERR_INVALID for a token outside the vocabulary or a position outside the
 * runner's. */
LW_CHECK lw_status_t llama_forward(llama_runner_t *runner, const llama_attention_t *attention,
                                   const llama_chunk_t *chunk);
/* Takes any number of tokens in chunks; logits [vocabulary] of the last one (NULL: none). progress may be
 * NULL; it is told the tokens done after each chunk. */
typedef void (*llama_progress_t)(void *arg, uint32_t tokens_done, uint32_t tokens_total);
LW_CHECK lw_status_t llama_prefill(llama_runner_t *runner, const llama_attention_t *attention,
                                   const uint32_t *tokens, uint32_t token_count, uint32_t first_position,
                                   float *last_logits, llama_progress_t progress, void *progress_arg);

/* ---- choosing and comparing ---------------------------------------------- */

/* Index of the largest logit; the lowest index of equals. */
uint32_t llama_greedy(const float *logits, uint32_t vocabulary);
/* Natural log of the probability of `token`. */
double llama_log_probability(const float *logits, uint32_t vocabulary, uint32_t token);
/* KL(softmax(expected) || softmax(actual)) in nats, in double precision; NaN or infinite logits give NaN. */
double llama_kl(const float *expected, const float *actual, uint32_t vocabulary);

/* Running comparison of two sides over many positions. Start from all zeros. */
typedef struct llama_agreement {
    uint64_t positions, top1_equal;
    double kl_sum, kl_max;
    double expected_nll_sum, actual_nll_sum; /* of the tokens that really followed */
} llama_agreement_t;
/* next_token: what the document has next, or UINT32_MAX when unknown (the nll sums then stay as they are). */
void llama_agreement_add(llama_agreement_t *agreement, const float *expected, const float *actual,
                         uint32_t vocabulary, uint32_t next_token);

#endif /* LLAMA_H */
