/* ring.c - each cell counts turns: `position` when it may be pushed, `position + 1` when it may be popped. */
#include "storaged/net/ring.h"

#include <stdlib.h>
#include <string.h>

typedef struct cell {
    _Atomic uint64_t turn;
    uint8_t value[];
} cell_t;

static cell_t *cell_at(const lwd_ring_t *ring, uint64_t position)
{
    return (cell_t *)(ring->cells + (position & ring->mask) * ring->cell_bytes);
}

lw_status_t lwd_ring_init(lwd_ring_t *ring, uint32_t capacity, uint32_t value_bytes)
{
    uint64_t cells = 2;
    while (cells < capacity)
        cells *= 2;
    memset(ring, 0, sizeof(*ring));
    ring->mask = cells - 1;
    ring->value_bytes = value_bytes;
    ring->cell_bytes = lw_align_up(sizeof(cell_t) + value_bytes, 16);
    ring->cells = aligned_alloc(64, lw_align_up(cells * ring->cell_bytes, 64));
    if (ring->cells == NULL)
        return LW_ERR_NO_MEMORY;
    for (uint64_t i = 0; i < cells; i++)
        atomic_init(&cell_at(ring, i)->turn, i);
    return LW_OK;
}

void lwd_ring_fini(lwd_ring_t *ring)
{
    free(ring->cells);
    ring->cells = NULL;
}

bool lwd_ring_push(lwd_ring_t *ring, const void *value)
{
    uint64_t position = atomic_load_explicit(&ring->head, memory_order_relaxed);
    cell_t *cell;
    for (;;) {
        cell = cell_at(ring, position);
        uint64_t turn = atomic_load_explicit(&cell->turn, memory_order_acquire);
        if (turn == position) {
            if (atomic_compare_exchange_weak_explicit(&ring->head, &position, position + 1,
                                                      memory_order_relaxed, memory_order_relaxed))
                break;
        } else if (turn < position) {
            return false;
        } else {
            position = atomic_load_explicit(&ring->head, memory_order_relaxed);
        }
    }
    memcpy(cell->value, value, ring->value_bytes);
    atomic_store_explicit(&cell->turn, position + 1, memory_order_release);
    return true;
}

bool lwd_ring_pop(lwd_ring_t *ring, void *value_out)
{
    uint64_t position = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    cell_t *cell = cell_at(ring, position);
    if (atomic_load_explicit(&cell->turn, memory_order_acquire) != position + 1)
        return false;
    memcpy(value_out, cell->value, ring->value_bytes);
    atomic_store_explicit(&cell->turn, position + ring->mask + 1, memory_order_release);
    atomic_store_explicit(&ring->tail, position + 1, memory_order_relaxed);
    return true;
}

bool lwd_ring_empty(const lwd_ring_t *ring)
{
    uint64_t position = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    return atomic_load_explicit(&cell_at(ring, position)->turn, memory_order_acquire) != position + 1;
}
