/* gguf.h - reads a GGUF model file (versions 2 and 3, little-endian): metadata and tensor directory.
 *
 * The file is mapped, not copied: strings, arrays and tensor data are views into it and live until
 * llama_gguf_close(). No count, length or offset of the file is trusted; parsing allocates only in proportion
 * to the bytes that are really there. A parsed file is immutable and may be read by any thread. */
#ifndef LLAMA_GGUF_H
#define LLAMA_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* name, code in the file, values in a block, bytes of a block */
#define LLAMA_TENSOR_TYPE_MAP(XX) \
    XX(F32, 0, 1, 4)              \
    XX(F16, 1, 1, 2)              \
    XX(Q4_0, 2, 32, 18)           \
    XX(Q4_1, 3, 32, 20)           \
    XX(Q8_0, 8, 32, 34)           \
    XX(BF16, 30, 1, 2)

typedef enum llama_tensor_type {
#define XX(name, code, values, bytes) LLAMA_TENSOR_##name = (code),
    LLAMA_TENSOR_TYPE_MAP(XX)
#undef XX
} llama_tensor_type_t;

/* Name of any tensor type code that GGUF defines ("Q6_K"), also of those that are refused; "unknown"
 * otherwise. */
const char *llama_tensor_type_name(uint32_t code);

typedef enum llama_gguf_type {
    LLAMA_GGUF_U8 = 0,
    LLAMA_GGUF_I8 = 1,
    LLAMA_GGUF_U16 = 2,
    LLAMA_GGUF_I16 = 3,
    LLAMA_GGUF_U32 = 4,
    LLAMA_GGUF_I32 = 5,
    LLAMA_GGUF_F32 = 6,
    LLAMA_GGUF_BOOL = 7,
    LLAMA_GGUF_STRING = 8,
    LLAMA_GGUF_ARRAY = 9,
    LLAMA_GGUF_U64 = 10,
    LLAMA_GGUF_I64 = 11,
    LLAMA_GGUF_F64 = 12,
} llama_gguf_type_t;

typedef struct llama_text {
    const char *bytes; /* not terminated */
    size_t count;
} llama_text_t;

typedef struct llama_gguf_value {
    llama_text_t key;
    llama_gguf_type_t type;
    llama_gguf_type_t element_type; /* of an array; equals type otherwise */
    uint64_t element_count;         /* of an array; 1 otherwise */
    const uint8_t *data;            /* first element as stored, unaligned */
    const uint8_t *data_end;
} llama_gguf_value_t;

typedef struct llama_gguf_tensor {
    llama_text_t name;
    uint32_t dimension_count;
    uint64_t dimension[4]; /* dimension[0] is contiguous (a row); unused ones are 1 */
    llama_tensor_type_t type;
    uint64_t value_count, byte_count;
    const uint8_t *data; /* byte_count bytes, unaligned */
} llama_gguf_tensor_t;

typedef struct llama_gguf llama_gguf_t;

/* Maps and parses `path`. ERR_IO when it cannot be read; ERR_INVALID, with the field and its value, when it
 * is not a GGUF that this reader understands; ERR_UNSUPPORTED names the version or the tensor type that is
 * refused. */
LW_CHECK lw_status_t llama_gguf_open(const char *path, llama_gguf_t **gguf_out, lw_error_t *error);
/* The same over `bytes`, borrowed until llama_gguf_close(). */
LW_CHECK lw_status_t llama_gguf_parse(const void *bytes, size_t byte_count, llama_gguf_t **gguf_out,
                                      lw_error_t *error);
void llama_gguf_close(llama_gguf_t *gguf); /* NULL is fine */

size_t llama_gguf_tensor_count(const llama_gguf_t *gguf);
const llama_gguf_tensor_t *llama_gguf_tensor_at(const llama_gguf_t *gguf, size_t index);
/* NULL when there is none. Of duplicates the first is found, here and below. */
const llama_gguf_tensor_t *llama_gguf_tensor(const llama_gguf_t *gguf, const char *name);
const llama_gguf_value_t *llama_gguf_find(const llama_gguf_t *gguf, const char *key);

/* Typed reads. ERR_NOT_FOUND when the key is absent (nothing is written: set the default before), ERR_INVALID
 * when its type or range does not fit. Any integer type is accepted where its value fits. */
LW_CHECK lw_status_t llama_gguf_u32(const llama_gguf_t *gguf, const char *key, uint32_t *value_out,
                                    lw_error_t *error);
LW_CHECK lw_status_t llama_gguf_f32(const llama_gguf_t *gguf, const char *key, float *value_out,
                                    lw_error_t *error);
LW_CHECK lw_status_t llama_gguf_bool(const llama_gguf_t *gguf, const char *key, bool *value_out,
                                     lw_error_t *error);
LW_CHECK lw_status_t llama_gguf_text(const llama_gguf_t *gguf, const char *key, llama_text_t *value_out,
                                     lw_error_t *error);

/* Walks an array of strings: start with cursor = value->data; false at its end. */
bool llama_gguf_next_text(const llama_gguf_value_t *value, const uint8_t **cursor, llama_text_t *text_out);

bool llama_text_is(llama_text_t text, const char *literal);

#endif /* LLAMA_GGUF_H */
