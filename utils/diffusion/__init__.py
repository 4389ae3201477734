"""Diffusion models from the ground up: schedules, process, U-Net, training, sampling, image quality."""

from utils.diffusion.checkpoints import load_model, save_model
from utils.diffusion.guidance import ClassifierFreeGuidance, ClassifierGuidance
from utils.diffusion.images import ImageSet, load_images
from utils.diffusion.metrics import ImageQuality
from utils.diffusion.process import GaussianDiffusion
from utils.diffusion.sampling import generate, sample
from utils.diffusion.schedules import NoiseSchedule
from utils.diffusion.training import TrainState, train, validation_loss
from utils.diffusion.unet import UNet
