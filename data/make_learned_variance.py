"""Make data/checkpoints/learned-variance.safetensors: `python data/make_learned_variance.py`.

A small U-Net with a second output, which says how large the variance of a sampling step is (notebook 07), trained by
the hybrid loss of Nichol & Dhariwal 2021 at uniform timesteps, as its sum over all of them asks for.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.diffusion import GaussianDiffusion, NoiseSchedule, UNet, load_images, save_model, train
from utils.diffusion.metrics import FOLDER
from utils.files import stream_seed

SEED, STEPS, CHANNELS = 0, 4000, 32


def main() -> None:
    torch.manual_seed(stream_seed(SEED, "weights"))
    model = UNet(channels=CHANNELS, multipliers=(1, 1), num_classes=10, out_channels=2)
    diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000), "v", variance="learned")
    started = time.process_time()
    options = dict(steps=STEPS, seed=SEED, progress=False)
    *_, state = train(model, diffusion, load_images("fashion-mnist"), **options)
    path = FOLDER / "learned-variance.safetensors"
    save_model(path, state.ema_model, diffusion, torch.float16, steps=state.step, size=28)
    weights, seconds = sum(p.numel() for p in model.parameters()), time.process_time() - started
    print(f"{path.name}: {path.stat().st_size:,} bytes, {weights:,} weights, {state.step} steps")
    print(f"{seconds:.0f} s of processor time on {torch.get_num_threads()} threads, torch {torch.__version__}")


if __name__ == "__main__":
    main()
