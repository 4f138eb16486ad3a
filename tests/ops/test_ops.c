/* test_ops.c - every op of the step path x backend x shape x dtype x encoding.
 *
 *   test_ops [--filter TEXT]          compares; exits 1 when a row fails, 77 when none could run; --every N: one row in N
 *   test_ops --perf [--filter TEXT]   measures
 *   test_ops --support                says which backend serves which op */
#include "ops/test_ops.h"
#include "quick.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/stubs.h"

static void print_support(const lwk_backend_t *b, const char *name)
{
    struct {
        const char *op;
        bool served;
    } ops[] = {
        {"prepare", b->prepare != lwk_no_step},
        {"score", b->score != lwk_no_step},
        {"select", b->select != lwk_no_step},
        {"attend", b->attend != lwk_no_step},
        {"finish", b->finish != lwk_no_step},
        {"admit", b->admit != lwk_no_step},
        {"publish", b->publish != lwk_no_publish},
        {"retire", b->retire != lwk_no_retire},
        {"append", b->append != lwk_no_append},
        {"extend", b->extend != lwk_no_extend},
        {"kmeans", b->kmeans != lwk_no_build},
        {"outliers", b->outliers != lwk_no_build},
        {"moments", b->moments != lwk_no_build},
        {"encode", b->encode != lwk_no_build},
        {"pack", b->pack != lwk_no_build},
        {"unpack", b->unpack != lwk_no_unpack},
        {"gather", b->gather != lwk_no_gather},
        {"capture", b->capture_begin != lwk_no_capture_begin},
    };
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        printf("%-12s %-10s %s\n", name, ops[i].op, ops[i].served ? "yes" : "no");
}

int main(int argc, char **argv)
{
    bool perf = false, support = false;
    const char *filter = "";
    uint32_t every = 1;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--perf") == 0) {
            perf = true;
        } else if (strcmp(argv[i], "--support") == 0) {
            support = true;
        } else if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc) {
            filter = argv[++i];
        } else if (strcmp(argv[i], "--every") == 0 && i + 1 < argc && atoi(argv[i + 1]) > 0) {
            every = (uint32_t)atoi(argv[++i]);
        } else {
            fprintf(stderr, "usage: test_ops [--perf | --support] [--filter TEXT] [--every N]\n");
            return 2;
        }
    }
    every *= quick_count(1, 5); /* another seed, other rows */
    uint64_t seed = ops_seed();
    int failures = 0, rows = 0;
    for (uint32_t v = 0; v < OPS_VARIANTS; v++) {
        const lwk_backend_t *backend = ops_variant_use(&ops_variants[v]);
        if (backend == NULL) {
            printf("%-12s cannot run here\n", ops_variants[v].name);
            continue;
        }
        if (support)
            print_support(backend, ops_variants[v].name);
        else if (perf)
            ops_perf(&ops_variants[v], backend, seed, filter);
        else
            failures += ops_matrix(&ops_variants[v], backend, seed, filter, every, &rows);
    }
    if (support || perf)
        return 0;
    printf("%d rows, %d failed\n", rows, failures);
    return failures > 0 ? 1 : rows > 0 ? 0 : 77;
}
