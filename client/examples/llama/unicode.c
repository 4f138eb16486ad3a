/* unicode.c - UTF-8 and character classes by binary search in unicode_ranges.inc. */
#include "client/examples/llama/unicode.h"

#include <stdbool.h>

#include "base/base.h"

typedef struct range {
    uint32_t first, last, class;
} range_t;

#define L LLAMA_CLASS_LETTER
#define N LLAMA_CLASS_NUMBER
#define S LLAMA_CLASS_SPACE
static const range_t ranges[] = {
#include "client/examples/llama/unicode_ranges.inc"
};
#undef L
#undef N
#undef S

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

uint32_t llama_utf8_next(const char *text, size_t bytes, size_t *length_out)
{
    unsigned char lead = (unsigned char)text[0];
    size_t length = lead < 0x80   ? 1
                    : lead < 0xc2 ? 0
                    : lead < 0xe0 ? 2
                    : lead < 0xf0 ? 3
                    : lead < 0xf5 ? 4
                                  : 0;
    *length_out = 1;
    if (length == 1)
        return lead;
    if (length == 0 || length > bytes)
        return LLAMA_INVALID_BYTE;
    uint32_t code_point = lead & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (!is_continuation(text[i]))
            return LLAMA_INVALID_BYTE;
        code_point = code_point << 6 | ((unsigned char)text[i] & 0x3fu);
    }
    bool overlong = (length == 3 && code_point < 0x800) || (length == 4 && code_point < 0x10000);
    if (overlong || (code_point >= 0xd800 && code_point < 0xe000) || code_point > 0x10ffff)
        return LLAMA_INVALID_BYTE;
    *length_out = length;
    return code_point;
}

size_t llama_utf8_put(uint32_t code_point, char *text)
{
    LW_ASSERT(code_point <= 0xffff);
    if (code_point < 0x80) {
        text[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        text[0] = (char)(0xc0 | code_point >> 6);
        text[1] = (char)(0x80 | (code_point & 0x3f));
        return 2;
    }
    text[0] = (char)(0xe0 | code_point >> 12);
    text[1] = (char)(0x80 | (code_point >> 6 & 0x3f));
    text[2] = (char)(0x80 | (code_point & 0x3f));
    return 3;
}

llama_class_t llama_class_of(uint32_t code_point)
{
    size_t low = 0, high = LW_ARRAY_SIZE(ranges);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code_point < ranges[middle].first)
            high = middle;
        else if (code_point > ranges[middle].last)
            low = middle + 1;
        else
            return (llama_class_t)ranges[middle].class;
    }
    return LLAMA_CLASS_OTHER;
}
