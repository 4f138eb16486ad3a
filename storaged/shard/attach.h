/* attach.h - what the connections of one data thread may touch: handles to segments, and proofs of the right
 * to write.
 *
 * A handle is an entry's number, its own generation and the node's life; it means something only on the connection that got
 * it, so that a guessed or foreign one is as unknown as any. All entries come from one pool, allocated at
 * creation. When the pool or a connection's share is full, handles of freed segments are given up first. Each
 * data thread owns one table. */
#ifndef LWD_SHARD_ATTACH_H
#define LWD_SHARD_ATTACH_H

#include <stdbool.h>

#include "storaged/shard/shard.h"

typedef struct lwd_attach lwd_attach_t;

typedef struct lwd_attach_params {
    const lwd_shard_t *shard; /* borrowed; to tell which handles are stale */
    uint32_t capacity;        /* entries */
    uint32_t per_connection_max;
    uint16_t life; /* part of every handle: a handle of another life of the node is stale, whatever it names now */
    uint32_t connection_max; /* connections are numbered 0..connection_max-1 */
} lwd_attach_params_t;

LW_CHECK lw_status_t lwd_attach_create(const lwd_attach_params_t *params, lwd_attach_t **attach_out);
void lwd_attach_destroy(lwd_attach_t *attach);

/* A handle of `connection` for a segment; the same one again when it has one. writer: may WRITE, COMMIT and
 * ABORT with it (never taken back by a later call without it). ERR_EXHAUSTED: pool or share full of live
 * handles. */
LW_CHECK lw_status_t lwd_attach_open(lwd_attach_t *attach, uint32_t connection, lwd_ref_t ref, bool writer,
                                     uint64_t *handle_out);
/* ERR_STALE: a handle of an earlier life of this node. ERR_NOT_FOUND: not a handle of this connection. The segment may be freed by now: see lwd_shard_readable. */
LW_CHECK lw_status_t lwd_attach_resolve(const lwd_attach_t *attach, uint32_t connection, uint64_t handle,
                                        lwd_ref_t *ref_out, bool *writer_out);

/* Records that the connection proved its right to write `session` with `term`; a later proof replaces an
 * earlier one. */
LW_CHECK lw_status_t lwd_attach_prove(lwd_attach_t *attach, uint32_t connection, uint64_t session,
                                      uint32_t term);
/* The proved term; ERR_PERMISSION without a proof. */
LW_CHECK lw_status_t lwd_attach_proved(const lwd_attach_t *attach, uint32_t connection, uint64_t session,
                                       uint32_t *term_out);

/* Drops everything that the connection has. */
void lwd_attach_close(lwd_attach_t *attach, uint32_t connection);
uint32_t lwd_attach_count(const lwd_attach_t *attach);
/* Chains, counts and buckets agree. Linear time; for tests and the simulator. */
bool lwd_attach_check(const lwd_attach_t *attach);

#endif /* LWD_SHARD_ATTACH_H */
