/* control.c - what every implementation of the control-plane client shares. Any thread. */
#include "client/control/control.h"

#include <stdlib.h>
#include <string.h>

const char *lwc_session_state_text(uint32_t state)
{
    static const char *const texts[] = {"none", "active", "idle", "evicting", "retained", "ended"};
    return state < LW_ARRAY_SIZE(texts) ? texts[state] : "unknown";
}

void lwc_node_status_free(lwc_node_status_t *status)
{
    free(status->reasons);
    free(status->metrics);
    free(status->options);
    free(status->moves);
    memset(status, 0, sizeof(*status));
}

void lwc_view_free(lw_view_t *view)
{
    free(view->nodes);
    memset(view, 0, sizeof(*view));
}

#ifndef LW_HAVE_CONTROL_GRPC
lw_status_t lwc_control_open(const lwc_control_params_t *params, lwc_control_t **control_out, lw_error_t *error)
{
    (void)params;
    (void)control_out;
    return lw_fail(error, LW_ERR_UNSUPPORTED, "this build has no control plane: gRPC's C core or protobuf-c was missing");
}
#endif
