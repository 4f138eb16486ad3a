/* gguf.c - the GGUF parser. One cursor walks the file once; every read is checked against what is left.
 *
 *   offset  bytes  field
 *   0       4      magic "GGUF"
 *   4       4      version, 2 or 3
 *   8       8      tensor count
 *   16      8      metadata count
 *   24      ...    metadata: key (u64 length, bytes), u32 type, value; an array: u32 type, u64 count, values
 *   ...     ...    tensors: name, u32 dimensions, u64 each, u32 type, u64 offset into the data part
 *   ...     ...    zeros up to general.alignment (32 unless given), then the data part */
#include "client/examples/llama/gguf.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define VALUE_BYTES_MIN (8 + 4 + 1)          /* empty key, type, one byte */
#define TENSOR_BYTES_MIN (8 + 4 + 8 + 4 + 8) /* empty name, one dimension */
#define ALIGNMENT_DEFAULT 32u
#define KEY_PRINTED_MAX 80

struct llama_gguf {
    const uint8_t *bytes;
    size_t byte_count;
    bool mapped;
    llama_gguf_value_t *values;
    size_t value_count;
    llama_gguf_tensor_t *tensors;
    size_t tensor_count;
};

typedef struct cursor {
    const uint8_t *at, *end;
} cursor_t;

/* clang-format off */
static const struct {
    const char *name;
    uint32_t block_values, block_bytes; /* 0: known by name, so that the refusal can say it */
} tensor_types[] = {
#define XX(name, code, values, bytes) [code] = {#name, values, bytes},
    LLAMA_TENSOR_TYPE_MAP(XX)
#undef XX
    [6] = {"Q5_0", 0, 0},    [7] = {"Q5_1", 0, 0},     [9] = {"Q8_1", 0, 0},    [10] = {"Q2_K", 0, 0},
    [11] = {"Q3_K", 0, 0},   [12] = {"Q4_K", 0, 0},    [13] = {"Q5_K", 0, 0},   [14] = {"Q6_K", 0, 0},
    [15] = {"Q8_K", 0, 0},   [16] = {"IQ2_XXS", 0, 0}, [17] = {"IQ2_XS", 0, 0}, [18] = {"IQ3_XXS", 0, 0},
    [19] = {"IQ1_S", 0, 0},  [20] = {"IQ4_NL", 0, 0},  [21] = {"IQ3_S", 0, 0},  [22] = {"IQ2_S", 0, 0},
    [23] = {"IQ4_XS", 0, 0}, [24] = {"I8", 0, 0},      [25] = {"I16", 0, 0},    [26] = {"I32", 0, 0},
    [27] = {"I64", 0, 0},    [28] = {"F64", 0, 0},     [29] = {"IQ1_M", 0, 0},  [34] = {"TQ1_0", 0, 0},
    [35] = {"TQ2_0", 0, 0},  [39] = {"MXFP4", 0, 0},
};
/* clang-format on */

const char *llama_tensor_type_name(uint32_t code)
{
    return code < LW_ARRAY_SIZE(tensor_types) && tensor_types[code].name ? tensor_types[code].name
                                                                         : "unknown";
}

bool llama_text_is(llama_text_t text, const char *literal)
{
    return text.count == strlen(literal) && memcmp(text.bytes, literal, text.count) == 0;
}

static int printed(llama_text_t text)
{
    return text.count < KEY_PRINTED_MAX ? (int)text.count : KEY_PRINTED_MAX;
}

/* ---- reads from the cursor: false when the file ends first ---- */

static bool take(cursor_t *cursor, uint64_t bytes, const uint8_t **data_out)
{
    if (bytes > (uint64_t)(cursor->end - cursor->at))
        return false;
    *data_out = cursor->at;
    cursor->at += bytes;
    return true;
}

static bool take_u32(cursor_t *cursor, uint32_t *value_out)
{
    const uint8_t *data;
    if (!take(cursor, sizeof(*value_out), &data))
        return false;
    memcpy(value_out, data, sizeof(*value_out));
    return true;
}

static bool take_u64(cursor_t *cursor, uint64_t *value_out)
{
    const uint8_t *data;
    if (!take(cursor, sizeof(*value_out), &data))
        return false;
    memcpy(value_out, data, sizeof(*value_out));
    return true;
}

static bool take_text(cursor_t *cursor, llama_text_t *text_out)
{
    cursor_t start = *cursor;
    uint64_t count;
    const uint8_t *data;
    if (!take_u64(cursor, &count) || !take(cursor, count, &data)) {
        *cursor = start;
        return false;
    }
    *text_out = (llama_text_t){(const char *)data, count};
    return true;
}

/* Bytes of a scalar type; 0 for strings, arrays and unknown types. */
static uint32_t scalar_bytes(uint32_t type)
{
    switch (type) {
    case LLAMA_GGUF_U8:
    case LLAMA_GGUF_I8:
    case LLAMA_GGUF_BOOL: return 1;
    case LLAMA_GGUF_U16:
    case LLAMA_GGUF_I16: return 2;
    case LLAMA_GGUF_U32:
    case LLAMA_GGUF_I32:
    case LLAMA_GGUF_F32: return 4;
    case LLAMA_GGUF_U64:
    case LLAMA_GGUF_I64:
    case LLAMA_GGUF_F64: return 8;
    default: return 0;
    }
}

/* ---- the three parts ---- */

static lw_status_t parse_elements(cursor_t *cursor, llama_gguf_value_t *value, lw_error_t *error)
{
    uint32_t bytes = scalar_bytes(value->element_type);
    value->data = cursor->at;
    if (bytes) {
        const uint8_t *data;
        if (value->element_count > (uint64_t)(cursor->end - cursor->at) / bytes ||
            !take(cursor, value->element_count * bytes, &data))
            return lw_fail(error, LW_ERR_INVALID,
                           "gguf: %.*s: %" PRIu64 " elements of %u bytes run past the end",
                           printed(value->key), value->key.bytes, value->element_count, bytes);
    } else if (value->element_type == LLAMA_GGUF_STRING) {
        for (uint64_t i = 0; i < value->element_count; i++) {
            llama_text_t text;
            if (!take_text(cursor, &text))
                return lw_fail(error, LW_ERR_INVALID,
                               "gguf: %.*s: string %" PRIu64 " of %" PRIu64 " runs past the end",
                               printed(value->key), value->key.bytes, i, value->element_count);
        }
    } else {
        return lw_fail(error, LW_ERR_INVALID, "gguf: %.*s: unknown value type %u", printed(value->key),
                       value->key.bytes, (unsigned)value->element_type);
    }
    value->data_end = cursor->at;
    return LW_OK;
}

static lw_status_t parse_value(cursor_t *cursor, uint64_t index, llama_gguf_value_t *value, lw_error_t *error)
{
    uint32_t type;
    if (!take_text(cursor, &value->key) || !take_u32(cursor, &type))
        return lw_fail(error, LW_ERR_INVALID, "gguf: metadata entry %" PRIu64 ": key runs past the end",
                       index);
    value->type = value->element_type = type;
    value->element_count = 1;
    if (type == LLAMA_GGUF_ARRAY) {
        uint32_t element_type;
        if (!take_u32(cursor, &element_type) || !take_u64(cursor, &value->element_count))
            return lw_fail(error, LW_ERR_INVALID, "gguf: %.*s: array header runs past the end",
                           printed(value->key), value->key.bytes);
        if (element_type == LLAMA_GGUF_ARRAY)
            return lw_fail(error, LW_ERR_UNSUPPORTED, "gguf: %.*s: an array of arrays", printed(value->key),
                           value->key.bytes);
        value->element_type = element_type;
    }
    return parse_elements(cursor, value, error);
}

static lw_status_t parse_shape(cursor_t *cursor, llama_gguf_tensor_t *tensor, lw_error_t *error)
{
    if (!take_u32(cursor, &tensor->dimension_count))
        return lw_fail(error, LW_ERR_INVALID, "gguf: tensor %.*s: dimensions run past the end",
                       printed(tensor->name), tensor->name.bytes);
    if (tensor->dimension_count < 1 || tensor->dimension_count > LW_ARRAY_SIZE(tensor->dimension))
        return lw_fail(error, LW_ERR_INVALID, "gguf: tensor %.*s: %u dimensions, not 1 to 4",
                       printed(tensor->name), tensor->name.bytes, tensor->dimension_count);
    tensor->value_count = 1;
    for (uint32_t i = 0; i < LW_ARRAY_SIZE(tensor->dimension); i++) {
        tensor->dimension[i] = 1;
        if (i < tensor->dimension_count && !take_u64(cursor, &tensor->dimension[i]))
            return lw_fail(error, LW_ERR_INVALID, "gguf: tensor %.*s: dimensions run past the end",
                           printed(tensor->name), tensor->name.bytes);
        if (tensor->dimension[i] == 0 ||
            __builtin_mul_overflow(tensor->value_count, tensor->dimension[i], &tensor->value_count) ||
            tensor->value_count > UINT64_MAX / 8)
            return lw_fail(error, LW_ERR_INVALID, "gguf: tensor %.*s: dimension %u is %" PRIu64,
                           printed(tensor->name), tensor->name.bytes, i, tensor->dimension[i]);
    }
    return LW_OK;
}

/* Leaves the offset in byte_count's place until the start of the data part is known: see place_tensor(). */
static lw_status_t parse_tensor(cursor_t *cursor, uint64_t index, llama_gguf_tensor_t *tensor,
                                uint64_t *offset_out, lw_error_t *error)
{
    if (!take_text(cursor, &tensor->name))
        return lw_fail(error, LW_ERR_INVALID, "gguf: tensor %" PRIu64 ": name runs past the end", index);
    lw_status_t status = parse_shape(cursor, tensor, error);
    if (status != LW_OK)
        return status;
    uint32_t type;
    if (!take_u32(cursor, &type) || !take_u64(cursor, offset_out))
        return lw_fail(error, LW_ERR_INVALID, "gguf: tensor %.*s: type and offset run past the end",
                       printed(tensor->name), tensor->name.bytes);
    if (type >= LW_ARRAY_SIZE(tensor_types) || !tensor_types[type].block_values)
        return lw_fail(error, LW_ERR_UNSUPPORTED,
                       "gguf: tensor %.*s has type %s (%u); supported: F32 F16 BF16 Q8_0 Q4_0 Q4_1",
                       printed(tensor->name), tensor->name.bytes, llama_tensor_type_name(type), type);
    if (tensor->dimension[0] % tensor_types[type].block_values)
        return lw_fail(
            error, LW_ERR_INVALID, "gguf: tensor %.*s: rows of %" PRIu64 " values, not whole %s blocks",
            printed(tensor->name), tensor->name.bytes, tensor->dimension[0], tensor_types[type].name);
    tensor->type = type;
    tensor->byte_count =
        tensor->value_count / tensor_types[type].block_values * tensor_types[type].block_bytes;
    return LW_OK;
}

static lw_status_t place_tensor(const llama_gguf_t *gguf, uint64_t data_start, uint64_t alignment,
                                uint64_t offset, llama_gguf_tensor_t *tensor, lw_error_t *error)
{
    if (offset % alignment)
        return lw_fail(error, LW_ERR_INVALID,
                       "gguf: tensor %.*s: offset %" PRIu64 " is not a multiple of %" PRIu64,
                       printed(tensor->name), tensor->name.bytes, offset, alignment);
    uint64_t left = data_start < gguf->byte_count ? gguf->byte_count - data_start : 0;
    if (offset > left || tensor->byte_count > left - offset)
        return lw_fail(error, LW_ERR_INVALID,
                       "gguf: tensor %.*s: %" PRIu64 " bytes at %" PRIu64 " run past the end of %" PRIu64
                       " data bytes",
                       printed(tensor->name), tensor->name.bytes, tensor->byte_count, offset, left);
    tensor->data = gguf->bytes + data_start + offset;
    return LW_OK;
}

static lw_status_t parse_tensors(llama_gguf_t *gguf, cursor_t *cursor, lw_error_t *error)
{
    uint64_t alignment = ALIGNMENT_DEFAULT;
    uint32_t given;
    lw_status_t status = llama_gguf_u32(gguf, "general.alignment", &given, error);
    if (status == LW_OK)
        alignment = given;
    else if (status != LW_ERR_NOT_FOUND)
        return status;
    if (alignment == 0 || (alignment & (alignment - 1)))
        return lw_fail(error, LW_ERR_INVALID, "gguf: general.alignment is %" PRIu64 ", not a power of two",
                       alignment);

    uint64_t *offsets = calloc(gguf->tensor_count + 1, sizeof(*offsets));
    if (!offsets)
        return lw_fail(error, LW_ERR_NO_MEMORY, "gguf: no memory for %zu tensors", gguf->tensor_count);
    status = LW_OK;
    for (size_t i = 0; status == LW_OK && i < gguf->tensor_count; i++)
        status = parse_tensor(cursor, i, &gguf->tensors[i], &offsets[i], error);
    uint64_t data_start = lw_align_up((uint64_t)(cursor->at - gguf->bytes), alignment);
    for (size_t i = 0; status == LW_OK && i < gguf->tensor_count; i++)
        status = place_tensor(gguf, data_start, alignment, offsets[i], &gguf->tensors[i], error);
    free(offsets);
    return status;
}

static lw_status_t parse(llama_gguf_t *gguf, lw_error_t *error)
{
    cursor_t cursor = {gguf->bytes, gguf->bytes + gguf->byte_count};
    const uint8_t *magic;
    uint32_t version;
    uint64_t tensor_count, value_count;
    if (!take(&cursor, 4, &magic) || memcmp(magic, "GGUF", 4) != 0)
        return lw_fail(error, LW_ERR_INVALID, "gguf: the file does not start with \"GGUF\"");
    if (!take_u32(&cursor, &version) || !take_u64(&cursor, &tensor_count) || !take_u64(&cursor, &value_count))
        return lw_fail(error, LW_ERR_INVALID, "gguf: the header is cut off after %zu bytes",
                       gguf->byte_count);
    if (version != 2 && version != 3)
        return lw_fail(error, LW_ERR_UNSUPPORTED, "gguf: version %u (0x%08x), not 2 or 3 in little-endian",
                       version, version);
    uint64_t left = (uint64_t)(cursor.end - cursor.at);
    if (value_count > left / VALUE_BYTES_MIN)
        return lw_fail(error, LW_ERR_INVALID,
                       "gguf: %" PRIu64 " metadata entries do not fit %" PRIu64 " bytes", value_count, left);
    if (tensor_count > left / TENSOR_BYTES_MIN)
        return lw_fail(error, LW_ERR_INVALID, "gguf: %" PRIu64 " tensors do not fit %" PRIu64 " bytes",
                       tensor_count, left);
    gguf->values = calloc(value_count + 1, sizeof(*gguf->values));
    gguf->tensors = calloc(tensor_count + 1, sizeof(*gguf->tensors));
    if (!gguf->values || !gguf->tensors)
        return lw_fail(error, LW_ERR_NO_MEMORY, "gguf: no memory for %" PRIu64 " entries",
                       value_count + tensor_count);

    for (; gguf->value_count < value_count; gguf->value_count++) {
        lw_status_t status = parse_value(&cursor, gguf->value_count, &gguf->values[gguf->value_count], error);
        if (status != LW_OK)
            return status;
    }
    gguf->tensor_count = tensor_count;
    return parse_tensors(gguf, &cursor, error);
}

lw_status_t llama_gguf_parse(const void *bytes, size_t byte_count, llama_gguf_t **gguf_out, lw_error_t *error)
{
    llama_gguf_t *gguf = calloc(1, sizeof(*gguf));
    if (!gguf)
        return lw_fail(error, LW_ERR_NO_MEMORY, "gguf: no memory");
    gguf->bytes = bytes;
    gguf->byte_count = byte_count;
    lw_status_t status = parse(gguf, error);
    if (status != LW_OK) {
        llama_gguf_close(gguf);
        return status;
    }
    *gguf_out = gguf;
    return LW_OK;
}

lw_status_t llama_gguf_open(const char *path, llama_gguf_t **gguf_out, lw_error_t *error)
{
    lw_status_t status;
    struct stat info;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return lw_fail(error, LW_ERR_IO, "cannot open %s: %m", path);
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size == 0) {
        status = lw_fail(error, LW_ERR_IO, "%s is not a regular file with contents", path);
        goto close_file;
    }
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, file, 0);
    if (bytes == MAP_FAILED) {
        status = lw_fail(error, LW_ERR_IO, "cannot map %s: %m", path);
        goto close_file;
    }
    status = llama_gguf_parse(bytes, (size_t)info.st_size, gguf_out, error);
    if (status == LW_OK)
        (*gguf_out)->mapped = true;
    else
        munmap(bytes, (size_t)info.st_size);
close_file:
    close(file);
    return status;
}

void llama_gguf_close(llama_gguf_t *gguf)
{
    if (!gguf)
        return;
    if (gguf->mapped)
        munmap((void *)(uintptr_t)gguf->bytes, gguf->byte_count);
    free(gguf->values);
    free(gguf->tensors);
    free(gguf);
}

/* ---- lookups ---- */

size_t llama_gguf_tensor_count(const llama_gguf_t *gguf)
{
    return gguf->tensor_count;
}
const llama_gguf_tensor_t *llama_gguf_tensor_at(const llama_gguf_t *gguf, size_t index)
{
    LW_ASSERT(index < gguf->tensor_count);
    return &gguf->tensors[index];
}

const llama_gguf_tensor_t *llama_gguf_tensor(const llama_gguf_t *gguf, const char *name)
{
    for (size_t i = 0; i < gguf->tensor_count; i++)
        if (llama_text_is(gguf->tensors[i].name, name))
            return &gguf->tensors[i];
    return NULL;
}

const llama_gguf_value_t *llama_gguf_find(const llama_gguf_t *gguf, const char *key)
{
    for (size_t i = 0; i < gguf->value_count; i++)
        if (llama_text_is(gguf->values[i].key, key))
            return &gguf->values[i];
    return NULL;
}

static lw_status_t find(const llama_gguf_t *gguf, const char *key, const llama_gguf_value_t **value_out,
                        lw_error_t *error)
{
    *value_out = llama_gguf_find(gguf, key);
    return *value_out ? LW_OK : lw_fail(error, LW_ERR_NOT_FOUND, "gguf: there is no %s", key);
}

static lw_status_t wrong_type(const llama_gguf_value_t *value, const char *wanted, lw_error_t *error)
{
    return lw_fail(error, LW_ERR_INVALID, "gguf: %.*s has value type %u, not %s", printed(value->key),
                   value->key.bytes, (unsigned)value->type, wanted);
}

/* Any integer as int64 (u64 above INT64_MAX: false). */
static bool integer(const llama_gguf_value_t *value, int64_t *integer_out)
{
    bool is_signed = value->type == LLAMA_GGUF_I8 || value->type == LLAMA_GGUF_I16 ||
                     value->type == LLAMA_GGUF_I32 || value->type == LLAMA_GGUF_I64;
    uint32_t bytes = scalar_bytes(value->type);
    if (!bytes || value->type == LLAMA_GGUF_F32 || value->type == LLAMA_GGUF_F64 ||
        value->type == LLAMA_GGUF_BOOL)
        return false;
    uint64_t raw = 0;
    memcpy(&raw, value->data, bytes);
    if (is_signed && bytes < 8 && (raw >> (bytes * 8 - 1)))
        raw |= ~0ull << (bytes * 8);
    *integer_out = (int64_t)raw;
    return is_signed || raw <= INT64_MAX;
}

lw_status_t llama_gguf_u32(const llama_gguf_t *gguf, const char *key, uint32_t *value_out, lw_error_t *error)
{
    const llama_gguf_value_t *value;
    int64_t number;
    lw_status_t status = find(gguf, key, &value, error);
    if (status != LW_OK)
        return status;
    if (!integer(value, &number))
        return wrong_type(value, "an integer", error);
    if (number < 0 || number > UINT32_MAX)
        return lw_fail(error, LW_ERR_INVALID, "gguf: %s is %" PRId64 ", outside 0 to %u", key, number,
                       UINT32_MAX);
    *value_out = (uint32_t)number;
    return LW_OK;
}

lw_status_t llama_gguf_f32(const llama_gguf_t *gguf, const char *key, float *value_out, lw_error_t *error)
{
    const llama_gguf_value_t *value;
    lw_status_t status = find(gguf, key, &value, error);
    if (status != LW_OK)
        return status;
    double number;
    float single;
    if (value->type == LLAMA_GGUF_F32) {
        memcpy(&single, value->data, sizeof(single));
        number = single;
    } else if (value->type == LLAMA_GGUF_F64) {
        memcpy(&number, value->data, sizeof(number));
    } else {
        return wrong_type(value, "a float", error);
    }
    if (!isfinite(number))
        return lw_fail(error, LW_ERR_INVALID, "gguf: %s is %f", key, number);
    *value_out = (float)number;
    return LW_OK;
}

lw_status_t llama_gguf_bool(const llama_gguf_t *gguf, const char *key, bool *value_out, lw_error_t *error)
{
    const llama_gguf_value_t *value;
    lw_status_t status = find(gguf, key, &value, error);
    if (status != LW_OK)
        return status;
    if (value->type != LLAMA_GGUF_BOOL)
        return wrong_type(value, "a bool", error);
    *value_out = value->data[0] != 0;
    return LW_OK;
}

lw_status_t llama_gguf_text(const llama_gguf_t *gguf, const char *key, llama_text_t *value_out,
                            lw_error_t *error)
{
    const llama_gguf_value_t *value;
    lw_status_t status = find(gguf, key, &value, error);
    if (status != LW_OK)
        return status;
    const uint8_t *cursor = value->data;
    if (value->type != LLAMA_GGUF_STRING || !llama_gguf_next_text(value, &cursor, value_out))
        return wrong_type(value, "a string", error);
    return LW_OK;
}

bool llama_gguf_next_text(const llama_gguf_value_t *value, const uint8_t **cursor, llama_text_t *text_out)
{
    cursor_t reader = {*cursor, value->data_end};
    if (value->element_type != LLAMA_GGUF_STRING || !take_text(&reader, text_out))
        return false;
    *cursor = reader.at;
    return true;
}
