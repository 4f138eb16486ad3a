/* stat.c - latency histograms, and the text that shows all stats. Written by one thread, shown by any. */
#include "base/stat.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/base.h"

void lw_histogram_add(lw_histogram_t *histogram, uint64_t value_us)
{
    unsigned bucket = value_us == 0 ? 0 : 64u - (unsigned)__builtin_clzll(value_us);

    if (bucket >= LW_HISTOGRAM_BUCKETS) {
        bucket = LW_HISTOGRAM_BUCKETS - 1;
    }
    lw_count(&histogram->bucket[bucket], 1);
    lw_count(&histogram->sum, value_us);
    lw_count(&histogram->count, 1);
}

/* Text that may not fit: `need` counts on, as snprintf does. */
typedef struct text {
    char *at;
    size_t room, need;
} text_t;

static void put(text_t *out, const char *format, ...) LW_PRINTF(2, 3);
static void put(text_t *out, const char *format, ...)
{
    size_t used = out->need < out->room ? out->need : out->room;
    va_list args;

    va_start(args, format);
    int bytes = vsnprintf(out->room > used ? out->at + used : NULL, out->room - used, format, args);
    va_end(args);
    LW_ASSERT(bytes >= 0);
    out->need += (size_t)bytes;
}

static uint64_t sum_at(const void *const *blocks, size_t block_count, size_t offset)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < block_count; i++) {
        const lw_counter_t *counter = (const lw_counter_t *)(const void *)((const char *)blocks[i] + offset);
        sum += atomic_load_explicit(counter, memory_order_relaxed);
    }
    return sum;
}

/* A histogram row "wait_us" is shown as "wait_seconds": values are shown in the unit that the name says. */
static void shown_name(const char *prefix, const lw_stat_row_t *row, char *name, size_t name_bytes)
{
    size_t bytes = strlen(row->name);

    if (row->kind == LW_STAT_HISTOGRAM && bytes > 3 && strcmp(row->name + bytes - 3, "_us") == 0) {
        snprintf(name, name_bytes, "%s_%.*s_seconds", prefix, (int)(bytes - 3), row->name);
    } else {
        snprintf(name, name_bytes, "%s_%s", prefix, row->name);
    }
}

static const char *kind_text(lw_stat_kind_t kind)
{
    switch (kind) {
    case LW_STAT_COUNTER:
        return "counter";
    case LW_STAT_GAUGE:
        return "gauge";
    default:
        return "histogram";
    }
}

static void put_help(text_t *out, const char *name, const lw_stat_row_t *row)
{
    put(out, "# HELP %s ", name);
    for (const char *c = row->help; *c != '\0'; c++) {
        if (*c == '\\' || *c == '\n') {
            put(out, "%s", *c == '\\' ? "\\\\" : "\\n");
        } else {
            put(out, "%c", *c);
        }
    }
    put(out, "\n# TYPE %s %s\n", name, kind_text(row->kind));
}

static void put_histogram(text_t *out, const char *name, size_t offset, const void *const *blocks,
                          size_t block_count)
{
    uint64_t below = 0;

    for (unsigned i = 0; i < LW_HISTOGRAM_BUCKETS; i++) {
        below +=
            sum_at(blocks, block_count, offset + offsetof(lw_histogram_t, bucket) + i * sizeof(lw_counter_t));
        if (i + 1 < LW_HISTOGRAM_BUCKETS) {
            put(out, "%s_bucket{le=\"%.9g\"} %" PRIu64 "\n", name, (double)(1ull << i) * 1e-6, below);
        }
    }
    /* The count is the buckets' sum, not the count field: a reader between two stores sees one truth. */
    put(out, "%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, below);
    uint64_t sum_us = sum_at(blocks, block_count, offset + offsetof(lw_histogram_t, sum));
    put(out, "%s_sum %" PRIu64 ".%06" PRIu64 "\n", name, sum_us / 1000000u, sum_us % 1000000u);
    put(out, "%s_count %" PRIu64 "\n", name, below);
}

size_t lw_stat_prometheus(const char *prefix, const lw_stat_row_t *rows, size_t row_count,
                          const void *const *blocks, size_t block_count, char *text, size_t text_bytes)
{
    text_t out = {.at = text, .room = text_bytes, .need = 0};

    if (text_bytes > 0) {
        text[0] = '\0';
    }
    for (size_t i = 0; i < row_count; i++) {
        char name[160];

        shown_name(prefix, &rows[i], name, sizeof(name));
        put_help(&out, name, &rows[i]);
        if (rows[i].kind == LW_STAT_HISTOGRAM) {
            put_histogram(&out, name, rows[i].offset, blocks, block_count);
        } else {
            put(&out, "%s %" PRIu64 "\n", name, sum_at(blocks, block_count, rows[i].offset));
        }
    }
    return out.need;
}

void lw_stat_reference(const char *title, const char *prefix, const lw_stat_row_t *rows, size_t row_count,
                       FILE *out)
{
    fprintf(out, "# %s\n\n| metric | kind | meaning |\n|---|---|---|\n", title);
    for (size_t i = 0; i < row_count; i++) {
        char name[160];

        shown_name(prefix, &rows[i], name, sizeof(name));
        fprintf(out, "| `%s` | %s | %s |\n", name, kind_text(rows[i].kind), rows[i].help);
    }
}
