/* policy.h - named policies and knobs of lw_session_params_t to what the ops read. Pure. */
#ifndef LWC_POLICY_H
#define LWC_POLICY_H

#include <stdbool.h>

#include "base/error.h"
#include "client/include/longwave.h"
#include "kernels/ops.h"

#define LWC_RETRIEVE_PPM 18000u /* of clusters, LW_POLICY_PAPER */
#define LWC_PAPER_ESTIMATE_PPM 232000u
#define LWC_OUTLIER_PPM 125000u
#define LWC_ACCURACY_PPM 10000u /* LW_POLICY_EXPECTED_MAX: docs/benchmarks.md has the table that chose it */
#define LWC_ACCURACY_FLOOR 0u
#define LWC_ACCURACY_CAP_PPM 300000u
#define LWC_CLUSTER_TOKENS 4u
#define LWC_PAPER_CLUSTER_TOKENS 16u
#define LWC_CLUSTER_TOKENS_MIN 4u

/* What a session's index is made of; fixed when the session is created. */
typedef struct lwc_index_shape {
    uint32_t cluster_tokens, outlier_ppm, segment_tokens, cluster_encoding, outlier_encoding;
} lwc_index_shape_t;

/* Both check and name field and value (ERR_INVALID). */
LW_CHECK lw_status_t lwc_policy_make(const lw_session_params_t *params, uint32_t cluster_tokens, lwk_policy_t *policy_out,
                                     lw_error_t *error);
LW_CHECK lw_status_t lwc_index_shape_make(const lw_session_params_t *params, lwc_index_shape_t *shape_out,
                                          lw_error_t *error);
/* Whether any field of `params` asks for another policy than the one it inherits. */
bool lwc_policy_is_asked(const lw_session_params_t *params);

#endif /* LWC_POLICY_H */
