"""Benchmark 3: seconds per image and Frechet distance of every sampler on the model in data/checkpoints.

All samplers start from the same noise and draw the same labels. How far a distance differs from that of 1000-step DDPM
is given with a standard error: that of the difference when the images are drawn again with replacement (bootstrap, the
same draws for both).
"""

import argparse
import json
import sys
import time

import torch
from torch import Tensor

from utils.diffusion import ImageQuality, generate, load_model
from utils.diffusion.metrics import FOLDER

SETTINGS = [
    ("ddpm", 1000, 0.0),
    ("ddpm", 100, 0.0),
    ("ddpm", 50, 0.0),
    ("ddim", 10, 0.0),
    ("ddim", 20, 0.0),
    ("ddim", 50, 0.0),
    ("ddim", 100, 0.0),
    ("dpmpp_2m", 5, 0.0),
    ("dpmpp_2m", 10, 0.0),
    ("dpmpp_2m", 20, 0.0),
    ("dpmpp_2m", 50, 0.0),
]


def measure(count: int, parts: int) -> list[dict]:
    """`parts` times `count` images from every sampler; in each part all start from the same x_T and labels."""
    model, diffusion = load_model(FOLDER / "unet-fashion-mnist.safetensors")
    quality, generator = ImageQuality.load(), torch.Generator().manual_seed(0)
    labels = torch.randint(model.num_classes, (parts, count), generator=generator)
    generate(model, diffusion, count, y=labels[0], sampler="ddim", steps=2)  # nobody pays for the first call
    rows, reference = [], None
    for sampler, steps, eta in SETTINGS:
        drawn, seconds = [], []
        for seed, y in enumerate(labels):
            started = time.perf_counter()
            options = dict(batch_size=count, seed=seed, sampler=sampler, steps=steps, eta=eta)
            drawn.append(generate(model, diffusion, count, y=y, **options))
            seconds.append((time.perf_counter() - started) / count)
        found, redrawn = quality(torch.cat(drawn)), frechet_of_redraws(quality, torch.cat(drawn))
        reference = redrawn if reference is None else reference
        rows.append(
            {
                "sampler": sampler,
                "steps": steps,
                "eta": eta,
                "seconds": seconds,
                "frechet": found.frechet,
                "floor": found.frechet_floor,
                "floor_spread": found.frechet_spread,
                "kernel": found.kernel,
                "error": float((redrawn - reference).std()),
            }
        )
        print(f"  {rows[-1]}", file=sys.stderr)
    return rows


def frechet_of_redraws(quality: ImageQuality, images: Tensor, redraws: int = 100) -> Tensor:
    """Frechet distances (redraws,) of the images drawn again with replacement, the same draws for equally many."""
    features, generator = quality.features(images), torch.Generator().manual_seed(0)
    count = len(features)
    picks = [torch.randint(count, (count,), generator=generator) for _ in range(redraws)]
    return torch.tensor([quality.frechet(features[pick]) for pick in picks])


def report(rows: list[dict], count: int, parts: int) -> str:
    reference = rows[0]["frechet"]
    lines = [
        "| sampler | evaluations | ms per image | Frechet distance | relative to DDPM, 1000 | kernel distance |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        name = row["sampler"] + (f", eta {row['eta']:g}" if row["sampler"] == "ddim" else "")
        relative = f"{row['frechet'] / reference - 1:+.0%} ± {row['error'] / reference:.0%}" if row != rows[0] else ""
        lines.append(
            f"| {name} | {row['steps']} | {1000 * min(row['seconds']):.1f} to {1000 * max(row['seconds']):.1f} | "
            f"{row['frechet']:.2f} | {relative} | {row['kernel']:.4f} |"
        )
    floor = f"{rows[0]['floor']:.2f} ± {rows[0]['floor_spread']:.2f}"
    note = (
        f"{parts} times {count} samples, taken together; ± is the standard error of the difference, in percent of the "
        f"first row's distance; as many real images are at {floor} (mean and spread from draw to draw)."
    )
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--parts", type=int, default=2)
    args = parser.parse_args()
    print(json.dumps(measure(args.count, args.parts)))
