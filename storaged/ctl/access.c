/* access.c - what a caller's certificate lets it do. Control thread.
 *
 * With mTLS on, a certificate's URIs (subject alternative names) say what its holder is:
 * "longwave://tenant/NAME" a client of that tenant (several may stand in one), "longwave://node" a node of
 * the fleet, "longwave://admin" an operator. Nodes and operators may name any tenant: a node sends its
 * clients' calls on after it has looked at them. */
#include <stdio.h>

#include "pb/session.pb-c.h"
#include "storaged/ctl/ctl_private.h"

#define TENANT_URI "longwave://tenant/"
#define NODE_URI "longwave://node"
#define ADMIN_URI "longwave://admin"

static lw_status_t for_tenant(const ctl_job_t *job, lw_error_t *error)
{
    char uri[sizeof(TENANT_URI) + sizeof(((lwd_session_row_t *)0)->tenant)];
    Longwave__V1__OnBehalf *request = longwave__v1__on_behalf__unpack(NULL, job->request_bytes, job->request);
    lw_status_t status = LW_OK;
    if (!request || !request->client) {
        status = lw_fail(error, LW_ERR_INVALID, "client is missing");
    } else {
        const char *tenant = request->client->tenant;
        int bytes = snprintf(uri, sizeof(uri), "%s%s", TENANT_URI, tenant);
        if (bytes < 0 || (size_t)bytes >= sizeof(uri) || !lw_rpc_peer_has(job->call, uri))
            status = lw_fail(error, LW_ERR_PERMISSION, "the certificate of '%s' is not for tenant '%.63s'",
                             lw_rpc_peer(job->call), tenant);
    }
    if (request)
        longwave__v1__on_behalf__free_unpacked(request, NULL);
    return status;
}

static lw_status_t may_call(const ctl_job_t *job, lw_error_t *error)
{
    bool node = lw_rpc_peer_has(job->call, NODE_URI), admin = lw_rpc_peer_has(job->call, ADMIN_URI);
    switch (job->method->access) {
    case CTL_FOR_NODE:
        return node ? LW_OK
                    : lw_fail(error, LW_ERR_PERMISSION, "%s is for nodes: the certificate of '%s' lacks %s",
                              job->method->path, lw_rpc_peer(job->call), NODE_URI);
    case CTL_FOR_ADMIN:
        return admin ? LW_OK
                     : lw_fail(error, LW_ERR_PERMISSION,
                               "%s is for operators: the certificate of '%s' lacks %s", job->method->path,
                               lw_rpc_peer(job->call), ADMIN_URI);
    default: return node || admin ? LW_OK : for_tenant(job, error);
    }
}

lw_status_t lwd_ctl_access(lwd_ctl_t *ctl, const ctl_job_t *job, lw_error_t *error)
{
    if (!ctl->mutual || !job->call || job->method->access == CTL_FOR_ANY)
        return LW_OK;
    lw_status_t status = may_call(job, error);
    lw_count(&ctl->stats[0].calls_denied, status == LW_ERR_PERMISSION);
    return status;
}
