/* perftest_daemon.c - the processes that perftest measures against: started, found ready, their CPU time
 * read, stopped. */
#define _GNU_SOURCE /* prctl, pipe2 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "client/cli/perftest.h"

#define ARGS_MAX 48u
#define READY_WITHIN_MS 120000 /* touching a large arena takes its time */

static void run_child(const char *const *argv, int fd)
{
    char number[16];
    const char *args[ARGS_MAX] = {0};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(number, sizeof(number), "%d", fd);
    for (size_t i = 0; argv[i] != NULL && i + 1 < ARGS_MAX; i++)
        args[i] = strcmp(argv[i], "%ready") == 0 ? number : argv[i];
    int nowhere = open("/dev/null", O_WRONLY);
    if (nowhere >= 0)
        dup2(nowhere, STDOUT_FILENO);
    execvp(args[0], (char *const *)args);
    _exit(127);
}

static lw_status_t await_ready(lwc_perf_child_t *child, int fd, const char *program, lw_error_t *error)
{
    size_t used = 0;
    struct pollfd wanted = {.fd = fd, .events = POLLIN};
    while (used + 1 < sizeof(child->ready) && poll(&wanted, 1, READY_WITHIN_MS) > 0) {
        ssize_t got = read(fd, child->ready + used, sizeof(child->ready) - 1 - used);
        if (got <= 0)
            break;
        used += (size_t)got;
        child->ready[used] = '\0';
        if (strchr(child->ready, '\n') != NULL)
            return LW_OK;
    }
    return lw_fail(error, LW_ERR_IO, "%s did not start (its words are above, if it had any)", program);
}

lw_status_t lwc_perf_child_start(lwc_perf_child_t *child, const char *const *argv, lw_error_t *error)
{
    int fd[2];
    memset(child, 0, sizeof(*child));
    if (pipe(fd) != 0)
        return lw_fail(error, LW_ERR_IO, "pipe: %s", strerror(errno));
    (void)fcntl(fd[0], F_SETFD, FD_CLOEXEC);
    child->pid = fork();
    if (child->pid == 0)
        run_child(argv, fd[1]);
    close(fd[1]);
    lw_status_t status = child->pid > 0 ? await_ready(child, fd[0], argv[0], error)
                                        : lw_fail(error, LW_ERR_IO, "fork: %s", strerror(errno));
    close(fd[0]);
    if (status != LW_OK)
        lwc_perf_child_stop(child);
    return status;
}

void lwc_perf_child_stop(lwc_perf_child_t *child)
{
    if (child->pid <= 0)
        return;
    kill(child->pid, SIGTERM);
    for (int i = 0; i < 100 && waitpid(child->pid, NULL, WNOHANG) == 0; i++)
        (void)poll(NULL, 0, 50);
    kill(child->pid, SIGKILL); /* no such process any more, mostly */
    (void)waitpid(child->pid, NULL, 0);
    child->pid = 0;
}

lw_status_t lwc_perf_child_text(const lwc_perf_child_t *child, const char *name, char *text,
                                size_t text_bytes)
{
    char key[64];
    snprintf(key, sizeof(key), "\"%s\":\"", name);
    const char *at = strstr(child->ready, key);
    if (at == NULL)
        return LW_ERR_NOT_FOUND;
    at += strlen(key);
    size_t bytes = strcspn(at, "\"");
    if (bytes >= text_bytes)
        return LW_ERR_NOT_FOUND;
    memcpy(text, at, bytes);
    text[bytes] = '\0';
    return LW_OK;
}

double lwc_perf_child_cpu_s(const lwc_perf_child_t *child)
{
    char path[96];
    double total_s = 0;
    snprintf(path, sizeof(path), "/proc/%ld/task", (long)child->pid);
    DIR *tasks = child->pid > 0 ? opendir(path) : NULL;
    if (tasks == NULL)
        return 0;
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        unsigned long long ran_ns;
        snprintf(path, sizeof(path), "/proc/%ld/task/%.20s/schedstat", (long)child->pid, task->d_name);
        FILE *file = task->d_name[0] != '.' ? fopen(path, "r") : NULL;
        if (file == NULL)
            continue;
        if (fscanf(file, "%llu", &ran_ns) == 1)
            total_s += (double)ran_ns / 1e9;
        fclose(file);
    }
    closedir(tasks);
    return total_s;
}

double lwc_perf_cpu_s(void)
{
    struct timespec used;
    if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) != 0)
        return 0;
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

void lwc_perf_find_storaged(char *text, size_t text_bytes)
{
    static const char *const places[] = {"storaged", "../sbin/storaged", "../storaged/storaged",
                                         "../../storaged/storaged"};
    char self[512];
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[bytes > 0 ? bytes : 0] = '\0';
    char *slash = strrchr(self, '/');
    for (size_t i = 0; slash != NULL && i < LW_ARRAY_SIZE(places); i++) {
        snprintf(text, text_bytes, "%.*s/%s", (int)(slash - self), self, places[i]);
        if (access(text, X_OK) == 0)
            return;
    }
    snprintf(text, text_bytes, "storaged");
}
