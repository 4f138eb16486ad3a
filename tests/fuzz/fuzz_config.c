/* fuzz_config.c - the text of a configuration file. What is taken must dump to a file that reads back the
 * same. */
#include <stdbool.h>
#include <string.h>

#include "fuzz.h"
#include "unit/proto/test_options.h"

static void dump_and_read_again(const test_options_t *options)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    test_options_t again;
    lw_error_t error;

    FUZZ_REQUIRE(out != NULL);
    memset(&again, 0, sizeof(again));
    lw_options_dump(&test_table, options, out);
    fclose(out);
    FUZZ_REQUIRE(lw_options_text(&test_table, text, bytes, &again, &error) == LW_OK);
    FUZZ_REQUIRE(memcmp(options, &again, sizeof(again)) == 0);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count)
{
    test_options_t options;
    lw_error_t error;

    memset(&options, 0, sizeof(options));
    FUZZ_REQUIRE(lw_options_default(&test_table, &options, &error) == LW_OK);
    lw_status_t status = lw_options_text(&test_table, (const char *)bytes, byte_count, &options, &error);
    FUZZ_REQUIRE(status == LW_OK || (status == LW_ERR_INVALID && strncmp(error.text, "line ", 5) == 0));
    FUZZ_REQUIRE(options.guard_before == 0 && options.guard_after == 0);
    FUZZ_REQUIRE(options.shard_threads >= 1 && options.shard_threads <= 64);
    dump_and_read_again(&options); /* a refused line leaves the lines before it */
    return 0;
}
