/* catalogue_etcd_scan.c - all sessions one after another, with their readers and the need of their forks, in pages. */
#include "storaged/catalogue/catalogue_etcd_private.h"

#include <stdio.h>
#include <stdlib.h>

void lwd_kv_scan_start(etcd_op_t *op, uint64_t after_id, etcd_scan_t *scan)
{
    *scan = (etcd_scan_t){.op = op, .more = after_id != UINT64_MAX};
    if (scan->more)
        lwd_kv_key(op->cat, scan->key, "cat/s/%016llx", (unsigned long long)(after_id + 1));
}

void lwd_kv_scan_stop(etcd_scan_t *scan)
{
    lwd_etcd_reply_free(scan->page);
    scan->page = NULL;
}

/* The key that comes next; NULL: the end (status OK), or failed. */
static const lwd_etcd_kv_t *scan_peek(etcd_scan_t *scan, lw_status_t *status)
{
    char prefix[LWD_ETCD_KEY_MAX], end[LWD_ETCD_KEY_MAX];
    *status = LW_OK;
    if (scan->page && scan->at < scan->page->count)
        return &scan->page->kvs[scan->at];
    if (!scan->more)
        return NULL;
    lwd_kv_scan_stop(scan);
    lwd_etcd_prefix_end(lwd_kv_key(scan->op->cat, prefix, "cat/s/"), end);
    *status = lwd_kv_read(scan->op, scan->key, end, ETCD_PAGE, &scan->page);
    if (*status != LW_OK)
        return NULL;
    scan->at = 0;
    scan->more = scan->page->ranges[0].more && scan->page->count;
    if (scan->page->count) /* the next page begins after the last key: at the key with a NUL, or here a blank, behind it */
        snprintf(scan->key, sizeof(scan->key), "%.180s ", scan->page->kvs[scan->page->count - 1].key);
    return scan->page->count ? &scan->page->kvs[0] : NULL;
}

static void scan_lease(const etcd_op_t *op, uint64_t client_id, uint32_t term, lwd_session_row_t *row)
{
    for (uint32_t i = 0; i < op->client_count; i++) {
        const etcd_client_t *client = op->clients[i];
        const etcd_lease_t *lease =
            client->id == client_id ? lwd_kv_lease_find(client, row->session_id, term) : NULL;
        if (!lease)
            continue;
        row->used_us = lw_max_u64(row->used_us, lease->used_us);
        if (term)
            row->lease_until_us = lease->until_us;
    }
}

/* A key below a session: "k/<fork>" or "r/<client>". */
static void scan_take(const etcd_op_t *op, const char *rest, const lwd_etcd_kv_t *kv, etcd_scanned_t *out)
{
    char text[16] = "";
    if (rest[0] == 'r') {
        out->session.row.readers++;
        scan_lease(op, strtoull(rest + 2, NULL, 16), 0, &out->session.row);
    } else if (rest[0] == 'k' && kv->value_bytes < sizeof(text)) {
        memcpy(text, kv->value, kv->value_bytes);
        uint32_t cut = (uint32_t)strtoul(text, NULL, 10);
        out->needed = cut > out->needed ? cut : out->needed;
    }
}

lw_status_t lwd_kv_scan_next(etcd_scan_t *scan, etcd_scanned_t *out)
{
    etcd_op_t *op = scan->op;
    size_t prefix_bytes = strlen(op->cat->prefix) + sizeof("/cat/s/") - 1;
    lw_status_t status;
    const lwd_etcd_kv_t *kv = scan_peek(scan, &status);
    while (kv && kv->key[prefix_bytes + 16] != 0) { /* below a session that is not there, or that came before */
        scan->at++;
        kv = scan_peek(scan, &status);
    }
    if (!kv)
        return status == LW_OK ? LW_ERR_NOT_FOUND : status;
    if (!lwd_kv_session_unpack(kv->value, kv->value_bytes, &out->session))
        return ETCD_FAIL(op, LW_ERR_CORRUPT, "etcd %s: the value of %s makes no sense", lwd_etcd_endpoint(op->cat->etcd), kv->key);
    lwd_session_row_t *row = &out->session.row;
    row->session_id = strtoull(kv->key + prefix_bytes, NULL, 16);
    out->session.mod_revision = kv->mod_revision;
    out->needed = 0;
    if (row->state == LWD_SESSION_ACTIVE)
        scan_lease(op, row->lease_client, row->term, row);
    for (;;) {
        scan->at++;
        kv = scan_peek(scan, &status);
        if (!kv || kv->key[prefix_bytes + 16] == 0 || strtoull(kv->key + prefix_bytes, NULL, 16) != row->session_id)
            return status;
        scan_take(op, kv->key + prefix_bytes + 17, kv, out);
    }
}
