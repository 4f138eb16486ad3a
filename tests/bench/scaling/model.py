"""A fleet as queues: what a fetch occupies, in which order, for how long.

A layer step's fetch goes from a client to the nodes that hold the segments of its misses, one request a node. A request waits for and
occupies, one after the other: the node's data thread (CPU), the node's network port, the client's port, the client's thread
(which verifies checksums). Each is a first-come-first-served queue. Costs of the two threads come from calibrate.py.
"""

import heapq
import random
from collections import namedtuple


class Costs(namedtuple("Costs", "daemon_request daemon_record daemon_byte client_request client_record client_byte")):
    """CPU seconds, of one thread each."""

    def daemon(self, records, size):
        return self.daemon_request + self.daemon_record * records + self.daemon_byte * size

    def client(self, records, size):
        return self.client_request + self.client_record * records + self.client_byte * size


class Queues:
    """Times until which each resource is taken."""

    def __init__(self, nodes, clients):
        self.node_cpu, self.node_port = [0.0] * nodes, [0.0] * nodes
        self.client_port, self.client_cpu = [0.0] * clients, [0.0] * clients
        self.node_cpu_busy, self.node_port_busy = [0.0] * nodes, [0.0] * nodes
        self.client_port_busy, self.client_cpu_busy = [0.0] * clients, [0.0] * clients


def take(free, busy, index, now, seconds):
    """The end of a piece of work that comes to a resource at `now`."""
    end = max(free[index], now) + seconds
    free[index] = end
    busy[index] += seconds
    return end


def simulate_pair(costs, records, record_bytes, depth, seconds=0.5):
    """Requests a second of one client and one node with `depth` requests in flight, network costs in the CPU costs."""
    size = records * record_bytes
    events = [(0.0, 0)] * depth
    node, client, done = 0.0, 0.0, 0
    heapq.heapify(events)
    while True:
        now, _ = heapq.heappop(events)
        if now > seconds:
            return done / seconds
        node = max(node, now) + costs.daemon(records, size)
        client = max(client, node) + costs.client(records, size)
        done += 1
        heapq.heappush(events, (client, 0))


class Fleet:
    """Clients that decode: layer steps one after the other, each with misses spread over the nodes of its segments."""

    def __init__(self, options, costs, nodes, clients):
        self.o, self.costs, self.nodes, self.clients = options, costs, nodes, clients
        self.random = random.Random(options.seed)
        self.queues = Queues(nodes, clients)
        self.threads = options.data_threads
        self.latencies, self.bytes, self.requests = [], 0, 0
        replicas = min(options.replicas, nodes)
        # segment s of layer l of client c lives on these nodes: rendezvous hashing is a uniform choice of distinct nodes
        self.homes = [[[self.random.sample(range(nodes), replicas) for _ in range(options.segments)]
                       for _ in range(options.layers)] for _ in range(clients)]
        self.flying = [dict() for _ in range(clients)]

    def choose(self, client, homes):
        """The replica with the fewest bytes in flight from this client."""
        flying = self.flying[client]
        return min(homes, key=lambda n: flying.get(n, 0))

    def plan(self, client, layer):
        """{node: (records, bytes)} of one layer step's misses."""
        wanted = {}
        per_segment = self.o.miss_records / self.o.segments
        for homes in self.homes[client][layer]:
            records = int(per_segment) + (self.random.random() < per_segment % 1)
            if records == 0:
                continue
            node = self.choose(client, homes)
            size = records * self.o.record_bytes
            old = wanted.get(node, (0, 0))
            wanted[node] = (old[0] + records, old[1] + size)
            self.flying[client][node] = self.flying[client].get(node, 0) + size
        return wanted

    def run(self):
        o, q = self.o, self.queues
        port, rtt = 8.0 / (o.port_gbit * 1e9), o.rtt_us * 1e-6
        order, events = 0, []
        state = [None] * self.clients  # (start of the layer step, requests in flight)
        for client in range(self.clients):
            events.append((self.random.random() * o.layer_us * 1e-6, client, 0, "step", client, 0, None))
        heapq.heapify(events)
        layer = [0] * self.clients
        while events:
            now, _, _, kind, client, node, work = heapq.heappop(events)
            order += 1
            if kind == "step":
                if now > o.seconds:
                    continue
                wanted = self.plan(client, layer[client] % o.layers)
                layer[client] += 1
                state[client] = [now, len(wanted)]
                for n, w in wanted.items():
                    heapq.heappush(events, (now + rtt / 2, order, n, "node", client, n, w))
                if not wanted:
                    heapq.heappush(events, (now + o.layer_us * 1e-6, order, 0, "step", client, 0, None))
            elif kind == "node":  # data threads of a node as one that is so many times faster
                end = take(q.node_cpu, q.node_cpu_busy, node, now, self.costs.daemon(*work) / self.threads)
                heapq.heappush(events, (end, order, node, "out", client, node, work))
            elif kind == "out":
                end = take(q.node_port, q.node_port_busy, node, now, work[1] * port)
                heapq.heappush(events, (end + rtt / 2, order, node, "in", client, node, work))
            elif kind == "in":
                end = take(q.client_port, q.client_port_busy, client, now, work[1] * port)
                heapq.heappush(events, (end, order, node, "verify", client, node, work))
            elif kind == "verify":
                end = take(q.client_cpu, q.client_cpu_busy, client, now, self.costs.client(*work))
                heapq.heappush(events, (end, order, node, "done", client, node, work))
            else:
                self.flying[client][node] -= work[1]
                self.bytes += work[1]
                self.requests += 1
                state[client][1] -= 1
                if state[client][1] == 0:
                    start = state[client][0]
                    if start > o.seconds * 0.2:  # the start is not the steady state
                        self.latencies.append(now - start)
                    heapq.heappush(events, (max(now, start + o.layer_us * 1e-6), order, 0, "step", client, 0, None))
        self.latencies.sort()

    def percentile(self, p):
        return self.latencies[min(len(self.latencies) - 1, int(p * len(self.latencies)))] if self.latencies else 0.0


def repair_seconds(nodes, node_bytes, rate, port_gbit, segment_bytes, seed=1):
    """Time until the segments of one lost node are copied: each goes from a random survivor to another one; a survivor pulls at `rate`
    bytes/s and its port carries what others pull from it and what it pulls."""
    draw = random.Random(seed)
    pulled, served = [0.0] * (nodes - 1), [0.0] * (nodes - 1)
    for _ in range(int(node_bytes / segment_bytes)):
        target = draw.randrange(nodes - 1)
        source = draw.randrange(nodes - 1)
        if nodes > 2:
            while source == target:
                source = draw.randrange(nodes - 1)
        pulled[target] += segment_bytes
        served[source] += segment_bytes
    port = port_gbit * 1e9 / 8
    return max(max(max(p / rate, p / port), s / port) for p, s in zip(pulled, served))
