/* landing.c - the ring of landing memory. Spans are taken in order and given back from both ends: a span is free again when no
 * transfer may write into it and every record in it has been used (its tags are released) or none was ever shown. Called by the store's thread. */
#include <stdlib.h>

#include "client/store/store_private.h"

lw_status_t lwc_landing_init(lwc_landing_t *landing, uint8_t *memory, uint64_t bytes, uint32_t span_capacity)
{
    landing->memory = memory;
    landing->bytes = bytes & ~(uint64_t)(LW_WIRE_BULK_ALIGN - 1);
    landing->span_capacity = span_capacity;
    landing->spans = calloc(span_capacity, sizeof(*landing->spans));
    return landing->spans ? LW_OK : LW_ERR_NO_MEMORY;
}

void lwc_landing_fini(lwc_landing_t *landing)
{
    free(landing->spans);
    landing->spans = NULL;
}

static lwc_span_t *last(const lwc_landing_t *landing)
{
    return &landing->spans[(landing->first + landing->count - 1) % landing->span_capacity];
}

/* Spans of no use go from the ring's end, too: what failed and is asked for again need not wait for older records. */
static void trim(lwc_landing_t *landing)
{
    while (landing->count > 0 && !last(landing)->in_flight && last(landing)->unused) {
        landing->tail = last(landing)->offset;
        landing->count--;
    }
    while (landing->count > 0) {
        lwc_span_t *span = &landing->spans[landing->first];
        if (span->in_flight || (!span->unused && span->tag_max >= landing->released))
            return;
        landing->head = span->offset + span->bytes;
        landing->first = (landing->first + 1) % landing->span_capacity;
        landing->count--;
    }
    landing->head = landing->tail = 0;
}

uint32_t lwc_landing_take(lwc_landing_t *landing, uint64_t bytes, uint64_t tag_max)
{
    bytes = lw_align_up(bytes, LW_WIRE_BULK_ALIGN);
    if (landing->count == landing->span_capacity || bytes > landing->bytes)
        return LWC_NO_SLOT;
    uint64_t at = landing->tail, place = at % landing->bytes;
    if (place + bytes > landing->bytes) /* a span never wraps: skip the end of the ring */
        at += landing->bytes - place;
    if (at + bytes - landing->head > landing->bytes)
        return LWC_NO_SLOT;
    uint32_t slot = (landing->first + landing->count) % landing->span_capacity;
    landing->spans[slot] = (lwc_span_t){.offset = at, .bytes = bytes, .tag_max = tag_max, .in_flight = true};
    landing->count++;
    landing->tail = at + bytes;
    return slot;
}

void lwc_landing_settle(lwc_landing_t *landing, uint32_t span)
{
    LW_ASSERT(landing->spans[span].in_flight);
    landing->spans[span].in_flight = false;
    trim(landing);
}

void lwc_landing_discard(lwc_landing_t *landing, uint32_t span)
{
    landing->spans[span].unused = true;
    lwc_landing_settle(landing, span);
}

void lwc_landing_release(lwc_landing_t *landing, uint64_t until)
{
    landing->released = lw_max_u64(landing->released, until);
    trim(landing);
}

uint8_t *lwc_landing_at(const lwc_landing_t *landing, uint32_t span)
{
    return landing->memory + landing->spans[span].offset % landing->bytes;
}
