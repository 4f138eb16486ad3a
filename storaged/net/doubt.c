/* doubt.c - COMMIT from another node, with a handle that it reads by: it has found wrong bytes in what came from here. Every
 * checksum is compared again; a copy that is wrong is unpublished, and this node's mover makes it again from others. */
#include "storaged/net/net_private.h"
#include "wire/segment_fmt.h"

void lwd_serve_doubt(lwd_worker_t *worker, lwd_peer_t *peer, const lw_msg_t *msg)
{
    lwd_ref_t ref = {LWD_SLOT_NONE, 0};
    bool writer;
    lwd_segment_t *segment = NULL;
    lw_status_t status = lwd_attach_resolve(worker->attach, peer->index, msg->body.commit.handle, &ref, &writer);
    if (status == LW_OK)
        segment = lwd_shard_readable(worker->params.shard, ref);
    if (status == LW_OK && segment == NULL)
        status = LW_ERR_STALE;
    lwd_request_t *request = status == LW_OK ? lwd_request_acquire(worker, peer, msg) : NULL;
    if (request == NULL) {
        lwd_reply_status(worker, peer, LW_MSG_COMMIT, msg->header.request_id, status != LW_OK ? status : LW_ERR_BUSY);
        return;
    }
    lw_error_t error = {0};
    char name[LW_SEGMENT_NAME_TEXT_BYTES];
    request->ref = ref;
    request->status = lw_segment_verify(segment->extent, segment->bytes, &error);
    if (request->status == LW_OK) {
        lwd_request_answer(request, LW_OK);
        return;
    }
    lw_count(&lwd_stats(worker)->copies_distrusted, 1);
    LW_ERROR("net", "the copy of segment %s here is wrong and was given up: %s",
             lw_segment_name_text(&lw_segment_header(segment->extent)->name, name), error.text);
    lwd_change_submit(request, LWD_CHANGE_DISTRUST);
}
