"""Make data/denoising-strip.png, the picture at the top of the README: `python data/make_strip.py`.

DDIM with 50 steps from seed 0, one column for each of the ten classes: the noise it starts from at the top,
then the state after 20, 30, 40 and 50 steps.
"""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from utils.diffusion import load_model, sample  # noqa: E402
from utils.diffusion.images import save_grid  # noqa: E402

CLASSES, STEPS, SHOWN = 10, 50, (20, 30, 40, 50)


def main() -> None:
    model, diffusion = load_model(ROOT / "data" / "checkpoints" / "unet-fashion-mnist.safetensors")
    x_T = torch.randn(CLASSES, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    rows = [x_T]
    for state in sample(model, diffusion, x_T.shape, sampler="ddim", steps=STEPS, x_T=x_T, y=torch.arange(CLASSES)):
        if state.step in SHOWN:
            rows.append(state.x_t)
    print(save_grid(torch.cat(rows), ROOT / "data" / "denoising-strip.png", columns=CLASSES, scale=3).name)


if __name__ == "__main__":
    main()
