/* synth.c - the generator of synth.h. */
#include "ops/synth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/prng.h"

#define DIRECTIONS 24u
#define TOPICS 48u
#define TYPES 256u
#define SINKS 4u
#define HEAD_DIM_MAX 256u
#define NOISE 0.3f

struct lw_synth {
    lw_synth_config_t config;
    float mix_topic[TOPICS][DIRECTIONS], mix_type[TYPES][DIRECTIONS];
    uint8_t *topic, *type; /* [token_count] */
    uint32_t *target;      /* [token_count] */
    float *tables; /* [layer][head] of table_floats(): key directions, value directions, key mean, sink
                      direction */
};

static float gauss(lw_prng_t *prng)
{
    double u = 1.0 - lw_prng_unit(prng), v = lw_prng_unit(prng);
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

static size_t table_floats(uint32_t d)
{
    return (2 * (size_t)DIRECTIONS + 2) * d;
}

static const float *table_of(const lw_synth_t *synth, uint32_t layer, uint32_t head)
{
    return synth->tables +
           ((size_t)layer * synth->config.kv_head_count + head) * table_floats(synth->config.head_dim);
}

/* Pair p of a rotary embedding is (p, p + d/2); a larger p turns slower and carries more of the content. */
static float pair_energy(uint32_t j, uint32_t d)
{
    uint32_t p = j % (d / 2);
    return p < d / 8 ? 0.2f : p < d / 4 ? 0.6f : 1.2f;
}

static void rotate(float *x, uint32_t d, uint32_t position)
{
    for (uint32_t p = 0; p < d / 2; p++) {
        double angle = position * pow(10000.0, -2.0 * p / d);
        float c = (float)cos(angle), s = (float)sin(angle), a = x[p], b = x[p + d / 2];
        x[p] = a * c - b * s;
        x[p + d / 2] = a * s + b * c;
    }
}

static void make_table(lw_prng_t *prng, uint32_t d, float *table)
{
    float norm = 1.0f / sqrtf((float)DIRECTIONS);
    for (uint32_t k = 0; k < DIRECTIONS; k++)
        for (uint32_t j = 0; j < d; j++) {
            table[k * d + j] = gauss(prng) * norm * pair_energy(j, d);
            table[(DIRECTIONS + k) * d + j] = gauss(prng) * norm;
        }
    float *mean = table + 2 * DIRECTIONS * d, *sink = mean + d;
    for (uint32_t j = 0; j < d; j++) {
        mean[j] = 1.5f * gauss(prng) * pair_energy(j, d);
        sink[j] = j % (d / 2) >= d / 2 - d / 8 ? gauss(prng) * 2 : 0;
    }
}

static void make_tokens(lw_synth_t *synth, lw_prng_t *prng)
{
    uint32_t topic = 0, left = 0, look = 0, look_left = 0;
    for (uint32_t i = 0; i < synth->config.token_count; i++) {
        if (left-- == 0) {
            left = 48 + (uint32_t)lw_prng_below(prng, 200);
            topic = (uint32_t)lw_prng_below(prng, TOPICS);
        }
        synth->topic[i] = (uint8_t)topic;
        /* Small type numbers are frequent, as words are. */
        double u = lw_prng_unit(prng);
        synth->type[i] = (uint8_t)(u * u * TYPES);
        if (look_left-- == 0) {
            look_left = 4 + (uint32_t)lw_prng_below(prng, 24);
            look = (uint32_t)lw_prng_below(prng, i + 1);
        }
        uint32_t step = (uint32_t)lw_prng_below(prng, 3);
        look = look + step <= i ? look + step : i;
        synth->target[i] = look;
    }
}

lw_synth_t *lw_synth_create(const lw_synth_config_t *config)
{
    lw_synth_t *synth = calloc(1, sizeof *synth);
    if (synth == NULL)
        return NULL;
    synth->config = *config;
    size_t tables = (size_t)config->layer_count * config->kv_head_count;
    synth->topic = malloc(config->token_count);
    synth->type = malloc(config->token_count);
    synth->target = malloc(config->token_count * sizeof *synth->target);
    synth->tables = malloc(tables * table_floats(config->head_dim) * sizeof *synth->tables);
    if (synth->topic == NULL || synth->type == NULL || synth->target == NULL || synth->tables == NULL) {
        lw_synth_destroy(synth);
        return NULL;
    }
    lw_prng_t prng;
    lw_prng_seed(&prng, config->seed);
    for (uint32_t k = 0; k < DIRECTIONS; k++) {
        for (uint32_t i = 0; i < TOPICS; i++)
            synth->mix_topic[i][k] = gauss(&prng);
        for (uint32_t i = 0; i < TYPES; i++)
            synth->mix_type[i][k] = gauss(&prng);
    }
    make_tokens(synth, &prng);
    for (size_t i = 0; i < tables; i++)
        make_table(&prng, config->head_dim, synth->tables + i * table_floats(config->head_dim));
    return synth;
}

void lw_synth_destroy(lw_synth_t *synth)
{
    if (synth == NULL)
        return;
    free(synth->topic);
    free(synth->type);
    free(synth->target);
    free(synth->tables);
    free(synth);
}

/* directions' * (topic + type) of a token. */
static void content(const lw_synth_t *synth, const float *directions, uint32_t token, float *row_out)
{
    uint32_t d = synth->config.head_dim;
    memset(row_out, 0, d * sizeof *row_out);
    for (uint32_t k = 0; k < DIRECTIONS; k++) {
        float weight =
            0.8f * synth->mix_topic[synth->topic[token]][k] + 0.7f * synth->mix_type[synth->type[token]][k];
        for (uint32_t j = 0; j < d; j++)
            row_out[j] += weight * directions[k * d + j];
    }
}

void lw_synth_row(const lw_synth_t *synth, uint32_t layer, uint32_t head, uint32_t token, float *key_out,
                  float *value_out)
{
    uint32_t d = synth->config.head_dim;
    const float *table = table_of(synth, layer, head), *mean = table + 2 * DIRECTIONS * d, *sink = mean + d;
    lw_prng_t prng;
    lw_prng_seed(&prng, synth->config.seed ^
                            ((uint64_t)layer << 48 | (uint64_t)head << 40 | token) * 0x9E3779B97F4A7C15ull);
    content(synth, table, token, key_out);
    content(synth, table + DIRECTIONS * d, token, value_out);
    for (uint32_t j = 0; j < d; j++) {
        if (token < SINKS) {
            key_out[j] = sink[j];
            value_out[j] = 0;
        }
        key_out[j] += mean[j] + NOISE * gauss(&prng);
        value_out[j] += NOISE * gauss(&prng);
    }
    rotate(key_out, d, token);
}

void lw_synth_query(const lw_synth_t *synth, uint32_t layer, uint32_t query_head, uint32_t position,
                    uint32_t target, float *query_out)
{
    uint32_t d = synth->config.head_dim, group = synth->config.group;
    const float *table = table_of(synth, layer, query_head / group), *sink = table + (2 * DIRECTIONS + 1) * d;
    lw_prng_t prng;
    lw_prng_seed(&prng, synth->config.seed ^
                            ((uint64_t)layer << 48 | (uint64_t)query_head << 40) * 0xD1B54A32D192ED03ull);
    /* Each query head sees the target through gates of its own, and with a sharpness of its own. */
    float sharpness = 0.8f + 1.6f * (float)lw_prng_unit(&prng);
    content(synth, table, target, query_out);
    for (uint32_t j = 0; j < d; j++)
        query_out[j] = sharpness * query_out[j] * (float)(0.5 + lw_prng_unit(&prng)) + 0.3f * sink[j];
    rotate(query_out, d, position);
}

uint32_t lw_synth_target(const lw_synth_t *synth, uint32_t position)
{
    return synth->target[position];
}
