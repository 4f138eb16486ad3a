/* perftest_set.c - the segments that perftest stores: sizes, names and every byte follow from a seed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/longwave_types.h"
#include "client/cli/perftest.h"

#define LAYERS LW_LAYERS_MAX /* names: a layer each, then the next token range */
#define MIX_OUTLIERS 128u    /* of 1,024 tokens: 12.5 % */
#define MIX_CLUSTERS 56u     /* of the others: 16 tokens on the average */
#define MIX_ROWS_MAX 64u     /* larger clusters are split */
#define INDEX_BYTES 64u      /* the daemon does not look inside */

/* Word i of a record is its base plus i times an odd number: fast to make, different everywhere. */
#define STRIDE 0x9E3779B97F4A7C15ull

static uint64_t record_base(const lwc_perf_set_t *set, uint32_t segment, uint32_t head, uint32_t entry)
{
    lw_prng_t prng;
    lw_prng_seed(&prng, set->seed ^ ((uint64_t)segment << 32 | head << 16 | entry));
    return lw_prng_u64(&prng);
}

static void plan_segment(const lwc_perf_set_t *set, uint32_t segment, lw_segment_plan_t *plan)
{
    memset(plan, 0, sizeof(*plan));
    plan->name = lwc_perf_set_name(set, segment);
    plan->token_count = set->mixed ? LWC_PERF_TOKENS : set->rows * set->clusters;
    plan->head_count = LWC_PERF_HEADS;
    plan->head_dim = LWC_PERF_HEAD_DIM;
    plan->dtype = LW_DTYPE_BF16;
    plan->cluster_encoding = plan->outlier_encoding = LW_ENCODING_BF16;
    for (uint32_t head = 0; head < LWC_PERF_HEADS; head++) {
        plan->head[head].cluster_count = set->clusters;
        plan->head[head].outlier_count = set->outliers;
        plan->head[head].index_bytes = INDEX_BYTES;
        plan->head[head].row_count = plan->token_count;
    }
}

static double exponential(lw_prng_t *prng, double mean)
{
    return -mean * log(1.0 - lw_prng_unit(prng));
}

/* Sizes as k-means makes them: mean 16, 1 in 100 above about 52; they add up to the tokens that are no
 * outliers. */
static void draw_sizes(lw_prng_t *prng, uint16_t *sizes)
{
    uint32_t wanted = LWC_PERF_TOKENS - MIX_OUTLIERS, total = 0;
    for (uint32_t i = 0; i < MIX_CLUSTERS; i++) {
        double rows = exponential(prng, 8.0) + exponential(prng, 8.0) + 0.5;
        sizes[i] = (uint16_t)(rows < 1 ? 1 : rows > MIX_ROWS_MAX ? MIX_ROWS_MAX : rows);
        total += sizes[i];
    }
    while (total != wanted) { /* a row more or less here and there */
        uint16_t *size = &sizes[lw_prng_below(prng, MIX_CLUSTERS)];
        if (total < wanted && *size < MIX_ROWS_MAX) {
            ++*size;
            total++;
        } else if (total > wanted && *size > 1) {
            --*size;
            total--;
        }
    }
}

lw_status_t lwc_perf_set_init(lwc_perf_set_t *set, bool mixed, uint32_t record_bytes, uint64_t bytes,
                              uint32_t first_key, lw_error_t *error)
{
    memset(set, 0, sizeof(*set));
    set->mixed = mixed;
    set->first_key = first_key;
    set->seed = mixed ? 0x6D69786564ull : 0x756E69666F726Dull;
    set->rows = record_bytes / LWC_PERF_ROW_BYTES;
    set->clusters = mixed ? MIX_CLUSTERS : LWC_PERF_TOKENS / set->rows;
    set->outliers = mixed ? MIX_OUTLIERS : 0;
    lw_segment_plan_t plan;
    plan_segment(set, 0, &plan);
    lw_status_t status = lw_segment_layout(&plan, NULL, &set->segment_bytes, error);
    if (status != LW_OK)
        return status;
    set->segment_count = (uint32_t)lw_div_up(bytes, set->segment_bytes);
    set->bytes = (uint64_t)set->segment_count * set->segment_bytes;
    if (!mixed)
        return LW_OK;
    set->sizes = calloc((size_t)set->segment_count * LWC_PERF_HEADS, MIX_CLUSTERS * sizeof(*set->sizes));
    if (set->sizes == NULL)
        return lw_fail(error, LW_ERR_NO_MEMORY, "sizes of %u segments", set->segment_count);
    lw_prng_t prng;
    lw_prng_seed(&prng, set->seed);
    for (size_t i = 0; i < (size_t)set->segment_count * LWC_PERF_HEADS; i++)
        draw_sizes(&prng, set->sizes + i * MIX_CLUSTERS);
    return LW_OK;
}

void lwc_perf_set_fini(lwc_perf_set_t *set)
{
    free(set->sizes);
    set->sizes = NULL;
}

lw_segment_name_t lwc_perf_set_name(const lwc_perf_set_t *set, uint32_t segment)
{
    return (lw_segment_name_t){
        .origin = set->session_id,
        .rank = set->mixed ? 1 : 0,
        .layer = (uint16_t)(segment % LAYERS),
        .first_token = segment / LAYERS * LWC_PERF_TOKENS,
        .generation = set->term,
    };
}

uint32_t lwc_perf_set_rows(const lwc_perf_set_t *set, uint32_t segment, uint32_t head, uint32_t entry)
{
    if (!set->mixed)
        return set->rows;
    if (entry >= set->clusters)
        return 1;
    return set->sizes[((size_t)segment * LWC_PERF_HEADS + head) * set->clusters + entry];
}

void lwc_perf_set_build(const lwc_perf_set_t *set, uint32_t segment, uint8_t *extent)
{
    lw_segment_plan_t plan;
    uint64_t bytes;
    plan_segment(set, segment, &plan);
    lw_status_t status = lw_segment_layout(&plan, extent, &bytes, NULL);
    LW_ASSERT(status == LW_OK && bytes == set->segment_bytes);
    const lw_segment_head_t *heads = lw_segment_heads(extent);
    for (uint32_t head = 0; head < LWC_PERF_HEADS; head++) {
        uint16_t *sizes = (uint16_t *)(extent + heads[head].sizes_offset);
        uint64_t *word = (uint64_t *)(extent + heads[head].records_offset);
        memset(extent + heads[head].index_offset, 0, INDEX_BYTES);
        for (uint32_t entry = 0; entry < set->clusters + set->outliers; entry++) {
            uint32_t rows = lwc_perf_set_rows(set, segment, head, entry);
            uint64_t base = record_base(set, segment, head, entry);
            if (entry < set->clusters)
                sizes[entry] = (uint16_t)rows;
            for (uint32_t i = 0; i < rows * (LWC_PERF_ROW_BYTES / 8); i++)
                *word++ = base + i * STRIDE;
        }
    }
    lw_segment_seal(extent);
}

bool lwc_perf_set_matches(const lwc_perf_set_t *set, uint32_t segment, uint32_t head, uint32_t entry,
                          const uint8_t *record)
{
    uint32_t words = lwc_perf_set_rows(set, segment, head, entry) * (LWC_PERF_ROW_BYTES / 8);
    uint64_t base = record_base(set, segment, head, entry), differs = 0;
    for (uint32_t i = 0; i < words; i++) {
        uint64_t word;
        memcpy(&word, record + 8ull * i, sizeof(word));
        differs |= word ^ (base + i * STRIDE);
    }
    return differs == 0;
}

void lwc_perf_set_want(const lwc_perf_set_t *set, lw_prng_t *prng, uint32_t number, lwc_want_t *want)
{
    uint32_t segment = (uint32_t)lw_prng_below(prng, set->segment_count);
    uint32_t head = (uint32_t)lw_prng_below(prng, LWC_PERF_HEADS);
    uint32_t entry = (uint32_t)lw_prng_below(prng, set->clusters);
    if (set->mixed && number % 2 == 1)
        entry = set->clusters + (uint32_t)lw_prng_below(prng, set->outliers);
    *want = (lwc_want_t){
        .segment = set->first_key + segment,
        .head = (uint16_t)head,
        .entry = (uint16_t)entry,
        .rows = lwc_perf_set_rows(set, segment, head, entry),
    };
}
