/* queue_backend.c - see queue_backend.h. One lock for everything: a test's double need not be fast. */
#define _GNU_SOURCE
#include <stdbool.h>

#include "unit/client/queue_backend.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/cpu.h"
#include "kernels/view.h"

typedef struct stream stream_t;

typedef enum kind { STEP, FINISH, PUBLISH, RETIRE, APPEND, EXTEND, BUILD, UNPACK, GATHER, COPY, WAIT } kind_t;

typedef struct item {
    kind_t kind;
    union {
        lw_status_t (*step)(lwk_dev_t *, const lwk_step_t *, void *);
        lw_status_t (*build)(lwk_dev_t *, const lwk_build_t *, void *);
    } op;
    union {
        lwk_step_t step;
        lwk_publish_t publish;
        lwk_retire_t retire;
        lwk_append_t append;
        lwk_extend_t extend;
        lwk_build_t build;
        lwk_unpack_t unpack;
        lwk_gather_t gather;
        struct {
            void *to;
            const void *from;
            size_t bytes;
        } copy;
        struct {
            stream_t *stream;
            uint64_t number;
        } wait;
    } args;
} item_t;

typedef struct items {
    item_t *items;
    size_t count, capacity;
} items_t;

struct stream {
    lwk_dev_t *dev;
    pthread_t thread;
    items_t queue; /* queue.items[taken..] are to be run */
    size_t taken;
    uint64_t enqueued, done;
    struct lwk_graph *capturing;
    bool stop;
};

struct lwk_dev {
    lwk_dev_t *inner;
    stream_t *unnamed;
};

struct lwk_event {
    stream_t *stream; /* NULL: never recorded */
    uint64_t number;
};

struct lwk_graph {
    items_t items;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool held_back;
static uint64_t total;
static struct lwk_dev device; /* of all handles */
static unsigned opens;

void queue_backend_hold(bool held)
{
    pthread_mutex_lock(&lock);
    held_back = held;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

uint64_t queue_backend_enqueued(void)
{
    pthread_mutex_lock(&lock);
    uint64_t count = total;
    pthread_mutex_unlock(&lock);
    return count;
}

static void add(items_t *to, const item_t *item)
{
    if (to->count == to->capacity) {
        to->capacity = to->capacity ? 2 * to->capacity : 4096;
        to->items = realloc(to->items, to->capacity * sizeof(*to->items));
        LW_ASSERT(to->items);
    }
    to->items[to->count++] = *item;
}

/* ---- running ---- */

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static bool all_arrived(const lwk_step_t *step)
{
    const lwk_store_t *store = step->store;
    uint64_t tail = __atomic_load_n(store->ticket_tail, __ATOMIC_RELAXED);

    for (uint32_t s = 0; s < step->session_count; s++) {
        lwk_session_t *session = lwk_step_session(step, s);
        for (uint32_t head = 0; session && session->error == 0 && head < step->shape.kv_head_count; head++) {
            size_t row = lwk_kv_row(step, s, head);
            const lwk_item_t *items = step->scratch.items + row * step->scratch.item_capacity;
            for (uint32_t i = 0; i < step->scratch.item_count[row]; i++) {
                if (lwk_place_kind(items[i].place) != LWK_PLACE_PENDING)
                    continue;
                uint64_t ticket = lwk_ticket_number(tail, lwk_place_number(items[i].place));
                uint64_t word = __atomic_load_n(&store->arrivals[ticket & (store->ticket_capacity - 1)],
                                                __ATOMIC_ACQUIRE);
                if (!lwk_has_arrived(word, ticket))
                    return false;
            }
        }
    }
    return true;
}

static void wait_for_arrivals(const lwk_step_t *step)
{
    uint64_t until = now_us() + step->wait_us;

    while (!all_arrived(step) && now_us() < until) {
        struct timespec nap = {.tv_nsec = 5000};
        nanosleep(&nap, NULL);
    }
}

static void run(stream_t *stream, const item_t *item)
{
    const lwk_backend_t *cpu = lwk_cpu_backend();
    lwk_dev_t *dev = stream->dev->inner;
    lw_status_t status = LW_OK;

    switch (item->kind) {
    case STEP: status = item->op.step(dev, &item->args.step, NULL); break;
    case FINISH:
        wait_for_arrivals(&item->args.step);
        status = cpu->finish(dev, &item->args.step, NULL);
        break;
    case PUBLISH: status = cpu->publish(dev, &item->args.publish, NULL); break;
    case RETIRE: status = cpu->retire(dev, &item->args.retire, NULL); break;
    case APPEND: status = cpu->append(dev, &item->args.append, NULL); break;
    case EXTEND: status = cpu->extend(dev, &item->args.extend, NULL); break;
    case BUILD: status = item->op.build(dev, &item->args.build, NULL); break;
    case UNPACK: status = cpu->unpack(dev, &item->args.unpack, NULL); break;
    case GATHER: status = cpu->gather(dev, &item->args.gather, NULL); break;
    case COPY: memcpy(item->args.copy.to, item->args.copy.from, item->args.copy.bytes); break;
    case WAIT:
        pthread_mutex_lock(&lock);
        while (item->args.wait.stream->done < item->args.wait.number)
            pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
        break;
    }
    LW_ASSERT(status == LW_OK);
}

static void *stream_main(void *arg)
{
    stream_t *stream = arg;

    pthread_mutex_lock(&lock);
    for (;;) {
        bool empty = stream->taken == stream->queue.count;
        if (empty)
            stream->taken = stream->queue.count = 0;
        if (empty && stream->stop)
            break;
        if (empty || held_back) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        item_t item = stream->queue.items[stream->taken++];
        pthread_mutex_unlock(&lock);
        run(stream, &item);
        pthread_mutex_lock(&lock);
        stream->done++;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* ---- streams, events, graphs ---- */

static stream_t *stream_of(void *stream)
{
    return stream ? stream : device.unnamed;
}

static lw_status_t queue_stream_create(lwk_dev_t *dev, void **stream_out)
{
    stream_t *stream = calloc(1, sizeof(*stream));

    stream->dev = dev;
    if (pthread_create(&stream->thread, NULL, stream_main, stream) != 0)
        return LW_ERR_EXHAUSTED;
    *stream_out = stream;
    return LW_OK;
}

static void queue_stream_destroy(lwk_dev_t *dev, void *opaque)
{
    stream_t *stream = opaque;

    (void)dev;
    pthread_mutex_lock(&lock);
    stream->stop = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    pthread_join(stream->thread, NULL);
    free(stream->queue.items);
    free(stream);
}

static lw_status_t enqueue(void *opaque, const item_t *item)
{
    stream_t *stream = stream_of(opaque);

    pthread_mutex_lock(&lock);
    if (stream->capturing) {
        add(&stream->capturing->items, item);
    } else {
        add(&stream->queue, item);
        stream->enqueued++;
        total++;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return LW_OK;
}

static lw_status_t queue_event_create(lwk_dev_t *dev, lwk_event_t **event_out)
{
    (void)dev;
    *event_out = calloc(1, sizeof(**event_out));
    return *event_out ? LW_OK : LW_ERR_NO_MEMORY;
}

static void queue_event_destroy(lwk_event_t *event)
{
    free(event);
}

/* Recording, waiting and asking while a stream is captured would end up in the graph, or break it: not here. */
static lw_status_t queue_event_record(lwk_event_t *event, void *opaque)
{
    stream_t *stream = stream_of(opaque);

    pthread_mutex_lock(&lock);
    LW_ASSERT(!stream->capturing);
    event->stream = stream;
    event->number = stream->enqueued;
    pthread_mutex_unlock(&lock);
    return LW_OK;
}

static lw_status_t queue_event_query(lwk_event_t *event)
{
    pthread_mutex_lock(&lock);
    bool passed = !event->stream || event->stream->done >= event->number;
    pthread_mutex_unlock(&lock);
    return passed ? LW_OK : LW_INPROGRESS;
}

static lw_status_t queue_stream_wait(lwk_dev_t *dev, void *stream, lwk_event_t *event)
{
    item_t item = {.kind = WAIT};

    (void)dev;
    pthread_mutex_lock(&lock);
    item.args.wait.stream = event->stream;
    item.args.wait.number = event->number;
    pthread_mutex_unlock(&lock);
    return item.args.wait.stream ? enqueue(stream, &item) : LW_OK;
}

static lw_status_t queue_capture_begin(lwk_dev_t *dev, void *stream)
{
    (void)dev;
    pthread_mutex_lock(&lock);
    stream_of(stream)->capturing = calloc(1, sizeof(lwk_graph_t));
    pthread_mutex_unlock(&lock);
    return LW_OK;
}

static lw_status_t queue_capture_end(lwk_dev_t *dev, void *stream, lwk_graph_t **graph_out)
{
    (void)dev;
    pthread_mutex_lock(&lock);
    *graph_out = stream_of(stream)->capturing;
    stream_of(stream)->capturing = NULL;
    pthread_mutex_unlock(&lock);
    return LW_OK;
}

static lw_status_t queue_graph_launch(lwk_graph_t *graph, void *stream)
{
    lw_status_t status = LW_OK;

    for (size_t i = 0; i < graph->items.count && status == LW_OK; i++)
        status = enqueue(stream, &graph->items.items[i]);
    return status;
}

static void queue_graph_destroy(lwk_graph_t *graph)
{
    free(graph->items.items);
    free(graph);
}

/* ---- ops ---- */

#define STEP_OP(name)                                                                        \
    static lw_status_t queue_##name(lwk_dev_t *dev, const lwk_step_t *step, void *stream)    \
    {                                                                                        \
        item_t item = {.kind = STEP, .op.step = lwk_cpu_backend()->name, .args.step = *step}; \
        (void)dev;                                                                           \
        return enqueue(stream, &item);                                                       \
    }
STEP_OP(prepare)
STEP_OP(score)
STEP_OP(select)
STEP_OP(attend)
STEP_OP(admit)

#define BUILD_OP(name)                                                                           \
    static lw_status_t queue_##name(lwk_dev_t *dev, const lwk_build_t *build, void *stream)      \
    {                                                                                            \
        item_t item = {.kind = BUILD, .op.build = lwk_cpu_backend()->name, .args.build = *build}; \
        (void)dev;                                                                               \
        return enqueue(stream, &item);                                                           \
    }
BUILD_OP(kmeans)
BUILD_OP(outliers)
BUILD_OP(moments)
BUILD_OP(encode)
BUILD_OP(pack)

#define OTHER_OP(name, NAME)                                                                       \
    static lw_status_t queue_##name(lwk_dev_t *dev, const lwk_##name##_t *args, void *stream)      \
    {                                                                                              \
        item_t item = {.kind = NAME, .args.name = *args};                                          \
        (void)dev;                                                                                 \
        return enqueue(stream, &item);                                                             \
    }
OTHER_OP(publish, PUBLISH)
OTHER_OP(retire, RETIRE)
OTHER_OP(append, APPEND)
OTHER_OP(extend, EXTEND)
OTHER_OP(unpack, UNPACK)
OTHER_OP(gather, GATHER)

static lw_status_t queue_finish(lwk_dev_t *dev, const lwk_step_t *step, void *stream)
{
    item_t item = {.kind = FINISH, .args.step = *step};
    (void)dev;
    return enqueue(stream, &item);
}

static lw_status_t queue_copy(lwk_dev_t *dev, void *to, const void *from, size_t bytes, void *stream)
{
    item_t item = {.kind = COPY, .args.copy = {.to = to, .from = from, .bytes = bytes}};
    (void)dev;
    return enqueue(stream, &item);
}

/* ---- the device ---- */

static lw_status_t queue_open(unsigned ordinal, lwk_dev_t **dev_out, lw_error_t *error)
{
    void *unnamed = NULL;

    *dev_out = &device;
    if (opens++ > 0)
        return LW_OK;
    lw_status_t status = lwk_cpu_backend()->open(ordinal, &device.inner, error);
    if (status == LW_OK)
        status = queue_stream_create(&device, &unnamed);
    device.unnamed = unnamed;
    return status;
}

static void queue_close(lwk_dev_t *dev)
{
    if (--opens > 0)
        return;
    queue_stream_destroy(dev, dev->unnamed);
    lwk_cpu_backend()->close(dev->inner);
    memset(dev, 0, sizeof(*dev));
}

static const char *queue_describe(lwk_dev_t *dev)
{
    (void)dev;
    return "queues of cpu ops";
}

static lw_status_t queue_alloc(lwk_dev_t *dev, lwk_memory_t kind, size_t bytes, void **ptr_out)
{
    return lwk_cpu_backend()->alloc(dev->inner, kind, bytes, ptr_out);
}

static void queue_free(lwk_dev_t *dev, lwk_memory_t kind, void *ptr)
{
    lwk_cpu_backend()->free(dev->inner, kind, ptr);
}

static lw_status_t queue_register(lwk_dev_t *dev, void *ptr, size_t bytes)
{
    (void)dev, (void)ptr, (void)bytes;
    return LW_OK;
}

static void queue_unregister(lwk_dev_t *dev, void *ptr)
{
    (void)dev, (void)ptr;
}

static lw_status_t queue_warm_up(lwk_dev_t *dev, const lwk_dims_t *dims)
{
    return lwk_cpu_backend()->warm_up(dev->inner, dims);
}

static uint64_t queue_workspace(const lwk_dims_t *dims)
{
    return lwk_cpu_backend()->workspace_bytes(dims);
}

static uint64_t queue_build_workspace(const lwk_build_t *args)
{
    return lwk_cpu_backend()->build_workspace_bytes(args);
}

static const lwk_backend_t table = {
    .size = sizeof(lwk_backend_t),
    .version = LWK_BACKEND_VERSION,
    .name = "queue",
    .caps = LWK_CAP_ASYNC | LWK_CAP_CAPTURE,
    .open = queue_open,
    .close = queue_close,
    .describe = queue_describe,
    .alloc = queue_alloc,
    .free = queue_free,
    .register_host = queue_register,
    .unregister_host = queue_unregister,
    .copy = queue_copy,
    .stream_create = queue_stream_create,
    .stream_destroy = queue_stream_destroy,
    .event_create = queue_event_create,
    .event_destroy = queue_event_destroy,
    .event_record = queue_event_record,
    .event_query = queue_event_query,
    .stream_wait = queue_stream_wait,
    .capture_begin = queue_capture_begin,
    .capture_end = queue_capture_end,
    .graph_launch = queue_graph_launch,
    .graph_destroy = queue_graph_destroy,
    .warm_up = queue_warm_up,
    .workspace_bytes = queue_workspace,
    .prepare = queue_prepare,
    .score = queue_score,
    .select = queue_select,
    .attend = queue_attend,
    .finish = queue_finish,
    .admit = queue_admit,
    .publish = queue_publish,
    .retire = queue_retire,
    .append = queue_append,
    .extend = queue_extend,
    .build_workspace_bytes = queue_build_workspace,
    .kmeans = queue_kmeans,
    .outliers = queue_outliers,
    .moments = queue_moments,
    .encode = queue_encode,
    .pack = queue_pack,
    .unpack = queue_unpack,
    .gather = queue_gather,
};

const lwk_backend_t *queue_backend(void)
{
    return &table;
}
