/* decode.c - one session under faults: prefills, then decodes for ever at full retrieval with a cache that holds next to
 * nothing, so that every step fetches, and compares each step with exact attention. It says what it does, one line each:
 *
 *   ready SESSION TOKENS SEALED        a session is prefilled and sealed
 *   step BEGAN ENDED ATTEND OFF TOKENS microseconds of the monotonic clock; time inside lw_attend; largest error of an output
 *   failed BEGAN ENDED WORDS           a step that ended with an error; it is tried again
 *   slow NAME VALUE ...                what the library counted during a step of more than SLOW_US
 *   traffic NAME VALUE ...             the same since the beginning, at the end
 *
 * Lines on stdin: `fresh` drops the session and begins another, `end` (or the end of the input) stops.
 * Arguments: the fleet's control addresses, tokens to prefill, milliseconds between two steps, client options. LW_TEST_SEED. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "unit/client/harness.h"

#define ROOM_TOKENS 8192u /* a session grows by so many at most */
#define SLOW_US 500000u
#define TRAFFIC (LW_ATTR_TRAFFIC | LW_ATTR_REPLICAS)

typedef struct decode {
    harness_t h;
    sequence_t sequence;
    lw_session_t *session;
    uint32_t prefill;
    int pause_ms;
} decode_t;

static uint64_t now_us(void)
{
    return lw_now_us(lw_clock_real());
}

static void open_handle(decode_t *d, const char *fleet, const char *config)
{
    static const harness_params_t shape = {.layers = 3, .replicas = 2};
    memset(&d->h, 0, sizeof(d->h));
    lw_prng_seed(&d->h.prng, strtoull(getenv("LW_TEST_SEED") ? getenv("LW_TEST_SEED") : "1", NULL, 0));
    harness_model(&d->h, &shape);
    lw_open_params_t open = {.size = sizeof(open),
                             .backend = "cpu",
                             .fleet = fleet,
                             .config = config,
                             .device_bytes = 64 << 10,
                             .model = d->h.model,
                             .sessions_max = 2,
                             .tokens_max = 32768};
    if (lw_open(&open, &d->h.kv) != LW_OK)
        fail_msg("open: %s", lw_last_error(NULL));
}

static void begin_session(decode_t *d)
{
    lw_session_attr_t attr = {.field_mask = LW_SESSION_ATTR_TOKENS};
    sequence_init(&d->sequence, &d->h, d->prefill + ROOM_TOKENS);
    sequence_grow(&d->sequence, &d->h, d->prefill + ROOM_TOKENS);
    d->session = harness_session(&d->h, LW_POLICY_FULL, 1024);
    harness_prefill(&d->h, d->session, &d->sequence, 0, d->prefill, 500);
    harness_settle(&d->h);
    if (lw_session_query(d->session, &attr) != LW_OK)
        fail_msg("query: %s", lw_last_error(d->h.kv));
    printf("ready %" PRIu64 " %u %u\n", attr.session_id, attr.token_count, attr.sealed_tokens);
}

static void end_session(decode_t *d)
{
    if (lw_session_drop(d->session) != LW_OK)
        printf("drop %s\n", lw_last_error(d->h.kv));
    lw_session_close(d->session);
    sequence_fini(&d->sequence);
}

static lw_attr_t traffic(const decode_t *d)
{
    lw_attr_t attr = {.field_mask = TRAFFIC};
    if (lw_query(d->h.kv, &attr) != LW_OK)
        fail_msg("query: %s", lw_last_error(d->h.kv));
    return attr;
}

static void tell_traffic(const char *word, const lw_attr_t *from, const lw_attr_t *to)
{
    printf("%s fetch_requests %" PRIu64 " fetch_retries %" PRIu64 " checksum_failures %" PRIu64 " hedges %" PRIu64
           " hedges_won %" PRIu64 " hedges_denied %" PRIu64 " reroutes %" PRIu64 " fetch_wait_us %" PRIu64 "\n",
           word, to->fetch_requests - from->fetch_requests, to->fetch_retries - from->fetch_retries,
           to->checksum_failures - from->checksum_failures, to->hedges - from->hedges, to->hedges_won - from->hedges_won,
           to->hedges_denied - from->hedges_denied, to->reroutes - from->reroutes, to->fetch_wait_us - from->fetch_wait_us);
}

static void step(decode_t *d)
{
    result_t result;
    lw_attr_t before = traffic(d);
    uint64_t began = now_us(), attend = d->h.attend_us;
    lw_status_t status = harness_step(&d->h, d->session, &d->sequence, 1, false, &result);
    uint64_t ended = now_us();
    if (status == LW_OK)
        printf("step %" PRIu64 " %" PRIu64 " %" PRIu64 " %.3g %u\n", began, ended, d->h.attend_us - attend,
               result_out_error(&result), harness_tokens(d->session));
    else
        printf("failed %" PRIu64 " %" PRIu64 " %s: %s\n", began, ended, lw_status_string(status), lw_last_error(d->h.kv));
    if (ended - began > SLOW_US) {
        lw_attr_t after = traffic(d);
        tell_traffic("slow", &before, &after);
    }
    result_fini(&result);
}

/* A line from stdin, if there is one by then; "" is its end. */
static bool command(char *line, size_t bytes, int wait_ms)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    if (poll(&input, 1, wait_ms) <= 0)
        return false;
    ssize_t got = read(STDIN_FILENO, line, bytes - 1);
    line[got > 0 ? got : 0] = '\0';
    return true;
}

int main(int argc, char **argv)
{
    static decode_t d;
    static const lw_attr_t none;
    char line[64] = "";
    if (argc != 5 || !lw_fabric_ucx())
        return 77;
    setvbuf(stdout, NULL, _IOLBF, 0);
    d.prefill = (uint32_t)strtoul(argv[2], NULL, 0);
    d.pause_ms = atoi(argv[3]);
    open_handle(&d, argv[1], argv[4]);
    begin_session(&d);
    for (;;) {
        if (harness_tokens(d.session) < d.prefill + ROOM_TOKENS)
            step(&d);
        if (!command(line, sizeof(line), d.pause_ms))
            continue;
        if (strcmp(line, "fresh\n") != 0)
            break;
        end_session(&d);
        begin_session(&d);
    }
    lw_attr_t all = traffic(&d);
    tell_traffic("traffic", &none, &all);
    end_session(&d);
    lw_close(d.h.kv);
    return 0;
}
