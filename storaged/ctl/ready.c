/* ready.c - is this node ready, is it alive, and its figures as text: for HTTP, health and Admin.Status. Any thread. */
#include "storaged/ctl/ctl_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CTL_STATS_PREFIX "storaged_ctl"

static const lw_stat_row_t stat_rows[] = {
#define STAT(kind, name, help) {LW_STAT_##kind, #name, help, offsetof(ctl_stats_t, name)},
#include "storaged/ctl/ctl_stats.def"
#undef STAT
};

bool lwd_ctl_ready(lwd_ctl_t *ctl, char *reasons, size_t bytes)
{
    char own[512] = "";
    bool ready = true;
    if (ctl->callbacks.ready && !ctl->callbacks.ready(ctl->callbacks.arg, own, sizeof(own)))
        ready = false;
    size_t used = strlen(own);
    const char *more = atomic_load(&ctl->stopping)   ? "the node is stopping\n"
                       : atomic_load(&ctl->draining) ? "the node is draining\n"
                       : ctl->etcd && lwd_ctl_etcd_superseded(ctl->etcd) ? "another process has this node's id\n"
                       : ctl->etcd && atomic_load(&ctl->fleet_id) == 0   ? "the node is not registered on etcd yet\n"
                       : atomic_load(&ctl->fleet_id) == 0
                           ? "the node that holds the catalogue has not been reached yet\n"
                           : NULL;
    if (more && used + 1 < sizeof(own))
        snprintf(own + used, sizeof(own) - used, "%s%s", used && own[used - 1] != '\n' ? "\n" : "", more);
    snprintf(reasons, bytes, "%s", own);
    return ready && !more;
}

bool lwd_ctl_alive(const lwd_ctl_t *ctl)
{
    uint64_t ticked = atomic_load(&ctl->ticked_us);
    return ticked == 0 || ctl_now(ctl) - ticked < CTL_STALL_US;
}

size_t lwd_ctl_metrics(lwd_ctl_t *ctl, char *text, size_t bytes)
{
    const void *blocks[] = {&ctl->stats[0], &ctl->stats[1]};
    size_t used = 0;
    if (ctl->callbacks.metrics_text)
        used = ctl->callbacks.metrics_text(ctl->callbacks.arg, text, bytes);
    size_t at = used < bytes ? used : bytes;
    return used + lw_stat_prometheus(CTL_STATS_PREFIX, stat_rows, LW_ARRAY_SIZE(stat_rows), blocks, 2, text + at,
                                     bytes - at);
}

char *lwd_ctl_text(size_t (*write)(void *arg, char *text, size_t bytes), void *arg)
{
    size_t bytes = 4096;
    for (unsigned tries = 0; tries < 8; tries++) {
        char *text = malloc(bytes);
        if (!text)
            return NULL;
        text[0] = 0;
        size_t needed = write(arg, text, bytes);
        if (needed < bytes)
            return text;
        free(text);
        bytes = needed + 1024; /* figures grow longer while they are written */
    }
    return NULL;
}
