/* policy.c - what a named policy means, one row each, and what a caller may change. Called at session open and fork. */
#include "client/policy.h"

#include "base/limits.h"

typedef struct named_policy {
    const char *name;
    uint32_t rank, budget, retrieve_ppm, estimate_ppm, outlier_ppm, correct, cluster_encoding, outlier_encoding;
    uint32_t steady_only, accuracy_ppm, cluster_tokens;
} named_policy_t;

static const named_policy_t named[] = {
    [LW_POLICY_EXPECTED_MAX] = {"expected-max", LWK_RANK_EXPECTED_MAX, LWK_BUDGET_TOKENS, 0, 1000000, LWC_OUTLIER_PPM, 0,
                                LW_ENCODING_INT4, LW_ENCODING_INT4, 0, LWC_ACCURACY_PPM, LWC_CLUSTER_TOKENS},
    [LW_POLICY_PAPER] = {"paper", LWK_RANK_MEAN, LWK_BUDGET_CLUSTERS, LWC_RETRIEVE_PPM, LWC_PAPER_ESTIMATE_PPM, 0, 0,
                         LW_ENCODING_BF16, LW_ENCODING_BF16, 0, 0, LWC_PAPER_CLUSTER_TOKENS},
    [LW_POLICY_FULL] = {"full", LWK_RANK_EXPECTED_MAX, LWK_BUDGET_TOKENS, 1000000, 1000000, LWC_OUTLIER_PPM, 0,
                        LW_ENCODING_INT4, LW_ENCODING_INT4, 0, 0, LWC_CLUSTER_TOKENS},
    [LW_POLICY_NOTHING] = {"nothing", LWK_RANK_EXPECTED_MAX, LWK_BUDGET_TOKENS, 0, 1000000, LWC_OUTLIER_PPM, 0,
                           LW_ENCODING_INT4, LW_ENCODING_INT4, 0, 0, LWC_CLUSTER_TOKENS},
    [LW_POLICY_STEADY] = {"steady", LWK_RANK_EXPECTED_MAX, LWK_BUDGET_TOKENS, 0, 1000000, LWC_OUTLIER_PPM, 0,
                          LW_ENCODING_INT4, LW_ENCODING_INT4, 1, 0, LWC_CLUSTER_TOKENS},
};

static lw_status_t find_policy(uint32_t policy, const named_policy_t **row_out, lw_error_t *error)
{
    uint32_t number = policy == LW_POLICY_DEFAULT ? LW_POLICY_EXPECTED_MAX : policy;

    if (number >= LW_ARRAY_SIZE(named))
        return lw_fail(error, LW_ERR_INVALID, "policy is %u, must be 0..%u", policy, (unsigned)LW_ARRAY_SIZE(named) - 1);
    *row_out = &named[number];
    return LW_OK;
}

/* 0: the default; LW_PPM_NONE: zero. */
static lw_status_t share(const char *field, uint32_t value, uint32_t otherwise, uint32_t max, uint32_t *out,
                         lw_error_t *error)
{
    uint32_t chosen = value == 0 ? otherwise : value == LW_PPM_NONE ? 0 : value;

    if (chosen > max)
        return lw_fail(error, LW_ERR_INVALID, "%s is %u, must be at most %u (or LW_PPM_NONE)", field, value, max);
    *out = chosen;
    return LW_OK;
}

static lw_status_t correction(uint32_t value, uint32_t otherwise, uint32_t *out, lw_error_t *error)
{
    if (value == 0) {
        *out = otherwise;
        return LW_OK;
    }
    bool none = (value & LW_CORRECT_NONE) != 0;
    if (value > (LW_CORRECT_NONE | LW_CORRECT_VARIANCE | LW_CORRECT_VALUE) || (none && value != LW_CORRECT_NONE))
        return lw_fail(error, LW_ERR_INVALID, "correct is %u, must be 0, LW_CORRECT_NONE or a sum of the others", value);
    *out = ((value & LW_CORRECT_VARIANCE) ? LWK_CORRECT_VARIANCE : 0) | ((value & LW_CORRECT_VALUE) ? LWK_CORRECT_VALUE : 0);
    return LW_OK;
}

lw_status_t lwc_policy_make(const lw_session_params_t *params, uint32_t cluster_tokens, lwk_policy_t *policy_out,
                            lw_error_t *error)
{
    const named_policy_t *row = NULL;
    lwk_policy_t policy = {.cluster_tokens = cluster_tokens, .z = 1.5f};
    lw_status_t status = find_policy(params->policy, &row, error);

    if (status == LW_OK)
        status = share("retrieve_ppm", params->retrieve_ppm, row->retrieve_ppm, 1000000, &policy.retrieve_ppm, error);
    if (status == LW_OK)
        status = share("estimate_ppm", params->estimate_ppm, row->estimate_ppm, 1000000, &policy.estimate_ppm, error);
    if (status == LW_OK)
        status = share("accuracy_ppm", params->accuracy_ppm, params->retrieve_ppm ? 0 : row->accuracy_ppm, 1000000,
                       &policy.accuracy_ppm, error); /* a fixed budget replaces the target */
    if (status == LW_OK)
        status = correction(params->correct, row->correct, &policy.correct, error);
    if (status == LW_OK && params->rank_mean > 1)
        status = lw_fail(error, LW_ERR_INVALID, "rank_mean is %u, must be 0 or 1", params->rank_mean);
    if (status != LW_OK)
        return status;
    policy.rank = params->rank_mean ? LWK_RANK_MEAN : row->rank;
    policy.budget = policy.accuracy_ppm > 0 ? LWK_BUDGET_ERROR : row->budget;
    policy.floor_entries = policy.accuracy_ppm > 0 ? LWC_ACCURACY_FLOOR : 0;
    policy.cap_ppm = policy.accuracy_ppm > 0 ? LWC_ACCURACY_CAP_PPM : 0;
    policy.steady_only = row->steady_only;
    *policy_out = policy;
    return LW_OK;
}

static lw_status_t encoding(const char *field, uint32_t value, uint32_t otherwise, uint32_t *out, lw_error_t *error)
{
    if (value > LW_ENCODING_FP32)
        return lw_fail(error, LW_ERR_INVALID, "%s is %u, must be a lw_encoding_t", field, value);
    *out = value == 0 ? otherwise : value;
    return LW_OK;
}

lw_status_t lwc_index_shape_make(const lw_session_params_t *params, lwc_index_shape_t *shape_out, lw_error_t *error)
{
    const named_policy_t *row = NULL;
    lwc_index_shape_t shape = {.cluster_tokens = params->cluster_tokens,
                               .segment_tokens = params->segment_tokens ? params->segment_tokens : LW_SEGMENT_TOKENS_MAX};
    lw_status_t status = find_policy(params->policy, &row, error);
    uint32_t outliers_max = LW_OUTLIERS_PER_UNIT_MAX * 1000000u / LW_UNIT_TOKENS;

    if (status == LW_OK && shape.cluster_tokens == 0)
        shape.cluster_tokens = row->cluster_tokens;
    if (status == LW_OK)
        status = share("outlier_ppm", params->outlier_ppm, row->outlier_ppm, outliers_max, &shape.outlier_ppm, error);
    if (status == LW_OK)
        status = encoding("cluster_encoding", params->cluster_encoding, row->cluster_encoding, &shape.cluster_encoding, error);
    if (status == LW_OK)
        status = encoding("outlier_encoding", params->outlier_encoding, row->outlier_encoding, &shape.outlier_encoding, error);
    if (status == LW_OK && (shape.cluster_tokens < LWC_CLUSTER_TOKENS_MIN || shape.cluster_tokens > 256))
        status = lw_fail(error, LW_ERR_INVALID, "cluster_tokens is %u, must be %u..256", shape.cluster_tokens,
                         LWC_CLUSTER_TOKENS_MIN);
    if (status == LW_OK && (shape.segment_tokens % LW_UNIT_TOKENS != 0 || shape.segment_tokens > LW_SEGMENT_TOKENS_MAX))
        status = lw_fail(error, LW_ERR_INVALID, "segment_tokens is %u, must be a multiple of %u up to %u",
                         shape.segment_tokens, LW_UNIT_TOKENS, LW_SEGMENT_TOKENS_MAX);
    if (status == LW_OK)
        *shape_out = shape;
    return status;
}

bool lwc_policy_is_asked(const lw_session_params_t *params)
{
    return params->policy != 0 || params->accuracy_ppm != 0 || params->retrieve_ppm != 0 || params->estimate_ppm != 0 ||
           params->correct != 0 || params->rank_mean != 0;
}
