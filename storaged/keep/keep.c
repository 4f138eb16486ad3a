/* keep.c - the traffic between shard and log. The shard's owner. */
#include "storaged/keep/keep.h"

#include <stdlib.h>

#include "base/log.h"

typedef struct load {
    lwd_ref_t ref;
    uint64_t since_us;
    bool used;
} load_t;

struct lwd_keep {
    lwd_keep_params_t params;
    load_t loads[LWD_KEEP_LOADS_MAX];
    lwd_ref_t spilling; /* slot LWD_SLOT_NONE: none */
    lw_segment_name_t spilling_name;
    lwd_spill_t waiting; /* taken from the shard, not taken by the log yet */
    bool has_waiting;
    uint64_t next_look_us, pause_until_us;
    lw_log_rate_t rate;
};

static void forget(void *arg, uint32_t record)
{
    lwd_keep_t *keep = arg;
    lwd_tier_forget(keep->params.tier, record);
}

lw_status_t lwd_keep_create(const lwd_keep_params_t *params, lwd_keep_t **keep_out)
{
    lwd_keep_t *keep = calloc(1, sizeof(*keep));
    if (keep == NULL)
        return LW_ERR_NO_MEMORY;
    keep->params = *params;
    keep->spilling.slot = LWD_SLOT_NONE;
    lwd_shard_set_log(params->shard, forget, keep);
    *keep_out = keep;
    return LW_OK;
}

void lwd_keep_destroy(lwd_keep_t *keep)
{
    free(keep);
}

/* ---- what the disk has finished ---- */
static void appended(lwd_keep_t *keep, const lwd_tier_event_t *event, uint64_t now_us)
{
    lw_status_t status = event->status;
    if (status != LW_OK) {
        lw_log_rated(&keep->rate, LW_LOG_ERROR, "keep", "the log's disk refuses writes (%s): segments stay in memory",
                     lw_status_text(status));
        keep->pause_until_us = now_us + LWD_KEEP_PAUSE_US;
        status = LW_ERR_EXHAUSTED; /* who wants room turns to the catalogue */
    }
    bool taken = lwd_shard_spill_end(keep->params.shard, keep->spilling, status, event->record);
    if (!taken && status == LW_OK)
        lwd_tier_forget(keep->params.tier, event->record);
    keep->spilling.slot = LWD_SLOT_NONE;
}

static void loaded(lwd_keep_t *keep, const lwd_tier_event_t *event, uint64_t now_us)
{
    load_t *load = &keep->loads[event->cookie];
    lw_error_t error = {0};
    lw_status_t status = lwd_shard_load_end(keep->params.shard, load->ref, event->status, now_us, &error);
    if (status == LW_OK)
        lw_histogram_add(&keep->params.stats->load_us, now_us - load->since_us);
    else if (status != LW_ERR_STALE && status != LW_ERR_EXHAUSTED)
        lw_log_rated(&keep->rate, LW_LOG_WARN, "keep", "a segment's copy in the log is dropped: %s: %s",
                     lw_status_text(status), error.text);
    load->used = false;
}

/* ---- what is due ---- */
/* False: nothing was begun. */
static bool spill(lwd_keep_t *keep, bool all, uint64_t now_us)
{
    lwd_spill_t *next = &keep->waiting;
    if (keep->spilling.slot != LWD_SLOT_NONE || now_us < keep->pause_until_us)
        return false;
    if (!keep->has_waiting)
        keep->has_waiting = lwd_shard_spill_take(keep->params.shard, all, next);
    if (!keep->has_waiting)
        return false;
    lwd_tier_record_t record = {next->name, next->bytes, lwd_shard_fleet(keep->params.shard)};
    lw_status_t status = lwd_tier_append(keep->params.tier, &record, next->data, 0);
    if (status == LW_ERR_BUSY) /* compaction is at work */
        return false;
    keep->has_waiting = false;
    if (status == LW_OK)
        keep->spilling = next->ref;
    else
        (void)lwd_shard_spill_end(keep->params.shard, next->ref, status, LWD_LOG_NONE);
    return true;
}

static bool bring_back(lwd_keep_t *keep, uint64_t now_us)
{
    lwd_load_t next;
    uint32_t at = 0;
    while (at < LWD_KEEP_LOADS_MAX && keep->loads[at].used)
        at++;
    if (at == LWD_KEEP_LOADS_MAX || !lwd_shard_load_take(keep->params.shard, &next))
        return false;
    keep->loads[at] = (load_t){next.ref, now_us, true};
    lw_status_t status = lwd_tier_load(keep->params.tier, next.record, next.into, at);
    LW_ASSERT(status == LW_OK); /* it takes as many as there are here */
    return true;
}

static void look(lwd_keep_t *keep, uint64_t now_us)
{
    lwd_stats_t *stats = keep->params.stats;
    lwd_tier_usage_t usage;
    if (now_us < keep->next_look_us)
        return;
    keep->next_look_us = now_us + LWD_KEEP_LOOK_US;
    lwd_tier_usage(keep->params.tier, &usage);
    lw_gauge(&stats->log_bytes, usage.bytes);
    lw_gauge(&stats->log_live_bytes, usage.live_bytes);
    lw_gauge(&stats->log_dead_bytes, usage.dead_bytes);
    lw_gauge(&stats->log_compacted_bytes, usage.compacted_bytes);
    lw_gauge(&stats->log_errors, usage.errors);
    if (now_us >= keep->pause_until_us && lwd_tier_has_room(keep->params.tier))
        lwd_shard_log_room(keep->params.shard);
}

static unsigned hear(lwd_keep_t *keep, uint64_t now_us)
{
    lwd_tier_event_t events[LWD_TIER_EVENTS_MAX];
    uint32_t count = lwd_tier_round(keep->params.tier, events);
    for (uint32_t i = 0; i < count; i++) {
        if (events[i].what == LWD_TIER_APPENDED)
            appended(keep, &events[i], now_us);
        else
            loaded(keep, &events[i], now_us);
    }
    return count;
}

unsigned lwd_keep_round(lwd_keep_t *keep, uint64_t now_us)
{
    unsigned happened = hear(keep, now_us);
    look(keep, now_us);
    happened += spill(keep, false, now_us) ? 1 : 0;
    while (bring_back(keep, now_us))
        happened++;
    return happened;
}

bool lwd_keep_flush(lwd_keep_t *keep, uint64_t now_us)
{
    (void)hear(keep, now_us);
    bool begun = spill(keep, true, now_us);
    return !begun && !keep->has_waiting && keep->spilling.slot == LWD_SLOT_NONE && lwd_tier_idle(keep->params.tier);
}
