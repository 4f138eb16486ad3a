/* control_pb.h - between longwave.v1 messages and the structs of control.h. What is read is checked. Pure; any thread. */
#ifndef LWC_CONTROL_PB_H
#define LWC_CONTROL_PB_H

#include "client/control/control.h"
#include "pb/admin.pb-c.h"
#include "pb/fleet.pb-c.h"
#include "pb/session.pb-c.h"

/* The message borrows from `shape`. */
void lwc_pb_shape(const lwc_shape_t *shape, Longwave__V1__Shape *out);
/* `nodes` has room for layers * replicas numbers and outlives the message. */
void lwc_pb_range(const lwc_range_t *range, uint32_t layers, uint32_t *nodes, Longwave__V1__Range *out);
/* ERR_IO: the peer's message makes no sense; the error names the field. */
LW_CHECK lw_status_t lwc_pb_session_read(const Longwave__V1__SessionInfo *info, lwc_session_info_t *out, lw_error_t *error);
LW_CHECK lw_status_t lwc_pb_range_read(const Longwave__V1__Range *range, uint32_t layers, lwc_range_t *out,
                                       lw_error_t *error);
LW_CHECK lw_status_t lwc_pb_view_read(const Longwave__V1__View *view, lw_view_t *out, lw_error_t *error);
LW_CHECK lw_status_t lwc_pb_status_read(const Longwave__V1__StatusReply *reply, lwc_node_status_t *out, lw_error_t *error);

#endif /* LWC_CONTROL_PB_H */
