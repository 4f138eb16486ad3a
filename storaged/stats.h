/* stats.h - the struct that stats.def describes. One block for each data thread, written by that thread only.
 */
#ifndef LWD_STATS_H
#define LWD_STATS_H

#include "base/stat.h"

#define LWD_STAT_TYPE_COUNTER lw_counter_t
#define LWD_STAT_TYPE_GAUGE lw_counter_t
#define LWD_STAT_TYPE_HISTOGRAM lw_histogram_t

typedef struct lwd_stats {
#define STAT(kind, name, help) LWD_STAT_TYPE_##kind name;
#include "storaged/stats.def"
#undef STAT
} lwd_stats_t;

#define LWD_STATS_PREFIX "storaged"

/* The rows of stats.def; static. */
const lw_stat_row_t *lwd_stat_rows(size_t *count_out);

#endif /* LWD_STATS_H */
