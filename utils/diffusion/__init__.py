"""Diffusion models from the ground up: schedules, process, U-Net, training, sampling, image quality."""

from utils.diffusion.images import ImageSet, load_images
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.unet import UNet

__all__ = ["GaussianDiffusion", "ImageSet", "NoiseSchedule", "UNet", "load_images"]
