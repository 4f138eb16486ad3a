/* etcd_process.c - see etcd_process.h. */
#include "etcd_process.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

bool etcd_process_found(void)
{
    return system("command -v etcd >/dev/null 2>&1") == 0;
}

static unsigned free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &bytes), 0);
    close(fd);
    return ntohs(address.sin_port);
}

static void run_etcd(const etcd_process_t *etcd, int log_fd)
{
    char url[64], peer[64], cluster[96];
    const char *argv[40];
    unsigned n = 0;
    snprintf(url, sizeof(url), "%s://%s", etcd->cert_file ? "https" : "http", etcd->endpoint);
    snprintf(peer, sizeof(peer), "http://127.0.0.1:%u", etcd->peer_port);
    snprintf(cluster, sizeof(cluster), "test=%s", peer);
    const char *const common[] = {"etcd", "--name", etcd->name ? etcd->name : "test", "--data-dir", etcd->folder, "--listen-client-urls", url,
                                  "--advertise-client-urls", url, "--listen-peer-urls", peer,
                                  "--initial-advertise-peer-urls", peer, "--initial-cluster",
                                  etcd->peers ? etcd->peers : cluster};
    for (size_t i = 0; i < sizeof(common) / sizeof(common[0]); i++)
        argv[n++] = common[i];
    if (etcd->cert_file) {
        const char *const tls[] = {"--client-cert-auth", "--trusted-ca-file", etcd->ca_file, "--cert-file",
                                   etcd->cert_file, "--key-file", etcd->key_file};
        for (size_t i = 0; i < sizeof(tls) / sizeof(tls[0]); i++)
            argv[n++] = tls[i];
    }
    argv[n] = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(log_fd, 1);
    dup2(log_fd, 2);
    execvp("etcd", (char *const *)argv);
    _exit(127);
}

lwd_etcd_t *etcd_process_client(const etcd_process_t *etcd)
{
    lwd_etcd_t *client = NULL;
    lw_error_t error;
    const lwd_etcd_params_t params = {.endpoints = etcd->endpoint};
    if (lwd_etcd_open(&params, &client, &error) != LW_OK)
        fail_msg("%s", error.text);
    return client;
}

/* Listening is enough where the test has no certificate to ask with. */
static void wait_for_port(const etcd_process_t *etcd)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                  .sin_port = htons((uint16_t)etcd->port)};
    uint64_t until = lwd_etcd_until(20000000);
    for (bool connected = false; !connected;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        connected = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;
        close(fd);
        if (!connected && lwd_etcd_until(0) > until)
            fail_msg("etcd does not listen on %s", etcd->endpoint);
        if (!connected)
            sched_yield();
    }
}

static void wait_for_answer(const etcd_process_t *etcd)
{
    lwd_etcd_t *client = etcd_process_client(etcd);
    const lwd_etcd_op_t read = {.kind = LWD_ETCD_RANGE, .key = "anything"};
    const lwd_etcd_txn_t txn = {.ops = &read, .op_count = 1};
    lwd_etcd_reply_t *reply = NULL;
    lw_error_t error;
    uint64_t until = lwd_etcd_until(20000000);
    lw_status_t status;
    do
        status = lwd_etcd_txn(client, &txn, until, &reply, &error);
    while (status == LW_ERR_FLEET && lwd_etcd_until(0) < until);
    if (status != LW_OK)
        fail_msg("%s", error.text);
    lwd_etcd_reply_free(reply);
    lwd_etcd_close(client);
}

static void prepare(etcd_process_t *etcd)
{
    if (etcd->folder[0])
        return;
    snprintf(etcd->folder, sizeof(etcd->folder), "/tmp/lw-etcd-XXXXXX");
    assert_non_null(mkdtemp(etcd->folder));
    etcd->port = free_port();
    etcd->peer_port = free_port();
    snprintf(etcd->endpoint, sizeof(etcd->endpoint), "127.0.0.1:%u", etcd->port);
}

static void launch(etcd_process_t *etcd)
{
    char log[96];
    snprintf(log, sizeof(log), "%s/log", etcd->folder);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    etcd->pid = fork();
    assert_true(etcd->pid >= 0);
    if (etcd->pid == 0)
        run_etcd(etcd, fd);
    close(fd);
}

void etcd_process_start_three(etcd_process_t three[3], char *endpoints, char *peers)
{
    static const char *const names[3] = {"a", "b", "c"};
    endpoints[0] = peers[0] = 0;
    for (int i = 0; i < 3; i++) {
        char peer[64];
        prepare(&three[i]);
        snprintf(peer, sizeof(peer), "%s%s=http://127.0.0.1:%u", i ? "," : "", names[i], three[i].peer_port);
        strcat(peers, peer);
        strcat(endpoints, i ? "," : "");
        strcat(endpoints, three[i].endpoint);
        three[i].name = names[i];
        three[i].peers = peers;
    }
    for (int i = 0; i < 3; i++)
        launch(&three[i]);
    for (int i = 0; i < 3; i++)
        wait_for_answer(&three[i]);
}

void etcd_process_start(etcd_process_t *etcd)
{
    prepare(etcd);
    launch(etcd);
    if (etcd->cert_file)
        wait_for_port(etcd);
    else
        wait_for_answer(etcd);
}

void etcd_process_signal(const etcd_process_t *etcd, int signum)
{
    assert_int_equal(kill(etcd->pid, signum), 0);
    if (signum == SIGSTOP) /* it may run on for a moment */
        assert_int_equal(waitpid(etcd->pid, NULL, WUNTRACED), etcd->pid);
}

void etcd_process_kill(etcd_process_t *etcd)
{
    if (!etcd->pid)
        return;
    kill(etcd->pid, SIGKILL);
    waitpid(etcd->pid, NULL, 0);
    etcd->pid = 0;
}

void etcd_process_remove(etcd_process_t *etcd)
{
    char command[128];
    if (!etcd || !etcd->folder[0])
        return;
    etcd_process_kill(etcd);
    snprintf(command, sizeof(command), "rm -rf '%s'", etcd->folder);
    if (system(command) != 0)
        fprintf(stderr, "could not remove %s\n", etcd->folder);
    etcd->folder[0] = 0;
}
