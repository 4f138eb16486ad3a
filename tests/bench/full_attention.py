#!/usr/bin/env python3
"""Full attention's best kernel on this GPU, beside which layer_step's times stand. Needs PyTorch with CUDA.

  full_attention.py [--shapes NAME,...] [--contexts N,...] [--prefill N] [--layers N] [--json FILE]

One decode step of one layer: one query token, all keys and values read once, by PyTorch's scaled_dot_product_attention with the
flash and the cuDNN backend (grouped queries), captured in a CUDA graph over `layers` layers of distinct K and V, so that the L2
cache holds nothing from the layer before. The best of the two counts; medians over replays, for one layer. Every row also
says how much of the copy bandwidth of this run its bytes make: more than all of it means that something is wrong.

--prefill N: what a full-attention prefill of N tokens takes: causal attention of one layer plus the layer's matrix products (bf16),
each measured and multiplied by the number of layers. It is the yardstick for building an index.
"""

import argparse
import json
import statistics
import sys

SHAPES = {  # layers, KV heads, group, head dim, hidden, intermediate
    "llama3-8b": (32, 8, 4, 128, 4096, 14336),
    "llama3-70b-tp8": (80, 1, 8, 128, 8192, 3584),
    "qwen2.5-7b": (28, 4, 7, 128, 3584, 18944),
    "smollm2": (30, 3, 3, 64, 576, 1536),
}


def timed(torch, run, rounds):
    """Microseconds of run(): median of `rounds`, by events."""
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3)
    return statistics.median(times)


def copy_rate(torch):
    """Bytes read and written a microsecond."""
    source = torch.empty(1 << 29, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    for _ in range(3):
        target.copy_(source)
    return 2 * source.numel() / timed(torch, lambda: target.copy_(source), 20)


def decode(torch, shape, context, layers, kernel):
    """Microseconds of one layer; None where the kernel cannot."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    _, heads, group, dim, _, _ = SHAPES[shape]
    backend = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}[kernel]
    data = []
    try:
        data = [(torch.randn(1, heads * group, 1, dim, device="cuda", dtype=torch.bfloat16),
                 torch.randn(1, heads, context, dim, device="cuda", dtype=torch.bfloat16),
                 torch.randn(1, heads, context, dim, device="cuda", dtype=torch.bfloat16)) for _ in range(layers)]

        def step():
            return [torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True) for q, k, v in data]

        with sdpa_kernel(backend):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    step()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
        for _ in range(2):
            graph.replay()
        torch.cuda.synchronize()
        return timed(torch, graph.replay, 11) / layers
    except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
        print(f"# {shape} {context} {kernel}: {str(error).splitlines()[0][:100]}")
        return None
    finally:
        del data
        torch.cuda.empty_cache()


def prefill(torch, shape, tokens):
    """Microseconds of a prefill of the whole model."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    layers, heads, group, dim, hidden, inner = SHAPES[shape]
    q = torch.randn(1, heads * group, tokens, dim, device="cuda", dtype=torch.bfloat16)
    k = torch.randn(1, heads, tokens, dim, device="cuda", dtype=torch.bfloat16)
    v = torch.randn(1, heads, tokens, dim, device="cuda", dtype=torch.bfloat16)
    best = None
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        def attend():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        try:
            with sdpa_kernel(backend):
                attend()
                us = timed(torch, attend, 3)
            best = us if best is None else min(best, us)
        except RuntimeError as error:
            print(f"# prefill {shape}: {str(error).splitlines()[0][:100]}")
    del q, k, v
    chunk = 8192  # the products are linear in tokens
    x = torch.randn(chunk, hidden, device="cuda", dtype=torch.bfloat16)
    y = torch.randn(chunk, inner, device="cuda", dtype=torch.bfloat16)
    weights = [torch.randn(hidden, width, device="cuda", dtype=torch.bfloat16)
               for width in (heads * group * dim, 2 * heads * dim, heads * group * dim, inner, inner)]
    down = torch.randn(inner, hidden, device="cuda", dtype=torch.bfloat16)

    def products():
        for weight in weights:
            x @ weight
        return y @ down

    products()
    us = timed(torch, products, 7) * tokens / chunk
    torch.cuda.empty_cache()
    return None if best is None else layers * (best + us)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", default="llama3-8b")
    parser.add_argument("--contexts", default="131072,1048576")
    parser.add_argument("--prefill", type=int, default=131072)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--json")
    args = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("full_attention.py: no PyTorch")
        return 77
    if not torch.cuda.is_available():
        print("full_attention.py: no GPU that PyTorch can use")
        return 77
    rate = copy_rate(torch)
    print(f"# {torch.cuda.get_device_name()}, PyTorch {torch.__version__}; copy {rate * 1e-3:.0f} GB/s")
    rows, failed = [], False
    for shape in args.shapes.split(","):
        _, heads, _, dim, _, _ = SHAPES[shape]
        for context in (int(n) for n in args.contexts.split(",")):
            times = {kernel: decode(torch, shape, context, args.layers, kernel) for kernel in ("flash", "cudnn")}
            known = {kernel: us for kernel, us in times.items() if us is not None}
            if not known:
                continue
            kernel = min(known, key=known.get)
            floor = 4 * heads * dim * context / rate
            print(f"| full | {shape} | {context // 1024}K | {known[kernel]:.1f} us ({kernel}) | floor {floor:.1f} us | "
                  + ", ".join(f"{k} {us:.1f}" for k, us in known.items()) + " |")
            # A read alone can be a little faster than a copy; far below the floor, something was not read.
            failed |= known[kernel] < 0.85 * floor
            rows.append({"shape": shape, "context": context, "batch": 1, "us": round(known[kernel], 3), "kernel": kernel,
                         "floor_us": round(floor, 3)})
        if args.prefill:
            us = prefill(torch, shape, args.prefill)
            if us is not None:
                print(f"# prefill {shape} {args.prefill // 1024}K: {us * 1e-6:.2f} s")
                rows.append({"shape": shape, "context": args.prefill, "prefill_us": round(us, 1)})
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:  # one row a line: layer_step reads it so
            file.write('{"copy_gbs": %.1f, "rows": [\n' % (rate * 1e-3))
            file.write(",\n".join(" " + json.dumps(row) for row in rows))
            file.write("\n]}\n")
    if failed:
        print("# a time is far below its floor")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
