/* health.c - grpc.health.v1.Health: SERVING when the node is ready. Control thread. */
#include "storaged/ctl/ctl_private.h"

#include <string.h>

#include "pb/health.pb-c.h"

#define SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

static bool service_known(const char *service)
{
    static const char *const known[] = {"", "longwave.v1.Session", "longwave.v1.Fleet", "longwave.v1.Admin"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(known); i++)
        if (strcmp(service, known[i]) == 0)
            return true;
    return false;
}

static size_t status_pack(lwd_ctl_t *ctl, const char *service, uint8_t *packed, uint64_t *status_out)
{
    char reasons[256];
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    reply.status = !service_known(service) ? SERVICE_UNKNOWN
                   : lwd_ctl_ready(ctl, reasons, sizeof(reasons)) ? SERVING : NOT_SERVING;
    *status_out = (uint64_t)reply.status;
    return grpc__health__v1__health_check_response__pack(&reply, packed);
}

static void serve(lwd_ctl_t *ctl, ctl_job_t *job)
{
    Grpc__Health__V1__HealthCheckRequest *request =
        grpc__health__v1__health_check_request__unpack(NULL, job->request_bytes, job->request);
    uint8_t packed[16];
    uint64_t status;
    if (!request || strlen(request->service) >= sizeof(ctl->watches[0].service))
        lwd_ctl_answer(job, LW_ERR_INVALID, "the request is no HealthCheckRequest", NULL, 0);
    else if (job->method->streaming)
        lwd_ctl_watch(job, true, request->service);
    else if (!service_known(request->service))
        lwd_ctl_answer(job, LW_ERR_NOT_FOUND, "no such service", NULL, 0);
    else
        lwd_ctl_answer(job, LW_OK, NULL, packed, status_pack(ctl, request->service, packed, &status));
    if (request)
        grpc__health__v1__health_check_request__free_unpacked(request, NULL);
}

bool lwd_ctl_health_watch(lwd_ctl_t *ctl, ctl_watch_t *watch)
{
    uint8_t packed[16];
    uint64_t serving;
    size_t bytes = status_pack(ctl, watch->service, packed, &serving);
    if (watch->sent == serving + 1)
        return true;
    lw_status_t status = lw_rpc_write(watch->call, packed, bytes);
    if (status == LW_OK)
        watch->sent = serving + 1;
    return status == LW_OK || status == LW_ERR_BUSY;
}

const ctl_method_t ctl_health_methods[2] = {
    {.path = "/grpc.health.v1.Health/Check", .access = CTL_FOR_ANY, .local = true, .run = serve},
    {.path = "/grpc.health.v1.Health/Watch", .access = CTL_FOR_ANY, .local = true, .streaming = true, .run = serve},
};
