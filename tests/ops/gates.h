/* gates.h - the checks of ALGORITHM.md section 9 as functions that say yes or no, so that a test can also ask
 * whether they notice a planted fault. Each runs steps on a rig and appends tokens to its sessions. */
#ifndef OPS_GATES_H
#define OPS_GATES_H

#include "ops/harness.h"

/* q = 0: lse = log n within 1e-6 relative; with check_value also o = mean v within 2e-5. */
bool ops_gate_zero_query(ops_rig_t *rig, bool check_value);
/* A query that puts > 0.99 on one token of a record (of range r, layer 0, head 0, entry e) returns that
 * token's value. */
bool ops_gate_probe(ops_rig_t *rig, uint32_t range, uint32_t entry);
/* Output and lse equal exact attention within the tolerances. */
bool ops_gate_exact(ops_rig_t *rig, double out_tolerance, double lse_tolerance);

#endif /* OPS_GATES_H */
