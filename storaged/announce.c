/* announce.c - the start line, the ready file and the ready descriptor. Main thread. */
#include "storaged/announce.h"

#include <stdio.h>
#include <unistd.h>

#include "base/log.h"

static void print_json(FILE *out, const lwd_server_addresses_t *at)
{
    fprintf(
        out,
        "{\"control\":\"%s\",\"data\":\"%s\",\"http\":\"%s\",\"node_id\":%llu,\"fleet_id\":%llu,\"lanes\":[",
        at->control, at->data[0], at->http, (unsigned long long)at->node_id,
        (unsigned long long)at->fleet_id);
    for (uint32_t i = 0; i < at->data_count; i++)
        fprintf(out, "%s\"%s\"", i > 0 ? "," : "", at->data[i]);
    fprintf(out, "],\"arena_bytes\":%llu,\"pages\":\"%s\",\"pid\":%ld}\n",
            (unsigned long long)at->arena_bytes, at->pages, (long)getpid());
}

static void write_file(const char *path, const lwd_server_addresses_t *at)
{
    char fresh[4096];
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    FILE *file = fopen(fresh, "we");
    if (file != NULL)
        print_json(file, at);
    if (file == NULL || fclose(file) != 0 || rename(fresh, path) != 0)
        LW_ERROR("server", "cannot write --ready-file %s", path);
}

void lwd_announce(const lwd_announce_t *how, const lwd_server_addresses_t *at)
{
    if (how->json)
        print_json(stdout, at);
    else
        printf("storaged: node %llu control %s data %s http %s\n", (unsigned long long)at->node_id,
               at->control, at->data[0], at->http[0] != '\0' ? at->http : "none");
    fflush(stdout);
    if (how->ready_file != NULL)
        write_file(how->ready_file, at);
    if (how->ready_fd < 0)
        return;
    FILE *out = fdopen(how->ready_fd, "w");
    if (out == NULL) {
        LW_ERROR("server", "cannot write to --ready-fd %d", how->ready_fd);
        return;
    }
    print_json(out, at);
    fclose(out);
}
