/* commands.h - the subcommands of `longwave`. Each takes its own argv (argv[0] is its name) and returns an exit status: 0 done,
 * 1 failed, 2 wrong usage. Each has --help and --json. */
#ifndef LWC_CLI_COMMANDS_H
#define LWC_CLI_COMMANDS_H

int lwc_cmd_status(int argc, char **argv);
int lwc_cmd_nodes(int argc, char **argv);
int lwc_cmd_drain(int argc, char **argv);
int lwc_cmd_sessions(int argc, char **argv);
int lwc_cmd_doctor(int argc, char **argv);
int lwc_cmd_perftest(int argc, char **argv);
int lwc_cmd_bench(int argc, char **argv);
int lwc_cmd_demo(int argc, char **argv);    /* built with the model runner */
int lwc_cmd_quality(int argc, char **argv); /* same */

#endif /* LWC_CLI_COMMANDS_H */
