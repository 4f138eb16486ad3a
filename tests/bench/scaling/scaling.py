#!/usr/bin/env python3
"""Fleets of 4 to 1,024 nodes in simulation: aggregate fetch bandwidth, latency of a layer step's fetch, time to repair a lost node.

    tests/bench/scaling/scaling.py --calibration calibration.json [--nodes 4,16,64,256,1024] [--clients-per-node 1] [--json out.json]

The queues are in model.py, their costs from calibrate.py. Defaults: Llama-3-8B at 128K, 3.2% retrieved, a tenth of it missed.
"""

import argparse
import json
import sys

from model import Costs, Fleet, repair_seconds


def one(options, costs, nodes):
    clients = max(1, round(nodes * options.clients_per_node))
    fleet = Fleet(options, costs, nodes, clients)
    fleet.run()
    size = options.miss_records * options.record_bytes
    layer = 1 / max(options.layer_us * 1e-6, 1e-12)
    queues = fleet.queues
    busy = {name: max(getattr(queues, name + "_busy")) / options.seconds for name in ("node_cpu", "node_port", "client_port", "client_cpu")}
    return {"nodes": nodes, "clients": clients, "gb_s": fleet.bytes / options.seconds / 1e9,
            "wanted_gb_s": clients * size * layer / 1e9, "requests_a_step": fleet.requests / max(1, len(fleet.latencies)) * 0.8,
            "p50_us": 1e6 * fleet.percentile(0.5), "p99_us": 1e6 * fleet.percentile(0.99), "p999_us": 1e6 * fleet.percentile(0.999),
            "busy": busy, "repair_s": repair_seconds(nodes, options.node_gib * 2**30, options.repair_mb_s * 1e6,
                                                                         options.port_gbit, options.segment_mib * 2**20)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--calibration", required=True, help="what calibrate.py wrote")
    add("--nodes", default="4,16,64,256,1024")
    add("--clients-per-node", type=float, default=1.0)
    add("--data-threads", type=int, default=1, help="data threads of a node")
    add("--port-gbit", type=float, default=100.0, help="network port of a node and of a client, Gbit/s")
    add("--rtt-us", type=float, default=20.0)
    add("--layers", type=int, default=32)
    add("--layer-us", type=float, default=1000.0, help="a layer of the model when nothing is missed")
    add("--segments", type=int, default=16, help="segments of a layer: 128K tokens in 8K ranges")
    add("--replicas", type=int, default=2)
    add("--miss-records", type=float, default=210.0, help="of a layer step: 3.2%% of 128K tokens, 8 heads, a tenth missed, 16 tokens each")
    add("--record-bytes", type=int, default=8192)
    add("--seconds", type=float, default=0.2, help="simulated time")
    add("--node-gib", type=float, default=512.0, help="stored on a lost node")
    add("--segment-mib", type=float, default=32.0)
    add("--repair-mb-s", type=float, default=500.0, help="what a node pulls at most while it repairs")
    add("--seed", type=int, default=1)
    add("--json", help="write the rows there (-: standard output)")
    options = parser.parse_args()
    costs = Costs(**json.load(open(options.calibration))["costs"])
    rows = []
    for nodes in map(int, options.nodes.split(",")):
        print(f"{nodes} nodes", file=sys.stderr, flush=True)
        rows.append(one(options, costs, nodes))
    if options.json:
        with (sys.stdout if options.json == "-" else open(options.json, "w")) as out:
            json.dump({"options": vars(options), "rows": rows}, out, indent=1)
    if options.json != "-":
        print("| nodes | clients | GB/s wanted | GB/s | requests a layer step | p50 us | p99 us | p99.9 us | busiest data thread, node port, client port, client thread | repair s |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for r in rows:
            print(f"| {r['nodes']} | {r['clients']} | {r['wanted_gb_s']:.1f} | {r['gb_s']:.1f} | {r['requests_a_step']:.1f} | {r['p50_us']:.0f} | "
                  f"{r['p99_us']:.0f} | {r['p999_us']:.0f} | {', '.join(f'{100 * b:.0f}%' for b in r['busy'].values())} | {r['repair_s']:.0f} |")


if __name__ == "__main__":
    main()
