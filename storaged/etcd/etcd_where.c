/* etcd_where.c - a client from one text: endpoints, the fleet's prefix, and the files with certificates. */
#include "storaged/etcd/etcd.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FILE_MAX (1u << 20)
#define WHERE_MAX 2048u

static lw_status_t read_file(const char *path, char **text_out, lw_error_t *error)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return lw_fail(error, LW_ERR_INVALID, "etcd: %s: %s", path, strerror(errno));
    char *text = calloc(1, FILE_MAX);
    size_t bytes = text ? fread(text, 1, FILE_MAX, file) : 0;
    bool failed = ferror(file) != 0;
    fclose(file);
    if (text && !failed && bytes > 0 && bytes < FILE_MAX) {
        *text_out = text;
        return LW_OK;
    }
    free(text);
    return text ? lw_fail(error, LW_ERR_INVALID, "etcd: %s is empty, too large or cannot be read", path)
                : lw_fail(error, LW_ERR_NO_MEMORY, "etcd: no memory for %s", path);
}

/* "ca=FILE&cert=FILE&key=FILE&timeout_ms=N" */
static lw_status_t read_query(char *query, char *texts[3], uint64_t *timeout_us, lw_error_t *error)
{
    static const char *const names[3] = {"ca=", "cert=", "key="};
    char *rest = NULL;
    for (char *part = strtok_r(query, "&", &rest); part; part = strtok_r(NULL, "&", &rest)) {
        int which = -1;
        if (strncmp(part, "timeout_ms=", 11) == 0) {
            *timeout_us = strtoull(part + 11, NULL, 10) * 1000;
            continue;
        }
        for (int i = 0; i < 3; i++)
            if (strncmp(part, names[i], strlen(names[i])) == 0)
                which = i;
        if (which < 0 || texts[which])
            return lw_fail(error, LW_ERR_INVALID, "etcd: '%.60s' is not ca=, cert=, key= or timeout_ms=, once each", part);
        lw_status_t status = read_file(part + strlen(names[which]), &texts[which], error);
        if (status != LW_OK)
            return status;
    }
    return LW_OK;
}

static lw_status_t check_prefix(const char *prefix, lw_error_t *error)
{
    size_t bytes = strlen(prefix);
    bool fine = bytes > 0 && bytes < LWD_ETCD_PREFIX_MAX && prefix[0] != '/' && prefix[bytes - 1] != '/';
    for (size_t i = 0; i < bytes && fine; i++)
        fine = isalnum((unsigned char)prefix[i]) || strchr("._-/", prefix[i]);
    return fine ? LW_OK
                : lw_fail(error, LW_ERR_INVALID, "etcd: the prefix '%.80s' must have 1 to %u letters, digits, '.', '_', '-', "
                          "and '/' inside", prefix, LWD_ETCD_PREFIX_MAX - 1);
}

lw_status_t lwd_etcd_open_where(const char *where, lwd_etcd_t **etcd_out, char *prefix_out, lw_error_t *error)
{
    char copy[WHERE_MAX], *texts[3] = {NULL, NULL, NULL};
    uint64_t timeout_us = 0;
    if (!where || strncmp(where, "etcd://", 7) != 0 || strlen(where) >= sizeof(copy))
        return lw_fail(error, LW_ERR_INVALID, "'%.80s' is not etcd://host:port/prefix", where ? where : "");
    snprintf(copy, sizeof(copy), "%s", where + 7);
    char *query = strchr(copy, '?');
    if (query)
        *query++ = 0;
    char *prefix = strchr(copy, '/');
    if (prefix)
        *prefix++ = 0;
    lw_status_t status = check_prefix(prefix ? prefix : "", error);
    if (status == LW_OK && query)
        status = read_query(query, texts, &timeout_us, error);
    const lwd_etcd_params_t params = {.endpoints = copy, .ca_pem = texts[0], .cert_pem = texts[1], .key_pem = texts[2],
                                      .timeout_us = timeout_us};
    if (status == LW_OK)
        status = lwd_etcd_open(&params, etcd_out, error);
    if (status == LW_OK)
        memcpy(prefix_out, prefix, strlen(prefix) + 1);
    for (int i = 0; i < 3; i++)
        free(texts[i]);
    return status;
}
