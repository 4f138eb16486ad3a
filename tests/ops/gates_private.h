/* gates_private.h - what the files of test_gates share: the variant under test, and the usual rigs. */
#ifndef OPS_GATES_PRIVATE_H
#define OPS_GATES_PRIVATE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ops/gates.h"

/* Backend and seed of the running group. */
extern const lwk_backend_t *gates_backend;
extern uint64_t gates_seed;

/* d 64, 2 layers, 2 KV heads of 3 query heads, fp32 everywhere, gaussian rows, random clusters, the default
 * policy. */
ops_config_t gates_config(void);
/* A rig with one session: `sealed` tokens in ranges of at most 700 tokens, and `open` more in the steady
 * zone. */
ops_rig_t *gates_rig(const ops_config_t *config, uint32_t sealed, uint32_t open);
/* Puts sessions `token_count` back, as lw_session_truncate does. */
void gates_truncate(ops_rig_t *rig, uint32_t s, uint32_t token_count);

extern const struct CMUnitTest gates_alloc_tests[], gates_cache_tests[], gates_local_tests[], gates_policy_tests[];
extern const size_t gates_alloc_count, gates_cache_count, gates_local_count, gates_policy_count;

#endif /* OPS_GATES_PRIVATE_H */
