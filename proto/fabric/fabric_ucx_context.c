/* fabric_ucx_context.c - the process's UCX contexts, shared by its fabrics, and the settings that every one
 * of them needs.
 *
 * UCX reads transport settings from the environment only, when a context is made; values that the operator
 * has set there win. Any thread may open a fabric: one lock guards the table here, taken at open and close
 * only. */
#define _GNU_SOURCE /* setenv */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucs/debug/log_def.h>

#include "base/log.h"
#include "fabric/fabric_ucx_private.h"

typedef struct transport_set {
    const char *name; /* lw_fabric_params_t.transports */
    const char *tls;  /* UCX's list */
    bool shm;
} transport_set_t;

static const transport_set_t transport_sets[] = {
    {"auto", "^shm,self", false}, /* every network there is; RDMA wins over tcp by its own rating */
    {"tcp", "tcp", false},
    {"shm", "posix,sysv,cma,tcp", true}, /* tcp carries the connecting */
    {"rdma", "rc,ud,dc,rdmacm,tcp", false},
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static lw_ucx_context_t contexts[LW_ARRAY_SIZE(transport_sets)];

lw_status_t lw_ucx_status(ucs_status_t status)
{
    switch (status) {
    case UCS_OK: return LW_OK;
    case UCS_INPROGRESS: return LW_INPROGRESS;
    case UCS_ERR_NO_MEMORY: return LW_ERR_NO_MEMORY;
    case UCS_ERR_CANCELED: return LW_ERR_CANCELED;
    case UCS_ERR_INVALID_PARAM:
    case UCS_ERR_INVALID_ADDR: return LW_ERR_INVALID;
    case UCS_ERR_UNSUPPORTED: return LW_ERR_UNSUPPORTED;
    case UCS_ERR_REJECTED:
    case UCS_ERR_NOT_CONNECTED:
    case UCS_ERR_CONNECTION_RESET:
    case UCS_ERR_ENDPOINT_TIMEOUT:
    case UCS_ERR_TIMED_OUT:
    case UCS_ERR_UNREACHABLE: return LW_ERR_UNREACHABLE;
    default: return LW_ERR_IO;
    }
}

/* What UCX calls an error (a refused connection, say) is often ordinary here and reaches the caller as a
 * status, so its words are kept for whoever asks for more detail. */
static ucs_log_func_rc_t log_line(const char *file, unsigned line, const char *function,
                                  ucs_log_level_t level, const ucs_log_component_config_t *component,
                                  const char *format, va_list args)
{
    if (level > UCS_LOG_LEVEL_WARN)
        return UCS_LOG_FUNC_RC_CONTINUE; /* more was asked for by UCX_LOG_LEVEL: let UCX print it */
    char text[240];
    vsnprintf(text, sizeof(text), format, args);
    if (level == UCS_LOG_LEVEL_FATAL)
        LW_ERROR("ucx", "%s", text);
    else
        LW_INFO("ucx", "%s", text);
    return UCS_LOG_FUNC_RC_STOP;
}

static void prepare_process(void)
{
    static bool done; /* under the lock */
    if (done)
        return;
    done = true;
    ucs_log_push_handler(log_line);
    setenv("UCX_TCP_CM_REUSEADDR", "y", 0); /* a restarted daemon gets its port back at once */
    /* A connect() that blocks would hold the thread for as long as a lost host takes to time out, and a peer that
     * goes in that instant makes UCX 1.13 fail an endpoint before it is one, which its next step asserts. */
    setenv("UCX_TCP_CONN_NB", "y", 0);
    setenv("UCX_TCP_TX_SEG_SIZE", LW_UCX_SEGMENT_TEXT,
           0); /* parts of streams go out in place, one system call each */
    setenv("UCX_TCP_RX_SEG_SIZE", LW_UCX_SEGMENT_TEXT, 0);
    setenv("UCX_TCP_MAX_IOV", "16", 0);
    /* Room for 1 MiB between processes that take turns on a core: with UCX's 64 entries a list goes at a
     * tenth there. */
    setenv("UCX_SYSV_FIFO_SIZE", "128", 0);
    setenv("UCX_POSIX_FIFO_SIZE", "128", 0);
}

static lw_status_t create(const transport_set_t *set, lw_ucx_context_t *into, lw_error_t *error)
{
    ucp_config_t *config;
    ucs_status_t status = ucp_config_read(NULL, NULL, &config);
    if (status != UCS_OK)
        return lw_fail(error, LW_ERR_IO, "UCX configuration: %s", ucs_status_string(status));
    if (strcmp(set->name, "auto") != 0 || getenv("UCX_TLS") == NULL)
        (void)ucp_config_modify(config, "TLS", set->tls);
    /* Over networks, connect by the device that has the address and no other; shared memory is another
     * device. */
    if (getenv("UCX_CM_USE_ALL_DEVICES") == NULL)
        (void)ucp_config_modify(config, "CM_USE_ALL_DEVICES", set->shm ? "y" : "n");

    ucp_params_t params = {
        .field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED | UCP_PARAM_FIELD_NAME,
        .features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP,
        .mt_workers_shared = 1,
        .name = "longwave",
    };
    status = ucp_init(&params, config, &into->context);
    ucp_config_release(config);
    if (status != UCS_OK)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "transports '%s': UCX finds none of them (%s)", set->name,
                       ucs_status_string(status));
    snprintf(into->transports, sizeof(into->transports), "%s", set->name);
    into->shm = set->shm;
    return LW_OK;
}

lw_status_t lw_ucx_context_acquire(const char *transports, lw_ucx_context_t **context_out, lw_error_t *error)
{
    if (transports == NULL || transports[0] == '\0')
        transports = "auto";
    size_t i = 0;
    while (i < LW_ARRAY_SIZE(transport_sets) && strcmp(transport_sets[i].name, transports) != 0)
        i++;
    if (i == LW_ARRAY_SIZE(transport_sets))
        return lw_fail(error, LW_ERR_INVALID, "transports '%.40s' is none of auto, tcp, shm, rdma",
                       transports);

    lw_status_t status = LW_OK;
    pthread_mutex_lock(&lock);
    prepare_process();
    if (contexts[i].users == 0)
        status = create(&transport_sets[i], &contexts[i], error);
    if (status == LW_OK) {
        contexts[i].users++;
        *context_out = &contexts[i];
    }
    pthread_mutex_unlock(&lock);
    return status;
}

void lw_ucx_context_release(lw_ucx_context_t *context)
{
    pthread_mutex_lock(&lock);
    LW_ASSERT(context->users > 0);
    if (--context->users == 0)
        ucp_cleanup(context->context);
    pthread_mutex_unlock(&lock);
}
