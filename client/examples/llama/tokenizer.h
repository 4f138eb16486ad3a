/* tokenizer.h - byte-level BPE from GGUF metadata (tokenizer.ggml.model "gpt2"), for the pre-tokenizers
 * "smollm", "gpt-2" and "llama-bpe". The calls that engines need are in llama.h. Immutable after creation;
 * any thread may use it. */
#ifndef LLAMA_TOKENIZER_H
#define LLAMA_TOKENIZER_H

#include "client/examples/llama/gguf.h"
#include "client/examples/llama/llama.h"

/* Copies what it needs. ERR_UNSUPPORTED names the tokenizer model or pre-tokenizer that is refused;
 * ERR_INVALID the token, type or merge that is wrong. */
LW_CHECK lw_status_t llama_tokenizer_create(const llama_gguf_t *gguf, llama_tokenizer_t **tokenizer_out,
                                            lw_error_t *error);
void llama_tokenizer_destroy(llama_tokenizer_t *tokenizer);

uint32_t llama_tokenizer_count(const llama_tokenizer_t *tokenizer);
/* Token with this spelling (for ordinary tokens in the byte alphabet, as in the file); UINT32_MAX when there
 * is none. */
uint32_t llama_tokenizer_find(const llama_tokenizer_t *tokenizer, const char *spelling, size_t bytes);

typedef enum llama_pre { LLAMA_PRE_GPT2, LLAMA_PRE_SMOLLM, LLAMA_PRE_LLAMA_BPE } llama_pre_t;
/* Bytes of the first piece of text[0 .. bytes), bytes >= 1, that BPE then works on. At least 1. */
size_t llama_pre_next(llama_pre_t pre, const char *text, size_t bytes);

#endif /* LLAMA_TOKENIZER_H */
