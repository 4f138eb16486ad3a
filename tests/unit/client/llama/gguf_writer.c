#define _GNU_SOURCE
#include "gguf_writer.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/examples/llama/gguf.h"

static void append(gguf_bytes_t *bytes, const void *data, size_t count)
{
    if (bytes->count + count > bytes->room) {
        bytes->room = (bytes->count + count) * 2;
        bytes->data = realloc(bytes->data, bytes->room);
        LW_ASSERT(bytes->data);
    }
    if (count)
        memcpy(bytes->data + bytes->count, data, count);
    bytes->count += count;
}

static void append_u32(gguf_bytes_t *bytes, uint32_t value)
{
    append(bytes, &value, sizeof(value));
}
static void append_u64(gguf_bytes_t *bytes, uint64_t value)
{
    append(bytes, &value, sizeof(value));
}
static void append_text(gguf_bytes_t *bytes, const char *text)
{
    append_u64(bytes, strlen(text));
    append(bytes, text, strlen(text));
}
static void pad(gguf_bytes_t *bytes)
{
    static const uint8_t zeros[32];
    append(bytes, zeros, (32 - bytes->count % 32) % 32);
}

void gguf_add_raw(gguf_writer_t *writer, const char *key, uint32_t type, const void *value, size_t bytes)
{
    append_text(&writer->values, key);
    append_u32(&writer->values, type);
    append(&writer->values, value, bytes);
    writer->value_count++;
}

void gguf_add_u32(gguf_writer_t *writer, const char *key, uint32_t value)
{
    gguf_add_raw(writer, key, LLAMA_GGUF_U32, &value, sizeof(value));
}

void gguf_add_f32(gguf_writer_t *writer, const char *key, float value)
{
    gguf_add_raw(writer, key, LLAMA_GGUF_F32, &value, sizeof(value));
}

void gguf_add_text(gguf_writer_t *writer, const char *key, const char *value)
{
    gguf_add_raw(writer, key, LLAMA_GGUF_STRING, NULL, 0);
    append_text(&writer->values, value);
}

void gguf_add_texts(gguf_writer_t *writer, const char *key, const char *const *values, uint64_t count)
{
    gguf_add_raw(writer, key, LLAMA_GGUF_ARRAY, NULL, 0);
    append_u32(&writer->values, LLAMA_GGUF_STRING);
    append_u64(&writer->values, count);
    for (uint64_t i = 0; i < count; i++)
        append_text(&writer->values, values[i]);
}

void gguf_add_i32s(gguf_writer_t *writer, const char *key, const int32_t *values, uint64_t count)
{
    gguf_add_raw(writer, key, LLAMA_GGUF_ARRAY, NULL, 0);
    append_u32(&writer->values, LLAMA_GGUF_I32);
    append_u64(&writer->values, count);
    append(&writer->values, values, count * sizeof(*values));
}

void gguf_add_tensor(gguf_writer_t *writer, const char *name, uint64_t rows, uint64_t columns, uint32_t type,
                     const void *data, size_t bytes)
{
    append_text(&writer->tensors, name);
    append_u32(&writer->tensors, rows ? 2 : 1);
    append_u64(&writer->tensors, columns);
    if (rows)
        append_u64(&writer->tensors, rows);
    append_u32(&writer->tensors, type);
    append_u64(&writer->tensors, writer->data.count);
    append(&writer->data, data, bytes);
    pad(&writer->data);
    writer->tensor_count++;
}

uint8_t *gguf_finish(gguf_writer_t *writer, size_t *bytes_out)
{
    gguf_bytes_t file = {0};
    append(&file, "GGUF", 4);
    append_u32(&file, 3);
    append_u64(&file, writer->tensor_count);
    append_u64(&file, writer->value_count);
    append(&file, writer->values.data, writer->values.count);
    append(&file, writer->tensors.data, writer->tensors.count);
    pad(&file);
    append(&file, writer->data.data, writer->data.count);
    free(writer->values.data);
    free(writer->tensors.data);
    free(writer->data.data);
    memset(writer, 0, sizeof(*writer));
    *bytes_out = file.count;
    return file.data;
}

const char *gguf_write_file(const void *bytes, size_t count)
{
    static char name[64];
    strcpy(name, "tiny_model_XXXXXX");
    int file = mkstemp(name);
    LW_ASSERT(file >= 0);
    for (size_t done = 0; done < count;) {
        ssize_t wrote = write(file, (const char *)bytes + done, count - done);
        LW_ASSERT(wrote > 0);
        done += (size_t)wrote;
    }
    close(file);
    return name;
}
