/* ctl_node.c - a node's control plane as a process of its own, for clients in other languages: prints its addresses, then
 * serves until its standard input ends. Arguments: [ca.pem cert.pem key.pem]. */
#include <stdio.h>
#include <stdlib.h>

#include "storaged/ctl/ctl.h"

static char *slurp(const char *path)
{
    FILE *file = fopen(path, "r");
    char *text = file ? calloc(1, 65536) : NULL;
    if (text && fread(text, 1, 65535, file) == 0) {
        free(text);
        text = NULL;
    }
    if (file)
        fclose(file);
    return text;
}

int main(int argc, char **argv)
{
    lwd_ctl_params_t params = {.listen = "127.0.0.1:0", .data = "127.0.0.1:4242", .catalogue = lwd_catalogue_sim()};
    char *texts[3] = {NULL, NULL, NULL};
    for (int i = 0; i < 3 && argc == 4; i++)
        texts[i] = slurp(argv[1 + i]);
    params.ca_pem = texts[0];
    params.cert_pem = texts[1];
    params.key_pem = texts[2];
    lwd_ctl_t *ctl = NULL;
    lw_error_t error;
    if (lwd_ctl_start(&params, &ctl, &error) != LW_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    printf("%s\n", lwd_ctl_address(ctl));
    fflush(stdout);
    while (getchar() != EOF) {
    }
    lwd_ctl_stop(ctl, 1000000);
    for (int i = 0; i < 3; i++)
        free(texts[i]);
    return 0;
}
