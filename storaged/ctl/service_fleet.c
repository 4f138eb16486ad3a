/* service_fleet.c - longwave.v1.Fleet. Get and Watch answer from the view that this node has; Sync, Orphans and Expire run
 * on the holder. Control thread. */
#include "storaged/ctl/ctl_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "storaged/ctl/pb.h"

static void malformed(ctl_job_t *job, const char *what)
{
    lw_error_t error;
    lw_fail(&error, LW_ERR_INVALID, "the request is no %s", what);
    lwd_ctl_fail(job, &error);
}

/* ---- members, on the holder ---- */

static void fleet_bump(lwd_ctl_t *ctl)
{
    lw_error_t error;
    LW_ASSERT(!ctl->etcd); /* there the store's revision is the epoch */
    ctl->member_epoch++;
    if (ctl->ops->set_epoch(ctl->catalogue, ctl->member_epoch, &error) != LW_OK)
        LW_ERROR("ctl", "epoch %llu is not stored: %s", (unsigned long long)ctl->member_epoch, error.text);
    lwd_ctl_agent_kick(ctl->agent);
}

lw_status_t lwd_ctl_fleet_start(lwd_ctl_t *ctl, lw_error_t *error)
{
    const char *control[LWD_CTL_FLEET_MAX];
    for (uint32_t i = 0; i < ctl->fleet_count; i++)
        control[i] = ctl->fleet[i];
    /* A fleet of one without a list may change its port freely: it is number 0 whatever it is called. */
    lw_status_t status = ctl->ops->members(ctl->catalogue, control, ctl->fleet_count, error);
    if (status == LW_OK)
        status = ctl->ops->fleet(ctl->catalogue, &ctl->member_fleet_id, &ctl->member_epoch, error);
    if (status == LW_OK)
        status = ctl->ops->set_epoch(ctl->catalogue, ++ctl->member_epoch, error);
    for (uint32_t i = 0; i < ctl->fleet_count && status == LW_OK; i++) {
        lw_node_t *node = &ctl->members[i].node;
        node->id = lwd_ctl_node_id(ctl->fleet[i]);
        node->index = (uint16_t)i;
        node->state = LW_NODE_DOWN;
        memcpy(node->control, ctl->fleet[i], sizeof(node->control));
        status = ctl->ops->drain(ctl->catalogue, (uint16_t)i, &ctl->members[i].drain, error);
    }
    return status;
}

static void fleet_trim(lwd_ctl_t *ctl, uint64_t now)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < ctl->fleet_count; i++) {
        uint64_t heard = ctl->members[i].heard_us ? ctl->members[i].heard_us : ctl->started_us;
        if (now - heard < CTL_FORGET_US)
            least = lw_min_u64(least, ctl->members[i].ended_serial);
    }
    lw_error_t error;
    if (least && least != UINT64_MAX && ctl->ops->trim(ctl->catalogue, least, &error) != LW_OK)
        LW_WARN("ctl", "the log of endings is not trimmed: %s", error.text);
}

void lwd_ctl_fleet_tick(lwd_ctl_t *ctl)
{
    uint64_t now = ctl_now(ctl), freed;
    bool changed = false;
    if (ctl->etcd) {
        lwd_ctl_fleet_etcd_tick(ctl);
        return;
    }
    for (uint32_t i = 0; i < ctl->fleet_count; i++) {
        ctl_member_t *member = &ctl->members[i];
        if (member->node.state != LW_NODE_DOWN && now - member->heard_us > LWD_CTL_DOWN_US) {
            LW_WARN("ctl", "node %s is silent for %llu ms: down", member->node.control,
                    (unsigned long long)(now - member->heard_us) / 1000);
            member->node.state = LW_NODE_DOWN;
            changed = true;
        }
    }
    if (changed)
        fleet_bump(ctl);
    if (now - ctl->expired_us < CTL_EXPIRE_US)
        return;
    ctl->expired_us = now;
    static lw_log_rate_t rate;
    lw_error_t error;
    if (ctl->ops->expire(ctl->catalogue, 0, ctl_unix(ctl), &freed, &error) != LW_OK)
        lw_log_rated(&rate, LW_LOG_ERROR, "ctl", "leases are not looked at: %s", error.text);
    fleet_trim(ctl, now);
}

static ctl_member_t *member_find(lwd_ctl_t *ctl, const char *control)
{
    for (uint32_t i = 0; i < ctl->fleet_count; i++)
        if (strcmp(ctl->fleet[i], control) == 0)
            return &ctl->members[i];
    return NULL;
}

/* Takes a heartbeat in; true when the view changes by it. */
static bool member_hear(ctl_member_t *member, const lw_node_t *heard, uint64_t now)
{
    lw_node_t *node = &member->node;
    lw_node_t next = *heard;
    next.index = node->index;
    next.state = heard->state == LW_NODE_DRAINING || member->drain ? LW_NODE_DRAINING : LW_NODE_UP;
    bool changed = next.id != node->id || next.incarnation != node->incarnation || next.state != node->state ||
                   next.weight != node->weight || strcmp(next.zone, node->zone) != 0 || strcmp(next.data, node->data) != 0;
    if (next.incarnation != node->incarnation)
        member->ended_serial = 0;
    if (next.state != node->state)
        LW_INFO("ctl", "node %s is %s", node->control, next.state == LW_NODE_UP ? "up" : "draining");
    *node = next;
    member->heard_us = now;
    return changed;
}

lw_status_t lwd_ctl_fleet_drain(lwd_ctl_t *ctl, uint32_t node, bool drain, lw_error_t *error)
{
    if (node >= ctl->fleet_count)
        return lw_fail(error, LW_ERR_NOT_FOUND, "the fleet has no node %u", node);
    lw_status_t status = ctl->ops->set_drain(ctl->catalogue, (uint16_t)node, drain, error);
    if (status != LW_OK || ctl->etcd) /* there the watch brings it */
        return status;
    ctl_member_t *member = &ctl->members[node];
    member->drain = drain;
    LW_INFO("ctl", "node %s is %s", member->node.control, drain ? "to be emptied" : "wanted again");
    if (member->node.state == LW_NODE_UP && drain) { /* UP again: with its next heartbeat */
        member->node.state = LW_NODE_DRAINING;
        fleet_bump(ctl);
    }
    return LW_OK;
}

/* The holder's view; nodes are borrowed from `nodes`. */
static lw_view_t member_view(const lwd_ctl_t *ctl, lw_node_t *nodes)
{
    for (uint32_t i = 0; i < ctl->fleet_count; i++)
        nodes[i] = ctl->members[i].node;
    return (lw_view_t){.epoch = ctl->member_epoch, .fleet_id = ctl->member_fleet_id, .node_count = ctl->fleet_count,
                       .nodes = nodes};
}

static lw_status_t sync_reply(lwd_ctl_t *ctl, ctl_job_t *job, const Longwave__V1__SyncRequest *request,
                              lw_error_t *error)
{
    lwd_ended_t rows[CTL_ENDED_PAGE];
    Longwave__V1__Ended ended[CTL_ENDED_PAGE], *pointers[CTL_ENDED_PAGE];
    lw_node_t nodes[LWD_CTL_FLEET_MAX];
    Longwave__V1__Node node_messages[LWD_CTL_FLEET_MAX], *node_pointers[LWD_CTL_FLEET_MAX];
    uint8_t token[LW_TOKEN_BYTES];
    uint32_t count = 0;
    lw_status_t status = ctl->etcd ? lwd_ctl_fleet_etcd_ended(ctl, request->ended_serial, rows, &count, error)
                                   : ctl->ops->ended(ctl->catalogue, request->ended_serial, CTL_ENDED_PAGE, rows, &count, error);
    if (status == LW_OK && request->epoch != ctl->member_epoch)
        status = ctl->ops->node_token(ctl->catalogue, token, error);
    if (status != LW_OK)
        return status;
    for (uint32_t i = 0; i < count; i++) {
        longwave__v1__ended__init(&ended[i]);
        ended[i].serial = rows[i].serial;
        ended[i].origin = rows[i].origin;
        ended[i].from_token = rows[i].from_token;
        ended[i].generation_max = rows[i].generation_max;
        ended[i].rank = rows[i].rank;
        pointers[i] = &ended[i];
    }
    lw_view_t view = member_view(ctl, nodes);
    Longwave__V1__View view_message = LONGWAVE__V1__VIEW__INIT;
    Longwave__V1__SyncReply reply = LONGWAVE__V1__SYNC_REPLY__INIT;
    reply.epoch = view.epoch;
    reply.fleet_id = view.fleet_id;
    reply.n_ended = count;
    reply.ended = pointers;
    if (request->epoch != view.epoch) {
        reply.node_token = (ProtobufCBinaryData){.data = token, .len = sizeof(token)};
        for (uint32_t i = 0; i < view.node_count; i++) {
            lw_pb_node(&nodes[i], &node_messages[i]);
            node_messages[i].used_bytes = ctl->members[i].used_bytes;
            node_messages[i].free_bytes = ctl->members[i].free_bytes;
            node_pointers[i] = &node_messages[i];
        }
        view_message.epoch = view.epoch;
        view_message.fleet_id = view.fleet_id;
        view_message.n_nodes = view.node_count;
        view_message.nodes = node_pointers;
        reply.view = &view_message;
    }
    size_t bytes = longwave__v1__sync_reply__get_packed_size(&reply);
    uint8_t *packed = malloc(bytes + 1);
    if (!packed)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a view");
    longwave__v1__sync_reply__pack(&reply, packed);
    lwd_ctl_answer(job, LW_OK, NULL, packed, bytes);
    free(packed);
    return LW_OK;
}

static void serve_sync(lwd_ctl_t *ctl, ctl_job_t *job)
{
    Longwave__V1__SyncRequest *request = longwave__v1__sync_request__unpack(NULL, job->request_bytes, job->request);
    lw_node_t heard;
    lw_error_t why;
    if (!request || !request->node || lw_pb_node_read(request->node, &heard, &why) != LW_OK) {
        malformed(job, "SyncRequest");
    } else {
        lw_error_t error;
        ctl_member_t *member = ctl->etcd ? NULL : member_find(ctl, heard.control);
        lw_status_t status = LW_OK;
        if (ctl->etcd && !job->call) {
            status = lwd_ctl_fleet_etcd_hear(ctl, request->ended_serial, &error);
            if (status == LW_OK)
                status = sync_reply(ctl, job, request, &error);
        } else if (!member) {
            status = lw_fail(&error, LW_ERR_PERMISSION, "node %s is not in the fleet's list", heard.control);
        } else {
            if (member_hear(member, &heard, ctl_now(ctl)))
                fleet_bump(ctl);
            member->ended_serial = request->ended_serial;
            member->used_bytes = request->node->used_bytes;
            member->free_bytes = request->node->free_bytes;
            status = sync_reply(ctl, job, request, &error);
        }
        if (status != LW_OK)
            lwd_ctl_fail(job, &error);
    }
    if (request)
        longwave__v1__sync_request__free_unpacked(request, NULL);
}

static lw_status_t orphans_reply(lwd_ctl_t *ctl, ctl_job_t *job, const Longwave__V1__OrphansRequest *request,
                                 lw_error_t *error)
{
    size_t count = request->n_names;
    if (count > LWD_CTL_ORPHANS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "%zu names, at most %u", count, LWD_CTL_ORPHANS_MAX);
    lw_segment_name_t *names = calloc(count + 1, sizeof(*names));
    bool *dead = calloc(count + 1, sizeof(*dead));
    uint16_t node_index = request->node && request->node <= LW_NODES_MAX ? (uint16_t)(request->node - 1) : LWD_NODE_ANY;
    lw_status_t status = names && dead ? LW_OK : lw_fail(error, LW_ERR_NO_MEMORY, "no memory for %zu names", count);
    for (size_t i = 0; i < count && status == LW_OK; i++) {
        const Longwave__V1__SegmentName *name = request->names[i];
        if (name->rank > UINT16_MAX || name->layer > UINT16_MAX)
            status = lw_fail(error, LW_ERR_INVALID, "name %zu has rank %u, layer %u", i, name->rank, name->layer);
        names[i] = (lw_segment_name_t){.origin = name->origin, .rank = (uint16_t)name->rank,
                                       .layer = (uint16_t)name->layer, .first_token = name->first_token,
                                       .generation = name->generation};
    }
    if (status == LW_OK)
        status = ctl->ops->orphans(ctl->catalogue, node_index, names, (uint32_t)count, ctl_unix(ctl), dead, error);
    Longwave__V1__OrphansReply reply = LONGWAVE__V1__ORPHANS_REPLY__INIT;
    reply.dead = (ProtobufCBinaryData){.data = (uint8_t *)dead, .len = count};
    uint8_t *packed = status == LW_OK ? malloc(count + 16) : NULL;
    if (status == LW_OK && !packed)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no memory for %zu answers", count);
    if (status == LW_OK)
        lwd_ctl_answer(job, LW_OK, NULL, packed, longwave__v1__orphans_reply__pack(&reply, packed));
    free(packed);
    free(dead);
    free(names);
    return status;
}

static void serve_orphans(lwd_ctl_t *ctl, ctl_job_t *job)
{
    Longwave__V1__OrphansRequest *request =
        longwave__v1__orphans_request__unpack(NULL, job->request_bytes, job->request);
    lw_error_t error;
    if (!request)
        malformed(job, "OrphansRequest");
    else if (orphans_reply(ctl, job, request, &error) != LW_OK)
        lwd_ctl_fail(job, &error);
    if (request)
        longwave__v1__orphans_request__free_unpacked(request, NULL);
}

static void serve_expire(lwd_ctl_t *ctl, ctl_job_t *job)
{
    Longwave__V1__ExpireRequest *request = longwave__v1__expire_request__unpack(NULL, job->request_bytes, job->request);
    if (!request) {
        malformed(job, "ExpireRequest");
        return;
    }
    lw_error_t error;
    Longwave__V1__ExpireReply reply = LONGWAVE__V1__EXPIRE_REPLY__INIT;
    if (ctl->ops->expire(ctl->catalogue, request->bytes, ctl_unix(ctl), &reply.bytes_freed, &error) != LW_OK) {
        lwd_ctl_fail(job, &error);
    } else {
        uint8_t packed[32];
        if (reply.bytes_freed)
            lwd_ctl_agent_kick(ctl->agent); /* this node learns at once what to free, the others within a heartbeat */
        lwd_ctl_answer(job, LW_OK, NULL, packed, longwave__v1__expire_reply__pack(&reply, packed));
    }
    longwave__v1__expire_request__free_unpacked(request, NULL);
}

/* ---- the view, on every node ---- */

/* The packed view with its epoch; ERR_FLEET before the first heartbeat was answered. */
static lw_status_t view_pack(lwd_ctl_t *ctl, uint8_t **packed_out, size_t *bytes_out, uint64_t *epoch_out)
{
    pthread_mutex_lock(&ctl->view_lock);
    lw_status_t status =
        ctl->view.node_count == 0 ? LW_ERR_FLEET : lwd_ctl_pb_view_pack(&ctl->view, packed_out, bytes_out);
    *epoch_out = ctl->view.epoch;
    pthread_mutex_unlock(&ctl->view_lock);
    return status;
}

static void serve_get(lwd_ctl_t *ctl, ctl_job_t *job)
{
    uint8_t *packed = NULL;
    size_t bytes = 0;
    uint64_t epoch;
    lw_status_t status = view_pack(ctl, &packed, &bytes, &epoch);
    if (status == LW_ERR_FLEET)
        lwd_ctl_answer(job, status, "this node has not reached the catalogue's node yet", NULL, 0);
    else
        lwd_ctl_answer(job, status, NULL, packed, bytes);
    free(packed);
}

static void serve_watch(lwd_ctl_t *ctl, ctl_job_t *job)
{
    (void)ctl;
    lwd_ctl_watch(job, false, "");
}

bool lwd_ctl_fleet_watch(lwd_ctl_t *ctl, ctl_watch_t *watch)
{
    uint8_t *packed = NULL;
    size_t bytes = 0;
    uint64_t epoch;
    if (watch->sent == atomic_load(&ctl->epoch) || view_pack(ctl, &packed, &bytes, &epoch) != LW_OK)
        return true; /* nothing new */
    lw_status_t status = lw_rpc_write(watch->call, packed, bytes);
    free(packed);
    if (status == LW_OK)
        watch->sent = epoch;
    return status == LW_OK || status == LW_ERR_BUSY;
}

const ctl_method_t ctl_fleet_methods[5] = {
    {.path = "/longwave.v1.Fleet/Get", .access = CTL_FOR_ANY, .local = true, .run = serve_get},
    {.path = "/longwave.v1.Fleet/Watch", .access = CTL_FOR_ANY, .local = true, .streaming = true, .run = serve_watch},
    {.path = "/longwave.v1.Fleet/Sync", .access = CTL_FOR_NODE, .run = serve_sync},
    {.path = "/longwave.v1.Fleet/Orphans", .access = CTL_FOR_NODE, .run = serve_orphans},
    {.path = "/longwave.v1.Fleet/Expire", .access = CTL_FOR_NODE, .run = serve_expire},
};
