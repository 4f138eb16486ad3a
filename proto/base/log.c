/* log.c - formats one line and hands it to the sink. Any thread; never called on the step or serve path.
 *
 * One mutex orders lines and guards the sink. It is held while the sink runs, so that after
 * lw_log_set_sink() returns, the old sink is no longer in use. A sink must not log. */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

#define LINE_MAX_BYTES 1024
#define RATE_US 1000000u

static const char *const level_names[] = {"error", "warn", "info", "debug"};

static pthread_mutex_t sink_lock = PTHREAD_MUTEX_INITIALIZER;
static lw_log_sink_t sink_call; /* NULL: stderr */
static void *sink_arg;

static pthread_once_t level_once = PTHREAD_ONCE_INIT;
static _Atomic int level_now = LW_LOG_WARN;

static void level_from_environment(void)
{
    const char *text = getenv("LW_LOG");
    lw_log_level_t level;

    if (text != NULL && lw_log_level_parse(text, &level) == LW_OK) {
        atomic_store(&level_now, level);
    }
}

lw_status_t lw_log_level_parse(const char *text, lw_log_level_t *level_out)
{
    for (unsigned i = 0; i < LW_ARRAY_SIZE(level_names); i++) {
        if (strcmp(text, level_names[i]) == 0) {
            *level_out = (lw_log_level_t)i;
            return LW_OK;
        }
    }
    return LW_ERR_INVALID;
}

void lw_log_set_level(lw_log_level_t level)
{
    pthread_once(&level_once, level_from_environment); /* or the environment would win later */
    atomic_store(&level_now, level);
}

void lw_log_set_sink(lw_log_sink_t sink, void *arg)
{
    pthread_mutex_lock(&sink_lock);
    sink_call = sink;
    sink_arg = arg;
    pthread_mutex_unlock(&sink_lock);
}

static void write_stderr(lw_log_level_t level, const char *component, const char *line)
{
    uint64_t now_us = lw_clock_real()->unix_us(NULL);
    time_t seconds = (time_t)(now_us / 1000000u);
    struct tm utc;
    char stamp[32];

    gmtime_r(&seconds, &utc);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &utc);
    fprintf(stderr, "%s.%06uZ %-5s %s: %s\n", stamp, (unsigned)(now_us % 1000000u), level_names[level],
            component, line);
}

static bool level_passes(lw_log_level_t level)
{
    pthread_once(&level_once, level_from_environment);
    return (int)level <= atomic_load_explicit(&level_now, memory_order_relaxed);
}

static void emit(lw_log_level_t level, const char *component, char *line)
{
    for (char *c = line; *c != '\0'; c++) { /* what a peer said must not fake a second line */
        if ((unsigned char)*c < 0x20 || *c == 0x7f) {
            *c = '?';
        }
    }
    pthread_mutex_lock(&sink_lock);
    if (sink_call != NULL) {
        sink_call(sink_arg, level, component, line);
    } else {
        write_stderr(level, component, line);
    }
    pthread_mutex_unlock(&sink_lock);
}

void lw_log(lw_log_level_t level, const char *component, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;

    if (!level_passes(level)) {
        return;
    }
    va_start(args, format);
    vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    emit(level, component, line);
}

void lw_log_rated(lw_log_rate_t *state, lw_log_level_t level, const char *component, const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    int used;

    if (!level_passes(level)) {
        return;
    }
    uint64_t now_us = lw_max_u64(lw_now_us(lw_clock_real()), 1); /* 0 means: never logged */
    uint64_t last_us = __atomic_load_n(&state->last_us, __ATOMIC_RELAXED);
    if ((last_us != 0 && now_us - last_us < RATE_US) ||
        !__atomic_compare_exchange_n(&state->last_us, &last_us, now_us, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED)) {
        __atomic_fetch_add(&state->held, 1, __ATOMIC_RELAXED);
        return;
    }
    uint64_t held = __atomic_exchange_n(&state->held, 0, __ATOMIC_RELAXED);
    va_start(args, format);
    used = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (held > 0 && used >= 0) {
        char tail[48];
        int tail_bytes = snprintf(tail, sizeof(tail), " (%llu more held back)", (unsigned long long)held);
        size_t at = lw_min_u64((uint64_t)used, sizeof(line) - 1 - (size_t)tail_bytes);

        memcpy(line + at, tail, (size_t)tail_bytes + 1); /* a long line gives way: the count matters more */
    }
    emit(level, component, line);
}
