"""A GAN beside a diffusion model: distance against training time, and what another learning rate does to each.

    python -m tests.benchmarks.gan

First a few learning rates of each method are tried with one seed, a factor of about 3 apart, WGAN-GP's with 5 steps of
the critic to one of the generator and with 1. Then each method runs at its best rate, and at a third and three times
that rate, with three other seeds.

Three methods of about the same number of weights, each trained for the same seconds of processor time on one thread: a
DCGAN (Radford et al. 2016) with the non-saturating loss (Goodfellow et al. 2014) or as a WGAN-GP (Gulrajani et al.
2017), and the course's U-Net. All have Adam, one batch size, one warm-up and cosine decay, an average of the weights
for sampling, and bf16 where it is fast. The clock stands while samples are drawn and measured.

Finished runs are appended to data/gan-runs.csv; a call leaves out what is there, so that it may be cut off. It starts
no run after `--limit` seconds. Beforehand it was laid down that a run has failed whose last distance is not finite or
above FAILED times the median of its method at the rate that was tuned.
"""

import argparse
import copy
import datetime
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.device import autocast, find_device, find_precision
from utils.diffusion import GaussianDiffusion, ImageQuality, NoiseSchedule, UNet, generate, load_images
from utils.diffusion.batches import batch_at
from utils.diffusion.training import Settings, learning_rate, update_ema
from utils.files import write_atomically

TABLE = Path(__file__).resolve().parents[2] / "data" / "gan-runs.csv"
BATCH, LATENT, CHANNELS, COUNT, FAILED = 64, 32, 16, 500, 2.0
FACTORS = {"a third": 1 / 3, "as tuned": 1.0, "three times": 3.0}
# method: steps of the critic to one of the generator (Gulrajani et al. 2017, Algorithm 1: 5): rates
TRIED = {
    "non-saturating GAN": {1: [2e-4, 6e-4, 2e-3, 6e-3, 2e-2]},
    "WGAN-GP": {5: [3e-4, 1e-3, 3e-3], 1: [1e-3, 3e-3, 1e-2]},
    "diffusion": {0: [2e-3, 6e-3, 2e-2]},
}
PENALTY = 10.0  # their Algorithm 1
TUNING_SEED = 99
CPU = torch.device("cpu")


def make_generator() -> nn.Sequential:
    """Latents (B, 32) to images (B, 1, 28, 28) in [-1, 1]."""
    return nn.Sequential(
        nn.Linear(LATENT, 64 * 49),
        nn.Unflatten(1, (64, 7, 7)),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 1, 4, 2, 1),
        nn.Tanh(),
    )


def make_critic(norm: nn.Module) -> nn.Sequential:
    """Images to one number each (B, 1)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 4, 2, 1),
        norm,
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(64 * 49, 1),
    )


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Mean of (gradient norm - 1)^2 between real and fake images (Gulrajani et al. 2017, eq. 3)."""
    mix = torch.rand(len(real), 1, 1, 1)
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


class Gan:
    """Generator, critic and their optimisers; `step` moves both, `draw` uses the average of the generator."""

    def __init__(self, wasserstein: bool, critic_steps: int):
        self.wasserstein, self.critic_steps = wasserstein, critic_steps
        self.generator = make_generator()
        # The penalty is for each image alone, which batch norm would mix (their section 4).
        self.critic = make_critic(nn.GroupNorm(1, 64) if wasserstein else nn.BatchNorm2d(64))
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        betas = (0.0, 0.9) if wasserstein else (0.5, 0.999)
        self.optimizers = [torch.optim.Adam(net.parameters(), betas=betas) for net in (self.generator, self.critic)]
        self.networks = [self.generator, self.critic]

    def step(self, real: Tensor, rate: float, k: int) -> None:
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
        with torch.no_grad():
            fake = self.generator(torch.randn(len(real), LATENT))
        on_real, on_fake = self.critic(real), self.critic(fake)
        if self.wasserstein:
            loss = on_fake.mean() - on_real.mean() + PENALTY * gradient_penalty(self.critic, real, fake.float())
        else:
            loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        self.move(1, loss)
        if k % self.critic_steps == 0:
            on_fake = self.critic(self.generator(torch.randn(len(real), LATENT)))
            self.move(0, -on_fake.mean() if self.wasserstein else F.softplus(-on_fake).mean())
            update_ema(self.average, self.generator, min(0.999, (1 + k) / (10 + k)))

    def move(self, which: int, loss: Tensor) -> None:
        self.networks[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()

    @torch.no_grad()
    def draw(self, count: int) -> Tensor:
        # In training mode: the running statistics of batch norm are not those of the averaged weights.
        return self.average(torch.randn(count, LATENT))


class Diffusion:
    """The course's U-Net and loss, with Adam."""

    def __init__(self):
        self.diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000))
        self.model = UNet(channels=CHANNELS)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self.networks = [self.model]

    def step(self, real: Tensor, rate: float, k: int) -> None:
        self.optimizer.param_groups[0]["lr"] = rate
        loss = self.diffusion.loss(self.model, real)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        update_ema(self.average, self.model, min(0.999, (1 + k) / (10 + k)))

    def draw(self, count: int) -> Tensor:
        return generate(self.average, self.diffusion, count, sampler="dpmpp_2m", steps=10)


def run(asked: dict, seconds: float, images, quality: ImageQuality) -> Iterator[dict]:
    """Train once; a row after each quarter of the time, with the distance of COUNT samples."""
    method, steps, rate, seed = (asked[key] for key in ("method", "critic_steps", "rate", "seed"))
    torch.manual_seed(seed)
    made = Gan(method == "WGAN-GP", steps) if steps else Diffusion()
    recipe = Settings(learning_rate=rate, warmup=20)
    weights = sum(p.numel() for network in made.networks for p in network.parameters())
    precision, spent, k = find_precision(find_device()), 0.0, 0
    for quarter in (1, 2, 3, 4):
        while spent < quarter * seconds / 4:
            began = time.process_time()
            real, _ = batch_at(images, k, BATCH, seed)
            with autocast(CPU, precision):
                made.step(real, learning_rate(recipe, k, min(1.0, spent / seconds), None), k)
            spent, k = spent + time.process_time() - began, k + 1
        began = time.process_time()
        samples = made.draw(COUNT)
        cost = 1000 * (time.process_time() - began) / COUNT
        finite = bool(samples.isfinite().all())
        distance = quality.frechet(quality.features(samples.clamp(-1, 1))) if finite else math.nan
        row = asked | dict(weights=weights, seconds=round(spent, 1), steps=k)
        yield row | dict(frechet=round(distance, 3), ms_per_image=round(cost, 3))


def tuning_runs() -> Iterator[dict]:
    for method, forms in TRIED.items():
        for critic_steps, rates in forms.items():
            for rate in rates:
                yield dict(method=method, factor="tuning", critic_steps=critic_steps, rate=rate, seed=TUNING_SEED)


def final_runs(table: pd.DataFrame, seeds: int) -> Iterator[dict]:
    """Every method in its best form at its best rate of the tuning, and at a third and three times that rate."""
    # Not last(), which would pass over a distance that is no number.
    last = table[table.factor == "tuning"].groupby(["method", "critic_steps", "rate"]).tail(1)
    best = last.loc[last.groupby("method").frechet.idxmin()]
    for seed in range(seeds):
        for name, factor in FACTORS.items():
            for form in best.itertuples():
                rate = float(f"{factor * form.rate:.3g}")
                yield dict(method=form.method, factor=name, critic_steps=form.critic_steps, rate=rate, seed=seed)


def next_run(table: pd.DataFrame, seeds: int) -> dict | None:
    """The first that the table has not; the final ones follow from the tuning."""
    for runs in (tuning_runs(), final_runs(table, seeds)):
        for asked in runs:
            if table.empty or not (table[list(asked)] == list(asked.values())).all(axis=1).any():
                return asked
    return None


def append(table: pd.DataFrame, rows: list[dict], seconds: float) -> pd.DataFrame:
    """The table with these rows, which is also on the disk then; a comment at its top says where it comes from."""
    table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
    threads, version = torch.get_num_threads(), torch.__version__.split("+")[0]
    about = f"python -m tests.benchmarks.gan --seconds {seconds:g}; torch {version}, {threads} thread(s), "
    about += f"{find_precision(find_device())}, {datetime.date.today()}"
    write_atomically(TABLE, f"# {about}\n{table.to_csv(index=False)}")
    return table


def report(table: pd.DataFrame, floor: float) -> str:
    """Last distances of each method and factor, and how many runs failed."""
    last = table[table.factor != "tuning"].groupby(["method", "factor", "seed"]).tail(1)
    lines = [
        "| method | learning rate | Frechet distances | failed | ms per image |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    for method, own in last.groupby("method", sort=False):
        limit = FAILED * own[own.factor == "as tuned"].frechet.median()
        for factor in FACTORS:
            found = own[own.factor == factor]
            failed = int((~(found.frechet <= limit)).sum())
            values = ", ".join(f"{value:.1f}" for value in found.frechet)
            lines.append(
                f"| {method} | {factor} | {values} | {failed} of {len(found)} | {found.ms_per_image.median():.2f} |"
            )
    return "\n".join([*lines, "", f"{COUNT} samples each; as many real images: {floor:.2f}."])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gan", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="of processor time, for each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which no run is started")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began, images, quality = time.monotonic(), load_images("fashion-mnist"), ImageQuality.load()
    table = pd.read_csv(TABLE, comment="#") if TABLE.exists() else pd.DataFrame()
    while asked := next_run(table, args.seeds):
        if time.monotonic() - began > args.limit:
            print("the time is over; call it again to go on")
            return
        rows = list(run(asked, args.seconds, images, quality))
        table = append(table, rows, args.seconds)
        print(rows[-1], [row["frechet"] for row in rows], flush=True)
    print(report(table, float(quality.floor(COUNT)[0].mean())))


if __name__ == "__main__":
    main()
