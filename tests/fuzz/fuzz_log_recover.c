/* fuzz_log_recover.c - a log on disk that an earlier life, or anybody, has left: an input is the file. Tried as it is, and with
 * the checksums of the super block and of the headers made right. Whatever is found there is safe to read, and the log goes on. */
#include <string.h>

#include "base/log.h"
#include "fuzz.h"
#include "storaged/io/disk_sim.h"
#include "storaged/tier/log_fmt.h"
#include "storaged/tier/tier.h"

#define ZONE (16u << 10)
#define ZONES 4u
#define FILE_BYTES (LWD_LOG_BLOCK + ZONES * ZONE)
#define RECORDS 16u

static uint8_t file[FILE_BYTES];
static _Alignas(4096) uint8_t buffer[ZONE];

static void load_all(lwd_tier_t *tier)
{
    lwd_tier_event_t events[LWD_TIER_EVENTS_MAX];
    lw_error_t error;
    for (uint32_t record = 0; record < RECORDS; record++) {
        lwd_tier_record_t is;
        if (!lwd_tier_record(tier, record, &is))
            continue;
        FUZZ_REQUIRE(lwd_log_record_space(is.bytes) <= ZONE);
        FUZZ_REQUIRE(lwd_tier_load(tier, record, buffer, record) == LW_OK);
        FUZZ_REQUIRE(lwd_tier_round(tier, events) == 1 && events[0].status == LW_OK);
        (void)!lw_segment_verify(buffer, is.bytes, &error);
    }
}

static void try_one(void)
{
    lwd_disk_sim_t sim = {.bytes = file, .size = FILE_BYTES, .torn_after = UINT64_MAX};
    lwd_tier_params_t params = {
        .disk = lwd_disk_sim_ops(), .path = "log", .bytes = FILE_BYTES, .zone_bytes = ZONE, .record_max = RECORDS};
    lwd_tier_event_t events[LWD_TIER_EVENTS_MAX];
    lw_error_t error = {0};
    lwd_tier_t *tier;
    lwd_disk_sim_use(&sim);
    if (lwd_tier_open(&params, &tier, &error) != LW_OK) {
        FUZZ_REQUIRE(error.text[0] != '\0');
        return;
    }
    FUZZ_REQUIRE(lwd_tier_check(tier));
    load_all(tier);
    const lwd_tier_record_t more = {{.origin = 77, .generation = 1}, 300, 1};
    if (lwd_tier_append(tier, &more, buffer, 0) == LW_OK) {
        for (int i = 0; i < 200 && lwd_tier_round(tier, events) == 0; i++) {
        }
    }
    for (int i = 0; i < 200; i++)
        (void)lwd_tier_round(tier, events);
    FUZZ_REQUIRE(lwd_tier_check(tier));
    lwd_tier_close(tier);
}

static void make_right(void)
{
    lwd_log_super_t super;
    memcpy(&super, file, sizeof(super));
    super = (lwd_log_super_t){.magic = LWD_LOG_MAGIC, .version = LWD_LOG_VERSION, .zone_count = ZONES, .zone_bytes = ZONE,
                              .log_id = super.log_id};
    lwd_log_super_seal(&super);
    memcpy(file, &super, sizeof(super));
    for (size_t at = LWD_LOG_BLOCK; at < FILE_BYTES; at += LWD_LOG_BLOCK) {
        lwd_log_record_t record;
        memcpy(&record, file + at, sizeof(record));
        if (record.magic != LWD_LOG_RECORD_MAGIC)
            continue;
        record.version = LWD_LOG_VERSION;
        record.log_id = super.log_id;
        lwd_log_record_seal(&record);
        memcpy(file + at, &record, sizeof(record));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t byte_count)
{
    lw_log_set_level(LW_LOG_ERROR);
    for (int right = 0; right < 2; right++) {
        memset(file, 0, sizeof(file));
        memcpy(file, bytes, byte_count < sizeof(file) ? byte_count : sizeof(file));
        if (right)
            make_right();
        try_one();
    }
    return 0;
}
