#!/usr/bin/env python3
"""Times PyTorch's scaled_dot_product_attention beside ours: adds it to the rows of a bench.json that ran on a device.

    python3 benches/torch_sdpa.py DIR/bench.json
    attn-bench --page DIR                          # the page and the tables with what was added

It needs a PyTorch with CUDA and nothing else. Times are taken as attn-bench takes a device's: a turn is as many calls as last
5 ms, handed over together and waited for once; a time is the median of the turns; in decode, calls go through 1 GiB of keys and
values by turns. Forward alone: rows of training are passed by, and so are those with a softcap, which PyTorch has not.
Causality is PyTorch's own where there are as many queries as keys; what else hides is a mask of bool made beforehand. Which of
its kernels serves is PyTorch's default choice. Answers are not checked here.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

NAME = "torch-sdpa"
# Milliseconds that a turn and the warm-up last at least; seconds and turns for one row.
TURN_MS, WARM_UP_MS, BUDGET_S = 5.0, 60.0, 1.5
LEAST_TURNS, MOST_TURNS, MOST_CALLS = 5, 51, 10_000
# As in benches/src/contestants/operands.rs.
ROTATION_BYTES, MOST_COPIES = 1 << 30, 128
# As in benches/src/peaks/device.rs.
SIDE, COPY_BYTES = 8192, 1 << 31
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# What a report of before there were device peaks calls its devices.
DEVICES = ("wgpu", "cuda")


def turn_ms(call, calls):
    """Milliseconds that `calls` calls take, waited for once."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) * 1e3


def calls_of_a_turn(call):
    """Doubles the calls until that many, once warm, last a turn."""
    calls, spent = 1, 0.0
    while True:
        taken = turn_ms(call, calls)
        spent += taken
        if taken < TURN_MS and calls < MOST_CALLS:
            calls = min(2 * calls, MOST_CALLS)
        elif spent >= WARM_UP_MS:
            return calls


def turns_of(call):
    """Milliseconds a call, one number a turn."""
    turn_ms(call, 1)
    calls = calls_of_a_turn(call)
    turns, start = [], time.perf_counter()
    while len(turns) < LEAST_TURNS or (len(turns) < MOST_TURNS and time.perf_counter() - start < BUDGET_S):
        turn_ms(call, 1)
        turns.append(turn_ms(call, calls) / calls)
    return turns


def mask_of(row):
    """The mask, [1, 1, Sq, Sk] with true for what is seen, and whether causality is left to PyTorch."""
    queries, keys = row["query_len"], row["key_len"]
    left, right = row.get("window_left"), row.get("window_right")
    windowed = left is not None or right is not None
    if row["causal"] and not windowed and queries == keys:
        return None, queries > 1
    # Bottom-right alignment: query i stands at i + Sk - Sq.
    distance = torch.arange(keys, device="cuda")[None, :] - torch.arange(queries, device="cuda")[:, None] - (keys - queries)
    seen = torch.ones_like(distance, dtype=torch.bool)
    if row["causal"]:
        seen &= distance <= 0
    if left is not None:
        seen &= distance >= -left
    if right is not None:
        seen &= distance <= right
    return (None if bool(seen.all()) else seen[None, None]), False


def choice_of(query, key, value, options):
    """The name of the kernel that PyTorch chooses, where this release tells."""
    try:
        number = torch._fused_sdp_choice(query, key, value, **options)
        from torch.nn.attention import SDPBackend

        return next((name.lower() for name, kind in SDPBackend.__members__.items() if int(kind) == number), str(number))
    except Exception as error:  # A private function: that it is gone or refuses must not end the run.
        return f"not told ({type(error).__name__})"


def measure(row):
    """The turns of one row, in milliseconds a call, and the kernel chosen."""
    dtype = DTYPES[row["dtype"]]

    def random(heads, length):
        return torch.randn(row["batch"], heads, length, row["head_dim"], dtype=dtype, device="cuda")

    query = random(row["heads"], row["query_len"])
    copies = 1
    if row["suite"] == "decode":
        kv_bytes = 2 * row["batch"] * row["kv_heads"] * row["key_len"] * row["head_dim"] * dtype.itemsize
        copies = max(1, min(MOST_COPIES, ROTATION_BYTES // kv_bytes))
    caches = [(random(row["kv_heads"], row["key_len"]), random(row["kv_heads"], row["key_len"])) for _ in range(copies)]
    mask, is_causal = mask_of(row)
    options = {"attn_mask": mask, "dropout_p": 0.0, "is_causal": is_causal, "scale": row.get("scale")}
    if row["heads"] != row["kv_heads"]:
        options["enable_gqa"] = True
    turn = 0

    def call():
        nonlocal turn
        key, value = caches[turn % copies]
        turn += 1
        return F.scaled_dot_product_attention(query, key, value, **options)

    with torch.inference_mode():
        return turns_of(call), choice_of(query, *caches[0], options)


def peaks(machine):
    """The device's matrix products and copying, into the report's machine."""

    def best_seconds(call):
        return min(turns_of(call)) * 1e-3

    for name in ("f16", "bf16"):
        a, b = (torch.randn(SIDE, SIDE, dtype=DTYPES[name], device="cuda") for _ in range(2))
        machine[f"torch_matmul_{name}_tflops"] = 2 * SIDE**3 / best_seconds(lambda: a @ b) * 1e-12
    tensor = torch.rand(COPY_BYTES // 4, device="cuda")
    machine["torch_copy_gbps"] = 2 * COPY_BYTES / best_seconds(lambda: tensor + 1.0) * 1e-9
    del tensor
    torch.cuda.empty_cache()


def write(report, path):
    """Writes beside and renames, so that no reader ever sees half of it."""
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        if os.path.exists(beside):
            os.remove(beside)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", help="a bench.json that attn-bench wrote")
    path = parser.parse_args().report
    if not torch.cuda.is_available():
        sys.exit("torch_sdpa.py: this PyTorch has no CUDA device")
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    machine = report["machine"]
    devices = {device["backend"] for device in machine.get("devices", [])} or set(DEVICES)
    rows = [row for row in report["rows"] if row["backend"] in devices and row["suite"] in ("prefill", "decode")]
    if not rows:
        sys.exit(f"torch_sdpa.py: {path} has no forward row of a device: {', '.join(sorted(devices))}")
    cuda = torch.backends.cuda
    enabled = {
        "flash": cuda.flash_sdp_enabled(),
        "cudnn": getattr(cuda, "cudnn_sdp_enabled", lambda: False)(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    machine["torch_version"] = torch.__version__
    machine["torch_device"] = torch.cuda.get_device_name()
    machine["torch_backends"] = ", ".join(name for name, is_on in enabled.items() if is_on)
    print(f"PyTorch {torch.__version__}, {machine['torch_device']}, attention by one of: {machine['torch_backends']}")
    peaks(machine)
    for name in ("torch_matmul_f16_tflops", "torch_matmul_bf16_tflops", "torch_copy_gbps"):
        print(f"{name} {machine[name]:.0f}")
    # Rows of several devices may be of one shape: it is timed once.
    timed = {}
    for row in rows:
        # An earlier time, or that of LibTorch on the CPU.
        row["peers"].pop(NAME, None)
        shape = " ".join(word for word in (row["suite"], row["sizes"], row["dtype"], row["options"]) if word)
        if row.get("softcap") is not None:
            print(f"{shape}: passed by, no softcap", flush=True)
            continue
        if shape not in timed:
            try:
                turns, choice = measure(row)
                timed[shape] = statistics.median(turns)
                print(
                    f"{shape}: {timed[shape]:.4g} ms ({min(turns):.4g} to {max(turns):.4g}), {row['ours_ms'] / timed[shape]:.2f}"
                    f" times as fast as ours, {choice}",
                    flush=True,
                )
            except RuntimeError as error:  # No kernel for it, or no memory.
                timed[shape] = None
                print(f"{shape}: left out: {str(error).splitlines()[0]}", flush=True)
            torch.cuda.empty_cache()
        if timed[shape] is not None:
            row["peers"][NAME] = timed[shape]
    write(report, path)


if __name__ == "__main__":
    main()
