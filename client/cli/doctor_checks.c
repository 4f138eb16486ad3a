/* doctor_checks.c - one look at the machine for each row of `longwave doctor`. Reads /proc and /sys, opens a
 * fabric, asks the CUDA driver if there is one; changes nothing. */
#include <dirent.h>
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "client/cli/doctor.h"
#include "client/cli/operator.h"
#include "fabric/fabric.h"
#include "kernels/backend.h"

static void found(lwc_check_t *check, lwc_finding_t finding, const char *format, ...) LW_PRINTF(3, 4);
static void found(lwc_check_t *check, lwc_finding_t finding, const char *format, ...)
{
    va_list list;

    va_start(list, format);
    check->finding = finding;
    vsnprintf(check->found, sizeof(check->found), format, list);
    va_end(list);
}

static void advise(lwc_check_t *check, const char *text)
{
    snprintf(check->advice, sizeof(check->advice), "%s", text);
}

/* The first line of a file without its newline; false when it cannot be read. */
static bool read_line(const char *path, char *text, size_t bytes)
{
    FILE *file = fopen(path, "r");
    bool ok = file && fgets(text, (int)bytes, file) != NULL;

    if (file)
        fclose(file);
    if (ok)
        text[strcspn(text, "\n")] = '\0';
    return ok;
}

static unsigned count_entries(const char *path, const char *prefix, char *names, size_t bytes)
{
    DIR *directory = opendir(path);
    unsigned count = 0;

    names[0] = '\0';
    for (struct dirent *entry; directory && (entry = readdir(directory)) != NULL;) {
        if (entry->d_name[0] == '.' || strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        size_t used = strlen(names);
        snprintf(names + used, bytes - used, "%s%s", count ? " " : "", entry->d_name);
        count++;
    }
    if (directory)
        closedir(directory);
    return count;
}

/* ---- the network ---- */

static void no_message(void *arg, lw_conn_t *conn, const lw_fabric_msg_t *msg)
{
    (void)arg, (void)conn, (void)msg;
}
static void no_accept(void *arg, lw_conn_t *conn)
{
    (void)arg, (void)conn;
}
static void no_close(void *arg, lw_conn_t *conn, lw_status_t status)
{
    (void)arg, (void)conn, (void)status;
}

/* Whether a fabric with these transports can listen. */
static bool fabric_works(const char *transports, lw_error_t *error)
{
    const lw_fabric_ops_t *ops = lw_fabric_ucx();
    lw_fabric_params_t params = {
        .transports = transports,
        .handler = {.on_message = no_message, .on_accept = no_accept, .on_closed = no_close}};
    lw_fabric_t *fabric = NULL;

    if (!ops) {
        lw_fail(error, LW_ERR_UNSUPPORTED, "built without UCX");
        return false;
    }
    lw_status_t status = ops->open(&params, &fabric, error);
    if (status == LW_OK) {
        status = ops->listen(fabric, "127.0.0.1:0", error);
        ops->close(fabric);
    }
    return status == LW_OK;
}

static void check_tcp(lwc_check_t *check)
{
    lw_error_t error = {.text = ""};

    if (fabric_works("tcp", &error)) {
        found(check, LWC_FINDING_OK, "UCX over tcp works");
        return;
    }
    found(check, LWC_FINDING_BROKEN, "%s", error.text);
    advise(
        check,
        "nothing works without it: install UCX 1.13 or later (Debian/Ubuntu: libucx0; to build: libucx-dev)");
}

static void check_shm(lwc_check_t *check)
{
    lw_error_t error = {.text = ""};

    if (fabric_works("shm", &error)) {
        found(check, LWC_FINDING_OK, "UCX over shared memory works");
        return;
    }
    found(check, LWC_FINDING_MISSING, "%s", error.text);
    advise(check, "client and daemon of one host talk over tcp instead; shared memory wants one PID and IPC "
                  "namespace and /dev/shm");
}

static void check_rdma(lwc_check_t *check)
{
    char names[160];
    lw_error_t error = {.text = ""};
    unsigned count = count_entries("/sys/class/infiniband", "", names, sizeof(names));

    if (count == 0) {
        found(check, LWC_FINDING_MISSING, "no device in /sys/class/infiniband");
        advise(check, "tcp is used; with an RDMA NIC install its driver, rdma-core and UCX's ib module "
                      "(ibverbs-providers)");
        return;
    }
    if (fabric_works("rdma", &error)) {
        found(check, LWC_FINDING_OK, "%u devices: %s", count, names);
        return;
    }
    found(check, LWC_FINDING_LIMITED, "%u devices (%s), UCX cannot use them: %s", count, names, error.text);
    advise(check, "check the port state (ibstat), the memlock limit and, in a container, /dev/infiniband");
}

/* ---- memory ---- */

static uint64_t meminfo(const char *field)
{
    FILE *file = fopen("/proc/meminfo", "r");
    char line[160];
    uint64_t value = 0;

    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, field, strlen(field)) == 0 && line[strlen(field)] == ':')
            value = strtoull(line + strlen(field) + 1, NULL, 10);
    if (file)
        fclose(file);
    return value;
}

static void check_huge_pages(lwc_check_t *check)
{
    char mode[80] = "unknown", size[32];
    uint64_t pages = meminfo("HugePages_Total"), bytes = meminfo("Hugepagesize") << 10;

    (void)read_line("/sys/kernel/mm/transparent_hugepage/enabled", mode, sizeof(mode));
    bool thp = strstr(mode, "[never]") == NULL && strcmp(mode, "unknown") != 0;
    found(check,
          pages > 0 ? LWC_FINDING_OK
          : thp     ? LWC_FINDING_LIMITED
                    : LWC_FINDING_MISSING,
          "%llu reserved pages of %s, transparent: %s", (unsigned long long)pages,
          lwc_bytes_text(bytes, size), mode);
    if (pages == 0)
        advise(check, "reserve some for storaged's arena: sysctl vm.nr_hugepages=N (2 MiB each); without "
                      "them random reads "
                      "of the arena miss the TLB, transparent pages (madvise) win most of it back");
}

static void check_memlock(lwc_check_t *check)
{
    struct rlimit limit;
    char text[32];

    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) {
        found(check, LWC_FINDING_OK, "unlimited");
        return;
    }
    bool enough = limit.rlim_cur >= (1ull << 30);
    found(check, enough ? LWC_FINDING_OK : LWC_FINDING_LIMITED, "%s", lwc_bytes_text(limit.rlim_cur, text));
    if (!enough)
        advise(check, "too little to register an arena with an RDMA NIC: LimitMEMLOCK=infinity in the "
                      "service, or ulimit -l; "
                      "tcp and shared memory do not need it");
}

static void check_numa(lwc_check_t *check)
{
    char names[160];
    unsigned count = count_entries("/sys/devices/system/node", "node", names, sizeof(names));

    found(check, LWC_FINDING_OK, "%u memory node%s", count ? count : 1, count > 1 ? "s" : "");
    if (count > 1)
        advise(check, "run one storaged for each, with mem.numa_node set and its NIC on the same socket");
}

static void check_shared_memory(lwc_check_t *check)
{
    struct statvfs fs;
    char size[32], room[32];

    if (statvfs("/dev/shm", &fs) != 0) {
        found(check, LWC_FINDING_MISSING, "/dev/shm is not there");
        advise(check, "mount a tmpfs on /dev/shm; shared memory between processes needs it");
        return;
    }
    uint64_t bytes = (uint64_t)fs.f_blocks * fs.f_frsize, left = (uint64_t)fs.f_bavail * fs.f_frsize;
    bool enough = bytes >= (256ull << 20);
    found(check, enough ? LWC_FINDING_OK : LWC_FINDING_LIMITED, "/dev/shm of %s, %s free",
          lwc_bytes_text(bytes, size), lwc_bytes_text(left, room));
    if (!enough)
        advise(check, "containers get 64 MiB by default: docker --shm-size=1g, or an emptyDir with medium: "
                      "Memory in Kubernetes");
}

static void check_cgroup(lwc_check_t *check)
{
    char text[64], size[32], total[32];
    uint64_t memory = meminfo("MemTotal") << 10;
    bool limited = (read_line("/sys/fs/cgroup/memory.max", text, sizeof(text)) ||
                    read_line("/sys/fs/cgroup/memory/memory.limit_in_bytes", text, sizeof(text))) &&
                   strcmp(text, "max") != 0 && strtoull(text, NULL, 10) < memory;

    if (!limited) {
        found(check, LWC_FINDING_OK, "none; the machine has %s", lwc_bytes_text(memory, total));
        return;
    }
    found(check, LWC_FINDING_LIMITED, "%s of the machine's %s",
          lwc_bytes_text(strtoull(text, NULL, 10), size), lwc_bytes_text(memory, total));
    advise(check, "mem.arena_bytes=auto takes half of what this leaves; raise the limit for a larger arena");
}

/* ---- processors ---- */

static void check_cpu(lwc_check_t *check)
{
    const lwk_backend_t *backend = lwk_backend_find("cpu");
    lwk_dev_t *dev = NULL;
    lw_error_t error = {.text = ""};

    if (!backend || backend->open(0, &dev, &error) != LW_OK) {
        found(check, LWC_FINDING_LIMITED, "backend cpu does not open: %s", error.text);
        advise(check, "backend ref still works, slowly");
        return;
    }
    found(check, LWC_FINDING_OK, "%ld processors, %s", sysconf(_SC_NPROCESSORS_ONLN), backend->describe(dev));
    backend->close(dev);
}

static void check_cuda(lwc_check_t *check)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    int (*init)(unsigned) = NULL, (*count_devices)(int *) = NULL;
    int count = 0;

    if (!driver) {
        found(check, LWC_FINDING_MISSING, "libcuda.so.1 is not there");
        advise(check, "attention runs on the CPU; for a GPU install NVIDIA's driver (in a container: the "
                      "NVIDIA runtime)");
        return;
    }
    *(void **)&init = dlsym(driver, "cuInit");
    *(void **)&count_devices = dlsym(driver, "cuDeviceGetCount");
    int code = init && count_devices ? init(0) : -1;
    if (code == 0)
        code = count_devices(&count);
    if (code == 0 && count > 0 && lwk_backend_find("cuda")) {
        found(check, LWC_FINDING_OK, "%d devices, backend cuda is there", count);
    } else if (code == 0 && count > 0) {
        found(check, LWC_FINDING_LIMITED, "%d devices, but no backend cuda in this build", count);
        advise(check, "build with the CUDA toolkit to use them");
    } else {
        found(check, LWC_FINDING_LIMITED, "the driver library is there and finds no device (code %d)", code);
        advise(check, "check nvidia-smi and, in a container, that the device is passed in");
    }
    dlclose(driver);
}

const struct lwc_check_row lwc_checks[] = {
    {"tcp", check_tcp},
    {"shared memory", check_shm},
    {"rdma", check_rdma},
    {"huge pages", check_huge_pages},
    {"memlock", check_memlock},
    {"numa", check_numa},
    {"/dev/shm", check_shared_memory},
    {"cgroup limit", check_cgroup},
    {"cpu", check_cpu},
    {"cuda", check_cuda},
};
const unsigned lwc_check_count = LW_ARRAY_SIZE(lwc_checks);
