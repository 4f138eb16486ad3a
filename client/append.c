/* append.c - new tokens enter the steady zone layer by layer, with no attention of ours: what lw_prefill does
 * and lw_extend begins with. All layers take the same chunk; after the last its tokens count. Caller's
 * thread. */
#include "client/ctx.h"

#include <inttypes.h>

#define ROOM_WAIT_US 1000u

lw_status_t lwc_tensor_check(const char *name, const lw_tensor_t *tensor, uint32_t sessions, uint32_t tokens,
                             uint32_t heads, uint32_t head_dim, lw_tensor_t *dense_out, lw_error_t *error)
{
    const struct {
        const char *field;
        uint32_t is, wanted;
    } fields[] = {{"sessions", tensor->sessions, sessions},
                  {"tokens", tensor->tokens, tokens},
                  {"heads", tensor->heads, heads},
                  {"head_dim", tensor->head_dim, head_dim}};

    if (!tensor->data)
        return lw_fail(error, LW_ERR_INVALID, "%s.data is NULL", name);
    for (size_t i = 0; i < LW_ARRAY_SIZE(fields); i++)
        if (fields[i].is != fields[i].wanted)
            return lw_fail(error, LW_ERR_INVALID, "%s.%s is %u, must be %u", name, fields[i].field,
                           fields[i].is, fields[i].wanted);
    *dense_out = *tensor;
    if (dense_out->head_stride == 0)
        dense_out->head_stride = head_dim;
    if (dense_out->token_stride == 0)
        dense_out->token_stride = (int64_t)heads * head_dim;
    if (dense_out->session_stride == 0)
        dense_out->session_stride = (int64_t)tokens * heads * head_dim;
    return LW_OK;
}

static lw_status_t check_order(const struct lw_session *session, lwc_append_kind_t kind, uint32_t layer,
                               const lw_tensor_t *key, lw_error_t *error)
{
    uint32_t wanted = session->append_kind == LWC_APPEND_NONE ? 0 : session->append_layer;

    if (session->stepping)
        return lw_fail(error, LW_ERR_BUSY, "the session is in a step that is between its layers");
    if (session->append_kind != LWC_APPEND_NONE && session->append_kind != kind)
        return lw_fail(error, LW_ERR_INVALID, "the session is inside %s",
                       kind == LWC_APPEND_PREFILL ? "lw_extend" : "lw_prefill");
    if (layer != wanted)
        return lw_fail(error, LW_ERR_INVALID, "layer is %u, must be %u: layers take a chunk in order", layer,
                       wanted);
    if (wanted > 0 && key->tokens != session->append_tokens)
        return lw_fail(error, LW_ERR_INVALID, "key.tokens is %u, layer 0 of this chunk took %u", key->tokens,
                       session->append_tokens);
    return LW_OK;
}

/* Makes room for `tokens`: ranges under way, or units that must go early because the chunk is large. */
static lw_status_t wait_for_room(struct lw_session *session, uint32_t tokens, bool block, lw_error_t *error)
{
    struct lw *kv = session->kv;
    uint64_t until = lwc_now(kv) + kv->options.client_room_timeout;

    lwc_take_view(kv);
    (void)lwc_publish_ready(kv);
    while (lwc_session_room(session) < tokens) {
        lw_status_t status = lwc_session_fault(session, error);
        if (status != LW_OK)
            return status;
        if (session->read_only)
            return lw_fail(error, LW_ERR_PERMISSION,
                           "opened read-only: no room for %u more tokens beyond those stored", tokens);
        if (!session->task_busy) {
            bool prefilling = session->prefilling;
            lwc_session_cut_tail(session);
            session->prefilling = prefilling;
        }
        if (!block || lwc_now(kv) >= until)
            return lw_fail(error, LW_ERR_BUSY,
                           "the steady zone has room for %u of %u tokens until a range is committed",
                           lwc_session_room(session), tokens);
        lwc_wait(kv, ROOM_WAIT_US);
        (void)lwc_publish_ready(kv);
    }
    return LW_OK;
}

static lw_status_t begin_chunk(struct lw_session *session, lwc_append_kind_t kind, uint32_t tokens,
                               bool block, lw_error_t *error)
{
    struct lw *kv = session->kv;

    if (tokens == 0 || tokens > session->steady.rows - LW_RECENT_TOKENS)
        return lw_fail(error, LW_ERR_INVALID, "key.tokens is %u, must be 1..%u", tokens,
                       session->steady.rows - LW_RECENT_TOKENS);
    if ((uint64_t)session->token_count + tokens > kv->sizes.tokens_max)
        return lw_fail(error, LW_ERR_INVALID, "%u tokens and %u more are above tokens_max %u",
                       session->token_count, tokens, kv->sizes.tokens_max);
    lw_status_t status = wait_for_room(session, tokens, block, error);
    if (status != LW_OK)
        return status;
    session->append_kind = kind;
    session->append_layer = 0;
    session->append_tokens = tokens;
    return LW_OK;
}

lw_status_t lwc_append_begin(struct lw_session *session, lwc_append_kind_t kind, uint32_t layer,
                             const lw_tensor_t *key, const lw_tensor_t *value, bool block, lw_error_t *error)
{
    (void)value;
    lw_status_t status = lwc_session_fault(session, error);

    lwc_outcomes_take(session->kv);
    if (status == LW_OK && layer == 0)
        status = lwc_outcomes_tell(session, error);
    if (status == LW_OK)
        status = check_order(session, kind, layer, key, error);
    if (status == LW_OK && layer == 0)
        status = begin_chunk(session, kind, key->tokens, block, error);
    return status;
}

lw_status_t lwc_append_rows(struct lw_session *session, uint32_t layer, const lw_tensor_t *key,
                            const lw_tensor_t *value, void *stream, lw_error_t *error)
{
    return lwc_steady_append(&session->steady, layer, session->token_count, key, value, stream, error);
}

lw_status_t lwc_append_end(struct lw_session *session, uint32_t layer, lw_error_t *error)
{
    session->append_layer = layer + 1;
    if (session->append_layer < session->kv->model.layers)
        return LW_OK;
    session->append_kind = LWC_APPEND_NONE;
    lw_status_t status =
        lwc_session_write_tokens(session, session->token_count + session->append_tokens, error);
    if (status != LW_OK)
        return status;
    session->token_count += session->append_tokens;
    session->prefilling = true;
    lwc_session_cut(session);
    return LW_OK;
}

lw_status_t lwc_prefill(struct lw_session *session, uint32_t layer, const lw_tensor_t *key,
                        const lw_tensor_t *value, void *stream, bool block, lw_error_t *error)
{
    const lwc_model_t *model = &session->kv->model;
    lw_tensor_t k, v;
    lw_status_t status =
        lwc_tensor_check("key", key, 1, key->tokens, model->heads, model->head_dim, &k, error);

    if (status == LW_OK)
        status = lwc_tensor_check("value", value, 1, key->tokens, model->heads, model->head_dim, &v, error);
    if (status == LW_OK)
        status = lwc_stream_use(session->kv, stream, error);
    if (status == LW_OK)
        status = lwc_append_begin(session, LWC_APPEND_PREFILL, layer, &k, &v, block, error);
    if (status == LW_OK)
        status = lwc_append_rows(session, layer, &k, &v, stream, error);
    if (status == LW_OK)
        status = lwc_append_end(session, layer, error);
    return status;
}
