/* service_move.c - what nodes ask to keep copies where they should be, and the drain of a node. Control thread of the
 * holder. */
#include "storaged/ctl/ctl_private.h"

#include <stdlib.h>
#include <string.h>

#include "storaged/ctl/pb.h"

static void malformed(ctl_job_t *job, const char *what)
{
    lw_error_t error;
    lw_fail(&error, LW_ERR_INVALID, "the request is no %s", what);
    lwd_ctl_fail(job, &error);
}

/* ---- Placed ---- */

typedef struct page { /* one reply: rows, and the messages that are made of them */
    lwd_placed_t rows[LWD_CTL_PLACED_MAX];
    Longwave__V1__Placed placed[LWD_CTL_PLACED_MAX], *pointers[LWD_CTL_PLACED_MAX];
    Longwave__V1__Range ranges[LWD_CTL_PLACED_MAX];
    uint32_t nodes[LWD_CTL_PLACED_MAX][LW_LAYERS_MAX * LW_REPLICAS_MAX];
} page_t;

static lw_status_t placed_reply(ctl_job_t *job, page_t *page, uint32_t count, lw_error_t *error)
{
    for (uint32_t i = 0; i < count; i++) {
        longwave__v1__placed__init(&page->placed[i]);
        lw_pb_range(&page->rows[i].range, page->rows[i].layers, page->nodes[i], &page->ranges[i]);
        page->placed[i].rank = page->rows[i].rank;
        page->placed[i].layers = page->rows[i].layers;
        page->placed[i].range = &page->ranges[i];
        page->pointers[i] = &page->placed[i];
    }
    Longwave__V1__PlacedReply reply = LONGWAVE__V1__PLACED_REPLY__INIT;
    reply.n_rows = count;
    reply.rows = page->pointers;
    size_t bytes = longwave__v1__placed_reply__get_packed_size(&reply);
    uint8_t *packed = malloc(bytes + 1);
    if (!packed)
        return lw_fail(error, LW_ERR_NO_MEMORY, "no memory for a page of ranges");
    longwave__v1__placed_reply__pack(&reply, packed);
    lwd_ctl_answer(job, LW_OK, NULL, packed, bytes);
    free(packed);
    return LW_OK;
}

static void serve_placed(lwd_ctl_t *ctl, ctl_job_t *job)
{
    Longwave__V1__PlacedRequest *request = longwave__v1__placed_request__unpack(NULL, job->request_bytes, job->request);
    if (!request || request->rank > UINT16_MAX) {
        malformed(job, "PlacedRequest");
    } else {
        lw_error_t error;
        page_t *page = malloc(sizeof(*page));
        const lwd_placed_key_t after = {request->origin, (uint16_t)request->rank, request->first_token};
        uint32_t count = 0, capacity = (uint32_t)lw_min_u64(request->capacity, LWD_CTL_PLACED_MAX);
        lw_status_t status = page ? ctl->ops->placed(ctl->catalogue, &after, capacity, page->rows, &count, &error)
                                  : lw_fail(&error, LW_ERR_NO_MEMORY, "no memory for a page of ranges");
        if (status == LW_OK)
            status = placed_reply(job, page, count, &error);
        if (status != LW_OK)
            lwd_ctl_fail(job, &error);
        free(page);
    }
    if (request)
        longwave__v1__placed_request__free_unpacked(request, NULL);
}

/* ---- Move ---- */

static void serve_move(lwd_ctl_t *ctl, ctl_job_t *job)
{
    Longwave__V1__MoveRequest *request = longwave__v1__move_request__unpack(NULL, job->request_bytes, job->request);
    const Longwave__V1__SegmentName *sent = request ? request->name : NULL;
    if (!sent || sent->rank > UINT16_MAX || sent->layer > UINT16_MAX || request->from > UINT16_MAX ||
        request->to > UINT16_MAX) {
        malformed(job, "MoveRequest");
    } else {
        lw_error_t error;
        const lw_segment_name_t name = {.origin = sent->origin, .rank = (uint16_t)sent->rank,
                                        .layer = (uint16_t)sent->layer, .first_token = sent->first_token,
                                        .generation = sent->generation};
        if (ctl->ops->move(ctl->catalogue, &name, (uint16_t)request->from, (uint16_t)request->to, &error) != LW_OK)
            lwd_ctl_fail(job, &error);
        else
            lwd_ctl_answer(job, LW_OK, NULL, "", 0);
    }
    if (request)
        longwave__v1__move_request__free_unpacked(request, NULL);
}

/* ---- Drain ---- */

static void serve_drain(lwd_ctl_t *ctl, ctl_job_t *job)
{
    Longwave__V1__DrainRequest *request = longwave__v1__drain_request__unpack(NULL, job->request_bytes, job->request);
    lw_error_t error;
    if (!request)
        malformed(job, "DrainRequest");
    else if (lwd_ctl_fleet_drain(ctl, request->node, request->drain, &error) != LW_OK)
        lwd_ctl_fail(job, &error);
    else
        lwd_ctl_answer(job, LW_OK, NULL, "", 0);
    if (request)
        longwave__v1__drain_request__free_unpacked(request, NULL);
}

const ctl_method_t ctl_move_methods[3] = {
    {.path = "/longwave.v1.Fleet/Placed", .access = CTL_FOR_NODE, .run = serve_placed},
    {.path = "/longwave.v1.Fleet/Move", .access = CTL_FOR_NODE, .run = serve_move},
    {.path = "/longwave.v1.Fleet/Drain", .access = CTL_FOR_NODE, .run = serve_drain},
};
