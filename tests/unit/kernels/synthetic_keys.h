/* synthetic_keys.h - keys and queries that behave like those of attention with rotary positions.
 *
 * Content is a sum of a topic that drifts from passage to passage and a token type, both mixed from few
 * shared directions, with most of its energy in the slowly turning pairs; on top of it a large mean and
 * noise; then every key is rotated by its position. A query asks for the content of some earlier token.
 * Deterministic from the seed. */
#ifndef SYNTHETIC_KEYS_H
#define SYNTHETIC_KEYS_H

#include <stdint.h>

typedef struct synthetic_spec {
    uint32_t tokens, head_dim, queries;
    uint64_t seed;
    double noise; /* of a key, against content of size 1; 0.3 */
} synthetic_spec_t;

/* keys: [tokens][head_dim], queries: [queries][head_dim], of the position after the last token; logits
 * deviate by 1 to 4. */
void synthetic_keys(const synthetic_spec_t *spec, float *keys_out, float *queries_out);

#endif /* SYNTHETIC_KEYS_H */
