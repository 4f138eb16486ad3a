#!/usr/bin/env python3
"""What a fetch costs one daemon thread and one client thread, fitted from perftest on this machine.

    tests/bench/scaling/calibrate.py --build build --out calibration.json [--transport tcp] [--seconds 1] [--rounds 3]

Model: CPU seconds of a request = request + record * records + byte * bytes, for each side, least squares of relative errors over the
rows named FIT. The rows named TEST are not fitted: their measured requests a second stand beside what the simulator says
(one client, one node, as many requests in flight as perftest had), which is the error of the simulation.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from model import Costs, simulate_pair

FIT = ((1024, 64), (1024, 512), (2048, 32), (2048, 128), (8192, 16), (8192, 64), (8192, 256))
TEST = ((2048, 256), (4096, 64), (4096, 256), (16384, 64))
DEPTH = 4


def measure(options, record_bytes, batch):
    """One row of perftest: requests/s and CPU seconds a request of both sides."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run(
            [os.path.join(options.build, "client/cli/longwave"), "perftest", "--quiet", "--modes", "fetch", "--storaged",
             os.path.join(options.build, "storaged/storaged"), "--transport", options.transport, "--record-bytes",
             str(record_bytes), "--batch", str(batch), "--depth", str(DEPTH), "--store-mib", str(options.store_mib),
             "--rounds", str(options.rounds), "--seconds", str(options.seconds), "--json", out.name],
            check=True, stdout=subprocess.DEVNULL)
        row = next(r for r in json.load(open(out.name))["rows"] if r["mode"] == "fetch")
    gib = record_bytes * batch / 2**30
    return {"record_bytes": record_bytes, "batch": batch, "requests_s": row["requests_s"],
            "daemon_s": row["server_cpu_s_gib"] * gib, "client_s": row["client_cpu_s_gib"] * gib}


def solve(matrix, right):
    """Gaussian elimination with pivoting; small systems."""
    n = len(right)
    rows = [list(matrix[i]) + [right[i]] for i in range(n)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(n):
            if r != i:
                times = rows[r][i] / rows[i][i]
                rows[r] = [a - times * b for a, b in zip(rows[r], rows[i])]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def fit(rows, side):
    """Non-negative least squares of relative errors over (1, records, bytes): the best subset of terms that is not negative."""
    best = None
    for mask in range(1, 8):
        terms = [t for t in range(3) if mask >> t & 1]
        x = [[(1, r["batch"], r["batch"] * r["record_bytes"])[t] / r[side] for t in terms] for r in rows]
        normal = [[sum(a[i] * a[j] for a in x) for j in range(len(terms))] for i in range(len(terms))]
        answer = solve(normal, [sum(a[i] for a in x) for i in range(len(terms))])
        if min(answer) < 0:
            continue
        error = sum((sum(a * b for a, b in zip(row, answer)) - 1) ** 2 for row in x)
        if best is None or error < best[0]:
            best = (error, {t: v for t, v in zip(terms, answer)})
    return [best[1].get(t, 0.0) for t in range(3)], (best[0] / len(rows)) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--transport", default="tcp")
    parser.add_argument("--store-mib", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for record_bytes, batch in FIT + TEST:
        rows.append(measure(options, record_bytes, batch))
        print(f"{record_bytes:6} B x {batch:4}: {rows[-1]['requests_s']:9.0f} requests/s, daemon "
              f"{rows[-1]['daemon_s'] * 1e6:7.1f} us, client {rows[-1]['client_s'] * 1e6:7.1f} us", file=sys.stderr, flush=True)
    fitted = rows[:len(FIT)]
    daemon, daemon_error = fit(fitted, "daemon_s")
    client, client_error = fit(fitted, "client_s")
    costs = Costs(*daemon, *client)
    tests = []
    for row in rows[len(FIT):]:
        said = simulate_pair(costs, row["batch"], row["record_bytes"], DEPTH)
        tests.append(dict(row, simulated_requests_s=said, error=said / row["requests_s"] - 1))
        print(f"{row['record_bytes']:6} B x {row['batch']:4}: measured {row['requests_s']:9.0f}, simulated {said:9.0f} requests/s "
              f"({100 * tests[-1]['error']:+.0f}%)", file=sys.stderr)
    with open(options.out, "w") as out:
        json.dump({"transport": options.transport, "costs": costs._asdict(), "fit_error": {"daemon": daemon_error, "client": client_error},
                   "fit": fitted, "test": tests}, out, indent=1)


if __name__ == "__main__":
    main()
