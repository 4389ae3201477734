"""Benchmark 3: seconds per image and Frechet distance of every sampler on the model in data/checkpoints.

All samplers draw the same labels. How far a distance differs from that of 1000-step DDPM is given with a standard
error: that of the difference when the images are drawn again with replacement (bootstrap, the same draws for both).
"""

import argparse
import json
import sys
import time

import torch
from torch import Tensor

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
    rows, reference = [], None
    for sampler, steps, eta in SETTINGS:
        started = time.perf_counter()
        images = generate(model, diffusion, count, y=y, seed=seed, sampler=sampler, steps=steps, eta=eta)
        seconds = (time.perf_counter() - started) / count
        found, redrawn = quality(images), frechet_of_redraws(quality, images)
        reference = redrawn if reference is None else reference
        rows.append({"sampler": sampler, "steps": steps, "eta": eta, "seconds": seconds, "frechet": found.frechet,
                     "floor": found.frechet_floor, "kernel": found.kernel,
                     "error": float((redrawn - reference).std())})  # fmt: skip
        print(f"  {rows[-1]}", file=sys.stderr)
    return rows


def frechet_of_redraws(quality: ImageQuality, images: Tensor, redraws: int = 100) -> Tensor:
    """Frechet distances (redraws,) of the images drawn again with replacement, the same draws for equally many."""
    features, generator = quality.features(images), torch.Generator().manual_seed(0)
    count = len(features)
    picks = [torch.randint(count, (count,), generator=generator) for _ in range(redraws)]
    return torch.tensor([quality.frechet(features[pick]) for pick in picks])


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
            f"{row['frechet'] / reference - 1:+.0%} ± {row['error'] / reference:.0%} | {row['kernel']:.4f} |"
        )
    floor = f"{count} samples each, classes in equal parts, one seed; real against real {rows[0]['floor']:.2f}."
    return "\n".join([*lines, "", floor])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=500)
    print(json.dumps(measure(parser.parse_args().count)))
