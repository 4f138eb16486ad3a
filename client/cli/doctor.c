/* doctor.c - `longwave doctor`: what this machine has for Longwave, what it lacks, how to get it. */
#include <stdio.h>
#include <string.h>

#include "client/cli/commands.h"
#include "client/cli/doctor.h"
#include "client/cli/json.h"
#include "client/cli/operator.h"

static const char help[] =
    "longwave doctor [--json [FILE]]\n\n"
    "Looks at transports, memory limits, NUMA, RDMA and CUDA on this machine and changes nothing.\n"
    "Exit status 1 only when something is missing without which nothing works.\n\n"
    "  --json [FILE]  writes JSON, to stdout without FILE\n"
    "  --help         this text\n";

static const char *const words[] = {"ok", "limited", "missing", "broken"};

static void print_check(const lwc_check_t *check)
{
    printf("%-13s %-8s %s\n", check->name, words[check->finding], check->found);
    if (check->advice[0])
        printf("%-22s -> %s\n", "", check->advice);
}

static void json_check(lwc_json_t *json, const lwc_check_t *check)
{
    lwc_json_open(json, NULL, '{');
    lwc_json_text(json, "name", check->name);
    lwc_json_text(json, "finding", words[check->finding]);
    lwc_json_text(json, "found", check->found);
    lwc_json_text(json, "advice", check->advice);
    lwc_json_close(json);
}

int lwc_cmd_doctor(int argc, char **argv)
{
    lwc_operator_t op;
    bool wants_help, broken = false;
    int count = lwc_operator_args(argc, argv, &op, &wants_help);

    if (wants_help) {
        fputs(help, stdout);
        return 0;
    }
    if (count != 1) {
        fputs(help, stderr);
        return 2;
    }
    FILE *out = op.json ? lwc_operator_json_open(&op) : NULL;
    if (op.json && !out)
        return 1;
    lwc_json_t json = lwc_json(out);
    if (out) {
        lwc_json_open(&json, NULL, '{');
        lwc_json_open(&json, "checks", '[');
    }
    for (unsigned i = 0; i < lwc_check_count; i++) {
        lwc_check_t check = {.name = lwc_checks[i].name};
        lwc_checks[i].run(&check);
        broken |= check.finding == LWC_FINDING_BROKEN;
        if (out)
            json_check(&json, &check);
        else
            print_check(&check);
    }
    if (out) {
        lwc_json_close(&json);
        lwc_json_bool(&json, "usable", !broken);
        lwc_json_close(&json);
        if (lwc_operator_json_close(&op, out, lwc_json_end(&json)) != 0)
            return 1;
    }
    return broken ? 1 : 0;
}
