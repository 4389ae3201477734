"""What a loss weights: one network under seven objectives, at equal seconds of processor time, three seeds each.

    python -m tests.benchmarks.objectives

An objective is two functions of the log-SNR: the density of the noise levels that are drawn, and the weight of the
noise's squared error (Kingma & Gao 2023, section 3). All else is that of `train`; so a step costs each the same, and
equal steps are equal seconds. The network always outputs v. Rates are not tuned for any of them.

Finished runs are kept in data/objectives.csv and left out by the next call, so that a call may be cut off. It begins
no run after `--limit` seconds.
"""

import argparse
import datetime
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from utils.diffusion import GaussianDiffusion, ImageQuality, NoiseSchedule, UNet, generate, load_images, train
from utils.diffusion import validation_loss as validation_loss_of
from utils.files import write_atomically

TABLE = Path(__file__).resolve().parents[2] / "data" / "objectives.csv"
STEPS, SEEDS, COUNT, EVALUATIONS = 280, 3, 1000, 20
LEVELS = {"little noise": slice(0, 3), "middle": slice(3, 7), "much noise": slice(7, 10)}  # tenths of the timesteps

# The densities of the log-SNR, each of which adds up to 1.


def bell(x: Tensor, mean: float, std: float) -> Tensor:
    return torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


def cosine_times(log_snr: Tensor) -> Tensor:
    """t uniform on the cosine schedule."""
    return 1 / (2 * math.pi * torch.cosh(log_snr / 2))


def course_times(log_snr: Tensor) -> Tensor:
    """Three quarters logit-normal about -1 on the cosine schedule, the others uniform: what `train` draws."""
    tau = torch.atan(torch.exp(-log_snr / 2)) * 2 / math.pi
    return cosine_times(log_snr) * (0.75 * bell(tau.logit(), -1, 1) / (tau * (1 - tau)) + 0.25)


def flow_times(log_snr: Tensor) -> Tensor:
    """tau uniform on the straight path (1 - tau) x_0 + tau noise."""
    tau = torch.sigmoid(-log_snr / 2)
    return tau * (1 - tau) / 2


# The weights of the squared error of the noise.


def of_v(log_snr: Tensor) -> Tensor:
    return 1 + torch.exp(-log_snr)


def of_velocity(log_snr: Tensor) -> Tensor:
    return (1 + torch.exp(-log_snr / 2)) ** 2


OBJECTIVES: dict[str, tuple[Callable, Callable]] = {
    "v, cosine": (cosine_times, of_v),
    "noise, cosine": (cosine_times, torch.ones_like),
    "min-SNR-5": (cosine_times, lambda log_snr: (5 * torch.exp(-log_snr)).clamp(max=1)),
    "EDM": (lambda log_snr: bell(log_snr, 2.4, 2.4), lambda log_snr: 1 + torch.exp(-log_snr) / 0.5**2),
    "flow, uniform": (flow_times, of_velocity),
    "flow, logit-normal": (lambda log_snr: bell(log_snr, 0, 2), of_velocity),
    "the course's": (course_times, of_v),
}


class Weighted(GaussianDiffusion):
    """The process with another loss: levels by `density`, the noise's error by `weight`."""

    def __init__(self, schedule, density, weight):
        super().__init__(schedule, prediction="v")
        log_snr, T = schedule.snr.log(), schedule.num_timesteps
        shares = density(log_snr) * torch.gradient(log_snr)[0].abs()
        up_to = (shares / shares.sum()).cumsum(0)
        self.levels = torch.searchsorted(up_to, (torch.arange(T).double() + 0.5) / T)
        factor = weight(log_snr) * log_snr.sigmoid()  # of the squared error of v
        self.factor = factor / factor[self.levels].mean()

    def loss(self, model, x_0, t, noise, y=None):
        """t, uniform, chooses one of T levels, all equally likely."""
        t = self.levels.to(t.device)[t]
        error = super().loss(model, x_0, t, noise, y, reduction="none")
        return (self.factor.float().to(t.device)[t] * error).mean()


def trained(name: str, seed: int, images, steps: int = STEPS):
    """The averaged weights of one training."""
    torch.manual_seed(seed)
    model = UNet(channels=32, num_classes=10)
    objective = Weighted(NoiseSchedule.cosine(1000), *OBJECTIVES[name])
    *_, state = train(model, objective, images, steps=steps, seed=seed, middle=0, progress=False)
    return state.ema_model


def measure(name: str, seed: int, images, held_out, quality: ImageQuality) -> dict:
    """One training, as a row of the table."""
    started = time.process_time()
    model, plain = trained(name, seed, images), GaussianDiffusion(NoiseSchedule.cosine(1000))
    row = {"objective": name, "seed": seed, "steps": STEPS, "seconds": round(time.process_time() - started, 1)}
    losses = validation_loss_of(model, plain, held_out)
    row |= {f"error of v, {level}": round(losses[part].mean().item(), 5) for level, part in LEVELS.items()}
    options = dict(y=torch.arange(COUNT) % 10, seed=seed, sampler="dpmpp_2m", steps=EVALUATIONS)
    drawn = generate(model, plain, COUNT, **options)
    return row | {"Frechet distance": round(quality.frechet(quality.features(drawn)), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.objectives", description=__doc__)
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which no run is begun")
    limit, started = parser.parse_args().limit, time.perf_counter()
    torch.set_num_threads(1)
    images, held_out = load_images("fashion-mnist"), load_images("fashion-mnist", "test")
    quality, rows = ImageQuality.load(), read_rows()
    for seed, name in itertools.product(range(SEEDS), OBJECTIVES):
        if (name, seed) in {(row["objective"], row["seed"]) for row in rows}:
            continue
        if time.perf_counter() - started > limit:
            return
        rows.append(measure(name, seed, images, held_out, quality))
        print(rows[-1], flush=True)
        made = f"torch {torch.__version__}, 1 thread, {datetime.date.today()}"
        table = pd.DataFrame(rows).to_csv(index=False)
        write_atomically(TABLE, f"# python -m tests.benchmarks.objectives; {made}\n{table}".encode())


def read_rows() -> list[dict]:
    """The runs that are finished."""
    return pd.read_csv(TABLE, comment="#").to_dict("records") if TABLE.exists() else []


if __name__ == "__main__":
    main()
