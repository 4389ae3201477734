"""The three networks that are compared, with parameter counts within 5% of each other, and their losses."""

import importlib.machinery
import sys
import types
from collections.abc import Callable
from unittest.mock import MagicMock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.diffusion import GaussianDiffusion, NoiseSchedule, UNet

NAMES = ("course", "denoising-diffusion-pytorch", "diffusers")
SIZE = 28


def lucidrains() -> types.ModuleType:
    """The package denoising_diffusion_pytorch; where torchvision does not fit torch's build, without it.

    Neither its network nor its diffusion process uses torchvision, only its Trainer does.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in ("", ".transforms", ".datasets", ".utils", ".models"):
            name = f"torchvision{name}"
            stand_in = MagicMock()
            stand_in.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = stand_in
    import denoising_diffusion_pytorch

    return denoising_diffusion_pytorch


def build(name: str, precision: str = "fp32") -> tuple[nn.Module, Callable[[nn.Module, Tensor], Tensor]]:
    """A network for 28x28 grey images, and its library's default loss of images (B, 1, 28, 28) in [-1, 1]."""
    if name == "course":
        diffusion = GaussianDiffusion(NoiseSchedule.cosine(1000))
        network = UNet()
        # The memory format that `train` chooses on a CPU (utils/diffusion/training.py).
        return network.to(memory_format=torch.channels_last) if precision == "fp32" else network, diffusion.loss
    if name == "denoising-diffusion-pytorch":
        peer = lucidrains()
        network = peer.Unet(dim=24, dim_mults=(1, 2, 4), channels=1)
        process = peer.GaussianDiffusion(network, image_size=SIZE)
        return network, lambda _, x_0: process((x_0 + 1) / 2)
    from diffusers import DDPMScheduler, UNet2DModel

    network = UNet2DModel(
        sample_size=SIZE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(40, 80),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    scheduler = DDPMScheduler(1000)

    def loss(model: nn.Module, x_0: Tensor) -> Tensor:
        t, noise = torch.randint(1000, (len(x_0),)), torch.randn_like(x_0)
        return F.mse_loss(model(scheduler.add_noise(x_0, noise, t), t).sample.float(), noise)

    return network, loss
