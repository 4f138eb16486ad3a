/* tokenizer.c - the vocabulary, and text to tokens and back.
 *
 * Ordinary tokens are spelled in the byte alphabet of GPT-2: each byte is one printable character (a space is
 * U+0120). They are turned into plain bytes when the vocabulary is read. Special tokens (control and
 * user-defined) are literal. */
#define _GNU_SOURCE
#include "client/examples/llama/tokenizer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client/examples/llama/bpe.h"
#include "client/examples/llama/unicode.h"

#define NONE UINT32_MAX
#define TOKENS_MAX (1u << 22)
#define TOKEN_BYTES_MAX 4096u
#define ALPHABET_END 0x144u /* code points of the byte alphabet are below */

enum {
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER_DEFINED = 4,
    TYPE_UNUSED = 5,
    TYPE_BYTE = 6
};

typedef struct token {
    const char *spelling; /* as in the file */
    const char *bytes;    /* what it stands for */
    uint16_t spelling_bytes, byte_count;
    uint8_t type;
} token_t;

struct llama_tokenizer {
    llama_pre_t pre;
    token_t *token;
    uint32_t count;
    char *arena;      /* spellings, then bytes, of all tokens */
    uint32_t *bucket; /* token by spelling: open addressing, NONE is empty */
    size_t bucket_count;
    llama_merge_table_t merges;
    uint32_t alphabet[256]; /* code point of each byte in spellings */
    uint32_t of_byte[256];  /* token of a single byte; the unknown token where there is none */
    uint32_t unknown;       /* NONE: bytes without a token are dropped */
    uint32_t *special;      /* control and user-defined tokens, longest first */
    uint32_t special_count;
    bool special_lead[256]; /* first bytes of the special tokens */
    uint32_t turn_start, turn_end,
        text_end; /* <|im_start|>, <|im_end|>, tokenizer.ggml.eos_token_id; NONE: none */
};

/* ---- the byte alphabet --------------------------------------------------- */

static bool is_printable_byte(uint32_t byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/* alphabet_out[byte] is its code point: itself when printable, otherwise the next one from U+0100. */
static void byte_alphabet(uint32_t alphabet_out[256])
{
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; byte++)
        alphabet_out[byte] = is_printable_byte(byte) ? byte : next++;
    LW_ASSERT(next == ALPHABET_END);
}

/* Spelling to bytes; a character outside the alphabet stands for itself. Never longer than the spelling. */
static size_t spell_out(const int16_t byte_of[ALPHABET_END], const char *spelling, size_t spelling_bytes,
                        char *bytes)
{
    size_t count = 0, length;
    for (size_t at = 0; at < spelling_bytes; at += length) {
        uint32_t code_point = llama_utf8_next(spelling + at, spelling_bytes - at, &length);
        if (code_point < ALPHABET_END && byte_of[code_point] >= 0) {
            bytes[count++] = (char)byte_of[code_point];
        } else {
            memcpy(bytes + count, spelling + at, length);
            count += length;
        }
    }
    return count;
}

/* ---- token by spelling ---------------------------------------------------- */

static uint64_t hash_of(const char *text, size_t bytes) /* FNV-1a */
{
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3ull;
    return hash ^ hash >> 32;
}

static size_t probe(const llama_tokenizer_t *tokenizer, const char *spelling, size_t bytes)
{
    size_t at = hash_of(spelling, bytes) & (tokenizer->bucket_count - 1);
    while (tokenizer->bucket[at] != NONE) {
        const token_t *token = &tokenizer->token[tokenizer->bucket[at]];
        if (token->spelling_bytes == bytes && memcmp(token->spelling, spelling, bytes) == 0)
            break;
        at = (at + 1) & (tokenizer->bucket_count - 1);
    }
    return at;
}

uint32_t llama_tokenizer_find(const llama_tokenizer_t *tokenizer, const char *spelling, size_t bytes)
{
    return tokenizer->bucket[probe(tokenizer, spelling, bytes)];
}

uint32_t llama_tokenizer_count(const llama_tokenizer_t *tokenizer)
{
    return tokenizer->count;
}

/* ---- reading the metadata ------------------------------------------------- */

static lw_status_t find_strings(const llama_gguf_t *gguf, const char *key,
                                const llama_gguf_value_t **value_out, lw_error_t *error)
{
    const llama_gguf_value_t *value = llama_gguf_find(gguf, key);
    if (!value || value->type != LLAMA_GGUF_ARRAY || value->element_type != LLAMA_GGUF_STRING)
        return lw_fail(error, LW_ERR_INVALID, "gguf: %s is %s", key,
                       value ? "not an array of strings" : "missing");
    if (value->element_count > TOKENS_MAX)
        return lw_fail(error, LW_ERR_INVALID, "gguf: %s has %" PRIu64 " entries, more than %u", key,
                       value->element_count, TOKENS_MAX);
    *value_out = value;
    return LW_OK;
}

static lw_status_t read_kind(const llama_gguf_t *gguf, llama_tokenizer_t *tokenizer, lw_error_t *error)
{
    llama_text_t model, pre = {"gpt-2", 5};
    lw_status_t status = llama_gguf_text(gguf, "tokenizer.ggml.model", &model, error);
    if (status != LW_OK)
        return status;
    if (!llama_text_is(model, "gpt2"))
        return lw_fail(error, LW_ERR_UNSUPPORTED, "gguf: tokenizer.ggml.model is %.*s; supported: gpt2",
                       (int)(model.count < 80 ? model.count : 80), model.bytes);
    status = llama_gguf_text(gguf, "tokenizer.ggml.pre", &pre, error);
    if (status != LW_OK && status != LW_ERR_NOT_FOUND)
        return status;
    static const struct {
        const char *name;
        llama_pre_t pre;
    } known[] = {{"smollm", LLAMA_PRE_SMOLLM}, {"gpt-2", LLAMA_PRE_GPT2}, {"llama-bpe", LLAMA_PRE_LLAMA_BPE}};
    for (size_t i = 0; i < LW_ARRAY_SIZE(known); i++) {
        if (llama_text_is(pre, known[i].name)) {
            tokenizer->pre = known[i].pre;
            return LW_OK;
        }
    }
    return lw_fail(error, LW_ERR_UNSUPPORTED,
                   "gguf: tokenizer.ggml.pre is %.*s; supported: smollm gpt-2 llama-bpe",
                   (int)(pre.count < 80 ? pre.count : 80), pre.bytes);
}

/* Copies the spellings; types come from tokenizer.ggml.token_type, all normal without it. */
static lw_status_t read_tokens(const llama_gguf_t *gguf, llama_tokenizer_t *tokenizer, lw_error_t *error)
{
    const llama_gguf_value_t *tokens, *types = llama_gguf_find(gguf, "tokenizer.ggml.token_type");
    lw_status_t status = find_strings(gguf, "tokenizer.ggml.tokens", &tokens, error);
    if (status != LW_OK)
        return status;
    if (tokens->element_count == 0)
        return lw_fail(error, LW_ERR_INVALID, "gguf: tokenizer.ggml.tokens is empty");
    if (types && (types->type != LLAMA_GGUF_ARRAY || types->element_type != LLAMA_GGUF_I32 ||
                  types->element_count != tokens->element_count))
        return lw_fail(error, LW_ERR_INVALID, "gguf: tokenizer.ggml.token_type is not %" PRIu64 " int32",
                       tokens->element_count);
    tokenizer->count = (uint32_t)tokens->element_count;
    tokenizer->bucket_count = 16;
    while (tokenizer->bucket_count < (size_t)tokenizer->count * 2)
        tokenizer->bucket_count *= 2;
    tokenizer->token = calloc(tokenizer->count, sizeof(*tokenizer->token));
    tokenizer->bucket = malloc(tokenizer->bucket_count * sizeof(*tokenizer->bucket));
    tokenizer->arena = malloc((size_t)(tokens->data_end - tokens->data) * 2 + 1);
    if (!tokenizer->token || !tokenizer->bucket || !tokenizer->arena)
        return lw_fail(error, LW_ERR_NO_MEMORY, "tokenizer: no memory for %u tokens", tokenizer->count);
    memset(tokenizer->bucket, 0xff, tokenizer->bucket_count * sizeof(*tokenizer->bucket));

    const uint8_t *cursor = tokens->data;
    llama_text_t text;
    char *arena = tokenizer->arena;
    for (uint32_t id = 0; id < tokenizer->count && llama_gguf_next_text(tokens, &cursor, &text); id++) {
        token_t *token = &tokenizer->token[id];
        int32_t type = TYPE_NORMAL;
        if (types)
            memcpy(&type, types->data + (size_t)id * sizeof(type), sizeof(type));
        if (type < TYPE_NORMAL || type > TYPE_BYTE)
            return lw_fail(error, LW_ERR_INVALID, "gguf: tokenizer.ggml.token_type[%u] is %d", id, type);
        if (text.count > TOKEN_BYTES_MAX)
            return lw_fail(error, LW_ERR_INVALID,
                           "gguf: tokenizer.ggml.tokens[%u] has %zu bytes, more than %u", id, text.count,
                           TOKEN_BYTES_MAX);
        memcpy(arena, text.bytes, text.count);
        *token = (token_t){arena, arena, (uint16_t)text.count, (uint16_t)text.count, (uint8_t)type};
        arena += text.count;
        size_t at = probe(tokenizer, token->spelling, token->spelling_bytes);
        if (tokenizer->bucket[at] == NONE)
            tokenizer->bucket[at] = id;
    }
    return LW_OK;
}

static bool is_special(const token_t *token)
{
    return (token->type == TYPE_CONTROL || token->type == TYPE_USER_DEFINED) && token->spelling_bytes > 0;
}

static void spell_out_tokens(llama_tokenizer_t *tokenizer)
{
    int16_t byte_of[ALPHABET_END];
    byte_alphabet(tokenizer->alphabet);
    memset(byte_of, 0xff, sizeof(byte_of));
    for (uint32_t byte = 0; byte < 256; byte++)
        byte_of[tokenizer->alphabet[byte]] = (int16_t)byte;

    char *arena = tokenizer->arena;
    for (uint32_t id = 0; id < tokenizer->count; id++)
        arena += tokenizer->token[id].spelling_bytes;
    for (uint32_t id = 0; id < tokenizer->count; id++) {
        token_t *token = &tokenizer->token[id];
        if (is_special(token))
            continue;
        token->bytes = arena;
        token->byte_count = (uint16_t)spell_out(byte_of, token->spelling, token->spelling_bytes, arena);
        arena += token->byte_count;
    }
    for (uint32_t byte = 0; byte < 256; byte++) {
        char spelling[4];
        uint32_t id =
            llama_tokenizer_find(tokenizer, spelling, llama_utf8_put(tokenizer->alphabet[byte], spelling));
        tokenizer->of_byte[byte] = id == NONE ? tokenizer->unknown : id;
    }
}

static lw_status_t read_merges(const llama_gguf_t *gguf, llama_tokenizer_t *tokenizer, lw_error_t *error)
{
    const llama_gguf_value_t *merges;
    lw_status_t status = find_strings(gguf, "tokenizer.ggml.merges", &merges, error);
    if (status != LW_OK)
        return status;
    if (llama_merge_table_init(&tokenizer->merges, merges->element_count) != LW_OK)
        return lw_fail(error, LW_ERR_NO_MEMORY, "tokenizer: no memory for %" PRIu64 " merges",
                       merges->element_count);
    const uint8_t *cursor = merges->data;
    llama_text_t text;
    char both[2 * TOKEN_BYTES_MAX];
    for (uint32_t rank = 0; llama_gguf_next_text(merges, &cursor, &text); rank++) {
        const char *gap = text.count ? memchr(text.bytes, ' ', text.count) : NULL;
        if (!gap || text.count > sizeof(both))
            return lw_fail(error, LW_ERR_INVALID, "gguf: tokenizer.ggml.merges[%u] is not two tokens", rank);
        size_t left = (size_t)(gap - text.bytes), right = text.count - left - 1;
        memcpy(both, text.bytes, left);
        memcpy(both + left, gap + 1, right);
        llama_merge_t rule = {llama_tokenizer_find(tokenizer, both, left),
                              llama_tokenizer_find(tokenizer, gap + 1, right),
                              llama_tokenizer_find(tokenizer, both, left + right), rank};
        if (rule.left == NONE || rule.right == NONE || rule.merged == NONE)
            return lw_fail(error, LW_ERR_INVALID, "gguf: tokenizer.ggml.merges[%u] (%.*s) names no token",
                           rank, (int)(text.count < 80 ? text.count : 80), text.bytes);
        llama_merge_table_add(&tokenizer->merges, &rule);
    }
    return LW_OK;
}

/* Longest first, so that the first match is the longest; then by id, so that the order is one. */
static int longest_first(const void *left, const void *right, void *arg)
{
    const llama_tokenizer_t *tokenizer = arg;
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    uint16_t a_bytes = tokenizer->token[a].spelling_bytes, b_bytes = tokenizer->token[b].spelling_bytes;
    return a_bytes != b_bytes ? (a_bytes < b_bytes) - (a_bytes > b_bytes) : (a > b) - (a < b);
}

static lw_status_t list_specials(llama_tokenizer_t *tokenizer, lw_error_t *error)
{
    for (uint32_t id = 0; id < tokenizer->count; id++)
        tokenizer->special_count += is_special(&tokenizer->token[id]);
    tokenizer->special = calloc(tokenizer->special_count + 1, sizeof(*tokenizer->special));
    if (!tokenizer->special)
        return lw_fail(error, LW_ERR_NO_MEMORY, "tokenizer: no memory for special tokens");
    uint32_t count = 0;
    for (uint32_t id = 0; id < tokenizer->count; id++) {
        if (!is_special(&tokenizer->token[id]))
            continue;
        tokenizer->special[count++] = id;
        tokenizer->special_lead[(unsigned char)tokenizer->token[id].spelling[0]] = true;
    }
    qsort_r(tokenizer->special, count, sizeof(*tokenizer->special), longest_first, tokenizer);
    return LW_OK;
}

/* An id that the metadata may give; NONE when absent or outside the vocabulary. */
static uint32_t id_of(const llama_gguf_t *gguf, const char *key, uint32_t count)
{
    uint32_t id;
    return llama_gguf_u32(gguf, key, &id, NULL) == LW_OK && id < count ? id : NONE;
}

lw_status_t llama_tokenizer_create(const llama_gguf_t *gguf, llama_tokenizer_t **tokenizer_out,
                                   lw_error_t *error)
{
    llama_tokenizer_t *tokenizer = calloc(1, sizeof(*tokenizer));
    if (!tokenizer)
        return lw_fail(error, LW_ERR_NO_MEMORY, "tokenizer: no memory");
    lw_status_t status = read_kind(gguf, tokenizer, error);
    if (status == LW_OK)
        status = read_tokens(gguf, tokenizer, error);
    if (status == LW_OK) {
        tokenizer->unknown = id_of(gguf, "tokenizer.ggml.unknown_token_id", tokenizer->count);
        tokenizer->text_end = id_of(gguf, "tokenizer.ggml.eos_token_id", tokenizer->count);
        tokenizer->turn_start = llama_tokenizer_find(tokenizer, "<|im_start|>", 12);
        tokenizer->turn_end = llama_tokenizer_find(tokenizer, "<|im_end|>", 10);
        spell_out_tokens(tokenizer);
        status = read_merges(gguf, tokenizer, error);
    }
    if (status == LW_OK)
        status = list_specials(tokenizer, error);
    if (status != LW_OK) {
        llama_tokenizer_destroy(tokenizer);
        return status;
    }
    *tokenizer_out = tokenizer;
    return LW_OK;
}

void llama_tokenizer_destroy(llama_tokenizer_t *tokenizer)
{
    if (!tokenizer)
        return;
    llama_merge_table_fini(&tokenizer->merges);
    free(tokenizer->token);
    free(tokenizer->arena);
    free(tokenizer->bucket);
    free(tokenizer->special);
    free(tokenizer);
}

/* ---- text to tokens -------------------------------------------------------- */

void llama_tokens_free(llama_tokens_t *tokens)
{
    free(tokens->ids);
    *tokens = (llama_tokens_t){0};
}

static lw_status_t reserve(llama_tokens_t *tokens, size_t more)
{
    if (tokens->capacity - tokens->count >= more)
        return LW_OK;
    size_t capacity = (tokens->count + more) * 2;
    uint32_t *ids = realloc(tokens->ids, capacity * sizeof(*ids));
    if (!ids)
        return LW_ERR_NO_MEMORY;
    tokens->ids = ids;
    tokens->capacity = capacity;
    return LW_OK;
}

static lw_status_t append_token(llama_tokens_t *tokens, uint32_t token)
{
    lw_status_t status = reserve(tokens, 1);
    if (status == LW_OK)
        tokens->ids[tokens->count++] = token;
    return status;
}

/* The token that spells the whole piece; NONE when there is none. */
static uint32_t whole_piece(const llama_tokenizer_t *tokenizer, const char *piece, size_t bytes)
{
    char spelling[TOKEN_BYTES_MAX];
    size_t count = 0;
    if (bytes > sizeof(spelling) / 2)
        return NONE;
    for (size_t i = 0; i < bytes; i++)
        count += llama_utf8_put(tokenizer->alphabet[(unsigned char)piece[i]], spelling + count);
    return llama_tokenizer_find(tokenizer, spelling, count);
}

static lw_status_t encode_piece(const llama_tokenizer_t *tokenizer, const char *piece, size_t bytes,
                                llama_tokens_t *tokens)
{
    lw_status_t status = reserve(tokens, bytes);
    if (status != LW_OK)
        return status;
    /* Vocabularies of this kind have words that their merges cannot build. */
    uint32_t whole = tokenizer->pre == LLAMA_PRE_LLAMA_BPE ? whole_piece(tokenizer, piece, bytes) : NONE;
    if (whole != NONE)
        return append_token(tokens, whole);
    size_t count = 0, merged;
    uint32_t *symbols = tokens->ids + tokens->count;
    for (size_t i = 0; i < bytes; i++) {
        uint32_t token = tokenizer->of_byte[(unsigned char)piece[i]];
        if (token != NONE)
            symbols[count++] = token;
    }
    status = llama_bpe_merge(&tokenizer->merges, symbols, count, &merged);
    if (status == LW_OK)
        tokens->count += merged;
    return status;
}

static lw_status_t encode_plain(const llama_tokenizer_t *tokenizer, const char *text, size_t bytes,
                                llama_tokens_t *tokens)
{
    while (bytes) {
        size_t piece = llama_pre_next(tokenizer->pre, text, bytes);
        lw_status_t status = encode_piece(tokenizer, text, piece, tokens);
        if (status != LW_OK)
            return status;
        text += piece;
        bytes -= piece;
    }
    return LW_OK;
}

/* The special token that the text starts with; NONE when it starts with none. User-defined ones always count.
 */
static uint32_t special_at(const llama_tokenizer_t *tokenizer, const char *text, size_t bytes, bool control)
{
    if (!tokenizer->special_lead[(unsigned char)text[0]])
        return NONE;
    for (uint32_t i = 0; i < tokenizer->special_count; i++) {
        const token_t *token = &tokenizer->token[tokenizer->special[i]];
        if ((control || token->type == TYPE_USER_DEFINED) && token->spelling_bytes <= bytes &&
            memcmp(token->spelling, text, token->spelling_bytes) == 0)
            return tokenizer->special[i];
    }
    return NONE;
}

lw_status_t llama_encode(const llama_tokenizer_t *tokenizer, const char *text, size_t bytes, bool special,
                         llama_tokens_t *tokens)
{
    size_t plain = 0; /* start of the text not yet encoded */
    for (size_t at = 0; at < bytes;) {
        uint32_t token = special_at(tokenizer, text + at, bytes - at, special);
        if (token == NONE) {
            at++;
            continue;
        }
        lw_status_t status = encode_plain(tokenizer, text + plain, at - plain, tokens);
        if (status == LW_OK)
            status = append_token(tokens, token);
        if (status != LW_OK)
            return status;
        at += tokenizer->token[token].spelling_bytes;
        plain = at;
    }
    return encode_plain(tokenizer, text + plain, bytes - plain, tokens);
}

lw_status_t llama_encode_turn(const llama_tokenizer_t *tokenizer, const char *role, const char *text,
                              size_t bytes, llama_tokens_t *tokens)
{
    if (tokenizer->turn_start == NONE || tokenizer->turn_end == NONE)
        return LW_ERR_UNSUPPORTED;
    /* Role, line end and text are one stretch for the pre-tokenizer. */
    size_t role_bytes = strlen(role);
    char *stretch = malloc(role_bytes + 1 + bytes);
    if (!stretch)
        return LW_ERR_NO_MEMORY;
    memcpy(stretch, role, role_bytes);
    stretch[role_bytes] = '\n';
    if (text)
        memcpy(stretch + role_bytes + 1, text, bytes);
    lw_status_t status = append_token(tokens, tokenizer->turn_start);
    if (status == LW_OK)
        status = llama_encode(tokenizer, stretch, role_bytes + 1 + (text ? bytes : 0), false, tokens);
    if (status == LW_OK && text)
        status = append_token(tokens, tokenizer->turn_end);
    if (status == LW_OK && text)
        status = encode_plain(tokenizer, "\n", 1, tokens);
    free(stretch);
    return status;
}

/* ---- tokens to text -------------------------------------------------------- */

size_t llama_decode(const llama_tokenizer_t *tokenizer, uint32_t token, char *text, size_t text_bytes)
{
    if (token >= tokenizer->count)
        return 0;
    size_t count = tokenizer->token[token].byte_count;
    if (text_bytes)
        memcpy(text, tokenizer->token[token].bytes, count < text_bytes ? count : text_bytes);
    return count;
}

bool llama_is_end(const llama_tokenizer_t *tokenizer, uint32_t token)
{
    return token != NONE && (token == tokenizer->turn_end || token == tokenizer->text_end);
}
