/* nodes.c - `longwave nodes` and `longwave drain`: where copies are, and getting them off a node. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/cli/commands.h"
#include "client/cli/json.h"
#include "client/cli/operator.h"

static const char nodes_help[] =
    "longwave nodes [options]\n\n"
    "Each node of the fleet: state, zone, weight, room, segments that it holds, segments that manifests place\n"
    "on it, and copies on their way to it.\n\n" LWC_OPERATOR_HELP;
static const char drain_help[] =
    "longwave drain NODE [--deadline SECONDS] [--cancel] [options]\n\n"
    "Marks a node (its index or control address) as to be emptied: it gets no new segments, and the others\n"
    "copy what is placed on it. The mark stays until --cancel takes it back. With --deadline the command waits\n"
    "until nothing is placed there any more; exit status 1 when that takes longer.\n\n" LWC_OPERATOR_HELP;

#define POLL_NS 200000000L
#define DEADLINE_MAX 86400.0

/* What a node says of its copies. */
typedef struct account {
    lw_status_t asked;
    lwc_node_status_t status;
    uint64_t segments, placed, waiting, scans, degraded;
} account_t;

/* The value of a metric without labels in Prometheus text; 0 when it is not there. */
static uint64_t metric(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL)
        if (strncmp(line, name, length) == 0 && line[length] == ' ')
            return strtoull(line + length, NULL, 10);
    return 0;
}

static void account_get(lwc_control_t *control, const lw_node_t *node, account_t *out)
{
    lw_error_t error = {.text = ""};
    memset(out, 0, sizeof(*out));
    out->asked = lwc_control_admin_status(control, node->control, &out->status, &error);
    if (out->asked != LW_OK)
        return;
    out->segments = metric(out->status.metrics, "storaged_segments");
    out->placed = metric(out->status.metrics, "storaged_segments_placed");
    out->waiting = metric(out->status.metrics, "storaged_moves_waiting");
    out->degraded = metric(out->status.metrics, "storaged_segments_degraded");
    out->scans = metric(out->status.metrics, "storaged_scans");
}

static void account_free(account_t *account)
{
    if (account->asked == LW_OK)
        lwc_node_status_free(&account->status);
}

static const char *state_text(uint32_t state)
{
    return state == LW_NODE_UP ? "up" : state == LW_NODE_DRAINING ? "draining" : "down";
}

/* ---- nodes ---- */
static void print_node(const lw_node_t *node, const account_t *account)
{
    char used[32] = "-", room[32] = "-";
    if (account->asked == LW_OK) {
        lwc_bytes_text(account->status.used_bytes, used);
        lwc_bytes_text(account->status.free_bytes, room);
    }
    printf("%5u  %-22s %-9s %-10s %6u %10s %10s %9" PRIu64 " %9" PRIu64 " %8" PRIu64 "\n", node->index, node->control,
           state_text(node->state), node->zone[0] ? node->zone : "-", node->weight, used, room, account->segments,
           account->placed, account->waiting);
}

static void json_node(lwc_json_t *json, const lw_node_t *node, const account_t *account)
{
    lwc_json_open(json, NULL, '{');
    lwc_json_uint(json, "index", node->index);
    lwc_json_uint(json, "id", node->id);
    lwc_json_text(json, "control", node->control);
    lwc_json_text(json, "data", node->data);
    lwc_json_text(json, "state", state_text(node->state));
    lwc_json_text(json, "zone", node->zone);
    lwc_json_uint(json, "weight", node->weight);
    lwc_json_bool(json, "answers", account->asked == LW_OK);
    if (account->asked == LW_OK) {
        lwc_json_uint(json, "used_bytes", account->status.used_bytes);
        lwc_json_uint(json, "free_bytes", account->status.free_bytes);
        lwc_json_uint(json, "segments", account->segments);
        lwc_json_uint(json, "placed", account->placed);
        lwc_json_uint(json, "moves_waiting", account->waiting);
        lwc_json_uint(json, "degraded", account->degraded);
    }
    lwc_json_close(json);
}

static int show_nodes(lwc_control_t *control, const lwc_operator_t *op, const lw_view_t *view)
{
    FILE *out = op->json ? lwc_operator_json_open(op) : NULL;
    if (op->json && !out)
        return 1;
    lwc_json_t json = lwc_json(out);
    if (out) {
        lwc_json_open(&json, NULL, '{');
        lwc_json_uint(&json, "epoch", view->epoch);
        lwc_json_open(&json, "nodes", '[');
    } else {
        printf("index  %-22s %-9s %-10s %6s %10s %10s %9s %9s %8s\n", "control", "state", "zone", "weight", "used",
               "free", "segments", "placed", "pulling");
    }
    for (uint32_t i = 0; i < view->node_count; i++) {
        account_t account;
        account_get(control, &view->nodes[i], &account);
        if (out)
            json_node(&json, &view->nodes[i], &account);
        else
            print_node(&view->nodes[i], &account);
        account_free(&account);
    }
    if (!out)
        return 0;
    lwc_json_close(&json);
    lwc_json_close(&json);
    return lwc_operator_json_close(op, out, lwc_json_end(&json));
}

/* Connects and asks for the view; says what is wrong. */
static lw_status_t fleet_open(lwc_operator_t *op, lwc_control_t **control_out, lw_view_t *view_out)
{
    lw_error_t error = {.text = ""};
    lw_status_t status = lwc_operator_connect(op, control_out);
    if (status != LW_OK)
        return status;
    status = lwc_control_fleet_get(*control_out, view_out, &error);
    if (status != LW_OK) {
        fprintf(stderr, "longwave: %s\n", error.text);
        lwc_control_close(*control_out);
    }
    return status;
}

int lwc_cmd_nodes(int argc, char **argv)
{
    lwc_operator_t op;
    bool wants_help;
    int words = lwc_operator_args(argc, argv, &op, &wants_help);
    lwc_control_t *control = NULL;
    lw_view_t view;
    if (wants_help || words != 1) {
        fputs(nodes_help, wants_help ? stdout : stderr);
        return wants_help ? 0 : 2;
    }
    if (fleet_open(&op, &control, &view) != LW_OK)
        return 1;
    int result = show_nodes(control, &op, &view);
    lwc_view_free(&view);
    lwc_control_close(control);
    return result;
}

/* ---- drain ---- */
typedef struct drain_args {
    bool cancel, waits;
    double seconds;
} drain_args_t;

/* Takes drain's own options out of argv; the new argc, or -1 after saying what is wrong. */
static int take_drain_args(int argc, char **argv, drain_args_t *args)
{
    int kept = 1;
    memset(args, 0, sizeof(*args));
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--cancel") == 0) {
            args->cancel = true;
        } else if (strncmp(argv[i], "--deadline", 10) == 0 && (argv[i][10] == '=' || argv[i][10] == '\0')) {
            const char *text = argv[i][10] == '=' ? argv[i] + 11 : i + 1 < argc ? argv[++i] : "";
            char *end;
            args->waits = true;
            args->seconds = strtod(text, &end);
            if (end == text || *end || !(args->seconds >= 0 && args->seconds <= DEADLINE_MAX)) {
                fprintf(stderr, "longwave drain: --deadline is \"%s\", must be 0 to %.0f seconds\n", text, DEADLINE_MAX);
                return -1;
            }
        } else {
            argv[kept++] = argv[i];
        }
    }
    return kept;
}

static const lw_node_t *node_named(const lw_view_t *view, const char *text)
{
    char *end;
    unsigned long index = strtoul(text, &end, 10);
    for (uint32_t i = 0; i < view->node_count; i++)
        if (strcmp(view->nodes[i].control, text) == 0 || (end != text && !*end && view->nodes[i].index == index))
            return &view->nodes[i];
    return NULL;
}

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Empty: two scans of the node itself, begun after it was marked, found nothing placed on it. */
static int wait_until_empty(lwc_control_t *control, const lw_node_t *node, double seconds)
{
    double until = now_seconds() + seconds, began = now_seconds();
    uint64_t first = UINT64_MAX, placed = UINT64_MAX;
    do {
        account_t account;
        account_get(control, node, &account);
        if (account.asked == LW_OK && first == UINT64_MAX)
            first = account.scans;
        bool empty = account.asked == LW_OK && account.scans >= first + 2 && account.placed == 0;
        placed = account.asked == LW_OK ? account.placed : placed;
        account_free(&account);
        if (empty) {
            printf("node %u is empty after %.1f s\n", node->index, now_seconds() - began);
            return 0;
        }
        const struct timespec pause = {.tv_nsec = POLL_NS};
        (void)nanosleep(&pause, NULL);
    } while (now_seconds() < until);
    if (placed == UINT64_MAX)
        fprintf(stderr, "longwave: node %u does not answer\n", node->index);
    else
        fprintf(stderr, "longwave: %" PRIu64 " segments are still placed on node %u\n", placed, node->index);
    return 1;
}

int lwc_cmd_drain(int argc, char **argv)
{
    drain_args_t args;
    lwc_operator_t op;
    bool wants_help = false;
    argc = take_drain_args(argc, argv, &args);
    int words = argc < 0 ? -1 : lwc_operator_args(argc, argv, &op, &wants_help);
    lwc_control_t *control = NULL;
    lw_error_t error = {.text = ""};
    lw_view_t view;
    if (wants_help || words != 2) {
        fputs(drain_help, wants_help ? stdout : stderr);
        return wants_help ? 0 : 2;
    }
    if (fleet_open(&op, &control, &view) != LW_OK)
        return 1;
    const lw_node_t *node = node_named(&view, argv[1]);
    int result = 1;
    if (!node)
        fprintf(stderr, "longwave: the fleet has no node %s\n", argv[1]);
    else if (lwc_control_drain(control, node->index, !args.cancel, &error) != LW_OK)
        fprintf(stderr, "longwave: %s\n", error.text);
    else
        result = args.waits && !args.cancel ? wait_until_empty(control, node, args.seconds) : 0;
    lwc_view_free(&view);
    lwc_control_close(control);
    return result;
}
