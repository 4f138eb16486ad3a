/* etcd_txn.c - transactions, which are all reads and writes here. */
#include "storaged/etcd/etcd_private.h"

#include <stdlib.h>
#include <string.h>

typedef struct txn_messages { /* what a request points into */
    Etcdserverpb__TxnRequest request;
    Etcdserverpb__Compare compares[LWD_ETCD_OPS_MAX], *compare_pointers[LWD_ETCD_OPS_MAX];
    Etcdserverpb__RequestOp ops[LWD_ETCD_OPS_MAX], *op_pointers[LWD_ETCD_OPS_MAX];
    union {
        Etcdserverpb__RangeRequest range;
        Etcdserverpb__PutRequest put;
        Etcdserverpb__DeleteRangeRequest remove;
    } bodies[LWD_ETCD_OPS_MAX];
} txn_messages_t;

static void fill_op(const lwd_etcd_op_t *op, uint32_t i, txn_messages_t *out)
{
    Etcdserverpb__RequestOp *message = &out->ops[i];
    etcdserverpb__request_op__init(message);
    out->op_pointers[i] = message;
    if (op->kind == LWD_ETCD_PUT) {
        Etcdserverpb__PutRequest *put = message->request_put = &out->bodies[i].put;
        etcdserverpb__put_request__init(put);
        put->key = etcd_bytes(op->key);
        put->value = (ProtobufCBinaryData){.data = (uint8_t *)op->value, .len = op->value_bytes};
        put->lease = op->lease;
    } else if (op->kind == LWD_ETCD_DELETE) {
        Etcdserverpb__DeleteRangeRequest *remove = message->request_delete_range = &out->bodies[i].remove;
        etcdserverpb__delete_range_request__init(remove);
        remove->key = etcd_bytes(op->key);
        remove->range_end = etcd_bytes(op->end);
    } else {
        Etcdserverpb__RangeRequest *range = message->request_range = &out->bodies[i].range;
        etcdserverpb__range_request__init(range);
        range->key = etcd_bytes(op->key);
        range->range_end = etcd_bytes(op->end);
        range->limit = op->limit;
        range->revision = op->revision;
        range->min_mod_revision = op->min_mod_revision;
        range->keys_only = op->keys_only;
        range->sort_order = op->by_revision;
        range->sort_target = op->by_revision ? 3 : 0;
    }
}

static void fill_request(const lwd_etcd_txn_t *txn, txn_messages_t *out)
{
    etcdserverpb__txn_request__init(&out->request);
    for (uint32_t i = 0; i < txn->compare_count; i++) {
        etcdserverpb__compare__init(&out->compares[i]);
        out->compares[i].target = 2;
        out->compares[i].key = etcd_bytes(txn->compares[i].key);
        out->compares[i].mod_revision = txn->compares[i].mod_revision;
        out->compare_pointers[i] = &out->compares[i];
    }
    for (uint32_t i = 0; i < txn->op_count; i++)
        fill_op(&txn->ops[i], i, out);
    out->request.n_compare = txn->compare_count;
    out->request.compare = out->compare_pointers;
    out->request.n_success = txn->op_count;
    out->request.success = out->op_pointers;
}

/* False: the answer does not fit the question. */
static bool read_reply(const Etcdserverpb__TxnResponse *message, const lwd_etcd_txn_t *txn, lwd_etcd_reply_t *out)
{
    uint32_t count = 0;
    out->revision = message->header ? message->header->revision : 0;
    out->succeeded = message->succeeded != 0;
    if (!out->succeeded)
        return out->revision > 0;
    if (message->n_responses != txn->op_count)
        return false;
    for (size_t i = 0; i < message->n_responses; i++) {
        const Etcdserverpb__RangeResponse *range = message->responses[i]->response_range;
        if ((txn->ops[i].kind == LWD_ETCD_RANGE) != (range != NULL))
            return false;
        if (range) {
            out->ranges[out->range_count].first = count;
            out->ranges[out->range_count].more = range->more != 0;
            out->ranges[out->range_count++].count = (uint32_t)range->n_kvs;
            count += (uint32_t)range->n_kvs;
        }
    }
    out->kvs = calloc(count + 1, sizeof(*out->kvs));
    if (!out->kvs)
        return false;
    for (size_t i = 0; i < message->n_responses; i++) {
        const Etcdserverpb__RangeResponse *range = message->responses[i]->response_range;
        for (size_t k = 0; range && k < range->n_kvs; k++)
            lwd_etcd_kv_read(range->kvs[k], &out->kvs[out->count++]);
    }
    return out->revision > 0;
}

static lw_status_t check_txn(const lwd_etcd_txn_t *txn, bool *reads_only_out, lw_error_t *error)
{
    size_t bytes = 0;
    *reads_only_out = txn->compare_count == 0;
    if (txn->compare_count > LWD_ETCD_OPS_MAX || txn->op_count > LWD_ETCD_OPS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "etcd: a transaction of %u comparisons and %u operations, at most %u each",
                       txn->compare_count, txn->op_count, LWD_ETCD_OPS_MAX);
    for (uint32_t i = 0; i < txn->op_count; i++) {
        *reads_only_out = *reads_only_out && txn->ops[i].kind == LWD_ETCD_RANGE;
        bytes += txn->ops[i].value_bytes;
    }
    if (bytes > LWD_ETCD_REQUEST_MAX)
        return lw_fail(error, LW_ERR_EXHAUSTED, "etcd: %zu bytes for %s, one request takes %u", bytes, txn->ops[0].key,
                       LWD_ETCD_REQUEST_MAX);
    return LW_OK;
}

lw_status_t lwd_etcd_txn(lwd_etcd_t *etcd, const lwd_etcd_txn_t *txn, uint64_t until_us, lwd_etcd_reply_t **reply_out,
                         lw_error_t *error)
{
    bool reads_only;
    lw_status_t status = check_txn(txn, &reads_only, error);
    if (status != LW_OK)
        return status;
    txn_messages_t *messages = calloc(1, sizeof(*messages));
    lwd_etcd_reply_t *reply = calloc(1, sizeof(*reply));
    lw_rpc_bytes_t bytes = {0};
    if (!messages || !reply) {
        status = lw_fail(error, LW_ERR_NO_MEMORY, "etcd: no memory for a transaction");
        goto done;
    }
    fill_request(txn, messages);
    const char *about = txn->op_count ? txn->ops[0].key : txn->compare_count ? txn->compares[0].key : "nothing";
    const etcd_call_t call = {.method = "/etcdserverpb.KV/Txn", .about = about, .request = &messages->request.base,
                              .once = !reads_only};
    status = lwd_etcd_call(etcd, &call, until_us, &bytes, error);
    if (status != LW_OK)
        goto done;
    reply->message = etcdserverpb__txn_response__unpack(NULL, bytes.bytes, bytes.data);
    if (!reply->message || !read_reply(reply->message, txn, reply))
        status = lw_fail(error, LW_ERR_FLEET, "etcd %s: Txn %s: an answer that makes no sense", lwd_etcd_endpoint(etcd), about);
done:
    lw_rpc_bytes_free(&bytes);
    free(messages);
    if (status == LW_OK)
        *reply_out = reply;
    else
        lwd_etcd_reply_free(reply);
    return status;
}

void lwd_etcd_reply_free(lwd_etcd_reply_t *reply)
{
    if (!reply)
        return;
    if (reply->message)
        etcdserverpb__txn_response__free_unpacked(reply->message, NULL);
    free(reply->kvs);
    free(reply);
}

lw_status_t lwd_etcd_compact(lwd_etcd_t *etcd, int64_t revision, uint64_t until_us, lw_error_t *error)
{
    Etcdserverpb__CompactionRequest request = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
    request.revision = revision;
    lw_rpc_bytes_t bytes = {0};
    const etcd_call_t call = {.method = "/etcdserverpb.KV/Compact", .about = "the history", .request = &request.base};
    lw_status_t status = lwd_etcd_call(etcd, &call, until_us, &bytes, error);
    lw_rpc_bytes_free(&bytes);
    return status;
}
