/* control_pb.h - between longwave.v1 messages and the structs of control.h. What is read is checked. Pure; any thread. */
#ifndef LWC_CONTROL_PB_H
#define LWC_CONTROL_PB_H

#include "client/control/control.h"
#include "pb/admin.pb-c.h"
#include "pb/convert.h"

/* The status of a reply that was read with pb/convert.h: nonsense from a peer is ERR_IO, and the error says that it was a reply. */
LW_CHECK lw_status_t lwc_pb_reply(lw_status_t status, lw_error_t *error);
/* ERR_IO: the peer's message makes no sense; the error names the field. */
LW_CHECK lw_status_t lwc_pb_session_read(const Longwave__V1__SessionInfo *info, lwc_session_info_t *out, lw_error_t *error);
LW_CHECK lw_status_t lwc_pb_status_read(const Longwave__V1__StatusReply *reply, lwc_node_status_t *out, lw_error_t *error);

#endif /* LWC_CONTROL_PB_H */
