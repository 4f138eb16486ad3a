/* build_fixture.h - an lwk_build_t with all its buffers, made-up rows to fill it, and the ops of the host
 * backends and, where it can be opened, of the CUDA one. Ops are called as on a host backend: those of the
 * CUDA one are waited for. All memory of a fixture can be used by every backend. */
#ifndef BUILD_FIXTURE_H
#define BUILD_FIXTURE_H

#include "base/prng.h"
#include "kernels/convert.h"
#include "kernels/cpu/build.h"
#include "kernels/ref/build.h"
#include "kernels/ref/ref.h"

typedef struct build_ops {
    const char *name;
    uint64_t (*workspace_bytes)(const lwk_build_t *args);
    lw_status_t (*kmeans)(lwk_dev_t *, const lwk_build_t *, void *);
    lw_status_t (*outliers)(lwk_dev_t *, const lwk_build_t *, void *);
    lw_status_t (*moments)(lwk_dev_t *, const lwk_build_t *, void *);
    lw_status_t (*encode)(lwk_dev_t *, const lwk_build_t *, void *);
    lw_status_t (*pack)(lwk_dev_t *, const lwk_build_t *, void *);
    lw_status_t (*unpack)(lwk_dev_t *, const lwk_unpack_t *, void *);
    lw_status_t (*gather)(lwk_dev_t *, const lwk_gather_t *, void *);
} build_ops_t;

#define BUILD_REF 0
#define BUILD_CPU 1
#define BUILD_CUDA 2
extern const build_ops_t build_backends[3];
/* How many of them can run here: 2 or 3. */
int build_count(void);

/* Owns everything that `args` points to. `keys` and `values` are the writable inputs. */
typedef struct build_fixture {
    lwk_build_t args;
    void *keys, *values;
    uint8_t **records;
    uint8_t *record_bytes;
} build_fixture_t;

typedef struct build_spec {
    uint32_t jobs, tokens, head_dim, dtype;
    uint32_t outlier_ppm, cluster_encoding, outlier_encoding;
    uint32_t ring_rows, first_row; /* ring_rows 0: tokens */
    uint32_t cluster_capacity;     /* 0: the most a unit may have */
} build_spec_t;

/* Inputs are zero; outputs are filled with 0xA5, so that what an op leaves unwritten shows. */
build_fixture_t build_open(const build_spec_t *spec, const build_ops_t *ops);
void build_close(build_fixture_t *fixture);
/* Makes the workspace large enough for another backend's ops. */
void build_use(build_fixture_t *fixture, const build_ops_t *ops);
/* Zeroed memory that every backend can use; build_free() takes NULL too. */
void *build_alloc(size_t bytes);
void build_free(void *memory);
/* All five ops; asserts that each says OK. */
void build_run(build_fixture_t *fixture, const build_ops_t *ops);

void build_set(build_fixture_t *fixture, uint32_t job, uint32_t token, uint32_t channel, float key,
               float value);
float build_key(const build_fixture_t *fixture, uint32_t job, uint32_t token, uint32_t channel);
float build_value(const build_fixture_t *fixture, uint32_t job, uint32_t token, uint32_t channel);

double build_normal(lw_prng_t *prng);
/* Gaussian keys and values around a common mean. */
void build_fill_noise(build_fixture_t *fixture, lw_prng_t *prng, double scale);
/* `groups` far-apart directions with little noise, the tokens of a group in a row. */
void build_fill_groups(build_fixture_t *fixture, lw_prng_t *prng, uint32_t groups);

/* A seed from the clock, printed; LW_TEST_SEED overrides it. */
uint64_t build_seed(void);

#endif /* BUILD_FIXTURE_H */
