/* option_show.c - an option table for readers: --help, --dump-config, the reference page. */
#include <string.h>

#include "base/option.h"
#include "base/option_private.h"

#define HELP_COLUMNS 100

static const char *kind_placeholder(lw_option_kind_t kind)
{
    switch (kind) {
    case LW_OPTION_BOOL:
        return "BOOL";
    case LW_OPTION_UINT:
        return "NUMBER";
    case LW_OPTION_BYTES:
        return "SIZE";
    case LW_OPTION_USEC:
        return "TIME";
    default:
        return "TEXT";
    }
}

static const char *kind_text(lw_option_kind_t kind)
{
    switch (kind) {
    case LW_OPTION_BOOL:
        return "boolean";
    case LW_OPTION_UINT:
        return "number";
    case LW_OPTION_BYTES:
        return "size";
    case LW_OPTION_USEC:
        return "time";
    default:
        return "text";
    }
}

/* Words of `text`, each line behind `indent`, within HELP_COLUMNS where words allow. */
static void print_wrapped(FILE *out, const char *indent, const char *text)
{
    size_t column = 0;

    while (*text != '\0') {
        size_t word = strcspn(text, " ");

        if (column > 0 && column + 1 + word > HELP_COLUMNS) {
            fputc('\n', out);
            column = 0;
        }
        column += (size_t)fprintf(out, "%s%.*s", column == 0 ? indent : " ", (int)word, text);
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void print_facts(FILE *out, const lw_option_t *row)
{
    char bounds[OPTION_TEXT_MAX];
    const char *limits = lw_option_bounds(row, bounds);

    fprintf(out, "default %s%s%s%s", row->default_text[0] != '\0' ? row->default_text : "empty",
            limits != NULL ? ", " : "", limits != NULL ? limits : "",
            row->reload == LW_OPTION_LIVE ? ", read again on reload" : "");
}

void lw_options_help(const lw_option_table_t *table, FILE *out)
{
    fprintf(out, "Options of %s. Last wins: default, file (group.name = value), environment (LW_GROUP_NAME), flag.\n",
            table->program);
    for (size_t i = 0; i < table->row_count; i++) {
        const lw_option_t *row = &table->rows[i];

        if (i == 0 || strcmp(row->group, table->rows[i - 1].group) != 0) {
            fprintf(out, "\n%s\n", row->group);
        }
        fprintf(out, "  --%s.%s=%s  (", row->group, row->name, kind_placeholder(row->kind));
        print_facts(out, row);
        fprintf(out, ")\n");
        print_wrapped(out, "      ", row->help);
    }
}

void lw_options_dump(const lw_option_table_t *table, const void *options, FILE *out)
{
    char text[OPTION_TEXT_MAX];

    fprintf(out, "# Configuration of %s: every option with its value.\n", table->program);
    for (size_t i = 0; i < table->row_count; i++) {
        const lw_option_t *row = &table->rows[i];

        fputc('\n', out);
        print_wrapped(out, "# ", row->help);
        fprintf(out, "# ");
        print_facts(out, row);
        fprintf(out, "\n%s.%s = %s\n", row->group, row->name, lw_option_show(row, options, text));
    }
}

void lw_options_reference(const lw_option_table_t *table, FILE *out)
{
    char bounds[OPTION_TEXT_MAX];

    fprintf(out, "# Options of %s\n\nGenerated from the option table. ", table->program);
    fprintf(out, "Sizes take k, m, g, t (powers of 1,024); times need us, ms, s, m or h.\n");
    for (size_t i = 0; i < table->row_count; i++) {
        const lw_option_t *row = &table->rows[i];
        const char *limits = lw_option_bounds(row, bounds);

        if (i == 0 || strcmp(row->group, table->rows[i - 1].group) != 0) {
            fprintf(out, "\n## %s\n\n| option | kind | default | bounds | change takes | meaning |\n", row->group);
            fprintf(out, "|---|---|---|---|---|---|\n");
        }
        fprintf(out, "| `%s.%s` | %s | %s | %s | %s | %s |\n", row->group, row->name, kind_text(row->kind),
                row->default_text[0] != '\0' ? row->default_text : "empty", limits != NULL ? limits : "-",
                row->reload == LW_OPTION_LIVE ? "reload" : "restart", row->help);
    }
}
