#!/usr/bin/env python3
"""One Markdown table from the JSON files of `longwave bench`. Usage: decode_table.py FILE.json..."""

import json
import os
import sys

COLUMNS = [
    ("row", lambda r: r["name"]),
    ("shape, layers, tokens, batch", lambda r: f"{r['shape']}, {r['layers']}, {r['context']:,}, {r['batch']}"),
    ("layer step us (p95)", lambda r: f"{us(r['layer_step_us_p50'])} ({us(r['layer_step_us_p95'])})"),
    ("floor us", lambda r: us(r["layer_step_floor_us"])),
    ("full us", lambda r: us(r["full_layer_step_us_p50"])),
    ("full / step", lambda r: number(r["speedup"], 2)),
    ("exact %", lambda r: number(100 * r["exact_token_share"], 2)),
    ("hits %", lambda r: number(100 * (r["hit_ratio"] or 0), 1)),
    ("MiB a step", lambda r: number(r["fetched_bytes_per_step"] / 2**20, 2)),
    ("GB/s of ceiling", lambda r: f"{number(r['fetched_gbps'], 2)} of {number(r['ceiling_gbps'], 1)}"),
    ("e_out mean, p95", lambda r: f"{number(r['e_out']['mean'], 3)}, {number(r['e_out']['p95'], 3)}"),
    ("tokens/s (full)", lambda r: tokens(r)),
    ("build tokens/s", lambda r: number(r["ingest"]["tokens_per_s"], 0)),
]


def number(value, digits):
    return "-" if value is None else f"{value:,.{digits}f}"


def us(value):
    return number(value, 1)


def tokens(row):
    model = row.get("model")
    if model is None:
        return f"{number(row['tokens_per_s'], 1)} (attention alone)"
    return f"{number(model['tokens_per_s'], 1)} ({number(model['full_tokens_per_s'], 1)})"


def main():
    rows = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            rows.append(json.load(file) | {"name": os.path.basename(path).removesuffix(".json")})
    print("| " + " | ".join(name for name, _ in COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(value(row) for _, value in COLUMNS) + " |")


if __name__ == "__main__":
    main()
