/* measure.c - choosing a token and comparing two next-token distributions. */
#include <math.h>

#include "client/examples/llama/llama.h"

uint32_t llama_greedy(const float *logits, uint32_t vocabulary)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocabulary; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* log of the sum of e^logit */
static double log_sum(const float *logits, uint32_t vocabulary)
{
    double maximum = logits[llama_greedy(logits, vocabulary)], sum = 0;
    for (uint32_t i = 0; i < vocabulary; i++)
        sum += exp((double)logits[i] - maximum);
    return maximum + log(sum);
}

double llama_log_probability(const float *logits, uint32_t vocabulary, uint32_t token)
{
    LW_ASSERT(token < vocabulary);
    return (double)logits[token] - log_sum(logits, vocabulary);
}

double llama_kl(const float *expected, const float *actual, uint32_t vocabulary)
{
    double expected_log_sum = log_sum(expected, vocabulary), actual_log_sum = log_sum(actual, vocabulary),
           kl = 0;
    for (uint32_t i = 0; i < vocabulary; i++) {
        double p = (double)expected[i] - expected_log_sum, q = (double)actual[i] - actual_log_sum;
        kl += exp(p) * (p - q);
    }
    return isfinite(kl) ? fmax(kl, 0) : NAN; /* below 0 is rounding */
}

void llama_agreement_add(llama_agreement_t *agreement, const float *expected, const float *actual,
                         uint32_t vocabulary, uint32_t next_token)
{
    double kl = llama_kl(expected, actual, vocabulary);
    agreement->positions++;
    agreement->top1_equal += llama_greedy(expected, vocabulary) == llama_greedy(actual, vocabulary);
    agreement->kl_sum += kl;
    if (!(kl <= agreement->kl_max)) /* a NaN stays */
        agreement->kl_max = isnan(agreement->kl_max) ? agreement->kl_max : kl;
    if (next_token != UINT32_MAX) {
        agreement->expected_nll_sum -= llama_log_probability(expected, vocabulary, next_token);
        agreement->actual_nll_sum -= llama_log_probability(actual, vocabulary, next_token);
    }
}
