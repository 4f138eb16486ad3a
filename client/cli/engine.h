/* engine.h - what `longwave demo` and `longwave quality` share: a model that has read a document, a fleet that holds its KV,
 * and the comparison of attention through Longwave with full attention, token by token. One thread.
 *
 * The model reads the document once with full attention; every session gets the same bf16 K and V: while reading (demo), or
 * from the full cache afterwards (quality, for another index). */
#ifndef LWC_CLI_ENGINE_H
#define LWC_CLI_ENGINE_H

#include "client/examples/llama/llama.h"
#include "client/include/longwave.h"

typedef struct lwc_engine {
    llama_pool_t *pool;
    llama_model_t *model;
    const llama_shape_t *shape;
    llama_runner_t *reader, *stepper; /* large chunks; chunks of at most LW_QUERY_TOKENS_MAX */
    llama_full_t *full;               /* full attention over everything that was read */
    llama_tokens_t document;
    lw_t *kv;
    uint32_t read;                    /* tokens of the document that `full` holds */
    bool quiet;                       /* no progress lines */
} lwc_engine_t;

typedef struct lwc_engine_params {
    const char *model_path, *document_path, *fleet, *config;
    const char *backend; /* a host backend; NULL: LWK_BACKEND, else cpu */
    uint32_t threads;    /* 0: one a core */
    uint32_t tokens_max; /* longest sequence */
    uint32_t sessions_max;
    bool quiet;
    const char *opening; /* text in front of the document, special tokens allowed; NULL: none */
} lwc_engine_params_t;

/* Opens model, document and fleet. The error says what is missing and how to get it. */
LW_CHECK lw_status_t lwc_engine_open(const lwc_engine_params_t *params, lwc_engine_t *engine, lw_error_t *error);
void lwc_engine_close(lwc_engine_t *engine);

/* Reads document tokens up to `until` with full attention; with a session, its K and V go there as well. */
LW_CHECK lw_status_t lwc_engine_read(lwc_engine_t *engine, uint32_t until, lw_session_t *session, lw_error_t *error);
/* Gives a session the K and V of tokens [its count, until) from the full cache. */
LW_CHECK lw_status_t lwc_engine_replay(lwc_engine_t *engine, lw_session_t *session, uint32_t until, lw_error_t *error);
/* Seals and commits everything; blocks. */
LW_CHECK lw_status_t lwc_engine_flush(lwc_engine_t *engine, lw_session_t *session, lw_error_t *error);

/* Logits [count][vocabulary] of full attention for document tokens first .. first + count - 1; malloc'ed, NULL: no memory or a
 * failed forward pass (in error). Needs read >= first. */
float *lwc_engine_expect(lwc_engine_t *engine, uint32_t first, uint32_t count, lw_error_t *error);

typedef struct lwc_score {
    llama_agreement_t agreement;
    lw_attr_t sum; /* TRAFFIC and ATTENTION of what was scored */
    double seconds;
} lwc_score_t;

/* Feeds document tokens first .. first + count - 1 through Longwave, one at a time, and compares each distribution with
 * `expected`. The session holds exactly `first` tokens. Adds to *score (start from zeros). */
LW_CHECK lw_status_t lwc_engine_score(lwc_engine_t *engine, lw_session_t *session, uint32_t first, uint32_t count,
                                      const float *expected, const char *label, lwc_score_t *score, lw_error_t *error);

/* Figures of a score; shares are of tokens that lie in ranges (or all tokens, where it says so). */
typedef struct lwc_figures {
    double top1, kl, kl_max, tokens_per_s;
    double exact_share;      /* tokens attended exactly of all tokens, steady zone included */
    double retrieved_share;  /* tokens retrieved of tokens indexed */
    double cluster_share;    /* entries retrieved of entries indexed */
    double hit_ratio;        /* entries found in the cache, or already on their way, of entries retrieved */
    double bytes_per_token;  /* fetched over the network for one decoded token */
    double retrieved_bytes_per_token; /* what would be fetched without a cache */
    double nll_full, nll;    /* mean negative log probability of the document's next token */
    uint64_t bytes_fetched, records_fetched;
} lwc_figures_t;
lwc_figures_t lwc_figures(const lwc_engine_t *engine, const lwc_score_t *score);

/* Greedy decoding of `count` tokens after `prompt`; end-of-text tokens are not chosen, so that both sides give as many.
 * attention: whose K and V hold `position` tokens. tokens_out [count]. */
LW_CHECK lw_status_t lwc_engine_decode(lwc_engine_t *engine, const llama_attention_t *attention, const uint32_t *prompt,
                                       uint32_t prompt_count, uint32_t position, uint32_t count, uint32_t *tokens_out,
                                       double *seconds_out, const char *label, lw_error_t *error);

/* Attention through a session, for a runner whose chunks have at most LW_QUERY_TOKENS_MAX tokens. */
typedef struct lwc_engine_attention {
    lwc_engine_t *engine;
    lw_session_t *session;
    uint16_t *out; /* [LW_QUERY_TOKENS_MAX][query heads][head_dim] bf16 */
} lwc_engine_attention_t;
LW_CHECK lw_status_t lwc_engine_attention_init(lwc_engine_t *engine, lw_session_t *session,
                                               lwc_engine_attention_t *attention);
void lwc_engine_attention_fini(lwc_engine_attention_t *attention);
llama_attention_t lwc_engine_attention(lwc_engine_attention_t *attention);

/* Text of tokens; malloc'ed. */
char *lwc_engine_text(const lwc_engine_t *engine, const uint32_t *tokens, uint32_t count);

#endif /* LWC_CLI_ENGINE_H */
