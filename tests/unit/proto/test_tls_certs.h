/* test_tls_certs.h - throw-away certificates for tests, made by the openssl command. */
#ifndef TEST_TLS_CERTS_H
#define TEST_TLS_CERTS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Two authorities. Signed by the first, all for localhost and 127.0.0.1: "server" (a node), "client" (of the tenants
 * default and acme), "admin" (an operator), "bare" (says nothing of itself). "stranger" is signed by the second, and says
 * that it is everything. */
typedef struct test_certs {
    char folder[64];
    char *ca, *server_cert, *server_key, *client_cert, *client_key;
    char *admin_cert, *admin_key, *bare_cert, *bare_key;
    char *other_ca, *stranger_cert, *stranger_key;
} test_certs_t;

static const char test_certs_script[] =
    "set -e; exec >/dev/null 2>&1; export EC='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'\n"
    "ca() { openssl req -x509 $EC -days 2 -subj /CN=$1 -keyout $1.key -out $1.pem; }\n"
    "cert() { openssl req $EC -subj /CN=$1 -keyout $1.key -out $1.csr\n"
    "  printf \"subjectAltName=DNS:localhost,IP:127.0.0.1$4\\n\" > san.ext\n"
    "  openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -set_serial $3 -days 2 -extfile san.ext -out $1.pem; }\n"
    "u=,URI:longwave://; ca ca; ca other; cert server ca 1 ${u}node\n"
    "cert client ca 2 ${u}tenant/default${u}tenant/acme; cert admin ca 4 ${u}admin; cert bare ca 5 ''\n"
    "cert stranger other 3 ${u}tenant/default${u}node${u}admin\n";

static inline char *test_certs_read(const char *folder, const char *name)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file)
        return NULL;
    char *text = calloc(1, 16384);
    size_t bytes = fread(text, 1, 16383, file);
    fclose(file);
    text[bytes] = 0;
    return text;
}

static inline void test_certs_free(test_certs_t *certs)
{
    char *texts[] = {certs->admin_cert, certs->admin_key, certs->bare_cert, certs->bare_key,
                     certs->ca, certs->server_cert, certs->server_key, certs->client_cert,
                     certs->client_key, certs->other_ca, certs->stranger_cert, certs->stranger_key};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        free(texts[i]);
    char command[128];
    snprintf(command, sizeof(command), "rm -rf '%s'", certs->folder);
    if (system(command) != 0)
        fprintf(stderr, "could not remove %s\n", certs->folder);
}

/* False when openssl is missing or refuses: skip the test. */
static inline bool test_certs_make(test_certs_t *certs)
{
    memset(certs, 0, sizeof(*certs));
    snprintf(certs->folder, sizeof(certs->folder), "/tmp/lw-certs-XXXXXX");
    if (!mkdtemp(certs->folder))
        return false;
    char command[2048];
    snprintf(command, sizeof(command), "cd '%s' && { %s }", certs->folder, test_certs_script);
    if (system(command) != 0) {
        test_certs_free(certs);
        return false;
    }
    certs->ca = test_certs_read(certs->folder, "ca.pem");
    certs->server_cert = test_certs_read(certs->folder, "server.pem");
    certs->server_key = test_certs_read(certs->folder, "server.key");
    certs->client_cert = test_certs_read(certs->folder, "client.pem");
    certs->client_key = test_certs_read(certs->folder, "client.key");
    certs->admin_cert = test_certs_read(certs->folder, "admin.pem");
    certs->admin_key = test_certs_read(certs->folder, "admin.key");
    certs->bare_cert = test_certs_read(certs->folder, "bare.pem");
    certs->bare_key = test_certs_read(certs->folder, "bare.key");
    certs->other_ca = test_certs_read(certs->folder, "other.pem");
    certs->stranger_cert = test_certs_read(certs->folder, "stranger.pem");
    certs->stranger_key = test_certs_read(certs->folder, "stranger.key");
    return true;
}

#endif /* TEST_TLS_CERTS_H */
