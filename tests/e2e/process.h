/* process.h - starts a daemon for a test and waits until it says that it is ready. */
#ifndef LW_TEST_PROCESS_H
#define LW_TEST_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct process {
    pid_t pid;
    char ready[1024];  /* the JSON line; "" when the process ended before it was ready */
    int error_fd;      /* what it writes to stderr */
    char errors[8192]; /* the same, as of the last process_errors() */
    int exit_status;   /* when it ended before it was ready */
} process_t;

/* argv ends with NULL; the process also gets --ready-fd. True when it became ready within about 20 s. */
bool process_start(process_t *process, const char *const *argv);
/* A string member of the ready line; false when it is not there. */
bool process_ready_text(const process_t *process, const char *member, char *text, size_t text_bytes);
/* What it has written to stderr so far (the first 8 KiB). Valid until the next call. */
const char *process_errors(process_t *process);
/* "127.0.0.1:port" of `count` (at most 16) ports that nobody listens on now, all different; `list` gets them with commas between and is
 * large enough for all. */
bool process_addresses(uint32_t count, char (*address)[64], char *list);
/* Looks at stderr until it holds `text`; false after about 10 s. */
bool process_wait_error(process_t *process, const char *text);
/* Sends the signal and waits for the end. Exit status, or 1000 + signal number when a signal ended it; -1:
 * still running after 20 s (it is then killed). Standard error can be read until the next process_start. */
int process_end(process_t *process, int signum);

#endif /* LW_TEST_PROCESS_H */
