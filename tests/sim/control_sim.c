/* control_sim.c - lwc_control_ops_t over a catalogue in this process, with the checks that the daemon's services make. */
#include "sim/control_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct sim_control {
    lwc_control_t head;
    lw_control_sim_fleet_t *fleet;
    char tenant[LWC_TENANT_MAX];
} sim_control_t;

/* The shapes and ranges of the two sides mirror each other; these keep it so. */
static_assert(sizeof(lwc_shape_t) == sizeof(lwd_session_shape_t), "a shape is the same on both sides");
static_assert(offsetof(lwc_shape_t, cluster_tokens) == offsetof(lwd_session_shape_t, cluster_tokens), "same order");
static_assert(sizeof(lwc_range_t) == sizeof(lwd_range_t), "a range is the same on both sides");
static_assert(offsetof(lwc_range_t, node_index) == offsetof(lwd_range_t, node_index), "same order");

static uint64_t sim_now(const lw_control_sim_fleet_t *fleet)
{
    return fleet->clock->unix_us(fleet->clock->self);
}

static sim_control_t *sim_enter(lwc_control_t *control, lw_status_t *status, lw_error_t *error)
{
    sim_control_t *sim = (sim_control_t *)control;
    pthread_mutex_lock(&sim->fleet->lock);
    *status = sim->fleet->away ? lw_fail(error, LW_ERR_FLEET, "the catalogue is away") : LW_OK;
    return sim;
}

static lw_status_t sim_leave(sim_control_t *sim, lw_status_t status)
{
    pthread_mutex_unlock(&sim->fleet->lock);
    return status;
}

static void sim_info(const lwd_session_row_t *row, uint64_t now, lwc_session_info_t *out)
{
    memset(out, 0, sizeof(*out));
    out->session_id = row->session_id;
    memcpy(out->tenant, row->tenant, sizeof(out->tenant));
    memcpy(&out->shape, &row->shape, sizeof(out->shape));
    out->state = (uint32_t)row->state;
    out->term = row->term;
    out->lease_us_left = row->lease_until_us > now ? row->lease_until_us - now : 0;
    out->lease_client = row->lease_client;
    out->ttl_us = row->ttl_us;
    out->created_us = row->created_us;
    out->used_us = row->used_us;
    out->parent_id = row->parent_id;
    out->cut_tokens = row->cut_tokens;
    out->token_count = row->token_count;
    out->bytes = row->bytes;
    out->readers = row->readers;
    out->pinned = row->pinned;
    memcpy(out->token, row->token, sizeof(out->token));
}

static void sim_close(lwc_control_t *control)
{
    free(control);
}

static lw_status_t sim_create(lwc_control_t *control, const lwc_shape_t *shape, uint64_t lease_us, uint64_t ttl_us,
                              lwc_session_info_t *out, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    uint64_t now = sim_now(sim->fleet);
    lwd_create_t request = {.tenant = sim->tenant, .client_id = control->client_id,
                            .incarnation = control->incarnation, .lease_us = lease_us, .ttl_us = ttl_us};
    memcpy(&request.shape, shape, sizeof(request.shape));
    lwd_session_row_t row;
    if (status == LW_OK)
        status = sim->fleet->ops->create(sim->fleet->catalogue, &request, now, &row, error);
    if (status == LW_OK)
        sim_info(&row, now, out);
    return sim_leave(sim, status);
}

static lw_status_t sim_open(lwc_control_t *control, uint64_t session_id, bool write, uint64_t lease_us,
                            lwc_session_info_t *out, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    uint64_t now = sim_now(sim->fleet);
    lwd_session_row_t row;
    if (status == LW_OK)
        status = sim->fleet->ops->open_session(sim->fleet->catalogue, sim->tenant, session_id, write,
                                               control->client_id, control->incarnation, lease_us, now, &row, error);
    if (status == LW_OK)
        sim_info(&row, now, out);
    return sim_leave(sim, status);
}

static lw_status_t sim_renew(lwc_control_t *control, uint64_t lease_us, uint32_t *renewed_out, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    if (status == LW_OK)
        status = sim->fleet->ops->renew(sim->fleet->catalogue, control->client_id, control->incarnation, lease_us,
                                        sim_now(sim->fleet), renewed_out, error);
    return sim_leave(sim, status);
}

static lw_status_t sim_release(lwc_control_t *control, uint64_t session_id, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    if (status == LW_OK)
        status = sim->fleet->ops->release(sim->fleet->catalogue, session_id, control->client_id, control->incarnation,
                                          sim_now(sim->fleet), error);
    return sim_leave(sim, status);
}

static lw_status_t sim_fork(lwc_control_t *control, uint64_t parent_id, uint32_t max_tokens, uint64_t lease_us,
                            lwc_session_info_t *out, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    uint64_t now = sim_now(sim->fleet);
    lwd_session_row_t row;
    if (status == LW_OK)
        status = sim->fleet->ops->fork(sim->fleet->catalogue, sim->tenant, parent_id, max_tokens, control->client_id,
                                       control->incarnation, lease_us, now, &row, error);
    if (status == LW_OK)
        sim_info(&row, now, out);
    return sim_leave(sim, status);
}

static lw_status_t sim_pin(lwc_control_t *control, uint64_t session_id, bool pinned, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    if (status == LW_OK)
        status = sim->fleet->ops->pin(sim->fleet->catalogue, sim->tenant, session_id, pinned, error);
    return sim_leave(sim, status);
}

static lw_status_t sim_drop(lwc_control_t *control, uint64_t session_id, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    if (status == LW_OK)
        status = sim->fleet->ops->drop(sim->fleet->catalogue, sim->tenant, session_id, sim_now(sim->fleet), error);
    return sim_leave(sim, status);
}

static lw_status_t sim_list(lwc_control_t *control, uint64_t after_id, uint32_t capacity, lwc_session_info_t *rows,
                            uint32_t *count_out, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    lwd_session_row_t *found = calloc(capacity ? capacity : 1, sizeof(*found));
    uint32_t count = 0;
    if (status == LW_OK && !found)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no memory for %u rows", capacity);
    if (status == LW_OK)
        status = sim->fleet->ops->list(sim->fleet->catalogue, sim->tenant, after_id, capacity, found, &count, error);
    if (status == LW_OK) {
        for (uint32_t i = 0; i < count; i++) {
            sim_info(&found[i], sim_now(sim->fleet), &rows[i]);
            memset(rows[i].token, 0, sizeof(rows[i].token));
        }
        *count_out = count;
    }
    free(found);
    return sim_leave(sim, status);
}

static lw_status_t sim_get(lwc_control_t *control, uint64_t session_id, lwc_session_info_t *out, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    lwd_session_row_t row;
    if (status == LW_OK)
        status = sim->fleet->ops->get(sim->fleet->catalogue, sim->tenant, session_id, &row, error);
    if (status == LW_OK)
        sim_info(&row, sim_now(sim->fleet), out);
    return sim_leave(sim, status);
}

/* The token as the daemon checks it: unknown session and wrong token are answered alike. */
static lw_status_t sim_check(sim_control_t *sim, const lwc_session_info_t *session, bool write, lw_error_t *error)
{
    uint64_t origins[LWD_FORK_DEPTH_MAX];
    uint32_t cuts[LWD_FORK_DEPTH_MAX], count;
    lw_status_t status =
        sim->fleet->ops->check(sim->fleet->catalogue, session->session_id, session->token, write, session->term,
                               sim_now(sim->fleet), origins, cuts, LWD_FORK_DEPTH_MAX, &count, error);
    if (status == LW_ERR_NOT_FOUND || status == LW_ERR_PERMISSION)
        return lw_fail(error, LW_ERR_PERMISSION, "session %llu: no such session, or not its token",
                       (unsigned long long)session->session_id);
    return status;
}

static lw_status_t sim_commit(lwc_control_t *control, const lwc_session_info_t *session, uint16_t rank,
                              const lwc_range_t *ranges, uint32_t count, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    if (status == LW_OK)
        status = sim_check(sim, session, true, error);
    if (status == LW_OK)
        status = sim->fleet->ops->commit(sim->fleet->catalogue, session->session_id, rank, session->term,
                                         (const lwd_range_t *)ranges, count, sim_now(sim->fleet), error);
    return sim_leave(sim, status);
}

static lw_status_t sim_ranges(lwc_control_t *control, const lwc_session_info_t *session, uint16_t rank,
                              uint32_t from_token, uint32_t capacity, lwc_range_t *ranges, uint32_t *count_out,
                              lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    if (status == LW_OK)
        status = sim_check(sim, session, false, error);
    if (status == LW_OK)
        status = sim->fleet->ops->ranges(sim->fleet->catalogue, session->session_id, rank, from_token, capacity,
                                         (lwd_range_t *)ranges, count_out, error);
    return sim_leave(sim, status);
}

static lw_status_t sim_fleet_get(lwc_control_t *control, lw_view_t *out, lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    const lw_view_t *view = &sim->fleet->view;
    lw_node_t *nodes = calloc(view->node_count ? view->node_count : 1, sizeof(*nodes));
    if (status == LW_OK && !nodes)
        status = lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a view");
    if (status == LW_OK) {
        memcpy(nodes, view->nodes, view->node_count * sizeof(*nodes));
        *out = *view;
        out->nodes = nodes;
    } else {
        free(nodes);
    }
    return sim_leave(sim, status);
}

static lw_status_t sim_admin_status(lwc_control_t *control, const char *address, lwc_node_status_t *out,
                                    lw_error_t *error)
{
    lw_status_t status;
    sim_control_t *sim = sim_enter(control, &status, error);
    const lw_view_t *view = &sim->fleet->view;
    const lw_node_t *node = NULL;
    for (uint32_t i = 0; i < view->node_count && !node; i++)
        if (!address || strcmp(address, view->nodes[i].control) == 0)
            node = &view->nodes[i];
    if (status == LW_OK && (!node || node->state == LW_NODE_DOWN))
        status = lw_fail(error, LW_ERR_UNREACHABLE, "node %s: not there", address ? address : "(any)");
    if (status == LW_OK) {
        memset(out, 0, sizeof(*out));
        out->node_id = node->id;
        out->incarnation = node->incarnation;
        out->fleet_id = view->fleet_id;
        out->epoch = view->epoch;
        out->ready = true;
        out->holds_catalogue = node == view->nodes;
        snprintf(out->version, sizeof(out->version), "sim");
        snprintf(out->control, sizeof(out->control), "%s", node->control);
        snprintf(out->data, sizeof(out->data), "%s", node->data);
        out->reasons = strdup("");
        out->metrics = strdup("");
        out->options = strdup("");
    }
    return sim_leave(sim, status);
}

static lw_status_t sim_set_log_level(lwc_control_t *control, const char *address, const char *level, lw_error_t *error)
{
    (void)control;
    (void)address;
    (void)level;
    return lw_fail(error, LW_ERR_UNSUPPORTED, "simulated nodes share this process's log");
}

static lw_status_t sim_drain(lwc_control_t *control, uint32_t node_index, bool drain, lw_error_t *error)
{
    (void)control;
    (void)node_index;
    (void)drain;
    return lw_fail(error, LW_ERR_UNSUPPORTED, "simulated nodes are drained by their world");
}

static const lwc_control_ops_t sim_ops = {
    .name = "sim", .close = sim_close, .create = sim_create, .open = sim_open, .renew = sim_renew,
    .release = sim_release, .fork = sim_fork, .pin = sim_pin, .drop = sim_drop, .list = sim_list, .get = sim_get,
    .commit = sim_commit, .ranges = sim_ranges, .fleet_get = sim_fleet_get, .admin_status = sim_admin_status,
    .set_log_level = sim_set_log_level, .drain = sim_drain,
};

lw_status_t lw_control_sim_init(lw_control_sim_fleet_t *fleet, const lwd_catalogue_ops_t *ops, const lw_clock_t *clock,
                                lw_node_t *nodes, uint32_t node_count, lw_error_t *error)
{
    memset(fleet, 0, sizeof(*fleet));
    fleet->ops = ops ? ops : lwd_catalogue_sim();
    fleet->clock = clock ? clock : lw_clock_real();
    fleet->view = (lw_view_t){.epoch = 1, .node_count = node_count, .nodes = nodes};
    uint64_t epoch;
    lw_status_t status = fleet->ops->open(":memory:", &fleet->catalogue, error);
    if (status == LW_OK)
        status = fleet->ops->fleet(fleet->catalogue, &fleet->view.fleet_id, &epoch, error);
    if (status == LW_OK)
        pthread_mutex_init(&fleet->lock, NULL);
    else if (fleet->catalogue)
        fleet->ops->close(fleet->catalogue);
    return status;
}

void lw_control_sim_fini(lw_control_sim_fleet_t *fleet)
{
    fleet->ops->close(fleet->catalogue);
    pthread_mutex_destroy(&fleet->lock);
}

lw_status_t lw_control_sim_open(lw_control_sim_fleet_t *fleet, const char *tenant, uint64_t client_id,
                                uint64_t incarnation, lwc_control_t **control_out, lw_error_t *error)
{
    sim_control_t *sim = calloc(1, sizeof(*sim));
    if (!sim)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a control handle");
    sim->head = (lwc_control_t){.ops = &sim_ops, .client_id = client_id, .incarnation = incarnation};
    sim->fleet = fleet;
    snprintf(sim->tenant, sizeof(sim->tenant), "%s", tenant ? tenant : "default");
    *control_out = &sim->head;
    return LW_OK;
}
