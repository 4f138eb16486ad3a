/* pb.c - the catalogue's structs to messages. */
#include "storaged/ctl/pb.h"

#include <stdlib.h>

void lwd_ctl_pb_session(lwd_session_row_t *row, uint64_t now, bool with_token, ctl_pb_session_t *out)
{
    longwave__v1__session_info__init(&out->info);
    lw_pb_shape(&row->shape, &out->shape);
    Longwave__V1__SessionInfo *info = &out->info;
    info->shape = &out->shape;
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

lw_status_t lwd_ctl_pb_view_pack(const lw_view_t *view, uint8_t **out, size_t *bytes_out)
{
    Longwave__V1__View message = LONGWAVE__V1__VIEW__INIT;
    Longwave__V1__Node *nodes = calloc(view->node_count + 1, sizeof(*nodes));
    Longwave__V1__Node **pointers = calloc(view->node_count + 1, sizeof(*pointers));
    lw_status_t status = LW_ERR_NO_MEMORY;
    if (nodes && pointers) {
        for (uint32_t i = 0; i < view->node_count; i++) {
            lw_pb_node(&view->nodes[i], &nodes[i]);
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
