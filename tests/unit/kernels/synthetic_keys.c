/* synthetic_keys.c - see synthetic_keys.h. */
#include "unit/kernels/synthetic_keys.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/prng.h"

#define DIRECTIONS 24 /* shared by topics and types */
#define TOPICS 96
#define TYPES 384
#define PASSAGE 160 /* tokens on average */
#define ROTARY_BASE 500000.0

typedef struct world {
    uint32_t d;
    lw_prng_t prng;
    double *energy;     /* [d] share of content and noise that a channel carries */
    double *directions; /* [DIRECTIONS][d] */
    double *topics;     /* [TOPICS][DIRECTIONS] */
    double *types;      /* [TYPES][DIRECTIONS] */
    double *mean;       /* [d] */
} world_t;

static double normal(lw_prng_t *prng)
{
    double u = lw_prng_unit(prng), v = lw_prng_unit(prng);
    return sqrt(-2 * log(1 - u)) * cos(6.283185307179586 * v);
}

static double *numbers(size_t count)
{
    double *memory = calloc(count, sizeof *memory);
    LW_ASSERT(memory != NULL);
    return memory;
}

static void mix(double *rows, uint32_t count, lw_prng_t *prng)
{
    for (size_t at = 0; at < (size_t)count * DIRECTIONS; at++)
        rows[at] = normal(prng) / sqrt(DIRECTIONS);
}

static world_t make_world(const synthetic_spec_t *spec)
{
    world_t w = {.d = spec->head_dim};
    uint32_t d = w.d;
    lw_prng_seed(&w.prng, spec->seed);
    w.energy = numbers(d);
    w.directions = numbers((size_t)DIRECTIONS * d);
    w.topics = numbers(TOPICS * DIRECTIONS);
    w.types = numbers(TYPES * DIRECTIONS);
    w.mean = numbers(d);
    for (uint32_t j = 0; j < d; j++) {
        uint32_t pair = j % (d / 2);
        w.energy[j] = pair < d / 6 ? 0.1 : pair < d / 4 ? 0.5 : 1.3;
        w.mean[j] = 2.5 * normal(&w.prng) / sqrt(d) * (pair < d / 6 ? 1 : 0.7);
    }
    for (uint32_t r = 0; r < DIRECTIONS; r++)
        for (uint32_t j = 0; j < d; j++)
            w.directions[(size_t)r * d + j] = w.energy[j] * normal(&w.prng) / sqrt(d);
    mix(w.topics, TOPICS, &w.prng);
    mix(w.types, TYPES, &w.prng);
    return w;
}

static void free_world(world_t *w)
{
    free(w->energy);
    free(w->directions);
    free(w->topics);
    free(w->types);
    free(w->mean);
}

/* sqrt(DIRECTIONS) makes content about as large as 1 in all. */
static void place(const world_t *w, const double *coefficients, double *content_out)
{
    memset(content_out, 0, w->d * sizeof *content_out);
    for (uint32_t r = 0; r < DIRECTIONS; r++)
        for (uint32_t j = 0; j < w->d; j++)
            content_out[j] += coefficients[r] * w->directions[(size_t)r * w->d + j];
}

static void rotate(const double *from, uint32_t d, double position, float *to)
{
    for (uint32_t pair = 0; pair < d / 2; pair++) {
        double angle = position * pow(ROTARY_BASE, -2.0 * pair / d), c = cos(angle), s = sin(angle);
        to[pair] = (float)(from[pair] * c - from[pair + d / 2] * s);
        to[pair + d / 2] = (float)(from[pair] * s + from[pair + d / 2] * c);
    }
}

static void make_keys(const synthetic_spec_t *spec, world_t *w, float *keys, double *coefficients)
{
    double topic[DIRECTIONS] = {0}, *content = numbers(w->d);
    for (uint32_t t = 0; t < spec->tokens; t++) {
        if (t == 0 || lw_prng_below(&w->prng, PASSAGE) == 0) {
            const double *next = w->topics + lw_prng_below(&w->prng, TOPICS) * DIRECTIONS;
            for (uint32_t r = 0; r < DIRECTIONS; r++)
                topic[r] = 0.4 * topic[r] + 0.9 * next[r];
        }
        const double *type = w->types + lw_prng_below(&w->prng, TYPES) * DIRECTIONS;
        double *own = coefficients + (size_t)t * DIRECTIONS;
        for (uint32_t r = 0; r < DIRECTIONS; r++)
            own[r] = topic[r] + 0.8 * type[r];
        place(w, own, content);
        for (uint32_t j = 0; j < w->d; j++)
            content[j] += w->mean[j] + spec->noise * w->energy[j] * normal(&w->prng) / sqrt(w->d);
        rotate(content, w->d, t, keys + (size_t)t * w->d);
    }
    free(content);
}

/* Scales a query so that its logits deviate by `deviation` over a sample of the keys. */
static void scale_query(const synthetic_spec_t *spec, const float *keys, double deviation, float *query)
{
    double sum = 0, square = 0;
    uint32_t d = spec->head_dim, step = spec->tokens / 512 + 1, count = 0;
    for (uint32_t t = 0; t < spec->tokens; t += step, count++) {
        double x = 0;
        for (uint32_t j = 0; j < d; j++)
            x += query[j] * keys[(size_t)t * d + j];
        sum += x;
        square += x * x;
    }
    double spread = sqrt(square / count - sum / count * (sum / count));
    for (uint32_t j = 0; j < d; j++)
        query[j] = (float)(query[j] * deviation / spread * sqrt(d));
}

void synthetic_keys(const synthetic_spec_t *spec, float *keys_out, float *queries_out)
{
    world_t w = make_world(spec);
    double *coefficients = numbers((size_t)spec->tokens * DIRECTIONS), *content = numbers(w.d);
    make_keys(spec, &w, keys_out, coefficients);
    for (uint32_t i = 0; i < spec->queries; i++) {
        const double *target = coefficients + lw_prng_below(&w.prng, spec->tokens) * DIRECTIONS;
        place(&w, target, content);
        for (uint32_t j = 0; j < w.d; j++)
            content[j] = content[j] * (0.5 + lw_prng_unit(&w.prng)) + 0.1 * normal(&w.prng) / sqrt(w.d);
        rotate(content, w.d, spec->tokens, queries_out + (size_t)i * w.d);
        scale_query(spec, keys_out, 1 + 3.0 * i / spec->queries, queries_out + (size_t)i * w.d);
    }
    free(coefficients);
    free(content);
    free_world(&w);
}
