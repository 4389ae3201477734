"""Benchmark 2: Frechet distance after five minutes of training on two cores, for three recipes.

Same images, same features, same number of samples, no mirroring. Each recipe runs in the precision its users get: the
peers' in fp32, the course's in what `find_precision` chooses. The clock counts the processor time of the training
divided by its threads, so that a machine that does other work besides stays fair. A thread that waits is not counted:
a recipe that uses its threads less gets more time on the wall, which here is the peers' advantage.
"""

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.benchmarks.peers import lucidrains
from tests.benchmarks.samplers import frechet_of_redraws
from utils.diffusion import GaussianDiffusion, ImageQuality, NoiseSchedule, UNet, generate, load_images, train
from utils.diffusion.training import batch_at

RECIPES = ("course", "denoising-diffusion-pytorch", "annotated recipe")
BATCH, WARM_UP_STEPS = 128, 5


def clock() -> float:
    """Seconds of processor time of this process, divided by the threads torch uses."""
    return time.process_time() / torch.get_num_threads()


def steps_in(seconds: float, step: Callable[[int], None]) -> int:
    """How many calls of `step` fit into that time, measured on a few."""
    step(0)
    started = clock()
    for k in range(WARM_UP_STEPS):
        step(k)
    return max(1, int(seconds / ((clock() - started) / WARM_UP_STEPS)))


def course(seconds: float, count: int, images, seed: int) -> tuple[Tensor, int, float]:
    """`train` and DPM-Solver++(2M) with 20 evaluations, all as by default."""
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000))
    # A short training that is thrown away tells how many steps fit; the rate is lowered over just these.
    marks = [clock() for _ in train(UNet(), diffusion, images, steps=WARM_UP_STEPS + 1, progress=False, seed=seed)]
    steps = max(1, int(seconds / ((marks[-1] - marks[0]) / WARM_UP_STEPS)))
    started = clock()
    *_, state = train(UNet(), diffusion, images, steps=steps, progress=False, seed=seed)
    spent = clock() - started
    return generate(state.ema_model, diffusion, count, sampler="dpmpp_2m", steps=20, seed=seed), steps, spent


def denoising_diffusion_pytorch(seconds: float, count: int, images, seed: int) -> tuple[Tensor, int, float]:
    """Its defaults (v targets, sigmoid schedule, T = 1000; its Trainer's Adam betas, clipping and EMA), learning rate
    1e-3; its DDIM with 50 evaluations."""
    peer = lucidrains()
    from ema_pytorch import EMA

    network = peer.Unet(dim=24, dim_mults=(1, 2, 4), channels=1)
    process = peer.GaussianDiffusion(network, image_size=28, sampling_timesteps=50)
    average = EMA(process, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(process.parameters(), 1e-3, betas=(0.9, 0.99))

    def step(k: int) -> None:
        loss = process((batch_at(images, k, BATCH, seed)[0] + 1) / 2)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(process.parameters(), 1.0)
        optimizer.step()
        average.update()

    steps, spent = _run(seconds, step, process, optimizer)
    torch.manual_seed(seed)
    samples = [average.ema_model.sample(batch_size=125) for _ in range(math.ceil(count / 125))]
    return torch.cat(samples)[:count] * 2 - 1, steps, spent


def annotated_recipe(seconds: float, count: int, images, seed: int) -> tuple[Tensor, int, float]:
    """T = 200, unscaled linear betas, Huber loss on the noise, Adam 1e-3, no EMA, unclipped ancestral sampling."""
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

    steps, spent = _run(seconds, step, network, optimizer)
    options = dict(batch_size=125, seed=seed, sampler="ddpm", steps=200, clip=False)
    samples = generate(network, diffusion, count, **options)
    return samples, steps, spent


def _run(seconds: float, step: Callable[[int], None], module, optimizer) -> tuple[int, float]:
    """Train for that time from the weights as they are now."""
    fresh = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    steps = steps_in(seconds, step)
    module.load_state_dict(fresh[0])
    optimizer.load_state_dict(fresh[1])
    started = clock()
    for k in range(steps):
        step(k)
    return steps, clock() - started


def measure(name: str, seconds: float, count: int, seed: int) -> dict:
    torch.manual_seed(seed)
    images = load_images("fashion-mnist", "train")
    recipe = {"course": course, "denoising-diffusion-pytorch": denoising_diffusion_pytorch}.get(name, annotated_recipe)
    samples, steps, spent = recipe(seconds, count, images, seed)
    broken = float((~samples.isfinite()).flatten(1).any(1).double().mean())
    quality, samples = ImageQuality.load(), samples.nan_to_num().clamp(-1, 1)
    found, redrawn = quality(samples), frechet_of_redraws(quality, samples)
    return {
        "frechet": found.frechet,
        "error": redrawn.std().item(),
        "floor": found.frechet_floor,
        "floor_spread": found.frechet_spread,
        "kernel": found.kernel,
        "steps": steps,
        "seconds": spent,
        "broken": broken,
        "count": count,
    }


def report(seconds: float, count: int, run: Callable[..., dict]) -> str:
    rows = {}
    for name in RECIPES:
        rows[name] = run("tests.benchmarks.quality", name, "--seconds", str(seconds), "--count", str(count))
        print(f"  {name}: {rows[name]}", file=sys.stderr)
    own = rows["course"]["frechet"]
    lines = [
        "| recipe | steps of 128 | seconds | Frechet distance | times the course's | kernel distance | not finite |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['steps']} | {row['seconds']:.0f} | {row['frechet']:.1f} ± {row['error']:.1f} | "
            f"{row['frechet'] / own:.1f} | {row['kernel']:.3f} | {row['broken']:.0%} |"
        )
    floor = f"{rows['course']['floor']:.1f} ± {rows['course']['floor_spread']:.1f}"
    note = f"One training each; {count} samples, ± is their standard error (bootstrap); as many real images: {floor}."
    return "\n".join([*lines, "", note])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(json.dumps(measure(args.name, args.seconds, args.count, args.seed)))
