"""Latents: images to a quarter of their height and width and back, so that diffusion has less to do.

    autoencoder = Autoencoder()
    for state in train(autoencoder, Reconstruction(), images, steps=2000): ...
    latents = state.ema_model.encode_set(images)              # an ImageSet to train a UNet(4, stem=1) on
    generate(model, diffusion, 64, (4, 7, 7), decode=state.ema_model.decode)

A variational autoencoder (Kingma & Welling 2014) whose divergence weighs little (Rombach et al. 2022, section 3.1,
where a perceptual and an adversarial loss are added).
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.diffusion.checks import check_numbers
from utils.diffusion.images import ImageSet, to_float
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.unet import Downsample, Upsample, group_norm

FACTOR = 4  # by which latents are smaller in height and width
conv = partial(nn.Conv2d, kernel_size=3, padding=1)


class _Residual(nn.Sequential):
    def __init__(self, channels: int):
        halves = [(group_norm(channels), nn.SiLU(), conv(channels, channels)) for _ in range(2)]
        super().__init__(*halves[0], *halves[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Autoencoder(nn.Module):
    """Images (B, in_channels, H, W) to latents (B, latent_channels, H/4, W/4) and back.

    channels: width at half the size of the images, twice as many at a quarter. H and W have to be multiples of 4.
    Its buffer `scale` gives the latents the standard deviation 1. It is 1 itself until `encode_set` measures it.
    """

    def __init__(self, in_channels: int = 1, channels: int = 32, latent_channels: int = 4):
        super().__init__()
        self.config = check_numbers(in_channels=in_channels, channels=channels, latent_channels=latent_channels)
        if latent_channels > FACTOR**2 * in_channels:
            raise ValueError(f"latent_channels must be at most {FACTOR**2 * in_channels}, got {latent_channels}")
        pixels, wide = 4 * in_channels, 2 * channels
        inwards = [nn.PixelUnshuffle(2), conv(pixels, channels), _Residual(channels), Downsample(channels)]
        self.encoder = nn.Sequential(*inwards, conv(channels, wide), _Residual(wide), conv(wide, 2 * latent_channels))
        outwards = [conv(latent_channels, wide), _Residual(wide), Upsample(wide, channels), _Residual(channels)]
        self.decoder = nn.Sequential(*outwards, conv(channels, pixels), nn.PixelShuffle(2))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x_0: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Images from a draw of their latents, and the divergence of each latent from a standard normal, in nats.

        noise: standard normal, of the shape of x_0; folded to that of the latents, which are no more numbers.
        """
        mean, log_variance = self.encoder(x_0).to(x_0.dtype).chunk(2, dim=1)  # float32, whatever autocast computes in
        drawn = mean + (log_variance / 2).exp() * F.pixel_unshuffle(noise, FACTOR)[:, : mean.shape[1]]
        return self.decoder(drawn), (mean.square() + log_variance.exp() - 1 - log_variance) / 2

    def encode(self, x_0: Tensor) -> Tensor:
        """Images in [-1, 1] to the means of their latents, times `scale`. ValueError where H or W does not fit."""
        if x_0.shape[-2] % FACTOR or x_0.shape[-1] % FACTOR:
            raise ValueError(f"height and width must be multiples of {FACTOR}, got {x_0.shape[-2]}x{x_0.shape[-1]}")
        return self.encoder(x_0).chunk(2, dim=1)[0] * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents, as `encode` gives them, to images, which may leave [-1, 1] a little."""
        return self.decoder(latents / self.scale)

    @torch.no_grad()
    def encode_set(self, images: ImageSet, batch_size: int = 500) -> ImageSet:
        """The latents of all images, on the CPU, with their labels. The first call measures `scale`, and keeps it."""
        parts = (to_float(pixels.to(self.scale.device)) for pixels in images.pixels.split(batch_size))
        latents = torch.cat([self.encode(x_0).cpu() for x_0 in parts])
        if self.scale == 1:
            self.scale.fill_(1 / latents.std())
            latents = latents / latents.std()
        return ImageSet(latents, images.labels, images.classes, f"latents of {images.source}", bounded=False)


class Reconstruction(GaussianDiffusion):
    """In the place of a diffusion process, what makes `train` train an Autoencoder: a loss that knows no timestep.

    kl_weight: of the divergence; kept in the schedule's name, so that a training resumes with the same one only.
    """

    def __init__(self, kl_weight: float = 1e-3):
        self.kl_weight = check_numbers(kl_weight=kl_weight)["kl_weight"]
        super().__init__(NoiseSchedule([0.5], f"none, KL weight {kl_weight:g}"), "x_0")

    def loss(self, model: nn.Module, x_0: Tensor, t=None, noise: Tensor | None = None, y=None) -> Tensor:
        """The squared error of the images, and kl_weight times the divergence, both for each pixel on average."""
        image, divergences = model(x_0, torch.randn_like(x_0) if noise is None else noise)
        return (image - x_0).square().mean() + self.kl_weight * divergences.sum() / x_0.numel()
