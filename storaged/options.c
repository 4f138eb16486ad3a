/* options.c - the rows of options.def as a table, and the checks that span several options. Main thread. */
#include "storaged/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const lw_option_t rows[] = {
#define OPT(group, name, kind, def, min, max, reload, help) \
    {#group,                                                \
     #name,                                                 \
     LW_OPTION_##kind,                                      \
     def,                                                   \
     min,                                                   \
     max,                                                   \
     LW_OPTION_##reload,                                    \
     help,                                                  \
     offsetof(lwd_options_t, group##_##name)},
#include "storaged/options.def"
#undef OPT
};

const lw_option_table_t *lwd_option_table(void)
{
    static const lw_option_table_t table = {
        .program = "storaged", .rows = rows, .row_count = LW_ARRAY_SIZE(rows)};
    return &table;
}

/* "host:port" or "[v6]:port"; says whether the host is a wildcard. */
static lw_status_t check_address(const char *option, const char *value, bool *wildcard_out, lw_error_t *error)
{
    const char *colon = strrchr(value, ':');
    char *end = NULL;
    unsigned long port = 0;
    if (colon != NULL && colon[1] >= '0' && colon[1] <= '9')
        port = strtoul(colon + 1, &end, 10);
    if (colon == NULL || colon == value || end == NULL || *end != '\0' || port > 65535)
        return lw_fail(error, LW_ERR_INVALID, "%s is \"%s\", must be host:port with a port of 0 to 65535",
                       option, value);
    size_t host = (size_t)(colon - value);
    *wildcard_out = (host == 7 && memcmp(value, "0.0.0.0", 7) == 0) ||
                    (host == 4 && memcmp(value, "[::]", 4) == 0) || (host == 1 && value[0] == '*');
    return LW_OK;
}

static lw_status_t check_listen(const char *name, const char *listen, const char *advertise_name,
                                const char *advertise, lw_error_t *error)
{
    bool wildcard = false, unused = false;
    lw_status_t status = check_address(name, listen, &wildcard, error);
    if (status != LW_OK)
        return status;
    if (wildcard && advertise[0] == '\0')
        return lw_fail(error, LW_ERR_INVALID,
                       "%s is the wildcard \"%s\": %s must say which address others use", name, listen,
                       advertise_name);
    if (advertise[0] == '\0')
        return LW_OK;
    status = check_address(advertise_name, advertise, &unused, error);
    if (status == LW_OK && unused)
        status = lw_fail(error, LW_ERR_INVALID,
                         "%s is the wildcard \"%s\", must be an address that others can reach",
                         advertise_name, advertise);
    return status;
}

/* The data threads after the first take the ports after its own. */
static lw_status_t check_ports(const lwd_options_t *options, lw_error_t *error)
{
    unsigned long first = strtoul(strrchr(options->data_listen, ':') + 1, NULL, 10);
    if (first == 0 || first + options->data_threads - 1 <= 65535)
        return LW_OK;
    return lw_fail(
        error, LW_ERR_INVALID,
        "data.listen is \"%s\", must leave a port of at most 65535 to each of the %llu data.threads",
        options->data_listen, (unsigned long long)options->data_threads);
}

static lw_status_t check_numa(const char *value, int *node_out, lw_error_t *error)
{
    char *end = NULL;
    *node_out = -1;
    if (strcmp(value, "interleave") == 0)
        return LW_OK;
    errno = 0;
    long node = strtol(value, &end, 10);
    if (value[0] == '\0' || *end != '\0' || errno != 0 || node < 0 || node > 1023)
        return lw_fail(error, LW_ERR_INVALID,
                       "mem.numa_node is \"%s\", must be interleave or a number of 0 to 1023", value);
    *node_out = (int)node;
    return LW_OK;
}

static bool known_transport(const char *value)
{
    static const char *const known[] = {"auto", "tcp", "shm", "rdma"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(known); i++) {
        if (strcmp(value, known[i]) == 0)
            return true;
    }
    return false;
}

static lw_status_t check_tier_io(const char *value, lwd_tier_io_t *io_out, lw_error_t *error)
{
    static const char *const known[] = {"auto", "uring", "threads"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(known); i++) {
        if (strcmp(value, known[i]) == 0) {
            *io_out = (lwd_tier_io_t)i;
            return LW_OK;
        }
    }
    return lw_fail(error, LW_ERR_INVALID, "tier.io is \"%s\", must be auto, uring or threads", value);
}

lw_status_t lwd_options_check(const lwd_options_t *options, lwd_choices_t *choices_out, lw_error_t *error)
{
    lwd_choices_t choices = {0};
    bool wildcard = false;
    if (lwd_pages_parse(options->mem_huge_pages, &choices.pages) != LW_OK)
        return lw_fail(error, LW_ERR_INVALID, "mem.huge_pages is \"%s\", must be auto, 1g, 2m, thp or none",
                       options->mem_huge_pages);
    if (lw_log_level_parse(options->log_level, &choices.log_level) != LW_OK)
        return lw_fail(error, LW_ERR_INVALID, "log.level is \"%s\", must be error, warn, info or debug",
                       options->log_level);
    if (!known_transport(options->data_transports))
        return lw_fail(error, LW_ERR_INVALID, "data.transports is \"%s\", must be auto, tcp, shm or rdma",
                       options->data_transports);
    lw_status_t status = check_numa(options->mem_numa_node, &choices.numa_node, error);
    if (status == LW_OK)
        status = check_tier_io(options->tier_io, &choices.tier_io, error);
    if (status == LW_OK)
        status = check_listen("data.listen", options->data_listen, "data.advertise", options->data_advertise,
                              error);
    if (status == LW_OK)
        status =
            check_listen("ctl.listen", options->ctl_listen, "ctl.advertise", options->ctl_advertise, error);
    if (status == LW_OK && options->ctl_http[0] != '\0')
        status = check_address("ctl.http", options->ctl_http, &wildcard, error);
    if (status == LW_OK)
        status = check_ports(options, error);
    if (status != LW_OK)
        return status;
    if ((options->ctl_tls_cert[0] == '\0') != (options->ctl_tls_key[0] == '\0'))
        return lw_fail(error, LW_ERR_INVALID,
                       "ctl.tls_cert is \"%s\" and ctl.tls_key is \"%s\": set both or neither",
                       options->ctl_tls_cert, options->ctl_tls_key);
    if (options->ctl_tls_ca[0] != '\0' && options->ctl_tls_cert[0] == '\0')
        return lw_fail(error, LW_ERR_INVALID, "ctl.tls_ca is \"%s\" without ctl.tls_cert and ctl.tls_key",
                       options->ctl_tls_ca);
    if (options->data_attachments_per_connection > options->data_attachments)
        return lw_fail(
            error, LW_ERR_INVALID,
            "data.attachments_per_connection is %llu, must be at most data.attachments, which is %llu",
            (unsigned long long)options->data_attachments_per_connection,
            (unsigned long long)options->data_attachments);
    *choices_out = choices;
    return LW_OK;
}
