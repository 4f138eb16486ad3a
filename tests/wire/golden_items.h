/* golden_items.h - the contents of each golden file, built by the codec of today. */
#ifndef LW_GOLDEN_ITEMS_H
#define LW_GOLDEN_ITEMS_H

#include "wire/msg.h"
#include "wire/segment_fmt.h"

#define GOLDEN_BYTES_MAX 8192

/* One message with its payload, as a transport would carry them one after the other. */
typedef struct golden_message {
    lw_msg_t msg;
    uint32_t list_bytes, bulk_bytes;
    _Alignas(64) uint8_t payload[1024]; /* lists, zeros up to a multiple of 64 where bulk follows, bulk */
} golden_message_t;

/* Fixed contents, a different value in every field. `type` is any known one. */
void golden_message(uint16_t type, golden_message_t *out);
uint32_t golden_payload_bytes(const golden_message_t *message);
/* Encodes head and payload; returns the bytes. */
uint32_t golden_message_bytes(const golden_message_t *message, uint8_t *bytes_out);
/* "hello_reply_v1.bin" */
void golden_message_file(uint16_t type, char *file_out, size_t file_bytes);

/* A sealed segment with fixed contents: with index, sinks and moments, or raw. Returns the bytes. */
uint32_t golden_segment_bytes(bool raw, uint8_t *extent_out);

#endif /* LW_GOLDEN_ITEMS_H */
