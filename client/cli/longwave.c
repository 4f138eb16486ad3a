/* longwave.c - the `longwave` command: finds the subcommand and hands over. */
#include <stdio.h>
#include <string.h>

#include "base/base.h"
#include "client/cli/commands.h"
#include "client/include/longwave.h"

typedef struct {
    const char *name, *what;
    int (*run)(int argc, char **argv);
} command_t;

static const command_t commands[] = {
#ifdef LWC_CLI_DEMO
    {"demo", "the main job: a model answers with its KV in the fleet", lwc_cmd_demo},
    {"quality", "compare policies with full attention on a document", lwc_cmd_quality},
#endif
#ifdef LWC_CLI_OPERATOR
    {"status", "the fleet: nodes, room, sessions", lwc_cmd_status},
    {"nodes", "each node's state, zone, weight, room and copies", lwc_cmd_nodes},
    {"drain", "empty a node, or take that back", lwc_cmd_drain},
    {"sessions", "list, show, pin, unpin or drop sessions", lwc_cmd_sessions},
    {"doctor", "what this machine has, what it lacks, how to get it", lwc_cmd_doctor},
#endif
#ifdef LWC_CLI_BENCH
    {"bench", "decode steps over synthetic K and V: time, hits, bytes, error", lwc_cmd_bench},
#endif
#ifdef LWC_CLI_PERFTEST
    {"perftest", "fabric and store without a model: put, fetch, GB/s, latency", lwc_cmd_perftest},
#endif
};

static void usage(FILE *out)
{
    fputs("longwave COMMAND [options]\n\n", out);
    for (size_t i = 0; i < LW_ARRAY_SIZE(commands); i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].what);
    fputs("\nlongwave COMMAND --help says more; --version tells the version.\n", out);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        usage(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("longwave %s\n", lw_version());
        return 0;
    }
    for (size_t i = 0; i < LW_ARRAY_SIZE(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    fprintf(stderr, "longwave: no command '%s'\n", argv[1]);
    usage(stderr);
    return 2;
}
