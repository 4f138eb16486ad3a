/* log.h - one line per event: time, level, component, text. Thread-safe; never on the step or serve path.
 *
 * The first place that knows the cause logs it once; everyone above passes the status on. */
#ifndef LW_LOG_H
#define LW_LOG_H

#include <stdint.h>

#include "base/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lw_log_level { LW_LOG_ERROR, LW_LOG_WARN, LW_LOG_INFO, LW_LOG_DEBUG } lw_log_level_t;

/* Lines above `level` are dropped. Default: LW_LOG_WARN, or the environment's LW_LOG (error, warn, info, debug). */
void lw_log_set_level(lw_log_level_t level);
/* "error", "warn", "info" or "debug" to a level; ERR_INVALID otherwise. */
LW_CHECK lw_status_t lw_log_level_parse(const char *text, lw_log_level_t *level_out);
/* Replaces the sink (default: stderr). NULL restores it. Used by tests that fail on unexpected errors.
 * The sink runs under the log's lock: it must not log. Once this returns, the old sink is not in use any more. */
typedef void (*lw_log_sink_t)(void *arg, lw_log_level_t level, const char *component, const char *line);
void lw_log_set_sink(lw_log_sink_t sink, void *arg);

void lw_log(lw_log_level_t level, const char *component, const char *format, ...) LW_PRINTF(3, 4);

/* At most one line a second for each call site; tells how many were held back. `state` is zeroed static storage. */
typedef struct lw_log_rate {
    uint64_t last_us, held;
} lw_log_rate_t;
void lw_log_rated(lw_log_rate_t *state, lw_log_level_t level, const char *component, const char *format, ...)
    LW_PRINTF(4, 5);

#ifdef __cplusplus
}
#endif

#define LW_ERROR(component, ...) lw_log(LW_LOG_ERROR, component, __VA_ARGS__)
#define LW_WARN(component, ...) lw_log(LW_LOG_WARN, component, __VA_ARGS__)
#define LW_INFO(component, ...) lw_log(LW_LOG_INFO, component, __VA_ARGS__)
#define LW_DEBUG(component, ...) lw_log(LW_LOG_DEBUG, component, __VA_ARGS__)

#endif /* LW_LOG_H */
