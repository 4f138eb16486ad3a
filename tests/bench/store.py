#!/usr/bin/env python3
"""Interleaved measurement of the store beside what it is compared with, on this machine.

Everything runs in rounds: each round measures every candidate once, for a second or so, and the medians over
the rounds are reported as a table and, with --json, as a file. Candidates: perftest's fetch, ceiling, stream and
mix over tcp and shm; ucx_perftest and iperf3 (left out where they are not installed); and Redis, pipelined MGETs
of the same record sizes against fetch (left out without redis-server or redis_bench).

    tests/bench/store.py --build build [--store-mib 4096] [--rounds 7] [--seconds 1] [--json out.json]
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

BATCHES = (64, 256)
REDIS_SIZES = (4096, 8192, 16384)
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def say(text):
    print(text, file=sys.stderr, flush=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def find(build, *names):
    for name in names:
        path = os.path.join(build, name)
        if os.access(path, os.X_OK):
            return path
    return None


class Lines:
    """A measuring program that answers each line with a line of JSON."""

    def __init__(self, argv):
        self.child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.child.stdout.readline().strip() != "ready":
            raise SystemExit(f"{argv[0]} did not get ready")

    def round(self, line):
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        if not answer:
            raise SystemExit(f"no answer to '{line}'")
        return json.loads(answer)

    def close(self):
        self.child.stdin.close()
        self.child.wait(30)


def perftest(options, transport, record_bytes, modes, batches, store_mib):
    words = {"storaged": options.storaged, "transport": transport, "record-bytes": record_bytes, "modes": modes,
             "batch": ",".join(map(str, batches)), "depth": options.depth, "store-mib": store_mib,
             "seconds": options.seconds}
    argv = [options.perftest, "--quiet", "--rounds-from-stdin"]
    for word, value in words.items():
        argv += ["--" + word, str(value)]
    return Lines(argv)


def ucx_perftest(transport, message_bytes):
    """GB/s of UCX's own active-message bandwidth test, or None."""
    if not shutil.which("ucx_perftest"):
        return None
    port = str(free_port())
    env = dict(os.environ, UCX_TLS="tcp" if transport == "tcp" else "posix,sysv,cma,tcp")
    server = subprocess.Popen(["ucx_perftest", "-p", port], env=env, **QUIET)
    time.sleep(0.3)
    count = str(max(200, int(1.5e9 / message_bytes)))
    argv = ["ucx_perftest", "127.0.0.1", "-p", port, "-t", "ucp_am_bw", "-s", str(message_bytes), "-n", count,
            "-w", "100"]
    client = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    server.kill()
    server.wait()
    for line in client.stdout.splitlines():
        if line.startswith("Final:"):
            return float(line.split()[6]) * 1048576 / 1e9  # overall MB/s
    return None


def iperf3(seconds):
    """GB/s of one stream over loopback, or None."""
    if not shutil.which("iperf3"):
        return None
    port = str(free_port())
    server = subprocess.Popen(["iperf3", "-s", "-1", "-p", port], **QUIET)
    time.sleep(0.3)
    argv = ["iperf3", "-c", "127.0.0.1", "-p", port, "-t", str(max(1, int(seconds))), "-l", "512K", "-J"]
    client = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    server.kill()
    server.wait()
    try:
        return json.loads(client.stdout)["end"]["sum_received"]["bits_per_second"] / 8e9
    except (ValueError, KeyError):
        return None


def medians(rows):
    keys = [key for key, value in rows[0].items() if isinstance(value, (int, float))]
    return {key: statistics.median(row[key] for row in rows) for key in keys}


def measure_store(options, transport):
    say(f"{transport}: filling {options.store_mib} MiB")
    lines = perftest(options, transport, 8192, "fetch,ceiling,stream,mix", BATCHES, options.store_mib)
    rows, beside = {}, {}
    for number in range(options.rounds):
        for batch in BATCHES:
            for mode in ("fetch", "ceiling", "stream", "mix"):
                rows.setdefault((mode, batch), []).append(lines.round(f"{mode} {batch}"))
            beside.setdefault(("ucx_perftest", batch), []).append(ucx_perftest(transport, 8192 * batch))
        if transport == "tcp":
            beside.setdefault(("iperf3", 0), []).append(iperf3(options.seconds))
        say(f"{transport}: round {number + 1} of {options.rounds}")
    lines.close()
    result = [dict(transport=transport, mode=mode, **medians(found)) for (mode, batch), found in rows.items()]
    for (mode, batch), found in beside.items():
        found = [speed for speed in found if speed]
        if found:
            result.append(dict(transport=transport, mode=mode, batch=batch, gb_s=statistics.median(found)))
    speed = {(row["mode"], row["batch"]): row["gb_s"] for row in result}
    for row in result:
        below = {"fetch": "ceiling", "ceiling": "stream"}.get(row["mode"])
        if below:
            row["ratio"] = row["gb_s"] / speed[(below, row["batch"])]
    return result


def measure_redis(options, record_bytes):
    if not (options.redis_bench and shutil.which("redis-server")):
        say("no redis_bench or no redis-server: not compared with Redis")
        return []
    store_mib, batch, port = min(options.store_mib, 1024), 64, free_port()
    say(f"redis against the store: records of {record_bytes} B")
    with tempfile.TemporaryDirectory() as folder:
        argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "",
                "--appendonly", "no", "--io-threads", "1"]
        server = subprocess.Popen(argv, **QUIET)
        try:
            time.sleep(1)
            redis = Lines([options.redis_bench, str(port), str(server.pid), str(record_bytes), str(batch),
                           str(options.depth), str(store_mib), str(options.seconds)])
            store = perftest(options, "tcp", record_bytes, "fetch", (batch,), store_mib)
            rows = {"redis": [], "fetch": []}
            for _ in range(options.rounds):
                rows["redis"].append(redis.round("go"))
                rows["fetch"].append(store.round(f"fetch {batch}"))
            redis.close()
            store.close()
        finally:
            server.terminate()
            server.wait()
    result = []
    for mode, found in rows.items():
        row = dict(medians(found), transport="tcp", mode=mode if mode == "redis" else "fetch (beside redis)",
                   record_bytes=record_bytes)
        row["cpu_s_gib"] = row["client_cpu_s_gib"] + row["server_cpu_s_gib"]
        result.append(row)
    result[1]["ratio"] = result[1]["gb_s"] / result[0]["gb_s"]
    return result


def print_table(rows):
    print(f"{'transport':9} {'mode':20} {'record':>6} {'batch':>5} {'GB/s':>6} {'ratio':>5} {'records/s':>10} "
          f"{'p50 us':>8} {'p99 us':>8} {'p99.9':>8}  CPU s/GiB client + server")
    for row in rows:
        text = f"{row['transport']:9} {row['mode']:20} {row.get('record_bytes', 8192):6} "
        text += f"{int(row.get('batch', 0)):5} "
        text += f"{row['gb_s']:6.2f} " + (f"{row['ratio']:5.2f} " if "ratio" in row else "      ")
        if "records_s" in row:
            text += f"{row['records_s']:10.0f} {row['p50_us']:8.1f} {row['p99_us']:8.1f} {row['p999_us']:8.1f}  "
            text += f"{row['client_cpu_s_gib']:.2f} + {row['server_cpu_s_gib']:.2f}"
        print(text)
    print("ratio: fetch to the ceiling, the ceiling to the stream; beside redis: to redis")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build", help="build folder")
    parser.add_argument("--store-mib", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--transports", default="tcp,shm")
    parser.add_argument("--no-redis", action="store_true")
    parser.add_argument("--json", help="write the medians here")
    options = parser.parse_args()
    options.perftest = find(options.build, "tests/bench/lw_perftest")
    options.storaged = find(options.build, "storaged/storaged")
    options.redis_bench = find(options.build, "tests/bench/redis_bench")
    if not (options.perftest and options.storaged):
        raise SystemExit(f"no lw_perftest or no storaged under {options.build}")
    rows = []
    for transport in options.transports.split(","):
        rows += measure_store(options, transport)
    if not options.no_redis:
        for record_bytes in REDIS_SIZES:
            rows += measure_redis(options, record_bytes)
    print_table(rows)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)


if __name__ == "__main__":
    main()
