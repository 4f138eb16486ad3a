/* llama_run.c - reads a prompt or a document with a model under full attention and writes what follows, with
 * tokens per second. To try the runner, to measure perplexity, and to compare logits with other
 * implementations. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "client/examples/llama/llama.h"

typedef struct options {
    const char *model, *prompt, *file, *logits;
    uint32_t tokens, threads, context;
    bool chat, score, ids, json;
} options_t;

typedef struct result {
    uint32_t prompt_tokens, decoded_tokens, threads;
    double load_s, prefill_s, decode_s, nll_sum;
    uint32_t nll_tokens;
} result_t;

static const char usage[] =
    "llama_run --model FILE [--prompt TEXT | --file FILE] [options]\n"
    "  --tokens N      tokens to decode (64)\n"
    "  --chat          the prompt is a user's turn of a chat\n"
    "  --score         perplexity of the text instead of decoding\n"
    "  --context N     read at most N tokens of the text (what the model was trained for)\n"
    "  --ids           print the tokens of the text instead of running the model\n"
    "  --logits FILE   write the fp32 logits after the text\n"
    "  --threads N     0: one a core (0)\n"
    "  --json          print figures as JSON on the last line\n";

static lw_status_t parse(int argc, char **argv, options_t *options)
{
    static const struct option known[] = {
        {"model", 1, NULL, 'm'},   {"prompt", 1, NULL, 'p'},  {"file", 1, NULL, 'f'},
        {"tokens", 1, NULL, 'n'},  {"chat", 0, NULL, 'c'},    {"score", 0, NULL, 's'},
        {"ids", 0, NULL, 'i'},     {"logits", 1, NULL, 'l'},  {"json", 0, NULL, 'j'},
        {"threads", 1, NULL, 't'}, {"context", 1, NULL, 'x'}, {0}};
    int letter;
    *options = (options_t){.tokens = 64, .prompt = "Once upon a time"};
    while ((letter = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (letter) {
        case 'm': options->model = optarg; break;
        case 'p': options->prompt = optarg; break;
        case 'f': options->file = optarg; break;
        case 'l': options->logits = optarg; break;
        case 'n': options->tokens = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 't': options->threads = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'x': options->context = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'c': options->chat = true; break;
        case 's': options->score = true; break;
        case 'i': options->ids = true; break;
        case 'j': options->json = true; break;
        default: return LW_ERR_INVALID;
        }
    }
    return options->model && optind == argc ? LW_OK : LW_ERR_INVALID;
}

static double seconds(void)
{
    return (double)lw_now_us(lw_clock_real()) * 1e-6;
}

/* malloc'ed contents of the file, or of the prompt. */
static char *read_text(const options_t *options, size_t *bytes_out)
{
    if (!options->file) {
        *bytes_out = strlen(options->prompt);
        return strdup(options->prompt);
    }
    FILE *file = fopen(options->file, "rb");
    char *text = NULL;
    size_t count = 0, room = 0;
    if (!file)
        return NULL;
    do {
        room = room ? room * 2 : 65536;
        char *larger = realloc(text, room);
        if (!larger) {
            free(text);
            text = NULL;
            break;
        }
        text = larger;
        count += fread(text + count, 1, room - count, file);
    } while (count == room);
    fclose(file);
    *bytes_out = count;
    return text;
}

static lw_status_t tokenize(const options_t *options, const llama_model_t *model, llama_tokens_t *tokens)
{
    const llama_tokenizer_t *tokenizer = llama_model_tokenizer(model);
    size_t bytes;
    char *text = read_text(options, &bytes);
    if (!text) {
        fprintf(stderr, "llama_run: cannot read %s\n", options->file);
        return LW_ERR_IO;
    }
    lw_status_t status;
    if (options->chat) {
        status = llama_encode_turn(tokenizer, "user", text, bytes, tokens);
        if (status == LW_OK)
            status = llama_encode_turn(tokenizer, "assistant", NULL, 0, tokens);
    } else {
        status = llama_encode(tokenizer, text, bytes, false, tokens);
    }
    free(text);
    uint32_t most = llama_model_shape(model)->context;
    if (options->context && options->context < most)
        most = options->context;
    if (tokens->count > most && !options->ids)
        tokens->count = most;
    return status == LW_OK && tokens->count == 0 ? LW_ERR_INVALID : status;
}

/* Mean negative log-likelihood of tokens 1 .. count - 1, each given all before it. */
static lw_status_t score(llama_runner_t *runner, const llama_attention_t *attention, uint32_t vocabulary,
                         const llama_tokens_t *tokens, result_t *result)
{
    enum { CHUNK = 128 };
    float *logits = malloc((size_t)CHUNK * vocabulary * sizeof(*logits));
    lw_status_t status = logits ? LW_OK : LW_ERR_NO_MEMORY;
    for (uint32_t done = 0; status == LW_OK && done < tokens->count; done += CHUNK) {
        uint32_t count = tokens->count - done < CHUNK ? (uint32_t)tokens->count - done : CHUNK;
        llama_chunk_t chunk = {tokens->ids + done, count, done, 0, logits};
        status = llama_forward(runner, attention, &chunk);
        for (uint32_t t = 0; status == LW_OK && t < count && done + t + 1 < tokens->count; t++) {
            result->nll_sum -=
                llama_log_probability(logits + (size_t)t * vocabulary, vocabulary, tokens->ids[done + t + 1]);
            result->nll_tokens++;
        }
        if ((done / CHUNK) % 8 == 7)
            fprintf(stderr, "%u of %zu tokens, perplexity %.2f\n", done + count, tokens->count,
                    exp(result->nll_sum / result->nll_tokens));
    }
    free(logits);
    return status;
}

static void print_token(const llama_tokenizer_t *tokenizer, uint32_t token)
{
    char text[4096];
    fwrite(text, 1, llama_decode(tokenizer, token, text, sizeof(text)), stdout);
    fflush(stdout);
}

static lw_status_t decode(const options_t *options, const llama_model_t *model, llama_runner_t *runner,
                          const llama_attention_t *attention, const llama_tokens_t *tokens, float *logits,
                          result_t *result)
{
    uint32_t vocabulary = llama_model_shape(model)->vocabulary, position = (uint32_t)tokens->count;
    uint32_t room = llama_model_shape(model)->context - position;
    for (uint32_t i = 0; i < options->tokens && i < room; i++, position++) {
        uint32_t token = llama_greedy(logits, vocabulary);
        if (llama_is_end(llama_model_tokenizer(model), token))
            break;
        print_token(llama_model_tokenizer(model), token);
        llama_chunk_t chunk = {&token, 1, position, 0, logits};
        lw_status_t status = llama_forward(runner, attention, &chunk);
        if (status != LW_OK)
            return status;
        result->decoded_tokens++;
    }
    printf("\n");
    return LW_OK;
}

static lw_status_t write_logits(const char *path, const float *logits, uint32_t vocabulary)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return LW_ERR_IO;
    size_t written = fwrite(logits, sizeof(*logits), vocabulary, file);
    return fclose(file) == 0 && written == vocabulary ? LW_OK : LW_ERR_IO;
}

static lw_status_t run(const options_t *options, llama_pool_t *pool, const llama_model_t *model,
                       const llama_tokens_t *tokens, result_t *result)
{
    const llama_shape_t *shape = llama_model_shape(model);
    llama_runner_t *runner = NULL;
    llama_full_t *full = NULL;
    float *logits = malloc(shape->vocabulary * sizeof(*logits));
    lw_status_t status = logits ? llama_runner_create(model, pool, 0, 0, &runner) : LW_ERR_NO_MEMORY;
    if (status == LW_OK)
        status = llama_full_create(shape, shape->context, pool, &full);
    if (status != LW_OK)
        goto free_all;
    llama_attention_t attention = llama_full_attention(full);
    double start = seconds();
    if (options->score) {
        status = score(runner, &attention, shape->vocabulary, tokens, result);
        result->prefill_s = seconds() - start;
        goto free_all;
    }
    status = llama_prefill(runner, &attention, tokens->ids, (uint32_t)tokens->count, 0, logits, NULL, NULL);
    result->prefill_s = seconds() - start;
    if (status == LW_OK && options->logits)
        status = write_logits(options->logits, logits, shape->vocabulary);
    start = seconds();
    if (status == LW_OK)
        status = decode(options, model, runner, &attention, tokens, logits, result);
    result->decode_s = seconds() - start;
free_all:
    llama_runner_destroy(runner);
    llama_full_destroy(full);
    free(logits);
    return status;
}

static void report(const options_t *options, const result_t *result)
{
    double prefill = result->prefill_s > 0 ? result->prompt_tokens / result->prefill_s : 0;
    double decoded = result->decode_s > 0 ? result->decoded_tokens / result->decode_s : 0;
    double perplexity = result->nll_tokens ? exp(result->nll_sum / result->nll_tokens) : 0;
    if (options->json)
        printf("{\"threads\":%u,\"load_s\":%.3f,\"prompt_tokens\":%u,\"prefill_tokens_per_s\":%.1f,"
               "\"decoded_tokens\":%u,\"decode_tokens_per_s\":%.2f,\"perplexity\":%.4f}\n",
               result->threads, result->load_s, result->prompt_tokens, prefill, result->decoded_tokens,
               decoded, perplexity);
    else
        fprintf(stderr,
                "%u threads; load %.2f s; %u tokens read at %.1f tokens/s; %u decoded at %.2f tokens/s; "
                "perplexity %.2f\n",
                result->threads, result->load_s, result->prompt_tokens, prefill, result->decoded_tokens,
                decoded, perplexity);
}

int main(int argc, char **argv)
{
    options_t options;
    result_t result = {0};
    lw_error_t error = {0};
    llama_pool_t *pool = NULL;
    llama_model_t *model = NULL;
    llama_tokens_t tokens = {0};
    if (parse(argc, argv, &options) != LW_OK) {
        fputs(usage, stderr);
        return 2;
    }
    double start = seconds();
    lw_status_t status = llama_pool_create(options.threads, &pool, &error);
    if (status == LW_OK)
        status = llama_model_open(options.model, pool, &model, &error);
    if (status != LW_OK)
        goto close_all;
    result.load_s = seconds() - start;
    result.threads = llama_pool_threads(pool);
    status = tokenize(&options, model, &tokens);
    result.prompt_tokens = (uint32_t)tokens.count;
    if (status == LW_OK && options.ids) {
        for (size_t i = 0; i < tokens.count; i++)
            printf("%u\n", tokens.ids[i]);
    } else if (status == LW_OK) {
        status = run(&options, pool, model, &tokens, &result);
        if (status == LW_OK)
            report(&options, &result);
    }
close_all:
    if (status != LW_OK)
        fprintf(stderr, "llama_run: %s%s%s\n", lw_status_text(status), error.text[0] ? ": " : "", error.text);
    llama_tokens_free(&tokens);
    llama_model_close(model);
    llama_pool_destroy(pool);
    return status == LW_OK ? 0 : 1;
}
