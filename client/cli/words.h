/* words.h - the words after a command that runs the model (demo, quality): a table of rows, one for each
 * --name. */
#ifndef LWC_CLI_WORDS_H
#define LWC_CLI_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum lwc_word_kind { LWC_WORD_TEXT, LWC_WORD_NUMBER, LWC_WORD_SWITCH } lwc_word_kind_t;

typedef struct lwc_word {
    const char *name; /* without the dashes */
    lwc_word_kind_t kind;
    void *to; /* const char **, uint32_t * (0..1,000,000) or bool * */
} lwc_word_t;

#define LWC_WORDS_MAX 24u

/* What every command that runs the model takes. */
typedef struct lwc_run_words {
    const char *model, *document, *fleet, *backend, *config, *json;
    uint32_t context, teacher, threads;
    bool quiet;
} lwc_run_words_t;

/* Fills *run and what `own` points to. Returns -1 to go on; else the exit status: 0 after --help, 2 for wrong
 * usage, which it says on stderr, with the usage. */
int lwc_words_parse(const char *command, int argc, char **argv, lwc_run_words_t *run, const lwc_word_t *own,
                    size_t own_count, void (*usage)(FILE *out));
/* Says what is wrong, with the usage; returns 2. */
int lwc_words_wrong(const char *command, const char *what, void (*usage)(FILE *out));

#endif /* LWC_CLI_WORDS_H */
