/* node_fixture.h - set-up and tear-down around one node with one client, for cmocka tests. Include after
 * cmocka.h. */
#ifndef LW_TEST_NODE_FIXTURE_H
#define LW_TEST_NODE_FIXTURE_H

#include "unit/storaged/node.h"

typedef struct fixture {
    node_t node;
    data_client_t client; /* client 5, incarnation 1, greeted; on worker 0 */
} fixture_t;

extern uint64_t fixture_seed;

/* Reads the seed from the arguments or takes a fresh one, and prints it. */
void fixture_take_seed(int argc, char **argv);
int fixture_setup_with(void **state, const node_params_t *params);
int fixture_setup(void **state);
/* Closes the client, lets leases pass, and checks that nothing is in flight and every table agrees. */
int fixture_teardown(void **state);

lw_segment_name_t fixture_name(uint64_t origin, uint16_t layer, uint32_t first, uint32_t generation);
/* A written segment of session 1, term 1, over the fixture's client; the caller frees the copy. */
uint8_t *fixture_put(fixture_t *fixture, uint16_t layer, uint64_t *bytes_out, uint64_t *handle_out);
/* Compares a fetched record's bytes and checksum with the segment's; moves *at behind it. */
void fixture_check_record(const data_client_t *client, const uint8_t *segment, uint32_t head, uint32_t entry,
                          const uint8_t **at, uint32_t record);
uint64_t fixture_count(const lw_counter_t *counter);

/* Every segment of fixture_put has this shape. */
#define FIXTURE_HEADS 2u
#define FIXTURE_CLUSTERS 40u
#define FIXTURE_OUTLIERS 30u
#define FIXTURE_ENTRIES (FIXTURE_CLUSTERS + FIXTURE_OUTLIERS)

#endif /* LW_TEST_NODE_FIXTURE_H */
