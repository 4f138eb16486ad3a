/* option_value.c - one option's value: text to field with its bounds, and field to text. Pure. */
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

#include "base/option_private.h"

typedef struct unit {
    const char *suffix;
    uint64_t factor;
} unit_t;

/* Largest first: shown values use the first that divides. */
static const unit_t byte_units[] = {
    {"t", 1ull << 40}, {"g", 1ull << 30}, {"m", 1ull << 20}, {"k", 1ull << 10}, {"", 1}};
static const unit_t time_units[] = {
    {"h", 3600000000ull}, {"m", 60000000ull}, {"s", 1000000ull}, {"ms", 1000ull}, {"us", 1}};
static const unit_t count_units[] = {{"", 1}};

static const unit_t *units_of(lw_option_kind_t kind, size_t *count_out)
{
    switch (kind) {
    case LW_OPTION_BYTES:
        *count_out = LW_ARRAY_SIZE(byte_units);
        return byte_units;
    case LW_OPTION_USEC:
        *count_out = LW_ARRAY_SIZE(time_units);
        return time_units;
    default:
        *count_out = LW_ARRAY_SIZE(count_units);
        return count_units;
    }
}

static const char *kind_wants(lw_option_kind_t kind)
{
    switch (kind) {
    case LW_OPTION_BOOL:
        return "true or false";
    case LW_OPTION_UINT:
        return "a whole number";
    case LW_OPTION_BYTES:
        return "a size such as 512, 64k, 16m, 2g or 1t";
    case LW_OPTION_USEC:
        return "a time with its unit, such as 50us, 20ms, 5s, 2m or 1h";
    default:
        return "text";
    }
}

/* Digits, then a suffix of the kind's units. False for anything else, overflow included. A time needs its
 * unit, but for 0. */
static bool parse_number(lw_option_kind_t kind, const char *text, uint64_t *value_out)
{
    size_t unit_count;
    const unit_t *units = units_of(kind, &unit_count);
    const char *at = text;
    uint64_t value = 0;

    for (; *at >= '0' && *at <= '9'; at++) {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value)) {
            return false;
        }
    }
    if (at == text) {
        return false;
    }
    if (kind == LW_OPTION_USEC && *at == '\0' && value == 0) {
        *value_out = 0;
        return true;
    }
    for (size_t i = 0; i < unit_count; i++) {
        if (strcasecmp(at, units[i].suffix) == 0) {
            return !__builtin_mul_overflow(value, units[i].factor, value_out);
        }
    }
    return false;
}

static bool parse_bool(const char *text, bool *value_out)
{
    static const char *const words[][2] = {{"false", "true"}, {"no", "yes"}, {"0", "1"}};

    for (size_t i = 0; i < LW_ARRAY_SIZE(words); i++) {
        for (unsigned value = 0; value < 2; value++) {
            if (strcasecmp(text, words[i][value]) == 0) {
                *value_out = value == 1;
                return true;
            }
        }
    }
    return false;
}

static bool has_text(const char *text) { return text != NULL && text[0] != '\0'; }

/* A row whose own bound does not parse is our mistake. */
static uint64_t bound_of(const lw_option_t *row, const char *text)
{
    uint64_t bound = 0;
    bool parsed = parse_number(row->kind, text, &bound);

    LW_ASSERT(parsed);
    return bound;
}

const char *lw_option_bounds(const lw_option_t *row, char *text)
{
    bool low = has_text(row->min_text), high = has_text(row->max_text);

    if (low && high) {
        snprintf(text, OPTION_TEXT_MAX, "%s to %s", row->min_text, row->max_text);
    } else if (low || high) {
        snprintf(text, OPTION_TEXT_MAX, "at %s %s", low ? "least" : "most",
                 low ? row->min_text : row->max_text);
    } else {
        return NULL;
    }
    return text;
}

static lw_status_t refuse(const lw_option_t *row, const char *value, lw_error_t *error)
{
    char bounds[OPTION_TEXT_MAX];
    const char *limits = lw_option_bounds(row, bounds);

    return lw_fail(error, LW_ERR_INVALID, "option %s.%s: '%.48s' is not %s%s%.64s%s%s", row->group, row->name,
                   value, kind_wants(row->kind), limits != NULL ? " (" : "", limits != NULL ? limits : "",
                   limits != NULL ? ")" : "", strcmp(row->default_text, "auto") == 0 ? " or auto" : "");
}

static bool takes_auto(lw_option_kind_t kind)
{
    return kind == LW_OPTION_BYTES || kind == LW_OPTION_USEC;
}

static lw_status_t store_number(const lw_option_t *row, const char *value, uint64_t *field, lw_error_t *error)
{
    char bounds[OPTION_TEXT_MAX];
    uint64_t number;

    if (takes_auto(row->kind) && strcmp(row->default_text, "auto") == 0 && strcmp(value, "auto") == 0) {
        *field = UINT64_MAX;
        return LW_OK;
    }
    if (!parse_number(row->kind, value, &number)) {
        return refuse(row, value, error);
    }
    if ((has_text(row->min_text) && number < bound_of(row, row->min_text)) ||
        (has_text(row->max_text) && number > bound_of(row, row->max_text))) {
        return lw_fail(error, LW_ERR_INVALID, "option %s.%s: '%.48s' is out of bounds: %.96s", row->group,
                       row->name, value, lw_option_bounds(row, bounds));
    }
    *field = number;
    return LW_OK;
}

static lw_status_t store_string(const lw_option_t *row, const char *value, char *field, lw_error_t *error)
{
    size_t bytes = strlen(value);

    if (bytes >= LW_OPTION_STRING_MAX) {
        return lw_fail(error, LW_ERR_INVALID, "option %s.%s: '%.48s...' has %zu bytes, at most %d",
                       row->group, row->name, value, bytes, LW_OPTION_STRING_MAX - 1);
    }
    for (size_t i = 0; i < bytes; i++) {
        if ((unsigned char)value[i] < 0x20 || value[i] == 0x7f) {
            return lw_fail(error, LW_ERR_INVALID, "option %s.%s: '%.48s' has a control character at byte %zu",
                           row->group, row->name, value, i);
        }
    }
    memset(field, 0, LW_OPTION_STRING_MAX);
    memcpy(field, value, bytes);
    return LW_OK;
}

lw_status_t lw_option_store(const lw_option_t *row, const char *value, void *options, lw_error_t *error)
{
    void *field = (char *)options + row->offset;
    bool flag;

    switch (row->kind) {
    case LW_OPTION_BOOL:
        if (!parse_bool(value, &flag)) {
            return refuse(row, value, error);
        }
        *(bool *)field = flag;
        return LW_OK;
    case LW_OPTION_STRING:
        return store_string(row, value, field, error);
    default:
        return store_number(row, value, field, error);
    }
}

static void show_number(lw_option_kind_t kind, uint64_t value, char *text)
{
    size_t unit_count;
    const unit_t *units = units_of(kind, &unit_count);
    size_t i = 0;

    while (i + 1 < unit_count && (value == 0 || value % units[i].factor != 0)) {
        i++;
    }
    snprintf(text, OPTION_TEXT_MAX, "%" PRIu64 "%s", value / units[i].factor, units[i].suffix);
}

/* Bare where a file would read it back unchanged, quoted otherwise. */
static void show_string(const char *value, char *text)
{
    size_t bytes = strlen(value);
    char *at = text;

    if (bytes > 0 && value[0] != ' ' && value[bytes - 1] != ' ' && strpbrk(value, "\"#\\") == NULL) {
        memcpy(text, value, bytes + 1);
        return;
    }
    *at++ = '"';
    for (; *value != '\0'; value++) {
        if (*value == '"' || *value == '\\') {
            *at++ = '\\';
        }
        *at++ = *value;
    }
    *at++ = '"';
    *at = '\0';
}

const char *lw_option_show(const lw_option_t *row, const void *options, char *text)
{
    const void *field = (const char *)options + row->offset;

    switch (row->kind) {
    case LW_OPTION_BOOL:
        snprintf(text, OPTION_TEXT_MAX, "%s", *(const bool *)field ? "true" : "false");
        break;
    case LW_OPTION_STRING:
        show_string(field, text);
        break;
    default:
        if (takes_auto(row->kind) && *(const uint64_t *)field == UINT64_MAX) {
            snprintf(text, OPTION_TEXT_MAX, "auto");
        } else {
            show_number(row->kind, *(const uint64_t *)field, text);
        }
        break;
    }
    return text;
}
