/* attach.c - the table of attachments. One data thread; resolve is on the serve path. */
#include "storaged/shard/attach.h"

#include <stdlib.h>
#include <string.h>

#define NIL UINT32_MAX
#define NOBODY UINT32_MAX

typedef enum attach_kind { ATTACH_SEGMENT = 1, ATTACH_PROOF = 2 } attach_kind_t;

/* As many as data.attachments. */
typedef struct entry {
    uint32_t connection; /* NOBODY: free */
    uint32_t generation; /* part of the handle: life << 16 | turn; the turn is never 0 */
    lwd_ref_t ref;       /* ATTACH_SEGMENT */
    uint64_t session;    /* ATTACH_PROOF */
    uint32_t term;
    uint8_t kind, writer;
    uint32_t hash_next;
    uint32_t own_next, own_prev; /* of the connection; own_next also chains free entries */
} entry_t;

struct lwd_attach {
    lwd_attach_params_t params;
    entry_t *entry;
    uint32_t *bucket, mask;
    uint32_t *own_first, *own_count; /* per connection */
    uint32_t free_first, count;
};

lw_status_t lwd_attach_create(const lwd_attach_params_t *params, lwd_attach_t **attach_out)
{
    LW_ASSERT(params->capacity > 0 && params->connection_max > 0 && params->per_connection_max > 0);
    lwd_attach_t *attach = calloc(1, sizeof(*attach));
    if (attach == NULL)
        return LW_ERR_NO_MEMORY;
    attach->params = *params;
    uint32_t buckets = 16;
    while (buckets < params->capacity)
        buckets *= 2;
    attach->mask = buckets - 1;
    attach->entry = calloc(params->capacity, sizeof(*attach->entry));
    attach->bucket = malloc(buckets * sizeof(*attach->bucket));
    attach->own_first = malloc(params->connection_max * sizeof(*attach->own_first));
    attach->own_count = calloc(params->connection_max, sizeof(*attach->own_count));
    if (attach->entry == NULL || attach->bucket == NULL || attach->own_first == NULL ||
        attach->own_count == NULL) {
        lwd_attach_destroy(attach);
        return LW_ERR_NO_MEMORY;
    }
    memset(attach->bucket, 0xff, buckets * sizeof(*attach->bucket));
    memset(attach->own_first, 0xff, params->connection_max * sizeof(*attach->own_first));
    for (uint32_t i = 0; i < params->capacity; i++)
        attach->entry[i] = (entry_t){
            .connection = NOBODY, .generation = (uint32_t)params->life << 16 | 1, .own_next = i + 1 < params->capacity ? i + 1 : NIL};
    *attach_out = attach;
    return LW_OK;
}

void lwd_attach_destroy(lwd_attach_t *attach)
{
    if (attach == NULL)
        return;
    free(attach->entry);
    free(attach->bucket);
    free(attach->own_first);
    free(attach->own_count);
    free(attach);
}

static uint32_t *bucket_of(const lwd_attach_t *attach, attach_kind_t kind, uint32_t connection, uint64_t key)
{
    uint64_t z = (key ^ ((uint64_t)connection << 34) ^ (uint64_t)kind) * 0x9E3779B97F4A7C15ull;
    z ^= z >> 29;
    return &attach->bucket[(uint32_t)((z * 0xBF58476D1CE4E5B9ull) >> 32) & attach->mask];
}

static uint64_t key_of(const entry_t *entry)
{
    return entry->kind == ATTACH_SEGMENT ? entry->ref.slot : entry->session;
}

static uint32_t lookup(const lwd_attach_t *attach, attach_kind_t kind, uint32_t connection, uint64_t key)
{
    uint32_t at = *bucket_of(attach, kind, connection, key);
    while (at != NIL) {
        const entry_t *entry = &attach->entry[at];
        if (entry->connection == connection && entry->kind == kind && key_of(entry) == key)
            return at;
        at = entry->hash_next;
    }
    return NIL;
}

static void drop(lwd_attach_t *attach, uint32_t at)
{
    entry_t *entry = &attach->entry[at];
    uint32_t connection = entry->connection;
    uint32_t *link = bucket_of(attach, (attach_kind_t)entry->kind, connection, key_of(entry));
    while (*link != at)
        link = &attach->entry[*link].hash_next;
    *link = entry->hash_next;
    if (entry->own_prev != NIL)
        attach->entry[entry->own_prev].own_next = entry->own_next;
    else
        attach->own_first[connection] = entry->own_next;
    if (entry->own_next != NIL)
        attach->entry[entry->own_next].own_prev = entry->own_prev;
    attach->own_count[connection]--;
    attach->count--;
    entry->connection = NOBODY;
    uint32_t turn = (entry->generation + 1) & 0xffff;
    entry->generation = (entry->generation & 0xffff0000u) | (turn != 0 ? turn : 1);
    entry->own_next = attach->free_first;
    attach->free_first = at;
}

/* Gives up the connection's handles of freed segments. */
static void sweep(lwd_attach_t *attach, uint32_t connection)
{
    uint32_t at = attach->own_first[connection];
    while (at != NIL) {
        const entry_t *entry = &attach->entry[at];
        uint32_t next = entry->own_next;
        if (entry->kind == ATTACH_SEGMENT) {
            const lwd_segment_t *segment = lwd_shard_slot(attach->params.shard, entry->ref.slot);
            if (lwd_segment_generation(segment) != entry->ref.generation)
                drop(attach, at);
        }
        at = next;
    }
}

static uint32_t take(lwd_attach_t *attach, attach_kind_t kind, uint32_t connection, uint64_t key)
{
    if (attach->free_first == NIL || attach->own_count[connection] >= attach->params.per_connection_max)
        sweep(attach, connection);
    if (attach->free_first == NIL || attach->own_count[connection] >= attach->params.per_connection_max)
        return NIL;
    uint32_t at = attach->free_first;
    entry_t *entry = &attach->entry[at];
    attach->free_first = entry->own_next;
    uint32_t *bucket = bucket_of(attach, kind, connection, key);
    *entry = (entry_t){
        .connection = connection,
        .generation = entry->generation,
        .kind = (uint8_t)kind,
        .hash_next = *bucket,
        .own_next = attach->own_first[connection],
        .own_prev = NIL,
    };
    *bucket = at;
    if (entry->own_next != NIL)
        attach->entry[entry->own_next].own_prev = at;
    attach->own_first[connection] = at;
    attach->own_count[connection]++;
    attach->count++;
    return at;
}

lw_status_t lwd_attach_open(lwd_attach_t *attach, uint32_t connection, lwd_ref_t ref, bool writer,
                            uint64_t *handle_out)
{
    uint32_t at = lookup(attach, ATTACH_SEGMENT, connection, ref.slot);
    if (at != NIL &&
        attach->entry[at].ref.generation != ref.generation) { /* of an earlier segment in that slot */
        drop(attach, at);
        at = NIL;
    }
    if (at == NIL) {
        at = take(attach, ATTACH_SEGMENT, connection, ref.slot);
        if (at == NIL)
            return LW_ERR_EXHAUSTED;
        attach->entry[at].ref = ref;
    }
    entry_t *entry = &attach->entry[at];
    entry->writer |= writer;
    *handle_out = (uint64_t)entry->generation << 32 | at;
    return LW_OK;
}

lw_status_t lwd_attach_resolve(const lwd_attach_t *attach, uint32_t connection, uint64_t handle,
                               lwd_ref_t *ref_out, bool *writer_out)
{
    uint32_t at = (uint32_t)handle;
    if (handle >> 48 != attach->params.life)
        return LW_ERR_STALE;
    if (at >= attach->params.capacity)
        return LW_ERR_NOT_FOUND;
    const entry_t *entry = &attach->entry[at];
    if (entry->connection != connection || entry->generation != (uint32_t)(handle >> 32) ||
        entry->kind != ATTACH_SEGMENT)
        return LW_ERR_NOT_FOUND;
    *ref_out = entry->ref;
    *writer_out = entry->writer != 0;
    return LW_OK;
}

lw_status_t lwd_attach_prove(lwd_attach_t *attach, uint32_t connection, uint64_t session, uint32_t term)
{
    uint32_t at = lookup(attach, ATTACH_PROOF, connection, session);
    if (at == NIL) {
        at = take(attach, ATTACH_PROOF, connection, session);
        if (at == NIL)
            return LW_ERR_EXHAUSTED;
        attach->entry[at].session = session;
    }
    attach->entry[at].term = term;
    return LW_OK;
}

lw_status_t lwd_attach_proved(const lwd_attach_t *attach, uint32_t connection, uint64_t session,
                              uint32_t *term_out)
{
    uint32_t at = lookup(attach, ATTACH_PROOF, connection, session);
    if (at == NIL)
        return LW_ERR_PERMISSION;
    *term_out = attach->entry[at].term;
    return LW_OK;
}

void lwd_attach_close(lwd_attach_t *attach, uint32_t connection)
{
    while (attach->own_first[connection] != NIL)
        drop(attach, attach->own_first[connection]);
}

uint32_t lwd_attach_count(const lwd_attach_t *attach)
{
    return attach->count;
}

bool lwd_attach_check(const lwd_attach_t *attach)
{
    uint32_t owned = 0, spare = 0;
    for (uint32_t connection = 0; connection < attach->params.connection_max; connection++) {
        uint32_t mine = 0, before = NIL;
        for (uint32_t at = attach->own_first[connection]; at != NIL;
             before = at, at = attach->entry[at].own_next) {
            const entry_t *entry = &attach->entry[at];
            if (entry->connection != connection || entry->own_prev != before ||
                ++mine > attach->params.capacity ||
                lookup(attach, (attach_kind_t)entry->kind, connection, key_of(entry)) != at)
                return false;
        }
        if (mine != attach->own_count[connection] || mine > attach->params.per_connection_max)
            return false;
        owned += mine;
    }
    for (uint32_t at = attach->free_first; at != NIL; at = attach->entry[at].own_next) {
        if (attach->entry[at].connection != NOBODY || ++spare > attach->params.capacity)
            return false;
    }
    return owned == attach->count && owned + spare == attach->params.capacity;
}
