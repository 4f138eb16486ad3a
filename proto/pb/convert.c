/* convert.c - messages to shared structs and back, for both sides of the control plane. */
#include "pb/convert.h"

#include <stdlib.h>
#include <string.h>

static lw_status_t text_take(char *to, size_t bytes, const char *text, const char *field, lw_error_t *error)
{
    size_t length = strlen(text);
    if (length >= bytes)
        return lw_fail(error, LW_ERR_INVALID, "%s is %zu bytes long, at most %zu", field, length, bytes - 1);
    memcpy(to, text, length + 1);
    return LW_OK;
}

void lw_pb_shape(const lw_session_shape_t *shape, Longwave__V1__Shape *out)
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

lw_status_t lw_pb_shape_read(const Longwave__V1__Shape *shape, lw_session_shape_t *out, lw_error_t *error)
{
    memset(out, 0, sizeof(*out));
    if (!shape)
        return lw_fail(error, LW_ERR_INVALID, "shape is missing");
    lw_status_t status = text_take(out->model_id, sizeof(out->model_id), shape->model_id, "model_id", error);
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
    return status;
}

void lw_pb_range(const lw_session_range_t *range, uint32_t layers, uint32_t *nodes, Longwave__V1__Range *out)
{
    longwave__v1__range__init(out);
    out->origin = range->origin;
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

lw_status_t lw_pb_range_read(const Longwave__V1__Range *range, uint32_t layers, lw_session_range_t *out,
                             lw_error_t *error)
{
    memset(out, 0, sizeof(*out));
    if (range->replicas == 0 || range->replicas > LW_REPLICAS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "range's replicas is %u, must be 1 to %u", range->replicas,
                       LW_REPLICAS_MAX);
    if (layers > LW_LAYERS_MAX || range->n_node_index != (size_t)layers * range->replicas)
        return lw_fail(error, LW_ERR_INVALID, "range has %zu node numbers, must be %u layers x %u replicas",
                       range->n_node_index, layers, range->replicas);
    out->origin = range->origin;
    out->first_token = range->first_token;
    out->token_count = range->token_count;
    out->generation = range->generation;
    out->flags = range->flags;
    out->replicas = range->replicas;
    out->bytes = range->bytes;
    for (size_t i = 0; i < range->n_node_index; i++) {
        if (range->node_index[i] >= LW_NODES_MAX)
            return lw_fail(error, LW_ERR_INVALID, "range names node %u, the largest is %u",
                           range->node_index[i], LW_NODES_MAX - 1);
        out->node_index[i] = (uint16_t)range->node_index[i];
    }
    return LW_OK;
}

void lw_pb_node(const lw_node_t *node, Longwave__V1__Node *out)
{
    longwave__v1__node__init(out);
    out->id = node->id;
    out->incarnation = node->incarnation;
    out->state = node->state;
    out->weight = node->weight;
    out->index = node->index;
    out->zone = (char *)node->zone;
    out->control = (char *)node->control;
    out->data = (char *)node->data;
}

lw_status_t lw_pb_node_read(const Longwave__V1__Node *node, lw_node_t *out, lw_error_t *error)
{
    memset(out, 0, sizeof(*out));
    if (node->index >= LW_NODES_MAX)
        return lw_fail(error, LW_ERR_INVALID, "node's index is %u, at most %u", node->index,
                       LW_NODES_MAX - 1);
    out->id = node->id;
    out->incarnation = node->incarnation;
    out->state = node->state;
    out->weight = node->weight;
    out->index = (uint16_t)node->index;
    lw_status_t status = text_take(out->zone, sizeof(out->zone), node->zone, "node's zone", error);
    if (status == LW_OK)
        status =
            text_take(out->control, sizeof(out->control), node->control, "node's control address", error);
    if (status == LW_OK)
        status = text_take(out->data, sizeof(out->data), node->data, "node's data address", error);
    return status;
}

lw_status_t lw_pb_view_read(const Longwave__V1__View *view, lw_view_t *out, lw_error_t *error)
{
    if (view->n_nodes == 0 || view->n_nodes > LW_NODES_MAX)
        return lw_fail(error, LW_ERR_INVALID, "view has %zu nodes, must be 1 to %u", view->n_nodes,
                       LW_NODES_MAX);
    lw_node_t *nodes = calloc(view->n_nodes, sizeof(*nodes));
    if (!nodes)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a view of %zu nodes", view->n_nodes);
    lw_status_t status = LW_OK;
    for (size_t i = 0; i < view->n_nodes && status == LW_OK; i++) {
        status = lw_pb_node_read(view->nodes[i], &nodes[i], error);
        if (status == LW_OK && i > 0 && nodes[i].index <= nodes[i - 1].index)
            status = lw_fail(error, LW_ERR_INVALID, "view names node %u after node %u", nodes[i].index,
                             nodes[i - 1].index);
    }
    if (status != LW_OK) {
        free(nodes);
        return status;
    }
    *out = (lw_view_t){.epoch = view->epoch,
                       .fleet_id = view->fleet_id,
                       .node_count = (uint32_t)view->n_nodes,
                       .nodes = nodes};
    return LW_OK;
}
