"""Benchmark 2, the speedrun: image quality after five minutes of training from random weights, three recipes.

The clock is the machine's own, started before the first step, and everything that training does counts: a recipe that
uses its cores badly pays for it. Same images, same features, as many samples from the same sampler with 20 evaluations;
beside it stands, for the first seed, the sampler that each recipe brings itself, on fewer samples, for which distances
are larger. Each recipe runs in the precision its users get: the peers' in fp32, the course's in what `find_precision`
chooses. A peer's average of the weights has a row without it: after few steps the weights themselves may be better.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.peers import lucidrains
from tests.benchmarks.throughput import PRECISIONS, matmul_peak
from utils.diffusion import GaussianDiffusion, ImageQuality, NoiseSchedule, UNet, generate, load_images, train
from utils.diffusion.batches import batch_at
from utils.diffusion.training import Settings

BATCH, OWN_COUNT = 128, 500
DRAWN = 25  # images at a time: the peers' network is half as fast with 125
SAMPLER = dict(sampler="dpmpp_2m", steps=20, batch_size=DRAWN)


class Trained(NamedTuple):
    """What a recipe leaves; `own` draws so many samples in the way that the recipe itself brings, if it brings one;
    `plain` is the network of a peer that averages its weights, without the average."""

    model: nn.Module
    diffusion: GaussianDiffusion
    steps: int
    own: Callable[[int], Tensor] | None = None
    plain: nn.Module | None = None


def course(seconds: float, images, seed: int, **settings) -> Trained:
    """`train`, all as by default but for these settings."""
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000))
    *_, state = train(UNet(), diffusion, images, minutes=seconds / 60, progress=False, seed=seed, **settings)
    return Trained(state.ema_model, diffusion, state.step)


def denoising_diffusion_pytorch(seconds: float, images, seed: int) -> Trained:
    """Its loss and schedule (v targets, sigmoid, T = 1000), its Trainer's Adam betas, clipping and EMA; the batch and
    the learning rate of 1e-3 are ours (its Trainer's: 16, 1e-4). Its own sampler is DDIM with 50 evaluations."""
    from ema_pytorch import EMA

    peer = lucidrains()
    network = peer.Unet(dim=24, dim_mults=(1, 2, 4), channels=1)
    process = peer.GaussianDiffusion(network, image_size=28, sampling_timesteps=50)
    average = EMA(process, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(process.parameters(), 1e-3, betas=(0.9, 0.99))

    def step(k: int) -> None:
        loss = process((batch_at(images, k, BATCH, seed)[0] + 1) / 2)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(process.parameters(), 1.0)
        optimizer.step()
        average.update()

    steps = run(seconds, step)

    def own(count: int) -> Tensor:
        parts = [average.ema_model.sample(batch_size=DRAWN) for _ in range(math.ceil(count / DRAWN))]
        return torch.cat(parts)[:count] * 2 - 1

    schedule = NoiseSchedule.from_betas(process.betas.double())
    return Trained(average.ema_model.model.eval(), GaussianDiffusion(schedule), steps, own, network.eval())


def annotated_recipe(seconds: float, images, seed: int) -> Trained:
    """T = 200, unscaled linear betas, Huber loss on the noise, Adam 1e-3, no EMA; its own sampler is ancestral, 200
    evaluations, not clipped."""
    network = lucidrains().Unet(dim=24, dim_mults=(1, 2, 4), channels=1)
    diffusion = GaussianDiffusion(NoiseSchedule.linear(200, rescale=False), "noise")
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)

    def step(k: int) -> None:
        x_0 = batch_at(images, k, BATCH, seed)[0]
        t, noise = torch.randint(200, (len(x_0),)), torch.randn_like(x_0)
        loss = F.smooth_l1_loss(network(diffusion.q_sample(x_0, t, noise), t), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    steps = run(seconds, step)

    def own(count: int) -> Tensor:
        return generate(network, diffusion, count, batch_size=DRAWN, seed=seed, sampler="ddpm", steps=200, clip=False)

    return Trained(network, diffusion, steps, own)


def run(seconds: float, step: Callable[[int], None]) -> int:
    """Call step(0), step(1), ... until the time is over; how many were made."""
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step(done)
        done += 1
    return done


RECIPES = {
    "course": course,
    "denoising-diffusion-pytorch": denoising_diffusion_pytorch,
    "annotated recipe": annotated_recipe,
}


def measure(name: str, seconds: float, count: int, seed: int, settings: dict) -> dict:
    """One training: distances of `count` samples, without the recipe's average too (plain_...), if it has one; for the
    first seed also of some by the recipe's own sampler. broken: the share of samples that are not finite."""
    torch.manual_seed(seed)
    images = load_images("fashion-mnist", "train")
    started = time.perf_counter()
    trained = RECIPES[name](seconds, images, seed, **settings)
    row = {"steps": trained.steps, "seconds": time.perf_counter() - started, "broken": 0.0}
    quality = ImageQuality.load()

    def scored(samples: Tensor):
        row["broken"] = max(row["broken"], float((~samples.isfinite()).flatten(1).any(1).double().mean()))
        return quality(samples.nan_to_num().clamp(-1, 1))

    for prefix, model in {"": trained.model, "plain_": trained.plain}.items():
        if model is not None:
            model.to(memory_format=torch.channels_last)  # faster, and the same images but for rounding
            scores = scored(generate(model, trained.diffusion, count, seed=seed, **SAMPLER))
            row |= {f"{prefix}frechet": scores.frechet, f"{prefix}kernel": scores.kernel, "floor": scores.frechet_floor}
    if seed == 0 and trained.own:
        scores = scored(trained.own(min(count, OWN_COUNT)))
        row |= {"own": scores.frechet, "own_floor": scores.frechet_floor}
    return row


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Their mean, and half the width of its 95% interval by Student's t; not a number for a single value."""
    mean, count = statistics.fmean(values), len(values)
    if count == 1:
        return mean, math.nan
    return mean, scipy.stats.t.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count)


def shown(values: list[float], form: str) -> str:
    """Their mean, and behind ± half its 95% interval where there are several; `form` as in ".2f"."""
    mean, half = mean_and_interval(values)
    return f"{mean:{form}}" if math.isnan(half) else f"{mean:{form}} ± {half:{form}}"


def report(seconds: float, count: int, seeds: int, in_own_process: Callable[..., dict]) -> str:
    """Train and measure every recipe with every seed, each in a process of its own, in turn."""
    rows = {name: [] for name in RECIPES}
    for seed in range(seeds):
        for name in RECIPES:
            options = ["--seconds", str(seconds), "--count", str(count), "--seed", str(seed)]
            rows[name].append(in_own_process("tests.benchmarks.quality", name, *options))
            print(f"  {name}, seed {seed}: {rows[name][-1]}", file=sys.stderr)
    own = statistics.fmean(row["frechet"] for row in rows["course"])
    lines = [
        "| recipe | steps | seconds | Frechet distance | times the course's | kernel distance | its own sampler |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (name, found), prefix in itertools.product(rows.items(), ("", "plain_")):
        if f"{prefix}frechet" not in found[0]:
            continue
        frechet, kernel = ([row[prefix + key] for row in found] for key in ("frechet", "kernel"))
        steps, spent = (statistics.fmean(row[key] for row in found) for key in ("steps", "seconds"))
        brought = f"{found[0]['own']:.2f}" if "own" in found[0] else "the same"
        times = statistics.fmean(frechet) / own
        title = f"{name}, without its average" if prefix else name
        lines.append(
            f"| {title} | {steps:,.0f} | {spent:.0f} | {shown(frechet, '.2f')} | {times:.1f} | "
            f"{shown(kernel, '.3f')} | {'' if prefix else brought} |"
        )
    broken = [name for name, found in rows.items() if any(row["broken"] for row in found)]
    peaks = ", ".join(f"{p} {matmul_peak(p) / 1e9:,.3g} GFLOP/s" for p in PRECISIONS)
    floor, own_floor = rows["course"][0]["floor"], rows["annotated recipe"][0]["own_floor"]
    spread = "; ± is half a 95% interval of the mean over seeds" * (seeds > 1)
    note = (
        f"{seeds} seed{'s' * (seeds > 1)}, {count:,} samples each by DPM-Solver++(2M) with 20 evaluations{spread}; as "
        f"many real images: {floor:.2f}. A step of the course is {Settings.batch_size} images, of the others {BATCH}. "
        f"The last column: {min(count, OWN_COUNT)} samples of the first seed; as many real images: {own_floor:.2f}. "
        f"Samples that are not finite: {', '.join(broken) or 'none'}. Matrix-multiply peak, 2048 x 2048: {peaks}."
    )
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    about = """of the course's `train`, as JSON: {"learning_rate": 0.004}"""
    parser.add_argument("--settings", type=json.loads, default={}, help=about)
    args = parser.parse_args()
    if args.settings and args.name != "course":
        parser.error(f"--settings are those of the course's `train`; {args.name} has none")
    print(json.dumps(measure(args.name, args.seconds, args.count, args.seed, args.settings)))
