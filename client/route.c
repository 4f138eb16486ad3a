/* route.c - what the caller's thread tells and asks the step's store, wherever that is. See route.h. */
#include "client/ctx.h"

#include <string.h>

#include "base/log.h"

#define ASK_TIMEOUT_US 1000000u
#define ASK_NAP_US 20u

/* A letter that cannot be posted means a courier that does nothing: steps say so soon enough. */
static void post(struct lw *kv, const lwc_letter_t *letter)
{
    if (lwc_courier_post(&kv->courier, letter) != LW_OK)
        LW_WARN("client", "the progress thread reads no letters");
}

lw_status_t lwc_route_session(struct lw *kv, uint32_t slot, uint64_t session_id,
                              const uint8_t token[LW_TOKEN_BYTES], uint32_t term, lw_error_t *error)
{
    lw_status_t status = LW_OK;

    if (kv->courier_made) {
        lwc_letter_t letter = {.kind = LWC_LETTER_SESSION, .key = slot};
        letter.session.session_id = session_id;
        letter.session.term = term;
        memcpy(letter.session.token, token, LW_TOKEN_BYTES);
        status = lwc_courier_post(&kv->courier, &letter);
        if (status != LW_OK)
            return lw_fail(error, status, "the progress thread reads no letters");
    } else if (kv->store) {
        status = lwc_store_session(kv->store, slot, session_id, token, false, term);
        if (status != LW_OK)
            return lw_fail(error, status, "%s", lwc_store_last_error(kv->store));
    }
    return LW_OK;
}

void lwc_route_session_forget(struct lw *kv, uint32_t slot)
{
    if (kv->courier_made)
        post(kv, &(lwc_letter_t){.kind = LWC_LETTER_SESSION_FORGET, .key = slot});
    else if (kv->store)
        lwc_store_session_forget(kv->store, slot);
}

lw_status_t lwc_route_segment(struct lw *kv, uint32_t key, uint32_t slot, const lw_segment_name_t *name,
                              const uint16_t *node_index, uint32_t replicas, lw_error_t *error)
{
    uint32_t pair_bytes = (uint32_t)kv->model.pair_bytes;
    lw_status_t status = LW_OK;

    if (kv->courier_made) {
        lwc_letter_t letter = {.kind = LWC_LETTER_SEGMENT, .key = key};
        letter.segment.name = *name;
        letter.segment.slot = slot;
        letter.segment.pair_bytes = pair_bytes;
        letter.segment.replicas = replicas;
        memcpy(letter.segment.node_index, node_index, replicas * sizeof(*node_index));
        status = lwc_courier_post(&kv->courier, &letter);
        if (status != LW_OK)
            return lw_fail(error, status, "the progress thread reads no letters");
    } else if (kv->store) {
        status = lwc_store_segment(kv->store, key, slot, name, pair_bytes, node_index, replicas);
        if (status != LW_OK)
            return lw_fail(error, status, "%s", lwc_store_last_error(kv->store));
    }
    return LW_OK;
}

void lwc_route_segment_forget(struct lw *kv, uint32_t key)
{
    if (kv->courier_made)
        post(kv, &(lwc_letter_t){.kind = LWC_LETTER_SEGMENT_FORGET, .key = key});
    else if (kv->store)
        lwc_store_segment_forget(kv->store, key);
}

static void attached(void *arg, lw_status_t status)
{
    /* Only ahead of time: a fetch attaches what is missing and reports why it cannot. */
    (void)arg;
    (void)status;
}

void lwc_route_attach(struct lw *kv, uint32_t key, uint32_t count, uint64_t deadline_us)
{
    uint32_t keys[LW_LAYERS_MAX];

    if (kv->courier_made) {
        post(kv, &(lwc_letter_t){.kind = LWC_LETTER_ATTACH,
                                 .key = key,
                                 .attach = {.count = count, .deadline_us = deadline_us}});
    } else if (kv->store) {
        for (uint32_t i = 0; i < count; i++)
            keys[i] = key + i;
        lw_status_t status = lwc_store_attach(kv->store, keys, count, deadline_us, attached, NULL);
        if (status != LW_OK && status != LW_ERR_BUSY)
            LW_DEBUG("client", "attach ahead: %s", lwc_store_last_error(kv->store));
    }
}

lw_status_t lwc_route_ask(struct lw *kv, lwc_store_answer_t *answer_out, lw_error_t *error)
{
    lwc_courier_t *courier = &kv->courier;

    if (!kv->courier_made) {
        memset(answer_out, 0, sizeof(*answer_out));
        if (kv->store)
            lwc_store_ask(kv->store, answer_out);
        return LW_OK;
    }
    if (atomic_load_explicit(&courier->asked, memory_order_acquire) == 0) {
        atomic_store_explicit(&courier->asked, 1, memory_order_relaxed);
        post(kv, &(lwc_letter_t){.kind = LWC_LETTER_ASK});
    }
    for (uint64_t waited = 0; atomic_load_explicit(&courier->asked, memory_order_acquire) != 0;
         waited += ASK_NAP_US) {
        if (waited >= ASK_TIMEOUT_US)
            return lw_fail(error, LW_ERR_TIMEOUT, "the progress thread does not answer");
        lwc_device_nap(ASK_NAP_US);
    }
    *answer_out = courier->answer;
    return LW_OK;
}

void lwc_route_cause(struct lw *kv, lw_error_t *cause_out)
{
    *cause_out = (lw_error_t){.status = LW_OK};
    if (kv->courier_made)
        lwc_courier_cause(&kv->courier, cause_out);
}
