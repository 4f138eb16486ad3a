/* step.c - the layer step: five ops in order, fetches between select and finish, admit at the step's end.
 * Caller's thread. Between lwc_step_begin and the step's completion nothing allocates and no lock is taken.
 */
#include "client/ctx.h"

#include <string.h>

#define STEP_TIMEOUT_US 5000000u
#define ROOM_WAIT_US 500u

/* ---- memory ---- */

static lwk_dims_t dims_of(const struct lw *kv, uint32_t sessions, uint32_t tokens)
{
    return (lwk_dims_t){.shape = kv->model.shape,
                        .session_count = sessions,
                        .query_tokens = tokens,
                        .entry_capacity = kv->sizes.entry_capacity,
                        .range_list_capacity = kv->sizes.ranges_max,
                        .item_capacity = kv->sizes.entry_capacity,
                        .steady_rows = kv->sizes.steady_rows_max};
}

static uint64_t scratch_bytes(const struct lw *kv, uint32_t sessions, uint32_t tokens)
{
    lwk_dims_t dims = dims_of(kv, sessions, tokens);
    return lwk_scratch_bytes(&dims, kv->device.backend->workspace_bytes(&dims));
}

lw_status_t lwc_step_init(struct lw *kv, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    uint32_t rows = kv->sizes.query_rows;
    uint32_t tokens = (uint32_t)lw_min_u64(rows, LW_QUERY_TOKENS_MAX);

    step->scratch_bytes =
        lw_max_u64(scratch_bytes(kv, (uint32_t)lw_min_u64(rows, LW_BATCH_MAX), 1),
                   scratch_bytes(kv, (uint32_t)lw_min_u64(rows / tokens, LW_BATCH_MAX), tokens));
    lw_status_t status =
        lwc_device_alloc(&kv->device, LWK_MEMORY_DEVICE, step->scratch_bytes,
                         "step scratch (client.query_rows, tokens_max)", &step->scratch, error);
    if (status == LW_OK)
        status = lwc_device_alloc(&kv->device, LWK_MEMORY_DEVICE, LW_BATCH_MAX * sizeof(uint32_t),
                                  "batch slots", (void **)&step->slots, error);
    if (status == LW_OK)
        status = lwc_device_alloc(&kv->device, LWK_MEMORY_PINNED, LW_BATCH_MAX * sizeof(uint32_t),
                                  "batch slots", (void **)&step->slots_staging, error);
    if (status == LW_OK)
        status = lwc_device_alloc(&kv->device, LWK_MEMORY_PINNED, LW_BATCH_MAX * sizeof(int32_t),
                                  "error words", (void **)&step->errors, error);
    lwk_dims_t dims = dims_of(kv, 1, 1);
    if (status == LW_OK && kv->device.backend->warm_up(kv->device.dev, &dims) != LW_OK)
        status = lw_fail(error, LW_ERR_DEVICE, "backend '%s' does not warm up", kv->device.backend->name);
    return status;
}

void lwc_step_fini(struct lw *kv)
{
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->step.scratch);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->step.slots);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, kv->step.slots_staging);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, kv->step.errors);
}

/* ---- checks ---- */

static lw_status_t check_counts(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    if (from->layer >= kv->model.layers)
        return lw_fail(error, LW_ERR_INVALID, "layer is %u, must be below %u", from->layer, kv->model.layers);
    if (!from->sessions || from->session_count == 0 || from->session_count > LW_BATCH_MAX)
        return lw_fail(error, LW_ERR_INVALID, "session_count is %u, must be 1..%u", from->session_count,
                       LW_BATCH_MAX);
    if (from->query.tokens == 0 || from->query.tokens > LW_QUERY_TOKENS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "query.tokens is %u, must be 1..%u", from->query.tokens,
                       LW_QUERY_TOKENS_MAX);
    if (scratch_bytes(kv, from->session_count, from->query.tokens) > kv->step.scratch_bytes)
        return lw_fail(error, LW_ERR_INVALID,
                       "session_count %u times query.tokens %u is above client.query_rows %u",
                       from->session_count, from->query.tokens, kv->sizes.query_rows);
    if (from->estimate_after_us != 0)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "estimate_after_us is %u, must be 0 in this version",
                       from->estimate_after_us);
    for (uint32_t t = 0; from->tree_mask && t < from->query.tokens; t++)
        if ((from->tree_mask[t] >> t & 1u) == 0 || from->tree_mask[t] >> t > 1u)
            return lw_fail(error, LW_ERR_INVALID,
                           "tree_mask[%u] is %#x: a token sees itself and earlier new ones only", t,
                           from->tree_mask[t]);
    return LW_OK;
}

static lw_status_t check_session(struct lw *kv, const lw_step_t *from, uint32_t s, lw_error_t *error)
{
    const struct lw_session *session = from->sessions[s];

    if (!session || session->kv != kv || !session->open)
        return lw_fail(error, LW_ERR_INVALID, "sessions[%u] is not an open session of this handle", s);
    for (uint32_t other = 0; other < s; other++)
        if (from->sessions[other] == session)
            return lw_fail(error, LW_ERR_INVALID, "sessions[%u] and sessions[%u] are the same", other, s);
    if (session->append_kind != LWC_APPEND_NONE)
        return lw_fail(error, LW_ERR_BUSY, "sessions[%u] is between the layers of lw_prefill or lw_extend",
                       s);
    return lwc_session_fault(from->sessions[s], error);
}

static lw_status_t check_running(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    const lwc_step_t *step = &kv->step;

    if (step->state == LWC_STEP_FLYING)
        return lw_fail(error, LW_ERR_BUSY, "layer %u is in flight", step->layer);
    uint32_t wanted = step->state == LWC_STEP_IDLE ? 0 : step->layer;
    if (from->layer != wanted)
        return lw_fail(error, LW_ERR_INVALID, "layer is %u, must be %u: the layers of a step come in order",
                       from->layer, wanted);
    if (step->state == LWC_STEP_IDLE)
        return LW_OK;
    if (from->session_count != step->session_count || from->query.tokens != step->query_tokens ||
        memcmp(from->sessions, step->sessions, step->session_count * sizeof(*step->sessions)) != 0)
        return lw_fail(error, LW_ERR_INVALID,
                       "sessions or query.tokens differ from those of layer 0 of this step");
    return LW_OK;
}

/* ---- a layer's arguments ---- */

static lwk_tensor_t op_tensor(const lw_tensor_t *from)
{
    return (lwk_tensor_t){.data = from->data,
                          .session_stride = from->session_stride,
                          .token_stride = from->token_stride,
                          .head_stride = from->head_stride};
}

static lw_status_t make_args(struct lw *kv, const lw_step_t *from, const lw_tensor_t *out, uint32_t flags,
                             lwk_step_t *args_out, lw_error_t *error)
{
    const lwc_model_t *model = &kv->model;
    uint32_t s = from->session_count, t = from->query.tokens;
    bool appends = (flags & LWK_STEP_PREFETCH) == 0;
    lw_tensor_t query, key = {0}, value = {0}, result = {0};

    lw_status_t status =
        lwc_tensor_check("query", &from->query, s, t, model->query_heads, model->head_dim, &query, error);
    if (status == LW_OK && appends)
        status = lwc_tensor_check("key", &from->key, s, t, model->heads, model->head_dim, &key, error);
    if (status == LW_OK && appends)
        status = lwc_tensor_check("value", &from->value, s, t, model->heads, model->head_dim, &value, error);
    if (status == LW_OK && appends)
        status = lwc_tensor_check("attn_out", out, s, t, model->query_heads, model->head_dim, &result, error);
    if (status != LW_OK)
        return status;
    lwk_dims_t dims = dims_of(kv, s, t);
    *args_out = (lwk_step_t){
        .shape = kv->model.shape,
        .layer = from->layer,
        .session_count = s,
        .query_tokens = t,
        .flags = flags,
        .store = kv->store_dev,
        .sessions = kv->rows,
        .slots = kv->step.slots,
        .scratch = lwk_scratch_carve(&dims, kv->step.scratch, kv->device.backend->workspace_bytes(&dims)),
        .query = op_tensor(&query),
        .key = op_tensor(&key),
        .value = op_tensor(&value),
        .out = op_tensor(&result),
        .lse_out = appends ? from->lse_out : NULL,
        .tree_mask = from->tree_mask,
        .wait_us = from->timeout_us ? from->timeout_us : STEP_TIMEOUT_US};
    return LW_OK;
}

/* ---- layer 0 ---- */

static lw_status_t room_for(struct lw *kv, struct lw_session *session, uint32_t tokens, uint64_t until,
                            bool block, lw_error_t *error)
{
    if ((uint64_t)session->token_count + tokens > kv->sizes.tokens_max)
        return lw_fail(error, LW_ERR_INVALID, "%u tokens and %u more are above tokens_max %u",
                       session->token_count, tokens, kv->sizes.tokens_max);
    while (lwc_session_room(session) < tokens) {
        if (session->read_only)
            return lw_fail(error, LW_ERR_PERMISSION,
                           "opened read-only: no room for %u more tokens beyond those stored", tokens);
        lw_status_t status = lwc_session_fault(session, error);
        if (status != LW_OK)
            return status;
        if (!block || lwc_now(kv) >= until)
            return lw_fail(error, LW_ERR_BUSY, "the steady zone is full until a range is committed");
        lwc_wait(kv, ROOM_WAIT_US);
        (void)lwc_publish_ready(kv);
    }
    return LW_OK;
}

static lw_status_t write_slots(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    for (uint32_t s = 0; s < from->session_count; s++)
        kv->step.slots_staging[s] = from->sessions[s]->slot;
    return lwc_device_copy(&kv->device, kv->step.slots, kv->step.slots_staging,
                           from->session_count * sizeof(uint32_t), from->stream, error);
}

static lw_status_t begin_step(struct lw *kv, const lw_step_t *from, bool block, uint64_t until,
                              lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    lw_status_t status = LW_OK;

    (void)lwc_publish_ready(kv);
    for (uint32_t s = 0; s < from->session_count && status == LW_OK; s++) {
        if (from->sessions[s]->prefilling)
            lwc_session_cut_tail(from->sessions[s]);
        status = room_for(kv, from->sessions[s], from->query.tokens, until, block, error);
    }
    if (status == LW_OK)
        status = write_slots(kv, from, error);
    if (status != LW_OK)
        return status;
    step->session_count = from->session_count;
    step->query_tokens = from->query.tokens;
    for (uint32_t s = 0; s < from->session_count; s++) {
        step->sessions[s] = from->sessions[s];
        step->sessions[s]->stepping = true;
    }
    return LW_OK;
}

/* ---- the ops ---- */

typedef lw_status_t (*step_op_t)(lwk_dev_t *, const lwk_step_t *, void *);

static lw_status_t run(struct lw *kv, const char *name, step_op_t op, const lwk_step_t *args, void *stream,
                       lw_error_t *error)
{
    lw_status_t status = op(kv->device.dev, args, stream);

    if (status != LW_OK)
        return lw_fail(error, status, "op %s of layer %u: %s", name, args->layer, lw_status_text(status));
    return LW_OK;
}

static lw_status_t enqueue(struct lw *kv, void *stream, lw_error_t *error)
{
    const lwk_backend_t *backend = kv->device.backend;
    const lwk_step_t *args = &kv->step.args;
    lw_status_t status = run(kv, "prepare", backend->prepare, args, stream, error);

    if (status == LW_OK)
        status = run(kv, "score", backend->score, args, stream, error);
    if (status == LW_OK)
        status = run(kv, "select", backend->select, args, stream, error);
    if (status != LW_OK)
        return status;
    lwc_tickets_collect(&kv->tickets, kv->step.deadline_us);
    (void)lwc_store_round(kv->store, lwc_now(kv)); /* requests leave before the hits are attended */
    return run(kv, "attend", backend->attend, args, stream, error);
}

lw_status_t lwc_step_begin(struct lw *kv, const lw_step_t *from, lw_tensor_t *out, lw_op_t *op,
                           lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    lwk_step_t args;
    lw_status_t status = check_counts(kv, from, error);

    for (uint32_t s = 0; s < from->session_count && status == LW_OK; s++)
        status = check_session(kv, from, s, error);
    if (status == LW_OK)
        status = check_running(kv, from, error);
    if (status == LW_OK)
        status = make_args(kv, from, out, 0, &args, error);
    if (status != LW_OK)
        return status;
    uint64_t until = lwc_now(kv) + args.wait_us;
    if (from->layer == 0) {
        status = begin_step(kv, from, op == NULL, until, error);
        if (status != LW_OK)
            return status;
    }
    step->args = args;
    step->layer = from->layer;
    step->stream = from->stream;
    step->deadline_us = until;
    step->canceled = false;
    step->op = op;
    step->state = LWC_STEP_FLYING;
    lwc_tickets_clear(&kv->tickets);
    status = enqueue(kv, from->stream, error);
    step->wait_began_us = lwc_now(kv);
    if (status != LW_OK) {
        step->enqueue_status = status;
        step->enqueue_error = *error;
    } else {
        step->enqueue_status = LW_OK;
    }
    return LW_INPROGRESS;
}

/* ---- completion ---- */

static lw_status_t read_errors(struct lw *kv, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;

    for (uint32_t s = 0; s < step->session_count; s++) {
        const uint8_t *row = (const uint8_t *)&kv->rows[step->sessions[s]->slot];
        lw_status_t status =
            lwc_device_copy(&kv->device, &step->errors[s], row + offsetof(lwk_session_t, error),
                            sizeof(int32_t), step->stream, error);
        if (status != LW_OK)
            return status;
        if (step->errors[s] != LW_OK)
            return lw_fail(error, (lw_status_t)step->errors[s], "session %llu, layer %u: %s",
                           (unsigned long long)step->sessions[s]->info.session_id, step->args.layer,
                           lw_status_text(step->errors[s]));
    }
    return LW_OK;
}

/* The layer's outcome, the most telling cause first. */
static lw_status_t outcome(struct lw *kv, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    lw_status_t status;

    if (step->enqueue_status != LW_OK) {
        *error = step->enqueue_error;
        return step->enqueue_status;
    }
    status = run(kv, "finish", kv->device.backend->finish, &step->args, step->stream, error);
    if (kv->tickets.failed != LW_OK) {
        bool full =
            kv->tickets.failed == LW_ERR_TIMEOUT && kv->tickets.bytes > kv->tickets.landing_bytes / 8 * 7;
        return lw_fail(error, kv->tickets.failed, "layer %u: %s%s", step->args.layer, kv->tickets.error.text,
                       full ? "; landing memory is full: raise client.landing_bytes" : "");
    }
    if (status == LW_OK)
        status = read_errors(kv, error);
    if (status == LW_OK && step->canceled)
        status = lw_fail(error, LW_ERR_CANCELED, "layer %u was canceled", step->args.layer);
    return status;
}

static lw_status_t admit(struct lw *kv, lw_error_t *error)
{
    lw_status_t status = run(kv, "admit", kv->device.backend->admit, &kv->step.args, kv->step.stream, error);

    lwc_tickets_release(&kv->tickets);
    return status;
}

static void end_step(struct lw *kv)
{
    lwc_step_t *step = &kv->step;

    step->state = LWC_STEP_IDLE;
    for (uint32_t s = 0; s < step->session_count; s++) {
        struct lw_session *session = step->sessions[s];
        session->stepping = false;
        session->token_count += step->query_tokens;
        lwc_session_cut(session);
    }
}

void lwc_step_reset(struct lw *kv)
{
    lwc_step_t *step = &kv->step;
    lw_error_t error;

    if (step->state == LWC_STEP_IDLE)
        return;
    (void)admit(kv, &error);
    for (uint32_t s = 0; s < step->session_count; s++) {
        struct lw_session *session = step->sessions[s];
        session->stepping = false;
        lw_status_t status = lwc_session_write_tokens(session, session->token_count, &error);
        if (status != LW_OK)
            lwc_keep_fail(&session->keep, status, error.text);
    }
    step->state = LWC_STEP_IDLE;
    lwc_take_view(kv); /* what failed may have moved */
}

lw_status_t lwc_step_poll(struct lw *kv, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;

    LW_ASSERT(step->state == LWC_STEP_FLYING);
    if (kv->tickets.waiting_layer[step->args.layer] > 0)
        return LW_INPROGRESS;
    step->wait_us += lwc_now(kv) - step->wait_began_us;
    lw_status_t status = outcome(kv, error);
    bool last = step->args.layer + 1 == kv->model.layers;
    if (status == LW_OK && (last || lwc_tickets_tight(&kv->tickets)))
        status = admit(kv, error);
    if (status != LW_OK) {
        lwc_step_reset(kv);
        return status;
    }
    if (last) {
        end_step(kv);
    } else {
        step->state = LWC_STEP_BETWEEN;
        step->layer = step->args.layer + 1;
    }
    return LW_OK;
}

/* ---- prefetch ---- */

lw_status_t lwc_step_prefetch(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    const lwk_backend_t *backend = kv->device.backend;
    lwk_step_t args;
    lw_status_t status = check_counts(kv, from, error);

    for (uint32_t s = 0; s < from->session_count && status == LW_OK; s++)
        status = check_session(kv, from, s, error);
    if (status == LW_OK && step->state == LWC_STEP_FLYING)
        status = lw_fail(error, LW_ERR_BUSY, "layer %u is in flight", step->layer);
    if (status == LW_OK && step->state == LWC_STEP_BETWEEN &&
        (from->session_count != step->session_count ||
         memcmp(from->sessions, step->sessions, step->session_count * sizeof(*step->sessions)) != 0))
        status = lw_fail(error, LW_ERR_INVALID, "sessions differ from those of the running step");
    if (status == LW_OK)
        status = make_args(kv, from, NULL, LWK_STEP_PREFETCH, &args, error);
    if (status == LW_OK && step->state == LWC_STEP_IDLE)
        status = write_slots(kv, from, error);
    if (status == LW_OK)
        status = run(kv, "prepare", backend->prepare, &args, from->stream, error);
    if (status == LW_OK)
        status = run(kv, "score", backend->score, &args, from->stream, error);
    if (status == LW_OK)
        status = run(kv, "select", backend->select, &args, from->stream, error);
    lwc_tickets_collect(&kv->tickets, lwc_now(kv) + args.wait_us);
    if (status == LW_OK)
        (void)lwc_store_round(kv->store, lwc_now(kv));
    return status;
}
