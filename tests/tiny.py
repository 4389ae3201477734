"""A network and a training small enough to run many times in a test."""

import torch

from utils.diffusion.images import ImageSet, load_images
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.training import train
from utils.diffusion.unet import UNet

OPTIONS = dict(batch_size=16, warmup=3, precision="no", device="cpu", progress=False)


def tiny_unet(seed: int = 0, **options) -> UNet:
    torch.manual_seed(seed)
    return UNet(**{"channels": 32, "multipliers": (1,), "num_classes": 10, "dropout": 0.2, **options})


def tiny_diffusion(prediction: str = "v", num_timesteps: int = 50) -> GaussianDiffusion:
    return GaussianDiffusion(NoiseSchedule.cosine(num_timesteps), prediction)


def digits(count: int = 64, split: str = "train") -> ImageSet:
    found = load_images("digits", split)
    return ImageSet(found.pixels[:count], found.labels[:count], found.classes, found.source)


def tiny_training(steps: int = 6, model: UNet | None = None, **options):
    """The generator of a short training on digits."""
    model = tiny_unet() if model is None else model
    return train(model, tiny_diffusion(), digits(), steps=steps, **{**OPTIONS, **options})
