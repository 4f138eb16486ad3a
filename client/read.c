/* read.c - reads of stored segments for reopening and exact attention: started, then waited for. Caller's
 * thread. */
#include "client/ctx.h"

#define READ_WAIT_US 1000u

static void read_done(void *arg, lw_status_t status)
{
    lwc_reading_t *reading = arg;
    reading->flying = false;
    reading->status = status;
}

lw_status_t lwc_read_start(struct lw *kv, lwc_reading_t *reading, uint32_t key, uint64_t offset,
                           uint64_t bytes, uint8_t *into, uint64_t deadline_us, lw_error_t *error)
{
    *reading = (lwc_reading_t){.flying = true};
    lw_status_t status =
        lwc_store_read(kv->store, key, offset, bytes, into, bytes, NULL, deadline_us, read_done, reading);
    if (status == LW_OK)
        return LW_OK;
    reading->flying = false;
    reading->status = status;
    return lw_fail(error, status, "%s", lwc_store_last_error(kv->store));
}

lw_status_t lwc_read_wait(struct lw *kv, lwc_reading_t *reading, lw_error_t *error)
{
    while (reading->flying)
        lwc_wait(kv, READ_WAIT_US);
    if (reading->status != LW_OK)
        return lw_fail(error, reading->status, "%s", lwc_store_last_error(kv->store));
    return LW_OK;
}
