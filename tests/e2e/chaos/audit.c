/* audit.c - reads every copy of every committed segment of a session and compares it: with the other copies, and with what
 * it was when it was first read. A line "audit SESSION" on stdin is answered by one line
 *
 *   audit SEGMENTS WANTED RIGHT LOST WRONG BYTES COPIES ...
 *                     segments of the manifest; copies that it names; copies with the right bytes; segments without any; copies
 *                     with other bytes; bytes of the right copies; for each node the copies that the manifest has there
 *   busy WORDS        the manifest could not be read now
 *
 * and "drain NODE" and "undrain NODE" by "drain WORDS".
 *
 * Arguments: the fleet's control addresses, the transport. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/control/control.h"
#include "unit/storaged/data_client.h"

#define SEGMENTS_MAX 8192u
#define RANGES_MAX 64u
#define LEASE_US 10000000ull
#define TRIES 400000u

typedef struct known {
    lw_segment_name_t name;
    uint64_t bytes;
    uint32_t check;
} known_t;

typedef struct wanted {
    lw_segment_name_t name;
    uint16_t node[LW_REPLICAS_MAX];
    uint32_t copies, right;
} wanted_t;

typedef struct audit {
    lwc_control_t *control;
    const char *transports;
    lwc_session_info_t session;
    wanted_t wanted[SEGMENTS_MAX];
    uint32_t count, wrong;
    uint64_t bytes;
    uint32_t on_node[LW_NODES_MAX];
    known_t known[SEGMENTS_MAX]; /* of all sessions so far; the oldest are forgotten */
    uint32_t known_count;
} audit_t;

static lw_error_t error;

static void add_range(audit_t *audit, const lwc_range_t *range)
{
    for (uint32_t layer = 0; layer < audit->session.shape.layer_count && audit->count < SEGMENTS_MAX; layer++) {
        wanted_t *wanted = &audit->wanted[audit->count++];
        *wanted = (wanted_t){.copies = range->replicas};
        wanted->name = (lw_segment_name_t){.origin = range->origin,
                                           .layer = (uint16_t)layer,
                                           .first_token = range->first_token,
                                           .generation = range->generation};
        memcpy(wanted->node, &range->node_index[layer * range->replicas], range->replicas * sizeof(uint16_t));
    }
}

static lw_status_t read_manifest(audit_t *audit, uint64_t id)
{
    static lwc_range_t ranges[RANGES_MAX];
    uint32_t from = 0, count = 0;
    lw_status_t status = lwc_control_open_session(audit->control, id, false, LEASE_US, &audit->session, &error);
    audit->count = 0;
    while (status == LW_OK) {
        status = lwc_control_ranges(audit->control, &audit->session, 0, from, RANGES_MAX, ranges, &count, &error);
        if (status != LW_OK || count == 0)
            break;
        for (uint32_t i = 0; i < count; i++)
            add_range(audit, &ranges[i]);
        from = ranges[count - 1].first_token + ranges[count - 1].token_count;
    }
    return status;
}

/* Newest first: a session's segments are asked about again and again. */
static known_t *find(audit_t *audit, const lw_segment_name_t *name)
{
    for (uint32_t i = audit->known_count; i-- > 0;)
        if (lw_segment_name_equal(&audit->known[i].name, name))
            return &audit->known[i];
    return NULL;
}

static void compare(audit_t *audit, wanted_t *wanted, const uint8_t *segment, uint64_t bytes)
{
    uint32_t check = lw_record_check(1, segment, bytes);
    audit->bytes += bytes;
    known_t *known = find(audit, &wanted->name);
    if (known == NULL) {
        if (audit->known_count == SEGMENTS_MAX) {
            memmove(audit->known, audit->known + SEGMENTS_MAX / 2, SEGMENTS_MAX / 2 * sizeof(known_t));
            audit->known_count = SEGMENTS_MAX / 2;
        }
        audit->known[audit->known_count++] = (known_t){.name = wanted->name, .bytes = bytes, .check = check};
        wanted->right++;
    } else if (known->bytes == bytes && known->check == check) {
        wanted->right++;
    } else {
        audit->wrong++;
    }
}

static bool read_copy(audit_t *audit, data_client_t *client, wanted_t *wanted)
{
    lw_msg_t msg = {.header.type = LW_MSG_ATTACH,
                    .body.attach = {.session_id = audit->session.session_id, .name_count = 1}};
    memcpy(msg.body.attach.token, audit->session.token, LW_TOKEN_BYTES);
    if (!data_client_call(client, &msg, &wanted->name, sizeof(wanted->name)))
        return false;
    bool attached = client->reply.body.attach_reply.status == LW_OK && client->reply.attached[0].status == LW_OK;
    if (attached && data_read(client, client->reply.attached[0].handle, 0, 0) == LW_OK)
        compare(audit, wanted, client->payload, client->payload_bytes);
    return client->conn != NULL;
}

/* Lets the others have the core now and then; with TRIES of it a node has seconds to answer. */
static void nap(void *arg)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    static unsigned calls;
    (void)arg;
    if (++calls % 512 == 0)
        (void)nanosleep(&pause, NULL);
}

static void read_node(audit_t *audit, const lw_node_t *node)
{
    data_client_t client = {.ops = NULL};
    bool answers = node->data[0] != '\0'; /* else nobody has heard from it yet */
    for (uint32_t i = 0; i < audit->count && answers; i++) {
        wanted_t *wanted = &audit->wanted[i];
        for (uint32_t r = 0; r < wanted->copies && answers; r++) {
            if (wanted->node[r] != node->index)
                continue;
            if (client.ops == NULL) {
                data_client_open(&client, lw_fabric_ucx(), audit->transports, node->data, nap, NULL);
                client.tries_max = TRIES;
                answers = data_hello(&client, 5, 1) == LW_OK;
            }
            answers = answers && read_copy(audit, &client, wanted);
        }
    }
    if (!answers)
        fprintf(stderr, "node %u at %s does not answer\n", node->index, node->data);
    if (client.ops != NULL)
        data_client_close(&client);
}

static void run(audit_t *audit, uint64_t id)
{
    lw_view_t view;
    uint32_t wanted = 0, right = 0, lost = 0;
    lw_status_t status = read_manifest(audit, id);
    if (status == LW_OK)
        status = lwc_control_fleet_get(audit->control, &view, &error);
    if (status != LW_OK) {
        printf("busy %s: %s\n", lw_status_text(status), error.text);
        return;
    }
    audit->wrong = 0;
    audit->bytes = 0;
    memset(audit->on_node, 0, sizeof(audit->on_node));
    for (uint32_t n = 0; n < view.node_count; n++)
        read_node(audit, &view.nodes[n]);
    for (uint32_t i = 0; i < audit->count; i++) {
        wanted += audit->wanted[i].copies;
        right += audit->wanted[i].right;
        lost += audit->wanted[i].right == 0;
        for (uint32_t r = 0; r < audit->wanted[i].copies; r++)
            audit->on_node[audit->wanted[i].node[r] % LW_NODES_MAX]++;
    }
    printf("audit %u %u %u %u %u %" PRIu64, audit->count, wanted, right, lost, audit->wrong, audit->bytes);
    for (uint32_t n = 0; n < view.node_count; n++)
        printf(" %u", audit->on_node[view.nodes[n].index % LW_NODES_MAX]);
    printf("\n");
    lwc_view_free(&view);
}

static void drain(audit_t *audit, uint32_t node, bool on)
{
    lw_status_t status = lwc_control_drain(audit->control, node, on, &error);
    printf("drain %d %s\n", (int)status, status == LW_OK ? "" : error.text);
}

int main(int argc, char **argv)
{
    static audit_t audit;
    char line[64];
    if (argc != 3 || !lw_fabric_ucx())
        return 77;
    setvbuf(stdout, NULL, _IOLBF, 0);
    audit.transports = argv[2];
    const lwc_control_params_t params = {.size = sizeof(params), .seeds = argv[1]};
    if (lwc_control_open(&params, &audit.control, &error) != LW_OK) {
        fprintf(stderr, "audit: %s\n", error.text);
        return 1;
    }
    while (fgets(line, sizeof(line), stdin) != NULL)
        if (strncmp(line, "audit ", 6) == 0)
            run(&audit, strtoull(line + 6, NULL, 0));
        else if (strncmp(line, "drain ", 6) == 0)
            drain(&audit, (uint32_t)strtoul(line + 6, NULL, 0), true);
        else if (strncmp(line, "undrain ", 8) == 0)
            drain(&audit, (uint32_t)strtoul(line + 8, NULL, 0), false);
    lwc_control_close(audit.control);
    return 0;
}
