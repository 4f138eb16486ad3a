/* bench_exact.c - exact attention for a sample of query heads, over the rows that the generator gives again,
 * in blocks; nothing is kept. Beside the library's error stands that of attending the steady zone alone:
 * where that is small too, the sample says nothing. */
#include "client/cli/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"

#define BLOCK_TOKENS 512u
#define GROUP_MAX LW_GROUP_MAX

/* A running softmax of one query head. */
typedef struct {
    double maximum, sum, out[LW_SYNTH_HEAD_DIM_MAX];
} sum_t;

/* One KV head of one session and layer: all query heads of its group. */
typedef struct {
    const lwc_bench_t *bench;
    double *relative, *alone; /* [samples x group] */
    uint32_t samples;
    const uint32_t *sealed; /* [batch]: tokens in ranges */
} checking_t;

static float from_bf16(uint16_t bits)
{
    union {
        uint32_t bits;
        float value;
    } word = {(uint32_t)bits << 16};
    return word.value;
}

static void add(sum_t *sum, double logit, const uint16_t *value, uint32_t d)
{
    if (logit > sum->maximum) {
        double shrink = exp(sum->maximum - logit);
        sum->sum *= shrink;
        for (uint32_t i = 0; i < d; i++)
            sum->out[i] *= shrink;
        sum->maximum = logit;
    }
    double weight = exp(logit - sum->maximum);
    sum->sum += weight;
    if (weight > 1e-12)
        for (uint32_t i = 0; i < d; i++)
            sum->out[i] += weight * (double)from_bf16(value[i]);
}

static void merge(sum_t *to, const sum_t *from, uint32_t d)
{
    double maximum = fmax(to->maximum, from->maximum);
    double a = exp(to->maximum - maximum), b = exp(from->maximum - maximum);
    to->maximum = maximum;
    to->sum = a * to->sum + b * from->sum;
    for (uint32_t i = 0; i < d; i++)
        to->out[i] = a * to->out[i] + b * from->out[i];
}

/* norm(actual - o) / norm(o), o = right's */
static double distance(const double *actual, const sum_t *right, uint32_t d)
{
    double off = 0, size = 0;
    for (uint32_t i = 0; i < d; i++) {
        double o = right->out[i] / right->sum;
        off += (actual[i] - o) * (actual[i] - o);
        size += o * o;
    }
    return size > 0 ? sqrt(off / size) : 0;
}

static float dot(const float *query, const uint16_t *key, uint32_t d)
{
    float sum[8] = {0};
    for (uint32_t i = 0; i < d; i += 8)
        for (uint32_t lane = 0; lane < 8; lane++)
            sum[lane] += query[i + lane] * from_bf16(key[i + lane]);
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

typedef struct {
    sum_t steady[GROUP_MAX], rest[GROUP_MAX];
    float query[GROUP_MAX][LW_SYNTH_HEAD_DIM_MAX];
    uint16_t key[BLOCK_TOKENS * LW_SYNTH_HEAD_DIM_MAX], value[BLOCK_TOKENS * LW_SYNTH_HEAD_DIM_MAX];
} room_t;

static void attend(const checking_t *checking, room_t *room, uint32_t session, uint32_t layer, uint32_t head)
{
    const lwc_bench_t *bench = checking->bench;
    const llama_shape_t *shape = &bench->options.shape;
    uint32_t d = shape->head_dim, group = shape->query_heads / shape->kv_heads;
    double scale = 1 / sqrt((double)d);
    for (uint32_t first = 0; first < bench->tokens; first += BLOCK_TOKENS) {
        uint32_t tokens = bench->tokens - first < BLOCK_TOKENS ? bench->tokens - first : BLOCK_TOKENS;
        lw_synth_fill(bench->texts[session], layer, head, 1, first, tokens, room->key, room->value);
        for (uint32_t t = 0; t < tokens; t++) {
            bool steady = first + t < LW_SINK_TOKENS || first + t >= checking->sealed[session];
            for (uint32_t g = 0; g < group; g++)
                add(steady ? &room->steady[g] : &room->rest[g],
                    scale * (double)dot(room->query[g], room->key + (size_t)t * d, d),
                    room->value + (size_t)t * d, d);
        }
    }
}

static void check(void *arg, uint32_t sample)
{
    checking_t *checking = arg;
    const lwc_bench_t *bench = checking->bench;
    const llama_shape_t *shape = &bench->options.shape;
    uint32_t d = shape->head_dim, group = shape->query_heads / shape->kv_heads;
    /* Samples are spread evenly over layers, then heads, then sessions. */
    uint64_t pairs = (uint64_t)shape->layers * shape->kv_heads * bench->options.batch;
    uint64_t pair = sample * pairs / checking->samples;
    uint32_t layer = (uint32_t)(pair / ((uint64_t)shape->kv_heads * bench->options.batch));
    uint32_t head = (uint32_t)(pair + sample) % shape->kv_heads, session = sample % bench->options.batch;
    uint64_t at = ((uint64_t)session * shape->query_heads + (uint64_t)head * group) * d;
    const uint16_t *query = bench->inputs_staging + layer * lwc_bench_layer_elements(bench) + at;
    const uint16_t *out = bench->outputs_staging + layer * bench->query_elements + at;
    room_t *room = calloc(1, sizeof(*room));
    for (uint32_t g = 0; g < group && room; g++) {
        room->steady[g].maximum = room->rest[g].maximum = -1e300;
        for (uint32_t i = 0; i < d; i++)
            room->query[g][i] = from_bf16(query[g * d + i]);
    }
    if (room)
        attend(checking, room, session, layer, head);
    for (uint32_t g = 0; g < group; g++) {
        double actual[LW_SYNTH_HEAD_DIM_MAX], alone[LW_SYNTH_HEAD_DIM_MAX];
        uint32_t i = sample * group + g;
        checking->relative[i] = checking->alone[i] = NAN;
        if (!room)
            continue;
        sum_t *all = &room->rest[g];
        for (uint32_t j = 0; j < d; j++) {
            actual[j] = (double)from_bf16(out[g * d + j]);
            alone[j] = room->steady[g].out[j] / room->steady[g].sum;
        }
        merge(all, &room->steady[g], d);
        checking->relative[i] = distance(actual, all, d);
        checking->alone[i] = distance(alone, all, d);
    }
    free(room);
}

static lw_status_t find_sealed(lwc_bench_t *bench, uint32_t *sealed, lw_error_t *error)
{
    for (uint32_t s = 0; s < bench->options.batch; s++) {
        lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_TOKENS};
        lw_status_t status = lw_session_query(bench->sessions[s], &attr);
        if (status != LW_OK)
            return lw_fail(error, status, "session: %s", lw_last_error(bench->kv));
        sealed[s] = attr.committed_tokens < attr.sealed_tokens ? attr.committed_tokens : attr.sealed_tokens;
    }
    return LW_OK;
}

lw_status_t lwc_bench_check(lwc_bench_t *bench, lwc_bench_error_t *out, lw_error_t *error)
{
    const llama_shape_t *shape = &bench->options.shape;
    uint32_t sealed[LWC_BENCH_BATCH_MAX], group = shape->query_heads / shape->kv_heads;
    uint64_t bytes = shape->layers * bench->query_elements * sizeof(uint16_t);
    uint64_t pairs = (uint64_t)shape->layers * shape->kv_heads * bench->options.batch;
    checking_t checking = {
        .bench = bench, .sealed = sealed, .samples = (bench->options.samples + group - 1) / group};
    if (checking.samples > pairs)
        checking.samples = (uint32_t)pairs;
    lw_status_t status = lwc_bench_copy(&bench->device, bench->outputs_staging, bench->outputs, bytes, error);
    if (status == LW_OK)
        status = lwc_bench_wait(&bench->device, error);
    if (status == LW_OK)
        status = find_sealed(bench, sealed, error);
    if (status != LW_OK)
        return status;
    out->count = checking.samples * group;
    out->relative = calloc(2 * (size_t)out->count, sizeof(double));
    if (!out->relative)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for %u samples", out->count);
    checking.relative = out->relative;
    checking.alone = out->relative + out->count;
    lwc_bench_parallel(bench->options.threads, checking.samples, check, &checking);
    for (uint32_t i = 0; i < out->count; i++)
        out->alone += checking.alone[i] / out->count;
    return LW_OK;
}
