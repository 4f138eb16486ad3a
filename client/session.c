/* session.c - opening, forking, closing and shortening sessions. Caller's thread; control-plane calls block.
 */
#include "client/ctx.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define CLOSE_WAIT_US 1000u
#define DEFAULT_REPLICAS 2u

/* ---- slots ---- */

lw_status_t lwc_session_take_slot(struct lw *kv, uint32_t segment_tokens, struct lw_session **session_out,
                                  lw_error_t *error)
{
    for (uint32_t slot = 0; slot < kv->sizes.sessions_max; slot++) {
        struct lw_session *session = &kv->sessions[slot];
        if (session->open)
            continue;
        lw_status_t status = LW_OK;
        if (session->steady.rows > 0 && session->steady.rows < lwc_steady_rows(segment_tokens))
            status = lwc_stream_settle(kv, error); /* its memory is given back */
        if (status == LW_OK)
            status = lwc_steady_init(&session->steady, &kv->device, &kv->model,
                                     lwc_steady_rows(segment_tokens), kv->sizes.ranges_max, error);
        if (status == LW_OK && !session->keep.cut)
            status = lwc_device_event(&kv->device, &session->keep.cut, error);
        uint64_t sums = (uint64_t)kv->model.layers * kv->model.heads * kv->model.sums_count;
        if (status == LW_OK && !session->keep.sums)
            session->keep.sums = calloc(sums, sizeof(double));
        if (status == LW_OK && !session->keep.sums)
            status = lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for a session's moments");
        if (status == LW_OK) {
            memset(session->keep.sums, 0, sums * sizeof(double));
            *session_out = session;
        }
        return status;
    }
    return lw_fail(error, LW_ERR_EXHAUSTED, "all %u sessions of this handle are open (sessions_max)",
                   kv->sizes.sessions_max);
}

static void reset_state(struct lw_session *session, const lwc_session_info_t *info)
{
    double *sums = session->keep.sums;
    lwk_event_t *cut = session->keep.cut;

    session->info = *info;
    session->token_count = session->sealed = session->cut = 0;
    session->range_count = session->entry_count = 0;
    session->task_busy = session->prefilling = session->dropped = false;
    session->raw_first = session->raw_end = 0;
    session->raw_stale = false;
    session->append_kind = LWC_APPEND_NONE;
    session->append_layer = session->append_tokens = 0;
    session->stepping = false;
    session->flying = session->confirmed = 0;
    session->ignored_step = session->kv->outcomes.entered;
    session->step_status = LW_OK;
    memset(&session->keep, 0, sizeof(session->keep));
    session->keep.sums = sums;
    session->keep.cut = cut;
    session->keep.info = *info;
}

static lw_status_t clear_moments(struct lw_session *session, lw_error_t *error)
{
    struct lw *kv = session->kv;

    return lwc_device_copy(&kv->device, session->steady.moments, kv->moments_zero,
                           kv->model.layers * kv->model.moments_bytes, kv->stream, error);
}

lw_status_t lwc_session_begin(struct lw_session *session, const lwc_session_info_t *info, lw_error_t *error)
{
    struct lw *kv = session->kv;
    const lwc_steady_t *steady = &session->steady;

    reset_state(session, info);
    lwk_session_t row = {.steady_rows = steady->rows,
                         .ranges = steady->ranges,
                         .sink_keys = steady->sink_keys,
                         .sink_values = steady->sink_values,
                         .steady_keys = steady->keys,
                         .steady_values = steady->values,
                         .moments = steady->moments,
                         .policy = session->policy};
    lw_status_t status = lwc_stream_note(kv, &kv->rows[session->slot], &row, sizeof(row), error);
    if (status == LW_OK)
        status = clear_moments(session, error);
    if (status == LW_OK)
        status = lwc_route_session(kv, session->slot, info->session_id, info->token, info->term, error);
    if (status == LW_OK)
        session->open = true;
    return status;
}

static void release_rows(struct lw_session *session)
{
    while (session->range_count > 0)
        lwc_publish_release(session, session->rows[--session->range_count]);
    lwc_publish_bury(session->kv);
}

void lwc_session_abort(struct lw_session *session)
{
    release_rows(session);
    lwc_route_session_forget(session->kv, session->slot);
    session->open = false;
}

/* Undoes what the control plane did for a call that failed afterwards; a lease or session that stays runs out
 * by itself. */
static void give_up(struct lw *kv, uint64_t session_id, bool drop)
{
    lw_error_t error = {.text = ""};
    lw_status_t status = drop ? lwc_control_drop(kv->control, session_id, &error)
                              : lwc_control_release(kv->control, session_id, &error);

    if (status != LW_OK)
        LW_WARN("client", "session %llu stays until its lease runs out: %s", (unsigned long long)session_id,
                error.text);
}

/* ---- open ---- */

/* Where nobody says, a copy more than one node's loss takes, if the fleet has the nodes for it. */
static lw_status_t choose_replicas(struct lw *kv, const lw_session_params_t *params, uint32_t *replicas_out,
                                   lw_error_t *error)
{
    lw_view_t view;
    uint32_t up = 0;

    if (params->replicas > LW_REPLICAS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "replicas is %u, must be at most %u", params->replicas,
                       LW_REPLICAS_MAX);
    *replicas_out = params->replicas;
    if (params->replicas > 0)
        return LW_OK;
    lw_status_t status = lwc_control_fleet_get(kv->control, &view, error);
    if (status != LW_OK)
        return status;
    for (uint32_t i = 0; i < view.node_count; i++)
        up += view.nodes[i].state == LW_NODE_UP && view.nodes[i].weight > 0;
    lwc_view_free(&view);
    *replicas_out = up >= DEFAULT_REPLICAS ? DEFAULT_REPLICAS : 1;
    return LW_OK;
}

static lw_status_t create(struct lw *kv, const lw_session_params_t *params, struct lw_session **session_out,
                          lw_error_t *error)
{
    const lwc_model_t *model = &kv->model;
    lwc_shape_t shape = {.layer_count = model->layers,
                         .kv_head_count = model->heads,
                         .query_head_count = model->query_heads,
                         .head_dim = model->head_dim,
                         .dtype = model->shape.dtype,
                         .rank_count = model->rank_count};
    lwc_index_shape_t index;
    lwk_policy_t policy;
    lwc_session_info_t info;
    struct lw_session *session = NULL;

    lw_status_t status = lwc_index_shape_make(params, &index, error);
    if (status == LW_OK)
        status = lwc_policy_make(params, index.cluster_tokens, &policy, error);
    if (status == LW_OK && params->read_only)
        status = lw_fail(error, LW_ERR_INVALID, "read_only is %u with session_id 0: a new session is written",
                         params->read_only);
    if (status == LW_OK)
        status = choose_replicas(kv, params, &shape.replicas, error);
    if (status == LW_OK)
        status = lwc_session_take_slot(kv, index.segment_tokens, &session, error);
    if (status != LW_OK)
        return status;
    memcpy(shape.model_id, model->model_id, sizeof(shape.model_id));
    shape.segment_tokens = index.segment_tokens;
    shape.cluster_encoding = index.cluster_encoding;
    shape.outlier_encoding = index.outlier_encoding;
    shape.outlier_ppm = index.outlier_ppm;
    shape.cluster_tokens = index.cluster_tokens;
    status = lwc_control_create(kv->control, &shape, kv->options.client_lease, params->ttl_us, &info, error);
    if (status != LW_OK)
        return status;
    session->shape = index;
    session->policy = policy;
    session->read_only = false;
    status = lwc_session_begin(session, &info, error);
    if (status != LW_OK) {
        give_up(kv, info.session_id, true);
        return status;
    }
    *session_out = session;
    return LW_OK;
}

/* A stored session must be of this handle's model. */
static lw_status_t check_shape(const struct lw *kv, const lwc_shape_t *shape, lw_error_t *error)
{
    const lwc_model_t *model = &kv->model;
    const struct {
        const char *field;
        uint32_t stored, open;
    } fields[] = {{"layer_count", shape->layer_count, model->layers},
                  {"kv_head_count", shape->kv_head_count, model->heads},
                  {"query_head_count", shape->query_head_count, model->query_heads},
                  {"head_dim", shape->head_dim, model->head_dim},
                  {"dtype", shape->dtype, model->shape.dtype},
                  {"rank_count", shape->rank_count, model->rank_count}};

    for (size_t i = 0; i < LW_ARRAY_SIZE(fields); i++)
        if (fields[i].stored != fields[i].open)
            return lw_fail(error, LW_ERR_INVALID, "%s is %u in the stored session, %u in this handle",
                           fields[i].field, fields[i].stored, fields[i].open);
    if (strncmp(shape->model_id, model->model_id, LW_MODEL_ID_MAX) != 0)
        return lw_fail(error, LW_ERR_INVALID,
                       "model_id is '%.127s' in the stored session, '%s' in this handle", shape->model_id,
                       model->model_id);
    return LW_OK;
}

static lwc_index_shape_t stored_index_shape(const lwc_shape_t *shape)
{
    return (lwc_index_shape_t){
        .cluster_tokens = shape->cluster_tokens ? shape->cluster_tokens : LWC_CLUSTER_TOKENS,
        .outlier_ppm = shape->outlier_ppm,
        .segment_tokens = shape->segment_tokens ? shape->segment_tokens : LW_SEGMENT_TOKENS_MAX,
        .cluster_encoding = shape->cluster_encoding,
        .outlier_encoding = shape->outlier_encoding};
}

/* Reopening and forking take the index as it is: asking for another one is a mistake. */
static lw_status_t check_inherited(const lw_session_params_t *params, const lwc_index_shape_t *shape,
                                   uint32_t replicas, lw_error_t *error)
{
    const struct {
        const char *field;
        uint32_t asked, is;
    } fields[] = {
        {"outlier_ppm", params->outlier_ppm == LW_PPM_NONE ? 0 : params->outlier_ppm, shape->outlier_ppm},
        {"cluster_tokens", params->cluster_tokens, shape->cluster_tokens},
        {"segment_tokens", params->segment_tokens, shape->segment_tokens},
        {"cluster_encoding", params->cluster_encoding, shape->cluster_encoding},
        {"outlier_encoding", params->outlier_encoding, shape->outlier_encoding},
        {"replicas", params->replicas, replicas}};

    for (size_t i = 0; i < LW_ARRAY_SIZE(fields); i++)
        if (fields[i].asked != 0 && fields[i].asked != fields[i].is)
            return lw_fail(error, LW_ERR_INVALID, "%s is %u, the session that exists has %u", fields[i].field,
                           fields[i].asked, fields[i].is);
    return LW_OK;
}

static lw_status_t reopen(struct lw *kv, const lw_session_params_t *params, struct lw_session **session_out,
                          lw_error_t *error)
{
    lwc_session_info_t info;
    struct lw_session *session = NULL;
    lw_status_t status = lwc_control_open_session(kv->control, params->session_id, !params->read_only,
                                                  kv->options.client_lease, &info, error);
    if (status != LW_OK)
        return status;
    lwc_index_shape_t index = stored_index_shape(&info.shape);
    lwk_policy_t policy;
    status = check_shape(kv, &info.shape, error);
    if (status == LW_OK)
        status = check_inherited(params, &index, info.shape.replicas, error);
    if (status == LW_OK)
        status = lwc_policy_make(params, index.cluster_tokens, &policy, error);
    if (status == LW_OK)
        status = lwc_session_take_slot(kv, index.segment_tokens, &session, error);
    if (status != LW_OK)
        goto err_release;
    session->shape = index;
    session->policy = policy;
    session->read_only = params->read_only != 0;
    status = lwc_session_begin(session, &info, error);
    if (status != LW_OK)
        goto err_release;
    status = lwc_session_restore(session, error);
    if (status != LW_OK)
        goto err_abort;
    *session_out = session;
    return LW_OK;

err_abort:
    lwc_session_abort(session);
err_release:
    give_up(kv, info.session_id, false);
    return status;
}

lw_status_t lwc_session_open(struct lw *kv, const lw_session_params_t *params,
                             struct lw_session **session_out, lw_error_t *error)
{
    if (kv->step.state != LWC_STEP_IDLE)
        return lw_fail(error, LW_ERR_BUSY, "a step is between its layers: finish it first");
    lwc_take_view(kv);
    return params->session_id == 0 ? create(kv, params, session_out, error)
                                   : reopen(kv, params, session_out, error);
}

/* ---- fork ---- */

static lw_status_t share_ranges(struct lw_session *child, const struct lw_session *parent, lw_error_t *error)
{
    lw_status_t status = LW_OK;

    for (uint32_t i = 0; i < parent->range_count && status == LW_OK; i++) {
        uint32_t row = parent->rows[i];
        child->kv->directory.rows[row].holders++;
        status = lwc_publish_range(child, row, NULL, NULL, error);
        if (status != LW_OK)
            child->kv->directory.rows[row].holders--;
    }
    return status;
}

/* The child's running sums go on from the moments that its ranges are attended with. */
static lw_status_t inherit_moments(struct lw_session *child, lw_error_t *error)
{
    struct lw *kv = child->kv;
    const lwc_model_t *model = &kv->model;
    lw_status_t status = lwc_device_copy(&kv->device, kv->moments_staging, child->steady.moments,
                                         model->layers * model->moments_bytes, kv->stream, error);

    if (status == LW_OK)
        status = lwc_stream_settle(kv, error);
    if (status == LW_OK)
        lwc_moments_decode(kv->moments_staging, (uint64_t)model->layers * model->heads, model->head_dim,
                           child->keep.sums);
    child->keep.moments_stored = child->range_count > 0;
    return status;
}

static lw_status_t fork_into(struct lw_session *child, struct lw_session *parent, lw_error_t *error)
{
    lw_status_t status =
        lwc_session_write_tokens(child, parent->token_count, error); /* ranges hold tokens that exist */

    if (status == LW_OK)
        status = share_ranges(child, parent, error);
    if (status == LW_OK)
        status = lwc_steady_clone(&child->steady, &parent->steady, parent->sealed, parent->token_count,
                                  child->kv->stream, error);
    if (status == LW_OK)
        status = inherit_moments(child, error);
    child->cut = child->sealed;
    child->prefilling = parent->prefilling;
    child->token_count = parent->token_count;
    return status;
}

lw_status_t lwc_session_fork(struct lw_session *parent, const lw_session_params_t *params,
                             struct lw_session **child_out, lw_error_t *error)
{
    struct lw *kv = parent->kv;
    struct lw_session *child = NULL;
    lwc_session_info_t info;
    lwk_policy_t policy = parent->policy;
    lw_status_t status = lwc_session_fault(parent, error);

    if (status == LW_OK) /* what the child copies must be there to stay */
        status = lwc_stream_settle(kv, error);
    lwc_outcomes_take(kv);
    if (status == LW_OK)
        status = lwc_outcomes_tell(parent, error);
    if (status == LW_OK && (kv->step.state != LWC_STEP_IDLE || parent->append_kind != LWC_APPEND_NONE))
        status = lw_fail(error, LW_ERR_BUSY, "the session is between layers: finish the step or chunk first");
    if (status == LW_OK && params && params->session_id != 0)
        status = lw_fail(error, LW_ERR_INVALID, "session_id is %llu, must be 0 for a fork",
                         (unsigned long long)params->session_id);
    if (status == LW_OK && params)
        status = check_inherited(params, &parent->shape, parent->info.shape.replicas, error);
    if (status == LW_OK && params && lwc_policy_is_asked(params))
        status = lwc_policy_make(params, parent->shape.cluster_tokens, &policy, error);
    if (status == LW_OK)
        status = lwc_session_take_slot(kv, parent->shape.segment_tokens, &child, error);
    if (status != LW_OK)
        return status;
    if (child->steady.rows != parent->steady.rows) { /* the slot had a larger ring before */
        lwc_steady_fini(&child->steady);
        status = lwc_steady_init(&child->steady, &kv->device, &kv->model, parent->steady.rows,
                                 kv->sizes.ranges_max, error);
        if (status != LW_OK)
            return status;
    }
    /* Only what this handle has published: never 0, which would mean every committed range. */
    status = lwc_control_fork(kv->control, parent->info.session_id, (uint32_t)lw_max_u64(parent->sealed, 1),
                              kv->options.client_lease, &info, error);
    if (status != LW_OK)
        return status;
    child->shape = parent->shape;
    child->policy = policy;
    child->read_only = false;
    status = lwc_session_begin(child, &info, error);
    if (status != LW_OK)
        goto err_drop;
    if (info.cut_tokens != parent->sealed) {
        status =
            lw_fail(error, LW_ERR_STALE, "the fleet cut the fork at token %u, this handle has %u in ranges",
                    info.cut_tokens, parent->sealed);
        goto err_abort;
    }
    status = fork_into(child, parent, error);
    if (status != LW_OK)
        goto err_abort;
    *child_out = child;
    lwc_session_cut(child);
    return LW_OK;

err_abort:
    lwc_session_abort(child);
err_drop:
    give_up(kv, info.session_id, true);
    return status;
}

/* ---- close ---- */

/* Waits until the keeper has nothing of this session's and no fetch of it is in flight. */
static void settle(struct lw_session *session)
{
    struct lw *kv = session->kv;

    if (kv->step.state == LWC_STEP_FLYING) {
        kv->step.canceled |= session->stepping;
        while (kv->step.state == LWC_STEP_FLYING) {
            lwc_wait(kv, CLOSE_WAIT_US);
            (void)lwc_progress(kv);
        }
    }
    if (kv->step.state == LWC_STEP_BETWEEN && session->stepping)
        lwc_step_reset(kv);
    while (!kv->device.async && kv->tickets.waiting > 0)
        lwc_wait(kv, CLOSE_WAIT_US);
    atomic_store_explicit(&session->keep.abandon, 1, memory_order_release);
    while (session->task_busy) {
        lwc_wait(kv, CLOSE_WAIT_US);
        if (kv->step.state != LWC_STEP_IDLE)
            lwc_step_reset(kv); /* another session's step would keep results from being taken */
        (void)lwc_publish_ready(kv);
    }
}

static void cancel_ops(struct lw_session *session)
{
    lw_op_t *next = NULL;

    for (lw_op_t *op = session->kv->ops.first; op; op = next) {
        next = (lw_op_t *)(uintptr_t)lwc_op_words(op)->next;
        if (lwc_op_words(op)->kind == LWC_OP_FLUSH &&
            lwc_op_words(op)->object == (uint64_t)(uintptr_t)session)
            lwc_op_complete(session->kv, op, LW_ERR_CANCELED);
    }
}

void lwc_session_close(struct lw_session *session)
{
    struct lw *kv = session->kv;
    lw_error_t error = {.text = ""};

    cancel_ops(session);
    settle(session);
    if (!session->dropped && lwc_control_release(kv->control, session->info.session_id, &error) != LW_OK)
        LW_WARN("client", "session %llu: its lease was not given up and will run out: %s",
                (unsigned long long)session->info.session_id, error.text);
    lwc_unbind(session);
    release_rows(session);
    lwc_route_session_forget(kv, session->slot);
    session->open = false;
}

/* ---- small ones ---- */

uint32_t lwc_session_confirmed(const struct lw_session *session)
{
    return session->flying > 0 || session->step_status != LW_OK ? session->confirmed : session->token_count;
}

lw_status_t lwc_session_write_tokens(struct lw_session *session, uint32_t token_count, lw_error_t *error)
{
    struct lw *kv = session->kv;
    uint8_t *row = (uint8_t *)&kv->rows[session->slot];

    return lwc_stream_note(kv, row + offsetof(lwk_session_t, token_count), &token_count, sizeof(token_count),
                           error);
}

lw_status_t lwc_session_fault(struct lw_session *session, lw_error_t *error)
{
    lw_status_t status = (lw_status_t)atomic_load_explicit(&session->keep.fault, memory_order_acquire);

    if (status == LW_OK)
        return LW_OK;
    return lw_fail(error, status, "session %llu: %s", (unsigned long long)session->info.session_id,
                   session->keep.fault_text);
}

uint32_t lwc_session_room(const struct lw_session *session)
{
    uint32_t first = (uint32_t)lw_max_u64(session->sealed, LW_SINK_TOKENS);
    uint32_t used = session->token_count > first ? session->token_count - first : 0;

    return session->steady.rows - used;
}

lw_status_t lwc_session_truncate(struct lw_session *session, uint32_t token_count, lw_error_t *error)
{
    lw_status_t status = lwc_session_fault(session, error);

    lwc_outcomes_take(session->kv);
    if (status == LW_OK)
        status = lwc_outcomes_tell(session, error);
    if (status != LW_OK)
        return status;
    if (session->stepping || session->append_kind != LWC_APPEND_NONE)
        return lw_fail(error, LW_ERR_BUSY, "the session is between layers: finish the step or chunk first");
    if (token_count > session->token_count || token_count < session->cut)
        return lw_fail(error, LW_ERR_INVALID, "token_count is %u, must be %u..%u (older tokens are sealed)",
                       token_count, session->cut, session->token_count);
    status = lwc_session_write_tokens(session, token_count, error);
    if (status != LW_OK)
        return status;
    session->token_count = token_count;
    session->confirmed = (uint32_t)lw_min_u64(session->confirmed, token_count);
    if (session->raw_end > token_count)
        session->raw_stale = true;
    return LW_OK;
}

lw_status_t lwc_session_query(struct lw_session *session, lw_session_attr_t *attr, lw_error_t *error)
{
    const lwc_directory_t *directory = &session->kv->directory;
    uint64_t known = LW_SESSION_ATTR_TOKENS | LW_SESSION_ATTR_INDEX;

    if (attr->field_mask & ~known)
        return lw_fail(error, LW_ERR_INVALID, "field_mask is %#llx, known are %#llx",
                       (unsigned long long)attr->field_mask, (unsigned long long)known);
    attr->session_id = session->info.session_id;
    if (attr->field_mask & LW_SESSION_ATTR_TOKENS) {
        attr->token_count = session->token_count;
        attr->sealed_tokens = session->sealed;
        attr->committed_tokens = (uint32_t)lw_max_u64(session->sealed, session->raw_end);
        attr->range_count = session->range_count;
        attr->term = session->info.term;
    }
    if (attr->field_mask & LW_SESSION_ATTR_INDEX) {
        attr->index_bytes = attr->stored_bytes = attr->clusters = attr->outliers = 0;
        for (uint32_t i = 0; i < session->range_count; i++) {
            const lwc_range_row_t *range = &directory->rows[session->rows[i]];
            attr->index_bytes += range->index_bytes;
            attr->stored_bytes += range->stored_bytes;
            attr->clusters += range->clusters;
            attr->outliers += range->outliers;
        }
    }
    return LW_OK;
}
