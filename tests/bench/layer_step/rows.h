/* rows.h - keys, values and queries for the bench: the same numbers on every machine, any row by itself.
 *
 * A KV head has a common mean and 64 topics; tokens come in passages of 24 that share a topic; a key is mean + topic + noise, a
 * value its own topic + noise. A query asks for a topic or two of its KV head. So a few percent of the tokens carry nearly all
 * of the weight, and queries of different steps want different ones. Not here: rotation by position, sinks, a local window,
 * heads of unlike sharpness (tests/ops/synth.h has them): the bench counts bytes and times, it judges no answers. */
#ifndef BENCH_ROWS_H
#define BENCH_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

typedef struct bench_rows bench_rows_t;

/* NULL: no memory. */
bench_rows_t *bench_rows_create(const lwk_shape_t *shape, uint64_t seed);
void bench_rows_destroy(bench_rows_t *rows);

/* Tokens first .. first + count - 1 of every (layer, KV head): row i of head j = layer * J + head at
 * keys + (j * count + i) * d elements. Uses `threads` threads. */
void bench_rows_fill(const bench_rows_t *rows, uint32_t first, uint32_t count, unsigned threads, void *keys, void *values);
/* Queries [layer][query head][d] of one step. A KV head asks for the topic of the step before with probability keep_ppm / 1e6. */
void bench_rows_query(const bench_rows_t *rows, uint32_t step, uint32_t keep_ppm, void *queries);

#endif /* BENCH_ROWS_H */
