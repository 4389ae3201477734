"""`make bench`: all benchmarks in one run on one machine, as tables in Markdown, also in build/bench.md."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from tests.benchmarks import detector, quality, samplers, throughput

ROOT = Path(__file__).resolve().parents[2]


def in_own_process(module: str, *arguments: str):
    """What the module prints as JSON on its last line."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    """The processor and the versions, in one line."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else [platform.processor()]
    )
    flags = info.read_text() if info.exists() else ""
    bf16 = "with" if "amx_bf16" in flags or "avx512_bf16" in flags else "without"
    threads = torch.get_num_threads()
    return (
        f"{names[0]}, {os.cpu_count()} cores, {bf16} bf16 instructions, {threads} thread{'s' * (threads > 1)}; "
        f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}"
    )


def throughput_part(args: argparse.Namespace) -> str:
    return "### Training speed at equal size\n\n" + throughput.report(args.rounds, args.steps)


def quality_part(args: argparse.Namespace) -> str:
    title = f"### Image quality after {args.seconds:.0f} seconds of training"
    return f"{title}\n\n{quality.report(args.seconds, 4 * args.count, args.seeds, in_own_process)}"


def samplers_part(args: argparse.Namespace) -> str:
    rows = in_own_process("tests.benchmarks.samplers", "--count", str(args.count), "--parts", "2")
    return f"### Samplers\n\n{samplers.report(rows, args.count, 2)}"


def detector_part(args: argparse.Namespace) -> str:
    return f"### Samples told from real images\n\n{detector.report(in_own_process('tests.benchmarks.detector'))}"


PARTS = {"throughput": throughput_part, "quality": quality_part, "samplers": samplers_part, "detector": detector_part}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput measurement")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each network in a round")
    parser.add_argument("--seconds", type=float, default=300, help="of training, for the quality measurement")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each recipe, for the quality measurement")
    parser.add_argument("--count", type=int, default=500, help="a sampler draws twice, a recipe four times that")
    args = parser.parse_args()
    texts = [f"Machine: {machine()}."]
    for part in args.only:
        texts.append(PARTS[part](args))
        text = "\n\n".join(texts) + "\n"
        (ROOT / "build").mkdir(exist_ok=True)
        (ROOT / "build" / "bench.md").write_text(text)  # after each part, so that an interrupted run keeps its tables
    print(text)


if __name__ == "__main__":
    main()
