#define _GNU_SOURCE
#include "e2e/process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGS_MAX 64
#define LIMIT_MS 20000

static void run_child(const char *const *argv, int ready_fd, int error_fd)
{
    const char *args[ARGS_MAX];
    char number[16];
    int count = 0;
    while (argv[count] != NULL && count < ARGS_MAX - 3) {
        args[count] = argv[count];
        count++;
    }
    snprintf(number, sizeof(number), "%d", ready_fd);
    args[count++] = "--ready-fd";
    args[count++] = number;
    args[count] = NULL;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* never outlives its test */
    if (error_fd >= 0)
        (void)dup2(error_fd, STDERR_FILENO);
    execv(args[0], (char *const *)args);
    _exit(127);
}

static int wait_end(process_t *process, int limit_ms)
{
    int status = 0;
    for (int waited = 0; waited < limit_ms; waited += 5) {
        if (waitpid(process->pid, &status, WNOHANG) == process->pid) {
            process->pid = 0;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        }
        const struct timespec pause = {.tv_nsec = 5000000};
        (void)nanosleep(&pause, NULL);
    }
    return -1;
}

bool process_start(process_t *process, const char *const *argv)
{
    int ready[2];
    memset(process, 0, sizeof(*process));
    process->error_fd = memfd_create("errors", MFD_CLOEXEC);
    if (pipe2(ready, O_CLOEXEC) != 0)
        return false;
    process->pid = fork();
    if (process->pid == 0) {
        (void)fcntl(ready[1], F_SETFD, 0);
        run_child(argv, ready[1], process->error_fd);
    }
    (void)close(ready[1]);
    size_t used = 0;
    struct pollfd wanted = {.fd = ready[0], .events = POLLIN};
    while (used + 1 < sizeof(process->ready) && strchr(process->ready, '\n') == NULL &&
           poll(&wanted, 1, LIMIT_MS) > 0) {
        ssize_t got = read(ready[0], process->ready + used, sizeof(process->ready) - 1 - used);
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    (void)close(ready[0]);
    bool is_ready = strchr(process->ready, '\n') != NULL;
    if (!is_ready)
        process->exit_status = wait_end(process, LIMIT_MS);
    return is_ready;
}

const char *process_errors(process_t *process)
{
    ssize_t got = pread(process->error_fd, process->errors, sizeof(process->errors) - 1, 0);
    process->errors[got > 0 ? got : 0] = '\0';
    return process->errors;
}

bool process_wait_error(process_t *process, const char *text)
{
    for (int waited = 0; waited < LIMIT_MS / 2; waited += 5) {
        if (strstr(process_errors(process), text) != NULL)
            return true;
        const struct timespec pause = {.tv_nsec = 5000000};
        (void)nanosleep(&pause, NULL);
    }
    return false;
}

bool process_ready_text(const process_t *process, const char *member, char *text, size_t text_bytes)
{
    char wanted[64];
    snprintf(wanted, sizeof(wanted), "\"%s\":\"", member);
    const char *at = strstr(process->ready, wanted);
    if (at == NULL)
        return false;
    at += strlen(wanted);
    snprintf(text, text_bytes, "%.*s", (int)strcspn(at, "\""), at);
    return true;
}

int process_end(process_t *process, int signum)
{
    if (process->pid <= 0)
        return process->exit_status;
    (void)kill(process->pid, signum);
    int status = wait_end(process, LIMIT_MS);
    if (status == -1) {
        (void)kill(process->pid, SIGKILL);
        (void)wait_end(process, LIMIT_MS);
    }
    if (status != 0 && signum == SIGTERM) /* a failing test wants to know */
        fputs(process_errors(process), stderr);
    return status;
}

bool process_addresses(uint32_t count, char (*address)[64], char *list)
{
    int held[16]; /* open together, so that they differ */
    uint32_t opened = 0;
    bool ok = count <= 16;

    list[0] = '\0';
    while (ok && opened < count) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t bytes = sizeof(at);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0)
            break;
        held[opened] = fd;
        ok = bind(fd, (struct sockaddr *)&at, bytes) == 0 && getsockname(fd, (struct sockaddr *)&at, &bytes) == 0;
        snprintf(address[opened], sizeof(*address), "127.0.0.1:%u", ntohs(at.sin_port));
        strcat(list, opened ? "," : "");
        strcat(list, address[opened++]);
    }
    for (uint32_t i = 0; i < opened; i++)
        close(held[i]);
    return ok && opened == count;
}
