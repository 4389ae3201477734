"""`make bench`: all benchmarks in one run on one machine, as tables in Markdown, also in build/bench.md."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from tests.benchmarks import quality, samplers, throughput

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("throughput", "quality", "samplers")


def in_own_process(module: str, *arguments: str):
    """What the module prints as JSON on its last line. Idle threads sleep, so that processor time counts work."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    """The processor and the versions, in one line."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] \
        if info.exists() else [platform.processor()]  # fmt: skip
    flags = info.read_text() if info.exists() else ""
    bf16 = "with" if "amx_bf16" in flags or "avx512_bf16" in flags else "without"
    return (f"{names[0]}, {os.cpu_count()} cores, {bf16} bf16 instructions, {torch.get_num_threads()} threads; "
            f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput measurement")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each network in a round")
    parser.add_argument("--seconds", type=float, default=300, help="of training, for the quality measurement")
    parser.add_argument("--count", type=int, default=500, help="samples for each Frechet distance")
    args = parser.parse_args()
    texts = [f"Machine: {machine()}."]
    if "throughput" in args.only:
        texts += ["### Training speed at equal size", throughput.report(args.rounds, args.steps)]
    if "quality" in args.only:
        title = f"### Image quality after {args.seconds:.0f} seconds of training"
        texts += [title, quality.report(args.seconds, args.count, in_own_process)]
    if "samplers" in args.only:
        rows = in_own_process("tests.benchmarks.samplers", "--count", str(args.count))
        texts += ["### Samplers", samplers.report(rows, args.count)]
    text = "\n\n".join(texts) + "\n"
    print(text)
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "bench.md").write_text(text)


if __name__ == "__main__":
    main()
