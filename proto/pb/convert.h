/* convert.h - between messages of longwave.v1 and the structs that client and daemon share. Messages borrow
 * from the structs they are made of; what is read is copied and checked, never trusted: ERR_INVALID, and the
 * error names the field. Pure; any thread. */
#ifndef LW_PB_CONVERT_H
#define LW_PB_CONVERT_H

#include "base/error.h"
#include "pb/fleet.pb-c.h"
#include "pb/session.pb-c.h"
#include "wire/placement.h"
#include "wire/session.h"

void lw_pb_shape(const lw_session_shape_t *shape, Longwave__V1__Shape *out);
LW_CHECK lw_status_t lw_pb_shape_read(const Longwave__V1__Shape *shape, lw_session_shape_t *out,
                                      lw_error_t *error);

/* `nodes` has room for layers * replicas numbers and outlives the message. */
void lw_pb_range(const lw_session_range_t *range, uint32_t layers, uint32_t *nodes, Longwave__V1__Range *out);
/* Checks counts against `layers`. */
LW_CHECK lw_status_t lw_pb_range_read(const Longwave__V1__Range *range, uint32_t layers,
                                      lw_session_range_t *out, lw_error_t *error);

/* Room used and free is the caller's to fill in. */
void lw_pb_node(const lw_node_t *node, Longwave__V1__Node *out);
LW_CHECK lw_status_t lw_pb_node_read(const Longwave__V1__Node *node, lw_node_t *out, lw_error_t *error);
/* 1..LW_NODES_MAX nodes by ascending index; the caller frees out->nodes. */
LW_CHECK lw_status_t lw_pb_view_read(const Longwave__V1__View *view, lw_view_t *out, lw_error_t *error);

#endif /* LW_PB_CONVERT_H */
