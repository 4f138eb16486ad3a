/* pretokenize.c - splits text into the pieces that BPE never merges across. By hand what these expressions
 * say:
 *
 *   gpt-2      's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   smollm     the same, after every \p{N} is cut out as a piece of its own: what is before ends there
 *   llama-bpe  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
 *              | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+ */
#include <string.h>
#include <strings.h>

#include "client/examples/llama/tokenizer.h"
#include "client/examples/llama/unicode.h"

static llama_class_t class_at(const char *text, size_t bytes, size_t *length_out)
{
    return llama_class_of(llama_utf8_next(text, bytes, length_out));
}

/* Bytes of the longest run of one class at the start of the text. */
static size_t run_of(llama_class_t class, const char *text, size_t bytes)
{
    size_t run = 0, length;
    while (run < bytes && class_at(text + run, bytes - run, &length) == class)
        run += length;
    return run;
}

static size_t contraction(const char *text, size_t bytes, int (*compare)(const char *, const char *, size_t))
{
    static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    for (size_t i = 0; i < LW_ARRAY_SIZE(endings); i++) {
        size_t length = strlen(endings[i]);
        if (length <= bytes && compare(text, endings[i], length) == 0)
            return length;
    }
    return 0;
}

/* A run of spaces leaves its last one to the word that follows. */
static size_t spaces(const char *text, size_t bytes)
{
    size_t run = 0, last = 0, length;
    while (run < bytes && class_at(text + run, bytes - run, &length) == LLAMA_CLASS_SPACE) {
        last = length;
        run += length;
    }
    return run == bytes || run == last ? run : run - last;
}

static size_t next_gpt2(const char *text, size_t bytes)
{
    size_t found = contraction(text, bytes, strncmp), length;
    if (found)
        return found;
    size_t lead = text[0] == ' ' && bytes > 1;
    llama_class_t class = class_at(text + lead, bytes - lead, &length);
    if (class != LLAMA_CLASS_SPACE)
        return lead + run_of(class, text + lead, bytes - lead);
    return spaces(text, bytes);
}

static size_t next_smollm(const char *text, size_t bytes)
{
    size_t end = 0, length;
    if (class_at(text, bytes, &length) == LLAMA_CLASS_NUMBER)
        return length;
    /* Only a run of spaces looks ahead, and only a leading space is taken in: cut there and nowhere else. */
    size_t piece = next_gpt2(text, bytes);
    while (end < bytes && class_at(text + end, bytes - end, &length) == LLAMA_CLASS_SPACE)
        end += length;
    if (end && end < bytes && class_at(text + end, bytes - end, &length) == LLAMA_CLASS_NUMBER)
        return end;
    return piece;
}

static bool is_line_end(char c)
{
    return c == '\r' || c == '\n';
}

/* A run of spaces with line ends goes up to its last line end; one without leaves its last space to what
 * follows. */
static size_t lines_or_spaces(const char *text, size_t bytes)
{
    size_t end = run_of(LLAMA_CLASS_SPACE, text, bytes);
    while (end && !is_line_end(text[end - 1]))
        end--;
    return end ? end : spaces(text, bytes);
}

static size_t numbers(const char *text, size_t bytes)
{
    size_t run = 0, length;
    for (int i = 0; i < 3 && run < bytes && class_at(text + run, bytes - run, &length) == LLAMA_CLASS_NUMBER;
         i++)
        run += length;
    return run;
}

static size_t next_llama_bpe(const char *text, size_t bytes)
{
    size_t found = contraction(text, bytes, strncasecmp), lead, length;
    if (found)
        return found;
    llama_class_t class = class_at(text, bytes, &lead);
    if (class == LLAMA_CLASS_LETTER)
        return run_of(class, text, bytes);
    if (class == LLAMA_CLASS_NUMBER)
        return numbers(text, bytes);
    if (!is_line_end(text[0]) && lead < bytes &&
        class_at(text + lead, bytes - lead, &length) == LLAMA_CLASS_LETTER)
        return lead + run_of(LLAMA_CLASS_LETTER, text + lead, bytes - lead);
    lead = text[0] == ' ';
    size_t end = lead + run_of(LLAMA_CLASS_OTHER, text + lead, bytes - lead);
    if (end == lead)
        return lines_or_spaces(text, bytes);
    while (end < bytes && is_line_end(text[end]))
        end++;
    return end;
}

size_t llama_pre_next(llama_pre_t pre, const char *text, size_t bytes)
{
    LW_ASSERT(bytes > 0);
    if (pre == LLAMA_PRE_LLAMA_BPE)
        return next_llama_bpe(text, bytes);
    return pre == LLAMA_PRE_SMOLLM ? next_smollm(text, bytes) : next_gpt2(text, bytes);
}
