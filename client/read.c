/* read.c - reads of stored segments for reopening and exact attention: started, then waited for. Caller's
 * thread. */
#include "client/ctx.h"

#include "base/log.h"

#define READ_WAIT_US 1000u
#define READ_NAP_US 20u
#define READ_GRACE_US 2000000u /* after its deadline: the courier itself does nothing any more */

static void read_done(void *arg, lw_status_t status)
{
    lwc_reading_t *reading = arg;
    reading->flying = false;
    reading->status = status;
}

/* ---- by the courier ---- */

static lw_status_t post_read(struct lw *kv, lwc_reading_t *reading, uint32_t key, uint64_t offset,
                             uint64_t bytes, uint8_t *into, uint64_t deadline_us, lw_error_t *error)
{
    lwc_letter_t letter = {.kind = LWC_LETTER_READ, .key = key};

    for (uint32_t i = 0; i < LWC_READS; i++) {
        lwc_courier_read_t *read = &kv->courier.reads[i];
        if (atomic_load_explicit(&read->state, memory_order_acquire) != LWC_READ_FREE)
            continue;
        letter.read.slot = reading->slot = i;
        letter.read.offset = offset;
        letter.read.bytes = bytes;
        letter.read.into = into;
        letter.read.deadline_us = deadline_us;
        atomic_store_explicit(&read->state, LWC_READ_FLYING, memory_order_relaxed);
        lw_status_t status = lwc_courier_post(&kv->courier, &letter);
        if (status == LW_OK)
            return LW_OK;
        atomic_store_explicit(&read->state, LWC_READ_FREE, memory_order_relaxed);
        return lw_fail(error, status, "the progress thread reads no letters");
    }
    return lw_fail(error, LW_ERR_BUSY, "%u reads of stored segments are under way", LWC_READS);
}

static lw_status_t await_read(struct lw *kv, lwc_reading_t *reading, lw_error_t *error)
{
    lwc_courier_read_t *read = &kv->courier.reads[reading->slot];

    while (atomic_load_explicit(&read->state, memory_order_acquire) != LWC_READ_DONE) {
        if (lwc_now(kv) >= reading->until_us) { /* the slot stays taken until somebody ends it */
            reading->flying = false;
            return lw_fail(error, LW_ERR_TIMEOUT, "the progress thread does not answer");
        }
        lwc_device_nap(READ_NAP_US);
        if (!kv->env.keeper_thread)
            (void)lwc_keeper_round(&kv->keeper, lwc_now(kv));
    }
    lw_status_t status = read->result.status;
    if (status != LW_OK)
        lw_fail(error, status, "%s", read->result.text);
    reading->flying = false;
    atomic_store_explicit(&read->state, LWC_READ_FREE, memory_order_relaxed);
    return status;
}

/* ---- either way ---- */

lw_status_t lwc_read_start(struct lw *kv, lwc_reading_t *reading, uint32_t key, uint64_t offset,
                           uint64_t bytes, uint8_t *into, uint64_t deadline_us, lw_error_t *error)
{
    lw_status_t status;

    *reading = (lwc_reading_t){.flying = true, .until_us = deadline_us + READ_GRACE_US};
    if (kv->courier_made) {
        status = post_read(kv, reading, key, offset, bytes, into, deadline_us, error);
    } else {
        status =
            lwc_store_read(kv->store, key, offset, bytes, into, bytes, NULL, deadline_us, read_done, reading);
        if (status != LW_OK)
            lw_fail(error, status, "%s", lwc_store_last_error(kv->store));
    }
    if (status != LW_OK) {
        reading->flying = false;
        reading->status = status;
    }
    return status;
}

lw_status_t lwc_read_wait(struct lw *kv, lwc_reading_t *reading, lw_error_t *error)
{
    if (reading->flying && kv->courier_made)
        return await_read(kv, reading, error);
    while (reading->flying)
        lwc_wait(kv, READ_WAIT_US);
    if (reading->status != LW_OK && !kv->store)
        return lw_fail(error, reading->status, "the read did not start");
    if (reading->status != LW_OK)
        return lw_fail(error, reading->status, "%s", lwc_store_last_error(kv->store));
    return LW_OK;
}

void lwc_read_drop(struct lw *kv, lwc_reading_t *reading)
{
    lw_error_t error;

    if (reading->flying && lwc_read_wait(kv, reading, &error) != LW_OK)
        LW_DEBUG("client", "a read that was dropped: %s", error.text);
}
