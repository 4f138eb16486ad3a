/* gguf_writer.h - makes GGUF files in memory, right ones and wrong ones, so that tests need no download. */
#ifndef GGUF_WRITER_H
#define GGUF_WRITER_H

#include <stddef.h>
#include <stdint.h>

typedef struct gguf_bytes {
    uint8_t *data;
    size_t count, room;
} gguf_bytes_t;

typedef struct gguf_writer {
    gguf_bytes_t values, tensors, data;
    uint64_t value_count, tensor_count;
} gguf_writer_t; /* all zeros is empty */

void gguf_add_raw(gguf_writer_t *writer, const char *key, uint32_t type, const void *value, size_t bytes);
void gguf_add_u32(gguf_writer_t *writer, const char *key, uint32_t value);
void gguf_add_f32(gguf_writer_t *writer, const char *key, float value);
void gguf_add_text(gguf_writer_t *writer, const char *key, const char *value);
void gguf_add_texts(gguf_writer_t *writer, const char *key, const char *const *values, uint64_t count);
void gguf_add_i32s(gguf_writer_t *writer, const char *key, const int32_t *values, uint64_t count);
/* A tensor of rows x columns (rows 0: a vector); type is its code in the file. Data is copied. */
void gguf_add_tensor(gguf_writer_t *writer, const char *name, uint64_t rows, uint64_t columns, uint32_t type,
                     const void *data, size_t bytes);
/* The file; free() it. Leaves the writer empty. */
uint8_t *gguf_finish(gguf_writer_t *writer, size_t *bytes_out);
/* Writes bytes to a new file under the working directory and returns its name (static). */
const char *gguf_write_file(const void *bytes, size_t count);

#endif /* GGUF_WRITER_H */
