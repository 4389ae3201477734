"""Benchmark 1: seconds of a training step, peak memory, and how much of the machine's peak is used.

A step is the loss of a batch, its gradient, and Adam; not what a trainer does beside it (averages, clipping, Muon).
Each measurement is a process of its own, whose whole memory is counted; the contestants take turns in every round,
and ratios are taken within a round, so that a machine that slows down slows all of them.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.peers import NAMES, build

BATCH = 128
PRECISIONS = ("fp32", "bf16")


def measure(name: str, precision: str, steps: int) -> dict:
    """Median seconds of a training step of 128 images, peak memory, parameters, floating-point operations."""
    torch.manual_seed(0)
    network, loss = build(name, precision)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    x_0 = torch.rand(BATCH, 1, 28, 28) * 2 - 1

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(network, x_0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    step()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": statistics.median(seconds),
        "memory_mib": memory,
        "flops": operations(step),
        "parameters": sum(p.numel() for p in network.parameters()),
    }


def operations(step: Callable[[], None]) -> int:
    """Floating-point operations of the call; with attention by its plain formula, as torch counts none of the fused."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def matmul_peak(precision: str, size: int = 2048, repeats: int = 8) -> float:
    """The best rate of a matrix product of this size, in FLOP/s; of fewer repeats where they take over ten seconds."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best, begun = 0.0, time.perf_counter()
    for _ in range(repeats):
        started = time.perf_counter()
        a @ b
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
        if time.perf_counter() - begun > 10:  # bf16 without instructions for it takes minutes
            break
    return best


def in_own_process(*arguments: str) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks.throughput", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], digits: int = 2) -> str:
    """median (min to max)"""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(rounds: int, steps: int) -> str:
    keys = [(name, precision) for precision in PRECISIONS for name in NAMES]
    found = {key: [] for key in keys}
    peaks = {precision: [] for precision in PRECISIONS}
    for k in range(rounds):
        for key in keys:
            found[key].append(in_own_process(*key, "--steps", str(steps)))
            print(f"  round {k + 1} of {rounds}: {' '.join(key)} {found[key][-1]['seconds']:.2f} s", file=sys.stderr)
        for precision in PRECISIONS:
            peaks[precision].append(in_own_process("peak", precision)["flops"])
    lines = [
        "| network | precision | parameters | s per step of 128 | times the course's fp32 step | peak memory, MiB |"
        " share of matmul peak |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    own = [row["seconds"] for row in found["course", "fp32"]]
    for name, precision in keys:
        rows = found[name, precision]
        seconds = [row["seconds"] for row in rows]
        ratios = [mine / reference for mine, reference in zip(seconds, own)]
        memory = statistics.median(row["memory_mib"] for row in rows)
        share = [row["flops"] / row["seconds"] / peak for row, peak in zip(rows, peaks[precision])]
        lines.append(
            f"| {name} | {precision} | {rows[0]['parameters']:,} | {spread(seconds)} | {spread(ratios)} | "
            f"{memory:,.0f} | {statistics.median(share):.0%} |"
        )
    asked = [(name, [row["seconds"] for row in found[name, "fp32"]]) for name in NAMES[1:]]
    own = {p: [row["seconds"] for row in found["course", p]] for p in PRECISIONS}
    fastest = min(own, key=lambda precision: statistics.median(own[precision]))
    users = "; ".join(
        f"{name} {spread([theirs / mine for theirs, mine in zip(seconds, own[fastest])], 1)}" for name, seconds in asked
    )
    best = ", ".join(f"{p} {statistics.median(peaks[p]) / 1e9:,.3g} GFLOP/s" for p in PRECISIONS)
    users = f"In the precision that users get, peers in fp32 over the course in {fastest}: {users}."
    note = f"Matrix-multiply peak, 2048 x 2048: {best}. {rounds} rounds of {steps} steps: median (min to max)."
    return "\n".join([*lines, "", users, "", note])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=(*NAMES, "peak"))
    parser.add_argument("precision", choices=PRECISIONS)
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    if args.name == "peak":
        print(json.dumps({"flops": matmul_peak(args.precision)}))
    else:
        print(json.dumps(measure(args.name, args.precision, args.steps)))
