/* option.c - where option values come from: defaults, a file, the environment, flags. At start and reload. */
#include "base/option.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/option_private.h"

#define FILE_MAX_BYTES (1u << 20)
#define LINE_MAX_BYTES 1024u

static const lw_option_t *find_row(const lw_option_table_t *table, const char *name, size_t bytes)
{
    for (size_t i = 0; i < table->row_count; i++) {
        const lw_option_t *row = &table->rows[i];
        size_t group_bytes = strlen(row->group), name_bytes = strlen(row->name);

        if (bytes == group_bytes + 1 + name_bytes && memcmp(name, row->group, group_bytes) == 0 &&
            name[group_bytes] == '.' && memcmp(name + group_bytes + 1, row->name, name_bytes) == 0) {
            return row;
        }
    }
    return NULL;
}

static lw_status_t unknown(const char *name, size_t bytes, lw_error_t *error)
{
    return lw_fail(error, LW_ERR_INVALID, "unknown option '%.*s'%s (--help lists them)",
                   (int)lw_min_u64(bytes, 64), name, bytes > 64 ? "..." : "");
}

lw_status_t lw_options_set(const lw_option_table_t *table, const char *group_dot_name, const char *value,
                           void *options, lw_error_t *error)
{
    const lw_option_t *row = find_row(table, group_dot_name, strlen(group_dot_name));

    if (row == NULL) {
        return unknown(group_dot_name, strlen(group_dot_name), error);
    }
    return lw_option_store(row, value, options, error);
}

lw_status_t lw_options_default(const lw_option_table_t *table, void *options, lw_error_t *error)
{
    for (size_t i = 0; i < table->row_count; i++) {
        lw_status_t status = lw_option_store(&table->rows[i], table->rows[i].default_text, options, error);

        if (status != LW_OK) {
            return status;
        }
    }
    return LW_OK;
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/* Cuts blanks from both ends of [*begin, *end). */
static void trim(const char **begin, const char **end)
{
    while (*begin < *end && is_blank(**begin)) {
        (*begin)++;
    }
    while (*end > *begin && is_blank((*end)[-1])) {
        (*end)--;
    }
}

/* The value of a line, from behind its '=': quoted, or bare up to a comment. False: a quote is not closed, or
 * text follows it. `value` has LINE_MAX_BYTES, more than any line holds. */
static bool read_value(const char *begin, const char *end, char *value)
{
    trim(&begin, &end);
    if (begin < end && *begin == '"') {
        for (begin++; begin < end && *begin != '"'; begin++) {
            if (*begin == '\\' && begin + 1 < end) {
                begin++;
            }
            *value++ = *begin;
        }
        *value = '\0';
        if (begin == end) {
            return false;
        }
        begin++;
        trim(&begin, &end);
        return begin == end || *begin == '#';
    }
    /* '#' begins a comment at the start or after a blank, so that a#b stays one word. */
    const char *stop = begin;
    while (stop < end && !(*stop == '#' && (stop == begin || is_blank(stop[-1])))) {
        stop++;
    }
    trim(&begin, &stop);
    memcpy(value, begin, (size_t)(stop - begin));
    value[stop - begin] = '\0';
    return true;
}

static lw_status_t set_from_line(const lw_option_table_t *table, const char *begin, const char *end,
                                 void *options, lw_error_t *error)
{
    char value[LINE_MAX_BYTES];

    trim(&begin, &end);
    if (begin == end || *begin == '#') {
        return LW_OK;
    }
    if ((size_t)(end - begin) >= LINE_MAX_BYTES) {
        return lw_fail(error, LW_ERR_INVALID, "line of %zu bytes, at most %u", (size_t)(end - begin),
                       LINE_MAX_BYTES - 1);
    }
    if (memchr(begin, '\0', (size_t)(end - begin)) != NULL) {
        return lw_fail(error, LW_ERR_INVALID, "a NUL byte in the line");
    }
    const char *equals = memchr(begin, '=', (size_t)(end - begin));
    if (equals == NULL) {
        return lw_fail(error, LW_ERR_INVALID, "'%.*s' is not 'group.name = value'",
                       (int)lw_min_u64((uint64_t)(end - begin), 64), begin);
    }
    const char *name_end = equals;
    trim(&begin, &name_end);
    const lw_option_t *row = find_row(table, begin, (size_t)(name_end - begin));
    if (row == NULL) {
        return unknown(begin, (size_t)(name_end - begin), error);
    }
    if (!read_value(equals + 1, end, value)) {
        return lw_fail(error, LW_ERR_INVALID, "option %s.%s: its quoted value does not end with the line",
                       row->group, row->name);
    }
    return lw_option_store(row, value, options, error);
}

lw_status_t lw_options_text(const lw_option_table_t *table, const char *text, size_t bytes, void *options,
                            lw_error_t *error)
{
    const char *at = text, *text_end = text + bytes;
    lw_error_t cause;

    for (unsigned line = 1; at < text_end; line++) {
        const char *end = memchr(at, '\n', (size_t)(text_end - at));

        end = end != NULL ? end : text_end;
        lw_status_t status = set_from_line(table, at, end, options, &cause);
        if (status != LW_OK) {
            return lw_fail(error, status, "line %u: %.200s", line, cause.text);
        }
        at = end + (end < text_end);
    }
    return LW_OK;
}

lw_status_t lw_options_file(const lw_option_table_t *table, const char *path, void *options,
                            lw_error_t *error)
{
    lw_status_t status;
    lw_error_t cause;
    FILE *file = fopen(path, "rb");

    if (file == NULL) {
        return lw_fail(error, errno == ENOENT ? LW_ERR_NOT_FOUND : LW_ERR_IO, "%.128s: %s", path,
                       strerror(errno));
    }
    char *text = malloc(FILE_MAX_BYTES + 1);
    if (text == NULL) {
        status = lw_fail(error, LW_ERR_NO_MEMORY, "%.128s: no memory to read it", path);
        goto err_file;
    }
    size_t bytes = fread(text, 1, FILE_MAX_BYTES + 1, file);
    if (ferror(file)) {
        status = lw_fail(error, LW_ERR_IO, "%.128s: cannot be read", path);
        goto err_text;
    }
    if (bytes > FILE_MAX_BYTES) {
        status = lw_fail(error, LW_ERR_INVALID, "%.128s: larger than %u bytes", path, FILE_MAX_BYTES);
        goto err_text;
    }
    status = lw_options_text(table, text, bytes, options, &cause);
    if (status != LW_OK) {
        status = lw_fail(error, status, "%.100s: %.130s", path, cause.text);
    }
err_text:
    free(text);
err_file:
    fclose(file);
    return status;
}

lw_status_t lw_options_env(const lw_option_table_t *table, void *options, lw_error_t *error)
{
    lw_error_t cause;

    for (size_t i = 0; i < table->row_count; i++) {
        const lw_option_t *row = &table->rows[i];
        char name[128];
        int bytes = snprintf(name, sizeof(name), "LW_%s_%s", row->group, row->name);

        LW_ASSERT(bytes > 0 && (size_t)bytes < sizeof(name));
        for (char *c = name; *c != '\0'; c++) {
            *c = (char)toupper((unsigned char)*c);
        }
        const char *value = getenv(name);
        if (value == NULL) {
            continue;
        }
        lw_status_t status = lw_option_store(row, value, options, &cause);
        if (status != LW_OK) {
            return lw_fail(error, status, "environment %s: %.180s", name, cause.text);
        }
    }
    return LW_OK;
}

/* "--group.name..." : the dot tells our flags from a program's own. */
static bool is_option_flag(const char *arg, size_t *name_bytes_out)
{
    if (arg[0] != '-' || arg[1] != '-') {
        return false;
    }
    *name_bytes_out = strcspn(arg + 2, "=");
    return memchr(arg + 2, '.', *name_bytes_out) != NULL;
}

lw_status_t lw_options_args(const lw_option_table_t *table, int *argc, char **argv, void *options,
                            lw_error_t *error)
{
    int kept = *argc > 0 ? 1 : 0, at = kept;

    while (at < *argc && strcmp(argv[at], "--") != 0) {
        char *arg = argv[at++];
        const char *value;
        size_t name_bytes;

        if (!is_option_flag(arg, &name_bytes)) {
            argv[kept++] = arg;
            continue;
        }
        const lw_option_t *row = find_row(table, arg + 2, name_bytes);
        if (row == NULL) {
            return unknown(arg + 2, name_bytes, error);
        }
        if (arg[2 + name_bytes] == '=') {
            value = arg + 2 + name_bytes + 1;
        } else if (at < *argc) {
            value = argv[at++];
        } else {
            return lw_fail(error, LW_ERR_INVALID, "option %s.%s: its value is missing", row->group,
                           row->name);
        }
        lw_status_t status = lw_option_store(row, value, options, error);
        if (status != LW_OK) {
            return status;
        }
    }
    while (at < *argc) { /* "--" and what follows belong to the program */
        argv[kept++] = argv[at++];
    }
    *argc = kept;
    argv[kept] = NULL;
    return LW_OK;
}
