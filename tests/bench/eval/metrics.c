/* metrics.c - see metrics.h. */
#include "bench/eval/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/convert.h"

#define ERROR_LIMIT 0.3

typedef struct gather {
    double *errors; /* [pairs] */
    uint32_t pairs, over, top_indexed, top_found;
    double lse_bias, lse_error, mass, exact_share, retrieved_share, entries, bytes;
} gather_t;

/* One KV head of a layer step: what its query heads share. */
typedef struct zone_tokens {
    uint32_t *retrieved, retrieved_count, entries;
    uint32_t recent_first, position;
    uint8_t *is_retrieved; /* [EVAL_TOKENS] */
} zone_tokens_t;

static double weight_of(const eval_tensors_t *tensors, uint32_t layer, uint32_t kv_head, const float *query,
                        uint32_t token, double lse)
{
    const uint16_t *key = tensors->keys + eval_row(layer, kv_head, token);
    float part[8] = {0};
    for (uint32_t j = 0; j < EVAL_HEAD_DIM; j += 8)
        for (uint32_t l = 0; l < 8; l++)
            part[l] += query[j + l] * lwk_bf16_to_f32(key[j + l]);
    double dot = 0;
    for (uint32_t l = 0; l < 8; l++)
        dot += part[l];
    return exp(dot / sqrt(EVAL_HEAD_DIM) - lse);
}

static double exact_mass(const eval_tensors_t *tensors, uint32_t layer, uint32_t query, uint32_t head,
                         const eval_exact_t *exact, const zone_tokens_t *zone)
{
    float q[EVAL_HEAD_DIM];
    double sum = exact->steady_mass;
    for (uint32_t j = 0; j < EVAL_HEAD_DIM; j++)
        q[j] = lwk_bf16_to_f32(tensors->queries[eval_query(layer, query, head) + j]);
    for (uint32_t i = 0; i < zone->retrieved_count; i++)
        sum += weight_of(tensors, layer, head / EVAL_GROUP, q, zone->retrieved[i], exact->lse);
    return sum;
}

static void add_pair(gather_t *to, const eval_exact_t *exact, const float *out, float lse,
                     const zone_tokens_t *zone, uint32_t index_end)
{
    double gap = 0, size = 0;
    for (uint32_t j = 0; j < EVAL_HEAD_DIM; j++) {
        gap += ((double)out[j] - exact->out[j]) * ((double)out[j] - exact->out[j]);
        size += (double)exact->out[j] * exact->out[j];
    }
    double error = sqrt(gap / size);
    to->errors[to->pairs++] = error;
    to->over += error > ERROR_LIMIT;
    to->lse_bias += lse - exact->lse;
    to->lse_error += fabs(lse - exact->lse);
    if (exact->top_token >= LW_SINK_TOKENS && exact->top_token < index_end) {
        to->top_indexed++;
        to->top_found += zone->is_retrieved[exact->top_token];
    }
    uint32_t steady = LW_SINK_TOKENS + zone->position + 1 - zone->recent_first,
             indexed = index_end - LW_SINK_TOKENS;
    to->exact_share += (double)(steady + zone->retrieved_count) / (steady + indexed);
    to->retrieved_share += (double)zone->retrieved_count / indexed;
    to->entries += zone->entries;
    to->bytes += zone->retrieved_count * 2.0 * EVAL_HEAD_DIM * sizeof(uint16_t);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static eval_figures_t figures_of(const gather_t *g)
{
    double n = g->pairs, sum = 0, *sorted = malloc(g->pairs * sizeof *sorted);
    LW_ASSERT(sorted != NULL && g->pairs > 0);
    memcpy(sorted, g->errors, g->pairs * sizeof *sorted);
    qsort(sorted, g->pairs, sizeof *sorted, by_size);
    for (uint32_t i = 0; i < g->pairs; i++)
        sum += sorted[i];
    eval_figures_t f = {
        .e_mean = sum / n,
        .e_p95 = sorted[(size_t)(0.95 * n)],
        .e_p99 = sorted[(size_t)(0.99 * n)],
        .e_over = g->over / n,
        .lse_bias = g->lse_bias / n,
        .lse_error = g->lse_error / n,
        .top_share = g->top_indexed > 0 ? (double)g->top_found / g->top_indexed : 1,
        .top_indexed = g->top_indexed / n,
        .mass = g->mass / n,
        .exact_share = g->exact_share / n,
        .retrieved_share = g->retrieved_share / n,
        .entries = g->entries / n,
        .fetched_bytes = g->bytes / n,
    };
    free(sorted);
    return f;
}

static void join(gather_t *to, const gather_t *from)
{
    memcpy(to->errors + to->pairs, from->errors, from->pairs * sizeof *to->errors);
    to->pairs += from->pairs;
    to->over += from->over;
    to->top_indexed += from->top_indexed;
    to->top_found += from->top_found;
    to->lse_bias += from->lse_bias;
    to->lse_error += from->lse_error;
    to->mass += from->mass;
    to->exact_share += from->exact_share;
    to->retrieved_share += from->retrieved_share;
    to->entries += from->entries;
    to->bytes += from->bytes;
}

static void measure_layer(const eval_tensors_t *tensors, eval_host_t *host, const eval_zone_t *zone,
                          const eval_exact_t *exact, uint32_t query, uint32_t layer, const eval_step_t *step,
                          zone_tokens_t *tokens, gather_t *to)
{
    tokens->recent_first = eval_recent_first(zone, query);
    tokens->position = eval_position(query);
    for (uint32_t kv_head = 0; kv_head < EVAL_KV_HEADS; kv_head++) {
        tokens->retrieved_count = eval_host_retrieved(host, kv_head, tokens->retrieved, &tokens->entries);
        memset(tokens->is_retrieved, 0, EVAL_TOKENS);
        for (uint32_t i = 0; i < tokens->retrieved_count; i++)
            tokens->is_retrieved[tokens->retrieved[i]] = 1;
        for (uint32_t head = kv_head * EVAL_GROUP; head < (kv_head + 1) * EVAL_GROUP; head++) {
            const eval_exact_t *want = &exact[eval_exact_at(layer, query, head)];
            add_pair(to, want, step->out + (size_t)head * EVAL_HEAD_DIM, step->lse[head], tokens,
                     zone->index_end);
            to->mass += exact_mass(tensors, layer, query, head, want, tokens);
        }
    }
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

eval_result_t eval_measure(const eval_tensors_t *tensors, eval_host_t *host, const eval_policy_t *row,
                           const eval_zone_t *zone, const eval_exact_t *exact, uint32_t query_step)
{
    uint32_t pairs = EVAL_QUERIES * EVAL_HEADS, steps = 0;
    gather_t layers[EVAL_LAYERS], all = {.errors = calloc((size_t)pairs * EVAL_LAYERS, sizeof(double))};
    zone_tokens_t tokens = {.retrieved = malloc(EVAL_TOKENS * sizeof(uint32_t)),
                            .is_retrieved = malloc(EVAL_TOKENS)};
    eval_result_t result = {.index_bytes = eval_host_index_bytes(host),
                            .build_seconds = eval_host_build_seconds(host),
                            .entries = eval_host_entries(host)};
    for (uint32_t layer = 0; layer < EVAL_LAYERS; layer++) {
        layers[layer] = (gather_t){.errors = calloc(pairs, sizeof(double))};
        LW_ASSERT(layers[layer].errors != NULL);
    }
    LW_ASSERT(all.errors != NULL && tokens.retrieved != NULL && tokens.is_retrieved != NULL);
    for (uint32_t query = 0; query < EVAL_QUERIES; query += query_step) {
        eval_host_begin(host, zone, &row->policy, query);
        for (uint32_t layer = 0; layer < EVAL_LAYERS; layer++, steps++) {
            double start = seconds();
            eval_step_t step = eval_host_layer(host, query, layer);
            result.step_us += 1e6 * (seconds() - start);
            measure_layer(tensors, host, zone, exact, query, layer, &step, &tokens, &layers[layer]);
        }
    }
    result.step_us /= steps;
    for (uint32_t layer = 0; layer < EVAL_LAYERS; layer++) {
        result.layer[layer] = figures_of(&layers[layer]);
        join(&all, &layers[layer]);
        free(layers[layer].errors);
    }
    result.all = figures_of(&all);
    free(all.errors);
    free(tokens.retrieved);
    free(tokens.is_retrieved);
    return result;
}

/* ---- the tables --------------------------------------------------------------------------------- */

void eval_print_head(FILE *to)
{
    fprintf(to, "| segment | factor | policy | layer | e_out mean | p95 | p99 | > 0.3 | lse bias | abs | top "
                "token | mass | "
                "exact tokens | retrieved | entries | KiB fetched | index B/token |\n"
                "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
}

static void print_line(FILE *to, const eval_policy_t *row, uint32_t segment_tokens, const char *layer,
                       const eval_figures_t *f, double index_bytes)
{
    fprintf(to,
            "| %u | %s | %s | %s | %.4f | %.3f | %.3f | %.2f%% | %+.4f | %.4f | %.2f%% | %.4f | %.2f%% | "
            "%.2f%% | %.0f | %.1f | "
            "%.1f |\n",
            segment_tokens, row->group, row->name, layer, f->e_mean, f->e_p95, f->e_p99, 100 * f->e_over,
            f->lse_bias, f->lse_error, 100 * f->top_share, f->mass, 100 * f->exact_share,
            100 * f->retrieved_share, f->entries, f->fetched_bytes / 1024, index_bytes);
}

void eval_print_row(FILE *to, const eval_policy_t *row, uint32_t segment_tokens, const eval_result_t *result)
{
    print_line(to, row, segment_tokens, "all", &result->all, result->index_bytes);
}

void eval_print_layers(FILE *to, const eval_policy_t *row, uint32_t segment_tokens,
                       const eval_result_t *result)
{
    for (uint32_t layer = 0; layer < EVAL_LAYERS; layer++) {
        char name[16];
        snprintf(name, sizeof name, "%u", eval_layer_numbers[layer]);
        print_line(to, row, segment_tokens, name, &result->layer[layer], result->index_bytes);
    }
}

static void print_figures(FILE *to, const char *name, const eval_figures_t *f)
{
    fprintf(
        to,
        "\"%s\": {\"e_mean\": %.6g, \"e_p95\": %.6g, \"e_p99\": %.6g, \"e_over\": %.6g, \"lse_bias\": %.6g, "
        "\"lse_error\": %.6g, \"top_share\": %.6g, \"top_indexed\": %.6g, \"mass\": %.6g, \"exact_share\": "
        "%.6g, "
        "\"retrieved_share\": %.6g, \"entries\": %.6g, \"fetched_bytes\": %.6g}",
        name, f->e_mean, f->e_p95, f->e_p99, f->e_over, f->lse_bias, f->lse_error, f->top_share,
        f->top_indexed, f->mass, f->exact_share, f->retrieved_share, f->entries, f->fetched_bytes);
}

void eval_print_json(FILE *to, const eval_policy_t *row, uint32_t segment_tokens, const eval_result_t *result)
{
    fprintf(to,
            "  {\"segment_tokens\": %u, \"factor\": \"%s\", \"policy\": \"%s\", \"index_bytes\": %.6g, "
            "\"entries\": %u, "
            "\"build_seconds\": %.4g, \"step_us\": %.4g,\n   ",
            segment_tokens, row->group, row->name, result->index_bytes, result->entries,
            result->build_seconds, result->step_us);
    for (uint32_t layer = 0; layer < EVAL_LAYERS; layer++) {
        char name[16];
        snprintf(name, sizeof name, "layer%u", eval_layer_numbers[layer]);
        print_figures(to, name, &result->layer[layer]);
        fprintf(to, ",\n   ");
    }
    print_figures(to, "all", &result->all);
    fprintf(to, "}");
}
