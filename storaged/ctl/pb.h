/* pb.h - the catalogue's structs as messages of longwave.v1; what both sides share is in pb/convert.h. Messages borrow from the structs
 * they are made of. Pure; any thread. */
#ifndef LWD_CTL_PB_H
#define LWD_CTL_PB_H

#include "pb/convert.h"
#include "storaged/catalogue/catalogue.h"

typedef struct lwd_ctl_pb_session {
    Longwave__V1__SessionInfo info;
    Longwave__V1__Shape shape;
} ctl_pb_session_t;
/* row must outlive the message. with_token false: left out. */
void lwd_ctl_pb_session(lwd_session_row_t *row, uint64_t now, bool with_token, ctl_pb_session_t *out);

/* A node's whole view message, packed; the caller frees *out with free(). */
LW_CHECK lw_status_t lwd_ctl_pb_view_pack(const lw_view_t *view, uint8_t **out, size_t *bytes_out);

#endif /* LWD_CTL_PB_H */
