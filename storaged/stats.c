/* stats.c - the rows of stats.def as a table. */
#include "storaged/stats.h"

#include "base/base.h"

static const lw_stat_row_t rows[] = {
#define STAT(kind, name, help) {LW_STAT_##kind, #name, help, offsetof(lwd_stats_t, name)},
#include "storaged/stats.def"
#undef STAT
};

const lw_stat_row_t *lwd_stat_rows(size_t *count_out)
{
    *count_out = LW_ARRAY_SIZE(rows);
    return rows;
}
