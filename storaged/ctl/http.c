/* http.c - /metrics, /healthz and /readyz over HTTP, on libmicrohttpd's own thread. The only file that includes it. */
#include <microhttpd.h>

#include "storaged/ctl/ctl_private.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HTTP_CONNECTIONS_MAX 64u
#define HTTP_TIMEOUT_S 5u

struct ctl_http {
    struct MHD_Daemon *daemon;
    lwd_ctl_t *ctl;
    char address[LW_ADDRESS_MAX];
};

static enum MHD_Result http_answer(struct MHD_Connection *connection, unsigned code, const char *type, const char *text,
                                   enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(strlen(text), (void *)text, mode);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static size_t metrics_write(void *arg, char *text, size_t bytes)
{
    return lwd_ctl_metrics(arg, text, bytes);
}

static enum MHD_Result http_metrics(struct MHD_Connection *connection, lwd_ctl_t *ctl)
{
    char *text = lwd_ctl_text(metrics_write, ctl);
    if (!text)
        return MHD_NO;
    return http_answer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", text, MHD_RESPMEM_MUST_FREE);
}

/* {"ready":false,"reasons":["...","..."]} */
static enum MHD_Result http_ready(struct MHD_Connection *connection, lwd_ctl_t *ctl)
{
    char reasons[1024], body[2 * sizeof(reasons) + 64];
    bool ready = lwd_ctl_ready(ctl, reasons, sizeof(reasons));
    size_t at = (size_t)snprintf(body, sizeof(body), "{\"ready\":%s,\"reasons\":[", ready ? "true" : "false");
    bool first = true;
    char *state = NULL;
    for (char *line = strtok_r(reasons, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
        at += (size_t)snprintf(body + at, sizeof(body) - at, "%s\"", first ? "" : ",");
        for (; *line && at + 8 < sizeof(body); line++) {
            unsigned char c = (unsigned char)*line;
            if (c == '"' || c == '\\')
                body[at++] = '\\';
            body[at++] = c < 0x20 ? ' ' : (char)c;
        }
        at += (size_t)snprintf(body + at, sizeof(body) - at, "\"");
        first = false;
    }
    snprintf(body + at, sizeof(body) - at, "]}\n");
    return http_answer(connection, ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "application/json", body,
                       MHD_RESPMEM_MUST_COPY);
}

static enum MHD_Result http_serve(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *upload_bytes, void **state)
{
    ctl_http_t *http = arg;
    (void)version, (void)upload, (void)state;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        *upload_bytes = 0;
        return http_answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "GET only\n", MHD_RESPMEM_PERSISTENT);
    }
    if (strcmp(url, "/metrics") == 0)
        return http_metrics(connection, http->ctl);
    if (strcmp(url, "/readyz") == 0)
        return http_ready(connection, http->ctl);
    if (strcmp(url, "/healthz") == 0)
        return lwd_ctl_alive(http->ctl)
                   ? http_answer(connection, MHD_HTTP_OK, "application/json", "{\"alive\":true}\n", MHD_RESPMEM_PERSISTENT)
                   : http_answer(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "application/json",
                                 "{\"alive\":false,\"reasons\":[\"the control thread does not move\"]}\n",
                                 MHD_RESPMEM_PERSISTENT);
    return http_answer(connection, MHD_HTTP_NOT_FOUND, "text/plain", "/metrics /healthz /readyz\n", MHD_RESPMEM_PERSISTENT);
}

/* "127.0.0.1:80", "[::1]:80"; host names are not looked up: this is a bind address. */
static bool http_parse(const char *address, struct sockaddr_storage *out, char *host, size_t host_bytes)
{
    const char *colon = strrchr(address, ':');
    char *end = NULL;
    if (!colon || colon == address || (size_t)(colon - address) >= host_bytes)
        return false;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (!colon[1] || *end || port > 65535)
        return false;
    memcpy(host, address, (size_t)(colon - address));
    host[colon - address] = 0;
    memset(out, 0, sizeof(*out));
    size_t bytes = strlen(host);
    if (host[0] == '[' && host[bytes - 1] == ']') {
        struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
        char bare[64];
        if (bytes - 2 >= sizeof(bare))
            return false;
        memcpy(bare, host + 1, bytes - 2);
        bare[bytes - 2] = 0;
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        return inet_pton(AF_INET6, bare, &in6->sin6_addr) == 1;
    }
    struct sockaddr_in *in4 = (struct sockaddr_in *)out;
    in4->sin_family = AF_INET;
    in4->sin_port = htons((uint16_t)port);
    return inet_pton(AF_INET, strcmp(host, "localhost") == 0 ? "127.0.0.1" : host, &in4->sin_addr) == 1;
}

lw_status_t lwd_ctl_http_start(lwd_ctl_t *ctl, const char *address, ctl_http_t **http_out, lw_error_t *error)
{
    struct sockaddr_storage bind_to;
    char host[80];
    if (!http_parse(address, &bind_to, host, sizeof(host)))
        return lw_fail(error, LW_ERR_INVALID, "http address '%s' is not a numeric host:port", address);
    ctl_http_t *http = calloc(1, sizeof(*http));
    if (!http)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for HTTP");
    http->ctl = ctl;
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO;
    if (bind_to.ss_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    http->daemon = MHD_start_daemon(flags, 0, NULL, NULL, http_serve, http, MHD_OPTION_SOCK_ADDR, &bind_to,
                                    MHD_OPTION_CONNECTION_LIMIT, HTTP_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
                                    HTTP_TIMEOUT_S, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        http->daemon ? MHD_get_daemon_info(http->daemon, MHD_DAEMON_INFO_BIND_PORT) : NULL;
    if (!info) {
        if (http->daemon)
            MHD_stop_daemon(http->daemon);
        free(http);
        return lw_fail(error, LW_ERR_UNREACHABLE, "cannot listen on %s for HTTP", address);
    }
    snprintf(http->address, sizeof(http->address), "%s:%u", host, (unsigned)info->port);
    *http_out = http;
    return LW_OK;
}

const char *lwd_ctl_http_bound(const ctl_http_t *http)
{
    return http->address;
}

void lwd_ctl_http_stop(ctl_http_t *http)
{
    if (!http)
        return;
    MHD_stop_daemon(http->daemon);
    free(http);
}
