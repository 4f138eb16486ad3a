/* reread.c - manifests read again for stores that ask; see reread.h. */
#include "client/reread.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define PAGE_ROWS 16u
#define PLACES_FIRST 16u

lw_status_t lwc_refresh_init(lwc_refresh_t *refresh, uint32_t session_capacity, uint32_t layers, lw_error_t *error)
{
    memset(refresh, 0, sizeof(*refresh));
    refresh->session_capacity = refresh->reading = session_capacity;
    refresh->layers = layers;
    refresh->cells = calloc(session_capacity, sizeof(*refresh->cells));
    if (!refresh->cells)
        return lw_fail(error, LW_ERR_NO_MEMORY, "out of memory for %u sessions' whereabouts", session_capacity);
    return LW_OK;
}

void lwc_refresh_fini(lwc_refresh_t *refresh)
{
    for (uint32_t i = 0; i < refresh->session_capacity && refresh->cells; i++) {
        free(refresh->cells[i].places);
        free(refresh->cells[i].nodes);
    }
    free(refresh->cells);
    memset(refresh, 0, sizeof(*refresh));
}

static bool grow(lwc_refresh_cell_t *cell, uint32_t layers)
{
    uint32_t capacity = cell->capacity ? 2 * cell->capacity : PLACES_FIRST;
    lwc_place_t *places = realloc(cell->places, capacity * sizeof(*places));
    if (places)
        cell->places = places;
    uint16_t *nodes = realloc(cell->nodes, (size_t)capacity * layers * LW_REPLICAS_MAX * sizeof(*nodes));
    if (nodes)
        cell->nodes = nodes;
    if (!places || !nodes)
        return false;
    cell->capacity = capacity;
    return true;
}

static bool add(lwc_refresh_cell_t *cell, uint32_t layers, const lwc_range_t *range)
{
    if (range->replicas == 0 || range->replicas > LW_REPLICAS_MAX)
        return false;
    if (cell->count == cell->capacity && !grow(cell, layers))
        return false;
    cell->places[cell->count] = (lwc_place_t){.origin = range->origin,
                                              .first_token = range->first_token,
                                              .generation = range->generation,
                                              .replicas = range->replicas};
    uint16_t *nodes = cell->nodes + (size_t)cell->count * layers * LW_REPLICAS_MAX;
    for (uint32_t layer = 0; layer < layers; layer++)
        for (uint32_t r = 0; r < range->replicas; r++)
            nodes[layer * LW_REPLICAS_MAX + r] = range->node_index[layer * range->replicas + r];
    cell->count++;
    return true;
}

static void answer(lwc_refresh_t *refresh, lw_status_t status)
{
    lwc_refresh_cell_t *cell = &refresh->cells[refresh->reading];
    cell->status = status;
    refresh->next = refresh->reading + 1;
    refresh->reading = refresh->session_capacity;
    atomic_store_explicit(&cell->state, LWC_REFRESH_ANSWERED, memory_order_release);
}

/* Whose turn it is; each asks in turn. */
static bool find_question(lwc_refresh_t *refresh)
{
    for (uint32_t i = 0; i < refresh->session_capacity; i++) {
        uint32_t at = (refresh->next + i) % refresh->session_capacity;
        if (atomic_load_explicit(&refresh->cells[at].state, memory_order_acquire) != LWC_REFRESH_ASKED)
            continue;
        refresh->reading = at;
        refresh->from_token = refresh->cells[at].count = 0;
        return true;
    }
    return false;
}

/* A node refuses a token alike whether it is wrong or its session is no more; this one was right when the session was opened,
 * but whoever asks may have lost his own permission since. */
static lw_status_t refused(lwc_control_t *control, uint64_t session_id, lw_error_t *error)
{
    lwc_session_info_t info;
    lw_status_t status = lwc_control_get(control, session_id, &info, error);
    if (status == LW_OK)
        return info.state == LWC_SESSION_RETAINED || info.state == LWC_SESSION_ENDED ? LW_ERR_NOT_FOUND : LW_ERR_PERMISSION;
    return status;
}

unsigned lwc_reread_round(lwc_refresh_t *refresh, lwc_control_t *control, uint16_t rank)
{
    lwc_session_info_t session = {.shape.layer_count = refresh->layers};
    lw_error_t error = {.text = ""};
    uint32_t count = 0;

    if (refresh->reading == refresh->session_capacity && !find_question(refresh))
        return 0;
    lwc_refresh_cell_t *cell = &refresh->cells[refresh->reading];
    session.session_id = cell->session_id;
    memcpy(session.token, cell->token, LW_TOKEN_BYTES);
    lwc_range_t *page = calloc(PAGE_ROWS, sizeof(*page));
    lw_status_t status = page ? lwc_control_ranges(control, &session, rank, refresh->from_token, PAGE_ROWS, page, &count,
                                                   &error)
                              : LW_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < count && status == LW_OK; i++) {
        status = add(cell, refresh->layers, &page[i]) ? LW_OK : LW_ERR_NO_MEMORY;
        refresh->from_token = page[i].first_token + page[i].token_count;
    }
    free(page);
    if (status == LW_ERR_PERMISSION)
        status = refused(control, session.session_id, &error);
    if (status != LW_OK)
        LW_DEBUG("client", "the manifest of session %llu was not read again: %s", (unsigned long long)session.session_id,
                 error.text);
    if (status != LW_OK || count == 0)
        answer(refresh, status);
    return 1;
}
