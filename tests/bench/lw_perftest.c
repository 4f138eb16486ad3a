/* lw_perftest.c - `longwave perftest` as a program of its own, for builds without the rest of the command. */
#include <string.h>

#include "client/cli/commands.h"

int main(int argc, char **argv)
{
    if (argc > 1 &&
        strcmp(argv[1], "perftest") == 0) { /* how the command calls it, and how it calls itself */
        argc--;
        argv++;
    }
    return lwc_cmd_perftest(argc, argv);
}
