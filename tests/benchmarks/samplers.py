"""Benchmark 3: seconds per image and Frechet distance of every sampler on the model in data/checkpoints."""

import argparse
import json
import sys
import time

import torch

from utils.diffusion import ImageQuality, generate, load_model
from utils.diffusion.classifier import FOLDER

SETTINGS = [
    ("ddpm", 1000, 0.0), ("ddpm", 100, 0.0), ("ddpm", 50, 0.0), ("ddim", 10, 0.0), ("ddim", 20, 0.0), ("ddim", 50, 0.0),
    ("ddim", 100, 0.0), ("ddim", 50, 1.0), ("dpmpp_2m", 5, 0.0), ("dpmpp_2m", 10, 0.0), ("dpmpp_2m", 20, 0.0),
    ("dpmpp_2m", 50, 0.0),
]  # fmt: skip


def measure(count: int, seed: int = 0) -> list[dict]:
    model, diffusion = load_model(FOLDER / "unet-fashion-mnist.safetensors")
    quality = ImageQuality.load()
    y = torch.arange(count) % model.num_classes
    rows = []
    for sampler, steps, eta in SETTINGS:
        started = time.perf_counter()
        images = generate(model, diffusion, count, y=y, seed=seed, sampler=sampler, steps=steps, eta=eta)
        seconds = (time.perf_counter() - started) / count
        found = quality(images)
        rows.append({"sampler": sampler, "steps": steps, "eta": eta, "seconds": seconds, "frechet": found.frechet,
                     "floor": found.frechet_floor, "kernel": found.kernel})  # fmt: skip
        print(f"  {rows[-1]}", file=sys.stderr)
    return rows


def report(rows: list[dict], count: int) -> str:
    reference = rows[0]["frechet"]
    lines = [
        "| sampler | evaluations | ms per image | Frechet distance | relative to DDPM, 1000 | kernel distance |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        name = row["sampler"] + (f", eta {row['eta']:g}" if row["sampler"] == "ddim" else "")
        lines.append(
            f"| {name} | {row['steps']} | {1000 * row['seconds']:.1f} | {row['frechet']:.2f} | "
            f"{row['frechet'] / reference - 1:+.0%} | {row['kernel']:.4f} |"
        )
    floor = f"{count} samples each, classes in equal parts, one seed; real against real {rows[0]['floor']:.2f}."
    return "\n".join([*lines, "", floor])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=500)
    print(json.dumps(measure(parser.parse_args().count)))
