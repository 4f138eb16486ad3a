/* fleet_etcd.c - the fleet's members, leases and log on etcd, as the control thread has them. Every node is its own holder: its
 * agent's heartbeats go no further than here, and what this node knows of the others comes from the watch.
 *
 * Leases and TTLs are looked at by the first node that is UP. Two that both think so do no harm: each step is a transaction. */
#include "storaged/ctl/ctl_private.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"

lw_status_t lwd_ctl_fleet_etcd_start(lwd_ctl_t *ctl, const char *where, lw_error_t *error)
{
    lw_node_t own = {.id = ctl->node_id, .incarnation = ctl->incarnation, .weight = ctl->weight};
    memcpy(own.zone, ctl->zone, sizeof(own.zone));
    memcpy(own.control, ctl->advertise, sizeof(own.control));
    memcpy(own.data, ctl->data, sizeof(own.data));
    const ctl_etcd_params_t params = {.where = where, .own = &own, .clock = ctl->clock, .draining = &ctl->draining,
                                      .kept_us = &ctl->synced_us, .node_max = LWD_CTL_FLEET_MAX};
    ctl->fleet_count = 0; /* until the list is there */
    ctl->own_index = UINT32_MAX;
    snprintf(ctl->fleet[0], sizeof(ctl->fleet[0]), "etcd"); /* for log lines */
    return lwd_ctl_etcd_start(&params, &ctl->etcd, error);
}

static void fleet_take(lwd_ctl_t *ctl)
{
    lw_node_t nodes[LWD_CTL_FLEET_MAX];
    uint32_t count = 0, own = 0;
    uint64_t epoch = 0;
    if (!lwd_ctl_etcd_take(ctl->etcd, &ctl->etcd_version, nodes, &count, &epoch, &own))
        return;
    for (uint32_t i = 0; i < count; i++)
        ctl->members[i] = (ctl_member_t){.node = nodes[i]};
    ctl->fleet_count = count;
    ctl->own_index = own;
    ctl->member_epoch = epoch;
    lwd_ctl_agent_kick(ctl->agent);
}

/* Is this node the first one that is UP? */
static bool fleet_first(const lwd_ctl_t *ctl)
{
    for (uint32_t i = 0; i < ctl->fleet_count; i++)
        if (ctl->members[i].node.state == LW_NODE_UP)
            return ctl->members[i].node.index == ctl->own_index;
    return false;
}

void lwd_ctl_fleet_etcd_tick(lwd_ctl_t *ctl)
{
    static lw_log_rate_t rate;
    uint64_t now = ctl_now(ctl), freed, stored;
    lw_error_t error;
    fleet_take(ctl);
    if (ctl->fleet_count && ctl->member_fleet_id == 0 &&
        ctl->ops->fleet(ctl->catalogue, &ctl->member_fleet_id, &stored, &error) == LW_OK)
        lwd_ctl_agent_kick(ctl->agent);
    if (now - ctl->expired_us < CTL_EXPIRE_ETCD_US || !fleet_first(ctl) || !lwd_ctl_writable(ctl))
        return;
    ctl->expired_us = now;
    if (ctl->ops->expire(ctl->catalogue, 0, ctl_unix(ctl), &freed, &error) != LW_OK)
        lw_log_rated(&rate, LW_LOG_WARN, "ctl", "leases are not looked at: %s", error.text);
    uint64_t least = lwd_ctl_etcd_least_told(ctl->etcd);
    if (least <= ctl->etcd_trimmed)
        return;
    if (ctl->ops->trim(ctl->catalogue, least, &error) == LW_OK)
        ctl->etcd_trimmed = least;
    else
        lw_log_rated(&rate, LW_LOG_WARN, "ctl", "the log of endings is not trimmed: %s", error.text);
}

lw_status_t lwd_ctl_fleet_etcd_hear(lwd_ctl_t *ctl, uint64_t ended_serial, lw_error_t *error)
{
    if (ctl->fleet_count == 0 || ctl->member_fleet_id == 0)
        return lw_fail(error, LW_ERR_FLEET, "this node is not registered on etcd yet");
    lwd_ctl_etcd_told(ctl->etcd, ended_serial);
    return LW_OK;
}

lw_status_t lwd_ctl_fleet_etcd_ended(lwd_ctl_t *ctl, uint64_t after, lwd_ended_t *rows, uint32_t *count_out,
                                     lw_error_t *error)
{
    *count_out = 0;
    if (!lwd_ctl_etcd_endings(ctl->etcd) && ctl->etcd_ended == after)
        return LW_OK;
    lw_status_t status = ctl->ops->ended(ctl->catalogue, after, CTL_ENDED_PAGE, rows, count_out, error);
    /* Nothing more after `after`: the next change of the log says so. A full page, or none because etcd is away: ask again. */
    ctl->etcd_ended = status == LW_OK && *count_out == 0 ? after : UINT64_MAX;
    if (status == LW_OK)
        return LW_OK;
    *count_out = 0;
    return LW_OK; /* the heartbeat is worth having without endings */
}
