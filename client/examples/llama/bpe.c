/* bpe.c - merges over a linked list of symbols, with a heap of the pairs that have a rule. */
#include "client/examples/llama/bpe.h"

#include <stdlib.h>

#define NONE UINT32_MAX

/* ---- rules by pair ------------------------------------------------------- */

static size_t bucket_of(const llama_merge_table_t *table, uint32_t left, uint32_t right)
{
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15ull;
    return (size_t)(hash ^ hash >> 32) & (table->bucket_count - 1);
}

lw_status_t llama_merge_table_init(llama_merge_table_t *table, size_t rule_count)
{
    table->bucket_count = 16;
    while (table->bucket_count < rule_count * 2)
        table->bucket_count *= 2;
    table->bucket = malloc(table->bucket_count * sizeof(*table->bucket));
    if (!table->bucket)
        return LW_ERR_NO_MEMORY;
    for (size_t i = 0; i < table->bucket_count; i++)
        table->bucket[i].merged = NONE;
    return LW_OK;
}

void llama_merge_table_fini(llama_merge_table_t *table)
{
    free(table->bucket);
}

/* The pair's bucket, or the empty one where it would be. */
static llama_merge_t *probe(const llama_merge_table_t *table, uint32_t left, uint32_t right)
{
    size_t at = bucket_of(table, left, right);
    while (table->bucket[at].merged != NONE &&
           (table->bucket[at].left != left || table->bucket[at].right != right))
        at = (at + 1) & (table->bucket_count - 1);
    return &table->bucket[at];
}

void llama_merge_table_add(llama_merge_table_t *table, const llama_merge_t *rule)
{
    llama_merge_t *bucket = probe(table, rule->left, rule->right);
    if (bucket->merged == NONE)
        *bucket = *rule;
}

const llama_merge_t *llama_merge_table_find(const llama_merge_table_t *table, uint32_t left, uint32_t right)
{
    const llama_merge_t *bucket = probe(table, left, right);
    return bucket->merged == NONE ? NULL : bucket;
}

/* ---- the loop ------------------------------------------------------------ */

typedef struct candidate {
    const llama_merge_t *rule;
    uint32_t at; /* the left symbol */
} candidate_t;

typedef struct work {
    const llama_merge_table_t *table;
    uint32_t *symbol;          /* NONE: merged into its left neighbour */
    uint32_t *previous, *next; /* NONE at the ends */
    candidate_t *heap;
    size_t heap_count;
} work_t;

static bool before(const candidate_t *a, const candidate_t *b)
{
    return a->rule->rank != b->rule->rank ? a->rule->rank < b->rule->rank : a->at < b->at;
}

static void push(work_t *work, uint32_t at)
{
    if (at == NONE || work->next[at] == NONE)
        return;
    const llama_merge_t *rule =
        llama_merge_table_find(work->table, work->symbol[at], work->symbol[work->next[at]]);
    if (!rule)
        return;
    candidate_t item = {rule, at};
    size_t i = work->heap_count++;
    while (i && before(&item, &work->heap[(i - 1) / 2])) {
        work->heap[i] = work->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    work->heap[i] = item;
}

static candidate_t pop(work_t *work)
{
    candidate_t top = work->heap[0], item = work->heap[--work->heap_count];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < work->heap_count) {
        if (child + 1 < work->heap_count && before(&work->heap[child + 1], &work->heap[child]))
            child++;
        if (!before(&work->heap[child], &item))
            break;
        work->heap[i] = work->heap[child];
        i = child;
    }
    work->heap[i] = item;
    return top;
}

static void merge_at(work_t *work, candidate_t candidate)
{
    uint32_t at = candidate.at, right = work->next[at];
    /* The pair may be gone: one of the two was merged since. */
    if (work->symbol[at] != candidate.rule->left || right == NONE ||
        work->symbol[right] != candidate.rule->right)
        return;
    work->symbol[at] = candidate.rule->merged;
    work->symbol[right] = NONE;
    work->next[at] = work->next[right];
    if (work->next[at] != NONE)
        work->previous[work->next[at]] = at;
    push(work, work->previous[at]);
    push(work, at);
}

lw_status_t llama_bpe_merge(const llama_merge_table_t *table, uint32_t *symbols, size_t count,
                            size_t *count_out)
{
    if (count < 2) {
        *count_out = count;
        return LW_OK;
    }
    if (count >= NONE / 4)
        return LW_ERR_INVALID;
    /* A merge pushes two and removes a symbol: never more than 3 count candidates in all. */
    work_t work = {.table = table, .symbol = symbols};
    work.previous = malloc(count * 2 * sizeof(*work.previous));
    work.heap = malloc(count * 3 * sizeof(*work.heap));
    lw_status_t status = LW_ERR_NO_MEMORY;
    if (!work.previous || !work.heap)
        goto free_work;
    work.next = work.previous + count;
    for (uint32_t i = 0; i < count; i++) {
        work.previous[i] = i ? i - 1 : NONE;
        work.next[i] = i + 1 < count ? i + 1 : NONE;
    }
    for (uint32_t i = 0; i < count; i++)
        push(&work, i);
    while (work.heap_count)
        merge_at(&work, pop(&work));
    size_t kept = 0;
    for (uint32_t i = 0; i != NONE; i = work.next[i])
        symbols[kept++] = symbols[i];
    *count_out = kept;
    status = LW_OK;
free_work:
    free(work.previous);
    free(work.heap);
    return status;
}
