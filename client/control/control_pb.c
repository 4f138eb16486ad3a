/* control_pb.c - messages to structs and back, for the client. */
#include "client/control/control_pb.h"

#include <stdlib.h>
#include <string.h>

/* False when it does not fit. */
static bool text_take(char *to, size_t bytes, const char *text)
{
    size_t length = strlen(text);
    if (length >= bytes)
        return false;
    memcpy(to, text, length + 1);
    return true;
}

lw_status_t lwc_pb_reply(lw_status_t status, lw_error_t *error)
{
    if (status != LW_ERR_INVALID)
        return status;
    lw_error_t why = *error;
    return lw_fail(error, LW_ERR_IO, "the reply makes no sense: %s", why.text);
}

lw_status_t lwc_pb_session_read(const Longwave__V1__SessionInfo *info, lwc_session_info_t *out, lw_error_t *error)
{
    memset(out, 0, sizeof(*out));
    if (!info || !text_take(out->tenant, sizeof(out->tenant), info->tenant))
        return lw_fail(error, LW_ERR_IO, "the reply has no usable session");
    if (info->token.len != 0 && info->token.len != LW_TOKEN_BYTES)
        return lw_fail(error, LW_ERR_IO, "the reply's token is %zu bytes long", info->token.len);
    out->session_id = info->session_id;
    out->state = info->state;
    out->term = info->term;
    out->lease_us_left = info->lease_us_left;
    out->lease_client = info->lease_client;
    out->ttl_us = info->ttl_us;
    out->created_us = info->created_us;
    out->used_us = info->used_us;
    out->parent_id = info->parent_id;
    out->cut_tokens = info->cut_tokens;
    out->token_count = info->token_count;
    out->bytes = info->bytes;
    out->readers = info->readers;
    out->pinned = info->pinned != 0;
    if (info->token.len)
        memcpy(out->token, info->token.data, LW_TOKEN_BYTES);
    lw_status_t status = lwc_pb_reply(lw_pb_shape_read(info->shape, &out->shape, error), error);
    if (status == LW_OK && (out->shape.layer_count == 0 || out->shape.layer_count > LW_LAYERS_MAX))
        return lw_fail(error, LW_ERR_IO, "the reply's session has %u layers", out->shape.layer_count);
    return status;
}

lw_status_t lwc_pb_status_read(const Longwave__V1__StatusReply *reply, lwc_node_status_t *out, lw_error_t *error)
{
    memset(out, 0, sizeof(*out));
    if (!text_take(out->version, sizeof(out->version), reply->version) ||
        !text_take(out->control, sizeof(out->control), reply->control) ||
        !text_take(out->data, sizeof(out->data), reply->data))
        return lw_fail(error, LW_ERR_IO, "the reply's version or addresses are too long");
    out->node_id = reply->node_id;
    out->incarnation = reply->incarnation;
    out->fleet_id = reply->fleet_id;
    out->epoch = reply->epoch;
    out->uptime_us = reply->uptime_us;
    out->used_bytes = reply->used_bytes;
    out->free_bytes = reply->free_bytes;
    out->ready = reply->ready != 0;
    out->holds_catalogue = reply->holds_catalogue != 0;
    out->reasons = strdup(reply->reasons);
    out->metrics = strdup(reply->metrics);
    out->options = strdup(reply->options);
    out->moves = strdup(reply->moves);
    if (out->reasons && out->metrics && out->options && out->moves)
        return LW_OK;
    lwc_node_status_free(out);
    return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a node's status");
}
