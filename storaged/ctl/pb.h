/* pb.h - between the catalogue's structs and the messages of longwave.v1. Messages borrow from the structs they are made
 * of; what is read is copied and checked, never trusted. Pure; any thread. */
#ifndef LWD_CTL_PB_H
#define LWD_CTL_PB_H

#include "pb/fleet.pb-c.h"
#include "pb/session.pb-c.h"
#include "storaged/catalogue/catalogue.h"
#include "wire/placement.h"

typedef struct lwd_ctl_pb_session {
    Longwave__V1__SessionInfo info;
    Longwave__V1__Shape shape;
} ctl_pb_session_t;
/* row must outlive the message. with_token false: left out. */
void lwd_ctl_pb_session(lwd_session_row_t *row, uint64_t now, bool with_token, ctl_pb_session_t *out);

LW_CHECK lw_status_t lwd_ctl_pb_shape_read(const Longwave__V1__Shape *shape, lwd_session_shape_t *out, lw_error_t *error);
/* Checks counts against `layers`; ERR_INVALID names the field. */
LW_CHECK lw_status_t lwd_ctl_pb_range_read(const Longwave__V1__Range *range, uint32_t layers, lwd_range_t *out,
                                       lw_error_t *error);
/* `nodes` has room for layers * replicas numbers and outlives the message. */
void lwd_ctl_pb_range(const lwd_range_t *range, uint32_t layers, uint32_t *nodes, Longwave__V1__Range *out);

void lwd_ctl_pb_node(lw_node_t *node, uint64_t used_bytes, uint64_t free_bytes, Longwave__V1__Node *out);
/* False when a text is too long. */
LW_CHECK bool lwd_ctl_pb_node_read(const Longwave__V1__Node *node, lw_node_t *out);
/* A node's whole view message, packed; the caller frees *out with free(). */
LW_CHECK lw_status_t lwd_ctl_pb_view_pack(const lw_view_t *view, uint8_t **out, size_t *bytes_out);

#endif /* LWD_CTL_PB_H */
