/* sim_main.c - lw_sim: runs seeds, says how many a second, and finds planted bugs.
 *
 *   lw_sim --seeds N [--first S]   N seeds from S (1); exit status 1 and the seed at the first violation
 *   lw_sim --seed S [--trace]      one seed, with what happened
 *   lw_sim --plant NAME [--seeds N]  the bug must be found within N seeds (COMMIT_ACK_EARLY, CHECKSUM_SKIP, GENERATION_REUSE,
 *                                    MOVE_EARLY) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "tests/sim/sim.h"

typedef struct {
    uint64_t seeds, first;
    bool one, trace;
    const char *plant;
} options_t;

static bool run_seed(uint64_t seed, const options_t *options, sim_stats_t *total)
{
    sim_world_t *world = NULL;
    lw_fault_reset(seed);
    if (options->plant) {
        char text[64];
        snprintf(text, sizeof(text), "%s=1", options->plant);
        if (lw_fault_enable_text(text) != LW_OK) {
            fprintf(stderr, "lw_sim: --plant: no fault point named '%s'\n", options->plant);
            exit(2);
        }
    }
    if (sim_world_create(seed, options->trace, &world) != LW_OK) {
        fprintf(stderr, "lw_sim: seed %llu: the world could not be made\n", (unsigned long long)seed);
        exit(1);
    }
    bool good = sim_world_run(world);
    if (!good && (!options->plant || options->trace))
        printf("seed %llu: VIOLATION at %.3f ms: %s\n", (unsigned long long)seed, (double)world->now_us / 1000,
               world->violation);
    else if (!good)
        printf("  found with seed %llu: %s\n", (unsigned long long)seed, world->violation);
    const uint64_t *one = (const uint64_t *)&world->stats;
    uint64_t *sum = (uint64_t *)total;
    for (size_t i = 0; i < sizeof(*total) / sizeof(uint64_t); i++)
        sum[i] += one[i];
    sim_world_destroy(world);
    return good;
}

static void print_total(const sim_stats_t *t)
{
    printf("  %llu puts (%llu failed), %llu ranges committed, %llu fetches of %llu records (%llu failed, %llu checksum failures), "
           "%llu reads,\n  %llu node and %llu client crashes, %llu partitions, %llu stops, %llu drops, %llu evictions,\n"
           "  %llu hedges (%llu won), %llu records rerouted,\n"
           "  %llu nodes lost for good, %llu drained to the end, %llu copies moved (%llu failed)\n",
           (unsigned long long)t->puts, (unsigned long long)t->puts_failed, (unsigned long long)t->commits,
           (unsigned long long)t->fetches, (unsigned long long)t->records, (unsigned long long)t->records_failed,
           (unsigned long long)t->checksum_failures, (unsigned long long)t->reads, (unsigned long long)t->crashes,
           (unsigned long long)t->client_crashes, (unsigned long long)t->partitions, (unsigned long long)t->stalls,
           (unsigned long long)t->drops, (unsigned long long)t->evictions, (unsigned long long)t->hedges,
           (unsigned long long)t->hedges_won, (unsigned long long)t->reroutes, (unsigned long long)t->losses,
           (unsigned long long)t->drains, (unsigned long long)t->moves, (unsigned long long)t->moves_failed);
}

static uint64_t value(int argc, char **argv, int *i)
{
    char *end = NULL;
    uint64_t number = *i + 1 < argc ? strtoull(argv[*i + 1], &end, 10) : 0;
    if (!end || *end || end == argv[*i + 1]) {
        fprintf(stderr, "lw_sim: %s needs a number\n", argv[*i]);
        exit(2);
    }
    ++*i;
    return number;
}

int main(int argc, char **argv)
{
    options_t options = {.seeds = 200, .first = 1};
    sim_stats_t total = {0};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--seeds") == 0) {
            options.seeds = value(argc, argv, &i);
        } else if (strcmp(argv[i], "--first") == 0) {
            options.first = value(argc, argv, &i);
        } else if (strcmp(argv[i], "--seed") == 0) {
            options.first = value(argc, argv, &i);
            options.seeds = 1;
            options.one = true;
        } else if (strcmp(argv[i], "--trace") == 0) {
            options.trace = true;
        } else if (strcmp(argv[i], "--plant") == 0 && i + 1 < argc) {
            options.plant = argv[++i];
        } else {
            printf("lw_sim [--seeds N] [--first S] | --seed S [--trace] | --plant NAME [--seeds N]\n");
            return strcmp(argv[i], "--help") == 0 ? 0 : 2;
        }
    }
    lw_log_level_t level = LW_LOG_ERROR;
    lw_log_set_level(options.trace ? LW_LOG_DEBUG : level);
    uint64_t began = lw_now_us(lw_clock_real()), done = 0, bad = 0;
    for (uint64_t s = 0; s < options.seeds && bad == 0; s++, done++)
        bad += !run_seed(options.first + s, &options, &total);
    double seconds = (double)(lw_now_us(lw_clock_real()) - began) / 1e6;
    printf("lw_sim: %llu seeds in %.1f s, %.1f a second\n", (unsigned long long)done, seconds, (double)done / seconds);
    print_total(&total);
    if (options.plant) {
        printf(bad ? "lw_sim: planted bug %s was found after %llu seeds\n" : "lw_sim: planted bug %s was NOT found in %llu seeds\n",
               options.plant, (unsigned long long)done);
        return bad ? 0 : 1;
    }
    return bad ? 1 : 0;
}
