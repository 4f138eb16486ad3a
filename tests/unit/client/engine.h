/* engine.h - a decoding engine in miniature for tests of asynchronous backends: fixed buffers, a batch of slots, steps that
 * are enqueued eagerly or replayed from a graph, and exact attention to compare with. */
#ifndef CLIENT_ENGINE_H
#define CLIENT_ENGINE_H

#include "unit/client/harness.h"

#define ENGINE_SLOTS 4u

typedef struct engine {
    harness_t *h;
    void *stream;
    uint32_t slots, tokens; /* of a step */
    lw_session_t *sessions[ENGINE_SLOTS];
    sequence_t *sequences[ENGINE_SLOTS];
    uint32_t before[ENGINE_SLOTS]; /* tokens before the newest step */
    /* [layer][slot][token][head][head_dim]; lse without head_dim */
    float *query, *key, *value, *out, *lse;
    lwk_graph_t *graph;
} engine_t;

void engine_init(engine_t *engine, harness_t *h, uint32_t slots, uint32_t tokens);
void engine_fini(engine_t *engine);
/* Draws queries and takes each bound session's next tokens from its sequence. The newest step must have ended. */
void engine_fill(engine_t *engine);
/* One layer's call over `sessions` (NULL: the bound slots). */
lw_status_t engine_layer(engine_t *engine, uint32_t layer, lw_session_t *const *sessions, uint32_t timeout_us);
void engine_bind(engine_t *engine, uint32_t slot, lw_session_t *session, sequence_t *sequence);
/* Captures a whole step over the bound slots. */
void engine_capture(engine_t *engine);
/* lw_replay and the graph's launch. */
lw_status_t engine_replay(engine_t *engine);
/* Waits for the newest step's output. */
void engine_settle(engine_t *engine);
/* Largest error of the newest step's outputs of a slot. */
double engine_error(const engine_t *engine, uint32_t slot);

#endif /* CLIENT_ENGINE_H */
