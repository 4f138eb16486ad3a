/* pb.c - the catalogue's structs to messages and back. */
#include "storaged/ctl/pb.h"

#include <stdlib.h>
#include <string.h>

void lwd_ctl_pb_session(lwd_session_row_t *row, uint64_t now, bool with_token, ctl_pb_session_t *out)
{
    longwave__v1__session_info__init(&out->info);
    longwave__v1__shape__init(&out->shape);
    Longwave__V1__Shape *shape = &out->shape;
    shape->model_id = row->shape.model_id;
    shape->layer_count = row->shape.layer_count;
    shape->kv_head_count = row->shape.kv_head_count;
    shape->query_head_count = row->shape.query_head_count;
    shape->head_dim = row->shape.head_dim;
    shape->dtype = row->shape.dtype;
    shape->rank_count = row->shape.rank_count;
    shape->segment_tokens = row->shape.segment_tokens;
    shape->replicas = row->shape.replicas;
    shape->cluster_encoding = row->shape.cluster_encoding;
    shape->outlier_encoding = row->shape.outlier_encoding;
    shape->outlier_ppm = row->shape.outlier_ppm;
    shape->cluster_tokens = row->shape.cluster_tokens;
    Longwave__V1__SessionInfo *info = &out->info;
    info->shape = shape;
    info->session_id = row->session_id;
    info->tenant = row->tenant;
    info->state = (uint32_t)row->state;
    info->term = row->term;
    info->lease_client = row->lease_client;
    info->lease_us_left = row->lease_until_us > now ? row->lease_until_us - now : 0;
    info->ttl_us = row->ttl_us;
    info->created_us = row->created_us;
    info->used_us = row->used_us;
    info->parent_id = row->parent_id;
    info->cut_tokens = row->cut_tokens;
    info->token_count = row->token_count;
    info->bytes = row->bytes;
    info->pinned = row->pinned;
    info->readers = row->readers;
    if (with_token)
        info->token = (ProtobufCBinaryData){.data = row->token, .len = LW_TOKEN_BYTES};
}

lw_status_t lwd_ctl_pb_shape_read(const Longwave__V1__Shape *shape, lwd_session_shape_t *out, lw_error_t *error)
{
    if (!shape)
        return lw_fail(error, LW_ERR_INVALID, "shape is missing");
    if (strlen(shape->model_id) >= sizeof(out->model_id))
        return lw_fail(error, LW_ERR_INVALID, "model_id is %zu bytes long, at most %u", strlen(shape->model_id),
                       LW_MODEL_ID_MAX - 1);
    memset(out, 0, sizeof(*out));
    strcpy(out->model_id, shape->model_id);
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
    return LW_OK;
}

lw_status_t lwd_ctl_pb_range_read(const Longwave__V1__Range *range, uint32_t layers, lwd_range_t *out, lw_error_t *error)
{
    if (range->replicas == 0 || range->replicas > LW_REPLICAS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "range's replicas is %u, must be 1 to %u", range->replicas, LW_REPLICAS_MAX);
    if (range->n_node_index != (size_t)layers * range->replicas)
        return lw_fail(error, LW_ERR_INVALID, "range has %zu node numbers, must be %u layers x %u replicas",
                       range->n_node_index, layers, range->replicas);
    memset(out, 0, sizeof(*out));
    out->first_token = range->first_token;
    out->token_count = range->token_count;
    out->generation = range->generation;
    out->flags = range->flags;
    out->replicas = range->replicas;
    out->bytes = range->bytes;
    for (size_t i = 0; i < range->n_node_index; i++) {
        if (range->node_index[i] >= LW_NODES_MAX)
            return lw_fail(error, LW_ERR_INVALID, "range names node %u, the largest is %u", range->node_index[i],
                           LW_NODES_MAX - 1);
        out->node_index[i] = (uint16_t)range->node_index[i];
    }
    return LW_OK;
}

void lwd_ctl_pb_range(const lwd_range_t *range, uint32_t layers, uint32_t *nodes, Longwave__V1__Range *out)
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

void lwd_ctl_pb_node(lw_node_t *node, uint64_t used_bytes, uint64_t free_bytes, Longwave__V1__Node *out)
{
    longwave__v1__node__init(out);
    out->id = node->id;
    out->incarnation = node->incarnation;
    out->state = node->state;
    out->weight = node->weight;
    out->index = node->index;
    out->zone = node->zone;
    out->control = node->control;
    out->data = node->data;
    out->used_bytes = used_bytes;
    out->free_bytes = free_bytes;
}

bool lwd_ctl_pb_node_read(const Longwave__V1__Node *node, lw_node_t *out)
{
    if (strlen(node->zone) >= sizeof(out->zone) || strlen(node->control) >= sizeof(out->control) ||
        strlen(node->data) >= sizeof(out->data))
        return false;
    memset(out, 0, sizeof(*out));
    out->id = node->id;
    out->incarnation = node->incarnation;
    out->state = node->state;
    out->weight = node->weight;
    out->index = (uint16_t)node->index;
    strcpy(out->zone, node->zone);
    strcpy(out->control, node->control);
    strcpy(out->data, node->data);
    return true;
}

lw_status_t lwd_ctl_pb_view_pack(const lw_view_t *view, uint8_t **out, size_t *bytes_out)
{
    Longwave__V1__View message = LONGWAVE__V1__VIEW__INIT;
    Longwave__V1__Node *nodes = calloc(view->node_count + 1, sizeof(*nodes));
    Longwave__V1__Node **pointers = calloc(view->node_count + 1, sizeof(*pointers));
    lw_status_t status = LW_ERR_NO_MEMORY;
    if (nodes && pointers) {
        for (uint32_t i = 0; i < view->node_count; i++) {
            lwd_ctl_pb_node(&view->nodes[i], 0, 0, &nodes[i]);
            pointers[i] = &nodes[i];
        }
        message.epoch = view->epoch;
        message.fleet_id = view->fleet_id;
        message.n_nodes = view->node_count;
        message.nodes = pointers;
        size_t bytes = longwave__v1__view__get_packed_size(&message);
        uint8_t *packed = malloc(bytes + 1);
        if (packed) {
            *bytes_out = longwave__v1__view__pack(&message, packed);
            *out = packed;
            status = LW_OK;
        }
    }
    free(pointers);
    free(nodes);
    return status;
}
