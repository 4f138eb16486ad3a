/* unicode.h - what the pre-tokenizers ask about text: characters of UTF-8 and their class. */
#ifndef LLAMA_UNICODE_H
#define LLAMA_UNICODE_H

#include <stddef.h>
#include <stdint.h>

typedef enum llama_class {
    LLAMA_CLASS_OTHER,
    LLAMA_CLASS_LETTER, /* \p{L} */
    LLAMA_CLASS_NUMBER, /* \p{N} */
    LLAMA_CLASS_SPACE,  /* \s: White_Space */
} llama_class_t;

#define LLAMA_INVALID_BYTE UINT32_MAX

/* Code point at text[0 .. bytes), bytes >= 1, and its length. A byte that starts no valid sequence is
 * LLAMA_INVALID_BYTE of length 1; so are overlong forms and surrogates. */
uint32_t llama_utf8_next(const char *text, size_t bytes, size_t *length_out);
/* Writes a code point up to U+FFFF (all that the byte alphabet needs); returns its length, 1 to 3. */
size_t llama_utf8_put(uint32_t code_point, char *text);
llama_class_t llama_class_of(uint32_t code_point);

#endif /* LLAMA_UNICODE_H */
