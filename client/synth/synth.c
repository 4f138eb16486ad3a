/* synth.c - the generator of synth.h. What costs time is done once: the content of each topic and type in
 * each head's directions, a stretch of gaussian noise that rows start at random places of, and, for a block
 * of tokens, the angles of their positions. */
#include "client/synth/synth.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/prng.h"

#define DIRECTIONS 24u
#define TOPICS 48u
#define TYPES 256u
#define SINKS 4u
#define NOISE 0.3f
#define ROPE_BASE 500000.0 /* as of models that read long contexts: the slow pairs hardly turn within one */
#define NOISE_ROWS (1u << 16) /* a row starts at any of these */
#define BLOCK_TOKENS 32u      /* share one table of angles */
#define PAIRS_MAX (LW_SYNTH_HEAD_DIM_MAX / 2)

/* One head's rows, each [head_dim]. */
enum {
    KEY_TOPIC = 0,
    KEY_TYPE = KEY_TOPIC + TOPICS,
    VALUE_TOPIC = KEY_TYPE + TYPES,
    VALUE_TYPE = VALUE_TOPIC + TOPICS,
    MEAN = VALUE_TYPE + TYPES,
    SINK,
    TABLE_ROWS
};

struct lw_synth {
    lw_synth_config_t config;
    const struct lw_synth *parent; /* whose tables these are; NULL: its own */
    uint8_t *topic, *type;         /* [token_count] */
    uint32_t *target;              /* [token_count] */
    float *tables;                 /* [layer][head][TABLE_ROWS][head_dim] */
    float *noise;                  /* [NOISE_ROWS + head_dim] */
    double frequency[PAIRS_MAX];
};

static float gauss(lw_prng_t *prng)
{
    double u = 1.0 - lw_prng_unit(prng), v = lw_prng_unit(prng);
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

static const float *row_of(const lw_synth_t *synth, uint32_t layer, uint32_t head, uint32_t row)
{
    size_t table = (size_t)layer * synth->config.kv_head_count + head;
    return synth->tables + (table * TABLE_ROWS + row) * synth->config.head_dim;
}

static uint64_t mix(uint64_t seed, uint64_t layer, uint64_t head, uint64_t token)
{
    uint64_t x = seed ^ (layer << 48 | head << 40 | token) * 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 31) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 29) * 0x94D049BB133111EBull;
    return x ^ x >> 32;
}

/* ---- tables ---- */

/* Pair p of a rotary embedding is (p, p + d/2); a larger p turns slower and carries more of the content. */
static float pair_energy(uint32_t j, uint32_t d)
{
    uint32_t p = j % (d / 2);
    return p < d / 8 ? 0.15f : p < d / 4 ? 0.4f : p < 3 * d / 8 ? 0.9f : 1.5f;
}

/* rows_out[i] = scale * sum of weight[i][k] direction[k] */
static void combine(const float (*weight)[DIRECTIONS], uint32_t rows, float scale, const float *direction,
                    uint32_t d, float *rows_out)
{
    memset(rows_out, 0, (size_t)rows * d * sizeof(float));
    for (uint32_t i = 0; i < rows; i++)
        for (uint32_t k = 0; k < DIRECTIONS; k++)
            for (uint32_t j = 0; j < d; j++)
                rows_out[(size_t)i * d + j] += scale * weight[i][k] * direction[(size_t)k * d + j];
}

typedef struct {
    float topic[TOPICS][DIRECTIONS], type[TYPES][DIRECTIONS];
    float direction[2][DIRECTIONS * LW_SYNTH_HEAD_DIM_MAX]; /* of keys, of values */
} drawing_t;

static void make_table(lw_prng_t *prng, drawing_t *drawing, uint32_t d, float *table)
{
    float norm = 1.0f / sqrtf((float)DIRECTIONS);
    for (uint32_t k = 0; k < DIRECTIONS; k++)
        for (uint32_t j = 0; j < d; j++) {
            drawing->direction[0][k * d + j] = gauss(prng) * norm * pair_energy(j, d);
            drawing->direction[1][k * d + j] = gauss(prng) * norm;
        }
    for (uint32_t j = 0; j < d; j++) {
        table[(size_t)MEAN * d + j] = 1.5f * gauss(prng) * pair_energy(j, d);
        table[(size_t)SINK * d + j] = j % (d / 2) >= d / 2 - d / 8 ? gauss(prng) * 2 : 0;
    }
    for (uint32_t of = 0; of < 2; of++) {
        float *topics = table + (size_t)(of == 0 ? KEY_TOPIC : VALUE_TOPIC) * d;
        combine(drawing->topic, TOPICS, 0.8f, drawing->direction[of], d, topics);
        combine(drawing->type, TYPES, 0.7f, drawing->direction[of], d, topics + (size_t)TOPICS * d);
    }
}

static int make_tables(lw_synth_t *synth, lw_prng_t *prng)
{
    uint32_t d = synth->config.head_dim;
    size_t tables = (size_t)synth->config.layer_count * synth->config.kv_head_count;
    drawing_t *drawing = malloc(sizeof(*drawing));
    synth->tables = malloc(tables * TABLE_ROWS * d * sizeof(float));
    synth->noise = malloc((NOISE_ROWS + d) * sizeof(float));
    if (drawing && synth->tables && synth->noise) {
        for (uint32_t k = 0; k < DIRECTIONS; k++) {
            for (uint32_t i = 0; i < TOPICS; i++)
                drawing->topic[i][k] = gauss(prng);
            for (uint32_t i = 0; i < TYPES; i++)
                drawing->type[i][k] = gauss(prng);
        }
        for (size_t i = 0; i < tables; i++)
            make_table(prng, drawing, d, synth->tables + i * TABLE_ROWS * d);
        for (uint32_t i = 0; i < NOISE_ROWS + d; i++)
            synth->noise[i] = NOISE * gauss(prng);
    }
    free(drawing);
    return drawing && synth->tables && synth->noise;
}

/* ---- the text ---- */

static int make_text(lw_synth_t *synth, lw_prng_t *prng)
{
    uint32_t count = synth->config.token_count, topic = 0, left = 0, look = 0, look_left = 0;
    synth->topic = malloc(count);
    synth->type = malloc(count);
    synth->target = malloc((size_t)count * sizeof(*synth->target));
    if (!synth->topic || !synth->type || !synth->target)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
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
    return 1;
}

/* ---- the object ---- */

static lw_synth_t *create(const lw_synth_config_t *config, const lw_synth_t *parent)
{
    lw_synth_t *synth = calloc(1, sizeof(*synth));
    lw_prng_t prng;
    if (!synth)
        return NULL;
    synth->config = *config;
    synth->parent = parent;
    for (uint32_t p = 0; p < config->head_dim / 2; p++)
        synth->frequency[p] = pow(ROPE_BASE, -2.0 * p / config->head_dim);
    lw_prng_seed(&prng, config->seed);
    int made;
    if (parent) {
        synth->tables = parent->tables;
        synth->noise = parent->noise;
        made = 1;
    } else {
        made = make_tables(synth, &prng);
    }
    if (made && make_text(synth, &prng))
        return synth;
    lw_synth_destroy(synth);
    return NULL;
}

lw_synth_t *lw_synth_create(const lw_synth_config_t *config)
{
    return create(config, NULL);
}

lw_synth_t *lw_synth_text(const lw_synth_t *parent, uint64_t seed)
{
    lw_synth_config_t config = parent->config;
    config.seed = seed;
    return create(&config, parent);
}

void lw_synth_destroy(lw_synth_t *synth)
{
    if (!synth)
        return;
    if (!synth->parent) {
        free(synth->tables);
        free(synth->noise);
    }
    free(synth->topic);
    free(synth->type);
    free(synth->target);
    free(synth);
}

/* ---- rows ---- */

/* Angles of one position: cosines, then sines. */
typedef struct {
    float c[PAIRS_MAX], s[PAIRS_MAX];
} angles_t;

static void angles_at(const lw_synth_t *synth, uint32_t position, angles_t *out)
{
    for (uint32_t p = 0; p < synth->config.head_dim / 2; p++) {
        out->c[p] = (float)cos(position * synth->frequency[p]);
        out->s[p] = (float)sin(position * synth->frequency[p]);
    }
}

/* The same for `count` positions in a row, each from the one before. */
static void angles_from(const lw_synth_t *synth, uint32_t first, uint32_t count, angles_t *out)
{
    for (uint32_t p = 0; p < synth->config.head_dim / 2; p++) {
        double c = cos(first * synth->frequency[p]), s = sin(first * synth->frequency[p]);
        double by_c = cos(synth->frequency[p]), by_s = sin(synth->frequency[p]);
        for (uint32_t i = 0; i < count; i++) {
            out[i].c[p] = (float)c;
            out[i].s[p] = (float)s;
            double next = c * by_c - s * by_s;
            s = s * by_c + c * by_s;
            c = next;
        }
    }
}

static void rotate(float *x, uint32_t d, const angles_t *angles)
{
    for (uint32_t p = 0; p < d / 2; p++) {
        float c = angles->c[p], s = angles->s[p], a = x[p], b = x[p + d / 2];
        x[p] = a * c - b * s;
        x[p + d / 2] = a * s + b * c;
    }
}

static void make_row(const lw_synth_t *synth, uint32_t layer, uint32_t head, uint32_t token,
                     const angles_t *angles, float *restrict key, float *restrict value)
{
    uint32_t d = synth->config.head_dim;
    uint64_t random = mix(synth->config.seed, layer, head, token);
    const float *noise = synth->noise + random % NOISE_ROWS,
                *other = synth->noise + (random >> 32) % NOISE_ROWS;
    const float *mean = row_of(synth, layer, head, MEAN);
    if (token < SINKS) {
        const float *sink = row_of(synth, layer, head, SINK);
        for (uint32_t j = 0; j < d; j++) {
            key[j] = sink[j] + mean[j] + noise[j];
            value[j] = other[j];
        }
    } else {
        const float *key_topic = row_of(synth, layer, head, KEY_TOPIC + synth->topic[token]);
        const float *key_type = row_of(synth, layer, head, KEY_TYPE + synth->type[token]);
        const float *value_topic = row_of(synth, layer, head, VALUE_TOPIC + synth->topic[token]);
        const float *value_type = row_of(synth, layer, head, VALUE_TYPE + synth->type[token]);
        for (uint32_t j = 0; j < d; j++) {
            key[j] = key_topic[j] + key_type[j] + mean[j] + noise[j];
            value[j] = value_topic[j] + value_type[j] + other[j];
        }
    }
    rotate(key, d, angles);
}

void lw_synth_row(const lw_synth_t *synth, uint32_t layer, uint32_t head, uint32_t token, float *key_out,
                  float *value_out)
{
    angles_t angles;
    angles_at(synth, token, &angles);
    make_row(synth, layer, head, token, &angles, key_out, value_out);
}

void lw_synth_fill(const lw_synth_t *synth, uint32_t layer, uint32_t head, uint32_t head_count,
                   uint32_t first, uint32_t count, uint16_t *key_out, uint16_t *value_out)
{
    uint32_t d = synth->config.head_dim;
    angles_t angles[BLOCK_TOKENS];
    float key[LW_SYNTH_HEAD_DIM_MAX], value[LW_SYNTH_HEAD_DIM_MAX];
    for (uint32_t done = 0; done < count; done += BLOCK_TOKENS) {
        uint32_t tokens = count - done < BLOCK_TOKENS ? count - done : BLOCK_TOKENS;
        angles_from(synth, first + done, tokens, angles);
        for (uint32_t h = 0; h < head_count; h++)
            for (uint32_t t = 0; t < tokens; t++) {
                size_t at = ((size_t)(done + t) * head_count + h) * d;
                make_row(synth, layer, head + h, first + done + t, &angles[t], key, value);
                for (uint32_t j = 0; j < d; j++) {
                    key_out[at + j] = lw_synth_bf16(key[j]);
                    value_out[at + j] = lw_synth_bf16(value[j]);
                }
            }
    }
}

/* ---- queries ---- */

void lw_synth_query(const lw_synth_t *synth, uint32_t layer, uint32_t query_head, uint32_t position,
                    uint32_t target, float *query_out)
{
    uint32_t d = synth->config.head_dim, head = query_head / synth->config.group;
    const float *topic = row_of(synth, layer, head, KEY_TOPIC + synth->topic[target]);
    const float *type = row_of(synth, layer, head, KEY_TYPE + synth->type[target]);
    const float *sink = row_of(synth, layer, head, SINK);
    const lw_synth_t *model = synth->parent ? synth->parent : synth;
    lw_prng_t prng;
    angles_t angles;
    lw_prng_seed(&prng, model->config.seed ^
                            ((uint64_t)layer << 48 | (uint64_t)query_head << 40) * 0xD1B54A32D192ED03ull);
    /* Each query head sees the target through gates of its own, and with a sharpness of its own. */
    float sharpness = 0.5f + 1.1f * (float)lw_prng_unit(&prng);
    for (uint32_t j = 0; j < d; j++)
        query_out[j] = sharpness * (topic[j] + type[j]) * (float)(0.5 + lw_prng_unit(&prng)) + 0.3f * sink[j];
    angles_at(synth, position, &angles);
    rotate(query_out, d, &angles);
}

uint32_t lw_synth_target(const lw_synth_t *synth, uint32_t position)
{
    return synth->target[position];
}
