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

void lwc_pb_shape(const lwc_shape_t *shape, Longwave__V1__Shape *out)
{
    longwave__v1__shape__init(out);
    out->model_id = (char *)shape->model_id;
    out->layer_count = shape->layer_count;
    out->kv_head_count = shape->kv_head_count;
    out->query_head_count = shape->query_head_count;
    out->head_dim = shape->head_dim;
    out->dtype = shape->dtype;
    out->rank_count = shape->rank_count;
    out->segment_tokens = shape->segment_tokens;
    out->replicas = shape->replicas;
    out->cluster_encoding = shape->cluster_encoding;
    out->outlier_encoding = shape->outlier_encoding;
    out->outlier_ppm = shape->outlier_ppm;
    out->cluster_tokens = shape->cluster_tokens;
}

void lwc_pb_range(const lwc_range_t *range, uint32_t layers, uint32_t *nodes, Longwave__V1__Range *out)
{
    longwave__v1__range__init(out);
    out->first_token = range->first_token;
    out->token_count = range->token_count;
    out->generation = range->generation;
    out->flags = range->flags;
    out->replicas = range->replicas;
    out->bytes = range->bytes;
    out->n_node_index = (size_t)layers * range->replicas;
    out->node_index = nodes;
    for (size_t i = 0; i < out->n_node_index; i++)
        nodes[i] = range->node_index[i];
}

static lw_status_t shape_read(const Longwave__V1__Shape *shape, lwc_shape_t *out, lw_error_t *error)
{
    if (!shape || !text_take(out->model_id, sizeof(out->model_id), shape->model_id))
        return lw_fail(error, LW_ERR_IO, "the reply's session has no usable shape");
    out->layer_count = shape->layer_count;
    out->kv_head_count = shape->kv_head_count;
    out->query_head_count = shape->query_head_count;
    out->head_dim = shape->head_dim;
    out->dtype = shape->dtype;
    out->rank_count = shape->rank_count;
    out->segment_tokens = shape->segment_tokens;
    out->replicas = shape->replicas;
    out->cluster_encoding = shape->cluster_encoding;
    out->outlier_encoding = shape->outlier_encoding;
    out->outlier_ppm = shape->outlier_ppm;
    out->cluster_tokens = shape->cluster_tokens;
    if (out->layer_count == 0 || out->layer_count > LW_LAYERS_MAX)
        return lw_fail(error, LW_ERR_IO, "the reply's session has %u layers", out->layer_count);
    return LW_OK;
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
    return shape_read(info->shape, &out->shape, error);
}

lw_status_t lwc_pb_range_read(const Longwave__V1__Range *range, uint32_t layers, lwc_range_t *out, lw_error_t *error)
{
    memset(out, 0, sizeof(*out));
    if (range->replicas == 0 || range->replicas > LW_REPLICAS_MAX ||
        range->n_node_index != (size_t)layers * range->replicas)
        return lw_fail(error, LW_ERR_IO, "the reply's range has %u replicas and %zu node numbers for %u layers",
                       range->replicas, range->n_node_index, layers);
    out->origin = range->origin;
    out->first_token = range->first_token;
    out->token_count = range->token_count;
    out->generation = range->generation;
    out->flags = range->flags;
    out->replicas = range->replicas;
    out->bytes = range->bytes;
    for (size_t i = 0; i < range->n_node_index; i++) {
        if (range->node_index[i] >= LW_NODES_MAX)
            return lw_fail(error, LW_ERR_IO, "the reply's range names node %u", range->node_index[i]);
        out->node_index[i] = (uint16_t)range->node_index[i];
    }
    return LW_OK;
}

lw_status_t lwc_pb_view_read(const Longwave__V1__View *view, lw_view_t *out, lw_error_t *error)
{
    if (view->n_nodes == 0 || view->n_nodes > LW_NODES_MAX)
        return lw_fail(error, LW_ERR_IO, "the reply's view has %zu nodes", view->n_nodes);
    lw_node_t *nodes = calloc(view->n_nodes, sizeof(*nodes));
    if (!nodes)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a view of %zu nodes", view->n_nodes);
    for (size_t i = 0; i < view->n_nodes; i++) {
        const Longwave__V1__Node *from = view->nodes[i];
        lw_node_t *to = &nodes[i];
        if (from->index >= LW_NODES_MAX || (i && from->index <= view->nodes[i - 1]->index) ||
            !text_take(to->zone, sizeof(to->zone), from->zone) ||
            !text_take(to->control, sizeof(to->control), from->control) ||
            !text_take(to->data, sizeof(to->data), from->data)) {
            free(nodes);
            return lw_fail(error, LW_ERR_IO, "node %zu of the reply's view makes no sense", i);
        }
        to->id = from->id;
        to->incarnation = from->incarnation;
        to->state = from->state;
        to->weight = from->weight;
        to->index = (uint16_t)from->index;
    }
    *out = (lw_view_t){.epoch = view->epoch, .fleet_id = view->fleet_id, .node_count = (uint32_t)view->n_nodes,
                       .nodes = nodes};
    return LW_OK;
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
    if (out->reasons && out->metrics && out->options)
        return LW_OK;
    lwc_node_status_free(out);
    return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a node's status");
}
