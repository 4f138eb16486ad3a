/* policies.c - see policies.h. */
#include "bench/eval/policies.h"

static eval_policy_t base(const char *group, const char *name)
{
    return (eval_policy_t){
        .group = group,
        .name = name,
        .outlier_ppm = 125000,
        .cluster_encoding = LW_ENCODING_INT4,
        .outlier_encoding = LW_ENCODING_INT4,
        .cluster_tokens = 4,
        .policy = {.rank = LWK_RANK_EXPECTED_MAX,
                   .budget = LWK_BUDGET_ERROR,
                   .cluster_tokens = 4,
                   .estimate_ppm = 1000000,
                   .accuracy_ppm = 10000,
                   .cap_ppm = 300000,
                   .z = 1.5f},
    };
}

static eval_policy_t fixed(const char *group, const char *name, uint32_t retrieve_ppm)
{
    eval_policy_t row = base(group, name);
    row.policy.budget = LWK_BUDGET_TOKENS;
    row.policy.retrieve_ppm = retrieve_ppm;
    return row;
}

/* bf16, no outliers, centroids ranked by their own logit, round(1.8% of n / 16) clusters and 23.2% estimated,
 * uncorrected. */
static eval_policy_t paper(const char *name)
{
    eval_policy_t row = base("paper", name);
    row.outlier_ppm = 0;
    row.cluster_tokens = row.policy.cluster_tokens = 16;
    row.cluster_encoding = row.outlier_encoding = LW_ENCODING_BF16;
    row.policy.rank = LWK_RANK_MEAN;
    row.policy.budget = LWK_BUDGET_CLUSTERS;
    row.policy.retrieve_ppm = 18000;
    row.policy.estimate_ppm = 232000;
    return row;
}

typedef struct list {
    eval_policy_t *rows;
    uint32_t count;
} list_t;

static eval_policy_t *add(list_t *list, eval_policy_t row)
{
    list->rows[list->count] = row;
    return &list->rows[list->count++];
}

static void add_paper(list_t *list)
{
    add(list, paper("1.8% + 23.2% of clusters"));
    add(list, paper("1.8%, all others estimated"))->policy.estimate_ppm = 1000000;
    eval_policy_t *row = add(list, paper("1.8%, all estimated + variance + value"));
    row->policy.estimate_ppm = 1000000;
    row->policy.correct = LWK_CORRECT_VARIANCE | LWK_CORRECT_VALUE;
}

static void add_ranking(list_t *list)
{
    add(list, fixed("ranking", "3.2% of tokens, centroid", 32000))->policy.rank = LWK_RANK_MEAN;
    add(list, fixed("ranking", "3.2%, expected maximum, z 1.0", 32000))->policy.z = 1;
    add(list, fixed("ranking", "3.2%, z 1.5", 32000));
    add(list, fixed("ranking", "3.2%, z 2.0", 32000))->policy.z = 2;
}

static void add_index(list_t *list)
{
    static const struct {
        const char *name;
        uint32_t ppm;
    } shares[] = {{"no outliers", 0}, {"outliers 3%", 30000}, {"outliers 6%", 60000}};
    for (size_t i = 0; i < LW_ARRAY_SIZE(shares); i++)
        add(list, base("outliers", shares[i].name))->outlier_ppm = shares[i].ppm;
    static const struct {
        const char *name;
        uint32_t tokens;
    } sizes[] = {{"8 tokens", 8}, {"16 tokens", 16}};
    for (size_t i = 0; i < LW_ARRAY_SIZE(sizes); i++) {
        eval_policy_t *row = add(list, base("clusters", sizes[i].name));
        row->cluster_tokens = row->policy.cluster_tokens = sizes[i].tokens;
    }
}

static void add_estimate(list_t *list)
{
    add(list, base("estimate", "23.2% of tokens"))->policy.estimate_ppm = 232000;
    add(list, base("estimate", "all + variance"))->policy.correct = LWK_CORRECT_VARIANCE;
    add(list, base("estimate", "all + variance + value"))->policy.correct =
        LWK_CORRECT_VARIANCE | LWK_CORRECT_VALUE;
    eval_policy_t *row = add(list, fixed("estimate", "3.2% retrieved, all + variance + value", 32000));
    row->policy.correct = LWK_CORRECT_VARIANCE | LWK_CORRECT_VALUE;
}

static void add_budget(list_t *list)
{
    static const struct {
        const char *name;
        uint32_t ppm;
    } budgets[] = {{"nothing retrieved", 0}, {"1.2% of tokens", 12000}, {"6% of tokens", 60000}};
    for (size_t i = 0; i < LW_ARRAY_SIZE(budgets); i++)
        add(list, fixed("budget", budgets[i].name, budgets[i].ppm));
    static const struct {
        const char *name;
        uint32_t ppm;
    } targets[] = {{"target 0.1", 100000}, {"target 0.05", 50000}, {"target 0.02", 20000}, {"target 0.005", 5000}};
    for (size_t i = 0; i < LW_ARRAY_SIZE(targets); i++)
        add(list, base("budget", targets[i].name))->policy.accuracy_ppm = targets[i].ppm;
}

static void add_encodings(list_t *list)
{
    static const struct {
        const char *name;
        uint32_t cluster, outlier;
    } encodings[] = {{"fp32", LW_ENCODING_FP32, LW_ENCODING_FP32},
                     {"bf16", LW_ENCODING_BF16, LW_ENCODING_BF16},
                     {"int8", LW_ENCODING_INT8, LW_ENCODING_INT8},
                     {"int8 clusters, int4 outliers", LW_ENCODING_INT8, LW_ENCODING_INT4}};
    for (size_t i = 0; i < LW_ARRAY_SIZE(encodings); i++) {
        eval_policy_t *row = add(list, base("encoding", encodings[i].name));
        row->cluster_encoding = encodings[i].cluster;
        row->outlier_encoding = encodings[i].outlier;
    }
}

static void add_zones(list_t *list)
{
    add(list, base("steady zone", "68 tokens"))->recent = 64;
    add(list, base("steady zone", "1,004 tokens"))->recent = 1000;
    eval_policy_t row = paper("1.8% + 23.2%, 68 tokens steady");
    row.group = "steady zone";
    add(list, row)->recent = 64;
    row.name = "1.8% + 23.2%, 1,004 tokens steady";
    add(list, row)->recent = 1000;
}

uint32_t eval_policies(eval_policy_t *rows_out)
{
    list_t list = {rows_out, 0};
    add(&list, base("default", "default"));
    add_paper(&list);
    add_ranking(&list);
    add_index(&list);
    add_estimate(&list);
    add_budget(&list);
    add_encodings(&list);
    add_zones(&list);
    LW_ASSERT(list.count <= EVAL_POLICIES_MAX);
    return list.count;
}
