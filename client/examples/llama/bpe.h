/* bpe.h - the merge loop: symbols in, fewer symbols out. */
#ifndef LLAMA_BPE_H
#define LLAMA_BPE_H

#include "client/examples/llama/llama.h"

/* One merge rule: the pair of tokens becomes `merged`; lower ranks go first. */
typedef struct llama_merge {
    uint32_t left, right, merged, rank;
} llama_merge_t;

/* Rules by pair: open addressing, bucket_count a power of two, empty where merged is UINT32_MAX. */
typedef struct llama_merge_table {
    llama_merge_t *bucket;
    size_t bucket_count;
} llama_merge_table_t;

LW_CHECK lw_status_t llama_merge_table_init(llama_merge_table_t *table, size_t rule_count);
void llama_merge_table_fini(llama_merge_table_t *table);
/* Keeps the first rule of a pair. At most rule_count calls. */
void llama_merge_table_add(llama_merge_table_t *table, const llama_merge_t *rule);
const llama_merge_t *llama_merge_table_find(const llama_merge_table_t *table, uint32_t left, uint32_t right);

/* Merges symbols[0 .. count) in place until no rule applies: always the lowest rank, the leftmost of equals.
 * Returns how many are left. O(count log count). ERR_NO_MEMORY leaves the symbols unmerged. */
LW_CHECK lw_status_t llama_bpe_merge(const llama_merge_table_t *table, uint32_t *symbols, size_t count,
                                     size_t *count_out);

#endif /* LLAMA_BPE_H */
