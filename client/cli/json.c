/* json.c - see json.h. */
#include "client/cli/json.h"

#include <math.h>

#include "base/base.h"

lwc_json_t lwc_json(FILE *out)
{
    return (lwc_json_t){.out = out};
}

static void put_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c == '\n')
            fputs("\\n", out);
        else if (*c < 0x20)
            fprintf(out, "\\u%04x", *c);
        else
            fputc(*c, out);
    }
    fputc('"', out);
}

static void begin(lwc_json_t *json, const char *name)
{
    if (json->depth > 0) {
        bool *filled = &json->filled[json->depth - 1];
        fprintf(json->out, "%s\n%*s", *filled ? "," : "", 2 * (int)json->depth, "");
        *filled = true;
    }
    if (name) {
        put_text(json->out, name);
        fputs(": ", json->out);
    }
}

void lwc_json_open(lwc_json_t *json, const char *name, char bracket)
{
    LW_ASSERT(json->depth < LWC_JSON_DEPTH_MAX);
    begin(json, name);
    fputc(bracket, json->out);
    json->closer[json->depth] = bracket == '{' ? '}' : ']';
    json->filled[json->depth++] = false;
}

void lwc_json_close(lwc_json_t *json)
{
    LW_ASSERT(json->depth > 0);
    json->depth--;
    if (json->filled[json->depth])
        fprintf(json->out, "\n%*s", 2 * (int)json->depth, "");
    fputc(json->closer[json->depth], json->out);
}

void lwc_json_text(lwc_json_t *json, const char *name, const char *value)
{
    begin(json, name);
    if (value)
        put_text(json->out, value);
    else
        fputs("null", json->out);
}

void lwc_json_uint(lwc_json_t *json, const char *name, uint64_t value)
{
    begin(json, name);
    fprintf(json->out, "%llu", (unsigned long long)value);
}

void lwc_json_int(lwc_json_t *json, const char *name, int64_t value)
{
    begin(json, name);
    fprintf(json->out, "%lld", (long long)value);
}

void lwc_json_number(lwc_json_t *json, const char *name, double value)
{
    begin(json, name);
    if (isfinite(value))
        fprintf(json->out, "%.10g", value);
    else
        fputs("null", json->out);
}

void lwc_json_bool(lwc_json_t *json, const char *name, bool value)
{
    begin(json, name);
    fputs(value ? "true" : "false", json->out);
}

bool lwc_json_end(lwc_json_t *json)
{
    LW_ASSERT(json->depth == 0);
    fputc('\n', json->out);
    return fflush(json->out) == 0 && !ferror(json->out);
}
