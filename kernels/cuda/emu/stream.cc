/* stream.cc - streams, events and graphs. A stream's thread takes its work first in, first out; what touches device memory
 * takes the device's lock by itself. Any thread may put work. */
#include "kernels/cuda/emu/stream.h"

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <time.h>
#include <vector>

typedef std::vector<std::function<void()>> work_list;

struct emu_graph {
    std::shared_ptr<work_list> work; /* in the order of the capture */
    std::vector<cudaStream_t> streams; /* that record into it, the origin first */
};

struct emu_stream {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<std::function<void()>> queue;
    uint64_t put = 0, done = 0;
    bool stop = false;
    emu_graph *capture = nullptr;
    std::thread thread;
};

struct emu_event {
    std::mutex lock;
    std::condition_variable changed;
    uint64_t asked = 0, reached = 0; /* records put, and the last that has run */
    uint64_t at_ns = 0;
    emu_graph *capture = nullptr; /* it was last recorded into this one */
    int users = 1;                /* the handle, and works that name it */
};

static std::mutex all_lock; /* guards the two below */
static std::set<cudaStream_t> all;
static cudaStream_t null_stream;

static void stream_main(cudaStream_t s)
{
    std::unique_lock<std::mutex> hold(s->lock);
    for (;;) {
        s->changed.wait(hold, [s] { return s->stop || !s->queue.empty(); });
        if (s->queue.empty())
            return;
        {
            std::function<void()> work = std::move(s->queue.front());
            s->queue.pop_front();
            hold.unlock();
            work();
        } /* what the work owned is gone before its end is told */
        hold.lock();
        s->done++;
        s->changed.notify_all();
    }
}

static cudaStream_t stream_create(void)
{
    cudaStream_t s = new emu_stream;
    s->thread = std::thread(stream_main, s);
    std::lock_guard<std::mutex> hold(all_lock);
    all.insert(s);
    return s;
}

static void stream_stop(cudaStream_t s)
{
    {
        std::lock_guard<std::mutex> hold(s->lock);
        s->stop = true;
        s->changed.notify_all();
    }
    s->thread.join();
    delete s;
}

/* The NULL stream's thread would outlive the library's statics. */
static struct null_stream_end {
    ~null_stream_end()
    {
        if (null_stream != nullptr)
            stream_stop(null_stream);
    }
} null_stream_ends;

static cudaStream_t real(cudaStream_t s)
{
    if (s != nullptr)
        return s;
    {
        std::lock_guard<std::mutex> hold(all_lock);
        if (null_stream != nullptr)
            return null_stream;
    }
    cudaStream_t made = stream_create();
    std::lock_guard<std::mutex> hold(all_lock);
    if (null_stream == nullptr)
        null_stream = made;
    return null_stream;
}

bool emu_stream_captures(cudaStream_t stream)
{
    cudaStream_t s = real(stream);
    std::lock_guard<std::mutex> hold(s->lock);
    return s->capture != nullptr;
}

cudaError_t emu_stream_put(cudaStream_t stream, std::function<void()> work)
{
    cudaStream_t s = real(stream);
    std::lock_guard<std::mutex> hold(s->lock);
    if (s->capture != nullptr) {
        s->capture->work->push_back(std::move(work));
        return cudaSuccess;
    }
    s->queue.push_back(std::move(work));
    s->put++;
    s->changed.notify_all();
    return cudaSuccess;
}

cudaError_t emu_stream_drain(cudaStream_t stream)
{
    cudaStream_t s = real(stream);
    std::unique_lock<std::mutex> hold(s->lock);
    if (s->capture != nullptr)
        return emu_error(cudaErrorStreamCaptureUnsupported);
    uint64_t until = s->put;
    s->changed.wait(hold, [s, until] { return s->done >= until; });
    return cudaSuccess;
}

/* ---- streams
 * ----------------------------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    *stream = stream_create();
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = *greatest = 0;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    if (stream == nullptr)
        return emu_error(cudaErrorInvalidResourceHandle);
    {
        std::lock_guard<std::mutex> hold(all_lock);
        if (all.erase(stream) == 0)
            return emu_error(cudaErrorInvalidResourceHandle);
    }
    stream_stop(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    return emu_stream_drain(stream);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    cudaStream_t s = real(stream);
    std::lock_guard<std::mutex> hold(s->lock);
    return s->done == s->put ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    std::vector<cudaStream_t> every;
    {
        std::lock_guard<std::mutex> hold(all_lock);
        every.assign(all.begin(), all.end());
    }
    cudaError_t first = cudaSuccess;
    for (cudaStream_t s : every) {
        cudaError_t error = emu_stream_drain(s);
        first = first != cudaSuccess ? first : error;
    }
    return first;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *arg)
{
    return emu_stream_put(stream, [function, arg] { function(arg); });
}

/* ---- events
 * ------------------------------------------------------------------------------------------------------ */

static void event_release(cudaEvent_t e)
{
    bool last;
    {
        std::lock_guard<std::mutex> hold(e->lock);
        last = --e->users == 0;
    }
    if (last)
        delete e;
}

/* An event that a piece of work names, kept until the work is gone. */
static std::shared_ptr<emu_event> event_use(cudaEvent_t e)
{
    std::lock_guard<std::mutex> hold(e->lock);
    e->users++;
    return std::shared_ptr<emu_event>(e, event_release);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    *event = new emu_event;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (event == nullptr)
        return emu_error(cudaErrorInvalidResourceHandle);
    event_release(event);
    return cudaSuccess;
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    cudaStream_t s = real(stream);
    {
        std::lock_guard<std::mutex> hold(s->lock);
        if (s->capture != nullptr) { /* within a graph the order is that of the capture: nothing to run */
            std::lock_guard<std::mutex> hold_event(event->lock);
            event->capture = s->capture;
            return cudaSuccess;
        }
    }
    uint64_t number;
    {
        std::lock_guard<std::mutex> hold(event->lock);
        event->capture = nullptr;
        number = ++event->asked;
    }
    std::shared_ptr<emu_event> use = event_use(event);
    return emu_stream_put(s, [use, number] {
        std::lock_guard<std::mutex> hold(use->lock);
        use->reached = number;
        use->at_ns = now_ns();
        use->changed.notify_all();
    });
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    std::lock_guard<std::mutex> hold(event->lock);
    return event->reached >= event->asked ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    std::unique_lock<std::mutex> hold(event->lock);
    uint64_t until = event->asked;
    event->changed.wait(hold, [event, until] { return event->reached >= until; });
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    if (cudaEventQuery(from) != cudaSuccess || cudaEventQuery(to) != cudaSuccess)
        return cudaErrorNotReady;
    std::scoped_lock hold(from->lock, to->lock);
    *ms = (float)((double)to->at_ns - (double)from->at_ns) * 1e-6f;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    cudaStream_t s = real(stream);
    emu_graph *graph;
    uint64_t number;
    {
        std::lock_guard<std::mutex> hold(event->lock);
        graph = event->capture;
        number = event->asked;
    }
    if (graph != nullptr) { /* joins the capture that the event was recorded in */
        std::lock_guard<std::mutex> hold(s->lock);
        if (s->capture == nullptr) {
            s->capture = graph;
            graph->streams.push_back(s);
        }
        return s->capture == graph ? cudaSuccess : emu_error(cudaErrorStreamCaptureUnsupported);
    }
    if (emu_stream_captures(s))
        return emu_error(cudaErrorStreamCaptureUnsupported);
    std::shared_ptr<emu_event> use = event_use(event);
    return emu_stream_put(s, [use, number] {
        std::unique_lock<std::mutex> hold(use->lock);
        use->changed.wait(hold, [&use, number] { return use->reached >= number; });
    });
}

/* ---- graphs
 * ------------------------------------------------------------------------------------------------------ */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    if (stream == nullptr)
        return emu_error(cudaErrorStreamCaptureUnsupported);
    std::lock_guard<std::mutex> hold(stream->lock);
    if (stream->capture != nullptr)
        return emu_error(cudaErrorInvalidValue);
    stream->capture = new emu_graph{std::make_shared<work_list>(), {stream}};
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    emu_graph *ended;
    {
        std::lock_guard<std::mutex> hold(stream->lock);
        ended = stream->capture;
    }
    if (ended == nullptr || ended->streams[0] != stream)
        return emu_error(cudaErrorInvalidValue);
    for (cudaStream_t s : ended->streams) {
        std::lock_guard<std::mutex> hold(s->lock);
        s->capture = nullptr;
    }
    *graph = ended;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status)
{
    *status = emu_stream_captures(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    *exec = new emu_graph{graph->work, {}};
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    std::shared_ptr<work_list> work = exec->work;
    return emu_stream_put(stream, [work] {
        for (const std::function<void()> &one : *work)
            one();
    });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}
