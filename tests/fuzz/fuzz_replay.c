/* fuzz_replay.c - a fuzz target as a plain program: every file of the named directories, then seeded
 * mutations of them.
 *
 *   fuzz_<parser>_replay [--mutations N] [--seed S] [--expect-failure] DIRECTORY|FILE...
 *
 * LW_QUICK=1 (quick.h) takes a tenth of the mutations.
 * Without --seed the seed is fresh; it is printed first, and with the number of the mutation it repeats a
 * failure exactly. */
#include <dirent.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "base/clock.h"
#include "base/prng.h"
#include "fuzz.h"
#include "quick.h"

#define SEEDS_MAX 4096
#define INPUT_MAX (256u << 10)

typedef struct input {
    uint8_t *bytes;
    size_t byte_count;
    char path[512];
} input_t;

static input_t seeds[SEEDS_MAX];
static size_t seed_count;
static volatile unsigned long long mutation_now; /* for the signal handler */
static unsigned long long seed_now;

static void load_file(const char *path)
{
    input_t *seed = &seeds[seed_count];
    FILE *file = fopen(path, "rb");

    FUZZ_REQUIRE(file != NULL && seed_count < SEEDS_MAX);
    seed->bytes = malloc(INPUT_MAX);
    FUZZ_REQUIRE(seed->bytes != NULL);
    seed->byte_count = fread(seed->bytes, 1, INPUT_MAX, file);
    snprintf(seed->path, sizeof(seed->path), "%s", path);
    fclose(file);
    seed_count++;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

/* In order of names: the order of a directory must not change what a seed repeats. */
static void load_path(const char *path)
{
    struct stat info;
    struct dirent **names;

    if (stat(path, &info) != 0) {
        fprintf(stderr, "%s: no such corpus\n", path);
        exit(2);
    }
    if (!S_ISDIR(info.st_mode)) {
        load_file(path);
        return;
    }
    int count = scandir(path, &names, NULL, by_name);
    FUZZ_REQUIRE(count >= 0);
    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] != '.') {
            char file[512];
            snprintf(file, sizeof(file), "%s/%s", path, names[i]->d_name);
            load_file(file);
        }
        free(names[i]);
    }
    free(names);
}

static size_t some(lw_prng_t *prng, size_t below)
{
    return (size_t)lw_prng_below(prng, below > 0 ? below : 1);
}

/* One small change; keeps byte_count within INPUT_MAX. */
static size_t mutate_once(lw_prng_t *prng, uint8_t *bytes, size_t byte_count)
{
    static const uint64_t extremes[] = {
        0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff, UINT64_MAX};
    size_t at = some(prng, byte_count), length;

    switch (lw_prng_below(prng, 7)) {
    case 0: /* a bit */
        if (byte_count > 0) {
            bytes[at] ^= (uint8_t)(1u << lw_prng_below(prng, 8));
        }
        return byte_count;
    case 1: /* a byte */
        if (byte_count > 0) {
            bytes[at] = (uint8_t)lw_prng_u64(prng);
        }
        return byte_count;
    case 2: { /* a word becomes extreme, aligned as fields are */
        size_t width = (size_t)1 << lw_prng_below(prng, 4);
        at &= ~(width - 1);
        if (at + width <= byte_count) {
            memcpy(bytes + at, &extremes[some(prng, LW_ARRAY_SIZE(extremes))], width);
        }
        return byte_count;
    }
    case 3: /* cut */
        return at;
    case 4: /* erase */
        length = some(prng, byte_count - at);
        memmove(bytes + at, bytes + at + length, byte_count - at - length);
        return byte_count - length;
    case 5: /* repeat a piece of itself */
        length = some(prng, lw_min_u64(byte_count - at, INPUT_MAX - byte_count));
        memmove(bytes + at + length, bytes + at, byte_count - at);
        return byte_count + length;
    default: { /* a piece of another seed */
        const input_t *other = &seeds[some(prng, seed_count)];
        size_t from = some(prng, other->byte_count);
        length = some(prng, lw_min_u64(other->byte_count - from, byte_count - at));
        memcpy(bytes + at, other->bytes + from, length);
        return byte_count;
    }
    }
}

static void run_one(const uint8_t *bytes, size_t byte_count)
{
    fuzz_guard_t guard = fuzz_guard_copy(bytes, byte_count, 1);

    LLVMFuzzerTestOneInput(guard.bytes, byte_count);
    fuzz_guard_free(&guard);
}

static void run_all(unsigned long long mutations)
{
    static uint8_t bytes[INPUT_MAX];
    lw_prng_t prng;

    for (size_t i = 0; i < seed_count; i++) {
        run_one(seeds[i].bytes, seeds[i].byte_count);
    }
    for (mutation_now = 1; mutation_now <= mutations; mutation_now++) {
        lw_prng_seed(&prng, seed_now + mutation_now);
        const input_t *seed = &seeds[some(&prng, seed_count)];
        size_t byte_count = seed->byte_count;

        memcpy(bytes, seed->bytes, byte_count);
        for (uint64_t i = 1 + lw_prng_below(&prng, 5); i > 0; i--) {
            byte_count = mutate_once(&prng, bytes, byte_count);
        }
        run_one(bytes, byte_count);
    }
}

static void tell_place(int number)
{
    char text[128];
    int bytes =
        snprintf(text, sizeof(text), "fuzz: failed at --seed %llu, mutation %llu\n", seed_now, mutation_now);

    if (write(2, text, (size_t)bytes) != bytes) {
        _exit(3);
    }
    signal(number, SIG_DFL);
    raise(number);
}

static void watch(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};

    for (size_t i = 0; i < LW_ARRAY_SIZE(numbers); i++) {
        signal(numbers[i], tell_place);
    }
}

/* The canary: the run must fail, in a child so that this process can say so. */
static int run_expecting_failure(unsigned long long mutations)
{
    int state = 0;
    pid_t child = fork();

    FUZZ_REQUIRE(child >= 0);
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        watch();
        run_all(mutations);
        _exit(0);
    }
    FUZZ_REQUIRE(waitpid(child, &state, 0) == child);
    if (WIFEXITED(state) && WEXITSTATUS(state) == 0) {
        fprintf(stderr, "fuzz: the planted fault was not found\n");
        return 1;
    }
    printf("fuzz: the planted fault was found\n");
    return 0;
}

int main(int argc, char **argv)
{
    unsigned long long mutations = 0;
    int expect_failure = 0;

    seed_now = lw_clock_real()->unix_us(NULL);
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--mutations") == 0 && i + 1 < argc) {
            mutations = strtoull(argv[++i], NULL, 0);
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            seed_now = strtoull(argv[++i], NULL, 0);
        } else if (strcmp(argv[i], "--expect-failure") == 0) {
            expect_failure = 1;
        } else {
            load_path(argv[i]);
        }
    }
    mutations = quick_run() ? mutations / 10 : mutations;
    if (seed_count == 0) {
        fprintf(stderr, "fuzz: no inputs\n");
        return 2;
    }
    printf("fuzz: --seed %llu, %zu inputs, %llu mutations\n", seed_now, seed_count, mutations);
    fflush(stdout);
    if (expect_failure) {
        return run_expecting_failure(mutations);
    }
    watch();
    run_all(mutations);
    for (size_t i = 0; i < seed_count; i++) {
        free(seeds[i].bytes);
    }
    return 0;
}
