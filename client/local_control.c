/* local_control.c - lwc_control_ops_t for local mode: sessions that exist as long as a handle has them open. Called by the
 * caller's thread and the keeper's: one lock, never on the step path. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/local.h"

typedef struct local_session {
    lwc_session_info_t info;
    uint32_t *ends; /* of its ranges, ascending */
    uint32_t end_count, end_capacity;
    struct local_session *next;
} local_session_t;

typedef struct local_control {
    lwc_control_t head;
    char tenant[LWC_TENANT_MAX];
    pthread_mutex_t lock;
    uint64_t last_id;
    local_session_t *sessions;
} local_control_t;

static local_control_t *enter(lwc_control_t *control)
{
    local_control_t *local = (local_control_t *)control;
    pthread_mutex_lock(&local->lock);
    return local;
}

static lw_status_t leave(local_control_t *local, lw_status_t status)
{
    pthread_mutex_unlock(&local->lock);
    return status;
}

static local_session_t *find(local_control_t *local, uint64_t id)
{
    local_session_t *session = local->sessions;

    while (session && session->info.session_id != id)
        session = session->next;
    return session;
}

static lw_status_t not_found(uint64_t id, lw_error_t *error)
{
    return lw_fail(error, LW_ERR_NOT_FOUND,
                   "session %llu: in local mode a session lives until its handle closes it",
                   (unsigned long long)id);
}

static local_session_t *add(local_control_t *local, const lwc_shape_t *shape, uint64_t ttl_us)
{
    local_session_t *session = calloc(1, sizeof(*session));

    if (!session)
        return NULL;
    session->info = (lwc_session_info_t){.session_id = ++local->last_id,
                                         .shape = *shape,
                                         .state = LWC_SESSION_ACTIVE,
                                         .term = 1,
                                         .lease_client = local->head.client_id,
                                         .ttl_us = ttl_us};
    memcpy(session->info.tenant, local->tenant, sizeof(local->tenant));
    session->next = local->sessions;
    local->sessions = session;
    return session;
}

static void remove_session(local_control_t *local, uint64_t id)
{
    for (local_session_t **link = &local->sessions; *link; link = &(*link)->next)
        if ((*link)->info.session_id == id) {
            local_session_t *session = *link;
            *link = session->next;
            free(session->ends);
            free(session);
            return;
        }
}

static bool add_end(local_session_t *session, uint32_t end)
{
    if (session->end_count == session->end_capacity) {
        uint32_t capacity = session->end_capacity ? 2 * session->end_capacity : 64;
        uint32_t *ends = realloc(session->ends, capacity * sizeof(*ends));
        if (!ends)
            return false;
        session->ends = ends;
        session->end_capacity = capacity;
    }
    session->ends[session->end_count++] = end;
    session->info.token_count = end;
    return true;
}

static void local_close(lwc_control_t *control)
{
    local_control_t *local = (local_control_t *)control;

    while (local->sessions)
        remove_session(local, local->sessions->info.session_id);
    pthread_mutex_destroy(&local->lock);
    free(local);
}

static lw_status_t local_create(lwc_control_t *control, const lwc_shape_t *shape, uint64_t lease_us,
                                uint64_t ttl_us, lwc_session_info_t *out, lw_error_t *error)
{
    local_control_t *local = enter(control);
    local_session_t *session = add(local, shape, ttl_us);

    (void)lease_us;
    if (!session)
        return leave(local, lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for a session"));
    *out = session->info;
    return leave(local, LW_OK);
}

static lw_status_t local_open(lwc_control_t *control, uint64_t session_id, bool write, uint64_t lease_us,
                              lwc_session_info_t *out, lw_error_t *error)
{
    (void)control, (void)write, (void)lease_us, (void)out;
    return not_found(session_id, error);
}

static lw_status_t local_renew(lwc_control_t *control, uint64_t lease_us, uint32_t *renewed_out,
                               lw_error_t *error)
{
    (void)control, (void)lease_us, (void)error;
    *renewed_out = 0;
    return LW_OK;
}

static lw_status_t local_release(lwc_control_t *control, uint64_t session_id, lw_error_t *error)
{
    local_control_t *local = enter(control);

    (void)error;
    remove_session(local, session_id);
    return leave(local, LW_OK);
}

static lw_status_t local_fork(lwc_control_t *control, uint64_t parent_id, uint32_t max_tokens,
                              uint64_t lease_us, lwc_session_info_t *out, lw_error_t *error)
{
    local_control_t *local = enter(control);
    local_session_t *parent = find(local, parent_id);

    (void)lease_us;
    if (!parent)
        return leave(local, not_found(parent_id, error));
    local_session_t *child = add(local, &parent->info.shape, parent->info.ttl_us);
    bool whole = child != NULL;
    for (uint32_t i = 0; whole && i < parent->end_count; i++)
        if (max_tokens == 0 || parent->ends[i] <= max_tokens)
            whole = add_end(child, parent->ends[i]);
    if (!whole) {
        if (child)
            remove_session(local, child->info.session_id);
        return leave(local, lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for a session"));
    }
    child->info.parent_id = parent_id;
    child->info.cut_tokens = child->info.token_count;
    *out = child->info;
    return leave(local, LW_OK);
}

static lw_status_t local_pin(lwc_control_t *control, uint64_t session_id, bool pinned, lw_error_t *error)
{
    local_control_t *local = enter(control);
    local_session_t *session = find(local, session_id);

    if (!session)
        return leave(local, not_found(session_id, error));
    session->info.pinned = pinned;
    return leave(local, LW_OK);
}

static lw_status_t local_list(lwc_control_t *control, uint64_t after_id, uint32_t capacity,
                              lwc_session_info_t *rows, uint32_t *count_out, lw_error_t *error)
{
    local_control_t *local = enter(control);

    (void)error;
    *count_out = 0;
    for (uint64_t id = after_id + 1; id <= local->last_id && *count_out < capacity; id++) {
        const local_session_t *session = find(local, id);
        if (session)
            rows[(*count_out)++] = session->info;
    }
    return leave(local, LW_OK);
}

static lw_status_t local_get(lwc_control_t *control, uint64_t session_id, lwc_session_info_t *out,
                             lw_error_t *error)
{
    local_control_t *local = enter(control);
    const local_session_t *session = find(local, session_id);

    if (!session)
        return leave(local, not_found(session_id, error));
    *out = session->info;
    return leave(local, LW_OK);
}

static lw_status_t local_commit(lwc_control_t *control, const lwc_session_info_t *info, uint16_t rank,
                                const lwc_range_t *ranges, uint32_t count, lw_error_t *error)
{
    local_control_t *local = enter(control);
    local_session_t *session = find(local, info->session_id);
    lw_status_t status = LW_OK;

    (void)rank;
    if (!session)
        return leave(local, not_found(info->session_id, error));
    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        session->info.bytes += ranges[i].bytes;
        if (!add_end(session, ranges[i].first_token + ranges[i].token_count))
            status = lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for a range");
    }
    return leave(local, status);
}

static lw_status_t local_ranges(lwc_control_t *control, const lwc_session_info_t *info, uint16_t rank,
                                uint32_t from_token, uint32_t capacity, lwc_range_t *ranges,
                                uint32_t *count_out, lw_error_t *error)
{
    (void)control, (void)rank, (void)from_token, (void)capacity, (void)ranges, (void)count_out;
    return not_found(info->session_id, error);
}

static lw_status_t local_fleet_get(lwc_control_t *control, lw_view_t *out, lw_error_t *error)
{
    (void)control, (void)error;
    memset(out, 0, sizeof(*out));
    return LW_OK;
}

static lw_status_t local_admin_status(lwc_control_t *control, const char *address, lwc_node_status_t *out,
                                      lw_error_t *error)
{
    (void)control, (void)address, (void)out;
    return lw_fail(error, LW_ERR_UNSUPPORTED, "local mode has no nodes");
}

static lw_status_t local_set_log_level(lwc_control_t *control, const char *address, const char *level,
                                       lw_error_t *error)
{
    (void)control, (void)address, (void)level;
    return lw_fail(error, LW_ERR_UNSUPPORTED, "local mode has no nodes");
}

static lw_status_t local_drain(lwc_control_t *control, uint32_t node_index, bool drain, lw_error_t *error)
{
    (void)control, (void)node_index, (void)drain;
    return lw_fail(error, LW_ERR_UNSUPPORTED, "local mode has no nodes");
}

static const lwc_control_ops_t local_ops = {
    .name = "local",
    .close = local_close,
    .create = local_create,
    .open = local_open,
    .renew = local_renew,
    .release = local_release,
    .fork = local_fork,
    .pin = local_pin,
    .drop = local_release,
    .list = local_list,
    .get = local_get,
    .commit = local_commit,
    .ranges = local_ranges,
    .fleet_get = local_fleet_get,
    .admin_status = local_admin_status,
    .set_log_level = local_set_log_level,
    .drain = local_drain,
};

lw_status_t lwc_control_local(const char *tenant, lwc_control_t **control_out, lw_error_t *error)
{
    local_control_t *local = calloc(1, sizeof(*local));

    if (!local)
        return lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for local mode");
    local->head = (lwc_control_t){.ops = &local_ops, .client_id = 1, .incarnation = 1};
    snprintf(local->tenant, sizeof(local->tenant), "%s", tenant);
    pthread_mutex_init(&local->lock, NULL);
    *control_out = &local->head;
    return LW_OK;
}
