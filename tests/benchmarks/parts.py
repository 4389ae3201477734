"""Which parts of the network matter: variants of the U-Net at equal seconds of processor time, three seeds each.

    python -m tests.benchmarks.parts

After Dhariwal & Nichol 2021, section 3. Each variant is trained by `train`, all as by default, for as many steps as fit
into SECONDS on one thread, which a few steps before tell. Measured are the validation loss and the Frechet distance.

Finished runs are kept in data/network-parts.csv and left out by the next call, so that a call may be cut off. It begins
no run after `--limit` seconds.
"""

import argparse
import datetime
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.diffusion import GaussianDiffusion, ImageQuality, NoiseSchedule, UNet, generate, load_images, train
from utils.diffusion import validation_loss as validation_loss_of
from utils.diffusion.unet import Downsample, ResidualBlock, Upsample
from utils.files import write_atomically

TABLE = Path(__file__).resolve().parents[2] / "data" / "network-parts.csv"
SECONDS, SEEDS, COUNT, EVALUATIONS = 30, 3, 500, 10
OPTIONS = dict(channels=32, num_classes=10)


class AddedBlock(ResidualBlock):
    """The embedding is added before the second norm, as by Ho et al. 2020; it does not scale."""

    def __init__(self, in_channels: int, out_channels: int, emb_dim: int, dropout: float = 0.0):
        super().__init__(in_channels, out_channels, emb_dim, dropout)
        self.scale_shift = nn.Linear(emb_dim, out_channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.scale_shift(emb)[:, :, None, None]
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class ResampledBlock(ResidualBlock):
    """A residual block that halves or doubles both of its branches (Brock et al. 2018), without the embedding."""

    def __init__(self, in_channels: int, out_channels: int, factor: float):
        super().__init__(in_channels, out_channels, 1)
        del self.scale_shift
        self.factor = factor

    def resize(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.factor < 1 else F.interpolate(x, scale_factor=self.factor, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.resize(F.silu(self.norm1(x))))
        return self.shortcut(self.resize(x)) + self.conv2(F.silu(self.norm2(h)))


def with_addition() -> UNet:
    model, width = UNet(**OPTIONS), 4 * OPTIONS["channels"]
    for stage in [module for module in model.modules() if hasattr(module, "block")]:
        stage.block = AddedBlock(stage.block.conv1.in_channels, stage.block.conv1.out_channels, width)
    return model


def with_residual_resampling() -> UNet:
    model = UNet(**OPTIONS)
    for stages in (model.down, model.up):
        for k, stage in enumerate(stages):
            if isinstance(stage, (Downsample, Upsample)):
                factor = 0.5 if isinstance(stage, Downsample) else 2.0
                stages[k] = ResampledBlock(stage.conv.in_channels, stage.conv.out_channels, factor)
    return model


VARIANTS: dict[str, Callable[[], UNet]] = {
    "as it is": lambda: UNet(**OPTIONS),
    "attention at every level": lambda: UNet(**OPTIONS, attention=(0, 1)),
    "residual up- and down-sampling": with_residual_resampling,
    "addition, no scale": with_addition,
    "wider": lambda: UNet(**OPTIONS | {"channels": 48}),
    "deeper": lambda: UNet(**OPTIONS, blocks=3),
}


def made(name: str, seed: int) -> UNet:
    torch.manual_seed(seed)
    return VARIANTS[name]()


def seconds_of_a_step(name: str, diffusion: GaussianDiffusion, images) -> float:
    clock = [time.process_time() for _ in train(made(name, 0), diffusion, images, steps=15, progress=False)]
    return statistics.median(b - a for a, b in itertools.pairwise(clock[4:]))


def measure(name: str, seed: int, images, held_out, quality: ImageQuality) -> dict:
    """One training, as a row of the table."""
    diffusion, model = GaussianDiffusion(NoiseSchedule.cosine(1000)), made(name, seed)
    steps = round(SECONDS / seconds_of_a_step(name, diffusion, images))
    started = time.process_time()
    *_, state = train(model, diffusion, images, steps=steps, seed=seed, progress=False)
    seconds = time.process_time() - started
    loss = validation_loss_of(state.ema_model, diffusion, held_out).mean().item()
    options = dict(y=torch.arange(COUNT) % 10, seed=seed, sampler="dpmpp_2m", steps=EVALUATIONS)
    drawn = generate(state.ema_model, diffusion, COUNT, **options)
    row = {"variant": name, "seed": seed, "weights": sum(p.numel() for p in model.parameters())}
    row |= {"steps": steps, "seconds": round(seconds, 1), "validation loss": round(loss, 5)}
    return row | {"Frechet distance": round(quality.frechet(quality.features(drawn)), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.parts", description=__doc__)
    parser.add_argument("--limit", type=float, default=3600, help="seconds after which no run is begun")
    limit, started = parser.parse_args().limit, time.perf_counter()
    torch.set_num_threads(1)
    images, held_out = load_images("fashion-mnist"), load_images("fashion-mnist", "test")
    quality, rows = ImageQuality.load(), read_rows()
    for seed, name in itertools.product(range(SEEDS), VARIANTS):
        if (name, seed) in {(row["variant"], row["seed"]) for row in rows}:
            continue
        if time.perf_counter() - started > limit:
            return
        rows.append(measure(name, seed, images, held_out, quality))
        print(rows[-1], flush=True)
        about = f"# python -m tests.benchmarks.parts; torch {torch.__version__}, 1 thread, {datetime.date.today()}\n"
        write_atomically(TABLE, (about + pd.DataFrame(rows).to_csv(index=False)).encode())


def read_rows() -> list[dict]:
    """The runs that are finished."""
    return pd.read_csv(TABLE, comment="#").to_dict("records") if TABLE.exists() else []


if __name__ == "__main__":
    main()
