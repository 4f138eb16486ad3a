/* sessions.c - `longwave sessions`: list, show, pin, unpin, drop. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/commands.h"
#include "client/cli/json.h"
#include "client/cli/operator.h"

static const char help[] =
    "longwave sessions [list | show ID | pin ID | unpin ID | drop ID] [options]\n\n"
    "  list    the tenant's sessions (default)\n"
    "  show    one session and its ranges\n"
    "  pin     keeps a session from eviction; unpin lets go\n"
    "  drop    ends a session; what forks still read stays until they end\n\n" LWC_OPERATOR_HELP;

#define PAGE_ROWS 64u
#define RANGE_ROWS 32u

static void fail(const lw_error_t *error)
{
    fprintf(stderr, "longwave: %s\n", error->text);
}

static void json_session(lwc_json_t *json, const lwc_session_info_t *info)
{
    lwc_json_uint(json, "session_id", info->session_id);
    lwc_json_text(json, "tenant", info->tenant);
    lwc_json_text(json, "model_id", info->shape.model_id);
    lwc_json_text(json, "state", lwc_session_state_text(info->state));
    lwc_json_uint(json, "tokens", info->token_count);
    lwc_json_uint(json, "bytes", info->bytes);
    lwc_json_uint(json, "term", info->term);
    lwc_json_bool(json, "pinned", info->pinned);
    lwc_json_uint(json, "readers", info->readers);
    lwc_json_uint(json, "lease_us_left", info->lease_us_left);
    lwc_json_uint(json, "ttl_us", info->ttl_us);
    lwc_json_uint(json, "created_us", info->created_us);
    lwc_json_uint(json, "used_us", info->used_us);
    lwc_json_uint(json, "parent_id", info->parent_id);
    lwc_json_uint(json, "cut_tokens", info->cut_tokens);
    lwc_json_uint(json, "layers", info->shape.layer_count);
    lwc_json_uint(json, "kv_heads", info->shape.kv_head_count);
    lwc_json_uint(json, "query_heads", info->shape.query_head_count);
    lwc_json_uint(json, "head_dim", info->shape.head_dim);
    lwc_json_uint(json, "replicas", info->shape.replicas);
    lwc_json_uint(json, "segment_tokens", info->shape.segment_tokens);
}

static void print_session(const lwc_session_info_t *info)
{
    char bytes[32], lease[32];

    printf("%8" PRIu64 "  %-9s %9u %10s  %-6s %7u  %-10s %s\n", info->session_id,
           lwc_session_state_text(info->state), info->token_count, lwc_bytes_text(info->bytes, bytes),
           info->pinned ? "pinned" : "-", info->readers,
           info->lease_us_left ? lwc_time_text(info->lease_us_left, lease) : "-", info->shape.model_id);
}

/* Every page of the list goes to `json` or to the table. */
static int list(lwc_control_t *control, lwc_json_t *json)
{
    lwc_session_info_t *rows = calloc(PAGE_ROWS, sizeof(*rows));
    uint64_t after = 0;
    uint32_t count = 0;
    lw_error_t error = {.text = ""};

    if (!rows)
        return 1;
    if (!json)
        printf("%8s  %-9s %9s %10s  %-6s %7s  %-10s %s\n", "session", "state", "tokens", "bytes", "pinned",
               "readers", "lease", "model");
    for (;;) {
        if (lwc_control_list(control, after, PAGE_ROWS, rows, &count, &error) != LW_OK) {
            fail(&error);
            free(rows);
            return 1;
        }
        if (count == 0)
            break;
        for (uint32_t i = 0; i < count; i++) {
            if (json) {
                lwc_json_open(json, NULL, '{');
                json_session(json, &rows[i]);
                lwc_json_close(json);
            } else {
                print_session(&rows[i]);
            }
        }
        after = rows[count - 1].session_id;
    }
    free(rows);
    return 0;
}

static int cmd_list(lwc_control_t *control, const lwc_operator_t *op)
{
    if (!op->json)
        return list(control, NULL);
    FILE *out = lwc_operator_json_open(op);
    if (!out)
        return 1;
    lwc_json_t json = lwc_json(out);
    lwc_json_open(&json, NULL, '{');
    lwc_json_open(&json, "sessions", '[');
    int result = list(control, &json);
    lwc_json_close(&json);
    lwc_json_close(&json);
    return result | lwc_operator_json_close(op, out, lwc_json_end(&json));
}

static void print_details(const lwc_session_info_t *info)
{
    char text[32];

    printf("session     %" PRIu64
           "\nstate       %s, term %u\nmodel       %s: %u layers, %u KV heads, %u query heads, head_dim %u\n",
           info->session_id, lwc_session_state_text(info->state), info->term, info->shape.model_id,
           info->shape.layer_count, info->shape.kv_head_count, info->shape.query_head_count,
           info->shape.head_dim);
    printf("tokens      %u committed, %s in all replicas (%u)\n", info->token_count,
           lwc_bytes_text(info->bytes, text), info->shape.replicas);
    printf("index       %u tokens a cluster, %.1f%% outliers, segments of %u tokens\n",
           info->shape.cluster_tokens, info->shape.outlier_ppm / 1e4, info->shape.segment_tokens);
    printf("kept        %s, %u readers", info->pinned ? "pinned" : "not pinned", info->readers);
    if (info->lease_us_left)
        printf(", lease for %s", lwc_time_text(info->lease_us_left, text));
    if (info->ttl_us)
        printf(", ttl %s", lwc_time_text(info->ttl_us, text));
    if (info->parent_id)
        printf("\nforked      from %" PRIu64 " at token %u", info->parent_id, info->cut_tokens);
    printf("\n");
}

/* Ranges of rank 0. The catalogue shows them to whoever has the session's token, so it is opened for reading.
 */
static int show_ranges(lwc_control_t *control, const lwc_session_info_t *info, lwc_json_t *json)
{
    lwc_range_t *ranges = calloc(RANGE_ROWS, sizeof(*ranges));
    uint32_t from = 0, count = 0;
    lw_error_t error = {.text = ""};
    int result = ranges ? 0 : 1;

    while (ranges) {
        if (lwc_control_ranges(control, info, 0, from, RANGE_ROWS, ranges, &count, &error) != LW_OK) {
            fail(&error);
            result = 1;
            break;
        }
        if (count == 0)
            break;
        for (uint32_t i = 0; i < count; i++) {
            const lwc_range_t *r = &ranges[i];
            char text[32];
            if (json) {
                lwc_json_open(json, NULL, '{');
                lwc_json_uint(json, "first_token", r->first_token);
                lwc_json_uint(json, "tokens", r->token_count);
                lwc_json_uint(json, "origin", r->origin);
                lwc_json_uint(json, "generation", r->generation);
                lwc_json_uint(json, "replicas", r->replicas);
                lwc_json_uint(json, "bytes", r->bytes);
                lwc_json_bool(json, "raw", (r->flags & LW_RANGE_RAW) != 0);
                lwc_json_bool(json, "moments", (r->flags & LW_RANGE_MOMENTS) != 0);
                lwc_json_close(json);
            } else {
                printf("range       tokens %u..%u of session %" PRIu64 ", generation %u, %s%s%s\n",
                       r->first_token, r->first_token + r->token_count - 1, r->origin, r->generation,
                       lwc_bytes_text(r->bytes, text), (r->flags & LW_RANGE_RAW) ? ", raw tail" : "",
                       (r->flags & LW_RANGE_MOMENTS) ? ", moments" : "");
            }
            from = r->first_token + r->token_count;
        }
    }
    free(ranges);
    return result;
}

static int cmd_show(lwc_control_t *control, const lwc_operator_t *op, uint64_t id)
{
    lwc_session_info_t info, opened;
    lw_error_t error = {.text = ""};

    if (lwc_control_get(control, id, &info, &error) != LW_OK) {
        fail(&error);
        return 1;
    }
    bool readable = lwc_control_open_session(control, id, false, 1000000, &opened, &error) == LW_OK;
    FILE *out = op->json ? lwc_operator_json_open(op) : NULL;
    int result = op->json && !out ? 1 : 0;
    if (out) {
        lwc_json_t json = lwc_json(out);
        lwc_json_open(&json, NULL, '{');
        json_session(&json, &info);
        lwc_json_open(&json, "ranges", '[');
        result |= readable ? show_ranges(control, &opened, &json) : 0;
        lwc_json_close(&json);
        lwc_json_close(&json);
        result |= lwc_operator_json_close(op, out, lwc_json_end(&json));
    } else if (!op->json) {
        print_details(&info);
        if (readable)
            result |= show_ranges(control, &opened, NULL);
        else
            printf("ranges      not readable: %s\n", error.text);
    }
    if (readable && lwc_control_release(control, id, &error) != LW_OK)
        fail(&error);
    return result;
}

static int cmd_change(lwc_control_t *control, const lwc_operator_t *op, const char *verb, uint64_t id)
{
    lw_error_t error = {.text = ""};
    lw_status_t status = strcmp(verb, "drop") == 0
                             ? lwc_control_drop(control, id, &error)
                             : lwc_control_pin(control, id, strcmp(verb, "pin") == 0, &error);

    if (status != LW_OK)
        fail(&error);
    if (op->json) {
        FILE *out = lwc_operator_json_open(op);
        if (!out)
            return 1;
        lwc_json_t json = lwc_json(out);
        lwc_json_open(&json, NULL, '{');
        lwc_json_uint(&json, "session_id", id);
        lwc_json_text(&json, "done", verb);
        lwc_json_text(&json, "status", lw_status_name(status));
        lwc_json_close(&json);
        if (lwc_operator_json_close(op, out, lwc_json_end(&json)) != 0)
            return 1;
    } else if (status == LW_OK) {
        printf("session %" PRIu64 ": %s done\n", id, verb);
    }
    return status == LW_OK ? 0 : 1;
}

static bool parse_id(const char *text, uint64_t *id_out)
{
    char *end = NULL;

    errno = 0;
    *id_out = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && text[0] != '-' && *id_out != 0;
}

int lwc_cmd_sessions(int argc, char **argv)
{
    lwc_operator_t op;
    bool wants_help;
    int words = lwc_operator_args(argc, argv, &op, &wants_help);
    const char *verb = words > 1 ? argv[1] : "list";
    bool takes_id = strcmp(verb, "show") == 0 || strcmp(verb, "pin") == 0 || strcmp(verb, "unpin") == 0 ||
                    strcmp(verb, "drop") == 0;
    uint64_t id = 0;
    lwc_control_t *control = NULL;

    if (wants_help) {
        fputs(help, stdout);
        return 0;
    }
    if (words < 0 || (!takes_id && strcmp(verb, "list") != 0) || words > (takes_id ? 3 : 2) ||
        (takes_id && (words < 3 || !parse_id(argv[2], &id)))) {
        fputs(help, stderr);
        return 2;
    }
    if (lwc_operator_connect(&op, &control) != LW_OK)
        return 1;
    int result = strcmp(verb, "list") == 0   ? cmd_list(control, &op)
                 : strcmp(verb, "show") == 0 ? cmd_show(control, &op, id)
                                             : cmd_change(control, &op, verb, id);
    lwc_control_close(control);
    return result;
}
