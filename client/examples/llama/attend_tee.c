/* attend_tee.c - an attention that also hands K and V to somebody else: prefill streams to Longwave while the
 * engine attends exactly. */
#include "client/examples/llama/llama.h"

static lw_status_t attend(void *self, uint32_t layer, uint32_t first_position, uint32_t tokens,
                          const uint16_t *query_bf16, const uint16_t *key_bf16, const uint16_t *value_bf16,
                          float *out)
{
    const llama_tee_t *tee = self;
    lw_status_t status = tee->sink.take(tee->sink.self, layer, first_position, tokens, key_bf16, value_bf16);
    if (status != LW_OK)
        return status;
    return tee->inner.attend(tee->inner.self, layer, first_position, tokens, query_bf16, key_bf16, value_bf16,
                             out);
}

llama_attention_t llama_tee_attention(llama_tee_t *tee)
{
    return (llama_attention_t){attend, tee};
}
