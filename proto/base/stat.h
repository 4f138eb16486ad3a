/* stat.h - counters, gauges and latency histograms from rows: STAT(KIND, name, help) in a .def file.
 *
 * The struct field, the Prometheus line and the reference page come from the row. A stat is written by one
 * thread (relaxed atomic store) and read by any; per-thread blocks are summed when shown. */
#ifndef LW_STAT_H
#define LW_STAT_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

typedef enum lw_stat_kind { LW_STAT_COUNTER, LW_STAT_GAUGE, LW_STAT_HISTOGRAM } lw_stat_kind_t;

#define LW_HISTOGRAM_BUCKETS 28 /* bucket b counts values in [2^(b-1), 2^b) microseconds; the last is open */

typedef _Atomic uint64_t lw_counter_t; /* counters and gauges */
typedef struct lw_histogram {
    _Atomic uint64_t bucket[LW_HISTOGRAM_BUCKETS];
    _Atomic uint64_t sum, count;
} lw_histogram_t;

typedef struct lw_stat_row {
    lw_stat_kind_t kind;
    const char *name, *help;
    size_t offset; /* of the lw_counter_t or lw_histogram_t in the stats struct */
} lw_stat_row_t;

static inline void lw_count(lw_counter_t *counter, uint64_t add)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + add, memory_order_relaxed);
}
static inline void lw_gauge(lw_counter_t *gauge, uint64_t value)
{
    atomic_store_explicit(gauge, value, memory_order_relaxed);
}
void lw_histogram_add(lw_histogram_t *histogram, uint64_t value_us);

/* Writes Prometheus text (format 0.0.4) for `block_count` blocks summed; names are prefix_name, histograms in seconds
 * (a row "wait_us" is shown as prefix_wait_seconds).
 * Returns the bytes that the whole text needs (as snprintf does). */
size_t lw_stat_prometheus(const char *prefix, const lw_stat_row_t *rows, size_t row_count, const void *const *blocks,
                          size_t block_count, char *text, size_t text_bytes);
void lw_stat_reference(const char *title, const char *prefix, const lw_stat_row_t *rows, size_t row_count, FILE *out);

#endif /* LW_STAT_H */
