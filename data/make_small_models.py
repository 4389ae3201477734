"""Make data/checkpoints/small-*.safetensors: `python data/make_small_models.py [IMAGES ...]`.

One small network, trained on 50, 200, 1,000 and 5,000 images for the same number of steps: notebook 06 asks which of
them copies.
"""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.diffusion import GaussianDiffusion, NoiseSchedule, UNet, load_images, train
from utils.diffusion.checkpoints import save_model
from utils.diffusion.images import ImageSet
from utils.diffusion.metrics import FOLDER

SIZES, STEPS, BATCH_SIZE, SEED = (50, 200, 1000, 5000), 3000, 64, 0


def first_of_each_class(images: ImageSet, count: int) -> Tensor:
    """uint8 pixels (count, 1, H, W), as many of each of the ten classes, in the order of the file."""
    indices = [torch.nonzero(images.labels == k).flatten()[: count // 10] for k in range(10)]
    return images.pixels[torch.cat(indices)]


def main(sizes: tuple[int, ...]) -> None:
    images = load_images("fashion-mnist", size=14)
    for count in sizes:
        began = time.perf_counter()
        shown = first_of_each_class(images, count)
        shown = shown.repeat(-(-BATCH_SIZE // count), 1, 1, 1)  # at least a batch
        torch.manual_seed(SEED)
        model = UNet(channels=32, multipliers=(1,))
        diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000), "v")
        for state in train(model, diffusion, shown, steps=STEPS, batch_size=BATCH_SIZE, seed=SEED):
            last = state
        path = FOLDER / f"small-{count}.safetensors"
        save_model(path, last.ema_model, diffusion, torch.float16, images=count, steps=STEPS, seed=SEED)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or SIZES)
