/* step_args.c - a layer step's checks, room and arguments, for host and asynchronous backends alike. Caller's thread;
 * nothing here allocates. */
#include <string.h>

#include "client/ctx.h"

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
    const struct {
        void **memory;
        lwk_memory_t kind;
        uint64_t bytes;
        const char *what;
    } parts[] = {{&step->scratch, LWK_MEMORY_DEVICE, step->scratch_bytes,
                  "step scratch (client.query_rows, tokens_max)"},
                 {(void **)&step->slots, LWK_MEMORY_DEVICE, LW_BATCH_MAX * sizeof(uint32_t), "batch slots"},
                 {(void **)&step->tree_mask, LWK_MEMORY_DEVICE, LW_QUERY_TOKENS_MAX * sizeof(uint32_t),
                  "tree mask"},
                 {(void **)&step->errors, LWK_MEMORY_PINNED, LW_BATCH_MAX * sizeof(int32_t), "error words"}};
    lw_status_t status = LW_OK;

    for (size_t i = 0; i < LW_ARRAY_SIZE(parts) && status == LW_OK; i++)
        status = lwc_device_alloc(&kv->device, parts[i].kind, parts[i].bytes, parts[i].what, parts[i].memory,
                                  error);
    lwk_dims_t dims = dims_of(kv, 1, 1);
    if (status == LW_OK && kv->device.backend->warm_up(kv->device.dev, &dims) != LW_OK)
        status = lw_fail(error, LW_ERR_DEVICE, "backend '%s' does not warm up", kv->device.backend->name);
    return status;
}

void lwc_step_fini(struct lw *kv)
{
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->step.scratch);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->step.slots);
    lwc_device_free(&kv->device, LWK_MEMORY_DEVICE, kv->step.tree_mask);
    lwc_device_free(&kv->device, LWK_MEMORY_PINNED, kv->step.errors);
}

/* ---- checks ---- */

static lw_status_t check_counts(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    if (from->layer >= kv->model.layers)
        return lw_fail(error, LW_ERR_INVALID, "layer is %u, must be below %u", from->layer, kv->model.layers);
    if (from->session_count == 0 || from->session_count > LW_BATCH_MAX)
        return lw_fail(error, LW_ERR_INVALID, "session_count is %u, must be 1..%u", from->session_count,
                       LW_BATCH_MAX);
    if (!from->sessions && !kv->device.async)
        return lw_fail(error, LW_ERR_INVALID,
                       "sessions is NULL: bound batch slots exist on asynchronous backends only");
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
    if (!from->sessions && from->tree_mask)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "tree_mask with bound batch slots, must be NULL");
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

lw_status_t lwc_step_check(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    lw_status_t status = check_counts(kv, from, error);

    for (uint32_t s = 0; status == LW_OK && from->sessions && s < from->session_count; s++)
        status = check_session(kv, from, s, error);
    return status;
}

/* ---- a layer's arguments ---- */

static lwk_tensor_t op_tensor(const lw_tensor_t *from)
{
    return (lwk_tensor_t){.data = from->data,
                          .session_stride = from->session_stride,
                          .token_stride = from->token_stride,
                          .head_stride = from->head_stride};
}

/* The ops read the mask where they run. */
static lw_status_t place_mask(struct lw *kv, const lw_step_t *from, const uint32_t **mask_out,
                              lw_error_t *error)
{
    *mask_out = from->tree_mask;
    if (!from->tree_mask || !kv->device.async)
        return LW_OK;
    *mask_out = kv->step.tree_mask;
    uint32_t bytes = (uint32_t)(from->query.tokens * sizeof(uint32_t));
    if (kv->step.mask_tokens == from->query.tokens && memcmp(kv->step.mask, from->tree_mask, bytes) == 0)
        return LW_OK;
    lw_status_t status = lwc_stream_note(kv, kv->step.tree_mask, from->tree_mask, bytes, error);
    kv->step.mask_tokens = status == LW_OK ? from->query.tokens : 0;
    memcpy(kv->step.mask, from->tree_mask, bytes);
    return status;
}

uint32_t lwc_step_wait_us(const lw_step_t *from)
{
    return from->timeout_us ? from->timeout_us : STEP_TIMEOUT_US;
}

lw_status_t lwc_step_args(struct lw *kv, const lw_step_t *from, const lw_tensor_t *out, const uint32_t *slots,
                          lwk_step_t *args_out, lw_error_t *error)
{
    const lwc_model_t *model = &kv->model;
    uint32_t s = from->session_count, t = from->query.tokens;
    lw_tensor_t query, key = {0}, value = {0}, result = {0};
    const uint32_t *mask = NULL;

    lw_status_t status =
        lwc_tensor_check("query", &from->query, s, t, model->query_heads, model->head_dim, &query, error);
    if (status == LW_OK && out)
        status = lwc_tensor_check("key", &from->key, s, t, model->heads, model->head_dim, &key, error);
    if (status == LW_OK && out)
        status = lwc_tensor_check("value", &from->value, s, t, model->heads, model->head_dim, &value, error);
    if (status == LW_OK && out)
        status = lwc_tensor_check("attn_out", out, s, t, model->query_heads, model->head_dim, &result, error);
    if (status == LW_OK)
        status = place_mask(kv, from, &mask, error);
    if (status != LW_OK)
        return status;
    lwk_dims_t dims = dims_of(kv, s, t);
    *args_out = (lwk_step_t){
        .shape = kv->model.shape,
        .layer = from->layer,
        .session_count = s,
        .query_tokens = t,
        .flags = out ? 0 : LWK_STEP_PREFETCH,
        .store = kv->store_dev,
        .sessions = kv->rows,
        .slots = slots,
        .scratch = lwk_scratch_carve(&dims, kv->step.scratch, kv->device.backend->workspace_bytes(&dims)),
        .query = op_tensor(&query),
        .key = op_tensor(&key),
        .value = op_tensor(&value),
        .out = op_tensor(&result),
        .lse_out = out ? from->lse_out : NULL,
        .tree_mask = mask,
        .wait_us = lwc_step_wait_us(from)};
    return LW_OK;
}

lw_status_t lwc_step_run(struct lw *kv, const char *name, lwc_step_op_t op, const lwk_step_t *args,
                         void *stream, lw_error_t *error)
{
    lw_status_t status = op(kv->device.dev, args, stream);

    if (status != LW_OK)
        return lw_fail(error, status, "op %s of layer %u: %s", name, args->layer, lw_status_text(status));
    return LW_OK;
}

/* ---- before layer 0 ---- */

lw_status_t lwc_step_room(struct lw *kv, struct lw_session *session, uint32_t tokens, uint64_t until,
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

lw_status_t lwc_step_slots(struct lw *kv, const lw_step_t *from, lw_error_t *error)
{
    lwc_step_t *step = &kv->step;
    uint32_t slots[LW_BATCH_MAX];
    uint32_t bytes = (uint32_t)(from->session_count * sizeof(uint32_t));

    for (uint32_t s = 0; s < from->session_count; s++)
        slots[s] = from->sessions[s]->slot;
    if (step->written_count >= from->session_count && memcmp(step->written, slots, bytes) == 0)
        return LW_OK;
    lw_status_t status = lwc_stream_note(kv, step->slots, slots, bytes, error);
    step->written_count = status == LW_OK ? from->session_count : 0;
    memcpy(step->written, slots, bytes);
    return status;
}
