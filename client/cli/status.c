/* status.c - `longwave status`: the fleet as one node sees it, and each node's own account. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/cli/commands.h"
#include "client/cli/json.h"
#include "client/cli/operator.h"

static const char help[] =
    "longwave status [options]\n\n"
    "The fleet: its nodes, their room and segments, how long they have been up. Exit status 1 when a node\n"
    "that the fleet knows does not answer or is not ready.\n\n" LWC_OPERATOR_HELP;

/* What one node said. */
typedef struct {
    const lw_node_t *node;
    lwc_node_status_t status;
    lw_status_t asked;
    char cause[240];
    uint64_t segments;
} row_t;

/* The value of a metric in Prometheus text, summed over its labels; 0 when it is not there. */
static uint64_t metric(const char *text, const char *name)
{
    uint64_t sum = 0;
    size_t length = strlen(name);

    for (const char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
        if (strncmp(line, name, length) != 0 || (line[length] != ' ' && line[length] != '{'))
            continue;
        const char *value = line[length] == '{' ? strchr(line + length, '}') : line + length;
        if (value)
            sum += strtoull(value + (*value == '}'), NULL, 10);
    }
    return sum;
}

static const char *state_text(uint32_t state)
{
    return state == LW_NODE_UP ? "up" : state == LW_NODE_DRAINING ? "draining" : "down";
}

static void ask(lwc_control_t *control, row_t *row)
{
    lw_error_t error = {.text = ""};

    row->asked = lwc_control_admin_status(control, row->node->control, &row->status, &error);
    snprintf(row->cause, sizeof(row->cause), "%s", error.text);
    if (row->asked == LW_OK && row->status.metrics)
        row->segments = metric(row->status.metrics, "storaged_segments");
}

static void print_row(const row_t *row)
{
    char used[32], room[32], up[32];

    printf("%5u  %-22s %-9s", row->node->index, row->node->control, state_text(row->node->state));
    if (row->asked != LW_OK) {
        printf("does not answer: %s\n", row->cause);
        return;
    }
    printf("%-6s %10s %10s %9" PRIu64 "  %-10s %s%s%s\n", row->status.ready ? "ready" : "not",
           lwc_bytes_text(row->status.used_bytes, used), lwc_bytes_text(row->status.free_bytes, room),
           row->segments, lwc_time_text(row->status.uptime_us, up),
           row->node->zone[0] ? row->node->zone : "-", row->status.holds_catalogue ? "  catalogue" : "",
           row->status.ready || !row->status.reasons ? "" : row->status.reasons);
}

static void print_table(const lw_view_t *view, const row_t *rows)
{
    printf("fleet %" PRIu64 ", epoch %" PRIu64 ", %u nodes\n\n", view->fleet_id, view->epoch,
           view->node_count);
    printf("index  %-22s %-9s%-6s %10s %10s %9s  %-10s %s\n", "control", "state", "ready", "used", "free",
           "segments", "up", "zone");
    for (uint32_t i = 0; i < view->node_count; i++)
        print_row(&rows[i]);
}

static int print_json(const lwc_operator_t *op, const lw_view_t *view, const row_t *rows)
{
    FILE *out = lwc_operator_json_open(op);
    if (!out)
        return 1;
    lwc_json_t json = lwc_json(out);
    lwc_json_open(&json, NULL, '{');
    lwc_json_uint(&json, "fleet_id", view->fleet_id);
    lwc_json_uint(&json, "epoch", view->epoch);
    lwc_json_open(&json, "nodes", '[');
    for (uint32_t i = 0; i < view->node_count; i++) {
        const row_t *row = &rows[i];
        lwc_json_open(&json, NULL, '{');
        lwc_json_uint(&json, "index", row->node->index);
        lwc_json_uint(&json, "id", row->node->id);
        lwc_json_text(&json, "control", row->node->control);
        lwc_json_text(&json, "data", row->node->data);
        lwc_json_text(&json, "zone", row->node->zone);
        lwc_json_text(&json, "state", state_text(row->node->state));
        lwc_json_uint(&json, "weight", row->node->weight);
        lwc_json_bool(&json, "answers", row->asked == LW_OK);
        if (row->asked == LW_OK) {
            lwc_json_bool(&json, "ready", row->status.ready);
            lwc_json_bool(&json, "holds_catalogue", row->status.holds_catalogue);
            lwc_json_text(&json, "version", row->status.version);
            lwc_json_uint(&json, "used_bytes", row->status.used_bytes);
            lwc_json_uint(&json, "free_bytes", row->status.free_bytes);
            lwc_json_uint(&json, "segments", row->segments);
            lwc_json_uint(&json, "uptime_us", row->status.uptime_us);
            lwc_json_text(&json, "reasons", row->status.reasons);
        } else {
            lwc_json_text(&json, "cause", row->cause);
        }
        lwc_json_close(&json);
    }
    lwc_json_close(&json);
    lwc_json_close(&json);
    return lwc_operator_json_close(op, out, lwc_json_end(&json));
}

int lwc_cmd_status(int argc, char **argv)
{
    lwc_operator_t op;
    bool wants_help;
    int words = lwc_operator_args(argc, argv, &op, &wants_help);
    lwc_control_t *control = NULL;
    lw_error_t error = {.text = ""};
    lw_view_t view;

    if (wants_help) {
        fputs(help, stdout);
        return 0;
    }
    if (words != 1) {
        fputs(help, stderr);
        return 2;
    }
    if (lwc_operator_connect(&op, &control) != LW_OK)
        return 1;
    if (lwc_control_fleet_get(control, &view, &error) != LW_OK) {
        fprintf(stderr, "longwave: %s\n", error.text);
        lwc_control_close(control);
        return 1;
    }
    row_t *rows = calloc(view.node_count + 1, sizeof(*rows));
    int result = rows ? 0 : 1;
    for (uint32_t i = 0; rows && i < view.node_count; i++) {
        rows[i].node = &view.nodes[i];
        ask(control, &rows[i]);
        if (rows[i].asked != LW_OK || !rows[i].status.ready)
            result = 1;
    }
    if (rows && op.json)
        result |= print_json(&op, &view, rows);
    else if (rows)
        print_table(&view, rows);
    for (uint32_t i = 0; rows && i < view.node_count; i++)
        if (rows[i].asked == LW_OK)
            lwc_node_status_free(&rows[i].status);
    free(rows);
    lwc_view_free(&view);
    lwc_control_close(control);
    return result;
}
