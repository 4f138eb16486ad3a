/* words.c - rows of a table to getopt's, and values to where the rows say. */
#include "client/cli/words.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static bool take(const char *command, const lwc_word_t *word, const char *text)
{
    char *end;
    unsigned long value;
    switch (word->kind) {
    case LWC_WORD_TEXT: *(const char **)word->to = text; return true;
    case LWC_WORD_SWITCH: *(bool *)word->to = true; return true;
    default: break;
    }
    value = strtoul(text, &end, 10);
    if (*text == 0 || *end || value > 1000000) {
        fprintf(stderr, "longwave %s: --%s: '%s' is not a number in 0..1000000\n", command, word->name, text);
        return false;
    }
    *(uint32_t *)word->to = (uint32_t)value;
    return true;
}

static int wrong(void (*usage)(FILE *out))
{
    usage(stderr);
    return 2;
}

int lwc_words_parse(const char *command, int argc, char **argv, lwc_run_words_t *run, const lwc_word_t *own,
                    size_t own_count, void (*usage)(FILE *out))
{
    const lwc_word_t common[] = {
        {"model", LWC_WORD_TEXT, &run->model},       {"document", LWC_WORD_TEXT, &run->document},
        {"fleet", LWC_WORD_TEXT, &run->fleet},       {"backend", LWC_WORD_TEXT, &run->backend},
        {"config", LWC_WORD_TEXT, &run->config},     {"json", LWC_WORD_TEXT, &run->json},
        {"context", LWC_WORD_NUMBER, &run->context}, {"teacher", LWC_WORD_NUMBER, &run->teacher},
        {"threads", LWC_WORD_NUMBER, &run->threads}, {"quiet", LWC_WORD_SWITCH, &run->quiet},
    };
    lwc_word_t words[LWC_WORDS_MAX];
    struct option longs[LWC_WORDS_MAX + 2] = {{NULL, 0, NULL, 0}};
    size_t count = LW_ARRAY_SIZE(common) + own_count;
    LW_ASSERT(count <= LWC_WORDS_MAX);
    memcpy(words, common, sizeof(common));
    memcpy(words + LW_ARRAY_SIZE(common), own, own_count * sizeof(*own));
    for (size_t i = 0; i < count; i++)
        longs[i] = (struct option){words[i].name, words[i].kind != LWC_WORD_SWITCH, NULL, 'w'};
    longs[count] = (struct option){"help", 0, NULL, 'h'};

    int c, index = 0;
    optind = 1;
    while ((c = getopt_long(argc, argv, "h", longs, &index)) != -1) {
        if (c == 'h') {
            usage(stdout);
            return 0;
        }
        if (c != 'w' || !take(command, &words[index], optarg))
            return wrong(usage);
    }
    if (optind == argc)
        return -1;
    fprintf(stderr, "longwave %s: '%s' is no option\n", command, argv[optind]);
    return wrong(usage);
}

int lwc_words_wrong(const char *command, const char *what, void (*usage)(FILE *out))
{
    fprintf(stderr, "longwave %s: %s\n", command, what);
    return wrong(usage);
}
