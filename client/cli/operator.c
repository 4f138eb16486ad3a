/* operator.c - command lines and connections of the operator's commands. */
#include "client/cli/operator.h"

#include <inttypes.h>
#include <string.h>

#include "client/options.h"

static bool takes_value(const char *arg, const char *name, int *at, int argc, char **argv,
                        const char **value_out, bool *bad)
{
    size_t length = strlen(name);

    if (strncmp(arg, name, length) != 0 || (arg[length] != '\0' && arg[length] != '='))
        return false;
    if (arg[length] == '=') {
        *value_out = arg + length + 1;
    } else if (*at + 1 < argc) {
        *value_out = argv[++*at];
    } else {
        fprintf(stderr, "longwave %s: %s wants a value\n", argv[0], name);
        *bad = true;
    }
    return true;
}

int lwc_operator_args(int argc, char **argv, lwc_operator_t *op, bool *help_out)
{
    int words = 1;
    bool bad = false;

    memset(op, 0, sizeof(*op));
    *help_out = false;
    for (int i = 1; i < argc && !bad; i++) {
        const char *arg = argv[i];
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            *help_out = true;
        } else if (strcmp(arg, "--json") == 0) {
            /* A file name only where one follows that is no option and no word of the command. */
            bool file = i + 1 < argc && (strchr(argv[i + 1], '/') || strchr(argv[i + 1], '.') ||
                                         strcmp(argv[i + 1], "-") == 0);
            op->json = file ? argv[++i] : "-";
        } else if (strncmp(arg, "--json=", 7) == 0) {
            op->json = arg + 7;
        } else if (!takes_value(arg, "--fleet", &i, argc, argv, &op->fleet, &bad) &&
                   !takes_value(arg, "--tenant", &i, argc, argv, &op->tenant, &bad) &&
                   !takes_value(arg, "--config", &i, argc, argv, &op->config, &bad)) {
            if (arg[0] == '-') {
                fprintf(stderr, "longwave %s: unknown option %s\n", argv[0], arg);
                bad = true;
            } else {
                argv[words++] = argv[i];
            }
        }
    }
    return bad ? -1 : words;
}

/* A file that does not fit is refused: half of a list of certificates would fail later, without a cause. */
static lw_status_t read_file(const char *path, char *text, size_t capacity, const char **text_out,
                             lw_error_t *error)
{
    *text_out = NULL;
    if (path[0] == '\0')
        return LW_OK;
    FILE *file = fopen(path, "rb");
    size_t bytes = file ? fread(text, 1, capacity, file) : 0;
    if (file)
        fclose(file);
    if (bytes == 0)
        return lw_fail(error, LW_ERR_IO, "%s cannot be read", path);
    if (bytes == capacity)
        return lw_fail(error, LW_ERR_IO, "%s is larger than %zu bytes", path, capacity - 1);
    text[bytes] = '\0';
    *text_out = text;
    return LW_OK;
}

lw_status_t lwc_operator_connect(lwc_operator_t *op, lwc_control_t **control_out)
{
    static char ca[1 << 20], cert[64 << 10], key[64 << 10];
    lwc_options_t options;
    lw_error_t error = {.text = ""};
    lwc_control_params_t params = {.size = sizeof(params), .tenant = op->tenant};
    lw_status_t status = lwc_options_load(op->config, &options, &error);

    if (status == LW_OK && !op->fleet) {
        snprintf(op->text, sizeof(op->text), "%s", options.client_fleet);
        op->fleet = op->text;
    }
    if (status == LW_OK && op->fleet[0] == '\0')
        status = lw_fail(&error, LW_ERR_INVALID, "name the fleet: --fleet host:port,... or LW_CLIENT_FLEET");
    if (status == LW_OK)
        status = read_file(options.tls_ca, ca, sizeof(ca), &params.ca_pem, &error);
    if (status == LW_OK)
        status = read_file(options.tls_cert, cert, sizeof(cert), &params.cert_pem, &error);
    if (status == LW_OK)
        status = read_file(options.tls_key, key, sizeof(key), &params.key_pem, &error);
    if (status == LW_OK) {
        params.seeds = op->fleet;
        params.timeout_us = options.client_control_timeout;
        params.server_name = options.tls_server_name[0] ? options.tls_server_name : NULL;
        status = lwc_control_open(&params, control_out, &error);
    }
    if (status != LW_OK)
        fprintf(stderr, "longwave: %s\n", error.text);
    return status;
}

const char *lwc_bytes_text(uint64_t bytes, char out[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < LW_ARRAY_SIZE(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(out, 32, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

const char *lwc_time_text(uint64_t us, char out[32])
{
    uint64_t seconds = us / 1000000;

    if (seconds < 60)
        snprintf(out, 32, "%" PRIu64 " s", seconds);
    else if (seconds < 3600)
        snprintf(out, 32, "%" PRIu64 " m %" PRIu64 " s", seconds / 60, seconds % 60);
    else if (seconds < 86400)
        snprintf(out, 32, "%" PRIu64 " h %" PRIu64 " m", seconds / 3600, seconds / 60 % 60);
    else
        snprintf(out, 32, "%" PRIu64 " d %" PRIu64 " h", seconds / 86400, seconds / 3600 % 24);
    return out;
}

FILE *lwc_operator_json_open(const lwc_operator_t *op)
{
    FILE *out = strcmp(op->json, "-") == 0 ? stdout : fopen(op->json, "w");
    if (!out)
        fprintf(stderr, "longwave: %s cannot be written\n", op->json);
    return out;
}

int lwc_operator_json_close(const lwc_operator_t *op, FILE *out, bool written)
{
    bool closed = out == stdout ? fflush(out) == 0 : fclose(out) == 0;
    if (!written || !closed)
        fprintf(stderr, "longwave: %s was not written\n", op->json);
    return written && closed ? 0 : 1;
}
