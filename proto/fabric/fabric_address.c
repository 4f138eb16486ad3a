/* fabric_address.c - "host:port" texts and socket addresses, for the socket-based fabrics. */
#include "fabric/fabric_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/limits.h"

/* Splits at the last colon; host gets no brackets. */
static lw_status_t split(const char *text, char host[LW_ADDRESS_MAX], char port[6], lw_error_t *error)
{
    const char *colon = text != NULL ? strrchr(text, ':') : NULL;
    if (colon == NULL || colon == text || strlen(text) >= LW_ADDRESS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "address '%.80s' is not host:port", text != NULL ? text : "");
    char *end;
    unsigned long number = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || number > 65535)
        return lw_fail(error, LW_ERR_INVALID, "address '%s': port '%s' is not 0..65535", text, colon + 1);
    snprintf(port, 6, "%lu", number);
    size_t bytes = (size_t)(colon - text);
    if (text[0] == '[' && bytes >= 2 && text[bytes - 1] == ']') {
        text++;
        bytes -= 2;
    }
    memcpy(host, text, bytes);
    host[bytes] = '\0';
    return LW_OK;
}

lw_status_t lw_fabric_address_parse(const char *text, struct sockaddr_storage *address_out,
                                    socklen_t *bytes_out, lw_error_t *error)
{
    char host[LW_ADDRESS_MAX], port[6];
    lw_status_t status = split(text, host, port, error);
    if (status != LW_OK)
        return status;

    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    int rc = getaddrinfo(host, port, &hints, &found);
    if (rc == EAI_NONAME) { /* not numeric: ask the resolver */
        hints.ai_flags = AI_NUMERICSERV;
        rc = getaddrinfo(host, port, &hints, &found);
    }
    if (rc != 0)
        return lw_fail(error, LW_ERR_INVALID, "address '%s': %s", text, gai_strerror(rc));
    memcpy(address_out, found->ai_addr, found->ai_addrlen);
    *bytes_out = found->ai_addrlen;
    freeaddrinfo(found);
    return LW_OK;
}

lw_status_t lw_fabric_address_text(const struct sockaddr_storage *address, char *text, size_t text_bytes)
{
    char host[INET6_ADDRSTRLEN];
    int bytes;
    if (address->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
        inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
        bytes = snprintf(text, text_bytes, "%s:%u", host, (unsigned)ntohs(v4->sin_port));
    } else if (address->ss_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
        inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
        bytes = snprintf(text, text_bytes, "[%s]:%u", host, (unsigned)ntohs(v6->sin6_port));
    } else {
        return LW_ERR_INVALID;
    }
    return bytes > 0 && (size_t)bytes < text_bytes ? LW_OK : LW_ERR_INVALID;
}
