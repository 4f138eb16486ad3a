/* json.h - writes JSON as it goes: commas, nesting and escaping are taken care of. One writer, one thread.
 *
 *   lwc_json_t json = lwc_json(stdout);
 *   lwc_json_open(&json, NULL, '{'); lwc_json_uint(&json, "nodes", 3); lwc_json_close(&json); lwc_json_end(&json);
 */
#ifndef LWC_CLI_JSON_H
#define LWC_CLI_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define LWC_JSON_DEPTH_MAX 16

typedef struct lwc_json {
    FILE *out; /* borrowed */
    unsigned depth;
    char closer[LWC_JSON_DEPTH_MAX];
    bool filled[LWC_JSON_DEPTH_MAX];
} lwc_json_t;

lwc_json_t lwc_json(FILE *out);
/* `name` is NULL inside an array and for the outermost value. bracket: '{' or '['. */
void lwc_json_open(lwc_json_t *json, const char *name, char bracket);
void lwc_json_close(lwc_json_t *json);
void lwc_json_text(lwc_json_t *json, const char *name, const char *value); /* any bytes; NULL: null */
void lwc_json_uint(lwc_json_t *json, const char *name, uint64_t value);
void lwc_json_int(lwc_json_t *json, const char *name, int64_t value);
void lwc_json_number(lwc_json_t *json, const char *name, double value); /* NaN, infinite: null */
void lwc_json_bool(lwc_json_t *json, const char *name, bool value);
/* A newline; every bracket must be closed. Returns false when the stream has failed. */
bool lwc_json_end(lwc_json_t *json);

#endif /* LWC_CLI_JSON_H */
