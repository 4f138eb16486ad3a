/* fake_store.h - the client's data plane without a network: lwc_store_* over segments in this process. Linked
 * instead of client/store. One thread. Nothing completes before the next round, so that callers cannot count
 * on luck. */
#ifndef FAKE_STORE_H
#define FAKE_STORE_H

#include "client/store/store.h"

void fake_store_reset(void);                               /* forgets all segments and faults */
void fake_store_node_down(uint16_t node_index, bool down); /* its operations end with ERR_UNREACHABLE */
void fake_store_full(bool full);                           /* puts end with ERR_EXHAUSTED */
void fake_store_hold(bool hold);                           /* nothing completes but by deadline */
/* Flips a byte of a stored segment's records (or, with part, of what lies before them). Returns false when
 * none is stored. */
bool fake_store_corrupt(uint32_t layer, uint32_t first_token, bool part);
uint32_t fake_store_segments(void);

#endif /* FAKE_STORE_H */
